import * as fs from "node:fs";
import * as path from "node:path";
import { IsopodError, invalid, notFound } from "../base/errors";
import { readFileIfPresent, writeFileAtomic } from "../base/files";
import { undoOnFailure } from "../base/scope";
import { native } from "../native";
import type { LayerRecord, Records } from "./records";
import type { Image, Snapshot } from "./types";

/**
 * Overlay directories: `<root>/snapshots/<n>/fs`, for containers also `work`. Numbers, not digests, since
 * all lower directories of an image must fit into one page of mount options. A layer's directory never
 * changes once its record exists; a container's holds its record itself, `snapshot.json`, written without a
 * sync, as it need not outlive a power cut. A directory without either is garbage.
 */
export interface SnapshotRecord {
  readonly key: string;
  /** Top layer it stands on; "" for an image without layers. */
  readonly chainId: string;
  readonly dir: number;
}

export interface Snapshotter {
  /** A new directory for a layer; the caller records or discards it. */
  newDirectory(): { dir: number; fs: string };
  discard(dir: number): Promise<void>;
  fs(dir: number): string;
  /** Lower directories of a chain, nearest first, as overlayfs takes them. */
  lower(chain: readonly LayerRecord[]): string[];
  prepare(key: string, image: Image): Promise<Snapshot>;
  remove(key: string): Promise<void>;
  get(key: string): Snapshot | undefined;
  all(): ReadonlyMap<string, SnapshotRecord>;
  /** Removes what no record names; returns what could not be removed. */
  removeOrphans(): Promise<unknown[]>;
}

export function openSnapshotter(root: string, records: Records): Snapshotter {
  // They would need escapes that mount(2) and fsconfig(2) know differently.
  if (/[:,\\\s]/.test(root)) throw invalid("root", root, "must not contain : , \\ or blanks");
  const base = path.join(root, "snapshots");
  fs.mkdirSync(base, { recursive: true, mode: 0o700 });
  const numbers = fs.readdirSync(base).map(Number).filter(Number.isSafeInteger);
  let last = Math.max(0, ...numbers);

  const dirPath = (dir: number) => path.join(base, String(dir));
  const fsPath = (dir: number) => path.join(dirPath(dir), "fs");
  const make = () => {
    const dir = ++last;
    fs.mkdirSync(dirPath(dir), { mode: 0o700 });
    fs.mkdirSync(fsPath(dir), { mode: 0o755 });
    return dir;
  };
  const snapshots = new Map<string, SnapshotRecord>();
  const recordPath = (dir: number) => path.join(dirPath(dir), "snapshot.json");
  for (const dir of numbers) {
    const record = readRecord(recordPath(dir), dir);
    if (record !== undefined) snapshots.set(record.key, record);
  }
  const discard = (dir: number) => native().removeTree({ path: dirPath(dir) });

  function chainOf(chainId: string): LayerRecord[] {
    const chain: LayerRecord[] = [];
    for (let id = chainId; id !== ""; ) {
      const layer = records.layers.get(id);
      if (layer === undefined) throw notFound("layer", id);
      chain.unshift(layer);
      id = layer.parent;
    }
    return chain;
  }

  function lower(chain: readonly LayerRecord[]): string[] {
    const dirs: string[] = [];
    for (const layer of [...chain].reverse()) {
      dirs.push(fsPath(layer.dir));
      if (layer.opaque) break;
    }
    return dirs;
  }

  function snapshotOf(key: string, dir: number, chainId: string): Snapshot {
    const upper = fsPath(dir);
    const below = lower(chainOf(chainId));
    if (below.length === 0) {
      return { key, upper, mounts: [{ type: "bind", source: upper, options: ["rbind", "rw"] }] };
    }
    const options = [
      `lowerdir=${below.join(":")}`,
      `upperdir=${upper}`,
      `workdir=${path.join(dirPath(dir), "work")}`,
      // A work directory is used again on other mounts of the same layers: an index would go stale.
      "index=off",
    ];
    return { key, upper, mounts: [{ type: "overlay", source: "overlay", options }] };
  }

  return {
    newDirectory() {
      const dir = make();
      return { dir, fs: fsPath(dir) };
    },
    discard,
    fs: fsPath,
    lower,
    prepare: (key, image) =>
      undoOnFailure(async (scope) => {
        if (snapshots.has(key)) {
          throw new IsopodError("ALREADY_EXISTS", `snapshot "${key}": already exists`, { path: key });
        }
        const { chainId } = image;
        const top = records.layers.get(chainId);
        // The image may have been removed since the caller found it.
        if (chainId !== "" && top === undefined) throw notFound("image", image.id);
        const dir = make();
        // From here on the collector keeps the layers.
        snapshots.set(key, { key, chainId, dir });
        scope.defer("snapshot", () => {
          snapshots.delete(key);
          return discard(dir);
        });
        fs.mkdirSync(path.join(dirPath(dir), "work"), { mode: 0o700 });
        if (top !== undefined) copyRoot(fsPath(top.dir), fsPath(dir));
        writeFileAtomic(recordPath(dir), JSON.stringify({ key, chainId }));
        return snapshotOf(key, dir, chainId);
      }),
    async remove(key) {
      const record = snapshots.get(key);
      if (record === undefined) return;
      fs.rmSync(recordPath(record.dir), { force: true });
      snapshots.delete(key);
      await discard(record.dir);
    },
    get(key) {
      const record = snapshots.get(key);
      return record && snapshotOf(key, record.dir, record.chainId);
    },
    all: () => snapshots,
    async removeOrphans() {
      const known = new Set([...records.layers.values(), ...snapshots.values()].map((r) => r.dir));
      const failures: unknown[] = [];
      for (const name of fs.readdirSync(base)) {
        if (known.has(Number(name))) continue;
        await native()
          .removeTree({ path: path.join(base, name) })
          .catch((error: unknown) => failures.push(error));
      }
      return failures;
    },
  };
}

/** Half a record, or none, is what a crash leaves: then the directory is garbage. */
function readRecord(file: string, dir: number): SnapshotRecord | undefined {
  try {
    const { key, chainId } = JSON.parse(readFileIfPresent(file) ?? "{}") as Partial<SnapshotRecord>;
    return typeof key === "string" && typeof chainId === "string" ? { key, chainId, dir } : undefined;
  } catch {
    return undefined;
  }
}

/** The root of a mount has the attributes of its upper directory: they must be the image's. */
function copyRoot(from: string, to: string): void {
  const { uid, gid, mode, atime, mtime } = fs.statSync(from);
  fs.chownSync(to, uid, gid);
  fs.chmodSync(to, mode & 0o7777);
  fs.utimesSync(to, atime, mtime);
}
