import * as fs from "node:fs";
import { IsopodError, messageOf, precondition } from "../base/errors";
import { now } from "../base/time";
import type { ExitStatus, Launched } from "../native";
import type { Engine } from "./engine";
import { exitPath, removeRecord } from "./state";
import type { StdioEnds } from "./stdio-ends";
import type { Process, ProcessState, Stdio } from "./types";

/** Nobody saw how it ended. */
export const LOST = 255;
const NEVER_STARTED: ExitStatus = { status: 0, exitedAt: 0n };

/**
 * What init processes and execs have in common: a pidfd, an exit that is recorded before the reap, ends of
 * stdio, and a delete that frees all of it once.
 */
export abstract class BaseProcess implements Process {
  readonly id: string;
  readonly stdio: Stdio;
  /** Resolves also for those who ask later; never rejects. */
  readonly exited: Promise<ExitStatus>;
  pid = 0;
  exit: ExitStatus | undefined;
  protected readonly engine: Engine;
  /** Of its state files and stored fds. */
  protected readonly key: string;
  protected pidfd: number | undefined;
  protected ends: StdioEnds | undefined;
  #settle!: (exit: ExitStatus) => void;
  #deleted: Promise<ExitStatus> | undefined;

  protected constructor(engine: Engine, id: string, key: string, stdio: Stdio) {
    this.engine = engine;
    this.id = id;
    this.key = key;
    this.stdio = stdio;
    this.exited = new Promise((resolve) => {
      this.#settle = resolve;
    });
  }

  abstract get state(): ProcessState;
  abstract start(): Promise<void>;
  /** What is to be freed besides the process itself. */
  protected abstract free(): Promise<void>;
  /** What has to happen between the process's end and its announcement. */
  protected abstract beforeExit(): Promise<void>;

  /** Takes the launched process's fds, and the ends. From here on its end is watched. */
  protected adopt({ pid, pidfd, pty }: Launched, ends: StdioEnds): void {
    this.pid = pid;
    this.pidfd = pidfd;
    this.ends = ends;
    const { store, stateDir } = this.engine;
    store?.put(`${this.key}/pidfd`, pidfd);
    store?.task(this.key, pid, exitPath(stateDir, this.key));
    ends.attach(pty);
    this.watch(true);
  }

  /** `child`: ours to reap; else the monitor does it and writes the record. */
  protected watch(child: boolean): void {
    const { native, stateDir, warn } = this.engine;
    const record = exitPath(stateDir, this.key);
    void native
      .awaitExit({ pid: this.pid, pidfd: this.pidfd!, record, child })
      .catch((error: unknown) => {
        warn("the end of a process could not be seen", { id: this.key, error: messageOf(error) });
        return { status: LOST, exitedAt: now() };
      })
      .then((exit) => this.ended(exit));
  }

  protected async ended(exit: ExitStatus): Promise<void> {
    if (this.pidfd !== undefined) fs.closeSync(this.pidfd);
    this.pidfd = undefined;
    await this.beforeExit().catch((error: unknown) =>
      this.engine.warn("after the end of a process", { id: this.key, error: messageOf(error) }),
    );
    this.exit = exit;
    this.#settle(exit);
  }

  async kill(signal: number): Promise<void> {
    if (this.pid === 0 && this.exit === undefined) throw precondition(`process "${this.id}": not started`);
    if (this.pidfd === undefined || !this.engine.native.signal({ pidfd: this.pidfd, signal }))
      throw new IsopodError("NOT_FOUND", `process "${this.id}": process already finished`, { path: this.id });
  }

  resize(size: { rows: number; columns: number }): void {
    this.ends?.resize(size);
  }

  closeStdin(): void {
    this.ends?.closeStdin();
  }

  delete(): Promise<ExitStatus> {
    if (this.#deleted) return this.#deleted;
    if (this.state === "running" || this.state === "paused")
      return Promise.reject(precondition(`process "${this.id}": is ${this.state}: kill it first`));
    this.#deleted = this.#delete().catch((error: unknown) => {
      this.#deleted = undefined; // may be tried again
      throw error;
    });
    return this.#deleted;
  }

  async #delete(): Promise<ExitStatus> {
    await this.ends?.drained();
    await this.free();
    this.ends?.close();
    this.ends = undefined;
    this.engine.store?.drop(`${this.key}/`);
    removeRecord(this.engine.stateDir, this.key);
    return this.exit ?? NEVER_STARTED;
  }
}
