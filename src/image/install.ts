import { IsopodError, messageOf } from "../base/errors";
import { native } from "../native";
import type { Descriptor, ImageConfig, Index, Manifest } from "../oci/image-spec";
import { digestOf } from "./content-store";
import type { LayerInput, LayerSource } from "./layers";
import type { Lease } from "./leases";
import { MAX_DOCUMENT, parseConfig, parseManifest } from "./manifest";
import { choosePlatform, formatPlatform, rankPlatform } from "./platform";
import type { ImageRecord, LayerRecord } from "./records";
import type { Store } from "./store";

/** Where an image comes from: a registry's repository or an archive. */
export interface ImageSource {
  /** A manifest, index or config; whoever asks verifies it. */
  document(descriptor: Descriptor, signal: AbortSignal): Promise<Buffer>;
  layer(descriptor: Descriptor): LayerSource;
}

/** A manifest or index as it came, already verified. */
export interface Document {
  readonly mediaType?: string | undefined;
  readonly digest: string;
  readonly data: Buffer;
}

export interface InstallOptions {
  readonly source: ImageSource;
  readonly document: Document;
  /** `host/repository:tag`s that are to name the image from now on. */
  readonly tags: readonly string[];
  /** `host/repository@digest`s of what was asked for. */
  readonly repoDigests: readonly string[];
  readonly signal: AbortSignal;
}

/** How long what a failed pull brought is kept for the next attempt. */
const KEEP_MS = 10 * 60 * 1000;
const MAX_INDEX_DEPTH = 3;
const USER_FILE_LIMIT = 1024 * 1024;

/**
 * Brings one image into the store. Its record is written last, in one transaction with those of its layers,
 * after every byte was verified and the filesystem synced: what is there after a power cut is whole.
 */
export async function install(store: Store, options: InstallOptions): Promise<ImageRecord> {
  const lease = store.leases.take();
  try {
    const record = await bring(store, lease, options);
    lease.done();
    return record;
  } catch (error) {
    // A full disk needs its room back at once, and bad content will not get better.
    const code = IsopodError.is(error) ? error.code : "UNKNOWN";
    const useful = code === "CANCELLED" || code === "DEADLINE_EXCEEDED" || code === "UNAVAILABLE";
    lease.failed(useful || options.signal.aborted ? KEEP_MS : 0);
    await store.collect().catch((failure: unknown) => {
      store.log.warn("collecting after a failed pull", { error: messageOf(failure) });
    });
    throw error;
  }
}

async function bring(store: Store, lease: Lease, options: InstallOptions): Promise<ImageRecord> {
  const { source, signal } = options;
  const chosen = await choose(store, lease, options);
  const { manifest, config } = chosen;
  const diffIds = config.rootfs.diff_ids;
  if (diffIds.length !== manifest.layers.length) {
    throw new IsopodError(
      "INVALID_ARGUMENT",
      `config.rootfs.diff_ids: ${diffIds.length} entries for ${manifest.layers.length} layers`,
      { path: manifest.config.digest },
    );
  }
  const inputs: LayerInput[] = manifest.layers.map((descriptor, i) => ({
    descriptor,
    diffId: diffIds[i]!,
    source: source.layer(descriptor),
  }));
  const layers = await store.layers.ensure(inputs, lease, signal);
  const lower = store.snapshots.lower(layers);
  const [passwd, group] = await Promise.all([
    readUserFile(store, lower, "etc/passwd"),
    readUserFile(store, lower, "etc/group"),
  ]);
  if (layers.some((layer) => !store.records.layers.has(layer.chainId))) {
    await native().syncFilesystem({ path: store.root });
  }
  signal.throwIfAborted();
  const content = [...chosen.documents, manifest.config.digest];
  for (const layer of manifest.layers) if (store.content.has(layer.digest)) content.push(layer.digest);
  const size = manifest.layers.reduce((sum, layer) => sum + layer.size, manifest.config.size);
  return record(store, options, layers, {
    id: manifest.config.digest,
    tags: [],
    digests: [],
    size,
    config,
    chain: layers.map((layer) => layer.chainId),
    content,
    passwd,
    group,
  });
}

interface Chosen {
  readonly manifest: Manifest;
  readonly config: ImageConfig;
  /** Digests of the index and the manifest. */
  readonly documents: readonly string[];
}

/** Walks from what was asked for to the manifest and config for this host. */
async function choose(store: Store, lease: Lease, options: InstallOptions): Promise<Chosen> {
  const keep = async (digest: string, data: Buffer) => {
    lease.digests.add(digest);
    await store.content.put(digest, data);
  };
  const fetch = async (descriptor: Descriptor): Promise<Buffer> => {
    if (descriptor.size > MAX_DOCUMENT) {
      throw new IsopodError(
        "INVALID_ARGUMENT",
        `${descriptor.digest}: ${descriptor.size} bytes, a manifest or config may have ${MAX_DOCUMENT}`,
        { path: descriptor.digest },
      );
    }
    const stored = store.content.has(descriptor.digest);
    const data = stored
      ? await store.content.read(descriptor.digest)
      : await options.source.document(descriptor, options.signal);
    verifyDocument(descriptor, data);
    await keep(descriptor.digest, data);
    return data;
  };
  const visit = async (document: Document, depth: number): Promise<Chosen | undefined> => {
    const parsed = parseManifest(document.data, document.mediaType);
    await keep(document.digest, document.data);
    if (!("manifests" in parsed)) {
      const config = parseConfig(await fetch(parsed.config));
      if (rankPlatform(store.platform, config) === undefined) return undefined;
      return { manifest: parsed, config, documents: [document.digest] };
    }
    if (depth === MAX_INDEX_DEPTH) {
      throw new IsopodError("INVALID_ARGUMENT", `index ${document.digest}: nested deeper than ${depth}`);
    }
    for (const candidate of choosePlatform(store.platform, (parsed as Index).manifests)) {
      const { mediaType, digest } = candidate;
      const found = await visit({ mediaType, digest, data: await fetch(candidate) }, depth + 1);
      if (found) return { ...found, documents: [document.digest, ...found.documents] };
    }
    return undefined;
  };
  const chosen = await visit(options.document, 0);
  if (chosen !== undefined) return chosen;
  const wanted = formatPlatform(store.platform);
  throw new IsopodError(
    "NOT_FOUND",
    `manifest ${options.document.digest}: no image for platform ${wanted} in it: not found`,
    { path: options.document.digest },
  );
}

function verifyDocument(descriptor: Descriptor, data: Buffer): void {
  if (data.length !== descriptor.size) {
    throw new IsopodError(
      "DATA_LOSS",
      `${descriptor.digest}: has ${data.length} bytes, its descriptor says ${descriptor.size}`,
      { path: descriptor.digest },
    );
  }
  const digest = digestOf(data);
  if (digest !== descriptor.digest) {
    throw new IsopodError("DATA_LOSS", `${descriptor.digest}: its content has the digest ${digest}`, {
      path: descriptor.digest,
    });
  }
}

/** "" if the image has none, or something that cannot be one. */
async function readUserFile(store: Store, layers: readonly string[], file: string): Promise<string> {
  if (layers.length === 0) return "";
  try {
    const data = await native().readLayers({ layers, path: file, limit: USER_FILE_LIMIT });
    return data?.toString("utf8") ?? "";
  } catch (error) {
    if (!IsopodError.is(error) || error.code !== "INVALID_ARGUMENT") throw error;
    store.log.warn("image has an unusable user file", { file, error: error.message });
    return "";
  }
}

/** One image per config digest: names of all its references are merged, and a tag moves to its new image. */
async function record(
  store: Store,
  options: InstallOptions,
  layers: readonly LayerRecord[],
  image: ImageRecord,
): Promise<ImageRecord> {
  const { records } = store;
  let result = image;
  await records.change(
    () => {
      const changed: ImageRecord[] = [];
      for (const other of records.images.values()) {
        const tags = other.tags.filter((tag) => !options.tags.includes(tag));
        if (other.id !== image.id && tags.length < other.tags.length) changed.push({ ...other, tags });
      }
      const before = records.images.get(image.id);
      const merge = (old: readonly string[] = [], added: readonly string[]) => [
        ...new Set([...old, ...added]),
      ];
      result = {
        ...image,
        tags: merge(before?.tags, options.tags),
        digests: merge(before?.digests, options.repoDigests),
        content: merge(before?.content, image.content),
      };
      changed.push(result);
      const added = layers.filter((layer) => !records.layers.has(layer.chainId));
      return { images: changed, layers: added };
    },
    { flush: true },
  );
  store.layers.recorded(layers);
  return result;
}
