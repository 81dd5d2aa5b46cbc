import { invalid } from "../base/errors";

/**
 * `linux.cgroupsPath` and the names that are in it. Its form says who makes the cgroup:
 *
 *   /kubepods/pod1/ID             a path: we do, in the file system ("cgroupfs")
 *   kubepods-pod1.slice:cri:ID    slice, prefix, name: systemd does, as unit cri-ID.scope of that slice
 *
 * A slice's name says where it is (systemd.slice(5)): `a-b-c.slice` lies in `a-b.slice`, that in `a.slice`;
 * `-.slice` is the root.
 */
export interface UnitPlace {
  readonly slice: string;
  /** e.g. `cri-ID.scope`. */
  readonly unit: string;
}

const SLICE = ".slice";
const ROOT_SLICE = "-.slice";
/** What systemd.unit(5) lets a name hold; longer ones are refused by systemd. */
const UNIT_NAME = /^[A-Za-z0-9:_.\\-]+$/;
const MAX_NAME = 255;

/** Undefined for a path. `field` names the value in the text of a refusal. */
export function unitPlace(field: string, cgroupsPath: string): UnitPlace | undefined {
  if (!isUnitForm(cgroupsPath)) return undefined;
  const parts = cgroupsPath.split(":");
  const [slice = "", prefix = "", name = ""] = parts;
  const refuse = (why: string) => invalid(field, cgroupsPath, why);
  if (parts.length !== 3 || name === "") throw refuse("must be slice:prefix:name");
  if (name.endsWith(SLICE)) throw refuse("a container cannot be a slice: its unit is a scope");
  const unit = `${prefix === "" ? "" : `${prefix}-`}${name}.scope`;
  if (!UNIT_NAME.test(unit) || unit.length > MAX_NAME)
    throw refuse(`"${unit}" cannot be the name of a systemd unit`);
  const inSlice = slice || "system.slice";
  const why = faultOfSlice(inSlice);
  if (why !== undefined) throw refuse(`"${inSlice}" ${why}`);
  return { slice: inSlice, unit };
}

/** Whether it is for the systemd driver; no path begins like this. */
export const isUnitForm = (cgroupsPath: string): boolean => /^[^/]*:[^/]*:/.test(cgroupsPath);

export const unitForm = (slice: string, prefix: string, name: string): string => `${slice}:${prefix}:${name}`;

/** Where a slice's cgroup is, below the root: `a-b.slice` → `/a.slice/a-b.slice`, `-.slice` → `/`. */
export function slicePath(slice: string): string {
  if (slice === ROOT_SLICE) return "/";
  const words = slice.slice(0, -SLICE.length).split("-");
  return words.map((_, i) => `/${words.slice(0, i + 1).join("-")}${SLICE}`).join("");
}

/** Why it is not the name of a slice, to follow the name; undefined if it is one. */
function faultOfSlice(slice: string): string | undefined {
  if (slice === ROOT_SLICE) return undefined;
  if (!slice.endsWith(SLICE)) return "is not a slice: the name must end in .slice";
  if (!UNIT_NAME.test(slice) || slice.length > MAX_NAME) return "cannot be the name of a systemd unit";
  // systemd.slice(5): each dash is a step down, so none may be empty.
  if (slice.slice(0, -SLICE.length).split("-").includes("")) return "has an empty part between its dashes";
  return undefined;
}

/** CRI's word for the two ways; `[cgroup] driver` of config.toml. */
export type CgroupDriver = "cgroupfs" | "systemd";

/** Annotation of a sandbox: its cgroup_parent where PodSandboxConfig has none. */
export const CGROUP_PARENT = "io.isopod.cgroup-parent";

/** For pods whose cgroup_parent is empty. */
export const defaultCgroupParent = (driver: CgroupDriver): string =>
  driver === "systemd" ? "isopod.slice" : "/isopod";

/**
 * The slice that a pod's cgroup_parent names: itself, or as kubelet writes it, the path that systemd makes of
 * it (`/kubepods.slice/kubepods-pod1.slice`). Undefined for a path of the cgroupfs driver.
 */
export function sliceOfParent(field: string, parent: string): string | undefined {
  if (!parent.endsWith(SLICE)) return undefined;
  const slice = parent.slice(parent.lastIndexOf("/") + 1);
  const why = faultOfSlice(slice);
  if (why !== undefined) throw invalid(field, parent, `"${slice}" ${why}`);
  const path = slicePath(slice);
  if (parent !== slice && parent !== path && parent !== `/${slice}`)
    throw invalid(field, parent, `systemd has ${slice} at ${path}`);
  return slice;
}

/** The cgroupsPath of what is called `id` below a pod's parent. */
export function cgroupsPathBelow(field: string, parent: string, id: string): string {
  const slice = sliceOfParent(field, parent);
  return slice === undefined ? `${parent}/${id}` : unitForm(slice, "isopod", id);
}
