import { unsupported } from "../base/errors";
import { OPEN, type PlanWriter, type Slot } from "../native";
import type { Process } from "../oci/runtime-spec";
import type { Stdio } from "./types";

/**
 * Where a process's three streams go (R3). Output FIFOs are opened O_RDWR by the process itself, blocking:
 * it holds both ends, so daemon and server may die and come back, and a write never meets a FIFO without
 * reader. Input is opened O_RDONLY: the server's own writing end (stdin) and the client's are what keeps it
 * open, and when both are closed the process reads its end of file.
 */
const O_RDONLY = 0;
const O_WRONLY = 1;
const O_RDWR = 2;
const O_CREAT = 0o100;
const O_APPEND = 0o2000;
const LEAVE_OWNER = 0xffffffff;
const FILE = "file://";

export type Endpoint = { readonly kind: "fifo" | "file"; readonly path: string };

/** What a stdio field names: a FIFO's path or `file://`; undefined for none. */
export function endpoint(value: string | undefined, field: string): Endpoint | undefined {
  if (!value) return undefined;
  if (value.startsWith(FILE)) {
    const path = value.slice(FILE.length);
    if (field === "stdin" || !path.startsWith("/"))
      throw unsupported(field, value, "only output can go to file:// and an absolute path");
    return { kind: "file", path };
  }
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//.exec(value)?.[1];
  if (scheme === "fifo") return { kind: "fifo", path: value.slice("fifo://".length) };
  if (scheme) throw unsupported(field, value, `${scheme}:// is not supported: use a FIFO or file://`);
  if (!value.startsWith("/")) throw unsupported(field, value, "must be an absolute path");
  return { kind: "fifo", path: value };
}

/** Streams that the launcher hands over, by OPEN.fd's numbers: a guest's are pipes that its agent made. */
export interface HandedStdio {
  readonly handed: { readonly stdin?: number; readonly stdout?: number; readonly stderr?: number };
}

/** Opens the three streams on the host; with a terminal the server copies, and the process opens none. */
export function openStdio(
  plan: PlanWriter,
  process: Process,
  stdio: Stdio | HandedStdio,
): (Slot | undefined)[] {
  if (process.terminal) return [];
  if ("handed" in stdio) {
    const { stdin, stdout, stderr } = stdio.handed;
    return [stdin, stdout, stderr].map((a) => (a === undefined ? undefined : plan.open(OPEN.fd, { a })));
  }
  const uid = process.user?.uid ?? 0;
  const open = (end: Endpoint | undefined, field: string, flags: number): Slot | undefined =>
    end && plan.open(OPEN.file, { path: plan.variable(field, end.path), flags, a: uid, b: LEAVE_OWNER });
  const output = (value: string | undefined, field: string): Slot | undefined => {
    const end = endpoint(value, field);
    if (end?.kind !== "file") return open(end, field, O_RDWR);
    return plan.open(OPEN.file, {
      path: end.path,
      flags: O_WRONLY | O_CREAT | O_APPEND,
      a: LEAVE_OWNER,
      b: LEAVE_OWNER,
    });
  };
  return [
    open(endpoint(stdio.stdin, "stdin"), "stdin", O_RDONLY),
    output(stdio.stdout, "stdout"),
    output(stdio.stderr, "stderr"),
  ];
}
