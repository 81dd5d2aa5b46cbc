import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import type { TestContext } from "node:test";
import { IsopodError, notFound } from "../../src/base/errors";
import { silentLog } from "../../src/base/log";
import type { Image, Images, Snapshot } from "../../src/image";
import type { Network } from "../../src/network";
import { type ContainerConfig, openPods, type PodConfig, type Pods, type RunPod } from "../../src/sandbox";
import type { CreateTaskOptions, Exit, SandboxTask, Shims, Task, TaskExec, TaskStdio } from "../../src/task";

/**
 * Doubles for what only orders and fails: a test names the step that is to fail, and reads what was done and
 * what is left. FIFOs, logs and records are the real ones.
 */
export class World {
  /** What happened, in order. */
  readonly journal: string[] = [];
  /** Steps that throw when they are reached. */
  readonly failing = new Set<string>();
  /** Steps that wait until they are let go. */
  readonly held = new Map<string, Promise<void>>();
  readonly sandboxes = new Map<string, FakeSandbox>();
  readonly snapshots = new Map<string, Snapshot>();
  readonly namespaces = new Set<string>();
  readonly attached = new Set<string>();
  oomKills = 0n;

  async step(name: string): Promise<void> {
    this.journal.push(name);
    await this.held.get(name);
    if (this.failing.has(name)) throw new IsopodError("INTERNAL", `${name}: injected`);
  }

  hold(name: string): () => void {
    let release = () => {};
    this.held.set(name, new Promise<void>((resolve) => (release = resolve)));
    return () => {
      this.held.delete(name);
      release();
    };
  }

  /** Everything that exists outside the records. */
  left(): string[] {
    const tasks = [...this.sandboxes.values()].flatMap((sandbox) => [...sandbox.tasks.keys()]);
    return [
      ...this.sandboxes.keys(),
      ...tasks,
      ...this.snapshots.keys(),
      ...this.namespaces,
      ...this.attached,
    ];
  }
}

export class FakeTask implements Task {
  readonly ordered = true;
  readonly pid = 4242;
  started = false;
  readonly kills: number[] = [];
  readonly updates: unknown[] = [];
  oomKilled = false;
  end: (status: number) => void = () => {};
  lose: (error: Error) => void = () => {};
  readonly exited: Promise<Exit>;
  exit: Exit | undefined;
  readonly id: string;
  readonly options: CreateTaskOptions;
  readonly #world: World;
  readonly #sandbox: FakeSandbox;
  readonly #fds: number[];

  constructor(world: World, sandbox: FakeSandbox, options: CreateTaskOptions) {
    this.#world = world;
    this.#sandbox = sandbox;
    this.id = options.id;
    this.options = options;
    const { stdout, stderr } = options.stdio;
    // As the stub does: read-write, so that they outlive every reader.
    this.#fds = [stdout, stderr].map((file) => (file === "" ? -1 : fs.openSync(file, "r+")));
    this.exited = new Promise<Exit>((resolve, reject) => {
      this.end = (status) => {
        this.exit ??= { status, exitedAt: BigInt(Date.now()) * 1_000_000n };
        for (const fd of this.#fds.splice(0)) if (fd >= 0) fs.closeSync(fd);
        resolve(this.exit);
      };
      this.lose = reject;
    });
    this.exited.catch(() => {});
  }

  say(text: string, stream: "stdout" | "stderr" = "stdout"): void {
    fs.writeSync(this.#fds[stream === "stdout" ? 0 : 1]!, text);
  }

  async start(): Promise<void> {
    await this.#world.step("task start");
    this.started = true;
  }

  async state() {
    const status = this.exit ? "stopped" : this.started ? "running" : "created";
    return { status, pid: this.pid, exit: this.exit } as const;
  }

  async kill(signal: number): Promise<void> {
    await this.#world.step(`task kill ${signal}`);
    if (this.exit) throw notFound("process", this.id);
    this.kills.push(signal);
    if (signal === 9) this.end(137);
  }

  async exec({ id }: { id: string; process: unknown; stdio: TaskStdio }): Promise<TaskExec> {
    await this.#world.step("exec");
    let end: (exit: Exit) => void = () => {};
    const exited = new Promise<Exit>((resolve) => (end = resolve));
    return {
      id,
      exited,
      start: async () => 999_999_999,
      kill: async () => end({ status: 137, exitedAt: 1n }),
      resize: async () => {},
      closeStdin: async () => {},
      delete: async () => {
        await this.#world.step("exec delete");
        return { status: 0, exitedAt: 1n };
      },
    };
  }

  async stats() {
    await this.#world.step("task stats");
    return { cpu: { usage: 1_000_000n, user: 0n, system: 0n }, oomKills: this.#world.oomKills };
  }

  async delete(): Promise<Exit> {
    await this.#world.step("task delete");
    if (!this.exit) throw new IsopodError("FAILED_PRECONDITION", "still running");
    this.#sandbox.tasks.delete(this.id);
    return this.exit;
  }

  async update(resources: unknown): Promise<void> {
    await this.#world.step("task update");
    this.updates.push(resources);
  }

  pids = async () => [this.pid];
  pause = async () => {};
  resume = async () => {};
  closeStdin = async () => {};
}

export class FakeSandbox implements SandboxTask {
  readonly tasks = new Map<string, FakeTask>();
  readonly exited: Promise<Exit>;
  end: () => void = () => {};
  alive = true;
  readonly record;
  readonly #world: World;

  constructor(world: World, options: Parameters<Shims["createSandbox"]>[0]) {
    this.#world = world;
    const { id, handler } = options;
    this.record = {
      id,
      handler,
      address: `fake:${id}`,
      version: 3,
      bundle: "",
      pid: process.pid,
      createdAt: 1n,
    };
    this.exited = new Promise<Exit>((resolve) => {
      this.end = () => {
        this.alive = false;
        resolve({ status: 137, exitedAt: 1n });
      };
    });
  }

  ready = async () => this.alive;

  async create(options: CreateTaskOptions): Promise<Task> {
    await this.#world.step("task create");
    const task = new FakeTask(this.#world, this, options);
    this.tasks.set(options.id, task);
    return task;
  }

  async adopt(id: string): Promise<Task> {
    const task = this.tasks.get(id);
    if (task === undefined) throw notFound("task", id);
    return task;
  }

  stats = async () => undefined;

  async stop(): Promise<void> {
    await this.#world.step("sandbox stop");
    this.end();
  }

  async remove(): Promise<void> {
    await this.#world.step("sandbox remove");
    this.#world.sandboxes.delete(this.record.id);
  }
}

export function fakeShims(world: World): Shims {
  return {
    createSandbox: async (options) => {
      await world.step("sandbox create");
      const sandbox = new FakeSandbox(world, options);
      world.sandboxes.set(options.id, sandbox);
      return sandbox;
    },
    reconnect: async ({ id }) => {
      await world.step("sandbox reconnect");
      const sandbox = world.sandboxes.get(id);
      if (sandbox === undefined) throw notFound("sandbox", id);
      return sandbox;
    },
    discard: async ({ id }) => {
      await world.step("sandbox discard");
      world.sandboxes.delete(id);
    },
    close: async () => {},
  };
}

function fakeNetwork(world: World): Network {
  return {
    notReady: () => undefined,
    configuration: () => ({ name: "fake" }),
    namespacePath: (id) => `/run/netns/fake-${id}`,
    createNamespace: async (pin) => {
      await world.step("netns create");
      world.namespaces.add(pin);
    },
    deleteNamespace: async (pin) => {
      await world.step("netns delete");
      world.namespaces.delete(pin);
    },
    add: async (pod, config) => {
      await world.step("network add");
      world.attached.add(`ip of ${pod.id}`);
      return { config, result: { fake: true }, ips: ["10.9.8.7"] };
    },
    del: async (pod) => {
      await world.step("network del");
      world.attached.delete(`ip of ${pod.id}`);
    },
    close: () => {},
  };
}

export const image: Image = {
  id: `sha256:${"a".repeat(64)}`,
  repoTags: ["example.org/app:1"],
  repoDigests: [`example.org/app@sha256:${"b".repeat(64)}`],
  size: 1,
  config: {
    architecture: "amd64",
    os: "linux",
    config: { Entrypoint: ["/entry"], Cmd: ["one", "two"], Env: ["A=image", "B=image"], WorkingDir: "/work" },
    rootfs: { type: "layers", diff_ids: [] },
  },
  chainId: "",
  passwd: "root:x:0:0::/root:/bin/sh\nwww:x:33:34::/srv/www:/bin/sh\n",
  group: "root:x:0:\nwww:x:34:\nmedia:x:77:www,root\n",
  pinned: false,
};

function fakeImages(world: World): Images {
  const unused = () => Promise.reject(new Error("not for this test"));
  return {
    pull: unused,
    import: unused,
    find: (reference) => (reference === "app" ? image : undefined),
    list: () => [image],
    remove: unused,
    prepare: async ({ key }) => {
      await world.step("snapshot prepare");
      const snapshot = { key, mounts: [], upper: "" };
      world.snapshots.set(key, snapshot);
      return snapshot;
    },
    removeSnapshot: async (key) => {
      await world.step("snapshot remove");
      world.snapshots.delete(key);
    },
    snapshot: (key) => world.snapshots.get(key),
    snapshotKeys: () => [...world.snapshots.keys()],
    usage: () => ({ mountpoint: "/", bytes: 0n, inodes: 0n, timestamp: 1n }),
    snapshotUsage: () => undefined,
    close: async () => {},
  };
}

export interface Bench {
  readonly world: World;
  readonly dir: string;
  readonly logs: string;
  pods: Pods;
  /** Ends the daemon as kill -9 would, as far as records and state go, and opens the next one. */
  reopen(): Promise<Pods>;
  /** The only task of the only sandbox. */
  task(): FakeTask;
}

export async function open(t: TestContext): Promise<Bench> {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-pods-"));
  const world = new World();
  const start = () =>
    openPods({
      root: path.join(dir, "root"),
      state: path.join(dir, "state"),
      images: fakeImages(world),
      network: fakeNetwork(world),
      shims: fakeShims(world),
      handlers: [{ name: "isopod", runtimeType: "io.containerd.isopod.v2" }],
      defaultHandler: "isopod",
      defaultSeccomp: () => ({ defaultAction: "SCMP_ACT_ERRNO" }),
      log: silentLog,
    });
  const bench: Bench = {
    world,
    dir,
    logs: path.join(dir, "logs"),
    pods: await start(),
    reopen: async () => {
      await bench.pods.close();
      bench.pods = await start();
      return bench.pods;
    },
    task: () => {
      const task = [...world.sandboxes.values()].flatMap((sandbox) => [...sandbox.tasks.values()])[0];
      if (task === undefined) throw new Error("no task");
      return task;
    },
  };
  t.after(async () => {
    await bench.pods.close();
    fs.rmSync(dir, { recursive: true, force: true });
  });
  return bench;
}

export function podConfig(changes: Partial<PodConfig> = {}): PodConfig {
  return {
    metadata: { name: "web", uid: "u-1", namespace: "default", attempt: 0 },
    hostname: "web",
    logDirectory: "",
    portMappings: [],
    labels: { app: "web" },
    annotations: {},
    cgroupParent: "",
    sysctls: {},
    privileged: false,
    namespaces: { network: "pod", pid: "container", ipc: "pod" },
    ...changes,
  };
}

export function runPodRequest(changes: Partial<PodConfig> = {}): RunPod {
  const config = podConfig(changes);
  return { config, configBytes: Buffer.from(JSON.stringify(config)), handler: "" };
}

export function containerConfig(changes: Partial<ContainerConfig> = {}): ContainerConfig {
  return {
    metadata: { name: "main", attempt: 0 },
    image: "app",
    userSpecifiedImage: "app:1",
    command: [],
    args: [],
    workingDir: "",
    envs: [],
    mounts: [],
    devices: [],
    labels: {},
    annotations: {},
    logPath: "",
    stdin: false,
    stdinOnce: false,
    tty: false,
    resources: {
      cpuPeriod: 0,
      cpuQuota: 0,
      cpuShares: 0,
      memoryLimit: 0,
      memorySwapLimit: 0,
      cpusetCpus: "",
      cpusetMems: "",
      hugepageLimits: [],
      unified: {},
    },
    oomScoreAdj: 0,
    security: {
      addCapabilities: [],
      dropCapabilities: [],
      addAmbientCapabilities: [],
      privileged: false,
      namespaces: { network: "pod", pid: "container", ipc: "pod" },
      runAsUsername: "",
      readonlyRootfs: false,
      supplementalGroups: [],
      supplementalGroupsPolicy: "merge",
      noNewPrivs: false,
      maskedPaths: [],
      readonlyPaths: [],
    },
    stopSignal: "",
    ...changes,
  };
}
