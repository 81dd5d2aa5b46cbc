import type { NamespaceType, Spec } from "../oci/runtime-spec";

/** CLONE_NEW* by the specification's words (linux/sched.h). */
export const CLONE: Readonly<Record<NamespaceType, number>> = {
  mount: 0x00020000,
  cgroup: 0x02000000,
  uts: 0x04000000,
  ipc: 0x08000000,
  user: 0x10000000,
  pid: 0x20000000,
  network: 0x40000000,
  time: 0x00000080,
};

/** Names below /proc/<pid>/ns. */
export const NS_FILE: Readonly<Record<NamespaceType, string>> = {
  mount: "mnt",
  cgroup: "cgroup",
  uts: "uts",
  ipc: "ipc",
  user: "user",
  pid: "pid",
  network: "net",
  time: "time",
};

export type NamespacePlan = ReadonlyMap<NamespaceType, "new" | { readonly path: string }>;

/** What `linux.namespaces` asks for; a type that is not in it is the launching process's own. */
export function namespacePlan(spec: Spec): NamespacePlan {
  const wanted = new Map<NamespaceType, "new" | { path: string }>();
  for (const { type, path } of spec.linux?.namespaces ?? []) wanted.set(type, path ? { path } : "new");
  return wanted;
}

/**
 * New namespaces that clone3 makes along with the process. The mount namespace comes later, from an empty
 * base (R8), the cgroup namespace after placement.
 */
export function cloneFlags(wanted: NamespacePlan): number {
  let flags = 0;
  for (const [type, how] of wanted)
    if (how === "new" && type !== "mount" && type !== "cgroup") flags |= CLONE[type];
  return flags >>> 0;
}
