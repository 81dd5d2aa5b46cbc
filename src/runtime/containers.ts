import * as fs from "node:fs";
import * as path from "node:path";
import { messageOf } from "../base/errors";
import { readFileIfPresent } from "../base/files";
import { now } from "../base/time";
import { type ExitStatus, native } from "../native";
import type { Spec } from "../oci/runtime-spec";
import { CgroupParents } from "./cgroup";
import { ContainerProcess } from "./container";
import type { Engine } from "./engine";
import { removePlace } from "./place";
import { ImplicitSandbox, StubSandbox } from "./sandbox";
import {
  type ContainerRecord,
  type ExecRecord,
  execKey,
  readRecords,
  removeRecord,
  type SandboxRecord,
} from "./state";
import { SliceKills } from "./systemd/slice-kills";
import { Units } from "./systemd/units";
import type { LeftBehind, Runtime, RuntimeOptions, Sandbox, SandboxOptions } from "./types";

export { defaultSeccomp } from "./default-seccomp";
export type * from "./types";
export { checkProcess, checkSpec } from "./validate";

/** The runtime that makes containers of namespaces, in this process. */
export function containerRuntime(options: RuntimeOptions): Runtime {
  fs.mkdirSync(options.stateDir, { recursive: true, mode: 0o700 });
  const engine = engineOf(options);
  const sandboxes = new Set<Sandbox>();
  const add = <T extends Sandbox>(make: (onDestroyed: () => void) => T): T => {
    const sandbox: T = make(() => void sandboxes.delete(sandbox));
    sandboxes.add(sandbox);
    return sandbox;
  };
  return {
    async sandbox(wanted: SandboxOptions): Promise<Sandbox> {
      if (wanted.implicit) return add((gone) => new ImplicitSandbox(engine, wanted, now(), gone));
      let made: StubSandbox | undefined;
      made = await StubSandbox.create(engine, wanted, () => made && sandboxes.delete(made));
      sandboxes.add(made);
      return made;
    },
    recover: (left) => recover(engine, left, add),
  };
}

function engineOf(options: RuntimeOptions): Engine {
  const addon = native();
  const features = addon.features();
  const oomScoreAdj = Number(readFileIfPresent("/proc/self/oom_score_adj") ?? 0);
  const target = { ...features, ...(options.cgroupRoot && { cgroupRoot: options.cgroupRoot }), oomScoreAdj };
  let base: number | Promise<number> | undefined;
  return {
    native: addon,
    target,
    stateDir: options.stateDir,
    store: options.store,
    dieWithParent: options.dieWithParent ?? false,
    warn: options.warn ?? (() => {}),
    parents: new CgroupParents(target),
    units: new Units(addon),
    kills: new SliceKills(),
    ids: new Set(),
    base: () => {
      base ??= addon.baseNamespace().then((fd) => {
        base = fd;
        return fd;
      });
      return base;
    },
  };
}

type Add = <T extends Sandbox>(make: (onDestroyed: () => void) => T) => T;

/**
 * Records first, then the fds and exits that the monitor kept for them. A record without a pid is of
 * something that was being made when the server died: nobody was told of it, so it is taken down.
 */
async function recover(engine: Engine, left: LeftBehind, add: Add): Promise<readonly Sandbox[]> {
  const records = readRecords(engine.stateDir, engine.warn);
  const exits = new Map<string, ExitStatus>(left.exits.map((exit) => [exit.id, exit]));
  const sandboxes = new Map<string, StubSandbox>();
  const containers = new Map<string, ContainerProcess>();
  const found: Sandbox[] = [];
  const half: (SandboxRecord | ContainerRecord)[] = [];
  const of = <K extends string>(kind: K) =>
    records.filter((r): r is Extract<typeof r, { kind: K }> => r.kind === kind);

  for (const record of of("sandbox")) {
    if (record.pid === 0) {
      half.push(record);
      continue;
    }
    const sandbox = add((gone) =>
      StubSandbox.recovered(engine, record, left.fds, exits.get(record.id), gone),
    );
    sandboxes.set(record.id, sandbox);
    found.push(sandbox);
  }
  for (const record of of("container")) {
    if (record.pid === 0) {
      half.push(record);
      continue;
    }
    const parent = record.sandbox === undefined ? undefined : sandboxes.get(record.sandbox);
    const implicit = parent
      ? undefined
      : add((gone) => new ImplicitSandbox(engine, record, BigInt(record.createdAt), gone));
    const site = (parent ?? implicit!).site;
    const spec = readSpec(engine, record);
    const container = ContainerProcess.recovered(engine, site, record, spec, left.fds, exits.get(record.id));
    containers.set(record.id, container);
    parent?.containers.set(record.id, container);
    implicit?.adopt(container);
    if (implicit) found.push(implicit);
  }
  for (const record of of("exec")) adoptExec(engine, record, containers, left, exits);
  await Promise.all(half.map((record) => takeDown(engine, record)));
  closeStray(left.fds, records);
  return found;
}

function adoptExec(
  engine: Engine,
  record: ExecRecord,
  containers: ReadonlyMap<string, ContainerProcess>,
  left: LeftBehind,
  exits: ReadonlyMap<string, ExitStatus>,
): void {
  const key = execKey(record.container, record.id);
  const container = containers.get(record.container);
  if (container) container.adoptExec(record, left.fds, exits.get(key));
  else removeRecord(engine.stateDir, key);
}

/** The bundle's config.json is what it was: an exec needs its namespaces and its filter. */
function readSpec(engine: Engine, record: ContainerRecord): Spec {
  try {
    return JSON.parse(fs.readFileSync(path.join(record.bundle, "config.json"), "utf8")) as Spec;
  } catch (error) {
    engine.warn("a container's config.json cannot be read any more: nothing can be started in it", {
      id: record.id,
      error: messageOf(error),
    });
    return { ociVersion: "1.0.0" };
  }
}

async function takeDown(engine: Engine, record: SandboxRecord | ContainerRecord): Promise<void> {
  engine.warn("taking down what was being made when the server ended", { id: record.id });
  await removePlace(engine, record);
  engine.store?.drop(`${record.id}/`);
  removeRecord(engine.stateDir, record.id);
}

/** Stored fds that no record names. */
function closeStray(
  fds: Readonly<Record<string, number>>,
  records: readonly { id: string; kind: string; pid: number }[],
): void {
  const known = new Set(
    records
      .filter(({ pid }) => pid !== 0)
      .map((record) =>
        record.kind === "exec" ? execKey((record as ExecRecord).container, record.id) : record.id,
      ),
  );
  for (const [name, fd] of Object.entries(fds))
    if (!known.has(name.slice(0, name.lastIndexOf("/")))) fs.closeSync(fd);
}
