import * as fs from "node:fs";
import * as path from "node:path";
import { IsopodError, invalid, messageOf } from "../base/errors";
import type { Log } from "../base/log";
import { native } from "../native";
import type { Platform } from "../oci/image-spec";
import { type ContentStore, openContentStore } from "./content-store";
import { type Layers, openLayers } from "./layers";
import { type Leases, openLeases } from "./leases";
import { type LayerRecord, openRecords, type Records } from "./records";
import { openSnapshotter, type Snapshotter } from "./snapshotter";
import type { UnpackLimits } from "./unpack-job";
import { unpackPool } from "./unpack-pool";

/**
 * What an open image store consists of:
 *
 *   <root>/images.mdb        records
 *   <root>/content/sha256/   verified blobs
 *   <root>/ingest/           blobs on their way; emptied at open
 *   <root>/snapshots/<n>/    unpacked layers and containers' writable layers
 *   <root>/images.lock       held while open
 */
export interface Store {
  readonly root: string;
  readonly log: Log;
  readonly platform: Platform;
  readonly records: Records;
  readonly content: ContentStore;
  readonly snapshots: Snapshotter;
  readonly leases: Leases;
  readonly layers: Layers;
  /** Aborted when the store closes. */
  readonly closing: AbortSignal;
  /** Passes `work` on; closing waits for its end. */
  track<T>(work: Promise<T>): Promise<T>;
  /** Removes blobs, layers and directories that no image, snapshot or lease needs. */
  collect(): Promise<void>;
  close(): Promise<void>;
}

export const defaultLimits: UnpackLimits = {
  entries: 2_000_000,
  bytes: 64 * 2 ** 30,
  ratio: 200,
  ratioFrom: 2 ** 30,
};

export interface StoreOptions {
  readonly root: string;
  readonly log: Log;
  readonly platform: Platform;
  readonly limits: UnpackLimits;
}

export async function openStore(options: StoreOptions): Promise<Store> {
  const { root, log } = options;
  if (!path.isAbsolute(root)) throw invalid("root", root, "must be an absolute path");
  fs.mkdirSync(root, { recursive: true, mode: 0o711 });
  const lock = native().lockFile({ path: path.join(root, "images.lock") });
  if (lock === undefined) {
    throw new IsopodError("FAILED_PRECONDITION", `open image store: ${root}: in use by another process`, {
      path: root,
    });
  }
  try {
    const content = openContentStore(root);
    const records = await openRecords(root);
    const snapshots = openSnapshotter(root, records);
    const pool = unpackPool();
    const layers = openLayers({ records, content, snapshots, pool, limits: options.limits });
    const collect = () => collectGarbage(store);
    const leases = openLeases(() => void collect());
    const closing = new AbortController();
    const pending = new Set<Promise<unknown>>();
    const store: Store = {
      root,
      log,
      platform: options.platform,
      records,
      content,
      snapshots,
      leases,
      layers,
      closing: closing.signal,
      track(work) {
        const over = () => void pending.delete(work);
        pending.add(work);
        work.then(over, over);
        return work;
      },
      collect,
      async close() {
        closing.abort(new IsopodError("UNAVAILABLE", "the image store is closed"));
        leases.close();
        await Promise.allSettled(pending);
        await layers.settle();
        await pool.close();
        await records.close();
        fs.closeSync(lock);
      },
    };
    for (const failure of await snapshots.removeOrphans()) {
      log.warn("removing an orphaned snapshot directory", { error: messageOf(failure) });
    }
    await collect();
    return store;
  } catch (error) {
    fs.closeSync(lock);
    throw error;
  }
}

/** One thing that cannot be removed does not keep the rest: it is logged and tried again next time. */
async function collectGarbage(store: Store): Promise<void> {
  const { records, content, snapshots, leases, layers, log } = store;
  let dead: LayerRecord[] = [];
  await records.change(
    () => {
      const live = liveChains(store);
      const recorded = [...records.layers.values()].filter((layer) => !live.has(layer.chainId));
      dead = [...recorded, ...layers.takeUnleased(live)];
      return { removedLayers: recorded.map((layer) => layer.chainId) };
    },
    { flush: false },
  );
  const liveContent = leases.digests();
  for (const image of records.images.values()) {
    for (const digest of image.content) liveContent.add(digest);
  }
  const attempt = async (what: string, remove: () => unknown) => {
    try {
      await remove();
    } catch (error) {
      log.warn("collecting garbage", { what, error: messageOf(error) });
    }
  };
  for (const digest of content.digests()) {
    if (!liveContent.has(digest)) await attempt(digest, () => content.remove(digest));
  }
  for (const layer of dead) await attempt(layer.chainId, () => snapshots.discard(layer.dir));
}

/** Chain ids that something stands on, with all those below them. */
function liveChains({ records, snapshots, leases }: Store): Set<string> {
  const live = leases.chains();
  for (const image of records.images.values()) for (const id of image.chain) live.add(id);
  for (const snapshot of snapshots.all().values()) {
    for (let id = snapshot.chainId; id !== ""; id = records.layers.get(id)?.parent ?? "") live.add(id);
  }
  return live;
}
