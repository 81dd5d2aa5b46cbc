import * as fs from "node:fs";
import type { Context } from "./context";
import { podStats } from "./pod-stats";
import { processFacts } from "./process-facts";
import type { ContainerStatsView, FilesystemSize, PodMetricsView } from "./types";

/** Everything that is counted, of the pods that are ready. */
export async function podMetrics(context: Context): Promise<PodMetricsView[]> {
  const ready = [...context.pods].filter(
    ({ record, sandbox }) => record.stoppedAt === 0n && sandbox !== undefined,
  );
  const filesystem = await sizeOf(context.images.usage().mountpoint);
  const all = ready.map(async ({ record }): Promise<PodMetricsView | undefined> => {
    // A pod may be removed while others are read.
    if (!context.pods.has(record.id)) return undefined;
    const stats = await podStats(context, record.id);
    const facts = await Promise.all(stats.containers.map((container) => factsOf(context, container)));
    return { ...stats, filesystem, facts };
  });
  return (await Promise.all(all)).filter((one): one is PodMetricsView => one !== undefined);
}

/** Pids that a shim reports are the host's where its containers are; a guest's would be somebody else's. */
async function factsOf(context: Context, { container, usage }: ContainerStatsView) {
  const task = context.containers.find(container.id)?.task;
  if (usage === undefined || task === undefined) return undefined;
  const pids = await task.pids().catch(() => []);
  return processFacts(pids);
}

async function sizeOf(mountpoint: string): Promise<FilesystemSize | undefined> {
  try {
    const { blocks, bsize, files, ffree } = await fs.promises.statfs(mountpoint, { bigint: true });
    return { bytes: blocks * bsize, inodes: files, inodesFree: ffree };
  } catch {
    return undefined;
  }
}
