import { invalid } from "../base/errors";
import { OP, type PlanWriter } from "../native";
import type { Device, DeviceRule, Spec } from "../oci/runtime-spec";

/** The nodes that the specification promises to every container (config-linux.md, "default devices"). */
const DEFAULT_NODES: readonly Device[] = [
  { path: "/dev/null", type: "c", major: 1, minor: 3 },
  { path: "/dev/zero", type: "c", major: 1, minor: 5 },
  { path: "/dev/full", type: "c", major: 1, minor: 7 },
  { path: "/dev/random", type: "c", major: 1, minor: 8 },
  { path: "/dev/urandom", type: "c", major: 1, minor: 9 },
  { path: "/dev/tty", type: "c", major: 5, minor: 0 },
];

const LINKS: readonly (readonly [string, string])[] = [
  ["/dev/fd", "/proc/self/fd"],
  ["/dev/stdin", "/proc/self/fd/0"],
  ["/dev/stdout", "/proc/self/fd/1"],
  ["/dev/stderr", "/proc/self/fd/2"],
  ["/dev/core", "/proc/kcore"],
  ["/dev/ptmx", "pts/ptmx"],
];

/**
 * Allowed whatever the spec says, after its rules (the last match wins): the default nodes, terminals, and
 * making a node, which is harmless since using it is a matter of r and w.
 */
const DEFAULT_RULES: readonly DeviceRule[] = [
  { allow: true, type: "c", access: "m" },
  { allow: true, type: "b", access: "m" },
  ...DEFAULT_NODES.map(({ major, minor }) => ({
    allow: true,
    type: "c",
    major: major!,
    minor: minor!,
    access: "rwm",
  })),
  { allow: true, type: "c", major: 5, minor: 2, access: "rwm" },
  { allow: true, type: "c", major: 136, access: "rwm" },
];

/** What the cgroup's device program must decide: deny all, then the spec's rules, then the defaults. */
export function deviceRules(spec: Spec): readonly DeviceRule[] {
  return [
    { allow: false, type: "a", access: "rwm" },
    ...(spec.linux?.resources?.devices ?? []),
    ...DEFAULT_RULES,
  ];
}

const S_IFCHR = 0o020000;
const S_IFBLK = 0o060000;
const S_IFIFO = 0o010000;

/** Nodes and links of /dev. They are made by mknod inside the container's tree, never on the host's. */
export function writeDevices(plan: PlanWriter, spec: Spec): void {
  const own = spec.linux?.devices ?? [];
  const named = new Set(own.map((device) => device.path));
  for (const device of DEFAULT_NODES) if (!named.has(device.path)) mknod(plan, device, device.path);
  for (const [i, device] of own.entries()) {
    if (device.type !== "p" && (typeof device.major !== "number" || typeof device.minor !== "number"))
      throw invalid(`linux.devices[${i}]`, device, "a device needs major and minor");
    mknod(plan, device, device.path);
  }
  for (const [link, target] of LINKS)
    if (!named.has(link))
      plan.op(OP.symlink, { c: plan.string(link), a: plan.string(target), subject: link });
}

function mknod(plan: PlanWriter, device: Device, path: string): void {
  const kind = device.type === "b" ? S_IFBLK : device.type === "p" ? S_IFIFO : S_IFCHR;
  const mode = kind | ((device.fileMode ?? 0o666) & 0o7777);
  const number = device.type === "p" ? 0 : ((device.major ?? 0) << 20) | (device.minor ?? 0);
  const directory = path.slice(0, path.lastIndexOf("/"));
  if (directory !== "/dev" && directory !== "")
    plan.op(OP.mkdir, { c: plan.string(directory), a: 0o755, subject: directory });
  plan.op(OP.mknod, {
    c: plan.string(path),
    a: mode,
    b: number >>> 0,
    x: BigInt(device.uid ?? 0) | (BigInt(device.gid ?? 0) << 32n),
    subject: path,
  });
}
