import { IsopodError, notFound } from "../base/errors";
import { now } from "../base/time";
import type { containerd } from "../gen/shim";
import { type Implementation, timestampOf } from "../ttrpc";
import { findSandbox, type ShimContext } from "./context";
import { sandboxOptions } from "./pod-config";
import { metricsOf } from "./stats";

type CreateRequest = containerd.runtime.sandbox.v1.CreateSandboxRequest;
/** Field 1 of every request. */
interface Named {
  readonly sandboxId: string;
}

/** GOARCH names, as containerd's platforms have them. */
const ARCHITECTURE: Readonly<Record<string, string>> = { x64: "amd64", arm64: "arm64" };
const empty = {};

/**
 * containerd.runtime.sandbox.v1.Sandbox: a pod without a pause container. It sends no events of its own; on
 * this route the driver publishes them.
 */
export function sandboxService(context: ShimContext): Implementation {
  return {
    CreateSandbox: (request: CreateRequest) => create(context, request),
    // The stub has been running since CreateSandbox: what is left is to say where.
    StartSandbox: ({ sandboxId }: Named) => {
      const { pid, createdAt } = findSandbox(context, sandboxId);
      return { pid, createdAt: timestampOf(createdAt) };
    },
    Platform: ({ sandboxId }: Named) => {
      findSandbox(context, sandboxId);
      return { platform: { os: "linux", architecture: ARCHITECTURE[process.arch] ?? process.arch } };
    },
    StopSandbox: async ({ sandboxId }: Named) => {
      await findSandbox(context, sandboxId).stop();
      return empty;
    },
    WaitSandbox: async ({ sandboxId }: Named) => {
      const { status, exitedAt } = await findSandbox(context, sandboxId).exited;
      return { exitStatus: status, exitedAt: timestampOf(exitedAt) };
    },
    SandboxStatus: ({ sandboxId, verbose }: Named & { verbose: boolean }) =>
      status(context, sandboxId, verbose),
    PingSandbox: ({ sandboxId }: Named) => {
      findSandbox(context, sandboxId);
      return empty;
    },
    ShutdownSandbox: async ({ sandboxId }: Named) => {
      await shutdown(context, sandboxId);
      return empty;
    },
    SandboxMetrics: async ({ sandboxId }: Named) => {
      const data = metricsOf(await findSandbox(context, sandboxId).stats());
      return { metrics: { timestamp: timestampOf(now()), id: sandboxId, data } };
    },
  };
}

async function create(context: ShimContext, request: CreateRequest): Promise<object> {
  const { sandboxId: id } = request;
  if (context.sandboxes.has(id) || context.reserved.has(id)) {
    throw new IsopodError("ALREADY_EXISTS", `sandbox "${id}": exists`, { path: id });
  }
  context.reserved.add(id);
  context.log.offer(request.bundlePath);
  try {
    context.sandboxes.set(id, await context.runtime.sandbox(sandboxOptions(request)));
  } finally {
    context.reserved.delete(id);
    context.settled();
  }
  return empty;
}

function status(context: ShimContext, id: string, verbose: boolean): object {
  const sandbox = context.sandboxes.get(id);
  if (sandbox === undefined) throw notFound("sandbox", id);
  const { pid, createdAt, exit } = sandbox;
  return {
    sandboxId: id,
    pid,
    state: exit ? "SANDBOX_NOTREADY" : "SANDBOX_READY",
    info: verbose ? { info: JSON.stringify({ pid, containers: [...sandbox.containers.keys()] }) } : {},
    createdAt: timestampOf(createdAt),
    exitedAt: timestampOf(exit?.exitedAt),
  };
}

/** Idempotent: what is not known is shut down. Ends the sandbox's containers too, and maybe the server. */
async function shutdown(context: ShimContext, id: string): Promise<void> {
  const sandbox = context.sandboxes.get(id);
  if (sandbox !== undefined) {
    const members = [...sandbox.containers.keys()];
    await sandbox.destroy();
    context.sandboxes.delete(id);
    for (const member of members) context.tasks.delete(member);
  }
  context.settled("shutdown");
}
