import * as fs from "node:fs";
import * as path from "node:path";
import { IsopodError, unsupported } from "../base/errors";
import { removeFlatDirectory } from "../base/files";
import { undoOnFailure } from "../base/scope";
import { now } from "../base/time";
import type { containerd } from "../gen/shim";
import { native } from "../native";
import { CGROUP_PARENT } from "../oci/cgroups-path";
import { nanosecondsOf } from "../ttrpc";
import type { ShimBinary } from "./binary";
import { isLost, type Link } from "./link";
import { decodeStats } from "./metrics";
import { DrivenTask } from "./task";
import type {
  CreateSandboxOptions,
  CreateTaskOptions,
  Exit,
  SandboxTask,
  SandboxTaskRecord,
  Task,
  TaskStats,
} from "./types";

type Api = typeof containerd.runtime.sandbox.v1;

const SANDBOX = "containerd.runtime.sandbox.v1.Sandbox";
const OUR_RUNTIME = "io.containerd.isopod.v2";
const READY = "SANDBOX_READY";
const CONFIG_TYPE = "runtime.v1.PodSandboxConfig";
const STATUS_MS = 10_000;
const SHUTDOWN_MS = 10_000;

/** What a driven sandbox needs of the room: its shim's binary and connection, and where bundles are. */
export interface Surroundings {
  readonly link: Link;
  readonly binary: ShimBinary;
  readonly bundleOf: (id: string) => string;
  /** By id of the task: has TaskOOM been heard of it? */
  readonly oomKilled: Map<string, boolean>;
}

/** CreateSandbox and StartSandbox on a shim that runs; undone on failure. */
export function createDrivenSandbox(
  { id, handler, config, netns, cgroupParent }: CreateSandboxOptions,
  surroundings: Surroundings,
  version: number,
): Promise<DrivenSandbox> {
  const { link, bundleOf } = surroundings;
  return undoOnFailure(async (scope) => {
    const bundle = bundleOf(id);
    const options = { type_url: CONFIG_TYPE, value: config };
    try {
      scope.defer("shim's sandbox", () => shutdown(link, id));
      await link.once(SANDBOX, "CreateSandbox", {
        sandboxId: id,
        bundlePath: bundle,
        options,
        netnsPath: netns,
        annotations: { [CGROUP_PARENT]: cgroupParent },
      });
    } catch (error) {
      if (!IsopodError.is(error) || error.code !== "UNIMPLEMENTED") throw error;
      const why = "its shim has no Sandbox service, and driving it through a pause container is not built";
      throw unsupported(`handlers.${handler.name}.runtime_type`, handler.runtimeType, why);
    }
    const started = await link.once<InstanceType<Api["StartSandboxResponse"]>>(SANDBOX, "StartSandbox", {
      sandboxId: id,
    });
    const record = {
      id,
      handler,
      address: link.address,
      version,
      bundle,
      pid: started.pid,
      createdAt: nanosecondsOf(started.createdAt) ?? now(),
    };
    return new DrivenSandbox(record, surroundings);
  });
}

export class DrivenSandbox implements SandboxTask {
  readonly record: SandboxTaskRecord;
  readonly exited: Promise<Exit>;
  readonly #surroundings: Surroundings;

  constructor(record: SandboxTaskRecord, surroundings: Surroundings) {
    this.record = record;
    this.#surroundings = surroundings;
    const { link, binary } = surroundings;
    link.join(record.id, async () => (await binary.start(record)).address);
    this.exited = this.#wait();
  }

  async ready(): Promise<boolean> {
    const status = await this.#call<InstanceType<Api["SandboxStatusResponse"]>>(
      "SandboxStatus",
      {},
      STATUS_MS,
    );
    return status.state === READY;
  }

  create(options: CreateTaskOptions): Promise<Task> {
    const { id, spec, rootfs, stdio } = options;
    const { link } = this.#surroundings;
    return undoOnFailure(async (scope) => {
      const bundle = this.#surroundings.bundleOf(id);
      fs.mkdirSync(bundle, { mode: 0o700 });
      scope.defer("bundle", () => native().removeTree({ path: bundle }));
      fs.writeFileSync(path.join(bundle, "config.json"), JSON.stringify(spec), { mode: 0o600 });
      const request = {
        id,
        bundle,
        ...stdio,
        rootfs: rootfs.map((mount) => ({ ...mount, options: [...mount.options] })),
      };
      const answer = await link.once<{ pid: number }>(this.#taskService, "Create", request);
      return this.#task(id, answer.pid);
    });
  }

  async adopt(id: string): Promise<Task> {
    const { link } = this.#surroundings;
    const state = await link.repeat<{ pid: number }>(
      this.#taskService,
      "State",
      { id },
      { timeoutMs: STATUS_MS },
    );
    return this.#task(id, state.pid);
  }

  async stats(): Promise<TaskStats | undefined> {
    try {
      const answer = await this.#call<InstanceType<Api["SandboxMetricsResponse"]>>(
        "SandboxMetrics",
        {},
        STATUS_MS,
      );
      const { type_url: type, value } = answer.metrics?.data ?? {};
      return type ? decodeStats(type, value ?? new Uint8Array()) : undefined;
    } catch (error) {
      if (IsopodError.is(error) && error.code === "UNIMPLEMENTED") return undefined;
      throw error;
    }
  }

  async stop(timeoutMs: number): Promise<void> {
    await ignoring(["NOT_FOUND"], this.#call("StopSandbox", { timeoutSecs: Math.ceil(timeoutMs / 1000) }));
  }

  async remove(): Promise<void> {
    const { link, binary, bundleOf } = this.#surroundings;
    const { id, bundle } = this.record;
    try {
      await shutdown(link, id);
    } catch (error) {
      if (!isLost(error)) throw error;
      await binary.delete({ id, bundle });
    }
    link.leave(id);
    await removeBundle(bundleOf(id));
  }

  get #taskService(): string {
    return this.record.version >= 3 ? "containerd.task.v3.Task" : "containerd.task.v2.Task";
  }

  #task(id: string, pid: number): Task {
    const { link, binary, bundleOf, oomKilled } = this.#surroundings;
    const bundle = bundleOf(id);
    const lost = (): Promise<Exit> => binary.delete({ id, bundle });
    oomKilled.set(id, false);
    const kept = {
      oomKilled: () => oomKilled.get(id) === true,
      remove: () => {
        oomKilled.delete(id);
        return removeBundle(bundle);
      },
    };
    const ordered = this.record.handler.runtimeType === OUR_RUNTIME;
    return new DrivenTask({ link, service: this.#taskService, id, execId: "", ordered, lost }, pid, kept);
  }

  #call<T extends object>(method: string, more: object, timeoutMs = 0): Promise<T> {
    const request = { sandboxId: this.record.id, ...more };
    return this.#surroundings.link.repeat<T>(SANDBOX, method, request, { timeoutMs });
  }

  async #wait(): Promise<Exit> {
    const { binary } = this.#surroundings;
    const { id, bundle } = this.record;
    try {
      const answer = await this.#call<InstanceType<Api["WaitSandboxResponse"]>>("WaitSandbox", {});
      return { status: answer.exitStatus, exitedAt: nanosecondsOf(answer.exitedAt) ?? now() };
    } catch (error) {
      // The daemon is stopping: the sandbox has not ended, and nobody is left to tell.
      if (IsopodError.is(error) && error.code === "CANCELLED") return new Promise(() => {});
      if (IsopodError.is(error) && error.code === "NOT_FOUND") return { status: 0, exitedAt: now() };
      return binary.delete({ id, bundle }).catch(() => ({ status: 255, exitedAt: now() }));
    }
  }
}

/** Ends the sandbox in its shim; one that is not there is fine. */
/** Other people's shims may have left more than files, even mounts: those are not crossed. */
async function removeBundle(bundle: string): Promise<void> {
  if (!removeFlatDirectory(bundle)) await native().removeTree({ path: bundle });
}

async function shutdown(link: Link, sandboxId: string): Promise<void> {
  await ignoring(
    ["NOT_FOUND"],
    link.repeat(SANDBOX, "ShutdownSandbox", { sandboxId }, { timeoutMs: SHUTDOWN_MS }),
  );
}

async function ignoring(codes: readonly string[], work: Promise<unknown>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!IsopodError.is(error) || !codes.includes(error.code)) throw error;
  }
}
