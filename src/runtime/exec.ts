import { errnoOf, IsopodError, precondition } from "../base/errors";
import { now } from "../base/time";
import type { Launched } from "../native";
import type { Process as ProcessSpec, Spec } from "../oci/runtime-spec";
import { memberCgroup } from "./cgroup";
import { compileExec } from "./compile-exec";
import type { Engine } from "./engine";
import { BaseProcess } from "./process";
import { type ExecRecord, execKey, readExit, versioned, writeRecord } from "./state";
import { StdioEnds } from "./stdio-ends";
import type { ExecProcess, ProcessState, Stdio } from "./types";

/** The container as its execs see it. */
export interface ExecHost {
  readonly id: string;
  readonly spec: Spec;
  readonly cgroup: string;
  /** Of its first process. */
  readonly pid: number;
  readonly state: ProcessState;
  /** Borrowed: the pidfd of its first process. FAILED_PRECONDITION if that is gone. */
  leader(): number;
  forget(exec: Exec): void;
}

export class Exec extends BaseProcess implements ExecProcess {
  registered: Promise<void> = Promise.resolve();
  readonly #host: ExecHost;
  readonly #spec: ProcessSpec;
  readonly #attended: boolean;
  #starting: Promise<void> | undefined;
  #freed = false;

  private constructor(
    engine: Engine,
    host: ExecHost,
    id: string,
    spec: ProcessSpec,
    stdio: Stdio,
    attended: boolean,
  ) {
    super(engine, id, execKey(host.id, id), stdio);
    this.#host = host;
    this.#spec = spec;
    this.#attended = attended;
  }

  /** Registers it; nothing runs yet. */
  static register(
    engine: Engine,
    host: ExecHost,
    id: string,
    spec: ProcessSpec,
    stdio: Stdio,
    attended: boolean,
  ): Exec {
    const exec = new Exec(engine, host, id, spec, stdio, attended);
    if (engine.store) exec.registered = exec.#register();
    return exec;
  }

  static recovered(
    engine: Engine,
    host: ExecHost,
    record: ExecRecord,
    left: Readonly<Record<string, number>>,
    known: { status: number; exitedAt: bigint } | undefined,
  ): Exec {
    const exec = new Exec(engine, host, record.id, record.process, record.stdio, false);
    exec.pid = record.pid;
    if (record.pid === 0) return exec;
    exec.#starting = Promise.resolve();
    exec.ends = StdioEnds.recovered(engine, exec.key, record.stdio, left);
    exec.pidfd = left[`${exec.key}/pidfd`];
    const exit = readExit(engine.stateDir, exec.key) ?? known;
    if (exit) void exec.ended(exit);
    else if (exec.pidfd === undefined) void exec.ended({ status: 255, exitedAt: now() });
    else exec.watch(false);
    return exec;
  }

  get state(): ProcessState {
    if (this.exit) return "stopped";
    if (this.pid === 0) return "created";
    return this.#host.state === "paused" ? "paused" : "running";
  }

  start(): Promise<void> {
    if (this.#starting) return Promise.reject(precondition(`process "${this.id}": started already`));
    this.#starting = this.#start().catch((error: unknown) => {
      this.#starting = undefined; // stays created, as the shim API has it
      throw error;
    });
    return this.#starting;
  }

  async #start(): Promise<void> {
    const { state } = this.#host;
    if (state === "stopped" || state === "paused")
      throw precondition(`container "${this.#host.id}": is ${state}: nothing can be started in it`);
    let ends: StdioEnds | undefined;
    try {
      ends = StdioEnds.open(this.engine, this.key, this.stdio, this.#attended);
      const launched = await this.#launch(this.#host.cgroup).catch((error: unknown) => {
        // The container has cgroups of its own with controllers: then its outermost one holds no process.
        if (errnoOf(error) !== "EBUSY") throw error;
        return this.#launch(this.#leaderCgroup(error));
      });
      this.adopt(launched, ends);
      this.#record(launched.pid);
    } catch (error) {
      if (this.pid === 0) ends?.close();
      throw error;
    }
  }

  /** A start that comes along with the registration records both: one file written instead of two. */
  async #register(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    await this.#starting?.catch(() => {});
    if (this.pid === 0 && !this.#freed) this.#record(0);
  }

  /** Looked up by pid, so its first process must still live afterwards, or it was somebody else's. */
  #leaderCgroup(error: unknown): string {
    const cgroup = memberCgroup(this.engine.target.cgroupRoot, this.#host.pid, this.#host.cgroup);
    this.#host.leader();
    if (cgroup === undefined) throw error;
    return cgroup;
  }

  #launch(cgroup: string): Promise<Launched> {
    const { native, target, dieWithParent, warn } = this.engine;
    const plan = compileExec({
      containerId: this.#host.id,
      spec: this.#host.spec,
      process: this.#spec,
      stdio: this.stdio,
      cgroup,
      target,
      dieWithParent,
      warn,
    });
    return native.launch({ plan, fds: [this.#host.leader()], until: "exec" });
  }

  /** Only a monitor makes a crash survivable; without one nobody would read it. */
  #record(pid: number): void {
    if (!this.engine.store) return;
    writeRecord(
      this.engine.stateDir,
      this.key,
      versioned({
        kind: "exec" as const,
        id: this.id,
        container: this.#host.id,
        pid,
        process: this.#spec,
        stdio: this.stdio,
      }),
    );
  }

  protected override async beforeExit(): Promise<void> {}

  protected override async free(): Promise<void> {
    this.#freed = true;
    this.#host.forget(this);
  }
}

/** `pidfd`, if there is one and its process has not ended. */
export function leaderOf(engine: Engine, id: string, pidfd: number | undefined): number {
  if (pidfd !== undefined && engine.native.signal({ pidfd, signal: 0 })) return pidfd;
  throw new IsopodError("FAILED_PRECONDITION", `entering "${id}": its first process is gone`, { path: id });
}
