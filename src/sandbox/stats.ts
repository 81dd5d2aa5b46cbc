import { messageOf } from "../base/errors";
import { now } from "../base/time";
import type { TaskStats } from "../task";
import { type Container, type Context, containerState } from "./context";
import type { ContainerFilter, ContainerStatsView } from "./types";
import { containerView, listContainers } from "./views";

/** Rates over less than this are noise. */
const SAMPLE_NS = 100_000_000n;
const NS_PER_S = 1_000_000_000n;
/** Shims report "max" as the largest number they have. */
const NO_LIMIT = 1n << 62n;

export function containerStats(context: Context, prefix: string): Promise<ContainerStatsView> {
  return read(context, context.containers.get(prefix));
}

/** Of one that cannot be asked now the rest is told: a list must not fail for one of its members. */
export function listStats(context: Context, filter: ContainerFilter): Promise<ContainerStatsView[]> {
  return Promise.all(
    listContainers(context, filter).map(async (container) => {
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
  return {
    ...base,
    timestamp: now(),
    cpuUsageNs: stats.cpuUsageNs,
    cpuNanoCores: nanoCores(container, stats.cpuUsageNs),
    memory: memoryOf(stats),
  };
}

function withoutUsage(context: Context, container: Container): ContainerStatsView {
  const usage = context.images.snapshotUsage(container.record.id);
  return {
    container: containerView(container),
    timestamp: now(),
    writableLayer: usage && { ...usage, mountpoint: context.images.usage().mountpoint },
  };
}

/** Between this reading and the last that is old enough; undefined until there are two. */
function nanoCores(container: Container, usage: bigint): bigint | undefined {
  const last = container.cpuSample;
  const at = now();
  if (last !== undefined && at - last.at < SAMPLE_NS) return last.nanoCores;
  const rate =
    last === undefined || usage < last.usage ? undefined : ((usage - last.usage) * NS_PER_S) / (at - last.at);
  container.cpuSample = { at, usage, nanoCores: rate };
  return rate;
}

/** The working set, as kubelet reckons it for evictions: what could not be dropped without trouble. */
function memoryOf(stats: TaskStats): ContainerStatsView["memory"] {
  const { memoryUsage: usage, inactiveFile = 0n, memoryLimit = 0n } = stats;
  if (usage === undefined) return undefined;
  const workingSet = usage > inactiveFile ? usage - inactiveFile : 0n;
  return {
    usage,
    workingSet,
    available: memoryLimit > workingSet && memoryLimit < NO_LIMIT ? memoryLimit - workingSet : 0n,
    rss: stats.anon ?? 0n,
    pageFaults: stats.pgfault ?? 0n,
    majorPageFaults: stats.pgmajfault ?? 0n,
  };
}
