import { IsopodError, invalid, messageOf, unsupported } from "../base/errors";
import type { Descriptor, ImageConfig, Index, Manifest, Platform } from "../oci/image-spec";
import { isDigest } from "./reference";

/**
 * Manifests, indexes and configs as they come from a registry or an archive: hostile until parsed. An
 * error names the field and its value.
 */
export const media = {
  ociIndex: "application/vnd.oci.image.index.v1+json",
  ociManifest: "application/vnd.oci.image.manifest.v1+json",
  ociConfig: "application/vnd.oci.image.config.v1+json",
  ociLayer: "application/vnd.oci.image.layer.v1.tar",
  dockerList: "application/vnd.docker.distribution.manifest.list.v2+json",
  dockerManifest: "application/vnd.docker.distribution.manifest.v2+json",
  dockerConfig: "application/vnd.docker.container.image.v1+json",
} as const;

export const isIndexType = (type: string): boolean => type === media.ociIndex || type === media.dockerList;
export const isManifestType = (type: string): boolean =>
  type === media.ociManifest || type === media.dockerManifest;

/** What a registry is asked for. Schema 1 is not among it: its images have no config digest. */
export const acceptedManifests = [
  media.ociIndex,
  media.ociManifest,
  media.dockerList,
  media.dockerManifest,
].join(", ");

/** Bytes a manifest, index or config may have: registries' own limit. */
export const MAX_DOCUMENT = 4 * 1024 * 1024;
/** overlayfs stacks no more (OVL_MAX_STACK). */
const MAX_LAYERS = 500;
const MAX_SIZE = 2 ** 43;

const layerTypes =
  /^application\/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1\.tar(\+gzip|\+zstd)?|docker\.image\.rootfs\.(foreign\.)?diff\.tar(\.gzip|\.zstd)?)$/;

type Fields = Readonly<Record<string, unknown>>;

export function parseJson(what: string, data: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data));
  } catch (error) {
    throw new IsopodError("INVALID_ARGUMENT", `${what}: not JSON: ${messageOf(error)}`, { path: what });
  }
}

/** An index or a manifest, told apart by their media type, else by what they contain. */
export function parseManifest(data: Uint8Array, mediaType?: string): Index | Manifest {
  const fields = object("manifest", parseJson("manifest", data));
  const type = fields["mediaType"] ?? mediaType;
  if (fields["schemaVersion"] !== 2) throw unsupported("manifest.schemaVersion", fields["schemaVersion"]);
  const known = typeof type === "string" && (isIndexType(type) || isManifestType(type));
  if (type !== undefined && !known) throw unsupported("manifest.mediaType", type);
  const isIndex = typeof type === "string" ? isIndexType(type) : "manifests" in fields;
  // One document that is both would be read differently by different clients (CVE-2021-41190).
  if ("manifests" in fields && ("config" in fields || "layers" in fields)) {
    throw invalid("manifest", Object.keys(fields), "is an index and a manifest at once");
  }
  return isIndex ? index(fields) : manifest(fields);
}

function index(fields: Fields): Index {
  const manifests = array("index.manifests", fields["manifests"]).map((entry, i) =>
    descriptor(`index.manifests[${i}]`, entry),
  );
  return { schemaVersion: 2, manifests };
}

function manifest(fields: Fields): Manifest {
  const config = descriptor("manifest.config", fields["config"]);
  if (config.mediaType !== media.ociConfig && config.mediaType !== media.dockerConfig) {
    throw unsupported("manifest.config.mediaType", config.mediaType, "not a container image");
  }
  const layers = array("manifest.layers", fields["layers"]).map((entry, i) => {
    const layer = descriptor(`manifest.layers[${i}]`, entry);
    if (!layerTypes.test(layer.mediaType)) {
      throw unsupported(`manifest.layers[${i}].mediaType`, layer.mediaType);
    }
    return layer;
  });
  if (layers.length > MAX_LAYERS) {
    throw unsupported("manifest.layers", layers.length, `overlayfs takes at most ${MAX_LAYERS} layers`);
  }
  return { schemaVersion: 2, config, layers };
}

export function parseDescriptors(field: string, value: unknown): Descriptor[] {
  return array(field, value).map((entry, i) => descriptor(`${field}[${i}]`, entry));
}

function descriptor(field: string, value: unknown): Descriptor {
  const fields = object(field, value);
  const { mediaType, digest, size, platform, annotations } = fields;
  if (typeof mediaType !== "string") throw invalid(`${field}.mediaType`, mediaType, "must be a string");
  if (!isDigest(digest)) throw invalid(`${field}.digest`, digest, "must be sha256 and 64 hex digits");
  if (!Number.isSafeInteger(size) || (size as number) < 0 || (size as number) > MAX_SIZE) {
    throw invalid(`${field}.size`, size, "must be a size in bytes");
  }
  return {
    mediaType,
    digest,
    size: size as number,
    ...(platform == null ? {} : { platform: platformOf(`${field}.platform`, platform) }),
    ...(annotations == null ? {} : { annotations: stringMap(`${field}.annotations`, annotations) }),
  };
}

function platformOf(field: string, value: unknown): Platform {
  const fields = object(field, value);
  const variant = optionalString(`${field}.variant`, fields["variant"]);
  return {
    os: string(`${field}.os`, fields["os"]),
    architecture: string(`${field}.architecture`, fields["architecture"]),
    ...(variant ? { variant } : {}),
  };
}

export function parseConfig(data: Uint8Array): ImageConfig {
  const fields = object("config", parseJson("config", data));
  const rootfs = object("config.rootfs", fields["rootfs"]);
  if (rootfs["type"] !== "layers") throw unsupported("config.rootfs.type", rootfs["type"]);
  const diffIds = array("config.rootfs.diff_ids", rootfs["diff_ids"] ?? []);
  diffIds.forEach((id, i) => {
    if (!isDigest(id)) {
      throw invalid(`config.rootfs.diff_ids[${i}]`, id, "must be sha256 and 64 hex digits");
    }
  });
  const variant = optionalString("config.variant", fields["variant"]);
  const created = optionalString("config.created", fields["created"]);
  return {
    architecture: string("config.architecture", fields["architecture"]),
    os: string("config.os", fields["os"]),
    ...(variant ? { variant } : {}),
    ...(created ? { created } : {}),
    ...(fields["config"] == null ? {} : { config: processConfig(fields["config"]) }),
    rootfs: { type: "layers", diff_ids: diffIds as string[] },
  };
}

/** Docker writes null for what is not set; here that is absent. */
function processConfig(value: unknown): NonNullable<ImageConfig["config"]> {
  const fields = object("config.config", value);
  const result: Record<string, unknown> = {};
  const take = (name: string, parse: (field: string, value: unknown) => unknown) => {
    const given = fields[name];
    if (given !== undefined && given !== null) result[name] = parse(`config.config.${name}`, given);
  };
  take("User", string);
  take("Env", environment);
  take("Entrypoint", strings);
  take("Cmd", strings);
  take("Volumes", object);
  take("WorkingDir", string);
  take("Labels", stringMap);
  take("StopSignal", string);
  return result;
}

function environment(field: string, value: unknown): string[] {
  const variables = strings(field, value);
  variables.forEach((variable, i) => {
    if (variable.includes("\0")) throw invalid(`${field}[${i}]`, variable, "contains a NUL");
  });
  return variables;
}

export function object(field: string, value: unknown): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw invalid(field, value, "must be an object");
  }
  return value as Fields;
}

export function array(field: string, value: unknown): unknown[] {
  if (!Array.isArray(value)) throw invalid(field, value, "must be a list");
  return value;
}

export function string(field: string, value: unknown): string {
  if (typeof value !== "string") throw invalid(field, value, "must be a string");
  return value;
}

function optionalString(field: string, value: unknown): string | undefined {
  return value == null ? undefined : string(field, value);
}

export function strings(field: string, value: unknown): string[] {
  return array(field, value).map((entry, i) => string(`${field}[${i}]`, entry));
}

function stringMap(field: string, value: unknown): Record<string, string> {
  return Object.fromEntries(
    Object.entries(object(field, value)).map(([key, entry]) => [key, string(`${field}.${key}`, entry)]),
  );
}
