import * as fs from "node:fs";
import * as path from "node:path";
import { IsopodError } from "../base/errors";
import type { Launched, LaunchOptions } from "../native";
import { slicePath, unitPlace } from "../oci/cgroups-path";
import { cgroupOf, cgroupRoot, destroyCgroup, signalAll } from "./cgroup";
import type { Engine } from "./engine";
import { stopUnit } from "./systemd/units";
import type { Target } from "./target";

/**
 * Where a container or a sandbox's stub is: a cgroup that is ours to make and to remove, or one that systemd
 * makes and removes along with a unit of its own.
 */
export interface Place {
  /** Absolute path. */
  readonly cgroup: string;
  /** e.g. `isopod-ID.scope`. */
  readonly unit?: string;
  /** Known until the launch; systemd knows afterwards. */
  readonly slice?: string;
}

/** What `cgroupsPath` means for `id`: its form says who makes the cgroup. */
export function placeOf(target: Target, cgroupsPath: string | undefined, id: string): Place {
  const named = unitPlace("linux.cgroupsPath", cgroupsPath ?? "");
  if (named === undefined) return { cgroup: cgroupOf(target, cgroupsPath, id) };
  return { ...named, cgroup: path.posix.join(cgroupRoot(target), slicePath(named.slice), named.unit) };
}

/** Makes the parents of a place, if that is not systemd's to do. */
export function claimParents(
  engine: Pick<Engine, "parents">,
  { cgroup, unit }: Place,
  controllers: readonly string[] = [],
): void {
  if (unit === undefined) engine.parents.claim(cgroup, controllers);
}

export function releaseParents(engine: Pick<Engine, "parents">, { cgroup, unit }: Place): void {
  if (unit === undefined) engine.parents.release(cgroup);
}

/** How a unit is called besides its name, and what the spec says of it. */
export interface UnitWords {
  readonly description: string;
  readonly annotations?: Readonly<Record<string, string>> | undefined;
}

export async function launchInto(
  engine: Engine,
  place: Place,
  options: Omit<LaunchOptions, "cgroup" | "unit">,
  words: UnitWords,
): Promise<Launched> {
  const { cgroup, unit: name, slice = "" } = place;
  if (name === undefined) return launchBelow(engine, { ...options, cgroup });
  const { unit, writes } = await engine.units.scope({
    ...words,
    slice,
    unit: name,
    writes: options.cgroupWrites ?? [],
  });
  return engine.native.launch({ ...options, cgroup, unit, cgroupWrites: writes });
}

/** The parent may have been removed since it was claimed. */
async function launchBelow(
  engine: Engine,
  options: LaunchOptions & { readonly cgroup: string },
): Promise<Launched> {
  try {
    return await engine.native.launch(options);
  } catch (error) {
    if (!IsopodError.is(error) || error.errno !== "ENOENT" || error.path !== options.cgroup) throw error;
    engine.parents.restore(options.cgroup);
    return engine.native.launch(options);
  }
}

const SIGKILL = 9;

/**
 * Kills what is left in a place and removes it; one that is gone is fine. A unit ends by itself with its last
 * process, and systemd then removes the cgroup. We must not be quicker: systemd looks into the directory to see
 * that it is empty, and would take a unit without one to be running for ever.
 */
export async function removePlace(
  { native, target }: Pick<Engine, "native"> & { readonly target: Pick<Target, "features"> },
  { cgroup, unit }: Place,
): Promise<void> {
  if (unit !== undefined && fs.existsSync(cgroup)) {
    signalAll(native, target, cgroup, SIGKILL);
    await stopUnit(native, unit);
  }
  await destroyCgroup(native, cgroup);
}
