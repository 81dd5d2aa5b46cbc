import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { cleanEnv } from "../support/command";
import { repository } from "../support/peers";
import { loadOrder, type Wanted } from "./modules";

/** A stock distribution kernel, unpacked into the peers' cache and indexed by depmod. */
export interface Kernel {
  /** As uname -r. */
  readonly version: string;
  readonly image: string;
  /** The folder with modules.dep. */
  readonly modules: string;
}

/** Downloads it if it is not there; throws with the reason if that fails. */
export function kernel(suite: string): Kernel {
  const name = `kernel-${suite}`;
  const { stdout, status } = spawnSync(process.execPath, [path.join(repository, "scripts/peers.mjs"), name], {
    encoding: "utf8",
    env: cleanEnv(),
    stdio: ["ignore", "pipe", "inherit"],
  });
  if (status !== 0) throw new Error(`getting ${name}: scripts/peers.mjs failed`);
  const peer = (JSON.parse(stdout) as Record<string, { tree?: string; missing?: string }>)[name]!;
  if (peer.tree === undefined) throw new Error(`getting ${peer.missing}`);
  const all = ["usr/lib/modules", "lib/modules"]
    .map((dir) => path.join(peer.tree!, dir))
    .filter((dir) => fs.existsSync(dir))
    .flatMap((dir) => fs.readdirSync(dir).map((version) => path.join(dir, version)));
  const modules = all.find((dir) => fs.existsSync(path.join(dir, "modules.dep")));
  if (modules === undefined) throw new Error(`no kernel modules in ${peer.tree}`);
  const version = path.basename(modules);
  const image = [path.join(peer.tree, "boot", `vmlinuz-${version}`), path.join(modules, "vmlinuz")].find(
    (file) => fs.existsSync(file),
  );
  if (image === undefined) throw new Error(`no kernel image of ${version} in ${peer.tree}`);
  return { version, image, modules };
}

export interface Module {
  /** NAME.ko */
  readonly name: string;
  readonly data: Buffer;
}

/** The modules themselves, unpacked, in the order in which they have to be loaded. */
export function readModules(from: Kernel, wanted: readonly Wanted[]): Module[] {
  const index = (name: string) => fs.readFileSync(path.join(from.modules, name), "utf8");
  const builtin = fs.existsSync(path.join(from.modules, "modules.builtin"));
  const order = loadOrder(
    { dep: index("modules.dep"), ...(builtin ? { builtin: index("modules.builtin") } : {}) },
    wanted,
  );
  return order.map((file) => {
    const packed = /\.ko\.(\w+)$/.exec(file)?.[1];
    const full = path.join(from.modules, file);
    const name = path.basename(packed ? file.slice(0, -packed.length - 1) : file);
    return { name, data: packed ? unpack(packed, full) : fs.readFileSync(full) };
  });
}

function unpack(format: string, file: string): Buffer {
  const program = { xz: "xz", zst: "zstd", gz: "gzip" }[format];
  if (program === undefined) throw new Error(`unpacking ${file}: unknown format ${format}`);
  const { stdout, status, error } = spawnSync(program, ["-dc", file], { maxBuffer: 1 << 27 });
  if (status !== 0) throw new Error(`unpacking ${file}: ${program}: ${error?.message ?? status}`);
  return stdout;
}
