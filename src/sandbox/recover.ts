import * as fs from "node:fs";
import * as path from "node:path";
import { IsopodError, messageOf } from "../base/errors";
import { readFileIfPresent } from "../base/files";
import { now } from "../base/time";
import {
  type Container,
  type Context,
  containerDir,
  type Pod,
  podDir,
  sandboxFile,
  startedFile,
} from "./context";
import { newContainer } from "./create-container";
import { Lock, settle } from "./lock";
import { containerName, podName } from "./names";
import { podNetwork } from "./pod-network";
import type { ContainerRecord, PodRecord } from "./records";
import { reconnect } from "./sandbox-file";
import { openOutput, stdioPaths } from "./stdio";
import { currentBootId } from "./store";
import { finishUpdate } from "./update-container";
import { concludeUnknown, watchContainer, watchPod } from "./watch";

/**
 * Takes up what an earlier daemon left, before anything is served. Pods recover side by side, and one that
 * fails stays listed, NOTREADY, so that it can be removed. What was half-made is undone, what no record
 * names goes; nothing is removed because something else could not be reached.
 */
export async function recover(context: Context): Promise<void> {
  const bootId = currentBootId();
  const rebooted = (context.store.bootId() ?? bootId) !== bootId;
  for (const record of context.store.pods()) addPod(context, record);
  const strays = context.store.containers().filter((record) => !addContainer(context, record));
  const one = rebooted ? afterBoot : recoverPod;
  await Promise.all(
    [...context.pods].map((pod) =>
      one(context, pod).catch((error: unknown) => {
        context.log.error("recovering a pod", { sandbox: pod.record.id, error: messageOf(error) });
      }),
    ),
  );
  await Promise.all(strays.map(({ id }) => context.store.deleteContainer(id)));
  await removeUnknownDirectories(context);
  await removeOrphanSnapshots(context);
  await context.store.setBootId(bootId);
  if (rebooted) await context.store.flushed();
}

function addPod(context: Context, record: PodRecord): void {
  context.pods.set(record.id, {
    record,
    sandbox: undefined,
    lock: new Lock(),
    containers: new Map(),
    stopRequested: record.stoppedAt !== 0n,
    stopping: undefined,
    removing: undefined,
    cpuSample: undefined,
  });
  const { configBytes, handler } = record;
  context.podNames.hold(podName(record.config.metadata), record.id, { configBytes, handler });
}

function addContainer(context: Context, record: ContainerRecord): boolean {
  const pod = context.pods.find(record.podId);
  if (pod === undefined) return false;
  const container = newContainer(pod, record, record.spec);
  pod.containers.set(record.id, container);
  context.containers.set(record.id, container);
  context.containerNames.hold(containerName(record.podId, record.config.metadata), record.id, record.config);
  return true;
}

/** Nothing of the last boot runs, but addresses are still taken: they are given back first. */
async function afterBoot(context: Context, pod: Pod): Promise<void> {
  await markStopped(context, pod);
  for (const container of pod.containers.values())
    if (container.record.finishedAt === 0n)
      await concludeUnknown(context, container, "the machine was rebooted");
  fs.rmSync(podDir(context, pod.record.id), { recursive: true, force: true });
  if (pod.record.network === undefined) return;
  await context.network.del({ ...podNetwork(pod.record), netns: "" }, pod.record.network);
  pod.record = { ...pod.record, network: undefined };
  await context.store.putPod(pod.record);
}

async function markStopped(context: Context, pod: Pod): Promise<void> {
  pod.stopRequested = true;
  if (pod.record.stoppedAt !== 0n) return;
  pod.record = { ...pod.record, stoppedAt: now() };
  await context.store.putPod(pod.record);
}

async function recoverPod(context: Context, pod: Pod): Promise<void> {
  const { id, stoppedAt } = pod.record;
  const known = fs.existsSync(sandboxFile(context, id));
  if (!known && stoppedAt === 0n) return undoHalfMade(context, pod);
  pod.sandbox = known ? await reconnect(context, id) : undefined;
  if (pod.sandbox === undefined || !(await pod.sandbox.ready())) await markStopped(context, pod);
  await Promise.all(
    [...pod.containers.values()]
      .filter(({ record }) => record.finishedAt === 0n)
      .map((container) => recoverContainer(context, container)),
  );
  await undoHalfMadeContainers(context, pod);
  watchPod(context, pod);
}

async function recoverContainer(context: Context, container: Container): Promise<void> {
  const { id, podId, config, logPath } = container.record;
  const { sandbox } = container.pod;
  const dir = containerDir(context, podId, id);
  const stdio = stdioPaths(dir, { stdin: config.stdin, tty: config.tty, logged: logPath !== "" });
  try {
    if (sandbox === undefined) throw lostShim(context, podId);
    container.output = openOutput(stdio, logPath);
    const task = await sandbox.adopt(id);
    container.task = task;
    const { status } = await task.state();
    const started = readFileIfPresent(startedFile(context, podId, id));
    // A daemon that died between the start and its note: that the container runs is what counts.
    const runs = status === "running" || status === "paused";
    const startedAt = started ? BigInt(started) : runs ? container.record.createdAt : 0n;
    container.record = { ...container.record, startedAt };
    watchContainer(context, container, task);
    if (status !== "stopped") await finishUpdate(context, container, task);
    // An exit that happened meanwhile is told with its true code before the first list.
    if (status === "stopped") await container.ended;
  } catch (error) {
    await container.output?.close();
    container.output = undefined;
    if (!IsopodError.is(error) || error.code !== "NOT_FOUND") {
      container.lost = true;
      throw error;
    }
    await concludeUnknown(context, container, messageOf(error));
  }
}

/** A shim that may still be there keeps its containers UNKNOWN; with one that is gone they have ended. */
function lostShim(context: Context, podId: string): IsopodError {
  const gone = !fs.existsSync(sandboxFile(context, podId));
  return new IsopodError(gone ? "NOT_FOUND" : "UNAVAILABLE", "its shim was lost");
}

/** A daemon died in RunPodSandbox: nobody was told of this pod. */
async function undoHalfMade(context: Context, pod: Pod): Promise<void> {
  const { id, network, netns, handler: name, config } = pod.record;
  // What fails keeps the pod listed for RemovePodSandbox.
  await markStopped(context, pod);
  const handler = context.handlers.get(name);
  if (handler !== undefined) await context.shims.discard({ id, handler });
  if (network !== undefined) await context.network.del(podNetwork(pod.record), network);
  if (netns !== "") await context.network.deleteNamespace(netns);
  fs.rmSync(podDir(context, id), { recursive: true, force: true });
  await context.store.deletePod(id);
  context.pods.delete(id);
  context.podNames.release(podName(config.metadata), id);
}

/** A daemon died in CreateContainer before its record was visible; the directory came first. */
async function undoHalfMadeContainers(context: Context, pod: Pod): Promise<void> {
  const names = await subdirectories(podDir(context, pod.record.id));
  await settle(
    names
      .filter((id) => !pod.containers.has(id))
      .map(async (id) => {
        const task = await pod.sandbox?.adopt(id).catch(() => undefined);
        await task?.kill(9, true).catch(() => {});
        await task?.exited.catch(() => undefined);
        await task?.delete();
        const handler = context.handlers.get(pod.record.handler);
        if (handler !== undefined) await context.shims.discard({ id, handler });
        fs.rmSync(containerDir(context, pod.record.id, id), { recursive: true, force: true });
      }),
  );
}

/** A daemon died in RunPodSandbox even before its record was visible. */
async function removeUnknownDirectories(context: Context): Promise<void> {
  const root = path.join(context.stateDir, "pods");
  for (const id of await subdirectories(root)) {
    if (context.pods.has(id)) continue;
    context.log.info("removing a half-made pod", { sandbox: id });
    await context.network.deleteNamespace(context.network.namespacePath(id));
    for (const handler of context.handlers.values())
      await context.shims.discard({ id, handler }).catch((error: unknown) => {
        context.log.warn("discarding a sandbox", { sandbox: id, error: messageOf(error) });
      });
    fs.rmSync(path.join(root, id), { recursive: true, force: true });
  }
}

async function removeOrphanSnapshots(context: Context): Promise<void> {
  for (const key of context.images.snapshotKeys()) {
    if (context.containers.has(key)) continue;
    context.log.info("removing an orphan snapshot", { key });
    await context.images.removeSnapshot(key);
  }
}

async function subdirectories(dir: string): Promise<string[]> {
  try {
    const entries = await fs.promises.readdir(dir, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  } catch {
    return [];
  }
}
