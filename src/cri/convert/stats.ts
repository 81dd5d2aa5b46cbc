import type { runtime } from "../../gen/cri";
import type { ContainerFilter, ContainerStatsView } from "../../sandbox";
import { int64, uint64 } from "./fields";

export const readStatsFilter = (
  filter: runtime.v1.IContainerStatsFilter | null | undefined,
): ContainerFilter => ({
  id: filter?.id || undefined,
  podId: filter?.podSandboxId || undefined,
  labels: filter?.labelSelector ?? {},
});

/** Absent readings stay absent: 0 would be a measurement. */
export function writeStats(stats: ContainerStatsView): runtime.v1.IContainerStats {
  const { container, timestamp, cpuUsageNs, cpuNanoCores, memory, writableLayer } = stats;
  return {
    attributes: {
      id: container.id,
      metadata: container.config.metadata,
      labels: { ...container.config.labels },
      annotations: { ...container.config.annotations },
    },
    ...(cpuUsageNs !== undefined && {
      cpu: {
        timestamp: int64(timestamp),
        usageCoreNanoSeconds: uint64(cpuUsageNs),
        ...(cpuNanoCores !== undefined && { usageNanoCores: uint64(cpuNanoCores) }),
      },
    }),
    ...(memory && {
      memory: {
        timestamp: int64(timestamp),
        workingSetBytes: uint64(memory.workingSet),
        availableBytes: uint64(memory.available),
        usageBytes: uint64(memory.usage),
        rssBytes: uint64(memory.rss),
        pageFaults: uint64(memory.pageFaults),
        majorPageFaults: uint64(memory.majorPageFaults),
      },
    }),
    ...(writableLayer && {
      writableLayer: {
        timestamp: int64(writableLayer.timestamp),
        fsId: { mountpoint: writableLayer.mountpoint },
        usedBytes: uint64(writableLayer.bytes),
        inodesUsed: uint64(writableLayer.inodes),
      },
    }),
  };
}
