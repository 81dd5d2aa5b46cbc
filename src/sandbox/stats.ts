import { messageOf } from "../base/errors";
import { now } from "../base/time";
import type { TaskStats } from "../task";
import { type Container, type Context, type CpuSample, containerState } from "./context";
import type { ContainerFilter, ContainerStatsView, Usage } from "./types";
import { containerView, listContainers } from "./views";

/** Rates over less than this are noise. */
const SAMPLE_NS = 100_000_000n;
const NS_PER_S = 1_000_000_000n;

export function containerStats(context: Context, prefix: string): Promise<ContainerStatsView> {
  return read(context, context.containers.get(prefix));
}

export const listStats = (context: Context, filter: ContainerFilter): Promise<ContainerStatsView[]> =>
  statsOf(context, listContainers(context, filter));

/** Of one that cannot be asked now the rest is told: a list must not fail for one of its members. */
export function statsOf(context: Context, containers: readonly Container[]): Promise<ContainerStatsView[]> {
  return Promise.all(
    containers.map(async (container) => {
      try {
        return await read(context, container);
      } catch (error) {
        context.log.warn("reading stats", { container: container.record.id, error: messageOf(error) });
        return withoutUsage(context, container);
      }
    }),
  );
}

async function read(context: Context, container: Container): Promise<ContainerStatsView> {
  const base = withoutUsage(context, container);
  if (containerState(container) !== "running" || container.task === undefined) return base;
  const stats = await container.task.stats();
  return { ...base, timestamp: now(), usage: usageOf(container, stats) };
}

function withoutUsage(context: Context, container: Container): ContainerStatsView {
  const usage = context.images.snapshotUsage(container.record.id);
  return {
    container: containerView(container),
    timestamp: now(),
    writableLayer: usage && { ...usage, mountpoint: context.images.usage().mountpoint },
  };
}

/** A reading with what follows from it; `sampled` keeps the last one. */
export function usageOf(sampled: { cpuSample: CpuSample | undefined }, stats: TaskStats): Usage {
  return { ...stats, nanoCores: nanoCores(sampled, stats.cpu.usage), ...workingSetOf(stats.memory) };
}

/** Between this reading and the last that is old enough; undefined until there are two. */
function nanoCores(sampled: { cpuSample: CpuSample | undefined }, usage: bigint): bigint | undefined {
  const last = sampled.cpuSample;
  const at = now();
  if (last !== undefined && at - last.at < SAMPLE_NS) return last.nanoCores;
  const rate =
    last === undefined || usage < last.usage ? undefined : ((usage - last.usage) * NS_PER_S) / (at - last.at);
  sampled.cpuSample = { at, usage, nanoCores: rate };
  return rate;
}

/** As kubelet reckons it for evictions: what could not be dropped without trouble. */
function workingSetOf(memory: TaskStats["memory"]): Pick<Usage, "workingSet" | "available"> {
  if (memory === undefined) return {};
  const { usage, inactiveFile, limit } = memory;
  const workingSet = usage > inactiveFile ? usage - inactiveFile : 0n;
  return { workingSet, available: limit !== undefined && limit > workingSet ? limit - workingSet : 0n };
}
