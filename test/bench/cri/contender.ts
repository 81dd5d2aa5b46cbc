import * as fs from "node:fs";
import type { CriClient } from "../../support/cri-client";
import { privateDirty } from "../../support/leaks";

/** A CRI server under test, with the image already imported. */
export interface CriContender {
  readonly name: string;
  readonly cri: CriClient;
  /** The folder below which all its sockets and files lie: its processes name it in their arguments. */
  readonly dir: string;
  readonly pid: number;
  stop(): Promise<void>;
}

/**
 * KiB of Private_Dirty of the daemon and its shims. Containers and pause processes are not counted: they
 * are the pod's, whoever runs it.
 */
export function overheadKiB({ dir, pid }: CriContender): number {
  const shims = processesNaming(dir).filter((shim) => shim !== pid);
  return [pid, ...shims].reduce((sum, each) => sum + privateDirty(each), 0);
}

/** Processes with an argument that is a path below `dir`, this one left out. */
export function processesNaming(dir: string): number[] {
  const pids = fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  const named = pids.filter((pid) => argumentsOf(pid).some((argument) => argument.startsWith(`${dir}/`)));
  return named.map(Number).filter((pid) => pid !== process.pid);
}

function argumentsOf(pid: string): string[] {
  try {
    return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch {
    return [];
  }
}
