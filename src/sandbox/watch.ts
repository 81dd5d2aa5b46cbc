import { IsopodError, messageOf } from "../base/errors";
import { now } from "../base/time";
import type { Exit, Task } from "../task";
import { type Container, type Context, type Pod, podIsReady } from "./context";
import { settle } from "./lock";
import type { ContainerRecord } from "./records";
import { exitReason } from "./state";

/** How long output may trail behind an exit: children outside the pid namespace can hold the FIFO for ever. */
const DRAIN_MS = 250;
const DELETE_RETRIES_MS = [100, 500, 2000];

/** Sees a container to its end. `Wait` was armed before start, so no exit can slip through. */
export function watchContainer(context: Context, container: Container, task: Task): void {
  container.ended = task.exited
    .then(
      (exit) => (context.closed ? undefined : finish(context, container, exit)),
      (error: unknown) => {
        if (context.closed) return;
        container.lost = true;
        context.log.error("container lost", { container: container.record.id, error: messageOf(error) });
      },
    )
    .catch((error: unknown) => {
      context.log.error("recording an exit", { container: container.record.id, error: messageOf(error) });
    });
}

/** The stub's end is the pod's; what is left of it is cleaned by StopPodSandbox. */
export function watchPod(context: Context, pod: Pod): void {
  const ended = () => {
    if (context.closed || !podIsReady(pod)) return;
    context.log.info("sandbox ended", { sandbox: pod.record.id });
    pod.record = { ...pod.record, stoppedAt: now() };
    context.store.putPod(pod.record).catch((error: unknown) => {
      context.log.error("recording the end of a sandbox", {
        sandbox: pod.record.id,
        error: messageOf(error),
      });
    });
  };
  pod.sandbox?.exited.then(ended, ended);
}

/**
 * Order matters: the cgroup knows of OOM kills until Delete, whether or not their event has come by then;
 * kubelet reads the log once it sees EXITED, and the final status is on record before anybody can see it. What
 * does not depend on each other goes on at once: a shim that begins requests in their order gets Delete right
 * behind Stats, and output is drained meanwhile, since its FIFOs are ours as well.
 */
export async function finish(context: Context, container: Container, exit: Exit): Promise<void> {
  await container.starting?.catch(() => {});
  const drained = container.output?.drain(DRAIN_MS) ?? Promise.resolve();
  const oomKills = exit.status === 0 ? Promise.resolve(0n) : oomKillsOf(container);
  await container.lock.run(async () => {
    if (!container.task?.ordered) await oomKills;
    const final = oomKills.then((kills) => ({ ...container.record, ...outcome(container, exit, kills) }));
    try {
      await settle([
        deleteTask(context, container),
        final.then((record) => context.store.putContainer(record)),
        drained,
      ]);
      await container.output?.close();
      container.output = undefined;
    } finally {
      // A full disk must not keep a dead container RUNNING.
      container.record = await final;
    }
  });
}

function outcome(container: Container, exit: Exit, oomKills: bigint): Partial<ContainerRecord> {
  const finishedAt = exit.exitedAt > 0n ? exit.exitedAt : now();
  if (container.startError !== undefined)
    return { finishedAt, exitCode: 128, reason: "StartError", message: container.startError };
  return { finishedAt, exitCode: exit.status, reason: exitReason(exit.status, oomKills) };
}

/** 255 and `Unknown`: it ended while nobody could see how. */
export async function concludeUnknown(
  context: Context,
  container: Container,
  message: string,
): Promise<void> {
  const final = { finishedAt: now(), exitCode: 255, reason: "Unknown", message };
  container.record = { ...container.record, ...final };
  await context.store.putContainer(container.record);
}

/** Asked, since the exit may be known before the event; the event counts where the answer fails. */
async function oomKillsOf({ task }: Container): Promise<bigint> {
  const told = task?.oomKilled ? 1n : 0n;
  try {
    return (await task?.stats())?.oomKills || told;
  } catch {
    return told;
  }
}

/** A shim that cannot delete now is asked again; in the end RemoveContainer asks once more. */
export async function deleteTask(context: Context, container: Container): Promise<void> {
  const { task } = container;
  if (task === undefined) return;
  for (const wait of [...DELETE_RETRIES_MS, undefined]) {
    try {
      await task.delete();
      container.task = undefined;
      return;
    } catch (error) {
      if (IsopodError.is(error) && error.code === "NOT_FOUND") {
        container.task = undefined;
        return;
      }
      context.log.warn("deleting a task", { container: container.record.id, error: messageOf(error) });
      if (wait !== undefined) await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}
