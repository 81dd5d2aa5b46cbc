import * as fs from "node:fs";
import * as path from "node:path";
import { native } from "../native";
import { removePlace } from "./place";
import { readRecords } from "./state";

/**
 * Takes down what library processes that did not end in order have left: their containers died with them,
 * but cgroups and records stay. Directories are named by pid; one whose process lives is let alone.
 */
export function sweepStateDirs(root: string): void {
  let names: string[];
  try {
    names = fs.readdirSync(root);
  } catch {
    return; // the first one ever
  }
  const host = { native: native(), target: native().features() };
  for (const name of names) {
    const directory = path.join(root, name);
    if (!/^\d+$/.test(name) || (Number(name) !== process.pid && isAlive(Number(name)))) continue;
    for (const record of readRecords(directory, () => {}))
      if (record.kind !== "exec") void removePlace(host, record).catch(() => {});
    fs.rmSync(directory, { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  const pidfd = native().pidfdOpen({ pid });
  if (pidfd !== undefined) fs.closeSync(pidfd);
  return pidfd !== undefined;
}
