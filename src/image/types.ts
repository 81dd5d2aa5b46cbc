import type { ImageConfig } from "../oci/image-spec";
import type { Mount } from "../oci/mount";

/** Images by config digest, their content and their snapshots. Doors: `openImages` in index.ts. */
export interface Images {
  pull(options: PullOptions): Promise<Image>;
  /** An OCI layout (directory or tar) or a docker-archive tar; returns every image in it. */
  import(options: { path: string; name?: string }): Promise<readonly Image[]>;
  /** By id, unique id prefix, or any reference; undefined if absent. Memory only. */
  find(reference: string): Image | undefined;
  list(): readonly Image[];
  /** Removes all references of the image and collects what nobody else needs; absent is fine. */
  remove(reference: string): Promise<void>;
  /** The writable overlay of a container on top of an image. Named by `key` (container id), undone by removal. */
  prepare(options: { key: string; image: Image }): Promise<Snapshot>;
  /** Absent is fine. */
  removeSnapshot(key: string): Promise<void>;
  /** The snapshot of `key` if it exists (after a restart). */
  snapshot(key: string): Snapshot | undefined;
  snapshotKeys(): readonly string[];
  /** Of everything below root; cached, refreshed in the background. */
  usage(): { mountpoint: string; bytes: bigint; inodes: bigint; timestamp: bigint };
  /** Writable layer of one snapshot, from the same background round; undefined until measured. */
  snapshotUsage(key: string): { bytes: bigint; inodes: bigint; timestamp: bigint } | undefined;
  close(): Promise<void>;
}

export interface PullOptions {
  readonly reference: string;
  readonly auth?: RegistryAuth | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface RegistryAuth {
  readonly username?: string;
  readonly password?: string;
  /** base64("user:password"). */
  readonly auth?: string;
  readonly serverAddress?: string;
  readonly identityToken?: string;
  readonly registryToken?: string;
}

export interface Image {
  /** Config digest, `sha256:…`. */
  readonly id: string;
  readonly repoTags: readonly string[];
  readonly repoDigests: readonly string[];
  /** Compressed size of all layers and the config, in bytes. */
  readonly size: number;
  readonly config: ImageConfig;
  /** Layer chain id of the top layer: the snapshot's parent. */
  readonly chainId: string;
  /** /etc/passwd and /etc/group of the image as text, read once at unpack; "" if absent. */
  readonly passwd: string;
  readonly group: string;
  readonly pinned: boolean;
}

export interface Snapshot {
  readonly key: string;
  /** What the runtime mounts: one overlay (or one bind for an image without layers below). */
  readonly mounts: readonly Mount[];
  /** Host directory that holds the writable layer. */
  readonly upper: string;
}
