import * as fs from "node:fs";
import type { Host } from "./host";
import { patience } from "./testbed";

/** Processes in the host's mount namespace, its keeper left out: daemons and shims, no containers. */
export function processesOf(host: Host): number[] {
  const home = namespaceOf(host.pid);
  return pids().filter((pid) => pid !== host.pid && namespaceOf(pid) === home);
}

/** Processes with an argument that is a path below `dir`, this one left out. */
export function processesNaming(dir: string): number[] {
  return pids().filter(
    (pid) => pid !== process.pid && argumentsOf(pid).some((argument) => argument.includes(`${dir}/`)),
  );
}

/** Name and arguments; empty if the process is gone or a zombie. */
export function argumentsOf(pid: number): string[] {
  return read(`/proc/${pid}/cmdline`).split("\0").slice(0, -1);
}

/** False for zombies, too. */
export function isAlive(pid: number): boolean {
  const state = /\) (.)/.exec(read(`/proc/${pid}/stat`))?.[1];
  return state !== undefined && state !== "Z" && state !== "X";
}

/** SIGKILL to each, and waits until they are gone. */
export async function killAll(pids: readonly number[]): Promise<void> {
  for (const pid of pids) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {}
  }
  await until(() => !pids.some(isAlive), `${pids.length} killed processes are gone`);
}

/** Polls; throws naming `what` after the deadline. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  what: string,
  timeoutMs = 10_000,
): Promise<void> {
  const deadline = Date.now() + timeoutMs * patience;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const pids = (): number[] =>
  fs.readdirSync("/proc").flatMap((name) => (/^\d+$/.test(name) ? [Number(name)] : []));

function read(file: string): string {
  try {
    return fs.readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

function namespaceOf(pid: number): string {
  try {
    return fs.readlinkSync(`/proc/${pid}/ns/mnt`);
  } catch {
    return "";
  }
}
