import * as fs from "node:fs";
import { removeFlatDirectory } from "../base/files";
import { type Context, type Pod, podDir } from "./context";
import { settle } from "./lock";
import { podName } from "./names";
import { removeKnownContainer } from "./remove-container";
import { stopKnownPod } from "./stop-pod";

/** RemovePodSandbox: stops what still runs, then frees everything, the name last. Unknown is fine. */
export async function removePod(context: Context, prefix: string): Promise<void> {
  const pod = context.pods.find(prefix);
  if (pod === undefined) return;
  pod.removing ??= remove(context, pod).finally(() => {
    pod.removing = undefined;
  });
  await pod.removing;
}

async function remove(context: Context, pod: Pod): Promise<void> {
  await stopKnownPod(context, pod);
  await settle([...pod.containers.values()].map((container) => removeKnownContainer(context, container)));
  const { id, config } = pod.record;
  // What the shim cannot free now is retried with the whole removal: the pod stays known until then.
  if (pod.sandbox !== undefined) await pod.sandbox.remove();
  pod.sandbox = undefined;
  const handler = context.handlers.get(pod.record.handler);
  if (handler !== undefined) await context.shims.discard({ id, handler });
  const dir = podDir(context, id);
  if (!removeFlatDirectory(dir)) fs.rmSync(dir, { recursive: true, force: true });
  await context.store.deletePod(id);
  context.pods.delete(id);
  context.podNames.release(podName(config.metadata), id);
}
