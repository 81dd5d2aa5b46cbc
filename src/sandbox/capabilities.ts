import { invalid } from "../base/errors";
import { CAPABILITIES } from "../oci/capabilities";
import type { Capabilities } from "../oci/runtime-spec";
import type { SecurityContext } from "./types";

const KNOWN: ReadonlySet<string> = new Set(CAPABILITIES);

/** What containerd and Docker grant when nothing is asked. */
const DEFAULT = new Set(
  (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE " +
    "SYS_CHROOT KILL AUDIT_WRITE"
  )
    .split(" ")
    .map((name) => `CAP_${name}`),
);

/**
 * The sets of a container's first process. Inheritable stays empty (CVE-2022-24769) but for ambient ones,
 * which the kernel requires there. `host` is the bit mask of what we have ourselves: "ALL" can be no more.
 */
export function capabilitiesOf(security: SecurityContext, host: bigint): Capabilities {
  const grantable = CAPABILITIES.filter((_name, number) => (host >> BigInt(number)) & 1n);
  const ambient = names(security.addAmbientCapabilities, "add_ambient_capabilities", grantable);
  const granted = security.privileged ? new Set(grantable) : chosen(security, grantable);
  for (const name of ambient) granted.add(name);
  const set = CAPABILITIES.filter((name) => granted.has(name));
  return {
    bounding: set,
    effective: set,
    permitted: set,
    inheritable: CAPABILITIES.filter((name) => ambient.has(name)),
    ambient: CAPABILITIES.filter((name) => ambient.has(name)),
  };
}

/** "ALL" is done first, on either side, then single names. */
function chosen(security: SecurityContext, grantable: readonly string[]): Set<string> {
  const isAll = (name: string) => name.toUpperCase() === "ALL";
  const { addCapabilities, dropCapabilities } = security;
  let granted = new Set(DEFAULT);
  if (addCapabilities.some(isAll)) granted = new Set(grantable);
  if (dropCapabilities.some(isAll)) granted = new Set();
  const rest = (list: readonly string[]) => list.filter((name) => !isAll(name));
  for (const name of names(rest(addCapabilities), "add_capabilities", grantable)) granted.add(name);
  for (const name of names(rest(dropCapabilities), "drop_capabilities", grantable)) granted.delete(name);
  return granted;
}

function names(list: readonly string[], field: string, grantable: readonly string[]): Set<string> {
  return new Set(
    list.flatMap((text) => {
      const upper = text.toUpperCase();
      if (upper === "ALL") return grantable;
      const name = upper.startsWith("CAP_") ? upper : `CAP_${upper}`;
      if (!KNOWN.has(name)) throw invalid(field, text, "no such capability");
      return [name];
    }),
  );
}
