import * as fs from "node:fs";
import * as path from "node:path";
import { IsopodError, invalid, messageOf, unsupported } from "../base/errors";
import { undoOnFailure } from "../base/scope";
import type { containerd, google } from "../gen/shim";
import type { Process as ProcessSpec, Resources, Spec } from "../oci/runtime-spec";
import type { ProcessState, Sandbox, Stdio } from "../runtime";
import { type Implementation, packAny, timestampOf } from "../ttrpc";
import { findTask, type ShimContext } from "./context";
import { metricsOf } from "./stats";
import { Task } from "./task";
import { VERSION } from "./version";

/** containerd.v1.types.Status */
const STATUS: Readonly<Record<ProcessState, number>> = { created: 1, running: 2, stopped: 3, paused: 4 };
/** Which pod a container belongs to; the second is CRI-O's. */
const SANDBOX_ANNOTATIONS = ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"];
const RUNTIME_OPTIONS = "runtimeoptions.v1.Options";
const RESOURCES_TYPE = "LinuxResources";
const empty = {};

/** containerd.task.v2.Task and containerd.task.v3.Task: the same messages, one implementation. */
export function taskService(context: ShimContext): Implementation {
  const task = (id: string): Task => findTask(context, id);
  return {
    Create: (request: containerd.task.v3.CreateTaskRequest) => create(context, request),
    Start: async ({ id, execId }: containerd.task.v3.StartRequest) => ({ pid: await task(id).start(execId) }),
    Delete: async ({ id, execId }: containerd.task.v3.DeleteRequest) => {
      const found = task(id);
      const { pid } = found.process(execId).process;
      const exit = await found.delete(execId);
      if (execId === "") context.settled();
      return { pid, exitStatus: exit.status, exitedAt: timestampOf(exit.exitedAt || undefined) };
    },
    State: ({ id, execId }: containerd.task.v3.StateRequest) => state(task(id), execId),
    Pids: ({ id }: containerd.task.v3.PidsRequest) => pids(task(id)),
    Pause: async ({ id }: containerd.task.v3.PauseRequest) => task(id).pause().then(nothing),
    Resume: async ({ id }: containerd.task.v3.ResumeRequest) => task(id).resume().then(nothing),
    Kill: async ({ id, execId, signal, all }: containerd.task.v3.KillRequest) => {
      await task(id).process(execId).process.kill(signal, { all });
      return empty;
    },
    Exec: async (request: containerd.task.v3.ExecProcessRequest) => {
      await task(request.id).exec({
        id: nonEmpty("exec_id", request.execId),
        process: processOf(request),
        stdio: stdioOf(request),
      });
      return empty;
    },
    ResizePty: ({ id, execId, width, height }: containerd.task.v3.ResizePtyRequest) => {
      const { process } = task(id).process(execId);
      if (process.stdio.terminal) process.resize({ rows: height, columns: width });
      return empty;
    },
    CloseIO: ({ id, execId, stdin }: containerd.task.v3.CloseIORequest) => {
      const { process } = task(id).process(execId);
      if (stdin) process.closeStdin();
      return empty;
    },
    Wait: async ({ id, execId }: containerd.task.v3.WaitRequest) => {
      const exit = await task(id).process(execId).wait();
      return { exitStatus: exit?.status ?? 0, exitedAt: timestampOf(exit?.exitedAt) };
    },
    Stats: async ({ id }: containerd.task.v3.StatsRequest) => ({
      stats: metricsOf(await task(id).container.stats()),
    }),
    // Unknown ids are answered too: after its restart containerd asks Connect first, then Pids.
    Connect: ({ id }: containerd.task.v3.ConnectRequest) => ({
      shimPid: process.pid,
      taskPid: context.tasks.get(id)?.container.pid ?? 0,
      version: VERSION,
    }),
    Shutdown: () => {
      context.settled("shutdown");
      return empty;
    },
    Checkpoint: () => {
      throw new IsopodError("UNIMPLEMENTED", "Checkpoint: not built yet");
    },
    // Annotations are for plugins between driver and shim.
    Update: async ({ id, resources }: containerd.task.v3.UpdateTaskRequest) => {
      await task(id).container.update(resourcesOf(resources));
      return empty;
    },
  };
}

const nothing = (): object => empty;

async function create(context: ShimContext, request: containerd.task.v3.CreateTaskRequest): Promise<object> {
  const { id, bundle } = request;
  nonEmpty("id", id);
  refuseUnbuilt(request);
  const stdio = stdioOf(request);
  if (context.tasks.has(id) || context.reserved.has(id)) {
    throw new IsopodError("ALREADY_EXISTS", `task "${id}": exists`, { path: id });
  }
  context.reserved.add(id);
  context.log.offer(bundle);
  try {
    const spec = readSpec(bundle, request.terminal);
    const pid = await undoOnFailure(async (scope) => {
      const sandbox = await sandboxFor(context, id, spec);
      if (sandbox.pid === 0) scope.defer("implicit sandbox", () => sandbox.destroy());
      const rootfs = request.rootfs.map((mount) => ({
        type: mount.type ?? "",
        source: mount.source ?? "",
        target: mount.target ?? "",
        options: mount.options ?? [],
      }));
      const container = await sandbox.create({ id, bundle, spec, rootfs, stdio });
      context.tasks.set(id, new Task(context, sandbox, container));
      return container.pid;
    });
    const { stdin, stdout, stderr, terminal, rootfs } = request;
    const io = { stdin, stdout, stderr, terminal };
    context.events.publish("/tasks/create", "TaskCreate", { containerId: id, bundle, rootfs, io, pid });
    return { pid };
  } finally {
    context.reserved.delete(id);
    context.settled();
  }
}

/** The sandbox that the spec names, if it was made by the Sandbox service; else one of the container's own. */
async function sandboxFor(context: ShimContext, id: string, spec: Spec): Promise<Sandbox> {
  for (const key of SANDBOX_ANNOTATIONS) {
    const sandbox = context.sandboxes.get(spec.annotations?.[key] ?? "");
    if (sandbox !== undefined) return sandbox;
  }
  return context.runtime.sandbox({ id, implicit: true });
}

function refuseUnbuilt({
  checkpoint,
  parentCheckpoint,
  options,
}: containerd.task.v3.CreateTaskRequest): void {
  if (checkpoint !== "") throw unsupported("checkpoint", checkpoint);
  if (parentCheckpoint !== "") throw unsupported("parent_checkpoint", parentCheckpoint);
  // What runtimeoptions say was read by `start`; containerd sends the same here again.
  const type = options?.type_url ?? "";
  if (!type.endsWith(RUNTIME_OPTIONS) && (options?.value?.length ?? 0) > 0) {
    throw unsupported("options", type, `not supported; this shim takes ${RUNTIME_OPTIONS}`);
  }
}

function readSpec(bundle: string, terminal: boolean): Spec {
  if (!path.isAbsolute(bundle)) throw invalid("bundle", bundle, "must be an absolute path");
  const file = path.join(bundle, "config.json");
  let spec: Spec;
  try {
    spec = JSON.parse(fs.readFileSync(file, "utf8")) as Spec;
  } catch (error) {
    const details = { path: file, cause: error };
    throw new IsopodError("INVALID_ARGUMENT", `reading ${file}: ${messageOf(error)}`, details);
  }
  if (typeof spec !== "object" || spec === null) throw invalid(file, spec, "must be an object");
  sameTerminal(terminal, spec.process?.terminal);
  return spec;
}

function processOf({ spec, terminal }: containerd.task.v3.ExecProcessRequest): ProcessSpec {
  const process = jsonOf<ProcessSpec>("spec", spec);
  sameTerminal(terminal, process.terminal);
  return process;
}

/** What it may hold is checked by the runtime; here only that it is no other runtime's. */
function resourcesOf(resources: google.protobuf.Any.$Properties | null | undefined): Resources {
  const type = resources?.type_url ?? "";
  if (!type.endsWith(RESOURCES_TYPE)) throw invalid("resources", type, `must be a ${RESOURCES_TYPE}`);
  return jsonOf("resources", resources);
}

/** containerd packs the OCI's types as JSON. */
function jsonOf<T extends object>(field: string, any: google.protobuf.Any.$Properties | null | undefined): T {
  let value: T;
  try {
    value = JSON.parse(Buffer.from(any?.value ?? []).toString()) as T;
  } catch (error) {
    throw new IsopodError("INVALID_ARGUMENT", `decoding ${field}: ${messageOf(error)}`, { path: field });
  }
  if (typeof value !== "object" || value === null) throw invalid(field, value, "must be an object");
  return value;
}

function sameTerminal(asked: boolean, specified: boolean | undefined): void {
  if (asked !== (specified ?? false)) {
    throw invalid("terminal", asked, `process.terminal of the spec is ${specified ?? false}`);
  }
}

interface StdioRequest {
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: boolean;
}

function stdioOf({ stdin, stdout, stderr, terminal }: StdioRequest): Stdio {
  for (const [field, value] of Object.entries({ stdin, stdout, stderr })) {
    const scheme = /^([a-z+]+):\/\//.exec(value)?.[1];
    if (scheme !== undefined && (scheme !== "file" || field === "stdin")) {
      throw unsupported(field, value, `scheme ${scheme} is not supported`);
    }
    if (scheme === undefined && value !== "" && !path.isAbsolute(value)) {
      throw invalid(field, value, "must be an absolute path");
    }
  }
  if (terminal && stderr !== "") throw invalid("stderr", stderr, "a terminal has none");
  return { stdin, stdout, stderr, terminal };
}

function state(task: Task, execId: string): containerd.task.v3.StateResponse.$Properties {
  const { process } = task.process(execId);
  // Execs are frozen with their container.
  const paused = task.container.state === "paused" && process.state === "running";
  const { stdin = "", stdout = "", stderr = "", terminal = false } = process.stdio;
  return {
    id: process.id,
    bundle: task.container.bundle,
    pid: process.pid,
    status: STATUS[paused ? "paused" : process.state],
    stdin,
    stdout,
    stderr,
    terminal,
    exitStatus: process.exit?.status ?? 0,
    exitedAt: timestampOf(process.exit?.exitedAt),
    execId,
  };
}

async function pids(task: Task): Promise<containerd.task.v3.PidsResponse.$Properties> {
  const processes = await task.container.pids();
  return {
    processes: processes.map(({ pid, execId }) => ({
      pid,
      ...(execId !== undefined && { info: details(execId) }),
    })),
  };
}

const details = (execId: string): google.protobuf.Any.$Properties =>
  packAny("containerd.runc.v1.ProcessDetails", { execId });

function nonEmpty(field: string, value: string): string {
  if (value === "") throw invalid(field, value, "must not be empty");
  return value;
}
