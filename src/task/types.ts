import type { Mount } from "../oci/mount";

/**
 * The client side of ShimV2: how the daemon finds, starts and drives shims, ours and others' alike.
 * One `start` per sandbox (R3); for our own shim the containers of a pod go over the same connection.
 */
export interface Shims {
  /**
   * Starts (or finds) the shim of a new sandbox and creates it there: bundle directory, log FIFO, `start`,
   * connect, CreateSandbox, StartSandbox. Undone on failure, `delete` included.
   */
  createSandbox(options: CreateSandboxOptions): Promise<SandboxTask>;
  /** After a daemon restart: connect to the recorded address, else run `start` again; NOT_FOUND if it is gone. */
  reconnect(record: SandboxTaskRecord): Promise<SandboxTask>;
  /**
   * Removes what a `createSandbox` that a crash of the daemon cut off has left: the sandbox in its shim, the
   * bundle. Only id and handler are known. Nothing there is fine.
   */
  discard(options: { id: string; handler: Handler }): Promise<void>;
  /** Frees connections; shims and pods live on. */
  close(): Promise<void>;
}

export interface Handler {
  readonly name: string;
  /** e.g. `io.containerd.isopod.v2`. */
  readonly runtimeType: string;
  /** Absolute path of the binary; absent: searched by its runtime type beside us and in PATH. */
  readonly path?: string | undefined;
  /** The handler's `options` table as TOML text, handed over as runtimeoptions.v1.Options. */
  readonly options?: string | undefined;
}

export interface CreateSandboxOptions {
  readonly id: string;
  readonly handler: Handler;
  /** Bytes of runtime.v1.PodSandboxConfig exactly as received (R9). */
  readonly config: Uint8Array;
  /** "" for the host's network. */
  readonly netns: string;
  /** Where the sandbox's cgroup goes if `config` does not say: as its cgroup_parent would. */
  readonly cgroupParent: string;
}

/** What must be known to find a sandbox's shim again; persisted by the daemon before the pod is announced. */
export interface SandboxTaskRecord {
  readonly id: string;
  readonly handler: Handler;
  readonly address: string;
  readonly version: number;
  readonly bundle: string;
  readonly pid: number;
  /** Nanoseconds since 1970. */
  readonly createdAt: bigint;
}

export interface Exit {
  /** Exit code or 128 + signal. */
  readonly status: number;
  /** Nanoseconds since 1970. */
  readonly exitedAt: bigint;
}

export interface SandboxTask {
  readonly record: SandboxTaskRecord;
  /** Resolves when the sandbox ended or its shim is lost for good; survives a server's crash (R3). */
  readonly exited: Promise<Exit>;
  /** `ready` or not, from the shim's own State. */
  ready(): Promise<boolean>;
  create(options: CreateTaskOptions): Promise<Task>;
  /** A container of this sandbox that an earlier daemon created; NOT_FOUND if the shim does not know it. */
  adopt(id: string): Promise<Task>;
  /** Of the whole pod; undefined if the shim has no answer. */
  stats(): Promise<TaskStats | undefined>;
  stop(timeoutMs: number): Promise<void>;
  /** Shutdown and removal of the bundle; idempotent. */
  remove(): Promise<void>;
}

/** FIFO paths; "" is none. The daemon makes them and holds their reading ends before Create. */
export interface TaskStdio {
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: boolean;
}

export interface CreateTaskOptions {
  readonly id: string;
  /** OCI runtime spec, JSON-able. */
  readonly spec: unknown;
  readonly rootfs: readonly Mount[];
  readonly stdio: TaskStdio;
}

export type TaskStatus = "created" | "running" | "stopped" | "paused" | "unknown";

export interface TaskState {
  readonly status: TaskStatus;
  readonly pid: number;
  readonly exit: Exit | undefined;
}

export interface Task {
  readonly id: string;
  readonly pid: number;
  /** Its shim begins requests in their order: what comes behind another needs no answer first. */
  readonly ordered: boolean;
  start(): Promise<void>;
  state(): Promise<TaskState>;
  /** One Wait, shared by all callers, re-armed over reconnections. */
  readonly exited: Promise<Exit>;
  kill(signal: number, all?: boolean): Promise<void>;
  /** Runs a process to its end; stdio FIFOs are the caller's. */
  exec(options: { id: string; process: unknown; stdio: TaskStdio }): Promise<TaskExec>;
  pids(): Promise<readonly number[]>;
  /** Bytes and type of io.containerd.cgroups.v2.Metrics (or v1), decoded. */
  stats(): Promise<TaskStats>;
  /** Changes the limits that are named; OCI `linux.resources`, JSON-able. */
  update(resources: unknown): Promise<void>;
  /** The shim has sent TaskOOM; a hint that may be late or missing, as `stats().oomKills` is not. */
  readonly oomKilled: boolean;
  pause(): Promise<void>;
  resume(): Promise<void>;
  closeStdin(): Promise<void>;
  delete(): Promise<Exit>;
}

export interface TaskExec {
  readonly id: string;
  start(): Promise<number>;
  readonly exited: Promise<Exit>;
  kill(signal: number): Promise<void>;
  resize(size: { rows: number; columns: number }): Promise<void>;
  closeStdin(): Promise<void>;
  delete(): Promise<Exit>;
}

/**
 * Sizes in bytes, times in ns; absent where the cgroup has no such controller or file, a limit also where
 * there is none.
 */
export interface TaskStats {
  readonly cpu: CpuStats;
  readonly memory?: MemoryStats;
  readonly swap?: { readonly usage: bigint; readonly limit?: bigint };
  readonly pids?: { readonly current: bigint; readonly limit?: bigint };
  readonly oomKills?: bigint;
  readonly io?: readonly DeviceStats[];
  readonly ioPressure?: Pressure;
  readonly hugetlb?: readonly {
    readonly pageSize: string;
    readonly usage: bigint;
    readonly limit?: bigint;
  }[];
}

export interface CpuStats {
  readonly usage: bigint;
  readonly user: bigint;
  readonly system: bigint;
  readonly throttling?: { readonly periods: bigint; readonly throttled: bigint; readonly time: bigint };
  readonly pressure?: Pressure;
}

export interface MemoryStats {
  readonly usage: bigint;
  readonly limit?: bigint;
  readonly peak?: bigint;
  readonly anon: bigint;
  readonly file: bigint;
  readonly inactiveFile: bigint;
  readonly fileMapped: bigint;
  /** Stacks and slab. */
  readonly kernel: bigint;
  readonly pageFaults: bigint;
  readonly majorPageFaults: bigint;
  /** How often the limit was hit. */
  readonly limitHits?: bigint;
  readonly pressure?: Pressure;
}

export interface DeviceStats {
  readonly major: number;
  readonly minor: number;
  readonly readBytes: bigint;
  readonly writeBytes: bigint;
  readonly reads: bigint;
  readonly writes: bigint;
}

/** Pressure stall information: averages in per cent of the last 10, 60 and 300 s, the total in ns. */
export interface Pressure {
  readonly some: Stall;
  readonly full?: Stall;
}

export interface Stall {
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
  readonly total: bigint;
}
