import * as fs from "node:fs";
import { IsopodError } from "../base/errors";
import { removeFlatDirectory } from "../base/files";
import { type Container, type Context, containerDir } from "./context";
import { settle } from "./lock";
import { containerName } from "./names";
import { endContainer } from "./stop-container";
import { deleteTask } from "./watch";

/** RemoveContainer: killed if it still runs, then everything of it but its log goes. Unknown is fine. */
export async function removeContainer(context: Context, prefix: string): Promise<void> {
  const container = context.containers.find(prefix);
  if (container !== undefined) await removeKnownContainer(context, container);
}

export function removeKnownContainer(context: Context, container: Container): Promise<void> {
  container.removing ??= remove(context, container).finally(() => {
    container.removing = undefined;
  });
  return container.removing;
}

async function remove(context: Context, container: Container): Promise<void> {
  await endContainer(context, container);
  const { id, podId, config } = container.record;
  if (container.task !== undefined && !container.lost) {
    await deleteTask(context, container);
    if (container.task !== undefined)
      throw new IsopodError("UNAVAILABLE", `removing container ${id}: its shim does not delete it`, {
        path: id,
      });
  }
  // Of one that ended unseen, its shim's bundle may still be there.
  const handler = context.handlers.get(container.pod.record.handler);
  if (handler !== undefined) await context.shims.discard({ id, handler });
  await settle([context.images.removeSnapshot(id), context.store.deleteContainer(id)]);
  const dir = containerDir(context, podId, id);
  if (!removeFlatDirectory(dir)) fs.rmSync(dir, { recursive: true, force: true });
  container.pod.containers.delete(id);
  context.containers.delete(id);
  context.containerNames.release(containerName(podId, config.metadata), id);
}
