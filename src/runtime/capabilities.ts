import type { Capabilities } from "../oci/runtime-spec";

/** Capabilities by their bit, in the kernel's order (linux/capability.h). */
export const CAPABILITIES = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_DAC_READ_SEARCH",
  "CAP_FOWNER",
  "CAP_FSETID",
  "CAP_KILL",
  "CAP_SETGID",
  "CAP_SETUID",
  "CAP_SETPCAP",
  "CAP_LINUX_IMMUTABLE",
  "CAP_NET_BIND_SERVICE",
  "CAP_NET_BROADCAST",
  "CAP_NET_ADMIN",
  "CAP_NET_RAW",
  "CAP_IPC_LOCK",
  "CAP_IPC_OWNER",
  "CAP_SYS_MODULE",
  "CAP_SYS_RAWIO",
  "CAP_SYS_CHROOT",
  "CAP_SYS_PTRACE",
  "CAP_SYS_PACCT",
  "CAP_SYS_ADMIN",
  "CAP_SYS_BOOT",
  "CAP_SYS_NICE",
  "CAP_SYS_RESOURCE",
  "CAP_SYS_TIME",
  "CAP_SYS_TTY_CONFIG",
  "CAP_MKNOD",
  "CAP_LEASE",
  "CAP_AUDIT_WRITE",
  "CAP_AUDIT_CONTROL",
  "CAP_SETFCAP",
  "CAP_MAC_OVERRIDE",
  "CAP_MAC_ADMIN",
  "CAP_SYSLOG",
  "CAP_WAKE_ALARM",
  "CAP_BLOCK_SUSPEND",
  "CAP_AUDIT_READ",
  "CAP_PERFMON",
  "CAP_BPF",
  "CAP_CHECKPOINT_RESTORE",
] as const;

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
