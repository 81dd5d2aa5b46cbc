import { invalid } from "../base/errors";
import type { BlockIO, Resources } from "../oci/runtime-spec";
import { type Limit, Limits, type ResourcesChange } from "./limit-list";
import { mergeResources } from "./resources-merge";
import { compileUnified } from "./unified";

/**
 * linux.resources → writes to the files of one cgroup v2, purely. The specification still speaks cgroup v1;
 * what each member becomes:
 *
 *   pids.limit             pids.max              < 0 max; 0 → 1, which as v1 has it lets nobody fork
 *   memory.limit           memory.max            -1 max
 *   memory.swap            memory.swap.max       memory + swap there, swap alone here: the difference
 *   memory.reservation     memory.low
 *   blockIO.weight         io.bfq.weight         where BFQ is; else io.weight, 10..1000 → 1..10000
 *   blockIO.throttle*      io.max                one device and one rate each
 *   cpu.idle               cpu.idle
 *   cpu.shares             cpu.weight            2..262144 → 1..10000; none while the cgroup is idle
 *   cpu.burst              cpu.max.burst
 *   cpu.quota, period      cpu.max               "max" without a quota
 *   cpu.cpus, mems         cpuset.cpus, .mems
 *   hugepageLimits         hugetlb.SIZE.max      and .rsvd.max where the kernel has it
 *   rdma                   rdma.max
 *   unified                the file it names     last, so that it wins (unified.ts)
 *
 * Absent, 0 and "" mean: not asked for (but see pids and huge pages, whose 0 is a limit).
 */
/** In the order they have to be written in. Refuses what the host cannot do, by member and value. */
export function compileResources(options: ResourcesChange): readonly Limit[] {
  const limits = new Limits(options);
  const { change, held } = options;
  const both = held ? mergeResources(held, change) : change;
  const isUpdate = held !== undefined;
  addPids(limits, change);
  addMemory(limits, change, both);
  addBlockIO(limits, change.blockIO ?? {});
  addCpu(limits, change, both, isUpdate);
  addCpuset(limits, change);
  addHugepages(limits, change);
  addRdma(limits, change);
  compileUnified(limits, change.unified ?? {});
  if (!isUpdate) refuseTooLow(limits.all);
  return limits.all;
}

/**
 * R5: the stub is born into its limit at the server's oom_score_adj of -1000. Where a cgroup is at its limit
 * and nobody in it may be killed, a page fault is tried again for ever: until the stub has done its first
 * act, which takes about 100 KiB, nothing may stop it.
 */
const LEAST_MEMORY = 512 << 10;

function refuseTooLow(limits: readonly Limit[]): void {
  const limit = limits.filter(({ file }) => file === "memory.max").at(-1);
  const [, number, unit = ""] = /^(\d+)([KMG]?)$/i.exec(limit?.value ?? "") ?? [];
  if (limit === undefined || number === undefined) return;
  const bytes = Number(number) * 1024 ** " KMG".indexOf(unit.toUpperCase() || " ");
  if (bytes < LEAST_MEMORY)
    throw invalid(limit.field, limit.value, `less than the ${LEAST_MEMORY} bytes that its launch may take`);
}

/** Those that must be enabled for the cgroup. */
export const controllersOf = (limits: readonly Limit[]): readonly string[] => [
  ...new Set(limits.map(({ controller }) => controller).filter((name) => name !== "cgroup")),
];

/** Asked for: neither absent, nor null as Go writes it, nor 0. */
const given = (value: number | undefined | null): value is number =>
  value !== undefined && value !== null && value !== 0;

/** JSON's numbers are doubles: without an exponent. */
const decimal = (value: number): string => BigInt(value).toString();
const orMax = (value: number): string => (value < 0 ? "max" : decimal(value));

function addPids(limits: Limits, { pids }: Resources): void {
  const limit = pids?.limit;
  if (limit === undefined || limit === null) return;
  if (limit < 0) limits.lift("pids", "pids.limit", limit, { file: "pids.max", value: "max" });
  else limits.add("pids", "pids.limit", limit, { file: "pids.max", value: decimal(limit || 1) });
}

function addMemory(limits: Limits, change: Resources, both: Resources): void {
  const memory = change.memory ?? {};
  // Swap before memory: what a lower limit pushes out may go where there is room now.
  if (given(memory.swap) || given(memory.limit)) addSwap(limits, both.memory ?? {});
  if (given(memory.limit)) {
    const write = { file: "memory.max", value: orMax(memory.limit) };
    if (memory.limit < 0) limits.lift("memory", "memory.limit", memory.limit, write);
    else limits.add("memory", "memory.limit", memory.limit, write);
  }
  if (given(memory.reservation)) {
    const write = { file: "memory.low", value: orMax(memory.reservation) };
    limits.add("memory", "memory.reservation", memory.reservation, write);
  }
}

function addSwap(limits: Limits, { limit, swap }: NonNullable<Resources["memory"]>): void {
  const member = "memory.swap";
  // Where the kernel accounts no swap the file is missing, and "all of it" and "none" are what there is.
  const unlimited = { file: "memory.swap.max", value: "max", optional: true };
  if (!given(swap)) {
    // Both at once, as v1 understands it.
    if (limit === -1) limits.lift("memory", "memory.limit", limit, unlimited);
    return;
  }
  if (swap < 0) {
    limits.lift("memory", member, swap, unlimited);
    return;
  }
  if (!given(limit) || limit < 0)
    throw invalid(limits.field(member), swap, "counts memory and swap together: needs memory.limit");
  if (swap < limit)
    throw invalid(limits.field(member), swap, `counts memory and swap together: below memory.limit ${limit}`);
  const value = decimal(swap - limit);
  limits.add("memory", member, swap, { file: "memory.swap.max", value, optional: value === "0" });
}

const RATES = [
  ["throttleReadBpsDevice", "rbps"],
  ["throttleWriteBpsDevice", "wbps"],
  ["throttleReadIOPSDevice", "riops"],
  ["throttleWriteIOPSDevice", "wiops"],
] as const;

/** 10..1000, BFQ's range and the specification's, onto 1..10000. */
const ioWeight = (weight: number): number => 1 + Math.floor(((weight - 10) * 9999) / 990);

function addBlockIO(limits: Limits, blockIO: BlockIO): void {
  const { weight, weightDevice } = blockIO;
  if (given(weight))
    limits.add("io", "blockIO.weight", weight, {
      file: "io.bfq.weight",
      value: `default ${weight}`,
      key: "default",
      instead: { file: "io.weight", value: `default ${ioWeight(weight)}`, key: "default" },
    });
  for (const [i, device] of (weightDevice ?? []).entries()) {
    if (!given(device.weight)) continue;
    const key = `${device.major}:${device.minor}`;
    const line = { key, unset: `${key} default` };
    limits.add("io", `blockIO.weightDevice[${i}].weight`, device.weight, {
      ...line,
      file: "io.bfq.weight",
      value: `${key} ${device.weight}`,
      instead: { ...line, file: "io.weight", value: `${key} ${ioWeight(device.weight)}` },
    });
  }
  for (const [member, word] of RATES)
    for (const [i, { major, minor, rate }] of (blockIO[member] ?? []).entries()) {
      const key = `${major}:${minor}`;
      limits.add("io", `blockIO.${member}[${i}]`, rate, {
        file: "io.max",
        key,
        value: `${key} ${word}=${rate > 0 ? decimal(rate) : "max"}`,
        unset: `${key} rbps=max wbps=max riops=max wiops=max`,
      });
    }
}

const DEFAULT_PERIOD = 100_000;

function addCpu(limits: Limits, change: Resources, both: Resources, isUpdate: boolean): void {
  const cpu = change.cpu ?? {};
  const { idle, shares, quota, period } = both.cpu ?? {};
  // 0 is the default of a new cgroup.
  if (cpu.idle === 1 || (cpu.idle === 0 && isUpdate))
    limits.add("cpu", "cpu.idle", cpu.idle, { file: "cpu.idle", value: `${cpu.idle}` });
  // An idle cgroup has no weight of its own (EINVAL), and when it wakes it has the default one.
  const weigh = given(cpu.shares) || (cpu.idle === 0 && isUpdate);
  if (weigh && given(shares) && idle !== 1)
    limits.wish("cpu", "cpu.shares", shares, { file: "cpu.weight", value: `${weightOf(shares)}` });
  // Never above the quota (EINVAL): which of the two has to move first, only the kernel knows.
  if (given(cpu.burst) || (cpu.burst === 0 && isUpdate))
    limits.add("cpu", "cpu.burst", cpu.burst, {
      file: "cpu.max.burst",
      value: decimal(cpu.burst),
      retry: true,
    });
  if (given(quota) && quota > 0 && given(both.cpu?.burst) && both.cpu.burst > quota)
    throw invalid(limits.field("cpu.burst"), both.cpu.burst, `must not be above cpu.quota ${quota}`);
  if (!given(cpu.quota) && !given(cpu.period)) return;
  const every = given(period) ? period : DEFAULT_PERIOD;
  if (given(quota) && quota > 0) {
    const member = given(cpu.quota) ? "cpu.quota" : "cpu.period";
    limits.add("cpu", member, cpu.quota || cpu.period, { file: "cpu.max", value: `${quota} ${every}` });
  } else if (given(cpu.quota) || every !== DEFAULT_PERIOD || isUpdate) {
    limits.lift("cpu", "cpu.quota", cpu.quota, { file: "cpu.max", value: `max ${every}` });
  }
}

/**
 * The curve that puts v1's default of 1024 shares onto v2's default weight of 100 and both ends onto the ends
 * (a straight line would put it onto 39): a quadratic in log2.
 */
export function weightOf(shares: number): number {
  if (shares <= 2) return 1;
  if (shares >= 262_144) return 10_000;
  const l = Math.log2(shares);
  return Math.ceil(10 ** ((l * l + 125 * l) / 612 - 7 / 34));
}

function addCpuset(limits: Limits, { cpu }: Resources): void {
  for (const member of ["cpus", "mems"] as const) {
    const list = cpu?.[member];
    if (list) limits.add("cpuset", `cpu.${member}`, list, { file: `cpuset.${member}`, value: list });
  }
}

function addHugepages(limits: Limits, { hugepageLimits }: Resources): void {
  for (const [i, { pageSize, limit }] of (hugepageLimits ?? []).entries()) {
    const value = decimal(limit);
    const writes = [
      { file: `hugetlb.${pageSize}.max`, value },
      // What is reserved by mmap and not yet touched; Linux 5.7.
      { file: `hugetlb.${pageSize}.rsvd.max`, value, optional: true },
    ];
    const member = `hugepageLimits[${i}].limit`;
    // kubelet sends 0 for every size that a pod does not ask for.
    if (limit === 0) limits.wish("hugetlb", member, limit, ...writes);
    else limits.add("hugetlb", member, limit, ...writes);
  }
}

function addRdma(limits: Limits, { rdma }: Resources): void {
  for (const [device, { hcaHandles, hcaObjects }] of Object.entries(rdma ?? {})) {
    const words: string[] = [];
    if (given(hcaHandles)) words.push(`hca_handle=${hcaHandles}`);
    if (given(hcaObjects)) words.push(`hca_object=${hcaObjects}`);
    if (words.length === 0) continue;
    limits.add("rdma", `rdma.${device}`, words.join(" "), {
      file: "rdma.max",
      key: device,
      value: `${device} ${words.join(" ")}`,
      unset: `${device} hca_handle=max hca_object=max`,
    });
  }
}
