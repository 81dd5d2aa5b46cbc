import { execFileSync } from "node:child_process";
import * as crypto from "node:crypto";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import * as zlib from "node:zlib";
import { command } from "./command";
import { type Host, onHost } from "./host";
import { present } from "./needs";
import { peers } from "./peers";
import { type TarEntry, tar } from "./tar";

/**
 * Images that tests assemble themselves, without any network: layers are tar archives from `tar.ts`, the
 * content is Debian's static busybox and small static C programs. An image is written as an OCI layout or a
 * docker-archive tar; `push` brings a layout into a registry by skopeo.
 */
export type Compression = "gzip" | "zstd" | "none";

export interface Blob {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly data: Buffer;
}

export interface Layer extends Blob {
  readonly diffId: string;
}

/** `config` of the image config; see oci/image-spec. */
export interface ImageConfig {
  readonly User?: string;
  readonly Env?: readonly string[];
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly WorkingDir?: string;
  readonly Volumes?: Readonly<Record<string, object>>;
  readonly StopSignal?: string;
  readonly Labels?: Readonly<Record<string, string>>;
}

export interface BuiltImage {
  readonly layers: readonly Layer[];
  readonly config: Blob;
  readonly manifest: Blob;
}

export const digestOf = (data: Uint8Array): string =>
  `sha256:${crypto.createHash("sha256").update(data).digest("hex")}`;

const blob = (mediaType: string, data: Buffer): Blob => ({
  mediaType,
  digest: digestOf(data),
  size: data.length,
  data,
});

const json = (mediaType: string, value: unknown): Blob => blob(mediaType, Buffer.from(JSON.stringify(value)));

export function layer(entries: readonly TarEntry[], compression: Compression = "gzip"): Layer {
  return layerOf(tar(entries), compression);
}

/** A layer from a ready tar archive, e.g. a malformed one. */
export function layerOf(archive: Buffer, compression: Compression = "gzip"): Layer {
  const suffix = { gzip: "+gzip", zstd: "+zstd", none: "" }[compression];
  const data = { gzip: () => zlib.gzipSync(archive), zstd: () => zstdFrame(archive), none: () => archive };
  const packed = blob(`application/vnd.oci.image.layer.v1.tar${suffix}`, data[compression]());
  return { ...packed, diffId: digestOf(archive) };
}

/**
 * A zstd frame (RFC 8878) of raw blocks: valid for every decoder, needs no encoder, which Node 20 lacks.
 * Frame header: single segment, 4-byte content size. Block header: last | type << 1 | size << 3.
 */
function zstdFrame(data: Buffer): Buffer {
  const head = Buffer.alloc(9);
  head.writeUInt32LE(0xfd2fb528, 0);
  head.writeUInt8(0xa0, 4);
  head.writeUInt32LE(data.length, 5);
  const parts: Uint8Array[] = [head];
  const block = 128 * 1024;
  for (let offset = 0; offset === 0 || offset < data.length; offset += block) {
    const chunk = data.subarray(offset, offset + block);
    const last = offset + block >= data.length ? 1 : 0;
    const blockHead = Buffer.alloc(3);
    blockHead.writeUIntLE(last | (chunk.length << 3), 0, 3);
    parts.push(blockHead, chunk);
  }
  return Buffer.concat(parts);
}

/** GOARCH of this machine. */
export const architecture = process.arch === "arm64" ? "arm64" : "amd64";

export function image(
  layers: readonly Layer[],
  config: ImageConfig = {},
  arch: string = architecture,
): BuiltImage {
  const configBlob = json("application/vnd.oci.image.config.v1+json", {
    created: "2023-11-14T22:13:20Z",
    architecture: arch,
    os: "linux",
    config,
    rootfs: { type: "layers", diff_ids: layers.map((one) => one.diffId) },
    history: layers.map(() => ({ created: "2023-11-14T22:13:20Z", created_by: "test" })),
  });
  const manifestType = "application/vnd.oci.image.manifest.v1+json";
  const manifest = json(manifestType, {
    schemaVersion: 2,
    mediaType: manifestType,
    config: descriptor(configBlob),
    layers: layers.map(descriptor),
  });
  return { layers, config: configBlob, manifest };
}

export const descriptor = ({ mediaType, digest, size }: Blob) => ({ mediaType, digest, size });

/** An image index over images of several architectures, e.g. `[["amd64", a], ["arm64", b]]`. */
export function index(images: readonly (readonly [string, BuiltImage])[]): Blob {
  const mediaType = "application/vnd.oci.image.index.v1+json";
  const manifests = images.map(([arch, one]) => ({
    ...descriptor(one.manifest),
    platform: { architecture: arch, os: "linux" },
  }));
  return json(mediaType, { schemaVersion: 2, mediaType, manifests });
}

/** Writes an OCI layout below `dir`; `name` becomes org.opencontainers.image.ref.name. */
export function writeLayout(
  dir: string,
  images: readonly { name?: string; image: BuiltImage }[],
  indexes: readonly { name: string; index: Blob }[] = [],
): void {
  fs.mkdirSync(path.join(dir, "blobs/sha256"), { recursive: true });
  const all = images.flatMap(({ image: one }) => [...one.layers, one.config, one.manifest]);
  for (const one of [...all, ...indexes.map((entry) => entry.index)]) {
    fs.writeFileSync(path.join(dir, "blobs/sha256", one.digest.slice("sha256:".length)), one.data);
  }
  fs.writeFileSync(path.join(dir, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
  const named = [
    ...images.filter(({ name }) => name !== undefined).map((one) => [one.name!, one.image.manifest] as const),
    ...indexes.map((one) => [one.name, one.index] as const),
  ];
  const manifests = named.map(([name, target]) => ({
    ...descriptor(target),
    annotations: { "org.opencontainers.image.ref.name": name },
  }));
  fs.writeFileSync(path.join(dir, "index.json"), JSON.stringify({ schemaVersion: 2, manifests }));
}

/** Writes a `docker save` tar: manifest.json, configs and uncompressed or compressed layers. */
export function writeDockerArchive(
  file: string,
  images: readonly { tags: readonly string[]; image: BuiltImage }[],
): void {
  const hex = (one: Blob) => one.digest.slice("sha256:".length);
  const manifest = images.map(({ tags, image: one }) => ({
    Config: `${hex(one.config)}.json`,
    RepoTags: tags,
    Layers: one.layers.map((each) => `${hex(each)}/layer.tar`),
  }));
  const entries = new Map<string, TarEntry>();
  for (const { image: one } of images) {
    entries.set(hex(one.config), { path: `${hex(one.config)}.json`, data: one.config.data });
    for (const each of one.layers)
      entries.set(hex(each), { path: `${hex(each)}/layer.tar`, data: each.data });
  }
  fs.writeFileSync(
    file,
    tar([...entries.values(), { path: "manifest.json", data: JSON.stringify(manifest) }]),
  );
}

/** Packs an OCI layout directory as one tar. */
export function writeLayoutTar(file: string, dir: string): void {
  const names = fs.readdirSync(dir, { recursive: true }) as string[];
  const files = names.filter((name) => fs.statSync(path.join(dir, name)).isFile());
  fs.writeFileSync(
    file,
    tar(files.map((name) => ({ path: name, data: fs.readFileSync(path.join(dir, name)) }))),
  );
}

/** Files of a small system: busybox with all its applets, users, an empty /tmp, /root, mount points. */
export function busyboxEntries(): TarEntry[] {
  const program = ["/bin/busybox", "/usr/bin/busybox"].find((file) => fs.existsSync(file));
  if (program === undefined) throw new Error("needs the Debian package busybox-static");
  const data = fs.readFileSync(program);
  const directories = [
    "bin/",
    "dev/",
    "etc/",
    "proc/",
    "root/",
    "sys/",
    "usr/",
    "usr/bin/",
    "var/",
    "var/run/",
  ];
  const passwd = [
    "root:x:0:0:root:/root:/bin/sh",
    "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin",
    "www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin",
    "user:x:1000:1000:user:/home/user:/bin/sh",
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
  ];
  const group = [
    "root:x:0:",
    "daemon:x:1:",
    "www-data:x:33:",
    "extra:x:50000:user",
    "user:x:1000:",
    "nogroup:x:65534:",
  ];
  return [
    ...directories.map((name) => ({ path: name })),
    { path: "tmp/", mode: 0o1777 },
    { path: "home/" },
    { path: "home/user/", uid: 1000, gid: 1000 },
    { path: "bin/busybox", mode: 0o755, data },
    ...applets(program).map((name) => ({ path: `bin/${name}`, type: "symlink" as const, link: "busybox" })),
    { path: "etc/passwd", data: `${passwd.join("\n")}\n` },
    { path: "etc/group", data: `${group.join("\n")}\n` },
  ];
}

let appletNames: string[] | undefined;

function applets(program: string): string[] {
  if (appletNames === undefined) {
    const listed = execFileSync(program, ["--list"], { encoding: "utf8" });
    appletNames = listed.split("\n").filter((name) => name !== "" && name !== "busybox");
  }
  return appletNames;
}

/** The image that most tests run: one layer, PATH set, `sh` by default. */
export function busyboxImage(config: ImageConfig = {}, extra: readonly TarEntry[] = []): BuiltImage {
  const env = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
  const layers = [layer(busyboxEntries())];
  if (extra.length > 0) layers.push(layer(extra));
  return image(layers, { Env: env, Cmd: ["sh"], ...config });
}

/** A program from C source, static; built once per source and kept in the cache folder. */
export async function compileStatic(name: string, source: string): Promise<Buffer> {
  const cache = path.join(
    process.env["XDG_CACHE_HOME"] ?? path.join(os.homedir(), ".cache"),
    "isopod-peers/c",
  );
  const file = path.join(cache, `${name}-${digestOf(Buffer.from(source)).slice(7, 23)}`);
  if (!fs.existsSync(file)) {
    fs.mkdirSync(cache, { recursive: true });
    const partial = `${file}.${process.pid}.partial`;
    const args = ["-x", "c", "-O2", "-static", "-s", "-o", partial, "-"];
    await command("gcc", args, { stdin: source });
    fs.renameSync(partial, file);
  }
  return fs.readFileSync(file);
}

/** What a pod's pause container runs: waits until told to end. For peers that need a pause image. */
export async function pauseImage(): Promise<BuiltImage> {
  const source = `
    #include <signal.h>
    #include <unistd.h>
    static void end(int s) { (void)s; _exit(0); }
    int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }`;
  const program = await compileStatic("pause", source);
  return image([layer([{ path: "pause", mode: 0o755, data: program }])], { Entrypoint: ["/pause"] });
}

/** Pushes one image of a layout (`writeLayout` with a name) to a registry that speaks plain http. */
export async function push(
  layout: string,
  name: string,
  to: {
    host: string;
    repository: string;
    credentials?: string;
    format?: "oci" | "v2s2";
    all?: boolean;
    /** Where the registry listens; default: the caller's network. */
    from?: Host;
  },
): Promise<void> {
  const { skopeo } = present(peers.skopeo());
  const args = ["--insecure-policy", "copy", "--dest-tls-verify=false"];
  if (to.credentials !== undefined) args.push("--dest-creds", to.credentials);
  if (to.format !== undefined) args.push("--format", to.format);
  if (to.all) args.push("--all");
  args.push(`oci:${layout}:${name}`, `docker://${to.host}/${to.repository}`);
  await (to.from === undefined ? command(skopeo, args) : onHost(to.from, skopeo, args));
}
