import type { UnitProperty } from "../../native";

/**
 * The files of a cgroup as properties of its unit (systemd.resource-control(5)).
 *
 * systemd believes that it knows what is in the files of its cgroups and writes them anew when it reloads or
 * when a sibling changes: what it is not told of, it takes back. So every write to a file that it knows is
 * told as a property too. Both come from the one list, and so cannot differ. Files that no property stands
 * for (hugetlb, rdma, cpu.max.burst) are left alone by systemd.
 */
export interface UnitLimits<W> {
  readonly properties: readonly UnitProperty[];
  /** The writes, with what systemd rounds rounded as systemd does. */
  readonly writes: readonly W[];
}

/** One write to a file of the cgroup; where there is no such file, to another. */
interface FileWrite {
  readonly file: string;
  readonly value: string;
  readonly instead?: FileWrite;
}

export interface UnitLimitsOptions {
  /** Of systemd: 252 of `252.38-1~deb12u1`. */
  readonly version: number;
  /** Some properties can be set at the start of a unit only. */
  readonly starting: boolean;
}

/** What systemd takes for "no limit". */
const INFINITY = 2n ** 64n - 1n;

const LIMITS: Readonly<Record<string, string>> = {
  "memory.min": "MemoryMin",
  "memory.low": "MemoryLow",
  "memory.high": "MemoryHigh",
  "memory.max": "MemoryMax",
  "memory.swap.max": "MemorySwapMax",
  "pids.max": "TasksMax",
};

const RATES: Readonly<Record<string, string>> = {
  rbps: "IOReadBandwidthMax",
  wbps: "IOWriteBandwidthMax",
  riops: "IOReadIOPSMax",
  wiops: "IOWriteIOPSMax",
};

/** A value that cannot be read here is the kernel's to refuse: it has no property. */
export function unitLimits<W extends FileWrite>(
  writes: readonly W[],
  options: UnitLimitsOptions,
): UnitLimits<W> {
  const rounded = writes.map(roundQuota);
  return { properties: rounded.flatMap((write) => propertiesOf(write, options)), writes: rounded };
}

function propertiesOf({ file, value, instead }: FileWrite, options: UnitLimitsOptions): UnitProperty[] {
  const limit = LIMITS[file];
  if (limit !== undefined) return number(limit, amount(value));
  switch (file) {
    case "cpu.weight":
      return number("CPUWeight", amount(value));
    case "cpu.idle":
      // 0 is left out: the weight that comes with it ends the idling.
      return value === "1" && options.version >= 252 ? number("CPUWeight", 0n) : [];
    case "cpu.max":
      return quota(value);
    case "cpuset.cpus":
      return mask("AllowedCPUs", value);
    case "cpuset.mems":
      return mask("AllowedMemoryNodes", value);
    case "io.bfq.weight":
      // systemd has one weight and converts it for BFQ itself.
      return instead ? propertiesOf(instead, options) : [];
    case "io.weight":
      return weight(value);
    case "io.max":
      return rates(value);
    case "memory.oom.group":
      if (!options.starting || options.version < 253) return [];
      return [{ name: "OOMPolicy", signature: "s", value: value === "1" ? "kill" : "continue" }];
    default:
      return [];
  }
}

function number(name: string, value: bigint | undefined): UnitProperty[] {
  return value === undefined ? [] : [{ name, signature: "t", value }];
}

const SUFFIXES = "kmgtpe";

/** As the kernel reads it: "max", or a number, of bytes with a suffix. */
function amount(text: string): bigint | undefined {
  if (text === "max") return INFINITY;
  const [, digits, suffix = ""] = /^(\d+)([kmgtpe]?)$/i.exec(text) ?? [];
  if (digits === undefined) return undefined;
  const power = suffix === "" ? 0 : SUFFIXES.indexOf(suffix.toLowerCase()) + 1;
  const value = BigInt(digits) << BigInt(10 * power);
  return value < INFINITY ? value : INFINITY;
}

const SECOND = 1_000_000n;
/** systemd keeps a quota as a whole number of per cents in the unit's file. */
const PER_CENT = SECOND / 100n;
const DEFAULT_PERIOD = 100_000n;

/** Microseconds of CPU per second, rounded up; undefined without a quota. */
function perSecond(value: string): { quota: bigint | undefined; period: bigint } | undefined {
  const [, quota, period] = /^(max|\d+)(?: (\d+))?$/.exec(value) ?? [];
  if (quota === undefined) return undefined;
  const every = period === undefined ? DEFAULT_PERIOD : BigInt(period);
  if (quota === "max") return { quota: undefined, period: every };
  if (every === 0n) return undefined;
  const exact = BigInt(quota) * SECOND;
  const step = PER_CENT * every;
  return { quota: ((exact + step - 1n) / step) * PER_CENT, period: every };
}

function quota(value: string): UnitProperty[] {
  const found = perSecond(value);
  if (found === undefined) return [];
  return [
    ...number("CPUQuotaPerSecUSec", found.quota ?? INFINITY),
    ...number("CPUQuotaPeriodUSec", found.period),
  ];
}

/** What systemd will write when it writes again, so that nothing changes then. */
function roundQuota<W extends FileWrite>(write: W): W {
  if (write.file !== "cpu.max") return write;
  const found = perSecond(write.value);
  if (found?.quota === undefined) return write;
  return { ...write, value: `${(found.quota * found.period) / SECOND} ${found.period}` };
}

/** A list such as `0-3,7` as bits, lowest first. */
function mask(name: string, list: string): UnitProperty[] {
  const bits = new Set<number>();
  for (const range of list.split(",")) {
    const [, first, last = first] = /^(\d+)(?:-(\d+))?$/.exec(range.trim()) ?? [];
    if (first === undefined || Number(last) > MAX_BIT) return [];
    for (let bit = Number(first); bit <= Number(last); bit++) bits.add(bit);
  }
  const bytes = new Uint8Array(Math.floor(Math.max(...bits, 0) / 8) + 1);
  for (const bit of bits) bytes[bit >> 3]! |= 1 << (bit & 7);
  return [{ name, signature: "ay", value: bytes }];
}

/** The kernel's own bound for CPUs (NR_CPUS) is 8192. */
const MAX_BIT = 8191;

const device = (number: string): string => `/dev/block/${number}`;

/** `default 100`, `100` or `8:0 100`. */
function weight(value: string): UnitProperty[] {
  const [, general] = /^(?:default )?(\d+)$/.exec(value) ?? [];
  if (general !== undefined) return number("IOWeight", BigInt(general));
  const [, of, own] = /^(\d+:\d+) (\d+)$/.exec(value) ?? [];
  if (of === undefined || own === undefined) return [];
  return [{ name: "IODeviceWeight", signature: "a(st)", value: [[device(of), BigInt(own)]] }];
}

/** `8:0 rbps=1048576 wiops=max` */
function rates(value: string): UnitProperty[] {
  const [of = "", ...pairs] = value.trim().split(/\s+/);
  if (!/^\d+:\d+$/.test(of)) return [];
  return pairs.flatMap((pair) => {
    const [key = "", rate = ""] = pair.split("=");
    const name = RATES[key];
    const bound = amount(rate);
    if (name === undefined || bound === undefined) return [];
    return [{ name, signature: "a(st)", value: [[device(of), bound]] }];
  });
}
