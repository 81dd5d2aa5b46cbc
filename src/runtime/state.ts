import * as fs from "node:fs";
import * as path from "node:path";
import { readFileIfPresent, writeFileAtomic } from "../base/files";
import type { ExitStatus } from "../native";
import type { Process as ProcessSpec, Resources } from "../oci/runtime-spec";
import type { SandboxOptions, Stdio } from "./types";

/**
 * State is files (R2), on tmpfs, one per object, written before the reply that announces it:
 *
 *   <id>.json             a sandbox or a container
 *   <id>.gate             FIFO; there as long as a container is created and not started
 *   <id>.exit             how its process ended; written before that is reaped
 *   <container>@<exec>.json, .exit      an exec
 *
 *              create            start             exits
 *   (nothing) ───────> created ────────> running ────────> stopped ───> (nothing)
 *                         │               │   ▲              ▲    delete
 *                         │         pause ▼   │ resume       │
 *                         │               paused             │
 *                         └──────────────────────────────────┘ exits, start fails
 *
 * An exec is `created` from its registration on; its process comes with start. What state an object is in is
 * derived, never stored: exit known → stopped; gate there → created; cgroup frozen → paused; else running.
 */
const VERSION = 1;

export interface SandboxRecord {
  readonly version: number;
  readonly kind: "sandbox";
  readonly id: string;
  /** 0 while it is being made: what is found then after a crash is taken down. */
  readonly pid: number;
  /** Nanoseconds since 1970. */
  readonly createdAt: string;
  readonly cgroup: string;
  /** systemd's unit that owns it, with that driver. */
  readonly unit?: string;
  readonly options: Omit<SandboxOptions, "files" | "extra"> & { readonly files: readonly string[] };
  readonly extra: Readonly<Record<string, unknown>>;
}

export interface ContainerRecord {
  readonly version: number;
  readonly kind: "container";
  readonly id: string;
  readonly pid: number;
  readonly createdAt: string;
  /** Absent: its sandbox is implicit. */
  readonly sandbox?: string;
  /** Its config.json is read again after a crash, for the execs to come. */
  readonly bundle: string;
  readonly cgroup: string;
  /** systemd's unit that owns it, with that driver. */
  readonly unit?: string;
  /** The limits that hold since an update; absent: those of its config.json. */
  readonly resources?: Resources;
  readonly stdio: Stdio;
  readonly extra: Readonly<Record<string, unknown>>;
}

export interface ExecRecord {
  readonly version: number;
  readonly kind: "exec";
  readonly id: string;
  readonly container: string;
  /** 0 until it is started. */
  readonly pid: number;
  readonly process: ProcessSpec;
  readonly stdio: Stdio;
}

export type StateRecord = SandboxRecord | ContainerRecord | ExecRecord;

/** The version of what is written; another one is not understood. */
export const versioned = <T extends object>(record: T): T & { version: number } => ({
  version: VERSION,
  ...record,
});

export const recordPath = (stateDir: string, key: string): string => path.join(stateDir, `${key}.json`);
export const gatePath = (stateDir: string, key: string): string => path.join(stateDir, `${key}.gate`);
export const exitPath = (stateDir: string, key: string): string => path.join(stateDir, `${key}.exit`);
/** `@` is in no id. */
export const execKey = (container: string, exec: string): string => `${container}@${exec}`;

/**
 * Replaces what stands there in one step. A record without a pid comes first and before anything it tells of
 * exists, so it need not.
 */
export function writeRecord(stateDir: string, key: string, record: StateRecord): void {
  const file = recordPath(stateDir, key);
  const text = JSON.stringify(record);
  if (record.pid === 0) fs.writeFileSync(file, text, { mode: 0o600, flag: "wx" });
  else writeFileAtomic(file, text);
}

export function removeRecord(stateDir: string, key: string): void {
  for (const file of [gatePath(stateDir, key), exitPath(stateDir, key), recordPath(stateDir, key)])
    removeFile(file);
}

export function removeFile(file: string): void {
  // An exception costs more than the look.
  if (fs.existsSync(file)) fs.unlinkSync(file);
}

/** The exit that was recorded for `key`, by whoever reaped it. */
export function readExit(stateDir: string, key: string): ExitStatus | undefined {
  const text = readFileIfPresent(exitPath(stateDir, key));
  if (text === undefined) return undefined;
  const { status, exitedAt } = JSON.parse(text) as { status: number; exitedAt: string };
  return { status, exitedAt: BigInt(exitedAt) };
}

/** All records of a state directory; what cannot be read is named to `warn` and left alone. */
export function readRecords(
  stateDir: string,
  warn: (message: string, fields: Record<string, unknown>) => void,
): StateRecord[] {
  const records: StateRecord[] = [];
  for (const name of fs.readdirSync(stateDir)) {
    if (!name.endsWith(".json") || name.startsWith(".")) continue;
    const file = path.join(stateDir, name);
    try {
      const record = JSON.parse(fs.readFileSync(file, "utf8")) as StateRecord;
      if (record.version !== VERSION) throw new Error(`version ${record.version} is not ${VERSION}`);
      records.push(record);
    } catch (error) {
      warn("a state record cannot be read and is left alone", { file, error: String(error) });
    }
  }
  return records;
}
