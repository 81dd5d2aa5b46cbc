import * as fs from "node:fs";
import * as path from "node:path";
import { errnoOf } from "../base/errors";
import type { CgroupStats, Pressure, Stall } from "./types";

/**
 * Readings of a cgroup v2 (Documentation/admin-guide/cgroup-v2.rst). Its files come in four forms:
 *
 *   single value    memory.current       12345            or "max"
 *   flat keyed      memory.events        oom_kill 1
 *   nested keyed    io.stat              8:0 rbytes=1 wbytes=2
 *   pressure        memory.pressure      some avg10=0.00 avg60=0.00 avg300=0.00 total=0
 *
 * A file is there if its controller is enabled for the cgroup. They are the kernel's, in memory: reading them
 * synchronously waits for no disk.
 */

type Read = (file: string) => string | undefined;

/** What there is no controller for is absent, and all is zero once the cgroup is gone. */
export function readStats(cgroup: string): CgroupStats {
  const present = filesOf(cgroup);
  // Looking before reading: an exception for each absent file would cost more than all the rest.
  const read: Read = (file) => (present.has(file) ? readFile(cgroup, file) : undefined);
  const events = read("memory.events");
  const io = read("io.stat");
  const hugetlb = readHugetlb(present, read);
  const rdma = readRdma(read);
  return {
    cpu: readCpu(read),
    ...readMemory(read),
    ...(events !== undefined && { memoryEvents: Object.fromEntries(flatKeyed(events)) }),
    ...readTasks(read),
    ...(io !== undefined && {
      io: nestedKeyed(io)
        .filter(([device]) => device.includes(":"))
        .map(ioOf),
    }),
    ...withPressure("ioPressure", read("io.pressure")),
    ...(hugetlb.length > 0 && { hugetlb }),
    ...(rdma && { rdma }),
  };
}

/**
 * Processes killed for want of memory since the cgroup was made, in it and below; undefined without the memory
 * controller, and once the cgroup is gone.
 */
export function readOomKills(cgroup: string): number | undefined {
  // An exception costs more than the look.
  if (!fs.existsSync(path.posix.join(cgroup, "memory.events"))) return undefined;
  const events = readFile(cgroup, "memory.events");
  return events === undefined ? undefined : Number(flatKeyed(events).get("oom_kill") ?? 0n);
}

/** Bytes in use; undefined without the memory controller. */
export function readMemoryUsage(cgroup: string): bigint | undefined {
  return single(readFile(cgroup, "memory.current"));
}

/** ENODEV: the cgroup went meanwhile. EOPNOTSUPP: pressure of a kernel that was booted with psi=0. */
function readFile(cgroup: string, file: string): string | undefined {
  try {
    return fs.readFileSync(path.posix.join(cgroup, file), "utf8");
  } catch (error) {
    if (["ENOENT", "ENODEV", "EOPNOTSUPP"].includes(errnoOf(error))) return undefined;
    throw error;
  }
}

function filesOf(cgroup: string): ReadonlySet<string> {
  try {
    return new Set(fs.readdirSync(cgroup));
  } catch {
    return new Set();
  }
}

function readCpu(read: Read): CgroupStats["cpu"] {
  const stat = flatKeyed(read("cpu.stat") ?? "");
  const number = (key: string): bigint => stat.get(key) ?? 0n;
  return {
    usageUsec: number("usage_usec"),
    userUsec: number("user_usec"),
    systemUsec: number("system_usec"),
    ...(stat.has("nr_periods") && {
      throttling: {
        periods: number("nr_periods"),
        throttled: number("nr_throttled"),
        throttledUsec: number("throttled_usec"),
        bursts: number("nr_bursts"),
        burstUsec: number("burst_usec"),
      },
    }),
    ...withPressure("pressure", read("cpu.pressure")),
  };
}

function readMemory(read: Read): Pick<CgroupStats, "memory"> {
  const usage = single(read("memory.current"));
  if (usage === undefined) return {};
  const swap = single(read("memory.swap.current"));
  return {
    memory: {
      usage,
      ...optional("limit", single(read("memory.max"))),
      ...optional("peak", single(read("memory.peak"))),
      stat: Object.fromEntries(flatKeyed(read("memory.stat") ?? "")),
      ...(swap !== undefined && {
        swap: {
          usage: swap,
          ...optional("limit", single(read("memory.swap.max"))),
          ...optional("peak", single(read("memory.swap.peak"))),
        },
      }),
      ...withPressure("pressure", read("memory.pressure")),
    },
  };
}

function readTasks(read: Read): Pick<CgroupStats, "pids"> {
  const current = single(read("pids.current"));
  if (current === undefined) return {};
  return {
    pids: {
      current,
      ...optional("limit", single(read("pids.max"))),
      ...optional("peak", single(read("pids.peak"))),
      refused: flatKeyed(read("pids.events") ?? "").get("max") ?? 0n,
    },
  };
}

type Io = NonNullable<CgroupStats["io"]>[number];

function ioOf([device, values]: Nested): Io {
  const [major = "0", minor = "0"] = device.split(":");
  const number = (key: string): bigint => BigInt(values.get(key) ?? 0);
  return {
    major: Number(major),
    minor: Number(minor),
    rbytes: number("rbytes"),
    wbytes: number("wbytes"),
    rios: number("rios"),
    wios: number("wios"),
    dbytes: number("dbytes"),
    dios: number("dios"),
  };
}

function readHugetlb(present: ReadonlySet<string>, read: Read): NonNullable<CgroupStats["hugetlb"]> {
  const sizes = [...present].flatMap((file) => /^hugetlb\.([^.]+)\.current$/.exec(file)?.[1] ?? []);
  return sizes.map((pageSize) => ({
    pageSize,
    usage: single(read(`hugetlb.${pageSize}.current`)) ?? 0n,
    ...optional("limit", single(read(`hugetlb.${pageSize}.max`))),
    failures: flatKeyed(read(`hugetlb.${pageSize}.events`) ?? "").get("max") ?? 0n,
  }));
}

function readRdma(read: Read): CgroupStats["rdma"] {
  const current = read("rdma.current");
  if (current === undefined) return undefined;
  const limits = new Map(nestedKeyed(read("rdma.max") ?? ""));
  return nestedKeyed(current).map(([device, values]) => ({
    device,
    hcaHandles: BigInt(values.get("hca_handle") ?? 0),
    hcaObjects: BigInt(values.get("hca_object") ?? 0),
    ...optional("handleLimit", single(limits.get(device)?.get("hca_handle"))),
    ...optional("objectLimit", single(limits.get(device)?.get("hca_object"))),
  }));
}

/** undefined also for "max": no limit. */
function single(content: string | undefined): bigint | undefined {
  const value = content?.trim();
  return value === undefined || value === "" || value === "max" ? undefined : BigInt(value);
}

/** Absent members rather than undefined ones. */
const optional = <K extends string>(key: K, value: bigint | undefined): { readonly [P in K]?: bigint } =>
  (value === undefined ? {} : { [key]: value }) as { readonly [P in K]?: bigint };

function flatKeyed(content: string): Map<string, bigint> {
  const values = new Map<string, bigint>();
  for (const line of content.split("\n")) {
    const space = line.indexOf(" ");
    if (space > 0) values.set(line.slice(0, space), BigInt(line.slice(space + 1)));
  }
  return values;
}

type Nested = readonly [name: string, values: ReadonlyMap<string, string>];

function nestedKeyed(content: string): Nested[] {
  return content
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [name = "", ...pairs] = line.trim().split(" ");
      return [name, new Map(pairs.map((pair) => pair.split("=") as [string, string]))] as const;
    });
}

function withPressure<K extends string>(
  key: K,
  content: string | undefined,
): { readonly [P in K]?: Pressure } {
  const pressure = content === undefined ? undefined : readPressure(content);
  return (pressure ? { [key]: pressure } : {}) as { readonly [P in K]?: Pressure };
}

function readPressure(content: string): Pressure | undefined {
  const lines = new Map(nestedKeyed(content));
  const stall = (word: string): Stall | undefined => {
    const values = lines.get(word);
    return (
      values && {
        avg10: Number(values.get("avg10")),
        avg60: Number(values.get("avg60")),
        avg300: Number(values.get("avg300")),
        total: BigInt(values.get("total") ?? 0),
      }
    );
  };
  const some = stall("some");
  const full = stall("full");
  return some && { some, ...(full && { full }) };
}
