import { messageOf } from "../base/errors";
import { now } from "../base/time";
import type { Context, Pod } from "./context";
import { settle } from "./lock";
import { podNetwork } from "./pod-network";
import { reconnect } from "./sandbox-file";
import { endContainer } from "./stop-container";

const SANDBOX_STOP_MS = 10_000;

/**
 * StopPodSandbox: containers are killed at once, then the sandbox goes and its network is given back.
 * Idempotent, and an unknown pod is a stopped one. Calls that come meanwhile join; after a failure the next
 * one does what is still owed.
 */
export async function stopPod(context: Context, prefix: string): Promise<void> {
  const pod = context.pods.find(prefix);
  if (pod !== undefined) await stopKnownPod(context, pod);
}

export function stopKnownPod(context: Context, pod: Pod): Promise<void> {
  pod.stopRequested = true;
  if (pod.stopped) return Promise.resolve();
  pod.stopping ??= pod.lock
    .run(() => tearDown(context, pod))
    .finally(() => {
      pod.stopping = undefined;
    });
  return pod.stopping;
}

async function tearDown(context: Context, pod: Pod): Promise<void> {
  await settle([...pod.containers.values()].map((container) => endContainer(context, container)));
  await settle([stopSandbox(context, pod), detach(context, pod)]);
  // Only now: DEL works inside the namespace as long as there is one.
  if (pod.record.netns !== "") await context.network.deleteNamespace(pod.record.netns);
  pod.stopped = true;
}

async function stopSandbox(context: Context, pod: Pod): Promise<void> {
  let stored = Promise.resolve();
  if (pod.record.stoppedAt === 0n) {
    // READY ends here, whatever becomes of the rest.
    pod.record = { ...pod.record, stoppedAt: now() };
    stored = context.store.putPod(pod.record);
  }
  await settle([stored, endSandbox(context, pod)]);
}

async function endSandbox(context: Context, pod: Pod): Promise<void> {
  // A shim that did not answer when we started may do so now.
  pod.sandbox ??= await reconnect(context, pod.record.id);
  await pod.sandbox?.stop(SANDBOX_STOP_MS);
}

/**
 * DEL, with an empty netns if the pin is gone. Its failure fails the stop, so that kubelet tries again:
 * the address would be lost otherwise. That it is done reaches the disk before we say so: after a power
 * failure a second DEL could take the address from whoever has it by then. If ADD never finished, DEL is
 * tried once: what made the one fail, such as a malformed conflist, lies in the record and will never mend.
 */
async function detach(context: Context, pod: Pod): Promise<void> {
  const { network } = pod.record;
  if (network === undefined) return;
  try {
    await context.network.del(podNetwork(pod.record), network);
  } catch (error) {
    if (network.result !== undefined) throw error;
    context.log.warn("detaching a pod that was never attached", {
      sandbox: pod.record.id,
      error: messageOf(error),
    });
  }
  pod.record = { ...pod.record, network: undefined };
  await context.store.putPod(pod.record);
  await context.store.flushed();
}
