import * as path from "node:path";
import { invalid, unsupported } from "../base/errors";
import { native } from "../native";
import type { SpecMount } from "../oci/runtime-spec";
import type { ContainerConfig, ContainerMount } from "./types";
import { recursiveReadOnlyUnsupported } from "./validate";

/** What every container finds; hostname, hosts, resolv.conf and /dev/shm come from the sandbox (R9). */
function defaults(privileged: boolean): SpecMount[] {
  const kernel = ["nosuid", "noexec", "nodev"];
  const access = privileged ? "rw" : "ro";
  return [
    { destination: "/proc", type: "proc", source: "proc", options: kernel },
    {
      destination: "/dev",
      type: "tmpfs",
      source: "tmpfs",
      options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
      destination: "/dev/pts",
      type: "devpts",
      source: "devpts",
      options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: kernel },
    { destination: "/sys", type: "sysfs", source: "sysfs", options: [...kernel, access] },
    {
      destination: "/sys/fs/cgroup",
      type: "cgroup",
      source: "cgroup",
      options: [...kernel, "relatime", access],
    },
  ];
}

export interface MountPlan {
  readonly mounts: readonly SpecMount[];
  readonly rootfsPropagation: string | undefined;
}

/**
 * The mounts of a container in the order in which they are made: a mount comes after whatever it lies in,
 * else as asked. A CRI mount takes the place of a default with the same destination.
 */
export function mountsOf(config: ContainerConfig, hostMounts: () => string): MountPlan {
  const asked = config.mounts.map((mount) => bind(mount, hostMounts));
  const taken = new Set(asked.map((mount) => mount.destination));
  const kept = defaults(config.security.privileged).filter(
    ({ destination }) => !taken.has(destination) && !(taken.has("/dev") && destination.startsWith("/dev/")),
  );
  const depth = ({ destination }: SpecMount) => destination.split("/").filter((part) => part !== "").length;
  return {
    // sort() is stable.
    mounts: [...kept, ...asked].sort((a, b) => depth(a) - depth(b)),
    rootfsPropagation: rootfsPropagation(config.mounts),
  };
}

/** The root must pass on what a mount below it is to receive or give. */
function rootfsPropagation(mounts: readonly ContainerMount[]): string | undefined {
  if (mounts.some((mount) => mount.propagation === "bidirectional")) return "rshared";
  if (mounts.some((mount) => mount.propagation === "hostToContainer")) return "rslave";
  return undefined;
}

const WORD = { private: "rprivate", hostToContainer: "rslave", bidirectional: "rshared" } as const;

function bind(mount: ContainerMount, hostMounts: () => string): SpecMount {
  const destination = absolute(mount.containerPath, "container_path");
  const field = `mounts["${destination}"]`;
  // The source may lie on a dead NFS: only the stub touches it (R10), and refuses it if it is absent.
  const source = absolute(mount.hostPath, `${field}.host_path`);
  if (mount.selinuxRelabel && native().features().selinux)
    throw unsupported(`${field}.selinux_relabel`, true, "SELinux labels are not built yet");
  if (mount.propagation !== "private") requirePeer(mount, source, hostMounts());
  const access = mount.recursiveReadOnly ? recursiveReadOnly(mount) : mount.readonly ? ["ro"] : ["rw"];
  return { destination, type: "bind", source, options: ["rbind", WORD[mount.propagation], ...access] };
}

function recursiveReadOnly(mount: ContainerMount): string[] {
  if (!mount.readonly)
    throw recursiveReadOnlyUnsupported(mount.containerPath, "recursive_read_only needs readonly");
  if (mount.propagation !== "private")
    throw recursiveReadOnlyUnsupported(mount.containerPath, "recursive_read_only needs private propagation");
  return ["ro", "rro"];
}

function absolute(text: string, field: string): string {
  if (text === "") throw invalid(field, text, "required");
  if (text.includes("\0")) throw invalid(field, text, "must not contain NUL");
  // containerd takes a relative container_path as below the root; CRI gives the host's as absolute.
  if (!path.isAbsolute(text) && field !== "container_path") throw invalid(field, text, "must be absolute");
  return path.posix.resolve("/", text);
}

/** Propagation from a private mount would silently do nothing. */
function requirePeer(mount: ContainerMount, source: string, mountinfo: string): void {
  const field = `mounts["${mount.containerPath}"].propagation`;
  const { point, tags } = mountOf(source, mountinfo);
  const shared = tags.some((tag) => tag.startsWith("shared:"));
  const slave = tags.some((tag) => tag.startsWith("master:"));
  if (mount.propagation === "bidirectional" && !shared)
    throw invalid(field, "PROPAGATION_BIDIRECTIONAL", `${source} is on "${point}", which is not shared`);
  if (!shared && !slave)
    throw invalid(
      field,
      "PROPAGATION_HOST_TO_CONTAINER",
      `${source} is on "${point}", which is neither shared nor a slave`,
    );
}

/** proc(5): `id parent major:minor root mountpoint options tag… - type source superoptions`. */
function mountOf(file: string, mountinfo: string): { point: string; tags: string[] } {
  let best = { point: "", tags: [] as string[] };
  for (const line of mountinfo.split("\n")) {
    const fields = line.split(" ");
    const point = (fields[4] ?? "").replace(/\\(\d{3})/g, (_all, octal: string) =>
      String.fromCharCode(Number.parseInt(octal, 8)),
    );
    const inside = point === "/" || file === point || file.startsWith(`${point}/`);
    // Of several mounts on one point the last is on top.
    if (point !== "" && inside && point.length >= best.point.length)
      best = { point, tags: fields.slice(6, fields.indexOf("-")) };
  }
  return best;
}
