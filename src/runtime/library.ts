import { randomUUID } from "node:crypto";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import type { Readable, Writable } from "node:stream";
import { IsopodError, invalid, messageOf } from "../base/errors";
import { undoOnFailure } from "../base/scope";
import { type ExitStatus, native } from "../native";
import type { Mount } from "../oci/mount";
import type { Process as ProcessSpec, Resources, Spec } from "../oci/runtime-spec";
import { containerRuntime } from "./containers";
import { type StreamOptions, Streams } from "./streams";
import { sweepStateDirs } from "./sweep";
import type { CgroupStats, Container, Process, ProcessState, Runtime } from "./types";
import { sealSpec } from "./validate";

/**
 * The library's containers: children of the calling process, which die with it. Long-lived ones are the
 * daemon's business.
 */
export interface RunOptions extends StreamOptions {
  /** Directory with config.json and, unless `rootfs` says otherwise, the root filesystem it names. */
  readonly bundle: string;
  /** Instead of the bundle's config.json. */
  readonly spec?: Spec;
  /** Mounts that make the root filesystem, e.g. an image's snapshot. Default: spec.root.path as it is. */
  readonly rootfs?: readonly Mount[];
  /** Default: one that is made up. */
  readonly id?: string;
  /** What was asked for and is dropped, by name. Default: process.emitWarning. */
  readonly warn?: (message: string, fields?: Record<string, unknown>) => void;
}

export interface ExecOptions extends StreamOptions {
  /** Default: one that is made up. */
  readonly id?: string;
}

/**
 * Creates and starts a container. Errors are IsopodErrors whose text says what was being done, to what, and
 * why it failed; nothing is left behind then.
 */
export function run(options: string | RunOptions): Promise<ContainerHandle> {
  return make(options, true);
}

/** As `run`, but the container's program waits for `start`. */
export function create(options: string | RunOptions): Promise<ContainerHandle> {
  return make(options, false);
}

async function make(options: string | RunOptions, start: boolean): Promise<ContainerHandle> {
  const wanted = typeof options === "string" ? { bundle: options } : options;
  const bundle = path.resolve(wanted.bundle);
  const spec = wanted.spec ?? readSpec(bundle);
  const id = wanted.id ?? randomUUID();
  const { runtime, stateDir } = library(wanted.warn);
  // The spec is checked by the runtime; until then nothing is taken for granted.
  const { terminal = false, user } = (spec as Spec | null)?.process ?? {};
  const uid = Number.isInteger(user?.uid) ? user!.uid : 0;
  return undoOnFailure(async (scope) => {
    const streams = new Streams(native(), path.join(stateDir, id), wanted, terminal, uid);
    scope.defer("streams", () => streams.destroy());
    const sandbox = await runtime.sandbox({ id, implicit: true });
    scope.defer("sandbox", () => sandbox.destroy());
    const { stdio, attended } = streams;
    streams.open();
    const rootfs = wanted.rootfs ?? [];
    const creating = sandbox.create({ id, bundle, spec, rootfs, stdio, start, attended });
    scope.defer("container", () => creating.then((container) => container.delete()).catch(() => {}));
    streams.connect();
    const handle = new ContainerHandle(await creating, streams, spec, () => sandbox.destroy());
    if (start) streams.unlink();
    return handle;
  });
}

/** A running program: a container's first, or one that was started in it by `exec`. */
export class ProcessHandle {
  readonly id: string;
  /** Null unless asked for (`stdin: "pipe"`). */
  readonly stdin: Writable | null;
  readonly stdout: Readable | null;
  /** Null with a terminal. */
  readonly stderr: Readable | null;
  protected readonly process: Process;

  /** @internal */
  constructor(process: Process, streams: Streams) {
    this.process = process;
    this.id = process.id;
    this.stdin = streams.openStdin(() => process.closeStdin());
    this.stdout = streams.stdout;
    this.stderr = streams.stderr;
  }

  /** As this process's pid namespace counts. */
  get pid(): number {
    return this.process.pid;
  }

  get state(): ProcessState {
    return this.process.state;
  }

  /** Resolves at its end; `status` is the exit code, or 128 + signal. */
  wait(): Promise<ExitStatus> {
    return this.process.exited;
  }

  /** By number or name (`SIGTERM`). NOT_FOUND if it has ended. */
  kill(signal: number | NodeJS.Signals = "SIGTERM"): Promise<void> {
    return this.process.kill(signalNumber(signal));
  }

  /** Of its terminal; without one nothing happens. */
  resize(size: { rows: number; columns: number }): void {
    this.process.resize(size);
  }

  /** Frees what is left of it. FAILED_PRECONDITION while it runs. Its output can be read on. */
  async delete(): Promise<ExitStatus> {
    const exit = await this.process.delete();
    this.stdin?.destroy();
    return exit;
  }
}

export class ContainerHandle extends ProcessHandle implements AsyncDisposable {
  readonly #container: Container;
  readonly #stateDir: string;
  readonly #spec: Spec;
  readonly #destroy: () => Promise<void>;
  readonly #streams: Streams;

  /** @internal */
  constructor(container: Container, streams: Streams, spec: Spec, destroy: () => Promise<void>) {
    super(container, streams);
    this.#container = container;
    this.#stateDir = library().stateDir;
    this.#spec = spec;
    this.#streams = streams;
    this.#destroy = destroy;
  }

  /** Lets a container that `create` made begin. Rejects if its program cannot be executed. */
  start(): Promise<void> {
    const starting = this.#container.start();
    this.#streams.unlink(); // while it begins
    return starting;
  }

  /**
   * Runs a further program in the container: an argument list, run as the container's own program is (user,
   * environment, capabilities), or a whole `process` of the runtime specification.
   */
  async exec(what: readonly string[] | ProcessSpec, options: ExecOptions = {}): Promise<ProcessHandle> {
    const process = isArguments(what) ? { ...this.#spec.process!, args: what, terminal: false } : what;
    const id = options.id ?? randomUUID();
    const prefix = path.join(this.#stateDir, `${this.id}@${id}`);
    const uid = process.user?.uid ?? 0;
    return undoOnFailure(async (scope) => {
      const streams = new Streams(native(), prefix, options, process.terminal ?? false, uid);
      scope.defer("streams", () => streams.destroy());
      const { stdio, attended } = streams;
      streams.open();
      const exec = this.#container.exec({ id, process, stdio, attended });
      scope.defer("exec", () => exec.delete());
      const starting = exec.start();
      streams.connect();
      await starting;
      const handle = new ProcessHandle(exec, streams);
      streams.unlink();
      return handle;
    });
  }

  pause(): Promise<void> {
    return this.#container.pause();
  }

  resume(): Promise<void> {
    return this.#container.resume();
  }

  /** Host pids of all its processes. */
  async pids(): Promise<readonly number[]> {
    return (await this.#container.pids()).map(({ pid }) => pid);
  }

  stats(): Promise<CgroupStats> {
    return this.#container.stats();
  }

  /** Changes limits (`linux.resources`): all that are named, or none. What is not named stays. */
  update(resources: Resources): Promise<void> {
    return this.#container.update(resources);
  }

  /** Processes of it that the kernel killed for want of memory, so far. */
  oomKills(): Promise<number> {
    return this.#container.oomKills();
  }

  override async delete(): Promise<ExitStatus> {
    const exit = await super.delete();
    this.#streams.unlink();
    await this.#destroy();
    return exit;
  }

  /** Kills it if need be, and deletes it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#container.kill(os.constants.signals.SIGKILL, { all: true });
    if (this.state !== "created") await this.wait();
    await this.delete();
  }
}

const isArguments = (what: readonly string[] | ProcessSpec): what is readonly string[] => Array.isArray(what);

function signalNumber(signal: number | NodeJS.Signals): number {
  const number = typeof signal === "number" ? signal : os.constants.signals[signal];
  if (!Number.isInteger(number) || number < 0 || number > 64)
    throw invalid("signal", signal, "no such signal");
  return number;
}

/** By their text: who runs a bundle once runs it again. */
const specs = new Map<string, Spec>();
const MAX_SPECS = 16;

function readSpec(bundle: string): Spec {
  const file = path.join(bundle, "config.json");
  let text: string;
  try {
    text = fs.readFileSync(file, "utf8");
  } catch (error) {
    throw new IsopodError("NOT_FOUND", `reading "${file}": ${messageOf(error)}`, {
      path: file,
      cause: error,
    });
  }
  let spec = specs.get(text);
  if (spec === undefined) {
    spec = sealSpec(parse(text, file));
    if (specs.size >= MAX_SPECS) specs.delete(specs.keys().next().value!);
    specs.set(text, spec);
  }
  return spec;
}

function parse(text: string, file: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new IsopodError("INVALID_ARGUMENT", `parsing "${file}": ${messageOf(error)}`, {
      path: file,
      cause: error,
    });
  }
}

const TMPFS_MAGIC = 0x01021994;
let made: { runtime: Runtime; stateDir: string } | undefined;
let warnTo: RunOptions["warn"];

/**
 * State lies on a tmpfs: FIFOs and records come and go with every process, and no disk should wait for them.
 * /dev/shm is anybody's, so a directory there must be ours alone.
 */
function stateRoot(): string {
  const place = ["/run", "/dev/shm"].find(
    (dir) => fs.existsSync(dir) && fs.statfsSync(dir).type === TMPFS_MAGIC,
  );
  const root = path.join(place ?? "/run", "isopod/library");
  for (const dir of [path.dirname(root), root]) {
    fs.mkdirSync(dir, { recursive: true, mode: 0o700 });
    const { uid, mode } = fs.lstatSync(dir);
    if (uid !== 0 || (mode & 0o170000) !== 0o040000 || (mode & 0o022) !== 0)
      throw new IsopodError(
        "PERMISSION_DENIED",
        `keeping state: "${dir}": others may write there: remove it`,
        { path: dir },
      );
  }
  return root;
}

/** One runtime for the process; its state directory is named after it and taken down after it by the next. */
function library(warn?: RunOptions["warn"]): { runtime: Runtime; stateDir: string } {
  if (warn) warnTo = warn;
  if (!made) {
    if (process.getuid?.() !== 0)
      throw new IsopodError(
        "PERMISSION_DENIED",
        `running a container: as uid ${process.getuid?.()}: only root may make its namespaces, mounts and cgroup`,
      );
    const root = stateRoot();
    const stateDir = path.join(root, String(process.pid));
    sweepStateDirs(root);
    const tell: RunOptions["warn"] = (message, fields) => {
      if (warnTo) warnTo(message, fields);
      else process.emitWarning(`${message}${fields ? ` ${JSON.stringify(fields)}` : ""}`, "IsopodWarning");
    };
    const runtime = containerRuntime({ stateDir, dieWithParent: true, warn: tell });
    process.once("exit", () => {
      try {
        fs.rmdirSync(stateDir);
      } catch {}
    });
    made = { runtime, stateDir };
  }
  return made;
}
