import * as fs from "node:fs";
import * as path from "node:path";
import { withDeadline } from "../base/scope";
import { native } from "../native";
import type { TaskStdio } from "../task";

/**
 * A container's stdio: FIFOs in its directory, made by us, opened read-write by the container's stub, so
 * that they outlive us and the shim. We are their only reader; the bytes go to the log natively (R12).
 */
export interface Output {
  /** Continues at `file`, opened anew, at a line's end. */
  reopen(file: string): void;
  /** Waits until the container and its children have closed their ends, at most `ms`. */
  drain(ms: number): Promise<void>;
  /** Takes what is there, then lets go. Idempotent. */
  close(): Promise<void>;
}

export interface StdioOptions {
  readonly stdin: boolean;
  readonly tty: boolean;
  /** False: output is discarded, and only a terminal still needs a reader. */
  readonly logged: boolean;
}

const READ = fs.constants.O_RDONLY | fs.constants.O_NONBLOCK;

/** With a terminal both streams are one. */
export function stdioPaths(dir: string, options: StdioOptions): TaskStdio {
  const output = options.logged || options.tty;
  return {
    stdin: options.stdin ? path.join(dir, "stdin") : "",
    stdout: output ? path.join(dir, "stdout") : "",
    stderr: output && !options.tty ? path.join(dir, "stderr") : "",
    terminal: options.tty,
  };
}

/** Owned by the container's user, who may open /dev/stdout again by name. */
export function makeFifos(stdio: TaskStdio, owner: { uid: number; gid: number }): void {
  for (const file of [stdio.stdin, stdio.stdout, stdio.stderr])
    if (file !== "") native().makeFifo({ path: file, mode: 0o600, ...owner });
}

/** Starts to read: into the log, or into nothing if `logPath` is "". */
export function openOutput(stdio: TaskStdio, logPath: string): Output {
  const log = logPath === "" ? undefined : native().logOpen({ path: logPath });
  const pumps: number[] = [];
  try {
    for (const stream of ["stdout", "stderr"] as const) {
      if (stdio[stream] === "") continue;
      const fd = fs.openSync(stdio[stream], READ);
      pumps.push(
        log === undefined ? native().pumpCollect({ fd, limit: 0 }) : native().pumpLog({ fd, log, stream }),
      );
    }
  } catch (error) {
    stopAll(pumps);
    if (log !== undefined) native().logClose({ log });
    throw error;
  }
  const ended = endOf(pumps);
  let closed: Promise<void> | undefined;
  return {
    reopen: (file) => {
      if (log !== undefined) native().logReopen({ log, path: file });
    },
    drain: async (ms) => void (await withDeadline(ended, ms, "draining output").catch(() => {})),
    close: () => {
      closed ??= (async () => {
        stopAll(pumps);
        await ended;
        if (log !== undefined) native().logClose({ log });
      })();
      return closed;
    },
  };
}

const stopAll = (pumps: readonly number[]): void => {
  for (const pump of pumps) native().pumpStop({ pump });
};

/** Asked once per pump: the addon forgets a pump with its answer. */
const endOf = (pumps: readonly number[]): Promise<Buffer[]> =>
  Promise.all(pumps.map((pump) => native().pumpEnd({ pump })));

/** Creates the directories down to the log file, as kubelet does for its own. */
export function prepareLog(file: string): { existed: boolean } {
  fs.mkdirSync(path.dirname(file), { recursive: true, mode: 0o755 });
  return { existed: fs.existsSync(file) };
}

export interface Capture {
  readonly stdio: TaskStdio;
  /** What came on stdout and stderr, at the latest `ms` after the call. */
  finish(ms: number): Promise<{ stdout: Buffer; stderr: Buffer }>;
  /** Ends the reading and removes the FIFOs. */
  close(): void;
}

/** FIFOs of a process whose output is collected, `limit` bytes of each stream; the rest is dropped. */
export function capture(
  dir: string,
  name: string,
  owner: { uid: number; gid: number },
  limit: number,
): Capture {
  const file = (stream: string) => path.join(dir, `${name}.${stream}`);
  const stdio = { stdin: "", stdout: file("out"), stderr: file("err"), terminal: false };
  const pumps: number[] = [];
  const close = () => {
    stopAll(pumps);
    for (const fifo of [stdio.stdout, stdio.stderr]) fs.rmSync(fifo, { force: true });
  };
  try {
    makeFifos(stdio, owner);
    for (const fifo of [stdio.stdout, stdio.stderr])
      pumps.push(native().pumpCollect({ fd: fs.openSync(fifo, READ), limit }));
  } catch (error) {
    close();
    throw error;
  }
  const ended = endOf(pumps);
  return {
    stdio,
    close,
    finish: async (ms) => {
      // A grandchild may hold the pipe for ever.
      await withDeadline(ended, ms, "collecting output").catch(() => {});
      stopAll(pumps);
      const [stdout, stderr] = await ended;
      return { stdout: stdout!, stderr: stderr! };
    },
  };
}
