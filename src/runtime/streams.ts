import * as fs from "node:fs";
import * as net from "node:net";
import { type Readable, Writable } from "node:stream";
import type { Native } from "../native";
import { removeFile } from "./state";
import type { Stdio } from "./types";

/**
 * FIFOs of a process as Node streams: the library's side of stdio. The FIFOs have no name that outlives the
 * launch, only descriptors; libuv polls them as it does pipes.
 */
export type StreamOption = "pipe" | "null";

export interface StreamOptions {
  /** Default: null. */
  readonly stdin?: StreamOption;
  /** Default: pipe. An absolute path of a FIFO, or `file://` to append to, is handed on. */
  readonly stdout?: StreamOption | (string & {});
  /** Default: pipe; with a terminal there is none. */
  readonly stderr?: StreamOption | (string & {});
}

const READ = fs.constants.O_RDONLY | fs.constants.O_NONBLOCK;

export class Streams {
  /** For the runtime. */
  readonly stdio: Stdio;
  /** These end when the container and all its children have closed their ends. */
  stdout: Readable | null = null;
  stderr: Readable | null = null;
  readonly #options: StreamOptions;
  readonly #stdinPath: string | undefined;
  readonly #made: string[] = [];
  #ends: { stdout?: number | undefined; stderr?: number | undefined } = {};

  /** Makes `<prefix>.stdin` and so on; `uid` will own them. */
  constructor(native: Native, prefix: string, options: StreamOptions, terminal: boolean, uid: number) {
    const { stdin = "null", stdout = "pipe", stderr = terminal ? "null" : "pipe" } = options;
    this.#options = { stdout, stderr };
    const fifo = (name: string): string => {
      const file = `${prefix}.${name}`;
      native.makeFifo({ path: file, mode: 0o600, uid });
      this.#made.push(file);
      return file;
    };
    try {
      const output = (wanted: string, name: string): string =>
        wanted === "pipe" ? fifo(name) : wanted === "null" ? "" : wanted;
      this.#stdinPath = stdin === "pipe" ? fifo("stdin") : undefined;
      this.stdio = {
        stdin: this.#stdinPath ?? "",
        stdout: output(stdout, "stdout"),
        stderr: output(stderr, "stderr"),
        terminal,
      };
    } catch (error) {
      this.unlink();
      throw error;
    }
  }

  /** True if nothing goes to a FIFO of the caller's own: then `open` has all reading ends there are. */
  get attended(): boolean {
    return [this.#options.stdout, this.#options.stderr].every((way) => way === "pipe" || way === "null");
  }

  /**
   * Before the process can have ended: who opens a FIFO when its last writer has gone waits for ever, since
   * poll(2) tells of a hang-up only to those who were there (pipe_poll).
   */
  open(): void {
    for (const name of ["stdout", "stderr"] as const)
      if (this.#options[name] === "pipe") this.#ends[name] = fs.openSync(this.stdio[name]!, READ);
  }

  /** Makes streams of what `open` opened: takes its time, and so while the process is being made. */
  connect(): void {
    for (const name of ["stdout", "stderr"] as const) {
      const fd = this.#ends[name];
      if (fd !== undefined) this[name] = new net.Socket({ fd, readable: true, writable: false });
      this.#ends[name] = undefined;
    }
  }

  /** Once the process has its reading end. `ended` is called when the caller ends the stream. */
  openStdin(ended: () => void): Writable | null {
    return this.#stdinPath === undefined ? null : writeFifo(this.#stdinPath, ended);
  }

  /** The process did not come to be: nothing will ever be read. */
  destroy(): void {
    for (const fd of [this.#ends.stdout, this.#ends.stderr]) if (fd !== undefined) fs.closeSync(fd);
    this.#ends = {};
    this.stdout?.destroy();
    this.stderr?.destroy();
    this.unlink();
  }

  /** Once everybody who needs a name has opened it. */
  unlink(): void {
    for (const file of this.#made.splice(0)) removeFile(file);
  }
}

/** A FIFO cannot be shut down like a socket: its end is the close of the last writing end. */
function writeFifo(file: string, ended: () => void): Writable {
  const fd = fs.openSync(file, fs.constants.O_WRONLY | fs.constants.O_NONBLOCK);
  const socket = new net.Socket({ fd, readable: false, writable: true });
  const stream = new Writable({
    write: (chunk: Buffer, _encoding, done) => void socket.write(chunk, done),
    final: (done) => {
      socket.destroy();
      ended();
      done();
    },
    destroy: (error, done) => {
      socket.destroy();
      ended();
      done(error);
    },
  });
  socket.on("error", (error) => stream.destroy(error));
  return stream;
}
