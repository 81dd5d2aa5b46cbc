import * as path from "node:path";
import type { Log } from "../base/log";
import type { Images } from "../image";
import type { Network } from "../network";
import type { CgroupDriver } from "../oci/cgroups-path";
import type { Seccomp, Spec } from "../oci/runtime-spec";
import type { Handler, SandboxTask, Shims, Task } from "../task";
import type { Apparmor } from "./apparmor";
import type { Lock } from "./lock";
import type { Index, Names } from "./names";
import type { ContainerRecord, PodRecord } from "./records";
import { isReady, stateOf } from "./state";
import type { Output } from "./stdio";
import type { Store } from "./store";
import type { ContainerConfig, ContainerState } from "./types";

/** What every use case works with. */
export interface Context {
  readonly log: Log;
  readonly images: Images;
  readonly network: Network;
  readonly shims: Shims;
  readonly store: Store;
  readonly handlers: ReadonlyMap<string, Handler>;
  readonly defaultHandler: string;
  readonly cgroupDriver: CgroupDriver;
  readonly cgroupParentDefault: string;
  readonly defaultSeccomp: (capabilities: readonly string[]) => Seccomp;
  readonly apparmor: Apparmor;
  /** On tmpfs: what does not outlive a boot. */
  readonly stateDir: string;
  readonly pods: Index<Pod>;
  readonly containers: Index<Container>;
  readonly podNames: Names<PodRequest>;
  readonly containerNames: Names<ContainerConfig>;
  /** Set when the daemon lets go: from then on ends of tasks say nothing about containers. */
  closed: boolean;
}

export interface PodRequest {
  readonly configBytes: Uint8Array;
  readonly handler: string;
}

export interface Pod {
  record: PodRecord;
  /** Absent once its shim is gone. */
  sandbox: SandboxTask | undefined;
  readonly lock: Lock;
  readonly containers: Map<string, Container>;
  /** From the first StopPodSandbox on: nothing new begins in the pod. */
  stopRequested: boolean;
  /** This daemon has seen all of StopPodSandbox done: nothing is owed any more. */
  stopped?: boolean;
  stopping: Promise<void> | undefined;
  removing: Promise<void> | undefined;
  cpuSample: CpuSample | undefined;
}

export interface Container {
  record: ContainerRecord;
  readonly pod: Pod;
  /** Absent once deleted at the shim. */
  task: Task | undefined;
  output: Output | undefined;
  /** The whole spec while this daemon made it; the record's lacks the seccomp rules. */
  spec: Spec;
  /** The shim no longer answers for it. */
  lost: boolean;
  /** Settles, never rejects, when the container has ended and its end is on record. */
  ended: Promise<void>;
  starting: Promise<void> | undefined;
  /** Why the first process could not be executed. */
  startError: string | undefined;
  stop: Stop | undefined;
  removing: Promise<void> | undefined;
  /** Held by what changes the record in several steps: an update of limits, the end. */
  readonly lock: Lock;
  cpuSample: CpuSample | undefined;
}

/** A StopContainer in progress; further calls can only bring its deadline nearer. */
export interface Stop {
  /** Moves the SIGKILL to `deadline` (ms since 1970) if that is earlier. */
  hasten(deadline: number): void;
  readonly done: Promise<void>;
}

export interface CpuSample {
  readonly at: bigint;
  readonly usage: bigint;
  readonly nanoCores: bigint | undefined;
}

export const podIsReady = (pod: Pod): boolean => isReady(pod.record, pod.sandbox !== undefined);
export const containerState = ({ record, lost }: Container): ContainerState => stateOf(record, lost);

export const podDir = (context: Context, podId: string): string => path.join(context.stateDir, "pods", podId);
export const containerDir = (context: Context, podId: string, id: string): string =>
  path.join(podDir(context, podId), id);
/** Tells a later daemon how to find the sandbox's shim. */
export const sandboxFile = (context: Context, podId: string): string =>
  path.join(podDir(context, podId), "sandbox.json");
/** Holds the time of a container's start. */
export const startedFile = (context: Context, podId: string, id: string): string =>
  path.join(containerDir(context, podId, id), "started");
