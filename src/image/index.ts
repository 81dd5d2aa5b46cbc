import { invalid } from "../base/errors";
import type { Log } from "../base/log";
import type { Platform } from "../oci/image-spec";
import type { HttpOptions } from "./http";
import { importArchive } from "./import";
import { hostPlatform } from "./platform";
import { pullImage } from "./pull";
import type { ImageRecord } from "./records";
import { parseReference } from "./reference";
import { defaultLimits, openStore } from "./store";
import type { Image, Images } from "./types";
import type { UnpackLimits } from "./unpack-job";
import { measureUsage } from "./usage";

export type * from "./types";

export interface ImagesOptions {
  /** Absolute; everything lies below it. One process at a time. */
  readonly root: string;
  readonly log: Log;
  /** Which image of an index; the host's own by default. */
  readonly platform?: Platform;
  /** What one layer may unpack to; generous by default. */
  readonly limits?: Partial<UnpackLimits>;
  /** Deadlines of registry connections. */
  readonly http?: HttpOptions;
}

/** Opens the image store, clearing away what an earlier process left half done. */
export async function openImages(options: ImagesOptions): Promise<Images> {
  const { root, log } = options;
  const platform = options.platform ?? hostPlatform();
  const store = await openStore({ root, log, platform, limits: { ...defaultLimits, ...options.limits } });
  const { records, snapshots } = store;
  const usage = measureUsage(store);
  const views = new WeakMap<ImageRecord, Image>();

  const view = (record: ImageRecord): Image => {
    const known = views.get(record);
    if (known !== undefined) return known;
    const image: Image = {
      id: record.id,
      repoTags: record.tags,
      repoDigests: record.digests,
      size: record.size,
      config: record.config,
      chainId: record.chain.at(-1) ?? "",
      passwd: record.passwd,
      group: record.group,
      pinned: false,
    };
    views.set(record, image);
    return image;
  };

  return {
    async pull(request) {
      return view(await pullImage(store, request, options.http ?? {}));
    },
    async import(request) {
      const imported = await store.track(importArchive(store, request));
      return imported.map(view);
    },
    find(reference) {
      const record = findRecord(records.images, reference);
      return record && view(record);
    },
    list: () => [...records.images.values()].map(view),
    async remove(reference) {
      const record = findRecord(records.images, reference);
      if (record === undefined) return;
      await records.change(() => ({ removedImages: [record.id] }), { flush: true });
      await store.collect();
    },
    async prepare({ key, image }) {
      if (key === "") throw invalid("key", key, "must not be empty");
      return snapshots.prepare(key, image);
    },
    async removeSnapshot(key) {
      const chainId = snapshots.all().get(key)?.chainId;
      await snapshots.remove(key);
      // It may have been the last to hold the layers of an image that is gone.
      const held = [...records.images.values()].some((image) => image.chain.includes(chainId ?? ""));
      if (chainId && !held) await store.collect();
    },
    snapshot: (key) => snapshots.get(key),
    snapshotKeys: () => [...snapshots.all().keys()],
    usage: () => usage.total(),
    snapshotUsage: (key) => usage.snapshot(key),
    async close() {
      await usage.close();
      await store.close();
    },
  };
}

/**
 * A full id, with or without `sha256:`; then a name; then a unique prefix of an id. A name comes before a
 * prefix: `cafe` may be both.
 */
function findRecord(images: ReadonlyMap<string, ImageRecord>, reference: string): ImageRecord | undefined {
  const hex = reference.replace(/^sha256:/, "");
  const exact = images.get(`sha256:${hex}`);
  if (exact !== undefined) return exact;
  return findByName(images, reference) ?? findByPrefix(images, hex);
}

function findByName(images: ReadonlyMap<string, ImageRecord>, text: string): ImageRecord | undefined {
  let wanted: { name: string; tag: string | undefined; digest: string | undefined };
  try {
    wanted = parseReference(text);
  } catch {
    return undefined; // an id prefix such as sha256:1234
  }
  const { name, tag, digest } = wanted;
  for (const image of images.values()) {
    if (
      digest !== undefined
        ? image.digests.includes(`${name}@${digest}`)
        : image.tags.includes(`${name}:${tag}`)
    ) {
      return image;
    }
  }
  return undefined;
}

function findByPrefix(images: ReadonlyMap<string, ImageRecord>, hex: string): ImageRecord | undefined {
  if (!/^[0-9a-f]{1,64}$/.test(hex)) return undefined;
  const found = [...images.values()].filter((image) => image.id.startsWith(`sha256:${hex}`));
  return found.length === 1 ? found[0] : undefined;
}
