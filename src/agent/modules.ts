import * as fs from "node:fs";
import * as path from "node:path";
import * as zlib from "node:zlib";
import { IsopodError, unsupported } from "../base/errors";
import { readFileIfPresent } from "../base/files";

/**
 * Kernel modules in the order in which they load, from the tree of a kernel package, whether depmod has seen
 * it or not: each module names those that it needs itself, in `depends=` of its section .modinfo. The names
 * there are spelt with underscores, the files' with either.
 */
export interface KernelModule {
  /** NAME.ko */
  readonly name: string;
  readonly data: Buffer;
}

/** `directory` is lib/modules/VERSION. What is built into the kernel is left out. */
export function kernelModules(directory: string, wanted: readonly string[]): KernelModule[] {
  const files = filesOf(path.join(directory, "kernel"));
  const builtin = new Set(
    (readFileIfPresent(path.join(directory, "modules.builtin")) ?? "").split("\n").map(plainName),
  );
  const order: KernelModule[] = [];
  const loaded = new Set<string>();
  const load = (name: string, wantedBy: string): void => {
    if (loaded.has(name) || builtin.has(name)) return;
    loaded.add(name);
    const file = files.get(name);
    if (file === undefined)
      throw new IsopodError(
        "NOT_FOUND",
        `reading kernel modules: ${directory}: has no ${name}, which ${wantedBy} needs: choose a kernel that has it`,
        { path: directory },
      );
    const data = read(file);
    for (const needed of dependencies(data)) load(needed, name);
    order.push({ name: `${name}.ko`, data });
  };
  for (const name of wanted) load(name, "a guest");
  return order;
}

function filesOf(directory: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const name of fs.readdirSync(directory, { recursive: true }) as string[])
    if (/\.ko(\.\w+)?$/.test(name)) found.set(plainName(name), path.join(directory, name));
  return found;
}

/** kernel/fs/fuse/virtio-fs.ko.xz → virtio_fs */
const plainName = (file: string): string =>
  path
    .basename(file)
    .replace(/\.ko(\.\w+)?$/, "")
    .replaceAll("-", "_");

function read(file: string): Buffer {
  const data = fs.readFileSync(file);
  if (file.endsWith(".ko")) return data;
  if (file.endsWith(".ko.gz")) return zlib.gunzipSync(data);
  throw unsupported("kernel module", file, "unpack it first (xz -d, zstd -d)");
}

const DEPENDS = Buffer.from("\0depends=");

function dependencies(module: Buffer): string[] {
  const at = module.indexOf(DEPENDS);
  if (at < 0) return [];
  const start = at + DEPENDS.length;
  const list = module.toString("latin1", start, module.indexOf(0, start));
  return list === "" ? [] : list.split(",").map(plainName);
}
