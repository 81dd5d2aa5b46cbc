import * as fs from "node:fs";
import * as path from "node:path";
import { command } from "./command";
import { patience } from "./testbed";

/**
 * What a machine holds for a runtime, as sets of lines that can be compared before and after: whatever is
 * there afterwards and was not before has leaked. Look at a private host (`host.ts`), or others' work shows.
 */
export interface LeakScope {
  /** A process whose mount and network namespaces are "the host's". */
  readonly pid: number;
  /** cgroup directories whose subtrees are ours. */
  readonly cgroups: readonly string[];
  /** Folders whose files are ours: state, root, netns pins, IPAM leases, … */
  readonly dirs: readonly string[];
  /** Paths of files that do not count. */
  readonly ignore?: RegExp;
  /** Processes whose fds and threads are compared: name → pid. */
  readonly watched: () => Readonly<Record<string, number>>;
}

export type Inventory = Readonly<Record<string, readonly string[]>>;

export async function inventory(scope: LeakScope): Promise<Inventory> {
  const watched = scope.watched();
  return {
    mounts: mounts(scope.pid),
    links: await links(scope.pid),
    rules: await rules(scope.pid),
    cgroups: scope.cgroups.flatMap((dir) => tree(dir, true)),
    processes: processes(scope),
    fds: Object.entries(watched).flatMap(([name, pid]) => fds(pid).map((fd) => `${name}: ${fd}`)),
    threads: Object.entries(watched).flatMap(([name, pid]) => threads(pid).map((task) => `${name}: ${task}`)),
    files: scope.dirs.flatMap((dir) => tree(dir, false)).filter((file) => !scope.ignore?.test(file)),
    keys: keys(),
  };
}

/** An inventory that has come to rest: two in a row are equal. */
export async function settledInventory(scope: LeakScope, timeoutMs = 10_000): Promise<Inventory> {
  const deadline = Date.now() + timeoutMs * patience;
  let last = await inventory(scope);
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 300));
    const next = await inventory(scope);
    if (differences(last, next).length === 0 || Date.now() > deadline) return next;
    last = next;
  }
}

/** Lines such as `+ mounts: …` (leaked) and `- mounts: …` (gone); empty if equal. Counts matter. */
export function differences(before: Inventory, after: Inventory): string[] {
  const found: string[] = [];
  for (const kind of new Set([...Object.keys(before), ...Object.keys(after)])) {
    const count = new Map<string, number>();
    for (const line of after[kind] ?? []) count.set(line, (count.get(line) ?? 0) + 1);
    for (const line of before[kind] ?? []) count.set(line, (count.get(line) ?? 0) - 1);
    for (const [line, n] of count) {
      if (n !== 0) found.push(`${n > 0 ? "+" : "-"}${Math.abs(n)} ${kind}: ${line}`);
    }
  }
  return found.sort();
}

/**
 * Takes inventories until one equals `before`, since the kernel tears namespaces down in its own
 * time. `onlyMore`: what is gone does not count. Mounts that are gone never do: removing a directory on
 * the host takes away what is mounted there in every other namespace too, and tests run side by side.
 */
export async function leaks(
  before: Inventory,
  scope: LeakScope,
  { timeoutMs = 10_000, onlyMore = false } = {},
): Promise<string[]> {
  const deadline = Date.now() + timeoutMs * patience;
  for (;;) {
    const all = differences(before, await inventory(scope));
    const found = all.filter((line) => line.startsWith("+") || !(onlyMore || / mounts: /.test(line)));
    if (found.length === 0 || Date.now() > deadline) return found;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

const read = (file: string): string => {
  try {
    return fs.readFileSync(file, "utf8");
  } catch {
    return "";
  }
};

const entries = (dir: string): string[] => {
  try {
    return fs.readdirSync(dir);
  } catch {
    return [];
  }
};

const link = (file: string): string => {
  try {
    return fs.readlinkSync(file);
  } catch {
    return "";
  }
};

/** Root within the file system, mount point, type, source: without the ids, which never repeat. */
function mounts(pid: number): string[] {
  const lines = read(`/proc/${pid}/mountinfo`).trim().split("\n");
  return lines.map((line) => {
    const fields = line.split(" ");
    const dash = fields.indexOf("-");
    const root = fields[3]!.replace(/\[\d+\]/, "[]");
    return `${root} on ${fields[4]} type ${fields[dash + 1]} from ${fields[dash + 2]}`;
  });
}

async function links(pid: number): Promise<string[]> {
  const { stdout } = await command("nsenter", ["-t", String(pid), "-n", "ip", "-o", "link"]);
  const lines = stdout.trim().split("\n");
  return lines.map((line) => line.split(":")[1]!.trim().replace(/@.*/, ""));
}

/** nft sees what iptables-nft writes too; counters move by themselves. */
async function rules(pid: number): Promise<string[]> {
  const args = ["-t", String(pid), "-n", "nft", "list", "ruleset"];
  const { stdout, status, stderr } = await command("nsenter", args, { accept: [0, 1, 127] });
  if (status !== 0) return [`unknown: ${stderr.trim()}`];
  const lines = stdout.split("\n").map((line) => line.replace(/counter packets \d+ bytes \d+/, "").trim());
  return lines.filter((line) => line !== "");
}

function tree(dir: string, directoriesOnly: boolean): string[] {
  const found: string[] = [];
  const visit = (at: string) => {
    for (const name of entries(at)) {
      const file = path.join(at, name);
      const stat = fs.lstatSync(file, { throwIfNoEntry: false });
      if (stat === undefined || (directoriesOnly && !stat.isDirectory())) continue;
      found.push(file);
      if (stat.isDirectory()) visit(file);
    }
  };
  visit(dir);
  return found;
}

/** Whoever lives in the host's network namespace or in one of our cgroups, zombies included; by name. */
function processes(scope: LeakScope): string[] {
  const home = link(`/proc/${scope.pid}/ns/net`);
  const own = new Set<string>();
  const inCgroups = new Set(
    scope.cgroups.flatMap((dir) =>
      [dir, ...tree(dir, true)].flatMap((each) => read(path.join(each, "cgroup.procs")).split("\n")),
    ),
  );
  const all = entries("/proc").filter((name) => /^\d+$/.test(name));
  const isOwn = (pid: string) => link(`/proc/${pid}/ns/net`) === home || inCgroups.has(pid);
  for (const pid of all) if (isOwn(pid)) own.add(pid);
  for (const pid of all) if (own.has(parentOf(pid))) own.add(pid);
  own.delete(String(process.pid));
  return [...own]
    .map((pid) => read(`/proc/${pid}/stat`).replace(/^\d+ \((.*)\) (.).*$/s, "$1 ($2)"))
    .map(
      // Running or sleeping is chance; dead is not.
      (line) => line.replace(/ \([RSDI]\)$/, ""),
    );
}

const parentOf = (pid: string): string => /\) . (\d+)/.exec(read(`/proc/${pid}/stat`))?.[1] ?? "";

/** What each fd is, without numbers that differ each time. */
function fds(pid: number): string[] {
  const targets = entries(`/proc/${pid}/fd`).map((fd) => link(`/proc/${pid}/fd/${fd}`));
  return targets.filter((target) => target !== "").map((target) => target.replace(/\[\d+\]/, "[]"));
}

function threads(pid: number): string[] {
  return entries(`/proc/${pid}/task`).map((tid) => read(`/proc/${pid}/task/${tid}/comm`).trim());
}

/** Session keyrings, which a runtime makes one per container. */
function keys(): string[] {
  const names = read("/proc/keys")
    .split("\n")
    .map((line) => line.slice(line.indexOf("keyring") + 9));
  return names
    .filter((name) => name.startsWith("_ses") && !name.startsWith("_ses:"))
    .map((name) => name.trim());
}

/** Memory that is a process's own: KiB of Private_Dirty. */
export function privateDirty(pid: number): number {
  const found = /^Private_Dirty:\s+(\d+) kB/m.exec(read(`/proc/${pid}/smaps_rollup`));
  if (found === null) throw new Error(`no smaps_rollup of process ${pid}`);
  return Number(found[1]);
}
