import { isDeepStrictEqual } from "node:util";
import { IsopodError, messageOf, precondition, unsupported } from "../base/errors";
import type { CgroupWrite } from "../native";
import type { DeviceRule, Resources } from "../oci/runtime-spec";
import { readMemoryUsage } from "./cgroup-stats";
import type { Engine } from "./engine";
import type { Limit } from "./limit-list";
import type { Place } from "./place";
import { compileResources, controllersOf } from "./resources";
import { mergeResources } from "./resources-merge";
import { checkResources } from "./validate";

/** The limits that hold for one container, and how they are changed: all that is asked for, or nothing. */
export class HeldLimits {
  readonly #engine: Engine;
  readonly #place: Place;
  #held: Resources;
  /** One change at a time: each reads what the one before has left. */
  #changing: Promise<void> = Promise.resolve();

  constructor(engine: Engine, place: Place, held: Resources) {
    this.#engine = engine;
    this.#place = place;
    this.#held = held;
  }

  /** As created, and as changed since. */
  get held(): Resources {
    return this.#held;
  }

  /** `record` makes what then holds known to a later server. */
  update(change: Resources, record: () => void): Promise<void> {
    const changing = this.#changing.then(() => this.#update(change, record));
    this.#changing = changing.catch(() => {});
    return changing;
  }

  async #update(change: Resources, record: () => void): Promise<void> {
    checkResources(change, "resources");
    refuseDevices(change.devices, this.#held.devices);
    const { target, parents, warn } = this.#engine;
    const { cgroup } = this.#place;
    const held = this.#held;
    const limits = compileResources({ field: "resources", change, held, host: target, warn });
    if (change.memory?.checkBeforeUpdate) refuseBelowUsage(cgroup, change.memory.limit);
    parents.enable(cgroup, controllersOf(limits));
    const undo = await this.#write(limits).catch((error: unknown) => {
      throw limitError(error, limits);
    });
    this.#held = mergeResources(held, change);
    try {
      record();
    } catch (error) {
      this.#held = held;
      await this.#write(undo);
      throw error;
    }
  }

  /** All or nothing; returns what puts the former values back. systemd checks all before it takes any. */
  async #write(limits: readonly CgroupWrite[]): Promise<readonly CgroupWrite[]> {
    const { native, units } = this.#engine;
    const { cgroup: path, unit } = this.#place;
    if (unit === undefined) return native.cgroupWrite({ path, writes: limits });
    const { properties, writes } = await units.limits(limits);
    const undo = await native.cgroupWrite({ path, writes });
    try {
      await units.set(unit, properties);
    } catch (error) {
      await native.cgroupWrite({ path, writes: undo });
      throw error;
    }
    return undo;
  }
}

/** Who updates a container's spec sends it whole, devices included; these are the launch's. */
function refuseDevices(
  wanted: readonly DeviceRule[] | undefined | null,
  held: readonly DeviceRule[] | undefined,
): void {
  if (!wanted || wanted.length === 0 || isDeepStrictEqual(wanted, held)) return;
  throw unsupported("resources.devices", wanted, "which devices it may use is settled when it is created");
}

/** A limit below what is in use is met by reclaim, and if that is not enough by killing. */
function refuseBelowUsage(cgroup: string, limit: number | undefined): void {
  const usage = readMemoryUsage(cgroup);
  if (!limit || limit < 0 || usage === undefined || usage <= BigInt(limit)) return;
  throw precondition(
    `resources.memory.limit: ${limit}: below the ${usage} bytes in use: ` +
      "free some first, or leave checkBeforeUpdate unset",
  );
}

/** What the kernel refused, by the member that asked for it; other errors as they are. */
export function limitError(error: unknown, limits: readonly Limit[]): unknown {
  if (!IsopodError.is(error) || error.step !== "limit") return error;
  const file = error.path?.slice(error.path.lastIndexOf("/") + 1);
  const limit = limits.find((one) => one.file === file || one.instead?.file === file);
  if (!limit) return error;
  const hint =
    error.errno === "ENOENT" && limit.controller !== "cgroup"
      ? `: the ${limit.controller} controller could not be enabled in the parent cgroup, or has no such setting`
      : "";
  const { code, step, errno } = error;
  return new IsopodError(code, `${limit.field}: ${messageOf(error)}${hint}`, {
    step,
    errno,
    path: limit.field,
    cause: error,
  });
}
