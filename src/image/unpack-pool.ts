import * as fs from "node:fs";
import * as path from "node:path";
import { Worker } from "node:worker_threads";
import { type ErrorCode, IsopodError } from "../base/errors";
import type { FromWorker, ToWorker, UnpackJob, UnpackResult } from "./unpack-job";

/**
 * Worker threads that unpack layers: started when needed, gone when idle, so that a daemon at rest pays
 * for none. A job holds its worker from start to end, also while it waits for the layers below it; who
 * starts jobs therefore starts a layer only after the one below it has started (see layers.ts).
 */
export interface UnpackPool {
  /**
   * `chunks` feed a job whose source is "port". `parents` resolves with the directories of the layers below when these are complete;
   * `started` is called when a worker has taken the job.
   */
  run(job: UnpackJob, options: RunOptions): Promise<UnpackResult>;
  close(): Promise<void>;
}

export interface RunOptions {
  readonly signal: AbortSignal;
  readonly parents: Promise<readonly string[]>;
  readonly started: () => void;
  readonly chunks?: () => AsyncIterable<Uint8Array>;
}

const MAX_WORKERS = 6;
const IDLE_MS = 5_000;
/** Bytes on their way to a worker. */
const WINDOW = 4 * 1024 * 1024;

export function unpackPool(idleMs = IDLE_MS): UnpackPool {
  const idle = new Map<Worker, NodeJS.Timeout>();
  const all = new Set<Worker>();
  const queue: (() => void)[] = [];
  let closed = false;

  function forget(worker: Worker): void {
    clearTimeout(idle.get(worker));
    idle.delete(worker);
  }

  function take(): Worker | undefined {
    const [ready] = idle.keys();
    if (ready !== undefined) {
      forget(ready);
      return ready;
    }
    if (all.size >= MAX_WORKERS) return undefined;
    const worker = new Worker(workerFile(), { execArgv: [], env: {} });
    all.add(worker);
    worker.on("error", () => {});
    worker.once("exit", () => {
      all.delete(worker);
      forget(worker);
      queue.shift()?.();
    });
    return worker;
  }

  async function acquire(): Promise<Worker> {
    for (;;) {
      if (closed) throw new IsopodError("UNAVAILABLE", "unpack: the image store is closed");
      const worker = take();
      if (worker !== undefined) {
        worker.ref();
        return worker;
      }
      await new Promise<void>((resolve) => queue.push(resolve));
    }
  }

  function release(worker: Worker): void {
    if (!all.has(worker)) return;
    worker.unref();
    // Out of `idle` before it is told to end: its exit comes later, and until then nobody may take it.
    const timer = setTimeout(() => {
      forget(worker);
      void worker.terminate();
    }, idleMs);
    idle.set(worker, timer.unref());
    queue.shift()?.();
  }

  return {
    async run(job, options) {
      const worker = await acquire();
      try {
        options.signal.throwIfAborted();
        options.started();
        return await converse(worker, job, options);
      } finally {
        release(worker);
      }
    },
    async close() {
      closed = true;
      for (const waiter of queue.splice(0)) waiter();
      await Promise.all([...all].map((worker) => worker.terminate()));
    },
  };
}

/** Beside this file, or where tsc puts it, seen from a bundle in dist/. */
function workerFile(): string {
  const places = ["unpack-worker.js", "src/image/unpack-worker.js"].map((name) => path.join(__dirname, name));
  const found = places.find((file) => fs.existsSync(file));
  if (found === undefined) {
    throw new IsopodError("INTERNAL", `unpack: ${places.join(", ")}: no such file`, { path: places[0] });
  }
  return found;
}

async function converse(worker: Worker, job: UnpackJob, options: RunOptions): Promise<UnpackResult> {
  const tell = (message: ToWorker, transfer: ArrayBuffer[] = []) => worker.postMessage(message, transfer);
  let credit = WINDOW;
  let wake = () => {};
  let over = false;
  const abort = () => {
    wake();
    tell({ type: "abort" });
  };

  const listeners: [string, (value: unknown) => void][] = [];
  const answer = new Promise<UnpackResult>((resolve, reject) => {
    const hear = (raw: unknown) => {
      const message = raw as FromWorker;
      if (message.type === "credit") {
        credit += message.bytes;
        wake();
      } else if (message.type === "done") {
        resolve(message.result);
      } else {
        const { code, message: text, ...details } = message.error;
        reject(new IsopodError(code as ErrorCode, text, details));
      }
    };
    const exit = (code: unknown) =>
      reject(new IsopodError("INTERNAL", `unpack: the worker ended with code ${code}`));
    listeners.push(["message", hear], ["exit", exit], ["error", reject]);
  });
  for (const [event, listener] of listeners) worker.on(event, listener);

  async function feed(chunks: AsyncIterable<Uint8Array>): Promise<void> {
    for await (const chunk of chunks) {
      while (credit <= 0 && !over && !options.signal.aborted) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      if (over || options.signal.aborted) return;
      credit -= chunk.byteLength;
      // A copy of its own: the HTTP parser's buffer holds other chunks too.
      const data = new Uint8Array(chunk);
      tell({ type: "chunk", data }, [data.buffer as ArrayBuffer]);
    }
    tell({ type: "end" });
  }

  tell({ type: "job", job });
  options.signal.addEventListener("abort", abort);
  if (options.signal.aborted) abort();
  let sourceError: unknown;
  options.parents.then(
    (parents) => over || tell({ type: "parents", parents }),
    (error: unknown) => {
      sourceError ??= error;
      if (!over) abort();
    },
  );
  const fed =
    options.chunks === undefined
      ? Promise.resolve()
      : feed(options.chunks()).catch((error: unknown) => {
          sourceError ??= error;
          abort();
        });
  try {
    return await answer;
  } catch (error) {
    throw options.signal.aborted ? options.signal.reason : (sourceError ?? error);
  } finally {
    over = true;
    wake();
    options.signal.removeEventListener("abort", abort);
    for (const [event, listener] of listeners) worker.off(event, listener);
    await fed;
  }
}
