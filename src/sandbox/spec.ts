import * as os from "node:os";
import { invalid } from "../base/errors";
import type { Image } from "../image";
import { cgroupsPathBelow } from "../oci/cgroups-path";
import type { NamespaceType, Process, Seccomp, Spec } from "../oci/runtime-spec";
import { capabilitiesOf } from "./capabilities";
import { devicesOf } from "./devices";
import { mountsOf } from "./mounts";
import { limitsOf } from "./resources";
import type { ContainerConfig, PodConfig } from "./types";
import type { ResolvedUser } from "./user";

/** All that a container's spec is made from. `host` is what the answer depends on besides the request. */
export interface SpecInput {
  readonly id: string;
  readonly config: ContainerConfig;
  readonly image: Image;
  readonly user: ResolvedUser;
  readonly pod: {
    readonly id: string;
    readonly config: PodConfig;
    /** Holds the pod's namespaces. */
    readonly pid: number;
    readonly netns: string;
    readonly cgroupParent: string;
  };
  /** Host pid of the container whose pid namespace is joined (TARGET). */
  readonly targetPid?: number | undefined;
  readonly seccomp: Seccomp | undefined;
  /** Name of a loaded profile. */
  readonly apparmor: string | undefined;
  readonly host: { readonly capabilities: bigint; readonly mountinfo: () => string };
}

const PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** The OCI runtime spec of a CRI container: a pure function of its input. */
export function specOf(input: SpecInput): Spec {
  const { config, pod } = input;
  const { security } = config;
  const { mounts, rootfsPropagation } = mountsOf(config, input.host.mountinfo);
  const { devices, rules } = devicesOf(config);
  return {
    ociVersion: "1.2.0",
    process: processOf(input),
    root: { path: "rootfs", readonly: security.readonlyRootfs },
    mounts,
    annotations: annotationsOf(input),
    linux: {
      namespaces: namespacesOf(input),
      cgroupsPath: cgroupsPathBelow("linux.cgroup_parent", pod.cgroupParent, input.id),
      devices,
      resources: { devices: rules, ...limitsOf(config.resources) },
      ...(rootfsPropagation !== undefined && { rootfsPropagation }),
      ...(input.seccomp && !security.privileged && { seccomp: input.seccomp }),
      // Exactly kubelet's lists: it sends the usual ones itself.
      maskedPaths: security.privileged ? [] : security.maskedPaths,
      readonlyPaths: security.privileged ? [] : security.readonlyPaths,
    },
  };
}

function processOf(input: SpecInput): Process {
  const { config, user, image } = input;
  const { security } = config;
  return {
    terminal: config.tty,
    user: { uid: user.uid, gid: user.gid, additionalGids: user.supplementalGroups },
    args: argsOf(config, image),
    env: envOf(input),
    cwd: config.workingDir || image.config.config?.WorkingDir || "/",
    capabilities: capabilitiesOf(security, input.host.capabilities),
    noNewPrivileges: security.noNewPrivs,
    ...(input.apparmor !== undefined && { apparmorProfile: input.apparmor }),
    oomScoreAdj: config.oomScoreAdj,
  };
}

/** CRI's command is Docker's entrypoint: it takes the place of both Entrypoint and Cmd. */
function argsOf(config: ContainerConfig, image: Image): string[] {
  const entrypoint = image.config.config?.Entrypoint ?? [];
  const args = config.args.length > 0 ? config.args : (image.config.config?.Cmd ?? []);
  const all = config.command.length > 0 ? [...config.command, ...config.args] : [...entrypoint, ...args];
  if (all.length === 0 || all[0] === "")
    throw invalid("command", all, "no command specified, and the image has none");
  return all;
}

function envOf({ config, image, user, pod }: SpecInput): string[] {
  const env = new Map<string, string>([["PATH", PATH]]);
  if (config.tty) env.set("TERM", "xterm");
  env.set("HOSTNAME", pod.config.hostname || os.hostname());
  for (const entry of image.config.config?.Env ?? []) {
    const at = entry.indexOf("=");
    if (at > 0) env.set(entry.slice(0, at), entry.slice(at + 1));
  }
  for (const [name, value] of config.envs) env.set(name, value);
  if (!env.has("HOME")) env.set("HOME", user.home);
  return [...env].map(([name, value]) => `${name}=${value}`);
}

/** What marks a container as part of a sandbox for our shim, kata and gVisor alike. */
function annotationsOf({ config, image, pod }: SpecInput): Record<string, string> {
  const { metadata } = pod.config;
  const ours = {
    "container-type": "container",
    "container-name": config.metadata.name,
    "image-name": config.userSpecifiedImage || image.repoTags[0] || image.id,
    "sandbox-id": pod.id,
    "sandbox-name": metadata.name,
    "sandbox-namespace": metadata.namespace,
    "sandbox-uid": metadata.uid,
  };
  return Object.fromEntries(Object.entries(ours).map(([key, value]) => [`io.kubernetes.cri.${key}`, value]));
}

/** uts follows network: a pod on the host's network has the host's name. */
function namespacesOf(input: SpecInput): { type: NamespaceType; path?: string }[] {
  const { pod, config } = input;
  const of = (name: string) => `/proc/${pod.pid}/ns/${name}`;
  const list: { type: NamespaceType; path?: string }[] = [{ type: "mount" }];
  if (pod.netns !== "") list.push({ type: "network", path: pod.netns }, { type: "uts", path: of("uts") });
  if (pod.config.namespaces.ipc === "pod") list.push({ type: "ipc", path: of("ipc") });
  if (!config.security.privileged) list.push({ type: "cgroup" });
  switch (config.security.namespaces.pid) {
    case "pod":
      list.push({ type: "pid", path: of("pid") });
      break;
    case "container":
      list.push({ type: "pid" });
      break;
    case "target":
      list.push({ type: "pid", path: `/proc/${input.targetPid}/ns/pid` });
      break;
    case "node":
      break;
  }
  return list;
}
