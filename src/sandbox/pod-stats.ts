import { messageOf } from "../base/errors";
import { now } from "../base/time";
import type { TaskStats } from "../task";
import type { Context, Pod } from "./context";
import { readInterfaces } from "./interfaces";
import { statsOf, usageOf } from "./stats";
import type { PodFilter, PodStatsView } from "./types";
import { findPods, podView } from "./views";

/** The interface that CNI attaches a pod by. */
const DEFAULT_INTERFACE = "eth0";

export async function podStats(context: Context, prefix: string): Promise<PodStatsView> {
  return read(context, context.pods.get(prefix));
}

export function listPodStats(context: Context, filter: PodFilter): Promise<PodStatsView[]> {
  return Promise.all(findPods(context, filter).map((pod) => read(context, pod)));
}

/** What cannot be read is left out: a pod is ending while kubelet asks more often than not. */
async function read(context: Context, pod: Pod): Promise<PodStatsView> {
  const containers = await statsOf(context, [...pod.containers.values()]);
  const readings = containers.flatMap(({ usage }) => (usage ? [usage] : []));
  const stats = await wholePod(context, pod, readings);
  const interfaces = interfacesOf(pod);
  return {
    pod: podView(pod),
    timestamp: now(),
    usage: stats && usageOf(pod, stats),
    interfaces,
    defaultInterface: interfaces?.find(({ name }) => name === DEFAULT_INTERFACE),
    containers,
  };
}

/**
 * The pod's cgroup is its containers' parent, which kubelet has made: what it reads there itself, the sandbox
 * and page cache of containers past included. Without one of its own a pod is the sum of its containers.
 */
async function wholePod(
  context: Context,
  pod: Pod,
  containers: readonly TaskStats[],
): Promise<TaskStats | undefined> {
  if (pod.record.stoppedAt !== 0n || pod.sandbox === undefined) return undefined;
  if (pod.record.config.cgroupParent === "") return containers.reduce(add, NOTHING);
  try {
    return await pod.sandbox.stats();
  } catch (error) {
    context.log.warn("reading stats", { sandbox: pod.record.id, error: messageOf(error) });
    return undefined;
  }
}

const NOTHING: TaskStats = { cpu: { usage: 0n, user: 0n, system: 0n } };

/** Only what can be added up: limits, peaks and pressure cannot. */
function add(a: TaskStats, b: TaskStats): TaskStats {
  const sum = <T extends object>(
    x: T | undefined,
    y: T | undefined,
    keys: readonly (keyof T)[],
  ): T | undefined =>
    x && y
      ? (Object.fromEntries(keys.map((key) => [key, (x[key] as bigint) + (y[key] as bigint)])) as T)
      : (x ?? y);
  const memory = sum(a.memory, b.memory, MEMORY);
  const swap = sum(a.swap, b.swap, ["usage"]);
  const pids = sum(a.pids, b.pids, ["current"]);
  return {
    cpu: sum(a.cpu, b.cpu, ["usage", "user", "system"])!,
    ...(memory && { memory }),
    ...(swap && { swap }),
    ...(pids && { pids }),
  };
}

const MEMORY = [
  "usage",
  "anon",
  "file",
  "inactiveFile",
  "fileMapped",
  "kernel",
  "pageFaults",
  "majorPageFaults",
] as const;

/** None on the host's network: its counters are not the pod's. */
function interfacesOf(pod: Pod) {
  if (pod.record.netns === "" || pod.record.stoppedAt !== 0n || pod.sandbox === undefined) return undefined;
  return readInterfaces(pod.sandbox.record.pid);
}
