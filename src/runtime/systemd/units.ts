import { IsopodError } from "../../base/errors";
import type { CgroupWrite, Native, UnitOptions, UnitProperty } from "../../native";
import { type UnitLimits, unitLimits } from "./properties";
import { type ScopeOptions, scopeProperties } from "./scope";

/** A cold systemd that starts a hundred pods at once is slow, and as slow as that it may be. */
const TIMEOUT_MS = 30_000;
const MANAGER = "org.freedesktop.systemd1.Manager";

/** Ends a unit and all that is in it; one that is gone is fine. */
export const stopUnit = (native: Native, name: string): Promise<void> =>
  twice(() => native.unitStop({ name, timeoutMs: TIMEOUT_MS }));

/** What says the same when it is said again. systemd that executes itself anew ends its connections. */
async function twice<T>(ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    if (!IsopodError.is(error) || error.code !== "UNAVAILABLE") throw error;
    return ask();
  }
}

/** What one runtime asks of systemd. Nothing is asked before the first unit. */
export class Units {
  readonly #native: Native;
  #version: Promise<number> | undefined;

  constructor(native: Native) {
    this.#native = native;
  }

  /** For a launch: the scope that is to be made, and what its files are given besides. */
  async scope(
    options: Omit<ScopeOptions, "limits"> & {
      readonly unit: string;
      readonly writes: readonly CgroupWrite[];
    },
  ): Promise<{ readonly unit: UnitOptions; readonly writes: readonly CgroupWrite[] }> {
    const { properties: limits, writes } = unitLimits(options.writes, {
      version: await this.#systemdVersion(),
      starting: true,
    });
    const properties = scopeProperties({ ...options, limits });
    return { unit: { name: options.unit, properties, timeoutMs: TIMEOUT_MS }, writes };
  }

  /** Of a running unit: what systemd is to be told of these writes, and what the files are to be given. */
  async limits(writes: readonly CgroupWrite[]): Promise<UnitLimits<CgroupWrite>> {
    return unitLimits(writes, { version: await this.#systemdVersion(), starting: false });
  }

  async set(unit: string, properties: readonly UnitProperty[]): Promise<void> {
    if (properties.length === 0) return;
    await twice(() => this.#native.unitSet({ name: unit, properties, timeoutMs: TIMEOUT_MS }));
  }

  /** 252 of `252.38-1~deb12u1`; 0 if it says nothing of the kind. */
  #systemdVersion(): Promise<number> {
    const asked = { interface: MANAGER, property: "Version", timeoutMs: TIMEOUT_MS };
    this.#version ??= twice(() => this.#native.unitRead(asked)).then(
      (text) => Number(/^(?:systemd )?(\d+)/.exec(text)?.[1] ?? 0),
      (error: unknown) => {
        this.#version = undefined; // asked again next time
        throw error;
      },
    );
    return this.#version;
  }
}
