import { invalid, unsupported } from "../../base/errors";
import { runtime } from "../../gen/cri";
import type { NamespaceMode, NamespaceOptions } from "../../sandbox";
import { choice, cstring } from "./fields";

const { NamespaceMode: Mode } = runtime.v1;

const network = { [Mode.POD]: "pod", [Mode.NODE]: "node" } as const;
const ipc = network;
const pid = {
  [Mode.POD]: "pod",
  [Mode.CONTAINER]: "container",
  [Mode.NODE]: "node",
  [Mode.TARGET]: "target",
} as const;
const numbers: Record<NamespaceMode, runtime.v1.NamespaceMode> = {
  pod: Mode.POD,
  container: Mode.CONTAINER,
  node: Mode.NODE,
  target: Mode.TARGET,
};

/** Absent options are proto3's zeros: everything the pod's, the pid namespace too. */
export function readNamespaces(
  field: string,
  options: runtime.v1.INamespaceOption | null | undefined,
): NamespaceOptions {
  const read: NamespaceOptions = {
    network: choice(`${field}.network`, options?.network, network),
    pid: choice(`${field}.pid`, options?.pid, pid),
    ipc: choice(`${field}.ipc`, options?.ipc, ipc),
    targetId: cstring(`${field}.target_id`, options?.targetId) || undefined,
  };
  if (read.pid === "target" && read.targetId === undefined) {
    throw invalid(`${field}.target_id`, "", "must name a container when pid is TARGET");
  }
  if (read.pid !== "target" && read.targetId !== undefined) {
    throw invalid(`${field}.target_id`, read.targetId, "only allowed when pid is TARGET");
  }
  checkUserNamespace(`${field}.userns_options`, options?.usernsOptions);
  return read;
}

function checkUserNamespace(field: string, options: runtime.v1.IUserNamespace | null | undefined): void {
  if (!options) return;
  const mode = options.mode ?? Mode.POD;
  if (mode === Mode.POD) throw unsupported(field, "POD", "user namespaces are not supported yet");
  if (mode !== Mode.NODE) throw invalid(`${field}.mode`, mode, "must be POD or NODE");
  for (const [name, mappings] of [
    ["uids", options.uids],
    ["gids", options.gids],
  ] as const) {
    if (mappings && mappings.length > 0) {
      throw invalid(`${field}.${name}`, mappings, "no mappings are allowed when mode is NODE");
    }
  }
}

export const writeNamespaces = (options: NamespaceOptions): runtime.v1.INamespaceOption => ({
  network: numbers[options.network],
  pid: numbers[options.pid],
  ipc: numbers[options.ipc],
  targetId: options.targetId ?? "",
});
