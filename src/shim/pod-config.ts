import * as fs from "node:fs";
import * as os from "node:os";
import { IsopodError, invalid, messageOf, unsupported } from "../base/errors";
import { runtime as cri } from "../gen/pod";
import type { containerd } from "../gen/shim";
import { CGROUP_PARENT, cgroupsPathBelow, defaultCgroupParent } from "../oci/cgroups-path";
import { type PodFiles, podFiles } from "../oci/podfiles";
import type { SandboxOptions } from "../runtime";

type CreateRequest = containerd.runtime.sandbox.v1.CreateSandboxRequest;
type Config = cri.v1.PodSandboxConfig.$Shape;

const CONFIG_TYPE = "runtime.v1.PodSandboxConfig";
/** runtime.v1.NamespaceMode */
const MODE = { pod: 0, container: 1, node: 2, target: 3 } as const;
const SHM_SIZE = 64 << 20;
/** As containerd has it: in a network of its own no port is worth a capability, and ping needs no raw socket. */
const OWN_NETWORK: Readonly<Record<string, string>> = {
  "net.ipv4.ip_unprivileged_port_start": "0",
  "net.ipv4.ping_group_range": "0 2147483647",
};

/** What CreateSandbox asks for, as the runtime's options. Whatever cannot be honoured is refused by name. */
export function sandboxOptions(request: CreateRequest): SandboxOptions {
  const { sandboxId: id, netnsPath } = request;
  if (id === "") throw invalid("sandbox_id", id, "must not be empty");
  if (request.rootfs.length > 0) throw unsupported("rootfs", request.rootfs.length, "a sandbox has none");
  const config = decodeConfig(request);
  const namespaces = config.linux?.securityContext?.namespaceOptions;
  refuseUnbuilt(config);
  const hostNetwork = namespaces?.network === MODE.node;
  if (hostNetwork !== (netnsPath === "")) {
    const why = hostNetwork
      ? "the pod uses the host's network and so has no namespace"
      : "the pod has a network of its own";
    throw invalid("netns_path", netnsPath, why);
  }
  const hostIpc = namespaces?.ipc === MODE.node;
  return {
    id,
    netns: netnsPath || undefined,
    hostname: hostNetwork ? undefined : config.hostname || undefined,
    ipc: hostIpc ? "host" : "pod",
    pid: pidMode(namespaces?.pid ?? MODE.pod),
    uts: hostNetwork ? "host" : "pod",
    sysctls: { ...(hostNetwork ? {} : OWN_NETWORK), ...config.linux?.sysctls },
    cgroupsPath: cgroupsPath(request, config.linux?.cgroupParent ?? ""),
    podCgroup: Boolean(config.linux?.cgroupParent),
    files: filesOf(config, hostNetwork),
    shmSize: hostIpc ? undefined : SHM_SIZE,
    extra: { bundle: request.bundlePath },
  };
}

function decodeConfig({ options }: CreateRequest): Config {
  // CRI packs it either way: containerd's bare name, or protobuf's with a host in front.
  const type = options?.type_url ?? "";
  if (type.slice(type.lastIndexOf("/") + 1) !== CONFIG_TYPE) {
    throw invalid("options", type, `must be a ${CONFIG_TYPE}`);
  }
  try {
    return cri.v1.PodSandboxConfig.decode(options?.value ?? new Uint8Array());
  } catch (error) {
    throw new IsopodError("INVALID_ARGUMENT", `decoding options: ${messageOf(error)}`, { path: "options" });
  }
}

function refuseUnbuilt({ linux, windows }: Config): void {
  if (windows) throw unsupported("windows", "…");
  const security = linux?.securityContext;
  const userns = security?.namespaceOptions?.usernsOptions;
  if (userns && userns.mode !== MODE.node) throw unsupported("userns_options.mode", userns.mode ?? MODE.pod);
  const selinux = security?.selinuxOptions;
  if (selinux && Object.values(selinux).some((value) => typeof value === "string" && value !== "")) {
    throw unsupported("selinux_options", selinux);
  }
}

function pidMode(mode: number): NonNullable<SandboxOptions["pid"]> {
  if (mode === MODE.pod) return "pod";
  if (mode === MODE.container) return "container";
  if (mode === MODE.node) return "host";
  throw invalid("namespace_options.pid", mode, "TARGET is for containers");
}

/** Each side has a default: the driver's, which knows the node's way, and ours for drivers that have none. */
function cgroupsPath({ sandboxId, annotations }: CreateRequest, parent: string): string {
  const chosen = parent || annotations[CGROUP_PARENT] || defaultCgroupParent("cgroupfs");
  return cgroupsPathBelow("cgroup_parent", chosen, sandboxId);
}

function filesOf(config: Config, hostNetwork: boolean): PodFiles {
  const read = (file: string): string => {
    try {
      return fs.readFileSync(file, "utf8");
    } catch {
      return ""; // a host without the file gives its pods none
    }
  };
  return podFiles({
    hostname: hostNetwork ? "" : config.hostname || os.hostname(),
    dns: config.dnsConfig ?? undefined,
    host: { hostname: os.hostname(), hosts: read("/etc/hosts"), resolvConf: read("/etc/resolv.conf") },
  });
}
