import { invalid } from "../base/errors";
import { type Context, containerState } from "./context";
import { requireState } from "./state";
import { prepareLog } from "./stdio";

/** ReopenContainerLog: kubelet has renamed the file; the writers go on in a new one, no line lost or doubled. */
export async function reopenLog(context: Context, prefix: string): Promise<void> {
  const container = context.containers.get(prefix);
  const { id, logPath } = container.record;
  requireState("reopenLog", id, containerState(container));
  if (logPath === "") throw invalid("log_path", logPath, "the container has no log");
  prepareLog(logPath);
  container.output?.reopen(logPath);
}
