import * as path from "node:path";
import type { RootDatabase } from "lmdb";
import type { ImageConfig } from "../oci/image-spec";

/**
 * What the image store knows, in lmdb: images and unpacked layers. Everything is held in memory too, so that
 * lookups never touch the disk. One queue of changes: each sees the one before. (Containers' snapshots are
 * recorded in their directories, see snapshotter.ts: a pod must not wait for a database's fsync.)
 *
 * Leases of pulls under way are not recorded: a pull dies with its process, and only one process has the
 * store open (a lock on its root), so what no record names is garbage whenever the store opens.
 */
export interface ImageRecord {
  /** Config digest. */
  readonly id: string;
  readonly tags: readonly string[];
  /** `name@digest` of what was pulled. */
  readonly digests: readonly string[];
  readonly size: number;
  readonly config: ImageConfig;
  /** Chain ids of the layers, lowest first. */
  readonly chain: readonly string[];
  /** Blobs this image keeps: indexes, manifests, config, layers. */
  readonly content: readonly string[];
  readonly passwd: string;
  readonly group: string;
}

export interface LayerRecord {
  /** sha256 over the diff_ids up to this one (image-spec, config.md "Layer ChainID"). */
  readonly chainId: string;
  /** "" for the lowest. */
  readonly parent: string;
  /** Number of its directory below `snapshots`. */
  readonly dir: number;
  /** It hides all layers below. */
  readonly opaque: boolean;
  readonly bytes: number;
  readonly inodes: number;
}

export interface Changes {
  readonly images?: readonly ImageRecord[];
  readonly layers?: readonly LayerRecord[];
  readonly removedImages?: readonly string[];
  readonly removedLayers?: readonly string[];
}

export interface Records {
  readonly images: ReadonlyMap<string, ImageRecord>;
  readonly layers: ReadonlyMap<string, LayerRecord>;
  /**
   * `decide` sees the state after all earlier changes and says what changes, in one transaction. Resolves
   * when it is visible to a process that comes after a crash of this one, with `flush` when it is on disk.
   */
  change(decide: () => Changes, options: { flush: boolean }): Promise<void>;
  close(): Promise<void>;
}

type Kind = "image" | "layer";

export async function openRecords(root: string): Promise<Records> {
  const { open } = await import("lmdb");
  const db: RootDatabase<unknown, [Kind, string]> = open({
    path: path.join(root, "images.mdb"),
    noSubdir: true,
  });
  const images = new Map<string, ImageRecord>();
  const layers = new Map<string, LayerRecord>();
  for (const { key, value } of db.getRange({})) {
    const [kind, name] = key;
    if (kind === "image") images.set(name, value as ImageRecord);
    else layers.set(name, value as LayerRecord);
  }

  async function write(changes: Changes): Promise<void> {
    const put = (kind: Kind, name: string, value: unknown) => void db.put([kind, name], value);
    const drop = (kind: Kind, names: readonly string[] = []) => {
      for (const name of names) void db.remove([kind, name]);
    };
    // What goes is out of sight before anything is awaited: nobody builds on it meanwhile.
    for (const id of changes.removedImages ?? []) images.delete(id);
    for (const id of changes.removedLayers ?? []) layers.delete(id);
    await db.transaction(() => {
      for (const record of changes.images ?? []) put("image", record.id, record);
      for (const record of changes.layers ?? []) put("layer", record.chainId, record);
      drop("image", changes.removedImages);
      drop("layer", changes.removedLayers);
    });
    for (const record of changes.images ?? []) images.set(record.id, record);
    for (const record of changes.layers ?? []) layers.set(record.chainId, record);
  }

  let last: Promise<void> = Promise.resolve();
  return {
    images,
    layers,
    async change(decide, { flush }) {
      const turn = last.then(async () => write(decide()));
      last = turn.catch(() => {});
      await turn;
      if (flush) await db.flushed;
    },
    async close() {
      await last;
      await db.close();
    },
  };
}
