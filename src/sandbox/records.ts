import type { Spec } from "../oci/runtime-spec";
import type { ContainerConfig, PodConfig } from "./types";

/**
 * What the daemon remembers of pods and containers: identity, immutable, beside a few facts that are set
 * once. What is live (pid, status, resource use) is asked of the shim, never stored. A record is replaced
 * as a whole, so whoever holds one holds a consistent one. Times are ns since 1970, 0n is "not yet".
 */
export interface PodRecord {
  /** Format; a later daemon reads older ones. */
  readonly version: 1;
  readonly id: string;
  readonly config: PodConfig;
  /** runtime.v1.PodSandboxConfig as received (R9). */
  readonly configBytes: Uint8Array;
  readonly handler: string;
  readonly createdAt: bigint;
  /** Pin of the pod's network namespace; "" for the host's. */
  readonly netns: string;
  /** Present as long as a DEL is owed: written before ADD, `result` after it. */
  readonly network?: NetworkRecord | undefined;
  readonly stoppedAt: bigint;
}

export interface NetworkRecord {
  readonly config: unknown;
  readonly result?: unknown;
  readonly ips: readonly string[];
}

export interface ContainerRecord {
  readonly version: 1;
  readonly id: string;
  readonly podId: string;
  readonly config: ContainerConfig;
  readonly imageId: string;
  /** A repo digest if the image has one, else its id. */
  readonly imageRef: string;
  readonly createdAt: bigint;
  readonly startedAt: bigint;
  readonly finishedAt: bigint;
  readonly exitCode: number;
  /** Completed, Error, OOMKilled, StartError or Unknown once it has ended. */
  readonly reason: string;
  readonly message: string;
  /** Absolute; "" if output is discarded. */
  readonly logPath: string;
  readonly user: {
    readonly uid: number;
    readonly gid: number;
    readonly supplementalGroups: readonly number[];
  };
  readonly stopSignal: string;
  /** Without `linux.seccomp`: 20 KiB that only the shim needs, which has its own copy. */
  readonly spec: Spec;
  /** The limits of `config` are on their way to the shim. */
  readonly updating?: boolean | undefined;
}
