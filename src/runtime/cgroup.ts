import * as fs from "node:fs";
import * as path from "node:path";
import { errnoOf, IsopodError, invalid, precondition } from "../base/errors";
import { readFileIfPresent } from "../base/files";
import type { Native } from "../native";
import type { Target } from "./target";

/**
 * The cgroup v2 side of a container: one directory below a parent that kubelet or we made. Files here are
 * the kernel's, in memory: reading them synchronously waits for no disk.
 */
const DEFAULT_PARENT = "/isopod";
/** What a container is read by; the others are for limits. */
const ACCOUNTING = ["cpu", "memory", "pids", "io"];
const SIGKILL = 9;

export function cgroupRoot({ cgroupRoot: root }: Target): string {
  if (root !== "") return root;
  throw new IsopodError(
    "FAILED_PRECONDITION",
    "finding cgroup2: no such mount: mount it, e.g. at /sys/fs/cgroup",
    { path: "/sys/fs/cgroup" },
  );
}

/** Absolute path of the cgroup that `cgroupsPath`, a path, or its absence means for `id`. */
export function cgroupOf(target: Target, cgroupsPath: string | undefined, id: string): string {
  const wanted = cgroupsPath || `${DEFAULT_PARENT}/${id}`;
  const below = wanted.startsWith("/") ? wanted : `${DEFAULT_PARENT}/${wanted}`;
  const parts = below.split("/").filter((part) => part !== "");
  if (parts.length === 0 || parts.some((part) => part === "." || part === ".."))
    throw invalid("linux.cgroupsPath", wanted, "must name a cgroup below the root");
  return path.posix.join(cgroupRoot(target), ...parts);
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

interface Parent {
  children: number;
  made: string[];
  /** Controllers that its children have been given, where they are to be had. */
  readonly enabled: Set<string>;
}

export class CgroupParents {
  readonly #root: string;
  readonly #available: ReadonlySet<string>;
  readonly #used = new Map<string, Parent>();
  #flushing = false;

  constructor(host: { readonly cgroupRoot: string; readonly controllers: readonly string[] }) {
    this.#root = host.cgroupRoot;
    this.#available = new Set(host.controllers);
  }

  /** Makes the parent of `cgroup` if need be, and sees that its children have these controllers. */
  claim(cgroup: string, controllers: readonly string[] = []): void {
    const parent = path.posix.dirname(cgroup);
    const known = this.#used.get(parent);
    if (known) known.children++;
    else this.#take(parent);
    this.enable(cgroup, controllers);
  }

  /** For a cgroup whose parent has been claimed. */
  enable(cgroup: string, controllers: readonly string[]): void {
    const parent = path.posix.dirname(cgroup);
    const enabled = this.#used.get(parent)?.enabled;
    const wanted = controllers.filter((name) => this.#available.has(name) && !enabled?.has(name));
    if (wanted.length === 0) return;
    enableControllers(this.#root, parent, wanted);
    for (const name of wanted) enabled?.add(name);
  }

  #take(parent: string): void {
    const made = makeDirectories(parent);
    try {
      if (parent !== this.#root) refuseThreaded(parent);
    } catch (error) {
      for (const directory of made) fs.rmdirSync(directory);
      throw error;
    }
    const enabled = new Set(ACCOUNTING.filter((name) => this.#available.has(name)));
    this.#used.set(parent, { children: 1, made, enabled });
    if (made.length > 0 && !this.#flushing) {
      this.#flushing = true;
      process.once("exit", () => this.#flush());
    }
    enableControllers(this.#root, parent, [...enabled]);
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
    const known = this.#used.get(parent);
    known?.made.push(...made);
    enableControllers(this.#root, parent, [...(known?.enabled ?? [])]);
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

const words = (directory: string, file: string): string[] =>
  (readFileIfPresent(path.join(directory, file)) ?? "").split(/\s+/).filter(Boolean);

/**
 * Hands controllers down to the children of `parent`, and to it from those above. Best effort: a cgroup that
 * holds processes itself cannot (EBUSY), and `+cpu` fails among real-time processes (EINVAL). Readings are
 * absent then, and a limit that needs the controller finds no file.
 */
function enableControllers(root: string, parent: string, wanted: readonly string[]): void {
  const enabled = new Set(words(parent, "cgroup.subtree_control"));
  const missing = wanted.filter((name) => !enabled.has(name));
  if (missing.length === 0) return;
  const given = new Set(words(parent, "cgroup.controllers"));
  const fromAbove = missing.filter((name) => !given.has(name));
  if (fromAbove.length > 0 && parent !== root && parent.startsWith(root))
    enableControllers(root, path.posix.dirname(parent), fromAbove);
  const write = (names: readonly string[]): boolean => {
    try {
      fs.writeFileSync(
        path.join(parent, "cgroup.subtree_control"),
        names.map((name) => `+${name}`).join(" "),
      );
      return true;
    } catch {
      return false;
    }
  };
  // One that cannot be had fails the whole line.
  if (!write(missing) && missing.length > 1) for (const name of missing) write([name]);
}

/** Below a threaded cgroup there are only threads of one process; processes cannot be put there. */
function refuseThreaded(cgroup: string): void {
  const type = readFileIfPresent(path.join(cgroup, "cgroup.type"))?.trim() ?? "domain";
  if (type !== "domain")
    throw new IsopodError(
      "FAILED_PRECONDITION",
      `making a cgroup below "${cgroup}": cgroup.type is "${type}": a container needs a domain cgroup`,
      { path: cgroup },
    );
}

/** The cgroup of a process, if it lies below `within`. */
export function memberCgroup(root: string, pid: number, within: string): string | undefined {
  // proc_pid_cgroup(5): cgroup2's line has no controllers, as its root is in the reader's eyes.
  const line = /^0::(\/.*)$/m.exec(readFileIfPresent(`/proc/${pid}/cgroup`) ?? "");
  const cgroup = path.posix.join(root, line?.[1] ?? "");
  return cgroup.startsWith(`${within}/`) ? cgroup : undefined;
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
export function signalAll(
  native: Native,
  target: Pick<Target, "features">,
  cgroup: string,
  signal: number,
): void {
  if (signal === SIGKILL && target.features["cgroupKill"]) {
    try {
      fs.writeFileSync(path.join(cgroup, "cgroup.kill"), "1");
    } catch (error) {
      // Gone before the open, or (systemd is quick) between that and the write.
      if (!["ENOENT", "ENODEV"].includes(errnoOf(error) ?? "")) throw error;
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
