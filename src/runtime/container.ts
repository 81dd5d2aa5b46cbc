import * as fs from "node:fs";
import { errnoOf, IsopodError, precondition } from "../base/errors";
import { undoOnFailure, withDeadline } from "../base/scope";
import { now } from "../base/time";
import type { Launched } from "../native";
import type { Process as ProcessSpec, Resources, Spec } from "../oci/runtime-spec";
import { isFrozen, readPids, refusePopulated, signalAll } from "./cgroup";
import { readStats } from "./cgroup-stats";
import type { Engine } from "./engine";
import { Exec, type ExecHost, leaderOf } from "./exec";
import { HeldLimits, limitError } from "./limits";
import type { BaseFiles } from "./mounts";
import { OomWatch } from "./oom";
import { claimParents, launchInto, type Place, placeOf, releaseParents, removePlace } from "./place";
import { compileCached } from "./plan-cache";
import { BaseProcess, LOST } from "./process";
import { controllersOf } from "./resources";
import {
  type ContainerRecord,
  type ExecRecord,
  gatePath,
  readExit,
  removeFile,
  removeRecord,
  versioned,
  writeRecord,
} from "./state";
import { StdioEnds } from "./stdio-ends";
import type { CgroupStats, Container, ContainerOptions, ExecProcess, ProcessState, Stdio } from "./types";
import { checkId, checkProcess, checkSpec } from "./validate";

const SIGKILL = 9;
const FREEZE_TIMEOUT_MS = 10_000;
/** How long the end of a container waits for its execs, which are being killed. */
const EXECS_TIMEOUT_MS = 5_000;

/** What a container needs of its sandbox. */
export interface ContainerSite {
  /** Absent: implicit. */
  readonly sandbox: string | undefined;
  readonly files: BaseFiles | undefined;
  /** Borrowed: the mount namespace that its tree is built in, or a pidfd of a process that is in it. */
  base(): number | Promise<number>;
  forget(container: ContainerProcess): void;
}

export class ContainerProcess extends BaseProcess implements Container, ExecHost {
  readonly bundle: string;
  readonly extra: Readonly<Record<string, unknown>>;
  readonly spec: Spec;
  readonly #place: Place;
  readonly execs = new Map<string, Exec>();
  readonly #site: ContainerSite;
  #result: number | undefined;
  #started = false;
  #paused = false;
  readonly #limits: HeldLimits;
  readonly #oom: OomWatch;
  readonly #createdAt: string;

  private constructor(
    engine: Engine,
    site: ContainerSite,
    options: Pick<ContainerRecord, "id" | "bundle" | "stdio" | "extra" | "resources"> & {
      createdAt?: string;
    },
    spec: Spec,
    place: Place,
  ) {
    super(engine, options.id, options.id, options.stdio);
    this.#site = site;
    this.bundle = options.bundle;
    this.extra = options.extra;
    this.spec = spec;
    this.#place = place;
    this.#createdAt = options.createdAt ?? String(now());
    this.#limits = new HeldLimits(engine, place, options.resources ?? spec.linux?.resources ?? {});
    this.#oom = new OomWatch(place, engine);
  }

  /**
   * Launches the stub, which builds the container and then waits at its gate, or with `start` executes its
   * program. Undone on failure.
   */
  static create(engine: Engine, site: ContainerSite, options: ContainerOptions): Promise<ContainerProcess> {
    const { id, bundle, spec, stdio, extra = {}, start = false, attended = false } = options;
    return undoOnFailure(async (scope) => {
      checkId("id", id);
      checkSpec(spec);
      const terminal = spec.process?.terminal ?? false;
      const place = placeOf(engine.target, spec.linux?.cgroupsPath, id);
      if (engine.ids.has(id)) throw new IsopodError("ALREADY_EXISTS", `id "${id}": in use`, { path: id });
      engine.ids.add(id);
      scope.defer("id", () => engine.ids.delete(id));
      const container = new ContainerProcess(
        engine,
        site,
        { id, bundle, stdio: { ...stdio, terminal }, extra },
        spec,
        place,
      );
      const gate = start ? undefined : gatePath(engine.stateDir, id);
      const { plan, deviceProgram, limits } = compileCached({
        id,
        spec,
        bundle,
        rootfs: options.rootfs,
        stdio,
        gate,
        base: site.files,
        target: engine.target,
        dieWithParent: engine.dieWithParent,
        warn: engine.warn,
      });
      scope.defer("record", () => removeRecord(engine.stateDir, id));
      container.#record(0);
      if (gate !== undefined) engine.native.makeFifo({ path: gate, mode: 0o600 });
      const ends = StdioEnds.open(engine, id, container.stdio, attended);
      scope.defer("stdio", () => ends.close());
      refusePopulated(place.cgroup);
      claimParents(engine, place, controllersOf(limits));
      scope.defer("parent cgroup", () => releaseParents(engine, place));
      // No turn of the loop before the launch if there need be none: the caller goes on while it runs.
      const found = site.base();
      const base = typeof found === "number" ? found : await found;
      let launched: Launched;
      try {
        launched = await launchInto(
          engine,
          place,
          {
            plan,
            fds: [base],
            ...(limits.length > 0 && { cgroupWrites: limits }),
            deviceProgram,
            until: start ? "exec" : "ready",
          },
          { description: `isopod container ${id}`, annotations: spec.annotations },
        );
      } catch (error) {
        throw limitError(error, limits);
      }
      scope.defer("process", () => container.#abandon());
      container.#oom.open();
      container.#result = launched.result;
      container.#started = start;
      container.adopt(launched, ends);
      if (launched.result !== undefined) engine.store?.put(`${id}/result`, launched.result);
      // Without a store nobody could take it up again.
      if (engine.store) container.#record(launched.pid);
      return container;
    });
  }

  /** Takes up what an earlier server left. Takes the fds below its id. */
  static recovered(
    engine: Engine,
    site: ContainerSite,
    record: ContainerRecord,
    spec: Spec,
    left: Readonly<Record<string, number>>,
    known: { status: number; exitedAt: bigint } | undefined,
  ): ContainerProcess {
    const container = new ContainerProcess(engine, site, record, spec, record);
    engine.ids.add(record.id);
    claimParents(engine, record);
    container.pid = record.pid;
    container.ends = StdioEnds.recovered(engine, record.id, record.stdio, left);
    container.pidfd = left[`${record.id}/pidfd`];
    container.#result = left[`${record.id}/result`];
    container.#started = !fs.existsSync(gatePath(engine.stateDir, record.id));
    container.#paused = isFrozen(record.cgroup);
    container.#oom.open();
    const exit = readExit(engine.stateDir, record.id) ?? known;
    if (exit) void container.ended(exit);
    else if (container.pidfd === undefined) void container.ended({ status: LOST, exitedAt: now() });
    else container.watch(false);
    // Started, but the crash came before that was written down: the end of file is there already.
    if (!container.#started && container.#result !== undefined) void container.#awaitExec().catch(() => {});
    return container;
  }

  adoptExec(
    record: ExecRecord,
    left: Readonly<Record<string, number>>,
    known: { status: number; exitedAt: bigint } | undefined,
  ): void {
    this.execs.set(record.id, Exec.recovered(this.engine, this, record, left, known));
  }

  get cgroup(): string {
    return this.#place.cgroup;
  }

  get state(): ProcessState {
    if (this.exit) return "stopped";
    if (!this.#started) return "created";
    return this.#paused ? "paused" : "running";
  }

  leader(): number {
    return leaderOf(this.engine, this.id, this.pidfd);
  }

  /** One byte into the gate; then the exec either succeeds or says why not. */
  async start(): Promise<void> {
    if (this.state !== "created" || this.#starting)
      throw precondition(
        `container "${this.id}": is ${this.#starting ? "starting" : this.state}: cannot start`,
      );
    this.#starting = true;
    try {
      openGate(gatePath(this.engine.stateDir, this.id), this.id);
      await this.#awaitExec();
    } finally {
      this.#starting = false;
    }
  }
  #starting = false;

  async #awaitExec(): Promise<void> {
    const result = this.#result;
    this.#result = undefined;
    if (result !== undefined)
      await this.engine.native.awaitExec({ result }).catch((error: unknown) => this.#failed(error));
    this.#started = true;
    removeFile(gatePath(this.engine.stateDir, this.id));
    this.engine.store?.drop(`${this.id}/result`);
  }

  /** Of a start: a stub that was killed says nothing, its cgroup may. */
  #failed(error: unknown): never {
    if (errnoOf(error) !== "" || this.#oom.kills === 0) throw error;
    throw new IsopodError(
      "RESOURCE_EXHAUSTED",
      `container "${this.id}": killed for want of memory before its program began: memory.max is too low`,
      { path: this.id, cause: error },
    );
  }

  override async kill(signal: number, options: { all?: boolean } = {}): Promise<void> {
    if (!options.all) return super.kill(signal);
    // Also when init has ended: what else runs in the cgroup is meant, and nothing is fine.
    signalAll(this.engine.native, this.engine.target, this.cgroup, signal);
  }

  exec(options: { id: string; process: ProcessSpec; stdio: Stdio; attended?: boolean }): ExecProcess {
    const { id, process, attended = false } = options;
    checkId("exec id", id);
    checkProcess(process);
    if (this.state === "stopped")
      throw precondition(`container "${this.id}": is stopped: nothing can run in it`);
    if (this.execs.has(id))
      throw new IsopodError("ALREADY_EXISTS", `exec "${id}" of "${this.id}": in use`, { path: id });
    const stdio = { ...options.stdio, terminal: process.terminal ?? false };
    const exec = Exec.register(this.engine, this, id, process, stdio, attended);
    this.execs.set(id, exec);
    return exec;
  }

  forget(exec: Exec): void {
    this.execs.delete(exec.id);
  }

  async pause(): Promise<void> {
    if (this.state !== "running")
      throw precondition(`container "${this.id}": is ${this.state}: cannot pause`);
    await this.#freeze(true);
  }

  async resume(): Promise<void> {
    if (this.state !== "paused")
      throw precondition(`container "${this.id}": is ${this.state}: cannot resume`);
    await this.#freeze(false);
  }

  async #freeze(frozen: boolean): Promise<void> {
    await this.engine.native.cgroupFreeze({ path: this.cgroup, frozen, timeoutMs: FREEZE_TIMEOUT_MS });
    this.#paused = frozen;
  }

  async pids(): Promise<readonly { pid: number; execId?: string }[]> {
    const execs = new Map<number, string>();
    for (const exec of this.execs.values()) if (exec.pid !== 0 && !exec.exit) execs.set(exec.pid, exec.id);
    return readPids(this.cgroup).map((pid) => {
      const execId = execs.get(pid);
      return execId === undefined ? { pid } : { pid, execId };
    });
  }

  async stats(): Promise<CgroupStats> {
    return readStats(this.cgroup);
  }

  async oomKills(): Promise<number> {
    return this.#oom.kills;
  }

  onOom(listener: () => void): void {
    this.#oom.listen(listener);
  }

  async update(resources: Resources): Promise<void> {
    if (this.state === "stopped")
      throw precondition(`container "${this.id}": is stopped: nothing is left to limit`);
    // Without a store nobody could take it up again.
    await this.#limits.update(resources, () => {
      if (this.engine.store) this.#record(this.pid, this.#limits.held);
    });
  }

  /**
   * A pid namespace of its own dies with its first process. A shared one does not: what is left in the cgroup
   * is killed, and the execs are waited for, so that each of their ends is known before the container's.
   */
  protected override async beforeExit(): Promise<void> {
    this.#oom.close();
    const own = this.spec.linux?.namespaces?.some(({ type, path }) => type === "pid" && !path);
    if (!own) signalAll(this.engine.native, this.engine.target, this.cgroup, SIGKILL);
    const running = [...this.execs.values()].filter((exec) => exec.pid !== 0 && !exec.exit);
    if (running.length === 0) return;
    await withDeadline(
      Promise.all(running.map((exec) => exec.exited)),
      EXECS_TIMEOUT_MS,
      `waiting for the execs of "${this.id}"`,
    );
  }

  protected override async free(): Promise<void> {
    if (!this.exit) {
      await super.kill(SIGKILL);
      await this.exited;
    }
    for (const exec of [...this.execs.values()]) await exec.delete();
    await removePlace(this.engine, this.#place);
    this.#closeResult();
    releaseParents(this.engine, this.#place);
    this.engine.ids.delete(this.id);
    this.#site.forget(this);
  }

  /** Undo of a launch that succeeded. */
  async #abandon(): Promise<void> {
    await super.kill(SIGKILL).catch(() => {});
    await this.exited;
    await removePlace(this.engine, this.#place);
    this.#closeResult();
    this.engine.store?.drop(`${this.key}/`);
  }

  #closeResult(): void {
    if (this.#result !== undefined) fs.closeSync(this.#result);
    this.#result = undefined;
  }

  #record(pid: number, resources?: Resources): void {
    writeRecord(
      this.engine.stateDir,
      this.id,
      versioned({
        kind: "container" as const,
        id: this.id,
        pid,
        createdAt: this.#createdAt,
        ...(this.#site.sandbox !== undefined && { sandbox: this.#site.sandbox }),
        bundle: this.bundle,
        cgroup: this.cgroup,
        ...(this.#place.unit !== undefined && { unit: this.#place.unit }),
        ...(resources && { resources }),
        stdio: this.stdio,
        extra: this.extra,
      }),
    );
  }
}

/** ENXIO: nobody holds the other end any more. */
function openGate(gate: string, id: string): void {
  try {
    const fd = fs.openSync(gate, fs.constants.O_WRONLY | fs.constants.O_NONBLOCK);
    try {
      fs.writeSync(fd, "\n");
    } finally {
      fs.closeSync(fd);
    }
  } catch (error) {
    if (errnoOf(error) !== "ENXIO" && errnoOf(error) !== "ENOENT") throw error;
    throw precondition(`container "${id}": its process is gone`);
  }
}
