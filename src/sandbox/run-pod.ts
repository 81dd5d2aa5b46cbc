import * as fs from "node:fs";
import { IsopodError, invalid, messageOf } from "../base/errors";
import { type Scope, undoOnFailure } from "../base/scope";
import { now } from "../base/time";
import type { Handler, SandboxTask } from "../task";
import { type Context, type Pod, podDir, podIsReady } from "./context";
import { Lock, settle } from "./lock";
import { newId, podName } from "./names";
import { podNetwork } from "./pod-network";
import type { PodRecord } from "./records";
import { writeSandboxFile } from "./sandbox-file";
import type { RunPod } from "./types";
import { validatePod } from "./validate";
import { watchPod } from "./watch";

/** Its sandbox does not look at the network namespace, so it need not wait for the plugins. */
const OWN_CONTAINERS = "io.containerd.isopod.v2";

/** RunPodSandbox. On success the pod is READY; on failure nothing is left but what could not be undone. */
export async function runPod(context: Context, request: RunPod): Promise<string> {
  validatePod(request.config, context.cgroupDriver);
  const handler = handlerOf(context, request.handler);
  const id = newId();
  // A copy: what came is a view into the buffer of a whole gRPC message.
  const configBytes = Uint8Array.from(request.configBytes);
  const claim = { configBytes, handler: handler.name };
  return context.podNames.claim(podName(request.config.metadata), id, claim, () =>
    makePod(context, id, { ...request, configBytes }, handler),
  );
}

function handlerOf(context: Context, name: string): Handler {
  const handler = context.handlers.get(name || context.defaultHandler);
  if (handler === undefined)
    throw invalid("runtime_handler", name, `unknown, known are ${[...context.handlers.keys()].join(", ")}`);
  return handler;
}

async function makePod(context: Context, id: string, request: RunPod, handler: Handler): Promise<void> {
  const hostNetwork = request.config.namespaces.network === "node";
  // Asked first: without a network configuration nothing is begun.
  const config = hostNetwork ? undefined : context.network.configuration();
  const pod: Pod = {
    record: {
      version: 1,
      id,
      config: request.config,
      configBytes: request.configBytes,
      handler: handler.name,
      createdAt: now(),
      netns: config === undefined ? "" : context.network.namespacePath(id),
      network: config === undefined ? undefined : { config, ips: [] },
      stoppedAt: 0n,
    },
    sandbox: undefined,
    lock: new Lock(),
    containers: new Map(),
    stopRequested: false,
    stopping: undefined,
    removing: undefined,
    cpuSample: undefined,
  };
  try {
    await undoOnFailure((scope) => build(context, scope, pod, handler));
  } catch (error) {
    await forget(context, pod, error).catch((failed: unknown) => {
      context.log.error("forgetting a failed pod", { sandbox: id, error: messageOf(failed) });
    });
    throw error;
  }
  context.pods.set(id, pod);
  watchPod(context, pod);
}

/**
 * The directory is the mark of a pod in the making: a daemon that finds one without a sandbox file in it
 * undoes the rest. Independent steps run side by side; the record is visible before ADD is called, or a
 * crash would leak the address.
 */
async function build(context: Context, scope: Scope, pod: Pod, handler: Handler): Promise<void> {
  const { id } = pod.record;
  fs.mkdirSync(podDir(context, id), { recursive: true, mode: 0o700 });
  const stored = context.store.putPod(pod.record);
  const { netns } = pod.record;
  if (netns !== "") {
    scope.defer("network namespace", () => context.network.deleteNamespace(netns));
    await settle([context.network.createNamespace(netns), stored]);
  }
  const attaching = attach(context, scope, pod);
  if (handler.runtimeType !== OWN_CONTAINERS) await settle([attaching]);
  const [sandbox] = await settle([startSandbox(context, scope, pod, handler), attaching, stored]);
  writeSandboxFile(context, sandbox.record);
  pod.sandbox = sandbox;
}

async function attach(context: Context, scope: Scope, pod: Pod): Promise<void> {
  const { network } = pod.record;
  if (network === undefined) return;
  // A failed ADD is undone by `add` itself.
  const { result, ips } = await context.network.add(podNetwork(pod.record), network.config);
  scope.defer("network", () => context.network.del(podNetwork(pod.record), { ...network, result }));
  pod.record = { ...pod.record, network: { ...network, result, ips } };
  await context.store.putPod(pod.record);
}

async function startSandbox(
  context: Context,
  scope: Scope,
  pod: Pod,
  handler: Handler,
): Promise<SandboxTask> {
  const { id, configBytes, netns, config } = pod.record;
  const cgroupParent = config.cgroupParent || context.cgroupParentDefault;
  const sandbox = await context.shims.createSandbox({
    id,
    handler,
    config: configBytes,
    netns,
    cgroupParent,
  });
  scope.defer("sandbox", async () => {
    await sandbox.stop(0);
    await sandbox.remove();
  });
  return sandbox;
}

/**
 * After a failed run. If all was undone, so are record and directory; if not, the pod stays, NOTREADY, so
 * that StopPodSandbox and RemovePodSandbox can try again: forgetting it would leak its address for ever.
 */
async function forget(context: Context, pod: Pod, error: unknown): Promise<void> {
  const left = IsopodError.is(error) ? (error.cleanupErrors ?? []) : [];
  const { id } = pod.record;
  if (left.length === 0) {
    await context.store.deletePod(id);
    fs.rmSync(podDir(context, id), { recursive: true, force: true });
    return;
  }
  context.log.error("a failed pod is kept until it can be removed", {
    sandbox: id,
    left: left.map(messageOf),
  });
  pod.record = { ...pod.record, stoppedAt: now() } satisfies PodRecord;
  context.pods.set(id, pod);
  await context.store.putPod(pod.record);
}

/** Whether a repeated RunPodSandbox may have what the first one made. */
export function podOutcome(context: Context, id: string): "usable" | "stale" | "gone" {
  const pod = context.pods.has(id) ? context.pods.get(id) : undefined;
  if (pod === undefined) return "gone";
  return podIsReady(pod) && !pod.stopRequested ? "usable" : "stale";
}
