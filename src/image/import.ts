import { IsopodError, unsupported } from "../base/errors";
import type { Descriptor } from "../oci/image-spec";
import { type Archive, openArchive } from "./archive";
import { digestOf } from "./content-store";
import { compressionOf } from "./inflate";
import { type Document, type ImageSource, install } from "./install";
import {
  array,
  isIndexType,
  isManifestType,
  MAX_DOCUMENT,
  media,
  object,
  parseConfig,
  parseDescriptors,
  parseJson,
  string,
  strings,
} from "./manifest";
import { rankPlatform } from "./platform";
import type { ImageRecord } from "./records";
import { parseReference, type Reference, repoTag } from "./reference";
import type { Store } from "./store";

/**
 * Images from a file: an OCI image layout (a directory or a tar of one) or what `docker save` writes. Both
 * are read in place; only blobs that the store lacks are copied.
 */
export async function importArchive(
  store: Store,
  request: { path: string; name?: string },
): Promise<ImageRecord[]> {
  const signal = store.closing;
  const archive = await openArchive(request.path);
  try {
    const found = archive.has("oci-layout")
      ? await ociImages(store, archive)
      : await dockerImages(archive, request.path);
    if (request.name !== undefined && found.length > 1) {
      throw unsupported("name", request.name, `the archive holds ${found.length} images`);
    }
    const name = request.name === undefined ? undefined : parseReference(request.name);
    const images: ImageRecord[] = [];
    for (const image of found) {
      const names = name === undefined ? image.names : [name];
      const tags = names.map(repoTag).filter((tag) => tag !== undefined);
      const repoDigests = names.map((reference) => `${reference.name}@${image.document.digest}`);
      images.push(
        await install(store, { source: image.source, document: image.document, tags, repoDigests, signal }),
      );
    }
    // Two manifests may have one config: the last record has the names of both.
    return [...new Map(images.map((image) => [image.id, image])).values()];
  } finally {
    archive.close();
  }
}

interface FoundImage {
  readonly names: readonly Reference[];
  readonly document: Document;
  readonly source: ImageSource;
}

/** image-spec, image-layout.md: oci-layout, index.json, blobs/<algorithm>/<hex>. */
async function ociImages(store: Store, archive: Archive): Promise<FoundImage[]> {
  const layout = object("oci-layout", parseJson("oci-layout", await archive.read("oci-layout", 4096)));
  if (layout["imageLayoutVersion"] !== "1.0.0") {
    throw unsupported("oci-layout.imageLayoutVersion", layout["imageLayoutVersion"]);
  }
  const index = object("index.json", parseJson("index.json", await archive.read("index.json", MAX_DOCUMENT)));
  if (index["schemaVersion"] !== 2) throw unsupported("index.json.schemaVersion", index["schemaVersion"]);
  const source: ImageSource = {
    document: (descriptor) => archive.read(blobName(descriptor), MAX_DOCUMENT),
    layer: (descriptor) => archive.slice(blobName(descriptor)),
  };
  const images: FoundImage[] = [];
  const manifests = parseDescriptors("index.json.manifests", index["manifests"]);
  for (const descriptor of manifests) {
    const { mediaType, digest, platform } = descriptor;
    if (!isIndexType(mediaType) && !isManifestType(mediaType)) continue; // an artifact of another kind
    if (platform !== undefined && rankPlatform(store.platform, platform) === undefined) continue;
    const data = await source.document(descriptor, new AbortController().signal);
    const actual = digestOf(data);
    if (actual !== digest) {
      throw new IsopodError("DATA_LOSS", `${digest}: its content has the digest ${actual}`, { path: digest });
    }
    images.push({ names: annotatedNames(descriptor), document: { mediaType, digest, data }, source });
  }
  if (images.length === 0) {
    throw new IsopodError("NOT_FOUND", "index.json.manifests: no image for this platform: not found");
  }
  return images;
}

const blobName = (descriptor: Descriptor) => `blobs/${descriptor.digest.replace(":", "/")}`;

/** A bare tag, as skopeo and umoci write it, names no repository: such an image is found by its id. */
function annotatedNames(descriptor: Descriptor): Reference[] {
  const annotations = descriptor.annotations ?? {};
  const full = annotations["io.containerd.image.name"];
  if (full !== undefined) return [parseReference(full)];
  const name = annotations["org.opencontainers.image.ref.name"];
  return name !== undefined && /[/:]/.test(name) ? [parseReference(name)] : [];
}

/** `docker save`: manifest.json is a list of {Config, RepoTags, Layers}, all of them names in the archive. */
async function dockerImages(archive: Archive, file: string): Promise<FoundImage[]> {
  if (!archive.has("manifest.json")) {
    throw new IsopodError(
      "INVALID_ARGUMENT",
      `import: ${file}: neither an OCI layout (oci-layout) nor a docker archive (manifest.json)`,
      { path: file },
    );
  }
  const list = array(
    "manifest.json",
    parseJson("manifest.json", await archive.read("manifest.json", MAX_DOCUMENT)),
  );
  return Promise.all(list.map((entry, i) => dockerImage(archive, `manifest.json[${i}]`, entry)));
}

/**
 * The archive names no digests, so an OCI manifest is made for it. A layer that is not compressed has its
 * diff_id as digest; that of a compressed one is computed.
 */
async function dockerImage(archive: Archive, field: string, value: unknown): Promise<FoundImage> {
  const fields = object(field, value);
  const tags = fields["RepoTags"] == null ? [] : strings(`${field}.RepoTags`, fields["RepoTags"]);
  const layerNames = strings(`${field}.Layers`, fields["Layers"]);
  const config = await archive.read(string(`${field}.Config`, fields["Config"]), MAX_DOCUMENT);
  const diffIds = parseConfig(config).rootfs.diff_ids;
  const configDigest = digestOf(config);
  const names = new Map<string, string>();
  const layers: Descriptor[] = [];
  for (const [i, name] of layerNames.entries()) {
    const { size } = archive.slice(name);
    const compression = compressionOf(await archive.head(name, 4));
    const plain = compression === "none";
    const digest = plain ? diffIds[i] : await archive.digest(name);
    if (digest === undefined) {
      const why = `${diffIds.length} entries for ${layerNames.length} layers`;
      throw new IsopodError("INVALID_ARGUMENT", `config.rootfs.diff_ids: ${why}`, { path: configDigest });
    }
    names.set(digest, name);
    layers.push({ mediaType: media.ociLayer + (plain ? "" : `+${compression}`), digest, size });
  }
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: media.ociManifest,
      config: { mediaType: media.ociConfig, digest: configDigest, size: config.length },
      layers,
    }),
  );
  return {
    names: tags.map(parseReference),
    document: { mediaType: media.ociManifest, digest: digestOf(manifest), data: manifest },
    source: {
      document: async () => config,
      layer: (descriptor) => archive.slice(names.get(descriptor.digest)!),
    },
  };
}
