import * as path from "node:path";
import { invalid, unsupported } from "../base/errors";
import { OP, OPEN, type PlanWriter, type Slot } from "../native";
import type { Spec, SpecMount } from "../oci/runtime-spec";
import {
  ATTR,
  type MountOptions,
  MS_REC,
  MS_SHARED,
  MS_SLAVE,
  MS_UNBINDABLE,
  parseMountOptions,
} from "./mount-options";
import type { NamespacePlan } from "./namespaces";
import { LATE, rootPropagation } from "./rootfs";

const RECURSIVE = 1;

/** What a sandbox keeps in its own mount namespace, the base, for its containers (R9). */
export interface BaseFiles {
  readonly shm: boolean;
  /** Names below /files. */
  readonly files: readonly string[];
}

/** Where a container finds each file of its pod. */
const POD_FILES: Readonly<Record<string, string>> = {
  hostname: "/etc/hostname",
  hosts: "/etc/hosts",
  "resolv.conf": "/etc/resolv.conf",
};

interface PlannedMount {
  readonly target: string;
  readonly options: MountOptions;
  /** A bind's tree, opened on the host. */
  readonly tree?: Slot;
  readonly type: string;
  readonly source: string;
  /** Attributes that a tmpfs gets at the end only: others are mounted below it, and /dev is filled. */
  readonly late: bigint;
}

/** The mounts of a container in two steps, after their binds were opened on the host. */
export interface Mounts {
  /** Puts everything in its place, in the spec's order. */
  attach(): void;
  /** After pivot: what had to stay writable until now becomes read-only. */
  close(): void;
}

/** Called before the stub leaves the host. */
export function openMounts(
  plan: PlanWriter,
  spec: Spec,
  bundle: string,
  wanted: NamespacePlan,
  cgroupRoot: string,
): Mounts {
  const site = { bundle, wanted, cgroupRoot };
  const planned = (spec.mounts ?? []).map((mount, i) => openMount(plan, mount, `mounts[${i}]`, site));
  return {
    attach: () => {
      for (const mount of planned) {
        if (mount.tree === undefined) mountNew(plan, mount);
        else mountTree(plan, mount.target, mount.tree, mount.options, defaultPropagation(spec));
      }
    },
    close: () => {
      for (const { target, late } of planned)
        if (late !== 0n) plan.op(OP.setAttr, { c: plan.string(target), x: late, subject: target });
      if (spec.root?.readonly) plan.op(OP.setAttr, { c: plan.string("/"), x: ATTR.rdonly, subject: "/" });
    },
  };
}

/** What a mount depends on besides its own words. */
interface MountSite {
  readonly bundle: string;
  readonly wanted: NamespacePlan;
  /** The host's cgroup2 mount; "" if there is none. */
  readonly cgroupRoot: string;
}

function openMount(plan: PlanWriter, mount: SpecMount, field: string, site: MountSite): PlannedMount {
  const options = parseMountOptions(mount.options, `${field}.options`);
  const target = path.posix.normalize(mount.destination).replace(/(.)\/$/, "$1");
  if (target === "/") throw invalid(`${field}.destination`, mount.destination, "the root is rootfs's affair");
  const bind = options.bind ?? (mount.type === "bind" || mount.type === "rbind" ? mount.type : undefined);
  checkProc(target, field, bind, mount);
  if (bind) {
    if (!mount.source) throw invalid(`${field}.source`, mount.source, "a bind needs a source");
    if (options.data.length > 0)
      throw unsupported(`${field}.options`, options.data, "a bind takes no file system data");
    const source = path.resolve(site.bundle, mount.source);
    const tree = plan.open(OPEN.tree, { path: source, flags: bind === "rbind" ? RECURSIVE : 0 });
    return { target, options, tree, type: "bind", source, late: 0n };
  }
  if (!mount.type || mount.type === "none")
    throw invalid(`${field}.type`, mount.type, "must name a file system");
  const type = mount.type === "cgroup" ? "cgroup2" : mount.type;
  if (type === "cgroup2" && !site.wanted.has("cgroup"))
    return hostCgroup(plan, mount, field, options, target, site);
  const late = type === "tmpfs" ? options.attributes.set & ATTR.rdonly : 0n;
  return { target, options, type, source: mount.source || type, late };
}

/** The word of a bind that has none: the root's (R8); an unbindable root says nothing about volumes. */
const defaultPropagation = (spec: Spec): number => {
  const root = rootPropagation(spec);
  return (root & MS_UNBINDABLE) !== 0 ? MS_SLAVE | MS_REC : root;
};

/** Below /proc only what lxcfs provides may be mounted; over it only a proc, or a bind of one. */
const LXCFS = new Set(
  [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
  ].map((name) => `/proc/${name}`),
);

/** CVE-2019-16884, CVE-2023-27561: what stands at /proc must be a proc, or writes to it go astray. */
function checkProc(target: string, field: string, bind: string | undefined, mount: SpecMount): void {
  if (target === "/proc" && mount.type !== "proc" && !(bind && mount.source?.replace(/\/+$/, "") === "/proc"))
    throw invalid(
      `${field}.destination`,
      mount.destination,
      "only proc, or a bind of the host's, may be there",
    );
  if (target.startsWith("/proc/") && !LXCFS.has(target))
    throw invalid(`${field}.destination`, mount.destination, "inside /proc only lxcfs files may be mounted");
}

/** Options of cgroup2 that hold for the whole hierarchy, whoever mounts it. */
const CGROUP_WIDE = ["nsdelegate", "memory_recursiveprot", "memory_localevents", "favordynmods"];

/**
 * Without a cgroup namespace of its own the container sees the host's whole hierarchy: by a clone of the host's
 * mount, since a new mount's options, or their absence, would become the host's (cgroup2 has one superblock),
 * and read-only unless the spec says `rw` in so many words (CVE-2023-25809).
 */
function hostCgroup(
  plan: PlanWriter,
  mount: SpecMount,
  field: string,
  options: MountOptions,
  target: string,
  { cgroupRoot }: MountSite,
): PlannedMount {
  const other = options.data.filter((word) => !CGROUP_WIDE.includes(word));
  if (other.length > 0) throw unsupported(`${field}.options`, other, "no options of cgroup2");
  const tree = plan.open(OPEN.tree, { path: cgroupRoot });
  const guarded = mount.options?.includes("rw") ? options : readonly(options);
  return { target, options: guarded, tree, type: "bind", source: cgroupRoot, late: 0n };
}

function readonly(options: MountOptions): MountOptions {
  const { set, clear } = options.attributes;
  return { ...options, attributes: { set: set | ATTR.rdonly, clear } };
}

function mountNew(plan: PlanWriter, mount: PlannedMount): void {
  const { target, options, type, source, late } = mount;
  plan.op(OP.mountNew, {
    a: plan.string(type),
    b: plan.string(source),
    c: plan.string(target),
    d: options.data.length > 0 ? plan.list(options.data) : 0,
    x: options.attributes.set & ~late,
    y: BigInt(options.propagation ?? 0),
    subject: target,
  });
  if (options.copyUp) plan.op(OP.copyUp, { c: plan.string(target), subject: target });
  recursiveAttributes(plan, target, options);
}

/**
 * A clone takes its word before it is attached, or the host gains what is mounted inside it. Only `rshared`
 * stays a peer. A word that is not recursive would leave the submounts peers: they are made slaves first.
 */
function mountTree(
  plan: PlanWriter,
  target: string,
  tree: Slot,
  options: MountOptions,
  propagation: number,
): void {
  const word = options.propagation ?? propagation;
  const whole = (word & (MS_REC | MS_SHARED)) !== 0;
  plan.op(OP.mountTree, {
    a: tree,
    c: plan.string(target),
    d: whole ? word : MS_SLAVE | MS_REC,
    x: options.attributes.set,
    y: options.attributes.clear,
    subject: target,
  });
  if (!whole && word !== MS_SLAVE)
    plan.op(OP.propagate, { c: plan.string(target), a: word, subject: target });
  recursiveAttributes(plan, target, options);
}

function recursiveAttributes(plan: PlanWriter, target: string, options: MountOptions): void {
  const { set, clear } = options.recursive;
  if ((set | clear) === 0n) return;
  plan.op(OP.setAttr, { c: plan.string(target), x: set, y: clear, b: RECURSIVE, subject: target });
}

/** The pod's shm and files, for a spec that does not bring its own at the same place. */
export function writePodMounts(plan: PlanWriter, spec: Spec, base: BaseFiles): void {
  const taken = new Set((spec.mounts ?? []).map((mount) => path.posix.normalize(mount.destination)));
  const attach = (from: string, target: string, attributes: bigint): void => {
    if (taken.has(target)) return;
    const tree = plan.slot();
    plan.op(OP.baseTree, { a: tree, subject: from });
    plan.op(OP.mountTree, {
      a: tree,
      c: plan.string(target),
      d: MS_SLAVE | MS_REC,
      x: attributes,
      y: (attributes & ATTR.rdonly) === 0n ? ATTR.rdonly : 0n,
      subject: target,
    });
  };
  if (base.shm) attach("/shm", "/dev/shm", ATTR.nosuid | ATTR.nodev | ATTR.noexec);
  const readonly = spec.root?.readonly ? ATTR.rdonly : 0n;
  for (const name of base.files) {
    const target = POD_FILES[name];
    if (target) attach(`/files/${name}`, target, readonly);
  }
}

/** True if /dev is the container's own, to be filled with nodes. */
export const hasOwnDev = (spec: Spec): boolean =>
  !(spec.mounts ?? []).some(
    (mount) =>
      path.posix.normalize(mount.destination) === "/dev" &&
      (mount.type === "bind" || (mount.options ?? []).some((word) => word === "bind" || word === "rbind")),
  );

/** A clone of the host's own /dev/null, taken before anything of the image is in sight (CVE-2025-31133). */
export function openMaskSource(plan: PlanWriter, spec: Spec): Slot | undefined {
  if ((spec.linux?.maskedPaths ?? []).length === 0) return undefined;
  return plan.open(OPEN.tree, { path: "/dev/null" });
}

export function writeMasks(plan: PlanWriter, spec: Spec, source: Slot | undefined): void {
  for (const path of spec.linux?.readonlyPaths ?? [])
    plan.op(OP.readonly, { c: plan.string(path), subject: path });
  if (source === undefined) return;
  for (const path of spec.linux?.maskedPaths ?? [])
    plan.op(OP.mask, { a: source, c: plan.string(path), subject: path });
}

/** A shared or unbindable root gets its word only now, when nothing of the host is its peer. */
export function writeRootPropagation(plan: PlanWriter, spec: Spec): void {
  const wanted = rootPropagation(spec);
  if ((wanted & LATE) === 0) return;
  plan.op(OP.propagate, {
    c: plan.string("/"),
    a: wanted & ~MS_REC,
    b: (wanted & MS_REC) !== 0 ? RECURSIVE : 0,
    subject: "/",
  });
}
