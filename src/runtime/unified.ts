import { invalid, unsupported } from "../base/errors";
import type { CgroupWrite } from "../native";
import type { Limits } from "./limit-list";

/**
 * linux.resources.unified: files of the cgroup by name, written as they are told. Where a file has one line
 * for each key, each line is a write of its own, as the kernel takes them.
 */

/** How a key is unset in files that have one line for each. */
const KEYED: Readonly<Record<string, string>> = {
  "io.max": "rbps=max wbps=max riops=max wiops=max",
  "io.weight": "default",
  "io.bfq.weight": "default",
  "io.latency": "target=0",
  "rdma.max": "hca_handle=max hca_object=max",
  "misc.max": "max",
  "dmem.max": "max",
  "dmem.min": "0",
  "dmem.low": "0",
};

/** Of the files that every cgroup has: those that are limits. The rest moves, stops or kills processes. */
const CORE = ["cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure"];

/** Files whose writing is an act and leaves no setting. */
const ACTS = ["memory.reclaim", "memory.peak", "memory.swap.peak"];

export function compileUnified(limits: Limits, unified: Readonly<Record<string, string>>): void {
  for (const [file, value] of Object.entries(unified)) {
    const member = `unified[${file}]`;
    checkName(limits.field(member), file, value);
    const controller = file.slice(0, file.indexOf("."));
    const writes = value
      .split("\n")
      .map((line) => line.trim())
      .filter((line) => line !== "")
      .map((line) => writeOf(file, line));
    // What kubelet gives every container.
    if (file === "memory.oom.group") limits.wish(controller, member, value, ...writes);
    else limits.add(controller, member, value, ...writes);
  }
}

function checkName(field: string, file: string, value: string): void {
  if (!/^[a-z]+(\.[A-Za-z0-9_-]+)+$/.test(file))
    throw invalid(field, value, "must be the name of a cgroup v2 file: CONTROLLER.NAME");
  if (file.startsWith("cgroup.") && !CORE.includes(file))
    throw unsupported(field, value, `is no limit (of the core files there are ${CORE.join(", ")})`);
  if (ACTS.includes(file)) throw unsupported(field, value, "is an act, no limit");
  if (file.endsWith(".pressure") && !CORE.includes(file))
    throw unsupported(field, value, "would watch and not limit");
}

function writeOf(file: string, line: string): CgroupWrite {
  const unset = KEYED[file];
  const space = line.indexOf(" ");
  if (unset === undefined || space < 0) return { file, value: line };
  const key = line.slice(0, space);
  // The default's own line is always there.
  return key === "default"
    ? { file, value: line, key }
    : { file, value: line, key, unset: `${key} ${unset}` };
}
