import * as fs from "node:fs";
import { messageOf, precondition } from "../base/errors";
import { withDeadline } from "../base/scope";
import { now } from "../base/time";
import { type Container, type Context, containerState, podIsReady, startedFile } from "./context";
import { requireState } from "./state";

const END_MS = 5000;

/** StartContainer: opens the gate. A process that cannot be executed leaves the container EXITED, StartError. */
export async function startContainer(context: Context, prefix: string): Promise<void> {
  const container = context.containers.get(prefix);
  const { id } = container.record;
  requireState("start", id, containerState(container));
  if (!podIsReady(container.pod) || container.pod.stopRequested)
    throw precondition(`starting container ${id}: sandbox ${container.record.podId} is not ready`);
  if (container.starting !== undefined || container.removing !== undefined || container.stop !== undefined)
    throw precondition(`starting container ${id}: it is being started, stopped or removed already`);
  container.starting = start(context, container);
  try {
    await container.starting;
  } catch (error) {
    // Its end follows at once; whoever hears of the failure finds the container EXITED.
    await withDeadline(container.ended, END_MS, "ending a failed start").catch(() => {});
    throw error;
  } finally {
    container.starting = undefined;
  }
}

async function start(context: Context, container: Container): Promise<void> {
  const { task } = container;
  if (task === undefined) throw precondition(`starting container ${container.record.id}: its shim was lost`);
  // Taken before: a short process has ended when the answer comes, and no container ends before it starts.
  const startedAt = now();
  try {
    await task.start();
  } catch (error) {
    // The exit that follows is recorded as this failure, whatever its status says (watch.ts).
    container.startError = messageOf(error);
    await task.kill(9, true).catch(() => {});
    throw error;
  }
  container.record = { ...container.record, startedAt };
  rememberStart(context, container);
}

/** Of use to a daemon of this boot only; the record on disk gets it with the end. */
function rememberStart(context: Context, { record }: Container): void {
  try {
    fs.writeFileSync(startedFile(context, record.podId, record.id), record.startedAt.toString());
  } catch (error) {
    context.log.warn("recording a start", { container: record.id, error: messageOf(error) });
  }
}
