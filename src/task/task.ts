import { IsopodError } from "../base/errors";
import { now } from "../base/time";
import type { containerd } from "../gen/shim";
import { nanosecondsOf } from "../ttrpc";
import { isLost, type Link } from "./link";
import { decodeStats } from "./metrics";
import type { Exit, Task, TaskExec, TaskState, TaskStatus, TaskStdio } from "./types";

type Api = typeof containerd.task.v2;

const SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1";
const PROCESS_TYPE = `${SPEC_TYPE}/Process`;
const RESOURCES_TYPE = `${SPEC_TYPE}/LinuxResources`;
const STATUSES: readonly TaskStatus[] = ["unknown", "created", "running", "stopped", "paused", "paused"];
const STATE_MS = 10_000;

/** How a task's process is asked for; `execId` "" is the init process. */
export interface ProcessRef {
  readonly link: Link;
  readonly service: string;
  readonly id: string;
  readonly execId: string;
  /**
   * The server begins the requests of a connection in their order, as our own does: what depends on an
   * answer only for its success may be sent before it comes.
   */
  readonly ordered: boolean;
  /** The last word on a process whose shim no longer knows it: runs `delete`. */
  readonly lost: () => Promise<Exit>;
}

/** What init processes and execs have in common. */
class DrivenProcess {
  readonly ref: ProcessRef;
  readonly exited: Promise<Exit>;
  #settle!: (exit: Exit) => void;
  #exit: Exit | undefined;

  constructor(ref: ProcessRef) {
    this.ref = ref;
    this.exited = new Promise((resolve) => {
      this.#settle = (exit) => {
        this.#exit ??= exit;
        resolve(exit);
      };
    });
  }

  /** Waits for the end, over any number of connections. Events are hints, this is the truth. */
  watch(): void {
    void this.#wait().then(
      (exit) => this.#settle(exit),
      (error: unknown) => {
        // The daemon is stopping: nobody is left to tell.
        if (!isLost(error)) this.#settle({ status: 255, exitedAt: now() });
      },
    );
  }

  async #wait(): Promise<Exit> {
    try {
      for (;;) {
        const answer = await this.repeat<InstanceType<Api["WaitResponse"]>>("Wait");
        const exitedAt = nanosecondsOf(answer.exitedAt);
        // A start that failed leaves Wait with no time: the process may be started again.
        if (exitedAt !== undefined) return { status: answer.exitStatus, exitedAt };
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    } catch (error) {
      if (this.#exit !== undefined) return this.#exit;
      if (IsopodError.is(error) && error.code === "CANCELLED") throw error;
      return await this.ref.lost();
    }
  }

  repeat<T extends object>(method: string, more: object = {}, timeoutMs?: number): Promise<T> {
    const { link, service, id, execId } = this.ref;
    return link.repeat<T>(
      service,
      method,
      { id, ...(execId !== "" && { execId }), ...more },
      { timeoutMs: timeoutMs ?? 0 },
    );
  }

  async startProcess(): Promise<number> {
    const { link, service, id, execId } = this.ref;
    try {
      return (await link.once<InstanceType<Api["StartResponse"]>>(service, "Start", { id, execId })).pid;
    } catch (error) {
      // The connection ended under way: did it start?
      if (!isLost(error)) throw error;
      const { status, pid } = await this.state();
      if (status === "created" || status === "unknown") throw error;
      return pid;
    }
  }

  async state(): Promise<TaskState> {
    const answer = await this.repeat<InstanceType<Api["StateResponse"]>>("State", {}, STATE_MS);
    const exitedAt = nanosecondsOf(answer.exitedAt);
    return {
      status: STATUSES[answer.status] ?? "unknown",
      pid: answer.pid,
      exit: exitedAt === undefined ? undefined : { status: answer.exitStatus, exitedAt },
    };
  }

  async kill(signal: number, all = false): Promise<void> {
    await this.repeat("Kill", { signal, all });
  }

  async closeStdin(): Promise<void> {
    await this.repeat("CloseIO", { stdin: true });
  }

  /** A delete that was performed although its answer was lost shows as NOT_FOUND. */
  async delete(): Promise<Exit> {
    let exit: Exit;
    try {
      const answer = await this.repeat<InstanceType<Api["DeleteResponse"]>>("Delete");
      exit = { status: answer.exitStatus, exitedAt: nanosecondsOf(answer.exitedAt) ?? 0n };
    } catch (error) {
      if (!IsopodError.is(error) || error.code !== "NOT_FOUND") throw error;
      exit = this.#exit ?? { status: 255, exitedAt: now() };
    }
    this.#settle(exit);
    return exit;
  }
}

class DrivenExec extends DrivenProcess implements TaskExec {
  readonly #registered: Promise<unknown>;

  constructor(ref: ProcessRef, registered: Promise<unknown>) {
    super(ref);
    this.#registered = registered;
  }

  get id(): string {
    return this.ref.execId;
  }

  async start(): Promise<number> {
    const started = this.startProcess();
    // Armed beside Start: a process that ends at once costs no further round trip.
    this.watch();
    const [registered, begun] = await Promise.allSettled([this.#registered, started]);
    if (registered.status === "rejected") throw registered.reason;
    if (begun.status === "rejected") throw begun.reason;
    return begun.value;
  }

  async resize({ rows, columns }: { rows: number; columns: number }): Promise<void> {
    await this.repeat("ResizePty", { width: columns, height: rows });
  }
}

/** What the driver has of a task besides its shim. */
export interface KeptOfTask {
  oomKilled(): boolean;
  /** Frees it (bundle, hints) after Delete. */
  remove(): Promise<void>;
}

export class DrivenTask extends DrivenProcess implements Task {
  readonly pid: number;
  readonly #kept: KeptOfTask;

  constructor(ref: ProcessRef, pid: number, kept: KeptOfTask) {
    super(ref);
    this.pid = pid;
    this.#kept = kept;
    this.watch();
  }

  get id(): string {
    return this.ref.id;
  }

  async start(): Promise<void> {
    await this.startProcess();
  }

  async exec(options: { id: string; process: unknown; stdio: TaskStdio }): Promise<TaskExec> {
    const { link, service, id, ordered } = this.ref;
    const registered = link.once(service, "Exec", {
      id,
      execId: options.id,
      ...options.stdio,
      spec: { type_url: PROCESS_TYPE, value: Buffer.from(JSON.stringify(options.process)) },
    });
    const lost = (): Promise<Exit> => Promise.resolve({ status: 137, exitedAt: now() });
    if (ordered)
      registered.catch(() => {}); // start() says it
    else await registered;
    return new DrivenExec({ link, service, id, execId: options.id, ordered, lost }, registered);
  }

  async pids(): Promise<readonly number[]> {
    const answer = await this.repeat<InstanceType<Api["PidsResponse"]>>("Pids");
    return answer.processes.map((process) => process.pid ?? 0);
  }

  async stats() {
    const { stats } = await this.repeat<InstanceType<Api["StatsResponse"]>>("Stats");
    return decodeStats(stats?.type_url ?? "", stats?.value ?? new Uint8Array());
  }

  /** Without a deadline: given up on, it might still be performed, and nobody would know what holds. */
  async update(resources: unknown): Promise<void> {
    const value = Buffer.from(JSON.stringify(resources));
    await this.repeat("Update", { resources: { type_url: RESOURCES_TYPE, value } });
  }

  get ordered(): boolean {
    return this.ref.ordered;
  }

  get oomKilled(): boolean {
    return this.#kept.oomKilled();
  }

  async pause(): Promise<void> {
    await this.repeat("Pause");
  }

  async resume(): Promise<void> {
    await this.repeat("Resume");
  }

  override async delete(): Promise<Exit> {
    const exit = await super.delete();
    await this.#kept.remove();
    return exit;
  }
}
