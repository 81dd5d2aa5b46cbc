import Long from "long";
import type { io } from "../gen/shim";
import type { CgroupStats, Pressure, Stall } from "../runtime";
import { type Any, packAny } from "../ttrpc";

type Messages = typeof io.containerd.cgroups.v2;
type MemoryStat = io.containerd.cgroups.v2.MemoryStat.$Properties;
type Memory = NonNullable<CgroupStats["memory"]>;

/** How containerd writes `max`: CRI takes a limit of 0 for one, and is left with less than nothing. */
const NO_LIMIT = 2n ** 64n - 1n;

/** A reading as the message that CRI and containerd's metrics plugin accept. */
export function metricsOf(stats: CgroupStats): Any {
  const { memory, memoryEvents, pids, io, ioPressure, hugetlb = [], rdma } = stats;
  const metrics: io.containerd.cgroups.v2.Metrics.$Properties = {
    cpu: cpuOf(stats.cpu),
    ...(pids && { pids: { current: uint64(pids.current), limit: limit(pids.limit) } }),
    ...(memory && { memory: memoryOf(memory) }),
    ...(memoryEvents && { memoryEvents: fields(memoryEvents) }),
    ...((io || ioPressure) && { io: { usage: (io ?? []).map(deviceOf), ...psi(ioPressure) } }),
    hugetlb: hugetlb.map((one) => ({
      pagesize: one.pageSize,
      current: uint64(one.usage),
      max: limit(one.limit),
      failcnt: uint64(one.failures),
    })),
    ...(rdma && { rdma: rdmaOf(rdma) }),
  };
  return packAny("io.containerd.cgroups.v2.Metrics", metrics);
}

function cpuOf(cpu: CgroupStats["cpu"]): io.containerd.cgroups.v2.CPUStat.$Properties {
  const { throttling } = cpu;
  return {
    usageUsec: uint64(cpu.usageUsec),
    userUsec: uint64(cpu.userUsec),
    systemUsec: uint64(cpu.systemUsec),
    ...(throttling && {
      nrPeriods: uint64(throttling.periods),
      nrThrottled: uint64(throttling.throttled),
      throttledUsec: uint64(throttling.throttledUsec),
      nrBursts: uint64(throttling.bursts),
      burstUsec: uint64(throttling.burstUsec),
    }),
    ...psi(cpu.pressure),
  };
}

function memoryOf({ usage, limit: max, peak, stat, swap, pressure }: Memory): MemoryStat {
  return {
    ...fields(stat),
    workingsetRefault: bothKinds(stat, "workingset_refault"),
    workingsetActivate: bothKinds(stat, "workingset_activate"),
    usage: uint64(usage),
    usageLimit: limit(max),
    ...(peak !== undefined && { maxUsage: uint64(peak) }),
    ...(swap && {
      swapUsage: uint64(swap.usage),
      swapLimit: limit(swap.limit),
      ...(swap.peak !== undefined && { swapMaxUsage: uint64(swap.peak) }),
    }),
    ...psi(pressure),
  };
}

/** Linux 5.9 has split these into anonymous and file pages; the message has not. */
function bothKinds(stat: Memory["stat"], key: string): Long {
  return uint64(stat[key] ?? (stat[`${key}_anon`] ?? 0n) + (stat[`${key}_file`] ?? 0n));
}

/** Discards have no place in the message. */
const deviceOf = (entry: NonNullable<CgroupStats["io"]>[number]) => ({
  major: uint64(BigInt(entry.major)),
  minor: uint64(BigInt(entry.minor)),
  rbytes: uint64(entry.rbytes),
  wbytes: uint64(entry.wbytes),
  rios: uint64(entry.rios),
  wios: uint64(entry.wios),
});

const NO_RDMA_LIMIT = 0xffff_ffff;

function rdmaOf(entries: NonNullable<CgroupStats["rdma"]>): io.containerd.cgroups.v2.RdmaStat.$Properties {
  const count = (value: bigint | undefined): number => (value === undefined ? NO_RDMA_LIMIT : Number(value));
  return {
    current: entries.map(({ device, hcaHandles, hcaObjects }) => ({
      device,
      hcaHandles: count(hcaHandles),
      hcaObjects: count(hcaObjects),
    })),
    limit: entries.map(({ device, handleLimit, objectLimit }) => ({
      device,
      hcaHandles: count(handleLimit),
      hcaObjects: count(objectLimit),
    })),
  };
}

function psi(pressure: Pressure | undefined): { psi?: InstanceType<Messages["PSIStats"]> | object } {
  if (pressure === undefined) return {};
  const { some, full } = pressure;
  return { psi: { some: stall(some), ...(full && { full: stall(full) }) } };
}

const stall = ({ total, ...averages }: Stall) => ({ ...averages, total: uint64(total) });

/** `snake_case` keys of the kernel as the camelCase fields of the message; unknown ones are not encoded. */
function fields(values: Readonly<Record<string, bigint>>): Record<string, Long> {
  const out: Record<string, Long> = {};
  for (const [key, value] of Object.entries(values)) {
    out[key.replace(/_(\w)/g, (_all, letter: string) => letter.toUpperCase())] = uint64(value);
  }
  return out;
}

const limit = (value: bigint | undefined): Long => uint64(value ?? NO_LIMIT);

const uint64 = (value: bigint): Long =>
  Long.fromBits(Number(value & 0xffffffffn), Number((value >> 32n) & 0xffffffffn), true);
