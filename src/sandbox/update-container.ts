import { IsopodError, messageOf, precondition } from "../base/errors";
import type { Resources } from "../oci/runtime-spec";
import type { Task } from "../task";
import { type Container, type Context, containerState } from "./context";
import type { ContainerRecord } from "./records";
import { limitsOf, mergeResources, updateOf } from "./resources";
import type { ContainerResources } from "./types";

/**
 * UpdateContainerResources, of a container that is created or runs: all or nothing. Its record says what is
 * about to hold before the shim is asked, and is put back if the shim refuses; should we die in between, the
 * next daemon finds the mark and asks again (`finishUpdate`). Updates of a container go one after the other.
 *
 * oom_score_adj is a process's, not a cgroup's, and stays what it was at the start.
 */
export async function updateContainer(
  context: Context,
  prefix: string,
  changes: ContainerResources,
): Promise<void> {
  const container = context.containers.get(prefix);
  await container.lock.run(() => update(context, container, changes));
}

async function update(context: Context, container: Container, changes: ContainerResources): Promise<void> {
  const task = taskOf(container);
  const { config } = container.record;
  const resources = mergeResources(config.resources, changes);
  const asked = updateOf(changes, resources);
  if (Object.keys(asked).length === 0) return;
  const before = { config, spec: container.record.spec };
  const spec = withLimits(container.record.spec, limitsOf(resources));
  await remember(context, container, { config: { ...config, resources }, spec, updating: true });
  try {
    await task.update(asked);
  } catch (error) {
    await remember(context, container, { ...before, updating: undefined });
    throw error;
  }
  container.spec = withLimits(container.spec, limitsOf(resources));
  await remember(context, container, { updating: undefined });
}

/** For recovery: what a daemon had begun, the record says how it was to end. */
export async function finishUpdate(context: Context, container: Container, task: Task): Promise<void> {
  if (!container.record.updating) return;
  const { id, config } = container.record;
  try {
    await task.update(limitsOf(config.resources));
  } catch (error) {
    context.log.warn("finishing an update of limits", { container: id, error: messageOf(error) });
  }
  await remember(context, container, { updating: undefined });
}

function taskOf(container: Container): Task {
  const { id } = container.record;
  const state = containerState(container);
  if (state === "unknown" || (state !== "exited" && container.task === undefined))
    throw new IsopodError("UNAVAILABLE", `updating container ${id}: its shim was lost`, { path: id });
  if (container.removing !== undefined) throw precondition(`updating container ${id}: it is being removed`);
  if (container.task === undefined || state === "exited")
    throw precondition(`updating container ${id}: it is in CONTAINER_EXITED state`);
  return container.task;
}

/** In memory first: whoever writes the record next writes this with it. */
async function remember(
  context: Context,
  container: Container,
  changes: Partial<ContainerRecord>,
): Promise<void> {
  container.record = { ...container.record, ...changes };
  await context.store.putContainer(container.record);
}

function withLimits(spec: Container["spec"], limits: Resources): Container["spec"] {
  const devices = spec.linux?.resources?.devices;
  return { ...spec, linux: { ...spec.linux, resources: { ...(devices && { devices }), ...limits } } };
}
