import { randomBytes } from "node:crypto";
import { IsopodError, invalid, messageOf } from "../base/errors";
import type { TaskExec } from "../task";
import { type Container, type Context, containerDir, containerState } from "./context";
import { killTree } from "./process-tree";
import { requireState } from "./state";
import { capture } from "./stdio";
import type { ExecResult } from "./types";

/** The cap that CRI sets on each stream of an ExecSync; what exceeds it is dropped, which is no error. */
const OUTPUT_LIMIT = 16 << 20;
/** After the exit a background child may still hold the pipe. */
const DRAIN_MS = 500;
const SIGKILL = 9;
const KILL_WAIT_MS = 10_000;

/**
 * ExecSync: a command with the container's user, environment, directory and confinement. After
 * `timeoutSeconds` (0: never) it is killed with all that it started, and the call is DEADLINE_EXCEEDED.
 */
export async function execSync(
  context: Context,
  prefix: string,
  command: readonly string[],
  timeoutSeconds: number,
): Promise<ExecResult> {
  if (command.length === 0 || command[0] === "") throw invalid("cmd", command, "required");
  const container = context.containers.get(prefix);
  const { id, podId, user, spec } = container.record;
  requireState("exec", id, containerState(container));
  const { task } = container;
  if (task === undefined)
    throw new IsopodError("UNAVAILABLE", `executing in container ${id}: its shim was lost`);
  const execId = randomBytes(16).toString("hex");
  const output = capture(containerDir(context, podId, id), `exec-${execId}`, user, OUTPUT_LIMIT);
  let exec: TaskExec | undefined;
  try {
    const process = { ...spec.process, args: command, terminal: false };
    exec = await task.exec({ id: execId, process, stdio: output.stdio });
    const pid = await exec.start();
    const exit = await endOf(context, container, exec, pid, timeoutSeconds);
    const { stdout, stderr } = await output.finish(DRAIN_MS);
    return { stdout, stderr, exitCode: exit };
  } finally {
    // Nobody need wait for that: the process is gone and its output is here.
    exec?.delete().catch((error: unknown) => {
      context.log.debug("deleting an exec", { container: id, error: messageOf(error) });
    });
    output.close();
  }
}

async function endOf(
  context: Context,
  container: Container,
  exec: TaskExec,
  pid: number,
  timeoutSeconds: number,
): Promise<number> {
  if (timeoutSeconds <= 0) return (await exec.exited).status;
  const exit = await within(exec.exited, timeoutSeconds * 1000);
  if (exit !== undefined) return exit.status;
  const { id } = container.record;
  await killTree(pid, id);
  await exec.kill(SIGKILL).catch((error: unknown) => {
    context.log.debug("killing an exec", { container: id, error: messageOf(error) });
  });
  await within(exec.exited, KILL_WAIT_MS);
  const text = `executing in container ${id}: command timed out after ${timeoutSeconds} s`;
  throw new IsopodError("DEADLINE_EXCEEDED", text, { path: id });
}

function within<T>(work: Promise<T>, ms: number): Promise<T | undefined> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve(undefined), ms);
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
