import { invalid } from "../base/errors";
import type { Capabilities } from "../oci/runtime-spec";
import type { SecurityContext } from "./types";

/** capabilities(7) by number. */
const ALL = (
  "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE " +
  "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT " +
  "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE " +
  "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ " +
  "PERFMON BPF CHECKPOINT_RESTORE"
)
  .split(" ")
  .map((name) => `CAP_${name}`);

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
  const grantable = ALL.filter((_name, number) => (host >> BigInt(number)) & 1n);
  const ambient = names(security.addAmbientCapabilities, "add_ambient_capabilities", grantable);
  const granted = security.privileged ? new Set(grantable) : chosen(security, grantable);
  for (const name of ambient) granted.add(name);
  const set = ALL.filter((name) => granted.has(name));
  return {
    bounding: set,
    effective: set,
    permitted: set,
    inheritable: ALL.filter((name) => ambient.has(name)),
    ambient: ALL.filter((name) => ambient.has(name)),
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
      if (!ALL.includes(name)) throw invalid(field, text, "no such capability");
      return [name];
    }),
  );
}
