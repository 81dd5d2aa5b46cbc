import * as path from "node:path";
import { IsopodError, invalid, unsupported } from "../base/errors";
import { type CgroupDriver, sliceOfParent } from "../oci/cgroups-path";
import type { ContainerConfig, NamespaceOptions, PodConfig } from "./types";

/** Fields carry the names that CRI has for them: that is what the caller wrote. */
export function validatePod(config: PodConfig, driver: CgroupDriver): void {
  const { name, namespace, uid } = config.metadata;
  // They become CNI_ARGS, where `;` and `=` separate.
  for (const [field, value] of Object.entries({ name, namespace, uid }))
    if (/[;=\0\n]/.test(value)) throw invalid(`metadata.${field}`, value, 'must not contain ";" or "="');
  if (name === "") throw invalid("metadata.name", name, "required");
  const { namespaces } = config;
  if (namespaces.network !== "pod" && namespaces.network !== "node")
    throw invalid("namespace_options.network", namespaces.network, "must be POD or NODE");
  if (namespaces.ipc !== "pod" && namespaces.ipc !== "node")
    throw invalid("namespace_options.ipc", namespaces.ipc, "must be POD or NODE");
  if (namespaces.pid === "target")
    throw invalid("namespace_options.pid", namespaces.pid, "a sandbox has no target");
  refuseUserNamespace(namespaces);
  if (config.hostname !== "" && namespaces.network === "node")
    throw invalid("hostname", config.hostname, "a pod on the host's network has the host's name");
  if (config.hostname.length > 64) throw invalid("hostname", config.hostname, "longer than 64 bytes");
  if (config.logDirectory !== "" && !path.isAbsolute(config.logDirectory))
    throw invalid("log_directory", config.logDirectory, "must be absolute");
  validateCgroupParent(config.cgroupParent, driver);
  validateSysctls(config);
}

export function validateContainer(config: ContainerConfig, pod: PodConfig): void {
  if (config.metadata.name === "") throw invalid("metadata.name", config.metadata.name, "required");
  const { security } = config;
  if (security.privileged && !pod.privileged)
    throw invalid("security_context.privileged", true, "the pod itself is not privileged");
  for (const kind of ["network", "ipc"] as const)
    if (security.namespaces[kind] !== pod.namespaces[kind])
      throw invalid(`namespace_options.${kind}`, security.namespaces[kind], "differs from the pod's");
  if (security.namespaces.pid === "pod" && pod.namespaces.pid !== "pod")
    throw invalid("namespace_options.pid", security.namespaces.pid, "the pod has no shared pid namespace");
  refuseUserNamespace(security.namespaces);
  for (const [key, value] of config.envs)
    if (key === "" || /[=\0]/.test(key) || value.includes("\0"))
      throw invalid("envs.key", key, 'must be non-empty, without "=" and NUL');
  if (config.logPath !== "" && (path.isAbsolute(config.logPath) || config.logPath.split("/").includes("..")))
    throw invalid("log_path", config.logPath, "must stay below the pod's log_directory");
}

function refuseUserNamespace(options: NamespaceOptions): void {
  if (options.userns !== undefined)
    throw unsupported(
      "namespace_options.userns_options",
      options.userns,
      "user namespaces are not built yet",
    );
}

/** cgroupfs: a path below the cgroup root. systemd: a slice, or the path that systemd has it at. */
function validateCgroupParent(parent: string, driver: CgroupDriver): void {
  const field = "linux.cgroup_parent";
  if (parent === "") return;
  if (driver === "systemd") {
    if (sliceOfParent(field, parent) === undefined)
      throw invalid(field, parent, "must be a slice (NAME.slice), since the cgroup driver is systemd");
    return;
  }
  if (!parent.startsWith("/"))
    throw invalid(field, parent, "must be an absolute path for the cgroupfs driver");
  if (parent.split("/").some((part) => part === ".." || part === "."))
    throw invalid(field, parent, "must not contain . or ..");
  if (parent.endsWith(".slice"))
    throw invalid(field, parent, "a systemd slice, but the cgroup driver is cgroupfs");
}

const SYSCTL_NAME = /^[a-z0-9_-]+([./][a-zA-Z0-9_-]+)+$/;

function validateSysctls(config: PodConfig): void {
  for (const [name, value] of Object.entries(config.sysctls)) {
    const field = `linux.sysctls["${name}"]`;
    if (!SYSCTL_NAME.test(name)) throw invalid(field, value, "not the name of a sysctl");
    if (value.trim() === "" || value.includes("\0")) throw invalid(field, value, "not a value");
    const dotted = name.replaceAll("/", ".");
    if (dotted.startsWith("net.") && config.namespaces.network === "node")
      throw invalid(field, value, "would change the host: the pod uses its network");
    const ipc = /^(kernel\.(shm|msg|sem)|fs\.mqueue\.)/.test(dotted);
    if (ipc && config.namespaces.ipc === "node")
      throw invalid(field, value, "would change the host: the pod uses its ipc namespace");
    if (!ipc && !dotted.startsWith("net."))
      throw invalid(field, value, "not confined to a namespace: it would change the host");
  }
}

/** Text kubelet looks for when a container's mount wants what a handler cannot give. */
export const recursiveReadOnlyUnsupported = (containerPath: string, why: string): IsopodError =>
  new IsopodError("INVALID_ARGUMENT", `RROUnsupported: mounts["${containerPath}"]: ${why}`, {
    path: containerPath,
  });
