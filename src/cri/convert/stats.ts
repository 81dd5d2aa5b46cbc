import type { runtime } from "../../gen/cri";
import type {
  ContainerFilter,
  ContainerStatsView,
  InterfaceStats,
  PodFilter,
  PodStatsView,
  Usage,
} from "../../sandbox";
import { int64, uint64 } from "./fields";

export const readStatsFilter = (
  filter: runtime.v1.IContainerStatsFilter | null | undefined,
): ContainerFilter => ({
  id: filter?.id || undefined,
  podId: filter?.podSandboxId || undefined,
  labels: filter?.labelSelector ?? {},
});

export const readPodStatsFilter = (
  filter: runtime.v1.IPodSandboxStatsFilter | null | undefined,
): PodFilter => ({ id: filter?.id || undefined, labels: filter?.labelSelector ?? {} });

/** Absent readings stay absent: 0 would be a measurement. */
export function writeStats(stats: ContainerStatsView): runtime.v1.IContainerStats {
  const { container, timestamp, usage, writableLayer } = stats;
  return {
    attributes: {
      id: container.id,
      metadata: container.config.metadata,
      labels: { ...container.config.labels },
      annotations: { ...container.config.annotations },
    },
    ...(usage && writeUsage(usage, timestamp)),
    ...(usage?.swap && {
      swap: {
        timestamp: int64(timestamp),
        swapUsageBytes: uint64(usage.swap.usage),
        ...(usage.swap.limit !== undefined && {
          swapAvailableBytes: uint64(atLeastZero(usage.swap.limit - usage.swap.usage)),
        }),
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

export function writePodStats(stats: PodStatsView): runtime.v1.IPodSandboxStats {
  const { pod, timestamp, usage, interfaces, defaultInterface, containers } = stats;
  return {
    attributes: {
      id: pod.id,
      metadata: pod.config.metadata,
      labels: { ...pod.config.labels },
      annotations: { ...pod.config.annotations },
    },
    linux: {
      ...(usage && writeUsage(usage, timestamp)),
      ...(interfaces && {
        network: {
          timestamp: int64(timestamp),
          ...(defaultInterface && { defaultInterface: writeInterface(defaultInterface) }),
          interfaces: interfaces.filter((one) => one !== defaultInterface).map(writeInterface),
        },
      }),
      ...(usage?.pids && {
        process: { timestamp: int64(timestamp), processCount: uint64(usage.pids.current) },
      }),
      containers: containers.map(writeStats),
    },
  };
}

/** What pods and containers have in common. */
function writeUsage(
  { cpu, memory, ioPressure, nanoCores, workingSet = 0n, available = 0n }: Usage,
  at: bigint,
): Pick<runtime.v1.IContainerStats, "cpu" | "memory" | "io"> {
  const timestamp = int64(at);
  return {
    cpu: {
      timestamp,
      usageCoreNanoSeconds: uint64(cpu.usage),
      ...(nanoCores !== undefined && { usageNanoCores: uint64(nanoCores) }),
      ...writePressure(cpu.pressure),
    },
    ...(memory && {
      memory: {
        timestamp,
        workingSetBytes: uint64(workingSet),
        availableBytes: uint64(available),
        usageBytes: uint64(memory.usage),
        rssBytes: uint64(memory.anon),
        pageFaults: uint64(memory.pageFaults),
        majorPageFaults: uint64(memory.majorPageFaults),
        ...writePressure(memory.pressure),
      },
    }),
    ...(ioPressure && { io: { timestamp, ...writePressure(ioPressure) } }),
  };
}

type Pressure = NonNullable<Usage["ioPressure"]>;

function writePressure(pressure: Pressure | undefined): { psi?: runtime.v1.IPsiStats } {
  if (pressure === undefined) return {};
  const { some, full } = pressure;
  return { psi: { Some: writeStall(some), ...(full && { Full: writeStall(full) }) } };
}

const writeStall = ({ avg10, avg60, avg300, total }: Pressure["some"]): runtime.v1.IPsiData => ({
  Total: uint64(total).value,
  Avg10: avg10,
  Avg60: avg60,
  Avg300: avg300,
});

const writeInterface = ({ name, received, sent }: InterfaceStats): runtime.v1.INetworkInterfaceUsage => ({
  name,
  rxBytes: uint64(received.bytes),
  rxErrors: uint64(received.errors),
  txBytes: uint64(sent.bytes),
  txErrors: uint64(sent.errors),
});

const atLeastZero = (value: bigint): bigint => (value > 0n ? value : 0n);
