import { precondition } from "../base/errors";
import type { ContainerRecord, PodRecord } from "./records";
import type { ContainerState } from "./types";

/**
 * States are derived, never stored: from the record's timestamps and from whether there is a shim that
 * answers for the object.
 *
 *   pod         READY ──── stopped, or its sandbox ended ────▶ NOTREADY ──── removed ────▶ gone
 *
 *               │ startedAt │ finishedAt │ shim lost │
 *   CREATED     │     0     │     0      │    no     │ start ▶ RUNNING or (StartError) EXITED; kill ▶ EXITED
 *   RUNNING     │    set    │     0      │    no     │ exit, stop ▶ EXITED; shim lost ▶ UNKNOWN
 *   UNKNOWN     │    any    │     0      │    yes    │ stop, remove ▶ EXITED (255)
 *   EXITED      │    any    │    set     │    any    │ remove ▶ gone
 */
export function isReady(record: PodRecord, hasSandbox: boolean): boolean {
  return record.stoppedAt === 0n && hasSandbox;
}

export function stateOf(record: ContainerRecord, lost: boolean): ContainerState {
  if (record.finishedAt !== 0n) return "exited";
  if (lost) return "unknown";
  return record.startedAt === 0n ? "created" : "running";
}

/** What each use case asks of a container; stopping and removing work from every state. */
const REQUIRED = { start: "created", exec: "running", reopenLog: "running" } as const;
const DOING = { start: "starting", exec: "executing in", reopenLog: "reopening the log of" } as const;

export function requireState(use: keyof typeof REQUIRED, id: string, state: ContainerState): void {
  if (state !== REQUIRED[use])
    throw precondition(
      `${DOING[use]} container ${id}: it is in CONTAINER_${state.toUpperCase()} state, ` +
        `not CONTAINER_${REQUIRED[use].toUpperCase()}`,
    );
}

/** `Completed` and its kin, as kubelet shows them. */
export function exitReason(status: number, oomKills: bigint): string {
  if (status === 0) return "Completed";
  return oomKills > 0n ? "OOMKilled" : "Error";
}
