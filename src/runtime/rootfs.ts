import * as path from "node:path";
import { invalid, unsupported } from "../base/errors";
import { OP, OPEN, type PlanWriter, type Slot } from "../native";
import type { Mount } from "../oci/mount";
import type { Spec } from "../oci/runtime-spec";
import {
  ATTR,
  MS_REC,
  MS_SHARED,
  MS_SLAVE,
  MS_UNBINDABLE,
  parseMountOptions,
  propagationOf,
} from "./mount-options";

const RECURSIVE = 1;

export const rootPropagation = (spec: Spec): number =>
  propagationOf(spec.linux?.rootfsPropagation) ?? MS_SLAVE | MS_REC;

/** Words that the root takes only when the tree is complete (writeRootPropagation). */
export const LATE = MS_SHARED | MS_UNBINDABLE;

/**
 * Opens what makes the root filesystem (on the host) and attaches it in the base. Without rootfs mounts the
 * spec's own root directory is ready to use.
 *
 * While the tree is put together the root must not be a peer of anything on the host, or the host would gain
 * every mount made inside (R8): a shared root becomes shared only at the end, as a peer group of its own.
 */
export function writeRoot(
  plan: PlanWriter,
  spec: Spec,
  rootfs: readonly Mount[],
  bundle: string,
): () => void {
  const [first, ...further] = rootfs;
  const source = path.resolve(bundle, spec.root?.path ?? "rootfs");
  if (first?.target) throw invalid("rootfs[0].target", first.target, "the first mount is the root itself");
  const root = first
    ? openFilesystem(plan, first, "rootfs[0]")
    : { slot: plan.open(OPEN.tree, { path: source, flags: RECURSIVE }), set: 0n, clear: 0n };
  const others = further.map((mount, i) => ({
    target: path.posix.join("/", mount.target ?? ""),
    ...openFilesystem(plan, mount, `rootfs[${i + 1}]`),
  }));

  return () => {
    const wanted = rootPropagation(spec);
    plan.op(OP.attachRoot, {
      a: root.slot,
      b: (wanted & LATE) !== 0 ? MS_SLAVE | MS_REC : wanted,
      x: root.set,
      y: root.clear,
      subject: first?.source ?? source,
    });
    for (const { target, slot, set, clear } of others)
      plan.op(OP.mountTree, {
        a: slot,
        c: plan.string(target),
        d: MS_SLAVE | MS_REC,
        x: set,
        y: clear,
        subject: target,
      });
  };
}

interface Opened {
  readonly slot: Slot;
  /** What is still to be set when it is attached. */
  readonly set: bigint;
  readonly clear: bigint;
}

function openFilesystem(plan: PlanWriter, mount: Mount, field: string): Opened {
  const options = parseMountOptions(mount.options, `${field}.options`);
  const { set, clear } = options.attributes;
  if ((options.recursive.set | options.recursive.clear) !== 0n || options.copyUp)
    throw unsupported(`${field}.options`, mount.options, "recursive attributes and tmpcopyup are for mounts");
  if (options.bind || mount.type === "bind" || mount.type === "rbind") {
    if (options.data.length > 0) throw unsupported(`${field}.options`, options.data, "a bind has no data");
    const recursive = options.bind !== "bind" && mount.type !== "bind" ? RECURSIVE : 0;
    const flags = options.bind === "rbind" ? RECURSIVE : recursive;
    return { slot: plan.open(OPEN.tree, { path: mount.source, flags }), set, clear };
  }
  if (mount.type === "overlay")
    return { slot: openOverlay(plan, options.data, set, field), set: 0n, clear: 0n };
  if (mount.type === "") throw invalid(`${field}.type`, mount.type, "must name a file system");
  const list = [...options.data, ...((set & ATTR.rdonly) !== 0n && isOnDisk(mount.type) ? ["ro"] : [])];
  const slot = plan.open(OPEN.filesystem, { path: mount.source, data: mount.type, list, flags: Number(set) });
  return { slot, set: 0n, clear: 0n };
}

/** A read-only device needs a read-only superblock; elsewhere `ro` is the mount's affair only. */
const isOnDisk = (type: string): boolean => type !== "tmpfs" && type !== "ramfs";

/**
 * Directories relative to their common parent, from where the stub mounts: a value given to fsconfig(2) ends
 * at 255 bytes, and images with many layers would not fit.
 */
function openOverlay(plan: PlanWriter, data: readonly string[], set: bigint, field: string): Slot {
  const values = new Map<string, string>();
  const rest: string[] = [];
  for (const word of data) {
    const [, key, value] = /^(lowerdir|upperdir|workdir)=(.*)$/s.exec(word) ?? [];
    if (key && value !== undefined) values.set(key, value);
    else rest.push(word);
  }
  const lower = splitEscaped(values.get("lowerdir") ?? "");
  if (lower.some((dir) => dir === "") && lower.length > 0)
    throw unsupported(`${field}.options`, data, "overlay needs lowerdir without data-only layers");
  const directories = [...lower, ...["upperdir", "workdir"].flatMap((key) => values.get(key) ?? [])];
  if (!directories.every((dir) => dir.startsWith("/")))
    throw invalid(`${field}.options`, data, "overlay directories must be absolute");
  const base = commonDirectory(directories);
  const relative = (dir: string): string => (base === "/" ? dir : dir.slice(base.length + 1));
  const list = [`lowerdir=${lower.map(relative).join(":")}`];
  for (const key of ["upperdir", "workdir"]) {
    const value = values.get(key);
    if (value !== undefined) list.push(`${key}=${relative(value)}`);
  }
  return plan.open(OPEN.overlay, { path: base, list: [...list, ...rest], flags: Number(set) });
}

/** `a:b\:c` is two directories; the escapes stay, overlayfs reads them. */
function splitEscaped(list: string): string[] {
  return list === "" ? [] : list.split(/(?<!\\):/);
}

function commonDirectory(directories: readonly string[]): string {
  if (directories.some((dir) => dir.includes("\\"))) return "/";
  const [first = [], ...others] = directories.map((dir) => dir.split("/").slice(0, -1));
  let length = first.length;
  for (const parts of others) {
    let same = 0;
    while (same < length && parts[same] === first[same]) same++;
    length = same;
  }
  return first.slice(0, length).join("/") || "/";
}
