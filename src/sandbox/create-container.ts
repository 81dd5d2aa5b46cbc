import * as fs from "node:fs";
import * as path from "node:path";
import { notFound, precondition } from "../base/errors";
import { type Scope, undoOnFailure } from "../base/scope";
import { now } from "../base/time";
import type { Image } from "../image";
import { native } from "../native";
import type { Spec } from "../oci/runtime-spec";
import type { Task } from "../task";
import { capabilitiesOf } from "./capabilities";
import { type Container, type Context, containerDir, containerState, type Pod, podIsReady } from "./context";
import { Lock, settle } from "./lock";
import { containerName, newId } from "./names";
import type { ContainerRecord } from "./records";
import { seccompOf } from "./seccomp";
import { signalNumber } from "./signals";
import { type SpecInput, specOf } from "./spec";
import { makeFifos, openOutput, prepareLog, stdioPaths } from "./stdio";
import type { ContainerConfig } from "./types";
import { type ResolvedUser, resolveUser } from "./user";
import { validateContainer } from "./validate";
import { watchContainer } from "./watch";

const SIGKILL = 9;

/**
 * CreateContainer: everything but the exec of its first process is done, so that errors surface here. On
 * failure nothing is left: task, FIFOs, log file, snapshot, record, name.
 */
export async function createContainer(
  context: Context,
  podPrefix: string,
  config: ContainerConfig,
): Promise<string> {
  const pod = context.pods.get(podPrefix);
  validateContainer(config, pod.record.config);
  const id = newId();
  const name = containerName(pod.record.id, config.metadata);
  return context.containerNames.claim(name, id, config, () =>
    pod.lock.run(() => undoOnFailure((scope) => make(context, scope, pod, id, config))),
  );
}

async function make(
  context: Context,
  scope: Scope,
  pod: Pod,
  id: string,
  config: ContainerConfig,
): Promise<void> {
  const { sandbox } = pod;
  if (sandbox === undefined || !podIsReady(pod) || pod.stopRequested)
    throw precondition(`creating a container: sandbox ${pod.record.id} is not ready`);
  const image = context.images.find(config.image);
  if (image === undefined) throw notFound("image", config.image);
  const user = resolveUser(config.security, image);
  const apparmor = await context.apparmor.profileOf(config.security);
  const spec = specFor(context, pod, { id, config, image, user, apparmor });
  const container = newContainer(pod, recordOf(pod, id, config, image, user, spec), spec);
  const dir = containerDir(context, pod.record.id, id);
  fs.mkdirSync(dir, { mode: 0o700 });
  scope.defer("directory", () => fs.rmSync(dir, { recursive: true, force: true }));
  // Removing what is absent is fine, so these undo half-done work as well.
  scope.defer("snapshot", () => context.images.removeSnapshot(id));
  scope.defer("record", () => context.store.deleteContainer(id));
  // Written while the shim works: a record whose task never came to be is an ended container to the next
  // daemon, a task without record is undone by it.
  const storing = context.store.putContainer(container.record);
  const creating = settle([
    context.images.prepare({ key: id, image }),
    openStdio(scope, container, dir),
  ]).then(([snapshot, stdio]) => sandbox.create({ id, spec, rootfs: snapshot.mounts, stdio }));
  creating.then(
    (task) => scope.defer("task", () => discardTask(task)),
    () => {},
  );
  const [task] = await settle([creating, storing]);
  container.task = task;
  pod.containers.set(id, container);
  context.containers.set(id, container);
  watchContainer(context, container, task);
}

async function discardTask(task: Task): Promise<void> {
  await task.kill(SIGKILL, true);
  await task.exited;
  await task.delete();
}

function specFor(
  context: Context,
  pod: Pod,
  given: Pick<SpecInput, "id" | "config" | "image" | "user" | "apparmor">,
): Spec {
  const { config } = given;
  const host = native().features().effectiveCapabilities;
  const { bounding = [] } = capabilitiesOf(config.security, host);
  return specOf({
    ...given,
    pod: {
      id: pod.record.id,
      config: pod.record.config,
      pid: pod.sandbox?.record.pid ?? 0,
      netns: pod.record.netns,
      cgroupParent: pod.record.config.cgroupParent || context.cgroupParentDefault,
    },
    targetPid: targetPid(pod, config),
    seccomp: seccompOf(config.security, () => context.defaultSeccomp(bounding)),
    host: {
      capabilities: host,
      mountinfo: () => fs.readFileSync("/proc/self/mountinfo", "utf8"),
    },
  });
}

/** The target must run in this pod; it is looked up anew here, so a pid that was reused is none. */
function targetPid(pod: Pod, config: ContainerConfig): number | undefined {
  const { pid, targetId = "" } = config.security.namespaces;
  if (pid !== "target") return undefined;
  const target = [...pod.containers.values()].find(({ record }) => record.id === targetId);
  if (target === undefined) throw notFound("target container", targetId);
  if (containerState(target) !== "running" || target.task === undefined)
    throw precondition(`creating a container: target container ${targetId} is not running`);
  return target.task.pid;
}

function recordOf(
  pod: Pod,
  id: string,
  config: ContainerConfig,
  image: Image,
  user: ResolvedUser,
  spec: Spec,
): ContainerRecord {
  const stopSignal = config.stopSignal || image.config.config?.StopSignal || "SIGTERM";
  signalNumber(stopSignal, "stop_signal");
  const { logDirectory } = pod.record.config;
  const logged = logDirectory !== "" && config.logPath !== "";
  return {
    version: 1,
    id,
    podId: pod.record.id,
    config,
    imageId: image.id,
    imageRef: image.repoDigests[0] ?? image.id,
    createdAt: now(),
    startedAt: 0n,
    finishedAt: 0n,
    exitCode: 0,
    reason: "",
    message: "",
    logPath: logged ? path.join(logDirectory, config.logPath) : "",
    user: { uid: user.uid, gid: user.gid, supplementalGroups: user.supplementalGroups },
    stopSignal,
    spec: withoutSeccomp(spec),
  };
}

function withoutSeccomp(spec: Spec): Spec {
  const { seccomp: _rules, ...linux } = spec.linux ?? {};
  return { ...spec, linux };
}

/** A container without a task yet. */
export function newContainer(pod: Pod, record: ContainerRecord, spec: Spec): Container {
  return {
    record,
    pod,
    task: undefined,
    output: undefined,
    spec,
    lost: false,
    ended: Promise.resolve(),
    starting: undefined,
    startError: undefined,
    stop: undefined,
    removing: undefined,
    lock: new Lock(),
    cpuSample: undefined,
  };
}

async function openStdio(scope: Scope, container: Container, dir: string) {
  const { config, logPath, user } = container.record;
  const stdio = stdioPaths(dir, { stdin: config.stdin, tty: config.tty, logged: logPath !== "" });
  makeFifos(stdio, user);
  if (logPath !== "") {
    const { existed } = prepareLog(logPath);
    if (!existed) scope.defer("log file", () => fs.rmSync(logPath, { force: true }));
  }
  const output = openOutput(stdio, logPath);
  container.output = output;
  scope.defer("output", () => output.close());
  return stdio;
}

/** Whether a repeated CreateContainer may have what the first one made. */
export function containerOutcome(context: Context, id: string): "usable" | "stale" | "gone" {
  const container = context.containers.has(id) ? context.containers.get(id) : undefined;
  if (container === undefined) return "gone";
  return containerState(container) === "created" ? "usable" : "stale";
}
