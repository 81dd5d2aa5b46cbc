import * as fs from "node:fs";
import { errnoOf, IsopodError } from "../base/errors";
import { withDeadline } from "../base/scope";
import type { Engine } from "./engine";
import { endpoint } from "./stdio";
import type { Stdio } from "./types";

/**
 * The server's ends of a process's stdio. It never touches a byte of it (R12): it holds ends so that nothing
 * is lost while nobody else has one open, and hands them to the monitor, so that its own crash changes
 * nothing either:
 *
 *   stdin   a writing end, until closeStdin: clients may come and go
 *   out,err spare reading ends, until delete: what was written just before the exit waits there
 *   pty     the terminal's master; native pumps copy between it and the FIFOs
 */
type End = "stdin" | "out" | "err" | "pty";

const DRAIN_MS = 2_000;
const { O_RDONLY, O_WRONLY, O_RDWR, O_NONBLOCK } = fs.constants;

export class StdioEnds {
  readonly #engine: Engine;
  readonly #key: string;
  readonly #stdio: Stdio;
  readonly #fds = new Map<End, number>();
  #input: number | undefined;
  #output: number | undefined;

  private constructor(engine: Engine, key: string, stdio: Stdio) {
    this.#engine = engine;
    this.#key = key;
    this.#stdio = stdio;
  }

  /**
   * Opens what must be there before the process opens its own ends. NOT_FOUND if a FIFO is missing.
   * `attended`: somebody else in this process holds reading ends of the outputs already.
   */
  static open(engine: Engine, key: string, stdio: Stdio, attended: boolean): StdioEnds {
    const ends = new StdioEnds(engine, key, stdio);
    try {
      if (!attended) ends.#openFifo("out", stdio.stdout, "stdout", O_RDONLY);
      if (!stdio.terminal) {
        if (!attended) ends.#openFifo("err", stdio.stderr, "stderr", O_RDONLY);
        // Both ends at first, or the stub's O_RDONLY would wait for a writer.
        ends.#openFifo("stdin", stdio.stdin, "stdin", O_RDWR);
      }
      return ends;
    } catch (error) {
      ends.close();
      throw error;
    }
  }

  /** The ends that the monitor kept over our predecessor's crash. Takes the fds. */
  static recovered(
    engine: Engine,
    key: string,
    stdio: Stdio,
    left: Readonly<Record<string, number>>,
  ): StdioEnds {
    const ends = new StdioEnds(engine, key, stdio);
    for (const end of ["stdin", "out", "err", "pty"] as const) {
      const fd = left[`${key}/${end}`];
      if (fd !== undefined) ends.#fds.set(end, fd);
    }
    ends.#copyTerminal();
    return ends;
  }

  /** The process has its ends now. Takes the terminal's master. */
  attach(pty: number | undefined): void {
    if (pty !== undefined) this.#fds.set("pty", pty);
    this.#dropReadingEnd();
    for (const [end, fd] of this.#fds) this.#engine.store?.put(`${this.#key}/${end}`, fd);
    this.#copyTerminal();
  }

  resize(size: { rows: number; columns: number }): void {
    const pty = this.#fds.get("pty");
    if (pty !== undefined) this.#engine.native.resizePty({ pty, ...size });
  }

  /** What is buffered is still read; then, when the client's end is closed too, the end of file. */
  closeStdin(): void {
    if (this.#input !== undefined) this.#engine.native.pumpStop({ pump: this.#input });
    this.#input = undefined;
    this.#drop("stdin");
  }

  /** Resolves when a terminal's last output has been handed over, or its reader does not take it. */
  async drained(): Promise<void> {
    const pump = this.#output;
    if (pump === undefined) return;
    this.#output = undefined;
    const { native } = this.#engine;
    await withDeadline(native.pumpEnd({ pump }), DRAIN_MS, "draining the terminal").catch(() =>
      native.pumpStop({ pump }),
    );
  }

  close(): void {
    for (const pump of [this.#input, this.#output])
      if (pump !== undefined) this.#engine.native.pumpStop({ pump });
    this.#input = undefined;
    this.#output = undefined;
    for (const fd of this.#fds.values()) fs.closeSync(fd);
    this.#fds.clear();
  }

  #openFifo(end: End, value: string | undefined, field: string, flags: number): void {
    const target = endpoint(value, field);
    if (target?.kind === "fifo") this.#fds.set(end, openFifo(target.path, flags, field));
  }

  /** With a reading end of ours a client would never learn that the process reads no more. */
  #dropReadingEnd(): void {
    const both = this.#fds.get("stdin");
    if (both === undefined) return;
    this.#fds.delete("stdin");
    try {
      const { path } = endpoint(this.#stdio.stdin, "stdin")!;
      this.#fds.set("stdin", fs.openSync(path, O_WRONLY | O_NONBLOCK));
    } catch {
      // ENXIO: the process has closed its stdin, or is gone.
    } finally {
      fs.closeSync(both);
    }
  }

  /**
   * FIFOs are opened O_RDWR here: their clients may detach and attach again, which ends nothing. Clients see
   * the end of output when the pump closes its end.
   */
  #copyTerminal(): void {
    const pty = this.#fds.get("pty");
    if (pty === undefined) return;
    const { native } = this.#engine;
    const stdin = endpoint(this.#stdio.stdin, "stdin");
    const stdout = endpoint(this.#stdio.stdout, "stdout");
    if (stdin) {
      const from = openFifo(stdin.path, O_RDWR, "stdin");
      this.#input = native.pumpCopy({ from, to: native.duplicate({ fd: pty }) });
    }
    if (stdout?.kind === "file") {
      const { O_CREAT, O_APPEND } = fs.constants;
      const to = fs.openSync(stdout.path, O_WRONLY | O_CREAT | O_APPEND, 0o640);
      this.#output = native.pumpCopy({ from: native.duplicate({ fd: pty }), to });
    } else if (stdout) {
      const to = openFifo(stdout.path, O_RDWR, "stdout");
      this.#output = native.pumpCopy({ from: native.duplicate({ fd: pty }), to });
    } else {
      // Nobody wants it, but a terminal that is not read blocks who writes to it.
      this.#output = native.pumpCollect({ fd: native.duplicate({ fd: pty }), limit: 0 });
    }
  }

  #drop(end: End): void {
    const fd = this.#fds.get(end);
    if (fd === undefined) return;
    this.#fds.delete(end);
    fs.closeSync(fd);
    this.#engine.store?.drop(`${this.#key}/${end}`);
  }
}

/** O_NONBLOCK: opening a FIFO would wait for its other end, and this is Node's thread. */
function openFifo(file: string, flags: number, field: string): number {
  try {
    return fs.openSync(file, flags | O_NONBLOCK);
  } catch (error) {
    const errno = errnoOf(error);
    throw new IsopodError(
      errno === "ENOENT" ? "NOT_FOUND" : "INVALID_ARGUMENT",
      `opening ${field}: "${file}": ${errno}`,
      { step: "open", errno, path: file, cause: error },
    );
  }
}
