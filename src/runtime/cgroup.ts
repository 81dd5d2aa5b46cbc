import * as fs from "node:fs";
import * as path from "node:path";
import { errnoOf, IsopodError, invalid, precondition, unsupported } from "../base/errors";
import { readFileIfPresent } from "../base/files";
import type { Native } from "../native";
import type { Target } from "./target";
import type { CgroupStats } from "./types";

/**
 * The cgroup v2 side of a container: one directory below a parent that kubelet or we made. Files here are
 * the kernel's, in memory: reading them synchronously waits for no disk.
 */
const DEFAULT_PARENT = "/isopod";
/** What a container is read by; the others are for limits. */
const ACCOUNTING = ["cpu", "memory", "pids", "io"];
const SIGKILL = 9;

/** Absolute path of the cgroup that `cgroupsPath` (or its absence) means for `id`. */
export function cgroupOf(target: Target, cgroupsPath: string | undefined, id: string): string {
  if (target.cgroupRoot === "")
    throw new IsopodError(
      "FAILED_PRECONDITION",
      "finding cgroup2: no such mount: mount it, e.g. at /sys/fs/cgroup",
      { path: "/sys/fs/cgroup" },
    );
  const wanted = cgroupsPath || `${DEFAULT_PARENT}/${id}`;
  if (/^[^/]*:[^/]*:/.test(wanted))
    throw unsupported("linux.cgroupsPath", wanted, "the systemd driver is not built yet: give a path");
  const below = wanted.startsWith("/") ? wanted : `${DEFAULT_PARENT}/${wanted}`;
  const parts = below.split("/").filter((part) => part !== "");
  if (parts.length === 0 || parts.some((part) => part === "." || part === ".."))
    throw invalid("linux.cgroupsPath", wanted, "must name a cgroup below the root");
  return path.posix.join(target.cgroupRoot, ...parts);
}

const DESTROY_TIMEOUT_MS = 10_000;

/**
 * Kills what is left in `cgroup` and removes it; an absent one is fine. Mostly nothing is left: then one
 * rmdir of a kernel directory does it, which is less than the way to another thread and back.
 */
export async function destroyCgroup(native: Native, cgroup: string): Promise<void> {
  try {
    fs.rmdirSync(cgroup);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return;
    await native.cgroupDestroy({ path: cgroup, timeoutMs: DESTROY_TIMEOUT_MS });
  }
}

/** A container's cgroup is its own: destroying it kills whatever is in it. */
export function refusePopulated(cgroup: string): void {
  if (!fs.existsSync(cgroup)) return;
  if (readPids(cgroup).length > 0)
    throw precondition(`cgroup "${cgroup}": has processes already: name one of its own`);
}

/**
 * Parents are looked after until some time after their last child, since often the next one is about to come.
 * Those that we made are removed then; those that were there stay.
 */
const LINGER_MS = 500;

export class CgroupParents {
  readonly #used = new Map<string, { children: number; made: string[] }>();
  #flushing = false;

  /** Makes the parent of `cgroup` if need be. */
  claim(cgroup: string): void {
    const parent = path.posix.dirname(cgroup);
    const known = this.#used.get(parent);
    if (known) {
      known.children++;
      return;
    }
    const made = makeDirectories(parent);
    this.#used.set(parent, { children: 1, made });
    if (made.length > 0 && !this.#flushing) {
      this.#flushing = true;
      process.once("exit", () => this.#flush());
    }
    enableControllers(parent);
  }

  release(cgroup: string): void {
    const parent = path.posix.dirname(cgroup);
    const known = this.#used.get(parent);
    if (!known || --known.children > 0) return;
    setTimeout(() => this.#sweep(parent), LINGER_MS).unref();
  }

  /** Another process that shares the parent has found it empty and removed it. */
  restore(cgroup: string): void {
    const parent = path.posix.dirname(cgroup);
    const made = makeDirectories(parent);
    enableControllers(parent);
    this.#used.get(parent)?.made.push(...made);
  }

  #flush(): void {
    for (const parent of [...this.#used.keys()]) this.#sweep(parent);
  }

  #sweep(parent: string): void {
    const known = this.#used.get(parent);
    if (!known || known.children > 0) return;
    this.#used.delete(parent);
    for (const directory of known.made) {
      try {
        fs.rmdirSync(directory);
      } catch {
        return; // somebody else has found a use for it
      }
    }
  }
}

/** Returns what it made, innermost first. */
function makeDirectories(directory: string): string[] {
  try {
    fs.mkdirSync(directory);
    return [directory];
  } catch (error) {
    if (errnoOf(error) === "EEXIST") return [];
    if (errnoOf(error) !== "ENOENT") throw error;
  }
  const above = makeDirectories(path.posix.dirname(directory));
  fs.mkdirSync(directory);
  return [directory, ...above];
}

/**
 * Lets the children of `parent` be accounted for. Best effort: a cgroup that holds processes itself cannot
 * hand controllers down (EBUSY), and then the readings are absent.
 */
function enableControllers(parent: string): void {
  const words = (file: string): string[] =>
    (readFileIfPresent(path.join(parent, file)) ?? "").split(/\s+/).filter(Boolean);
  const enabled = new Set(words("cgroup.subtree_control"));
  for (const controller of words("cgroup.controllers")) {
    if (enabled.has(controller) || !ACCOUNTING.includes(controller)) continue;
    try {
      fs.writeFileSync(path.join(parent, "cgroup.subtree_control"), `+${controller}`);
    } catch {}
  }
}

/** Host pids in the cgroup and below it; none if it is gone. */
export function readPids(cgroup: string): number[] {
  const pids = (readFileIfPresent(path.join(cgroup, "cgroup.procs")) ?? "")
    .split("\n")
    .filter(Boolean)
    .map(Number);
  for (const child of subdirectories(cgroup)) pids.push(...readPids(path.join(cgroup, child)));
  return pids;
}

function subdirectories(cgroup: string): string[] {
  try {
    return fs
      .readdirSync(cgroup, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    return [];
  }
}

/**
 * Signals every process in the cgroup. SIGKILL goes by cgroup.kill, which misses no one; other signals go to
 * the pids that are listed, and a process that forks meanwhile may have a child that does not get it.
 */
export function signalAll(native: Native, target: Target, cgroup: string, signal: number): void {
  if (signal === SIGKILL && target.features["cgroupKill"]) {
    try {
      fs.writeFileSync(path.join(cgroup, "cgroup.kill"), "1");
    } catch (error) {
      if (errnoOf(error) !== "ENOENT") throw error;
    }
    return;
  }
  for (const pid of readPids(cgroup)) {
    const pidfd = native.pidfdOpen({ pid });
    if (pidfd === undefined) continue;
    native.signal({ pidfd, signal });
    fs.closeSync(pidfd);
  }
}

export const isFrozen = (cgroup: string): boolean =>
  /^frozen 1$/m.test(readFileIfPresent(path.join(cgroup, "cgroup.events")) ?? "");

/** Processes killed for want of memory since the cgroup was made. */
export function readOomKills(cgroup: string): number {
  const events = readFileIfPresent(path.join(cgroup, "memory.events"));
  return events === undefined ? 0 : Number(flatKeyed(events).get("oom_kill") ?? 0n);
}

/** The readings of a cgroup; what there is no controller for is absent, and all is zero once it is gone. */
export function readStats(cgroup: string): CgroupStats {
  const read = (file: string): string | undefined => readFileIfPresent(path.join(cgroup, file));
  const cpu = flatKeyed(read("cpu.stat") ?? "");
  const usage = read("memory.current");
  const events = read("memory.events");
  const pids = read("pids.current");
  const io = read("io.stat");
  return {
    cpu: {
      usageUsec: cpu.get("usage_usec") ?? 0n,
      userUsec: cpu.get("user_usec") ?? 0n,
      systemUsec: cpu.get("system_usec") ?? 0n,
    },
    ...(usage !== undefined && {
      memory: {
        usage: BigInt(usage.trim()),
        ...limitOf(read("memory.max")),
        stat: Object.fromEntries(flatKeyed(read("memory.stat") ?? "")),
      },
    }),
    ...(events !== undefined && { memoryEvents: Object.fromEntries(flatKeyed(events)) }),
    ...(pids !== undefined && { pids: { current: BigInt(pids.trim()), ...limitOf(read("pids.max")) } }),
    ...(io !== undefined && { io: parseIo(io) }),
  };
}

function limitOf(content: string | undefined): { limit?: bigint } {
  const value = content?.trim();
  return value === undefined || value === "" || value === "max" ? {} : { limit: BigInt(value) };
}

/** `key value` lines (Documentation/admin-guide/cgroup-v2.rst, "flat keyed"). */
function flatKeyed(content: string): Map<string, bigint> {
  const values = new Map<string, bigint>();
  for (const line of content.split("\n")) {
    const space = line.indexOf(" ");
    if (space > 0) values.set(line.slice(0, space), BigInt(line.slice(space + 1)));
  }
  return values;
}

/** `8:0 rbytes=1 wbytes=2 …` lines ("nested keyed"). */
function parseIo(content: string): NonNullable<CgroupStats["io"]> {
  return content
    .split("\n")
    .filter((line) => line.includes(":"))
    .map((line) => {
      const [device = "", ...pairs] = line.split(" ");
      const [major = "0", minor = "0"] = device.split(":");
      const values = new Map(pairs.map((pair) => pair.split("=") as [string, string]));
      const number = (key: string): bigint => BigInt(values.get(key) ?? 0);
      return {
        major: Number(major),
        minor: Number(minor),
        rbytes: number("rbytes"),
        wbytes: number("wbytes"),
        rios: number("rios"),
        wios: number("wios"),
      };
    });
}
