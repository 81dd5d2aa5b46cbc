import { notFound } from "../base/errors";
import type { Runtime, Sandbox } from "../runtime";
import type { ShimLog } from "./log";
import type { Task, TaskHost } from "./task";

/** What the services of one server share. */
export interface ShimContext extends TaskHost {
  readonly runtime: Runtime;
  readonly log: ShimLog;
  /** Explicit sandboxes by id; implicit ones hang on their task. */
  readonly sandboxes: Map<string, Sandbox>;
  /** Ids whose Create is under way. */
  readonly reserved: Set<string>;
  /** Something ended: is there anything left to serve? */
  settled(asked?: "shutdown"): void;
}

export function findTask(context: ShimContext, id: string): Task {
  const task = context.tasks.get(id);
  if (task === undefined) throw notFound("task", id);
  return task;
}

export function findSandbox(context: ShimContext, id: string): Sandbox {
  const sandbox = context.sandboxes.get(id);
  if (sandbox === undefined) throw notFound("sandbox", id);
  return sandbox;
}
