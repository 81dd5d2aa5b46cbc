import * as fs from "node:fs";
import * as path from "node:path";
import { IsopodError, precondition } from "../base/errors";
import { undoOnFailure } from "../base/scope";
import { now } from "../base/time";
import type { ExitStatus, Launched } from "../native";
import { refusePopulated } from "./cgroup";
import { readStats } from "./cgroup-stats";
import { compileSandbox } from "./compile-sandbox";
import { ContainerProcess, type ContainerSite } from "./container";
import type { Engine } from "./engine";
import { leaderOf } from "./exec";
import type { BaseFiles } from "./mounts";
import { claimParents, launchInto, type Place, placeOf, releaseParents, removePlace } from "./place";
import { LOST } from "./process";
import { exitPath, readExit, removeRecord, type SandboxRecord, versioned, writeRecord } from "./state";
import type { CgroupStats, ContainerOptions, Sandbox, SandboxOptions } from "./types";
import { checkId } from "./validate";

const SIGKILL = 9;

/** A pod's sandbox: a stub that holds the namespaces and the small tree its containers start from. */
export class StubSandbox implements Sandbox {
  readonly id: string;
  readonly pid: number;
  readonly createdAt: bigint;
  readonly extra: Readonly<Record<string, unknown>>;
  readonly containers = new Map<string, ContainerProcess>();
  readonly exited: Promise<ExitStatus>;
  exit: ExitStatus | undefined;
  readonly #engine: Engine;
  readonly #place: Place;
  readonly #podCgroup: boolean;
  readonly #site: ContainerSite;
  readonly #onDestroyed: () => void;
  #pidfd: number | undefined;
  #stopped: Promise<void> | undefined;
  #destroyed: Promise<void> | undefined;
  /** Creates that are under way: a stop waits for them, or their containers would outlive it. */
  readonly #creating = new Set<Promise<unknown>>();

  private constructor(
    engine: Engine,
    record: SandboxRecord,
    files: BaseFiles,
    pidfd: number | undefined,
    exited: Promise<ExitStatus>,
    onDestroyed: () => void,
  ) {
    this.#engine = engine;
    this.id = record.id;
    this.pid = record.pid;
    this.createdAt = BigInt(record.createdAt);
    this.extra = record.extra;
    this.#place = record;
    this.#podCgroup = record.options.podCgroup ?? false;
    this.#pidfd = pidfd;
    this.#onDestroyed = onDestroyed;
    this.exited = exited.then((exit) => {
      if (this.#pidfd !== undefined) fs.closeSync(this.#pidfd);
      this.#pidfd = undefined;
      this.exit = exit;
      return exit;
    });
    this.#site = {
      sandbox: record.id,
      files,
      base: () => leaderOf(engine, record.id, this.#pidfd),
      forget: (container) => void this.containers.delete(container.id),
    };
  }

  static create(engine: Engine, options: SandboxOptions, onDestroyed: () => void): Promise<StubSandbox> {
    const { id, extra = {}, files = {} } = options;
    return undoOnFailure(async (scope) => {
      checkId("id", id);
      const place = placeOf(engine.target, options.cgroupsPath, id);
      if (engine.ids.has(id)) throw new IsopodError("ALREADY_EXISTS", `id "${id}": in use`, { path: id });
      engine.ids.add(id);
      scope.defer("id", () => engine.ids.delete(id));
      const plan = compileSandbox(options, engine.target, engine.dieWithParent);
      const present = Object.keys(files).filter((name) => files[name as keyof typeof files] !== undefined);
      const { extra: _extra, files: _files, ...rest } = options;
      const record = (pid: number): SandboxRecord =>
        versioned({
          kind: "sandbox" as const,
          id,
          pid,
          createdAt: String(now()),
          cgroup: place.cgroup,
          ...(place.unit !== undefined && { unit: place.unit }),
          options: { ...rest, files: present },
          extra,
        });
      scope.defer("record", () => removeRecord(engine.stateDir, id));
      writeRecord(engine.stateDir, id, record(0));
      refusePopulated(place.cgroup);
      claimParents(engine, place);
      scope.defer("parent cgroup", () => releaseParents(engine, place));
      const base = await engine.base();
      const launched = await launchInto(
        engine,
        place,
        { plan, fds: [base], until: "ready" },
        { description: `isopod sandbox ${id}` },
      );
      scope.defer("stub", () => abandon(engine, launched, place));
      if (launched.result !== undefined) fs.closeSync(launched.result);
      const { pid, pidfd } = launched;
      engine.store?.put(`${id}/pidfd`, pidfd);
      engine.store?.task(id, pid, exitPath(engine.stateDir, id));
      const written = record(pid);
      writeRecord(engine.stateDir, id, written);
      const exited = engine.native.awaitExit({ pid, pidfd, record: exitPath(engine.stateDir, id) });
      return new StubSandbox(engine, written, filesOf(written), pidfd, exited, onDestroyed);
    });
  }

  static recovered(
    engine: Engine,
    record: SandboxRecord,
    left: Readonly<Record<string, number>>,
    known: ExitStatus | undefined,
    onDestroyed: () => void,
  ): StubSandbox {
    engine.ids.add(record.id);
    claimParents(engine, record);
    const pidfd = left[`${record.id}/pidfd`];
    const exit = readExit(engine.stateDir, record.id) ?? known;
    const file = exitPath(engine.stateDir, record.id);
    const exited = exit
      ? Promise.resolve(exit)
      : pidfd === undefined
        ? Promise.resolve({ status: LOST, exitedAt: now() })
        : engine.native.awaitExit({ pid: record.pid, pidfd, record: file, child: false });
    return new StubSandbox(engine, record, filesOf(record), pidfd, exited, onDestroyed);
  }

  /** For the containers that recover takes up. */
  get site(): ContainerSite {
    return this.#site;
  }

  async create(options: ContainerOptions): Promise<ContainerProcess> {
    if (this.#stopped || this.exit)
      throw precondition(`sandbox "${this.id}": is stopped: nothing can be created in it`);
    const creating = ContainerProcess.create(this.#engine, this.#site, options);
    this.#creating.add(creating);
    try {
      const container = await creating;
      this.containers.set(container.id, container);
      return container;
    } finally {
      this.#creating.delete(creating);
    }
  }

  /** The pod's where it has a cgroup of its own, containers and all; else only what the stub uses. */
  async stats(): Promise<CgroupStats> {
    const { cgroup } = this.#place;
    return readStats(this.#podCgroup ? path.dirname(cgroup) : cgroup);
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    await Promise.allSettled([...this.#creating]);
    await Promise.all([...this.containers.values()].map((container) => end(container)));
    if (this.#pidfd !== undefined) this.#engine.native.signal({ pidfd: this.#pidfd, signal: SIGKILL });
    await this.exited;
  }

  destroy(): Promise<void> {
    this.#destroyed ??= this.#destroy().catch((error: unknown) => {
      this.#destroyed = undefined; // may be tried again
      throw error;
    });
    return this.#destroyed;
  }

  async #destroy(): Promise<void> {
    await this.stop();
    for (const container of [...this.containers.values()]) await container.delete();
    const engine = this.#engine;
    await removePlace(engine, this.#place);
    releaseParents(engine, this.#place);
    engine.store?.drop(`${this.id}/`);
    removeRecord(engine.stateDir, this.id);
    engine.ids.delete(this.id);
    this.#onDestroyed();
  }
}

const filesOf = (record: SandboxRecord): BaseFiles => ({
  shm: Boolean(record.options.shmSize),
  files: record.options.files,
});

async function end(container: ContainerProcess): Promise<void> {
  if (container.exit) return;
  await container.kill(SIGKILL).catch(() => {});
  await container.kill(SIGKILL, { all: true });
  await container.exited;
}

async function abandon(engine: Engine, { pid, pidfd }: Launched, place: Place): Promise<void> {
  engine.native.signal({ pidfd, signal: SIGKILL });
  await engine.native.awaitExit({ pid, pidfd });
  fs.closeSync(pidfd);
  await removePlace(engine, place);
}

/** Task Create without a sandbox: nothing of its own; it ends with its one container. */
export class ImplicitSandbox implements Sandbox {
  readonly id: string;
  readonly pid = 0;
  readonly createdAt: bigint;
  readonly extra: Readonly<Record<string, unknown>>;
  readonly containers = new Map<string, ContainerProcess>();
  readonly exited: Promise<ExitStatus>;
  exit: ExitStatus | undefined;
  readonly #engine: Engine;
  readonly #onDestroyed: () => void;
  #end!: (exit: ExitStatus) => void;
  #stopped = false;

  constructor(
    engine: Engine,
    options: Pick<SandboxOptions, "id" | "extra">,
    createdAt: bigint,
    onDestroyed: () => void,
  ) {
    this.#engine = engine;
    this.id = options.id;
    this.extra = options.extra ?? {};
    this.createdAt = createdAt;
    this.#onDestroyed = onDestroyed;
    this.exited = new Promise((resolve) => {
      this.#end = (exit) => {
        this.exit ??= exit;
        resolve(this.exit);
      };
    });
  }

  get site(): ContainerSite {
    return {
      sandbox: undefined,
      files: undefined,
      base: () => this.#engine.base(),
      forget: (container) => void this.containers.delete(container.id),
    };
  }

  adopt(container: ContainerProcess): void {
    this.containers.set(container.id, container);
    void container.exited.then((exit) => this.#end(exit));
  }

  async create(options: ContainerOptions): Promise<ContainerProcess> {
    if (this.#stopped || this.containers.size > 0)
      throw precondition(`sandbox "${this.id}": is implicit and has had its one container`);
    const container = await ContainerProcess.create(this.#engine, this.site, options);
    this.adopt(container);
    return container;
  }

  async stats(): Promise<CgroupStats> {
    const [container] = this.containers.values();
    return container ? container.stats() : readStats("");
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all([...this.containers.values()].map((container) => end(container)));
    this.#end({ status: 0, exitedAt: now() });
  }

  async destroy(): Promise<void> {
    await this.stop();
    for (const container of [...this.containers.values()]) await container.delete();
    this.#onDestroyed();
  }
}
