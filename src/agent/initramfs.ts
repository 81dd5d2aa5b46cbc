import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { writeFileAtomic } from "../base/files";
import { type CpioEntry, cpio } from "./cpio";
import { kernelModules } from "./modules";

/**
 * The initramfs of a guest: the agent as /init, the modules that it loads, /dev/console. It is not packed:
 * unpacking costs the guest more than the host saves (20 M instructions for 1 MB).
 */
export interface InitramfsOptions {
  /** Path of the agent's program. */
  readonly agent: string;
  /** The guest kernel's lib/modules/VERSION. */
  readonly modules: string;
  /** Further entries, after the others. */
  readonly extra?: readonly CpioEntry[];
}

/** What a guest's devices and containers need, in the order of their probing; the ring before its users. */
export const GUEST_MODULES: readonly string[] = [
  "virtio_ring",
  "virtio",
  "virtio_mmio",
  "virtio_rng",
  "vmw_vsock_virtio_transport",
  "virtiofs",
  "overlay",
  "virtio_net",
  "virtio_blk",
  "virtio_balloon",
];

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFCHR = 0o020000;

export function buildInitramfs(options: InitramfsOptions): Buffer {
  const modules = kernelModules(options.modules, GUEST_MODULES);
  const order = modules.map(({ name }) => `${name}\n`).join("");
  return cpio([
    { name: "dev", mode: S_IFDIR | 0o755 },
    // The kernel gives it to init as stdio before devtmpfs can be mounted.
    { name: "dev/console", mode: S_IFCHR | 0o600, device: { major: 5, minor: 1 } },
    { name: "init", mode: S_IFREG | 0o755, data: fs.readFileSync(options.agent) },
    { name: "modules", mode: S_IFDIR | 0o755 },
    { name: "modules/order", mode: S_IFREG | 0o644, data: Buffer.from(order) },
    ...modules.map(({ name, data }) => ({ name: `modules/${name}`, mode: S_IFREG | 0o644, data })),
    ...(options.extra ?? []),
  ]);
}

/**
 * The path of an initramfs in `cache` (made if missing), built if it is not there: its name says what it was
 * made of, by path, size and time of change.
 */
export function cachedInitramfs(options: Omit<InitramfsOptions, "extra">, cache: string): string {
  const hash = createHash("sha256");
  for (const file of [options.agent, options.modules]) {
    const { size, mtimeMs, ino } = fs.statSync(file);
    hash.update(`${fs.realpathSync(file)} ${size} ${mtimeMs} ${ino}\n`);
  }
  hash.update(GUEST_MODULES.join(" "));
  const file = path.join(cache, `initramfs-${hash.digest("hex").slice(0, 32)}.cpio`);
  if (fs.existsSync(file)) return file;
  fs.mkdirSync(cache, { recursive: true });
  writeFileAtomic(file, buildInitramfs(options), 0o644);
  return file;
}
