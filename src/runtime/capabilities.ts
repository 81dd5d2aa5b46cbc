import { CAPABILITIES } from "../oci/capabilities";
import type { Capabilities } from "../oci/runtime-spec";

const bits = new Map<string, bigint>(CAPABILITIES.map((name, bit) => [name, 1n << BigInt(bit)]));

export const CAP_SYS_RESOURCE = bits.get("CAP_SYS_RESOURCE")!;

export interface CapabilitySets {
  readonly bounding: bigint;
  readonly effective: bigint;
  readonly permitted: bigint;
  readonly inheritable: bigint;
  readonly ambient: bigint;
}

/**
 * Absent sets are empty, inheritable above all (CVE-2022-29162). Capabilities that this kernel or this
 * process does not have cannot be given: they are left out and named to `warn`, as runc and crun do, because
 * "privileged" lists all that the spec's author has heard of. An ambient capability needs its permitted and
 * inheritable twin; one without is left out the same way.
 */
export function capabilitySets(
  spec: Capabilities | undefined,
  available: bigint,
  warn: (message: string, fields: Record<string, unknown>) => void,
): CapabilitySets {
  const missing = new Set<string>();
  const set = (names: readonly string[] | null | undefined): bigint => {
    let mask = 0n;
    for (const name of names ?? []) {
      const bit = bits.get(name) ?? 0n;
      if ((bit & available) === 0n) missing.add(name);
      mask |= bit & available;
    }
    return mask;
  };
  const bounding = set(spec?.bounding);
  const permitted = set(spec?.permitted);
  const effective = set(spec?.effective);
  const inheritable = set(spec?.inheritable);
  const asked = set(spec?.ambient);
  const ambient = asked & permitted & inheritable;
  if (missing.size > 0)
    warn("capabilities that are not available here are left out", { capabilities: [...missing] });
  if (ambient !== asked)
    warn("ambient capabilities that are not permitted and inheritable are left out", {
      capabilities: CAPABILITIES.filter((name) => (bits.get(name)! & asked & ~ambient) !== 0n),
    });
  return { bounding, effective, permitted, inheritable, ambient };
}
