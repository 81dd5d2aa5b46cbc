import * as fs from "node:fs";
import { native } from "../native";

const SIGKILL = 9;
const SIGSTOP = 19;
const ROUNDS = 5;

/**
 * Kills `root` and its descendants. Each is stopped before its children are listed, so that none is born
 * behind our back; what has a new parent already (a daemon that forked twice) has left the tree. Only
 * processes whose cgroup names the container (`…/ID`, or with the systemd driver `…/PREFIX-ID.scope`) are touched:
 * pids that a shim reports may be a guest's.
 */
export async function killTree(root: number, containerId: string): Promise<void> {
  for (let round = 0; round < ROUNDS; round++) {
    const tree = collect(root, containerId);
    if (tree.length === 0) return;
    for (const { pidfd } of tree) native().signal({ pidfd, signal: SIGKILL });
    for (const { pidfd } of tree) fs.closeSync(pidfd);
    // One that could not be stopped in time may have forked; a second look finds its children.
    await new Promise((resolve) => setImmediate(resolve));
  }
}

interface Held {
  readonly pid: number;
  readonly pidfd: number;
}

function collect(root: number, containerId: string): Held[] {
  const held: Held[] = [];
  const pending = [root];
  for (let pid = pending.pop(); pid !== undefined; pid = pending.pop()) {
    const pidfd = native().pidfdOpen({ pid });
    if (pidfd === undefined) continue;
    // Checked after the pidfd is open: from then on the pid cannot be another's.
    if (!belongsTo(pid, containerId) || !native().signal({ pidfd, signal: SIGSTOP })) {
      fs.closeSync(pidfd);
      continue;
    }
    held.push({ pid, pidfd });
    pending.push(...childrenOf(pid));
  }
  return held;
}

function belongsTo(pid: number, containerId: string): boolean {
  const status = read(`/proc/${pid}/stat`);
  const zombie = status.slice(status.lastIndexOf(")")).startsWith(") Z");
  if (zombie) return false;
  const cgroup = read(`/proc/${pid}/cgroup`);
  return cgroup.includes(`/${containerId}`) || cgroup.includes(`-${containerId}.scope`);
}

function childrenOf(pid: number): number[] {
  let tasks: string[];
  try {
    tasks = fs.readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
  return tasks.flatMap((task) =>
    read(`/proc/${pid}/task/${task}/children`)
      .split(" ")
      .filter((child) => child !== "")
      .map(Number),
  );
}

function read(file: string): string {
  try {
    return fs.readFileSync(file, "utf8");
  } catch {
    return "";
  }
}
