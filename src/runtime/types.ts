import type { ExitStatus } from "../native";
import type { Mount } from "../oci/mount";
import type { Process as ProcessSpec, Resources, Spec } from "../oci/runtime-spec";

/**
 * One Runtime interface, two implementations (containers here, microVMs later), one suite that runs on both.
 * A sandbox holds what the containers of a pod share; a container is a process tree in it.
 */
export interface Runtime {
  /** Makes the sandbox's namespaces, files and (unless implicit) its stub. Undone on failure. */
  sandbox(options: SandboxOptions): Promise<Sandbox>;
  /**
   * Takes up what an earlier server left in the state directory: records, with the fds the monitor kept.
   * Running processes are watched again, exits that were recorded meanwhile are known.
   */
  recover(left: LeftBehind): Promise<readonly Sandbox[]>;
}

export interface RuntimeOptions {
  /** Records `<id>.json` and `<id>.exit` of this runtime, on tmpfs; made if missing (0700). */
  readonly stateDir: string;
  /** Keeps fds across a crash of this process; the library passes none. */
  readonly store?: FdStore;
  /** Containers die with this process (PDEATHSIG): the library's way. */
  readonly dieWithParent?: boolean;
  /** cgroup2 mount; probed if absent. */
  readonly cgroupRoot?: string;
  readonly warn?: (message: string, fields?: Record<string, unknown>) => void;
}

/** What the monitor offers (R2). Names: `<id>/pidfd|pty|stdin|out|err|result`. */
export interface FdStore {
  put(name: string, fd: number): void;
  drop(name: string): void;
  task(id: string, pid: number, record: string): void;
}

export interface LeftBehind {
  readonly fds: Readonly<Record<string, number>>;
  readonly exits: readonly { id: string; status: number; exitedAt: bigint }[];
}

export interface SandboxOptions {
  readonly id: string;
  /** Task Create without a sandbox: no stub, no pod files; it ends with its one container. */
  readonly implicit?: boolean;
  /** Host path of the pod's network namespace; absent: the host's. */
  readonly netns?: string | undefined;
  readonly hostname?: string | undefined;
  /** `host` or the pod's own. `pid: "pod"` shares the stub's pid namespace. */
  readonly ipc?: "pod" | "host";
  readonly pid?: "pod" | "container" | "host";
  readonly uts?: "pod" | "host";
  readonly sysctls?: Readonly<Record<string, string>>;
  /** cgroup2 path of the sandbox's stub, relative to the cgroup root, e.g. `/kubepods/podX/<id>`. */
  readonly cgroupsPath?: string | undefined;
  /** The cgroup above that one is the pod's own: it is what `stats` reads. */
  readonly podCgroup?: boolean;
  /** Contents of hostname, hosts, resolv.conf (`oci/podfiles.ts`); absent ones are not made. */
  readonly files?: Readonly<Partial<Record<"hostname" | "hosts" | "resolv.conf", string>>>;
  /** Size of /dev/shm in bytes; absent: no own shm (host ipc). */
  readonly shmSize?: number | undefined;
  /** Stored in the record and handed back by recover: whatever the caller needs to know again. */
  readonly extra?: Readonly<Record<string, unknown>>;
}

export interface Sandbox {
  readonly id: string;
  /** Host pid whose /proc/<pid>/ns/* are the sandbox's; 0 for an implicit one. */
  readonly pid: number;
  readonly createdAt: bigint;
  readonly extra: Readonly<Record<string, unknown>>;
  readonly containers: ReadonlyMap<string, Container>;
  create(options: ContainerOptions): Promise<Container>;
  /** Resolves when the stub (or the implicit sandbox's container) ended. */
  readonly exited: Promise<ExitStatus>;
  /** What `exited` resolved with, once it did. */
  readonly exit: ExitStatus | undefined;
  stats(): Promise<CgroupStats>;
  /** Kills all containers, then the stub; idempotent. */
  stop(): Promise<void>;
  /** Stops and frees everything, records included; idempotent. */
  destroy(): Promise<void>;
}

export interface ContainerOptions {
  readonly id: string;
  readonly bundle: string;
  readonly spec: Spec;
  /** Mounts that make the root filesystem; empty: spec.root.path is ready to use. */
  readonly rootfs: readonly Mount[];
  readonly stdio: Stdio;
  readonly extra?: Readonly<Record<string, unknown>>;
  /** Runs at once: its program executes as soon as all is built, and there is no `start`. */
  readonly start?: boolean;
  /** The caller holds reading ends of its output FIFOs from before it is made: none are spared for them. */
  readonly attended?: boolean;
}

/** Paths of FIFOs (or `file://` for output); "" or absent is /dev/null. With a terminal, stderr is unused. */
export interface Stdio {
  readonly stdin?: string;
  readonly stdout?: string;
  readonly stderr?: string;
  readonly terminal?: boolean;
}

export type ProcessState = "created" | "running" | "paused" | "stopped";

/** An init process or an exec. */
export interface Process {
  /** Container id, or exec id. */
  readonly id: string;
  /** Host pid; 0 for an exec that was not started. */
  readonly pid: number;
  readonly state: ProcessState;
  readonly stdio: Stdio;
  /** Rejects with the stub's error. */
  start(): Promise<void>;
  /** FAILED_PRECONDITION before start of an exec, NOT_FOUND after the end. */
  kill(signal: number, options?: { all?: boolean }): Promise<void>;
  resize(size: { rows: number; columns: number }): void;
  closeStdin(): void;
  /** Resolves at the end, whether or not output is still open. Any number of callers. */
  readonly exited: Promise<ExitStatus>;
  readonly exit: ExitStatus | undefined;
  /** Frees all of it. FAILED_PRECONDITION while running. Returns the exit (status 0, time 0 if never started). */
  delete(): Promise<ExitStatus>;
}

export interface ExecProcess extends Process {
  /** Resolves when it is on record; one that is started at once, when its start is. */
  readonly registered: Promise<void>;
}

export interface Container extends Process {
  readonly bundle: string;
  readonly execs: ReadonlyMap<string, Process>;
  readonly extra: Readonly<Record<string, unknown>>;
  /** Registers an exec; it runs at its `start`. ALREADY_EXISTS on reuse of the id. */
  exec(options: { id: string; process: ProcessSpec; stdio: Stdio; attended?: boolean }): ExecProcess;
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Host pids in the container's cgroup; `execId` where known. */
  pids(): Promise<readonly { pid: number; execId?: string }[]>;
  stats(): Promise<CgroupStats>;
  /** Since the container began; read before the cgroup goes (OOMKilled). */
  oomKills(): Promise<number>;
  /** Called after each OOM kill in the container, whichever process it was; never after `exited`. */
  onOom(listener: () => void): void;
  /**
   * Changes the limits that are named, in a created, running or paused container: all of them or none.
   * Rejects with FAILED_PRECONDITION when stopped, when a controller is missing, or when `memory.limit` is
   * below what is in use and `memory.checkBeforeUpdate` asks to look.
   */
  update(resources: Resources): Promise<void>;
}

/**
 * Reading of a cgroup v2; what a controller is missing for is absent. Times µs, sizes bytes; a limit that is
 * absent is none (`max`).
 */
export interface CgroupStats {
  readonly cpu: {
    readonly usageUsec: bigint;
    readonly userUsec: bigint;
    readonly systemUsec: bigint;
    /** Only with the cpu controller: enforcement periods, and how often and how long it held tasks back. */
    readonly throttling?: {
      readonly periods: bigint;
      readonly throttled: bigint;
      readonly throttledUsec: bigint;
      readonly bursts: bigint;
      readonly burstUsec: bigint;
    };
    readonly pressure?: Pressure;
  };
  readonly memory?: {
    readonly usage: bigint;
    readonly limit?: bigint;
    /** Linux 5.19. */
    readonly peak?: bigint;
    /** Keys of memory.stat. */
    readonly stat: Readonly<Record<string, bigint>>;
    /** Absent where the kernel accounts no swap. `peak` since Linux 6.5. */
    readonly swap?: { readonly usage: bigint; readonly limit?: bigint; readonly peak?: bigint };
    readonly pressure?: Pressure;
  };
  /** Keys of memory.events: low, high, max, oom, oom_kill, oom_group_kill. */
  readonly memoryEvents?: Readonly<Record<string, bigint>>;
  /** `refused`: forks that the limit prevented. `peak` since Linux 6.1. */
  readonly pids?: {
    readonly current: bigint;
    readonly limit?: bigint;
    readonly peak?: bigint;
    readonly refused: bigint;
  };
  readonly io?: readonly {
    readonly major: number;
    readonly minor: number;
    readonly rbytes: bigint;
    readonly wbytes: bigint;
    readonly rios: bigint;
    readonly wios: bigint;
    readonly dbytes: bigint;
    readonly dios: bigint;
  }[];
  readonly ioPressure?: Pressure;
  /** One for each page size that the host has; `failures`: allocations that the limit prevented. */
  readonly hugetlb?: readonly {
    /** As in `hugepageLimits`: 2MB, 1GB. */
    readonly pageSize: string;
    readonly usage: bigint;
    readonly limit?: bigint;
    readonly failures: bigint;
  }[];
  readonly rdma?: readonly {
    readonly device: string;
    readonly hcaHandles: bigint;
    readonly hcaObjects: bigint;
    readonly handleLimit?: bigint;
    readonly objectLimit?: bigint;
  }[];
}

/** Pressure stall information (Documentation/accounting/psi.rst); `full` is absent for cpu on some kernels. */
export interface Pressure {
  readonly some: Stall;
  readonly full?: Stall;
}

export interface Stall {
  /** Per cent of the last 10, 60 and 300 seconds. */
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
  /** µs altogether. */
  readonly total: bigint;
}
