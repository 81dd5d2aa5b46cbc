import { IsopodError } from "../base/errors";
import { io } from "../gen/shim";
import type { DeviceStats, MemoryStats, Pressure, Stall, TaskStats } from "./types";

type Uint = { toString(): string } | number | null | undefined;
type Psi = io.containerd.cgroups.v2.PSIStats.$Properties | null | undefined;

/** No limit is told as the largest number that there is; v1 rounds it to pages. */
const NO_LIMIT = 1n << 62n;
const NS_PER_US = 1000n;

const big = (value: Uint): bigint => BigInt(String(value ?? 0));

/** 0 is what a shim that does not know the limit leaves. */
function limitOf(value: Uint): { limit?: bigint } {
  const limit = big(value);
  return limit === 0n || limit >= NO_LIMIT ? {} : { limit };
}

/** What the Stats call of a shim carries: cgroup metrics of either version, by their type. */
export function decodeStats(typeUrl: string, value: Uint8Array): TaskStats {
  if (typeUrl.endsWith("io.containerd.cgroups.v2.Metrics"))
    return fromV2(io.containerd.cgroups.v2.Metrics.decode(value));
  if (typeUrl.endsWith("io.containerd.cgroups.v1.Metrics"))
    return fromV1(io.containerd.cgroups.v1.Metrics.decode(value));
  throw new IsopodError("UNIMPLEMENTED", `stats of type "${typeUrl}": not known`);
}

function fromV2(metrics: io.containerd.cgroups.v2.Metrics): TaskStats {
  const { cpu, memory, memoryEvents, pids, hugetlb } = metrics;
  return {
    cpu: {
      usage: big(cpu?.usageUsec) * NS_PER_US,
      user: big(cpu?.userUsec) * NS_PER_US,
      system: big(cpu?.systemUsec) * NS_PER_US,
      ...(cpu && {
        throttling: {
          periods: big(cpu.nrPeriods),
          throttled: big(cpu.nrThrottled),
          time: big(cpu.throttledUsec) * NS_PER_US,
        },
      }),
      ...pressureOf(cpu?.psi),
    },
    ...(memory && {
      memory: memoryOf(memory, memoryEvents),
      swap: { usage: big(memory.swapUsage), ...swapLimit(memory.swapLimit) },
    }),
    ...(pids && { pids: { current: big(pids.current), ...limitOf(pids.limit) } }),
    ...(memoryEvents && { oomKills: big(memoryEvents.oomKill) }),
    ...(metrics.io && { io: (metrics.io.usage ?? []).map(deviceOf), ...ioPressure(metrics.io.psi) }),
    ...(hugetlb.length > 0 && {
      hugetlb: hugetlb.map(({ pagesize, current, max }) => ({
        pageSize: pagesize ?? "",
        usage: big(current),
        ...limitOf(max),
      })),
    }),
  };
}

function memoryOf(
  memory: io.containerd.cgroups.v2.MemoryStat.$Properties,
  events: io.containerd.cgroups.v2.MemoryEvents.$Properties | null | undefined,
): MemoryStats {
  return {
    usage: big(memory.usage),
    ...limitOf(memory.usageLimit),
    ...(big(memory.maxUsage) > 0n && { peak: big(memory.maxUsage) }),
    anon: big(memory.anon),
    file: big(memory.file),
    inactiveFile: big(memory.inactiveFile),
    fileMapped: big(memory.fileMapped),
    kernel: big(memory.kernelStack) + big(memory.slab),
    pageFaults: big(memory.pgfault),
    majorPageFaults: big(memory.pgmajfault),
    ...(events && { limitHits: big(events.max) }),
    ...pressureOf(memory.psi),
  };
}

/** Of swap 0 is a limit as good as any: with it nothing is swapped out. */
function swapLimit(value: Uint): { limit?: bigint } {
  const limit = big(value);
  return limit >= NO_LIMIT ? {} : { limit };
}

const deviceOf = (entry: io.containerd.cgroups.v2.IOEntry.$Properties): DeviceStats => ({
  major: Number(big(entry.major)),
  minor: Number(big(entry.minor)),
  readBytes: big(entry.rbytes),
  writeBytes: big(entry.wbytes),
  reads: big(entry.rios),
  writes: big(entry.wios),
});

const ioPressure = (psi: Psi): { ioPressure?: Pressure } => {
  const { pressure } = pressureOf(psi);
  return pressure ? { ioPressure: pressure } : {};
};

function pressureOf(psi: Psi): { pressure?: Pressure } {
  if (!psi?.some) return {};
  return { pressure: { some: stallOf(psi.some), ...(psi.full && { full: stallOf(psi.full) }) } };
}

const stallOf = ({ avg10, avg60, avg300, total }: io.containerd.cgroups.v2.PSIData.$Properties): Stall => ({
  avg10: avg10 ?? 0,
  avg60: avg60 ?? 0,
  avg300: avg300 ?? 0,
  total: big(total) * NS_PER_US,
});

function fromV1({ cpu, memory, pids, memoryOomControl }: io.containerd.cgroups.v1.Metrics): TaskStats {
  return {
    cpu: {
      usage: big(cpu?.usage?.total),
      user: big(cpu?.usage?.user),
      system: big(cpu?.usage?.kernel),
      ...(cpu?.throttling && {
        throttling: {
          periods: big(cpu.throttling.periods),
          throttled: big(cpu.throttling.throttledPeriods),
          time: big(cpu.throttling.throttledTime),
        },
      }),
    },
    ...(memory && {
      memory: {
        usage: big(memory.usage?.usage),
        ...limitOf(memory.usage?.limit),
        anon: big(memory.totalRss),
        file: big(memory.totalCache),
        inactiveFile: big(memory.totalInactiveFile),
        fileMapped: big(memory.totalMappedFile),
        kernel: big(memory.kernel?.usage),
        pageFaults: big(memory.totalPgFault),
        majorPageFaults: big(memory.totalPgMajFault),
        limitHits: big(memory.usage?.failcnt),
      },
    }),
    ...(memory?.swap && { swap: swapAlone(memory.swap, memory.usage ?? {}) }),
    ...(pids && { pids: { current: big(pids.current), ...limitOf(pids.limit) } }),
    ...(memoryOomControl && { oomKills: big(memoryOomControl.oomKill) }),
  };
}

interface V1Entry {
  readonly usage?: Uint;
  readonly limit?: Uint;
}

/** v1 counts memory and swap together. */
function swapAlone(both: V1Entry, memory: V1Entry): NonNullable<TaskStats["swap"]> {
  const less = (a: Uint, b: Uint): bigint => (big(a) > big(b) ? big(a) - big(b) : 0n);
  const usage = less(both.usage, memory.usage);
  return big(both.limit) >= NO_LIMIT ? { usage } : { usage, limit: less(both.limit, memory.limit) };
}
