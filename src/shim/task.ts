import { IsopodError, messageOf, precondition } from "../base/errors";
import type { Log } from "../base/log";
import type { ExitStatus } from "../native";
import type { Process as ProcessSpec } from "../oci/runtime-spec";
import type { Container, Process, Sandbox, Stdio } from "../runtime";
import { timestampOf } from "../ttrpc";
import type { EventQueue } from "./events";

/**
 * A container as the Task service means it: its init, its execs, and their events in the order that
 * containerd relies on:
 *
 *   create < start < exit < delete          exec-added < exec-started < exit
 *   every exec's exit < init's exit         oom < exit
 *
 * A process may end before its start has been answered: its exit waits until the start is published.
 */

/** One process with what the wire needs beyond the runtime's view. */
export class TrackedProcess {
  readonly process: Process;
  #starting: Promise<void> | undefined;
  readonly #startFailed: Promise<undefined>;
  #fail: () => void = () => {};

  constructor(process: Process) {
    this.process = process;
    this.#startFailed = new Promise((resolve) => {
      this.#fail = () => resolve(undefined);
    });
  }

  /** Whoever published the start has done so when this resolves. */
  get started(): Promise<void> {
    return this.#starting ?? Promise.resolve();
  }

  async start(published: () => void): Promise<void> {
    if (this.#starting !== undefined) throw precondition(`starting "${this.process.id}": started before`);
    let done = (): void => {};
    this.#starting = new Promise((resolve) => {
      done = resolve;
    });
    try {
      await this.process.start();
      published();
    } catch (error) {
      this.#starting = undefined; // an exec stays created and may be started again
      this.#fail();
      throw error;
    } finally {
      done();
    }
  }

  /** The exit; undefined for an exec whose start failed, and which so will never end. */
  wait(): Promise<ExitStatus | undefined> {
    return this.process.exit ? Promise.resolve(this.process.exit) : this.#end();
  }

  #end(): Promise<ExitStatus | undefined> {
    return Promise.race([this.process.exited, this.#startFailed]);
  }
}

/** What a task needs of its server. */
export interface TaskHost {
  readonly events: EventQueue;
  readonly log: Log;
  /** By id; a task that is deleted takes itself out. */
  readonly tasks: Map<string, Task>;
}

export class Task {
  readonly container: Container;
  readonly sandbox: Sandbox;
  readonly init: TrackedProcess;
  readonly #host: TaskHost;
  readonly #execs = new Map<string, TrackedProcess & { published?: Promise<void> }>();
  readonly #exitPublished: Promise<void>;
  #deleting: Promise<ExitStatus> | undefined;

  constructor(host: TaskHost, sandbox: Sandbox, container: Container) {
    this.#host = host;
    this.sandbox = sandbox;
    this.container = container;
    this.init = new TrackedProcess(container);
    for (const exec of container.execs.values()) this.#track(exec);
    // The runtime takes its last look before it tells of the end: each kill is published before the exit.
    container.onOom(() => this.#publish("oom", "TaskOOM", { containerId: container.id }));
    this.#exitPublished = this.#watchInit();
  }

  get id(): string {
    return this.container.id;
  }

  /** "" is the init. */
  process(execId: string): TrackedProcess {
    if (execId === "") return this.init;
    const exec = this.#execs.get(execId);
    if (exec === undefined) {
      throw new IsopodError("NOT_FOUND", `exec "${execId}" of task "${this.id}": not found`, {
        path: execId,
      });
    }
    return exec;
  }

  async start(execId: string): Promise<number> {
    const tracked = this.process(execId);
    if (execId !== "" && this.container.exit) {
      throw precondition(`starting exec "${execId}": task "${this.id}" has ended`);
    }
    await tracked.start(() => {
      const { pid } = tracked.process;
      if (execId === "") this.#publish("start", "TaskStart", { containerId: this.id, pid });
      else this.#publish("exec-started", "TaskExecStarted", { containerId: this.id, execId, pid });
    });
    return tracked.process.pid;
  }

  /** Resolves when it is on record. */
  async exec(options: { id: string; process: ProcessSpec; stdio: Stdio }): Promise<void> {
    if (this.container.exit) throw precondition(`exec "${options.id}": task "${this.id}" has ended`);
    if (this.#execs.has(options.id)) {
      throw new IsopodError("ALREADY_EXISTS", `exec "${options.id}" of task "${this.id}": exists`);
    }
    const exec = this.container.exec(options);
    this.#track(exec);
    this.#publish("exec-added", "TaskExecAdded", { containerId: this.id, execId: options.id });
    try {
      await exec.registered;
    } catch (error) {
      await this.#deleteExec(options.id);
      throw error;
    }
  }

  /** Goes on to its end whatever becomes of the caller; a repeated request joins it. */
  delete(execId: string): Promise<ExitStatus> {
    if (execId !== "") return this.#deleteExec(execId);
    this.#deleting ??= this.#delete().catch((error: unknown) => {
      this.#deleting = undefined;
      throw error;
    });
    return this.#deleting;
  }

  async pause(): Promise<void> {
    await this.container.pause();
    this.#publish("paused", "TaskPaused", { containerId: this.id });
  }

  async resume(): Promise<void> {
    await this.container.resume();
    this.#publish("resumed", "TaskResumed", { containerId: this.id });
  }

  async #delete(): Promise<ExitStatus> {
    const { pid } = this.container;
    const exit = await this.container.delete();
    // An implicit sandbox ends with its one container.
    if (this.sandbox.pid === 0) await this.sandbox.destroy();
    this.#host.tasks.delete(this.id);
    if (this.container.exit) await this.#exitPublished;
    this.#publish("delete", "TaskDelete", {
      containerId: this.id,
      id: this.id,
      pid,
      exitStatus: exit.status,
      exitedAt: timestampOf(exit.exitedAt || undefined),
    });
    return exit;
  }

  async #deleteExec(execId: string): Promise<ExitStatus> {
    const exit = await this.process(execId).process.delete();
    this.#execs.delete(execId);
    return exit;
  }

  #track(exec: Process): void {
    const tracked: TrackedProcess & { published?: Promise<void> } = new TrackedProcess(exec);
    tracked.published = exec.exited.then(async (exit) => {
      await tracked.started;
      this.#publishExit(exec, exit);
    });
    this.#execs.set(exec.id, tracked);
  }

  async #watchInit(): Promise<void> {
    // The runtime ends the execs that outlive init and waits for them: their exits are known by now.
    const exit = await this.container.exited;
    await this.init.started;
    try {
      const ended = [...this.#execs.values()].filter(({ process }) => process.exit !== undefined);
      await Promise.all(ended.map((exec) => exec.published));
    } catch (error) {
      this.#host.log.warn("ending a task", { task: this.id, error: messageOf(error) });
    }
    this.#publishExit(this.container, exit);
  }

  #publishExit(process: Process, exit: ExitStatus): void {
    this.#publish("exit", "TaskExit", {
      containerId: this.id,
      id: process.id,
      pid: process.pid,
      exitStatus: exit.status,
      exitedAt: timestampOf(exit.exitedAt),
    });
  }

  #publish(topic: string, type: string, event: object): void {
    this.#host.events.publish(`/tasks/${topic}`, type, event);
  }
}
