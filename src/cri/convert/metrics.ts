import { runtime } from "../../gen/cri";
import type { ContainerStatsView, FilesystemSize, PodMetricsView, ProcessFacts, Usage } from "../../sandbox";
import { int64, uint64 } from "./fields";

/**
 * The metrics that kubelet passes on as /metrics/cadvisor. Names and meanings are cAdvisor's, which dashboards
 * and alerts know. One table gives descriptors and values, so that the values' labels are the descriptor's.
 * Values are whole numbers on the wire, seconds included.
 */
interface Metric<Source> {
  readonly name: string;
  readonly help: string;
  readonly counter?: boolean;
  /** Besides those that all have. */
  readonly labels?: readonly string[];
  /** One for each combination of labels; none: not measured here. */
  readonly read: (source: Source) => readonly Sample[];
}

interface Sample {
  readonly value: bigint;
  readonly labels: readonly string[];
}

interface Running {
  readonly stats: ContainerStatsView;
  readonly usage: Usage;
  readonly facts: ProcessFacts | undefined;
  readonly filesystem: FilesystemSize | undefined;
}

const { MetricType } = runtime.v1;
const COMMON = ["pod", "namespace", "container", "id", "image"];
const NS_PER_S = 1_000_000_000n;
const DEFAULT_PERIOD = 100_000;
const DEFAULT_SHARES = 1024;

const one = (value: bigint | number | undefined, ...labels: string[]): readonly Sample[] =>
  value === undefined ? [] : [{ value: BigInt(value), labels }];
const seconds = (ns: bigint | undefined): readonly Sample[] => one(ns === undefined ? ns : ns / NS_PER_S);

const cpu: readonly Metric<Running>[] = [
  {
    name: "cpu_usage_seconds_total",
    help: "CPU time used",
    counter: true,
    labels: ["cpu"],
    read: ({ usage }) => one(usage.cpu.usage / NS_PER_S, "total"),
  },
  {
    name: "cpu_user_seconds_total",
    help: "CPU time in user space",
    counter: true,
    read: ({ usage }) => seconds(usage.cpu.user),
  },
  {
    name: "cpu_system_seconds_total",
    help: "CPU time in the kernel",
    counter: true,
    read: ({ usage }) => seconds(usage.cpu.system),
  },
  {
    name: "cpu_cfs_periods_total",
    help: "enforcement periods of the quota",
    counter: true,
    read: ({ usage }) => one(usage.cpu.throttling?.periods),
  },
  {
    name: "cpu_cfs_throttled_periods_total",
    help: "periods in which the quota ran out",
    counter: true,
    read: ({ usage }) => one(usage.cpu.throttling?.throttled),
  },
  {
    name: "cpu_cfs_throttled_seconds_total",
    help: "time held back by the quota",
    counter: true,
    read: ({ usage }) => seconds(usage.cpu.throttling?.time),
  },
];

const memory: readonly Metric<Running>[] = [
  {
    name: "memory_usage_bytes",
    help: "memory in use, page cache included",
    read: ({ usage }) => one(usage.memory?.usage),
  },
  {
    name: "memory_working_set_bytes",
    help: "memory that is not given back easily",
    read: ({ usage }) => one(usage.workingSet),
  },
  {
    name: "memory_max_usage_bytes",
    help: "most memory ever in use",
    read: ({ usage: { memory } }) => one(memory && (memory.peak ?? memory.usage)),
  },
  { name: "memory_rss", help: "anonymous memory", read: ({ usage }) => one(usage.memory?.anon) },
  { name: "memory_cache", help: "page cache", read: ({ usage }) => one(usage.memory?.file) },
  { name: "memory_mapped_file", help: "mapped files", read: ({ usage }) => one(usage.memory?.fileMapped) },
  {
    name: "memory_kernel_usage",
    help: "kernel stacks and slab",
    read: ({ usage }) => one(usage.memory?.kernel),
  },
  { name: "memory_swap", help: "swap in use", read: ({ usage }) => one(usage.swap?.usage) },
  {
    name: "memory_failcnt",
    help: "times that the limit was hit",
    counter: true,
    read: ({ usage }) => one(usage.memory?.limitHits),
  },
  {
    name: "memory_failures_total",
    help: "page faults",
    counter: true,
    labels: ["failure_type", "scope"],
    read: ({ usage: { memory } }) =>
      memory === undefined
        ? []
        : ["container", "hierarchy"].flatMap((scope) => [
            ...one(memory.pageFaults, "pgfault", scope),
            ...one(memory.majorPageFaults, "pgmajfault", scope),
          ]),
  },
  {
    name: "oom_events_total",
    help: "processes killed for want of memory",
    counter: true,
    read: ({ usage }) => one(usage.oomKills),
  },
  {
    name: "hugetlb_usage_bytes",
    help: "huge pages in use",
    labels: ["pagesize"],
    read: ({ usage }) => (usage.hugetlb ?? []).flatMap(({ pageSize, usage }) => one(usage, pageSize)),
  },
  {
    name: "hugetlb_max_usage_bytes",
    help: "huge pages in use; cgroup v2 keeps no maximum",
    labels: ["pagesize"],
    read: ({ usage }) => (usage.hugetlb ?? []).flatMap(({ pageSize, usage }) => one(usage, pageSize)),
  },
];

type Resource = "cpu" | "memory" | "io";
const pressureOf = (usage: Usage, resource: Resource) =>
  resource === "io" ? usage.ioPressure : usage[resource]?.pressure;

const pressure: readonly Metric<Running>[] = (["cpu", "memory", "io"] as const).flatMap((resource) => [
  {
    name: `pressure_${resource}_waiting_seconds_total`,
    help: `time in which some task waited for ${resource}`,
    counter: true,
    read: ({ usage }: Running) => seconds(pressureOf(usage, resource)?.some.total),
  },
  {
    name: `pressure_${resource}_stalled_seconds_total`,
    help: `time in which all tasks waited for ${resource}`,
    counter: true,
    read: ({ usage }: Running) => seconds(pressureOf(usage, resource)?.full?.total),
  },
]);

/** One sample for each device. */
const devices =
  (read: (device: NonNullable<Usage["io"]>[number]) => bigint) =>
  ({ usage }: Running): readonly Sample[] =>
    (usage.io ?? []).flatMap((device) => one(read(device), `${device.major}:${device.minor}`));

const disk: readonly Metric<Running>[] = [
  {
    name: "fs_reads_total",
    help: "reads",
    counter: true,
    labels: ["device"],
    read: devices(({ reads }) => reads),
  },
  {
    name: "fs_reads_bytes_total",
    help: "bytes read",
    counter: true,
    labels: ["device"],
    read: devices(({ readBytes }) => readBytes),
  },
  {
    name: "fs_writes_total",
    help: "writes",
    counter: true,
    labels: ["device"],
    read: devices(({ writes }) => writes),
  },
  {
    name: "fs_writes_bytes_total",
    help: "bytes written",
    counter: true,
    labels: ["device"],
    read: devices(({ writeBytes }) => writeBytes),
  },
  {
    name: "blkio_device_usage_total",
    help: "bytes read and written",
    counter: true,
    labels: ["device", "major", "minor", "operation"],
    read: ({ usage }) =>
      (usage.io ?? []).flatMap(({ major, minor, readBytes, writeBytes }) => {
        const device = [`${major}:${minor}`, String(major), String(minor)];
        return [...one(readBytes, ...device, "Read"), ...one(writeBytes, ...device, "Write")];
      }),
  },
  {
    name: "fs_usage_bytes",
    help: "size of the writable layer",
    labels: ["device"],
    read: ({ stats: { writableLayer: layer } }) => (layer ? one(layer.bytes, layer.mountpoint) : []),
  },
  ...(
    [
      ["fs_limit_bytes", "size of its file system", "bytes"],
      ["fs_inodes_total", "inodes of its file system", "inodes"],
      ["fs_inodes_free", "free inodes of its file system", "inodesFree"],
    ] as const
  ).map(([name, help, key]) => ({
    name,
    help,
    labels: ["device"],
    read: ({ stats, filesystem }: Running) =>
      filesystem ? one(filesystem[key], stats.writableLayer?.mountpoint ?? "") : [],
  })),
];

const processes: readonly Metric<Running>[] = [
  { name: "processes", help: "processes", read: ({ facts }) => one(facts?.processes) },
  { name: "threads", help: "threads", read: ({ usage }) => one(usage.pids?.current) },
  {
    name: "threads_max",
    help: "most threads allowed; 0: no limit",
    read: ({ usage: { pids } }) => one(pids && (pids.limit ?? 0n)),
  },
  { name: "file_descriptors", help: "open file descriptors", read: ({ facts }) => one(facts?.descriptors) },
  { name: "sockets", help: "open sockets", read: ({ facts }) => one(facts?.sockets) },
  {
    name: "ulimits_soft",
    help: "soft limits of the first process",
    labels: ["ulimit"],
    read: ({ facts }) => one(facts?.openFilesLimit, "max_open_files"),
  },
  {
    name: "start_time_seconds",
    help: "when it was started, since 1970",
    read: ({ stats }) => seconds(stats.container.startedAt),
  },
  {
    name: "last_seen",
    help: "when this was read, since 1970",
    read: ({ stats }) => seconds(stats.timestamp),
  },
];

const asked = ({ stats }: Running) => stats.container.config.resources;

const limits: readonly Metric<Running>[] = [
  {
    name: "spec_cpu_period",
    help: "period of the quota, µs",
    read: (running) => one(asked(running).cpuPeriod || DEFAULT_PERIOD),
  },
  {
    name: "spec_cpu_quota",
    help: "CPU time allowed in a period, µs",
    read: (running) => (asked(running).cpuQuota > 0 ? one(asked(running).cpuQuota) : []),
  },
  {
    name: "spec_cpu_shares",
    help: "weight against others",
    read: (running) => one(asked(running).cpuShares || DEFAULT_SHARES),
  },
  {
    name: "spec_memory_limit_bytes",
    help: "memory allowed; 0: no limit",
    read: ({ usage: { memory } }) => one(memory && (memory.limit ?? 0n)),
  },
  {
    name: "spec_memory_swap_limit_bytes",
    help: "swap allowed; 0: none, or no limit",
    read: ({ usage: { swap } }) => one(swap && (swap.limit ?? 0n)),
  },
  {
    name: "spec_memory_reservation_limit_bytes",
    help: "memory kept from reclaim",
    read: (running) => {
      const low = asked(running).unified["memory.low"] ?? "";
      return /^\d+$/.test(low) ? one(BigInt(low)) : [];
    },
  },
];

const network: readonly Metric<PodMetricsView>[] = (
  [
    ["receive", "received"],
    ["transmit", "sent"],
  ] as const
).flatMap(([word, way]) =>
  (
    [
      ["bytes", "bytes"],
      ["packets", "packets"],
      ["packets_dropped", "dropped"],
      ["errors", "errors"],
    ] as const
  ).map(([what, key]) => ({
    name: `network_${word}_${what}_total`,
    help: `${way}: ${what.replace("_", " ")}`,
    counter: true,
    labels: ["interface"],
    read: ({ interfaces = [] }: PodMetricsView) =>
      interfaces.flatMap((found) => one(found[way][key], found.name)),
  })),
);

const ofContainers = [...cpu, ...memory, ...pressure, ...disk, ...processes, ...limits];

export const metricDescriptors = (): runtime.v1.IMetricDescriptor[] =>
  [...ofContainers, ...network].map(({ name, help, labels = [] }) => ({
    name: `container_${name}`,
    help,
    labelKeys: [...COMMON, ...labels],
  }));

export function writeMetrics(pod: PodMetricsView): runtime.v1.IPodSandboxMetrics {
  const { name = "", namespace = "" } = pod.pod.config.metadata;
  return {
    podSandboxId: pod.pod.id,
    metrics: samples(network, pod, [name, namespace, "", pod.pod.id, ""], pod.timestamp),
    containerMetrics: pod.containers.flatMap((stats, index) => {
      const { container, usage } = stats;
      if (usage === undefined) return [];
      const running = { stats, usage, facts: pod.facts[index], filesystem: pod.filesystem };
      const { config } = container;
      const common = [
        name,
        namespace,
        config.metadata.name,
        container.id,
        config.userSpecifiedImage || config.image,
      ];
      return [
        { containerId: container.id, metrics: samples(ofContainers, running, common, stats.timestamp) },
      ];
    }),
  };
}

function samples<Source>(
  metrics: readonly Metric<Source>[],
  source: Source,
  common: readonly string[],
  timestamp: bigint,
): runtime.v1.IMetric[] {
  return metrics.flatMap(({ name, counter, read }) =>
    read(source).map(({ value, labels }) => ({
      name: `container_${name}`,
      timestamp: int64(timestamp),
      metricType: counter ? MetricType.COUNTER : MetricType.GAUGE,
      labelValues: [...common, ...labels],
      value: uint64(value),
    })),
  );
}
