import * as fs from "node:fs";
import * as path from "node:path";
import { invalid } from "../base/errors";
import type { Device, DeviceRule } from "../oci/runtime-spec";
import type { ContainerConfig } from "./types";

export interface DevicePlan {
  readonly devices: readonly Device[];
  readonly rules: readonly DeviceRule[];
}

/** What the OCI runtime spec ("Default Devices") gives every container, and the ptys of its own devpts. */
const DEFAULT_RULES: readonly DeviceRule[] = [
  { allow: false, access: "rwm" },
  ...[
    [1, 3],
    [1, 5],
    [1, 7],
    [1, 8],
    [1, 9],
    [5, 0],
    [5, 1],
    [5, 2],
  ].map(([major, minor]) => ({ allow: true, type: "c", major: major!, minor: minor!, access: "rwm" })),
  { allow: true, type: "c", major: 136, access: "rwm" },
  // mknod alone: a node that cannot be opened is harmless, and image builds make them.
  { allow: true, type: "c", access: "m" },
  { allow: true, type: "b", access: "m" },
];

export function devicesOf(config: ContainerConfig): DevicePlan {
  if (config.security.privileged)
    return { devices: hostDevices("/dev"), rules: [{ allow: true, access: "rwm" }] };
  const devices: Device[] = [];
  const rules = [...DEFAULT_RULES];
  config.devices.forEach((asked, index) => {
    const field = `devices[${index}]`;
    const access = asked.permissions || "rwm";
    if (!/^[rwm]{1,3}$/.test(access)) throw invalid(`${field}.permissions`, access, 'must be of "rwm"');
    for (const device of nodesAt(asked.hostPath, asked.containerPath || asked.hostPath, field)) {
      devices.push(device);
      rules.push({ allow: true, type: device.type, major: device.major!, minor: device.minor!, access });
    }
  });
  return { devices, rules };
}

/** A device, or all devices of a directory. */
function nodesAt(hostPath: string, containerPath: string, field: string): Device[] {
  // Only devtmpfs is looked at from here: anything else may hang (R10).
  const file = path.posix.resolve("/", hostPath);
  if (!file.startsWith("/dev/")) throw invalid(`${field}.host_path`, hostPath, "must lie below /dev");
  const stat = fs.statSync(file, { throwIfNoEntry: false });
  if (stat === undefined) throw invalid(`${field}.host_path`, hostPath, "no such device");
  if (!stat.isDirectory()) {
    const device = deviceOf(stat, path.posix.resolve("/", containerPath));
    if (device === undefined) throw invalid(`${field}.host_path`, hostPath, "not a device");
    return [device];
  }
  return hostDevices(file).map((device) => ({
    ...device,
    path: path.posix.join("/", containerPath, path.relative(file, device.path)),
  }));
}

/** Mounts of their own, links and sockets; /dev/console is the container's own terminal. */
const SKIPPED = new Set(["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"]);

function hostDevices(dir: string): Device[] {
  return fs.readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    const file = path.join(dir, entry.name);
    if (dir === "/dev" && SKIPPED.has(entry.name)) return [];
    if (entry.isDirectory()) return hostDevices(file);
    if (!entry.isBlockDevice() && !entry.isCharacterDevice()) return [];
    const stat = fs.statSync(file, { throwIfNoEntry: false });
    return stat === undefined ? [] : [deviceOf(stat, file)!];
  });
}

function deviceOf(stat: fs.Stats, at: string): Device | undefined {
  const type = stat.isBlockDevice() ? "b" : stat.isCharacterDevice() ? "c" : undefined;
  if (type === undefined) return undefined;
  return {
    path: at,
    type,
    ...deviceNumber(stat.rdev),
    fileMode: stat.mode & 0o7777,
    uid: stat.uid,
    gid: stat.gid,
  };
}

/** glibc's gnu_dev_major and gnu_dev_minor; beyond 32 bits Linux has no device numbers. */
function deviceNumber(rdev: number): { major: number; minor: number } {
  return { major: (rdev >>> 8) & 0xfff, minor: (rdev & 0xff) | ((rdev >>> 12) & 0xfff00) };
}
