import { IsopodError } from "../base/errors";
import type { CgroupWrite } from "../native";
import type { Resources } from "../oci/runtime-spec";
import type { Warn } from "./compile-process";

export interface CgroupHost {
  readonly cgroupRoot: string;
  /** What cgroup2 offers at its root. */
  readonly controllers: readonly string[];
}

/** A write, with what it was asked for by. */
export interface Limit extends CgroupWrite {
  /** e.g. `linux.resources.memory.limit`. */
  readonly field: string;
  readonly controller: string;
}

export interface ResourcesChange {
  /** What the members of this are to be called: `linux.resources`. */
  readonly field: string;
  /** Checked by `checkResources`. */
  readonly change: Resources;
  /** What already holds for the container, for members that only make sense together. Absent: a new one. */
  readonly held?: Resources;
  readonly host: CgroupHost;
  readonly warn: Warn;
}

/** Collects writes, and refuses those whose controller the host lacks. */
export class Limits {
  readonly all: Limit[] = [];
  readonly #options: ResourcesChange;

  constructor(options: ResourcesChange) {
    this.#options = options;
  }

  /** `member`, e.g. `memory.limit`, asks with `value` for these writes. */
  add(controller: string, member: string, value: unknown, ...writes: CgroupWrite[]): void {
    const field = this.field(member);
    if (controller !== "cgroup" && !this.has(controller))
      throw missingController(field, value, controller, this.#options.host);
    for (const write of writes) this.all.push({ ...write, field, controller });
  }

  /** As `add`, for what says "no limit": without the controller there is none. */
  lift(controller: string, member: string, value: unknown, ...writes: CgroupWrite[]): void {
    if (this.has(controller)) this.add(controller, member, value, ...writes);
  }

  /**
   * As `add`, for what kubelet asks of every container: a host without the controller runs it all the same,
   * and says so.
   */
  wish(controller: string, member: string, value: unknown, ...writes: CgroupWrite[]): void {
    if (this.has(controller)) {
      this.add(controller, member, value, ...writes);
      return;
    }
    this.#options.warn(`${this.field(member)} is dropped: cgroup2 has no ${controller} controller here`, {
      value,
    });
  }

  has(controller: string): boolean {
    return this.#options.host.controllers.includes(controller);
  }

  field(member: string): string {
    return `${this.#options.field}.${member}`;
  }
}

function missingController(field: string, value: unknown, controller: string, host: CgroupHost): IsopodError {
  const present = host.controllers.join(" ") || "none";
  return new IsopodError(
    "FAILED_PRECONDITION",
    `${field}: ${JSON.stringify(value)}: needs the ${controller} controller, which cgroup2 at ` +
      `${host.cgroupRoot} has not (it has: ${present}): give it there, or leave the limit out`,
    { path: field },
  );
}
