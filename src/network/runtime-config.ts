import { invalid } from "../base/errors";
import type { PodNetwork } from "./types";

/**
 * What a pod asks of its network, in the words of CNI's conventions (CONVENTIONS.md "Dynamic Plugin
 * specific fields"): a plugin is told only what it declared as a capability. A malformed rate fails an ADD;
 * a DEL, which has no use for rates, must succeed whatever the annotations say.
 */
export function runtimeConfigOf(
  pod: PodNetwork,
  rates: "strict" | "skip" = "strict",
): Record<string, unknown> {
  const ports = pod.portMappings.filter((port) => port.hostPort > 0);
  const bandwidth = rates === "strict" ? bandwidthOf(pod.annotations) : undefined;
  return {
    ...(ports.length > 0 && {
      portMappings: ports.map(({ hostIp, ...port }) => ({
        ...port,
        ...(hostIp !== "" && { hostIP: hostIp }),
      })),
    }),
    ...(bandwidth && { bandwidth }),
    ...(pod.dns && { dns: pod.dns }),
    ...(pod.cgroupParent && { cgroupPath: pod.cgroupParent }),
    "io.kubernetes.cri.pod-annotations": pod.annotations,
  };
}

/** Capabilities that the pod needs and whose absence a person should hear of. */
export const ASKED_FOR = ["portMappings", "bandwidth"] as const;

/** CNI_ARGS as kubelet's plugins know them. `;` and `=` would smuggle in further arguments. */
export function cniArgs(pod: PodNetwork): string {
  const pairs = {
    IgnoreUnknown: "1",
    K8S_POD_NAMESPACE: pod.namespace,
    K8S_POD_NAME: pod.name,
    K8S_POD_INFRA_CONTAINER_ID: pod.id,
    K8S_POD_UID: pod.uid,
  };
  for (const [name, value] of Object.entries(pairs))
    if (/[;=\0]/.test(value)) throw invalid(name, value, 'must not contain ";", "=" or NUL');
  return Object.entries(pairs)
    .map(([name, value]) => `${name}=${value}`)
    .join(";");
}

const INGRESS = "kubernetes.io/ingress-bandwidth";
const EGRESS = "kubernetes.io/egress-bandwidth";
/** The plugin's burst bucket: as large as it takes. */
const BURST = 0xffff_ffff;
const MIN_RATE = 1000;
const MAX_RATE = 1e15;

/** Bits per second, as kubelet's annotations give them in Kubernetes quantities (`10M`, `1Gi`). */
function bandwidthOf(annotations: Readonly<Record<string, string>>): Record<string, number> | undefined {
  const ingress = rateOf(annotations, INGRESS);
  const egress = rateOf(annotations, EGRESS);
  if (ingress === undefined && egress === undefined) return undefined;
  return {
    ...(ingress !== undefined && { ingressRate: ingress, ingressBurst: BURST }),
    ...(egress !== undefined && { egressRate: egress, egressBurst: BURST }),
  };
}

function rateOf(annotations: Readonly<Record<string, string>>, name: string): number | undefined {
  const text = annotations[name];
  if (text === undefined || text === "") return undefined;
  const match = /^(\d+(?:\.\d+)?)(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$/.exec(text);
  if (match === null) throw invalid(`annotations["${name}"]`, text, "not a quantity");
  const unit = match[2] ?? "";
  const power = unit === "" ? 0 : "kMGTP".indexOf(unit[0] === "K" ? "k" : unit[0]!) + 1;
  const rate = Math.round(Number(match[1]) * (unit.endsWith("i") ? 1024 : 1000) ** power);
  if (rate < MIN_RATE || rate > MAX_RATE)
    throw invalid(`annotations["${name}"]`, text, "must be between 1k and 1P bits per second");
  return rate;
}
