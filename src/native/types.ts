/**
 * THE SEAM: every call that crosses from TypeScript into the C++ addon, and nothing else. Policy stays on
 * this side; the addon performs. One options object each; fds cross as numbers, documented *taken* (the
 * addon closes it, also on failure) or *borrowed* (the caller keeps it). Nothing here blocks Node's thread
 * on a clone, a mount or a volume: calls that may wait return a promise and run on threads of the addon's.
 * What stubs say and how processes end is heard on Node's own loop. Failures reject with an IsopodError
 * {step, errno, path}.
 */

/** What the running kernel offers; forced down by ISOPOD_FEATURES=5.15. */
export interface HostFeatures {
  readonly kernel: string;
  readonly arch: "x86_64" | "aarch64";
  /** The cgroup2 mount, e.g. /sys/fs/cgroup or /sys/fs/cgroup/unified; "" if there is none. */
  readonly cgroupRoot: string;
  /** Controllers that cgroup2 offers at its root. */
  readonly controllers: readonly string[];
  /** Feature name → present. Names: overlayLowerdirAppend (6.5), cgroupKill (5.14). */
  readonly features: Readonly<Record<string, boolean>>;
  readonly effectiveCapabilities: bigint;
  readonly apparmor: boolean;
  readonly selinux: boolean;
}

/** What a property of a systemd unit is set to; of the shape that its D-Bus signature says. */
export type UnitValue = string | boolean | number | bigint | Uint8Array | readonly UnitValue[];

export interface UnitProperty {
  /** As org.freedesktop.systemd1(5) spells it, e.g. `MemoryMax`. */
  readonly name: string;
  /** One complete D-Bus type of `ybnqiuxtsog`, arrays, structures and dictionaries; `ay` takes bytes. */
  readonly signature: string;
  readonly value: UnitValue;
}

export interface UnitOptions {
  /** With its ending, e.g. `isopod-1.scope`. */
  readonly name: string;
  readonly properties: readonly UnitProperty[];
  readonly timeoutMs: number;
}

export interface LaunchOptions {
  /** A plan as `PlanWriter.finish` returns it; copied before the call returns. */
  readonly plan: Uint8Array;
  /** Borrowed. `OPEN.fd` names them by index. */
  readonly fds?: readonly number[];
  /**
   * cgroup2 directory the first process starts in: made if missing (its parent must exist), removed again
   * if the launch fails and it was made here. Absent: the caller's own. Not for joining (R4).
   */
  readonly cgroup?: string;
  /**
   * A scope that systemd is to make for the process: `cgroup` is where it will be. The stub waits outside until
   * it has been moved there, limits and device program included. A launch that fails stops the unit again; a
   * unit of that name that lives is an error (ALREADY_EXISTS) and left alone.
   */
  readonly unit?: UnitOptions;
  /** Limits of that cgroup, written in order before anything runs in it; undone if the launch fails. */
  readonly cgroupWrites?: readonly CgroupWrite[];
  /** eBPF device program for that cgroup, cached by its bytes. */
  readonly deviceProgram?: Uint8Array;
  /** `ready`: resolve when the stub waits at its gate (or pauses); `exec`: when the final exec succeeded. */
  readonly until: "ready" | "exec";
  /** Borrowed: fd of another init image. Only for tests with the fault build. */
  readonly initImage?: number;
}

/** One write(2) to a file of a cgroup. */
export interface CgroupWrite {
  /** Name within the directory, without "/". */
  readonly file: string;
  readonly value: string;
  /** A file with one line for each key: only this one's line is meant (`8:0 rbps=1` → `8:0`). */
  readonly key?: string;
  /** What undoes the first setting of a key, as the file then has no line for it; with `key`. */
  readonly unset?: string;
  /** Where there is no such file: skip it, instead of failing with ENOENT. */
  readonly optional?: boolean;
  /** Where there is no such file: write this one. */
  readonly instead?: Omit<CgroupWrite, "instead">;
  /** EINVAL now may be none once the others are written: try again after them. */
  readonly retry?: boolean;
}

export interface Launched {
  /** As the caller's pid namespace counts. After a successor op: the successor's. */
  readonly pid: number;
  /** Caller owns. */
  readonly pidfd: number;
  /** Caller owns. Until `ready` only: EOF here means the exec succeeded, a record that it failed. */
  readonly result?: number;
  /** Caller owns: master of the pty, if the plan has a console. */
  readonly pty?: number;
}

export interface ExitStatus {
  /** Exit code, or 128 + signal. */
  readonly status: number;
  /** Nanoseconds since 1970. */
  readonly exitedAt: bigint;
}

export interface SpawnOptions {
  /** Absolute path. */
  readonly file: string;
  /** What follows the program's name, which is `file`. */
  readonly args: readonly string[];
  /** The whole environment, NAME=VALUE. */
  readonly env: readonly string[];
  readonly cwd?: string;
  readonly stdin?: Uint8Array;
  /** Borrowed: child's fd number → fd, besides 0, 1, 2. */
  readonly fds?: Readonly<Record<number, number>>;
  /** SIGKILL to the process group after this many ms; required: everything we run can hang (R10). */
  readonly timeoutMs: number;
  /** Bytes kept of each of stdout and stderr; default 1 MiB, the rest is drained and dropped. */
  readonly maxOutput?: number;
}

export interface Spawned {
  /** Exit code, or 128 + signal. */
  readonly status: number;
  readonly timedOut: boolean;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

/** One archive entry, ready to be applied below a root; see native/core/unpack.h. */
export interface UnpackEntry {
  readonly type: "file" | "directory" | "symlink" | "hardlink" | "char" | "block" | "fifo";
  /**
   * Relative, as in the archive; resolved beneath the root, `..` and symlinks never leave it. One character
   * per byte (latin1), as `link` is: file names are bytes.
   */
  readonly path: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Nanoseconds since 1970. */
  readonly mtime: bigint;
  /** Target of a symlink or hardlink. */
  readonly link?: string;
  readonly major?: number;
  readonly minor?: number;
  readonly xattrs?: Readonly<Record<string, Buffer>>;
  /** Content of a file that is given whole. Larger files follow in `writes`. */
  readonly data?: Uint8Array;
}

/** What a guest takes over from the interface that CNI made. */
export interface PodLink {
  /** Caller owns: a tap with 12-byte virtio-net headers, non-blocking. Gone when it is closed. */
  readonly tap: number;
  /** "02:42:…" */
  readonly mac: string;
  readonly mtu: number;
  /** "10.88.0.5/16", IPv6 link-local ones left out. */
  readonly addresses: readonly string[];
  /** In the kernel's order; those that it makes of addresses by itself are left out. */
  readonly routes: readonly {
    readonly destination: string;
    readonly gateway?: string;
    readonly source?: string;
    /** 0: the kernel's default. */
    readonly metric: number;
    /** RT_SCOPE_*: 0 universe, 253 link. */
    readonly scope: number;
    readonly onlink: boolean;
  }[];
  /** Static ones. */
  readonly neighbours: readonly { readonly address: string; readonly mac: string }[];
}

/** How a virtual machine came to its end. */
export interface VmEnd {
  /**
   * `stopped` by us; `poweroff` and `reset` by the guest (with panic=-1 a kernel panic is a reset);
   * `shutdown`: a triple fault; `error`: KVM could not go on.
   */
  readonly reason: "stopped" | "poweroff" | "reset" | "shutdown" | "halted" | "error";
  /** Exit and registers of a `shutdown` or `error`, else "". */
  readonly detail: string;
  /** The last 64 KiB of the serial port: what the guest chose to say. */
  readonly serial: Buffer;
}

export interface VmOptions {
  /** Bytes: whole pages, at least 64 MiB. */
  readonly memory: number;
  /** 1 to 64. */
  readonly vcpus: number;
  /** Borrowed: a boot image that `vmImage` made. */
  readonly kernel: number;
  /** Borrowed: an initramfs, mapped as it is; it must not change while the machine lives. */
  readonly initrd?: number;
  /** At most 2047 bytes. */
  readonly commandLine: string;
  /** Taken: a non-blocking pipe that gets the serial port's output; what it does not take is dropped. */
  readonly console?: number;
  /** Borrowed; absent: /dev/kvm is opened. */
  readonly kvm?: number;
}

export interface Native {
  /** Probed once, then cached. */
  features(): HostFeatures;

  // --- processes ---------------------------------------------------------------------------------
  launch(options: LaunchOptions): Promise<Launched>;
  /** Takes `result`. Resolves when the exec succeeded, rejects with the stub's error. */
  awaitExec(options: { result: number }): Promise<void>;
  /**
   * Waits for the process behind `pidfd` (borrowed, until it resolves). With `record`, the exit is written
   * there as `{"status":N,"exitedAt":"ns"}` (tmp + rename) *before* the reap (R2). `child: false` for a
   * process that is not ours to reap: then only its end is seen, and `record`, written by the monitor, is
   * read back (status 255 if there is none within a second).
   */
  awaitExit(options: { pid: number; pidfd: number; record?: string; child?: boolean }): Promise<ExitStatus>;
  /** False if the process is gone. */
  signal(options: { pidfd: number; signal: number }): boolean;
  /** Caller owns the returned fd; undefined if there is no such process. */
  pidfdOpen(options: { pid: number }): number | undefined;
  /** Runs a program to its end. R11: never a fork of Node. */
  spawn(options: SpawnOptions): Promise<Spawned>;
  /** Another fd (caller owns) of the same open file: a terminal's master cannot be opened twice. */
  duplicate(options: { fd: number }): number;
  resizePty(options: { pty: number; rows: number; columns: number }): void;

  // --- cgroup v2 ---------------------------------------------------------------------------------
  /** cgroup.kill (else kill each), wait until empty, rmdir the whole tree; an absent one is fine. */
  cgroupDestroy(options: { path: string; timeoutMs: number }): Promise<void>;
  /** cgroup.freeze, then waits for `frozen` in cgroup.events. */
  cgroupFreeze(options: { path: string; frozen: boolean; timeoutMs: number }): Promise<void>;

  /**
   * Writes in order, all or nothing: if one fails, what had been written is put back. Resolves with what puts
   * the former values back. Rejects with step `limit`, the file as path, and the value in the text.
   */
  cgroupWrite(options: { path: string; writes: readonly CgroupWrite[] }): Promise<readonly CgroupWrite[]>;

  // --- namespaces --------------------------------------------------------------------------------
  /** fd (caller owns) of a mount namespace that holds nothing but one empty tmpfs with /root (R8). */
  baseNamespace(): Promise<number>;
  /** A new network namespace with `lo` up, pinned at `path`; its directory is made shared (R7). */
  netnsCreate(options: { path: string }): Promise<void>;
  /** Unpins; an absent one is fine. */
  netnsDelete(options: { path: string }): Promise<void>;
  /** Redirects Ethernet interface `link` of the namespace at `netns` to a new tap, and back. */
  tapAttach(options: { netns: string; link: string }): Promise<PodLink>;
  /** Gives the interface back to its namespace; what is absent is fine. */
  tapDetach(options: { netns: string; link: string }): Promise<void>;

  // --- stdio, pty, logs (R12) --------------------------------------------------------------------
  /** mkfifo + chown; an existing FIFO of any owner is an error. */
  makeFifo(options: { path: string; mode: number; uid?: number; gid?: number }): void;
  /** A CRI log file: O_APPEND|O_CREAT, 0640. Returns a handle; write errors are counted, never block. */
  logOpen(options: { path: string }): number;
  /** Opens `path` anew and switches all writers of the handle at a line's end. */
  logReopen(options: { log: number; path: string }): void;
  /** Flushes what is pending and frees the handle once its pumps have ended. */
  logClose(options: { log: number }): void;
  /**
   * Takes `fd`. Splits what comes into CRI log lines until EOF or `pumpStop`. FIFOs of running containers
   * never end by themselves, since the container holds both ends: `pumpStop` drains, then ends.
   */
  pumpLog(options: { fd: number; log: number; stream: "stdout" | "stderr" }): number;
  /** Takes both: bytes from `from` to `to` until EOF (then `to` is closed) or `pumpStop`. */
  pumpCopy(options: { from: number; to: number }): number;
  /** Takes `fd`: keeps up to `limit` bytes, drops the rest. `pumpEnd` resolves with them. */
  pumpCollect(options: { fd: number; limit: number }): number;
  /** Resolves when the pump ended: the bytes of a collect, else an empty buffer. */
  pumpEnd(options: { pump: number }): Promise<Buffer>;
  /** Reads what is there without waiting, passes it on, ends the pump. Unknown pumps are fine. */
  pumpStop(options: { pump: number }): void;

  // --- files -------------------------------------------------------------------------------------
  /** rm -rf beneath `path` with openat2, never following a link or crossing a mount. Absent is fine. */
  removeTree(options: { path: string }): Promise<void>;
  /** Bytes (512-byte blocks) and inodes beneath `path`, on its filesystem only. */
  diskUsage(options: { path: string }): Promise<{ bytes: bigint; inodes: bigint }>;
  mount(options: { type: string; source: string; target: string; options: readonly string[] }): Promise<void>;
  /** MNT_DETACH, every mount at or below `path`; not mounted is fine. */
  unmount(options: { path: string }): Promise<void>;
  /**
   * Applies entries in order below `root` (a snapshot's fs directory). Whiteouts become overlay whiteouts.
   * Whatever would leave the root is refused. One call at a time per handle.
   */
  unpackOpen(options: { root: string }): number;
  /**
   * The lower layers, nearest first, once they are complete: whence undeclared directories and hard link
   * targets are taken. Needed before `unpackClose`.
   */
  unpackParents(options: { unpack: number; parents: readonly string[] }): void;
  /**
   * Resolves with the number of entries applied: fewer than given if the next one asks about the layers
   * below and these are not known yet; it is given again then.
   */
  unpackEntries(options: { unpack: number; entries: readonly UnpackEntry[] }): Promise<number>;
  /** Further content of the last file entry. */
  unpackData(options: { unpack: number; data: Uint8Array }): Promise<void>;
  /**
   * Frees the handle. Unless `discard`, first sets directory times.
   * `opaque`: the layer hides all below it; `bytes` in 4 KiB blocks.
   */
  unpackClose(options: { unpack: number; discard?: boolean }): Promise<{
    opaque: boolean;
    bytes: number;
    inodes: number;
  }>;
  /** A regular file of a stack of layers, nearest first, links followed within; undefined if absent. */
  readLayers(options: {
    layers: readonly string[];
    path: string;
    limit: number;
  }): Promise<Buffer | undefined>;
  /** syncfs of the filesystem that holds `path`. */
  syncFilesystem(options: { path: string }): Promise<void>;
  zstdOpen(): number;
  /** Inflates from `input` into `output`; `complete` at the end of a frame. On the caller's thread. */
  zstdInflate(options: { zstd: number; input: Uint8Array; output: Uint8Array }): {
    consumed: number;
    produced: number;
    complete: boolean;
  };
  zstdClose(options: { zstd: number }): void;
  /** flock on `path`, made if missing: an fd (caller owns) that holds it, undefined if somebody else does. */
  lockFile(options: { path: string }): number | undefined;

  // --- virtual machines --------------------------------------------------------------------------
  /** Throws FAILED_PRECONDITION, with the cure, where KVM is absent or lacks what a machine needs. */
  vmProbe(): void;
  /** Lays a vmlinuz or vmlinux out as guest memory in the file `image`, whole or not at all. */
  vmImage(options: { kernel: string; image: string }): Promise<void>;
  /** A machine with a vsock and an entropy device, not yet running. Resolves with its handle. */
  vmCreate(options: VmOptions): Promise<number>;
  /** Borrowed: a file or block device. The guest finds it by `serial`, at most 20 bytes. Before the start. */
  vmAddDisk(options: { vm: number; file: number; serial: string; readOnly?: boolean }): Promise<void>;
  /** Borrowed: a tap (IFF_TAP, IFF_NO_PI, IFF_VNET_HDR). Before the start. */
  vmAddNetwork(options: { vm: number; tap: number; mac: string; mtu: number }): Promise<void>;
  /** Taken: the SEQPACKET socket of a file-system server. Before the start. */
  vmAddShare(options: { vm: number; tag: string; server: number }): Promise<void>;
  /** Runs it. Once. */
  vmStart(options: { vm: number }): Promise<void>;
  /** Resolves at the machine's end, also when asked afterwards; keeps Node's loop alive until then. */
  vmWait(options: { vm: number }): Promise<VmEnd>;
  /** Ends the guest; does not wait. Again, or later: nothing. Before the start: then it ends as it starts. */
  vmStop(options: { vm: number }): void;
  /** The last output of the serial port so far. */
  vmSerial(options: { vm: number }): Buffer;
  /**
   * A stream to a port of the guest (caller owns the fd of a socket). Rejects with errno ECONNREFUSED where
   * nobody listens, ENOTCONN before the guest has its driver, and UNAVAILABLE once the machine is over.
   */
  vmConnect(options: { vm: number; port: number }): Promise<number>;
  /** The guest may connect to `port` of the host from here on. */
  vmListen(options: { vm: number; port: number }): void;
  /** The next stream to a port that is listened at (caller owns); rejects at the machine's end. */
  vmAccept(options: { vm: number; port: number }): Promise<number>;
  /** Streams not yet accepted are closed. Fine when the machine is over. */
  vmUnlisten(options: { vm: number; port: number }): void;
  /** Ends the guest if need be, frees all that the machine had, and the handle. Again is fine. */
  vmClose(options: { vm: number }): Promise<void>;

  // --- the monitor and systemd -------------------------------------------------------------------
  /**
   * Speaks to the monitor over its SEQPACKET socket (taken), see native/monitor/protocol.h. The returned
   * inventory is what an earlier server left: fds by name (caller owns) and exits.
   */
  storeOpen(options: { fd: number }): Promise<{
    fds: Readonly<Record<string, number>>;
    exits: readonly { id: string; status: number; exitedAt: bigint }[];
  }>;
  /** `fd` is borrowed; names as R2 has them: `<id>/pidfd|pty|stdin|out|err|result`. */
  storePut(options: { name: string; fd: number }): void;
  /** Drops a name, or with a trailing `/` all names below it. */
  storeDrop(options: { name: string }): void;
  /** `id` runs as `pid`: should it fall to the monitor, that writes its exit to `record`. */
  storeTask(options: { id: string; pid: number; record: string }): void;
  /** SetUnitProperties until the unit's end. */
  unitSet(options: UnitOptions): Promise<void>;
  /** StopUnit, waits for its job, then ResetFailedUnit; a unit that is not there is fine. */
  unitStop(options: { name: string; timeoutMs: number }): Promise<void>;
  /** A text property of a unit, or without `name` of systemd itself, e.g. `Version` of `….systemd1.Manager`. */
  unitRead(options: {
    name?: string;
    interface: string;
    property: string;
    timeoutMs: number;
  }): Promise<string>;
  /** sd_notify; false without NOTIFY_SOCKET. */
  notify(options: { state: string }): boolean;
}
