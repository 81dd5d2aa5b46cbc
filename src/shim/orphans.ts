import * as fs from "node:fs";
import * as path from "node:path";
import { native } from "../native";
import type { LeftBehind } from "../runtime";

/** What is read of a state record here; its owner is the runtime. */
interface Record {
  readonly kind: string;
  readonly id: string;
  readonly pid: number;
  readonly cgroup?: string;
  /** Of an exec: whose it is. */
  readonly container?: string;
}

/**
 * When server and monitor have both died, nobody kept a pidfd: the processes live on as children of init. A
 * pid alone may name somebody else by now, but nobody else gets into a container's cgroup: a process that is
 * in there, before and after its pidfd was opened, is the one that was recorded. Its exit status can no longer
 * be known (255), its end can.
 */
export function findOrphans(stateDir: string, left: LeftBehind): LeftBehind {
  const records = readRecords(stateDir);
  const cgroups = new Map(records.map(({ id, cgroup }) => [id, cgroup]));
  const fds = { ...left.fds };
  for (const { kind, id, pid, container } of records) {
    const owner = kind === "exec" ? (container ?? "") : id;
    const name = kind === "exec" ? `${owner}@${id}/pidfd` : `${id}/pidfd`;
    const cgroup = cgroups.get(owner);
    if (fds[name] !== undefined || pid === 0 || cgroup === undefined) continue;
    const pidfd = openMember(pid, cgroup);
    if (pidfd !== undefined) fds[name] = pidfd;
  }
  return { ...left, fds };
}

function readRecords(stateDir: string): Record[] {
  return fs
    .readdirSync(stateDir)
    .filter((name) => name.endsWith(".json") && !name.startsWith("."))
    .flatMap((name) => {
      try {
        return [JSON.parse(fs.readFileSync(path.join(stateDir, name), "utf8")) as Record];
      } catch {
        return []; // the runtime names what it cannot read
      }
    });
}

function openMember(pid: number, cgroup: string): number | undefined {
  if (!isMember(pid, cgroup)) return undefined;
  const pidfd = native().pidfdOpen({ pid });
  if (pidfd === undefined || isMember(pid, cgroup)) return pidfd;
  fs.closeSync(pidfd);
  return undefined;
}

/** cgroup.procs lists zombies of the thread group too: they are ended, and their pid is still their own. */
function isMember(pid: number, cgroup: string): boolean {
  try {
    const procs = fs.readFileSync(path.join(cgroup, "cgroup.procs"), "utf8");
    return procs.split("\n").includes(String(pid));
  } catch {
    return false;
  }
}
