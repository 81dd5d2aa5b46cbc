import { invalid } from "../base/errors";
import { OP, type PlanWriter } from "../native";
import type { NamespaceType } from "../oci/runtime-spec";
import type { NamespacePlan } from "./namespaces";

/** Sysctls of the IPC namespace (ipc_sysctl.c, mq_sysctl.c). */
const IPC = new Set([
  "kernel.msgmax",
  "kernel.msgmnb",
  "kernel.msgmni",
  "kernel.sem",
  "kernel.shmall",
  "kernel.shmmax",
  "kernel.shmmni",
  "kernel.shm_rmid_forced",
]);

/** The namespace that a sysctl belongs to; what belongs to none would change the host. */
function namespaceOf(name: string): NamespaceType | undefined {
  if (IPC.has(name) || name.startsWith("fs.mqueue.")) return "ipc";
  if (name.startsWith("net.")) return "network";
  if (name === "kernel.domainname") return "uts";
  return undefined;
}

/**
 * sysctl(8) has two spellings: the first separator says which of `.` and `/` separates, the other is part of
 * a name (`net.ipv4.conf.eth0/1.forwarding`).
 */
function sysctlPath(name: string): string {
  const first = /[./]/.exec(name)?.[0];
  if (first === "/") return name;
  return [...name].map((char) => (char === "." ? "/" : char === "/" ? "." : char)).join("");
}

export function writeSysctls(
  plan: PlanWriter,
  sysctls: Readonly<Record<string, string>>,
  wanted: NamespacePlan,
  field: string,
): void {
  for (const [name, value] of Object.entries(sysctls)) {
    const path = sysctlPath(name);
    const dotted = path
      .split("/")
      .map((part) => part.replaceAll(".", "/"))
      .join(".");
    const type = namespaceOf(dotted);
    if (type === undefined || path.split("/").some((part) => part === "" || part === ".."))
      throw invalid(`${field}.${name}`, value, "does not belong to a namespace: it would change the host");
    if (!wanted.has(type)) throw invalid(`${field}.${name}`, value, `needs a namespace of its own: ${type}`);
    plan.op(OP.sysctl, { c: plan.string(path), a: plan.string(value), subject: dotted });
  }
}
