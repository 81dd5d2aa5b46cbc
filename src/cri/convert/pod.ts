import { isIP } from "node:net";
import { invalid } from "../../base/errors";
import { runtime } from "../../gen/cri";
import type { PodConfig, PodFilter, PodMetadata, PodView } from "../../sandbox";
import { choice, cstring, cstrings, int64, integer, present, required } from "./fields";
import { readNamespaces, writeNamespaces } from "./namespaces";
import { readResources } from "./resources";
import { checkSandboxSecurity } from "./security";

const { PodSandboxState: State, Protocol } = runtime.v1;

const MAX_PORT = 65535;

/**
 * A PodSandboxConfig. Checked here is what the message alone can tell; what depends on the host or on other
 * pods is the sandbox room's. Ignored: `windows`. `linux.overhead` and `linux.resources` describe the pod's
 * cgroup, which kubelet writes itself: they are kept, and reach the shim with the config's bytes, for the size
 * of a VM.
 */
export function readPodConfig(
  field: string,
  message: runtime.v1.IPodSandboxConfig | null | undefined,
): PodConfig {
  const config = present(field, message);
  const linux = config.linux;
  checkSandboxSecurity(`${field}.linux.security_context`, linux?.securityContext);
  const dns = config.dnsConfig;
  return {
    metadata: readMetadata(`${field}.metadata`, config.metadata),
    hostname: cstring(`${field}.hostname`, config.hostname),
    logDirectory: cstring(`${field}.log_directory`, config.logDirectory),
    dns: dns
      ? {
          servers: cstrings(`${field}.dns_config.servers`, dns.servers),
          searches: cstrings(`${field}.dns_config.searches`, dns.searches),
          options: cstrings(`${field}.dns_config.options`, dns.options),
        }
      : undefined,
    portMappings: (config.portMappings ?? []).map((mapping, index) =>
      readPortMapping(`${field}.port_mappings[${index}]`, mapping),
    ),
    labels: config.labels ?? {},
    annotations: config.annotations ?? {},
    cgroupParent: cstring(`${field}.linux.cgroup_parent`, linux?.cgroupParent),
    sysctls: linux?.sysctls ?? {},
    privileged: linux?.securityContext?.privileged ?? false,
    namespaces: readPodNamespaces(
      `${field}.linux.security_context.namespace_options`,
      linux?.securityContext?.namespaceOptions,
    ),
    ...readPodResources(`${field}.linux.`, linux),
  };
}

/** The pod's own limits, as RunPodSandbox and UpdatePodSandboxResources carry them. */
export function readPodResources(
  field: string,
  message: Pick<runtime.v1.ILinuxPodSandboxConfig, "overhead" | "resources"> | null | undefined,
): Pick<PodConfig, "overhead" | "resources"> {
  const { overhead, resources } = message ?? {};
  return {
    ...(overhead && { overhead: readResources(`${field}overhead`, overhead) }),
    ...(resources && { resources: readResources(`${field}resources`, resources) }),
  };
}

/** Clients take a status without name, namespace or uid for a broken runtime: they are required. */
function readMetadata(
  field: string,
  message: runtime.v1.IPodSandboxMetadata | null | undefined,
): PodMetadata {
  const metadata = present(field, message);
  return {
    name: required(`${field}.name`, metadata.name),
    uid: required(`${field}.uid`, metadata.uid),
    namespace: required(`${field}.namespace`, metadata.namespace),
    attempt: metadata.attempt ?? 0,
  };
}

function readPodNamespaces(
  field: string,
  options: runtime.v1.INamespaceOption | null | undefined,
): PodConfig["namespaces"] {
  const namespaces = readNamespaces(field, options);
  if (namespaces.pid === "target") {
    throw invalid(`${field}.pid`, "TARGET", "a pod has no container to share with yet");
  }
  return namespaces;
}

const protocols = { [Protocol.TCP]: "tcp", [Protocol.UDP]: "udp", [Protocol.SCTP]: "sctp" } as const;

function readPortMapping(field: string, mapping: runtime.v1.IPortMapping): PodConfig["portMappings"][number] {
  const hostIp = cstring(`${field}.host_ip`, mapping.hostIp);
  if (hostIp !== "" && isIP(hostIp) === 0) throw invalid(`${field}.host_ip`, hostIp, "not an IP address");
  return {
    protocol: choice(`${field}.protocol`, mapping.protocol, protocols),
    hostPort: integer(`${field}.host_port`, mapping.hostPort, { max: MAX_PORT }),
    containerPort: integer(`${field}.container_port`, mapping.containerPort, { max: MAX_PORT }),
    hostIp,
  };
}

const states = { [State.SANDBOX_READY]: true, [State.SANDBOX_NOTREADY]: false } as const;

export function readPodFilter(filter: runtime.v1.IPodSandboxFilter | null | undefined): PodFilter {
  return {
    id: filter?.id || undefined,
    ready: filter?.state ? choice("filter.state", filter.state.state, states) : undefined,
    labels: filter?.labelSelector ?? {},
  };
}

/** What the list and the status of a pod have in common. */
export const writePod = (pod: PodView): runtime.v1.IPodSandbox => ({
  id: pod.id,
  metadata: pod.config.metadata,
  state: pod.ready ? State.SANDBOX_READY : State.SANDBOX_NOTREADY,
  createdAt: int64(pod.createdAt),
  labels: { ...pod.config.labels },
  annotations: { ...pod.config.annotations },
  runtimeHandler: pod.handler,
});

export function writePodStatus(pod: PodView): runtime.v1.IPodSandboxStatus {
  const [ip = "", ...others] = pod.ips;
  return {
    ...writePod(pod),
    network: { ip, additionalIps: others.map((address) => ({ ip: address })) },
    linux: { namespaces: { options: writeNamespaces(pod.config.namespaces) } },
  };
}

export const podInfo = (pod: PodView): unknown => ({
  pid: pod.pid,
  netns: pod.netns,
  runtimeHandler: pod.handler,
  config: pod.config,
});
