import type { CgroupWrite, HostFeatures } from "../native";

/** What plans for this guest are compiled for, as it says of itself. */
export interface Guest extends HostFeatures {
  readonly oomScoreAdj: number;
  readonly version: string;
  /** Where the files of `configure` are, in the guest. */
  readonly filesDir: string;
}

/** A guest's plan names what the agent hands to its stub by these numbers (OPEN.fd). */
export const GUEST_FD = {
  /** Of a container: the empty mount namespace that it begins in (R8). */
  base: 0,
  /** Of an exec: a pidfd of the container's first process, which names its namespaces. */
  leader: 0,
  stdin: 1,
  stdout: 2,
  stderr: 3,
  /** Of a container: a byte from here starts it. */
  gate: 4,
  /** Of a container: a pidfd of the first that `join` lists; the others follow. */
  joined: 5,
} as const;

/** Host ports that the agent connects to; absent: /dev/null. A terminal has `stdout` only, both ways. */
export interface GuestStdio {
  readonly stdin?: number;
  readonly stdout?: number;
  readonly stderr?: number;
  readonly terminal?: boolean;
}

export interface GuestContainerOptions {
  readonly id: string;
  /** As PlanWriter.finish returns it, its opens the guest's own. */
  readonly plan: Uint8Array;
  /** Below the guest's cgroup root, with a leading slash. */
  readonly cgroup: string;
  readonly cgroupWrites?: readonly CgroupWrite[];
  readonly deviceProgram?: Uint8Array;
  readonly stdio?: GuestStdio;
  /** Containers whose namespaces the plan enters: GUEST_FD.joined and on. */
  readonly join?: readonly string[];
}

export interface GuestExecOptions {
  readonly id: string;
  readonly execId: string;
  readonly plan: Uint8Array;
  readonly stdio?: GuestStdio;
}

/** A container's first process, or with `execId` an exec. */
export interface GuestProcessId {
  readonly id: string;
  readonly execId?: string;
}

export interface GuestExit {
  /** Exit code, or 128 + signal. */
  readonly status: number;
  /** Nanoseconds since 1970 by the guest's clock; 0: never started. */
  readonly exitedAt: bigint;
  /** Processes of the container killed for want of memory until then. */
  readonly oomKills: bigint;
}

export interface GuestMountOptions {
  /** `virtiofs` (source: tag), `block` (source: serial), or a filesystem of the kernel's. */
  readonly type: string;
  readonly source: string;
  /** Made if missing. */
  readonly target?: string;
  readonly options?: readonly string[];
  /** What is on the block device; absent: it is only looked up. */
  readonly filesystem?: string;
  /** How long to wait for a disk that has not come yet. */
  readonly timeoutMs?: number;
}

export interface GuestDevice {
  /** In the guest, e.g. /dev/vda; "" unless it is a block device. */
  readonly path: string;
  readonly major: number;
  readonly minor: number;
}

/** Interfaces are named by their link-layer address (aa:bb:cc:dd:ee:ff). */
export interface GuestNetwork {
  readonly interfaces?: readonly {
    readonly mac: string;
    /** Given to it; absent: it keeps its own. */
    readonly name?: string;
    readonly mtu?: number;
    /** 10.0.0.2/24, fd00::2/64 */
    readonly addresses?: readonly string[];
  }[];
  readonly routes?: readonly {
    readonly mac: string;
    /** 10.0.0.0/8; 0.0.0.0/0 and ::/0 are the default routes. */
    readonly destination: string;
    readonly gateway?: string;
    readonly source?: string;
    /** rtnetlink's number: 0 universe, 200 site, 253 link, 254 host. */
    readonly scope?: number;
    readonly onlink?: boolean;
    readonly metric?: number;
    readonly mtu?: number;
  }[];
  readonly neighbors?: readonly {
    readonly mac: string;
    readonly address: string;
    readonly linkAddress: string;
  }[];
}
