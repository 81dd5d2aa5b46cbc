import { IsopodError, messageOf } from "../base/errors";
import { type Container, type Context, containerState, type Stop } from "./context";
import { signalNumber } from "./signals";
import { concludeUnknown } from "./watch";

const SIGKILL = 9;
/** A process in uninterruptible sleep takes SIGKILL when it wakes; after that, somebody has to look. */
const KILL_RETRIES_MS = [1000, 2000, 4000, 8000, 15_000, 30_000, 60_000];

/**
 * StopContainer: the stop signal once, SIGKILL to all when the time is up, and the end awaited. A container
 * that does not run is stopped. The work goes on if its caller gives up; a later call joins it, sends no
 * second signal, and may only shorten the time.
 */
export async function stopContainer(context: Context, prefix: string, timeoutSeconds: number): Promise<void> {
  const container = context.containers.find(prefix);
  if (container === undefined) return;
  const state = containerState(container);
  if (state === "unknown") return endContainer(context, container);
  if (state !== "running") return;
  const deadline = Date.now() + Math.max(0, timeoutSeconds) * 1000;
  container.stop?.hasten(deadline);
  container.stop ??= beginStop(context, container, deadline);
  await container.stop.done;
}

/** Kills whatever still lives of the container, in any state, and sees its end recorded. */
export async function endContainer(context: Context, container: Container): Promise<void> {
  const state = containerState(container);
  if (state === "exited") return;
  if (container.lost || container.task === undefined) {
    await container.output?.close();
    container.output = undefined;
    return concludeUnknown(context, container, "its shim was lost");
  }
  container.stop?.hasten(Date.now());
  container.stop ??= beginStop(context, container, Date.now());
  await container.stop.done;
}

function beginStop(context: Context, container: Container, deadline: number): Stop {
  const alarm = setAlarm(deadline);
  const work = async () => {
    try {
      if (deadline > Date.now()) await signal(context, container);
      await Promise.race([alarm.rung, container.ended]);
      if (!hasEnded(container)) await killUntilEnded(container);
    } finally {
      alarm.cancel();
      // A stop that failed may be tried anew.
      container.stop = undefined;
    }
  };
  const done = work();
  // Its callers may all be gone.
  done.catch((error: unknown) => {
    context.log.error("stopping a container", { container: container.record.id, error: messageOf(error) });
  });
  return { hasten: alarm.hasten, done };
}

/** Rings at a time (ms since 1970) that can only be moved nearer. */
function setAlarm(at: number): {
  rung: Promise<void>;
  hasten: (earlier: number) => void;
  cancel: () => void;
} {
  let ring = () => {};
  const rung = new Promise<void>((resolve) => {
    ring = resolve;
  });
  let timer = setTimeout(ring, at - Date.now());
  return {
    rung,
    hasten: (earlier) => {
      if (earlier >= at) return;
      at = earlier;
      clearTimeout(timer);
      timer = setTimeout(ring, at - Date.now());
    },
    cancel: () => clearTimeout(timer),
  };
}

const hasEnded = (container: Container): boolean => containerState(container) === "exited";

async function signal(context: Context, container: Container): Promise<void> {
  const { id, stopSignal } = container.record;
  try {
    await container.task?.kill(signalNumber(stopSignal, "stop_signal"));
  } catch (error) {
    // It may have ended by itself; if not, SIGKILL follows.
    context.log.debug("sending the stop signal", { container: id, error: messageOf(error) });
  }
}

async function killUntilEnded(container: Container): Promise<void> {
  for (const wait of KILL_RETRIES_MS) {
    await container.task?.kill(SIGKILL, true).catch(() => {});
    if (await endsWithin(container, wait)) return;
  }
  const { id } = container.record;
  const text = `stopping container ${id}: it has not died of SIGKILL, its processes may wait for a dead disk`;
  throw new IsopodError("DEADLINE_EXCEEDED", text, { path: id });
}

function endsWithin(container: Container, ms: number): Promise<boolean> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(hasEnded(container)), ms);
    void container.ended.then(() => {
      clearTimeout(timer);
      resolve(true);
    });
  });
}
