/**
 * isopod as a library: containers launched inside the calling process. Nothing happens at import; the addon
 * and the image store are loaded on first use. See docs/library.md.
 */
import { type Log, silentLog } from "./base/log";
import type { Image, Images, RegistryAuth } from "./image/index";
import type { Network } from "./network/index";

export { type ErrorCode, IsopodError } from "./base/errors";
export type { Image, Images, RegistryAuth, Snapshot } from "./image/index";
export type { ExitStatus, VmEnd } from "./native";
export type { Network, PodNetwork } from "./network/index";
export type { Mount } from "./oci/mount";
export type { Process as ProcessSpec, Resources, Spec } from "./oci/runtime-spec";
export {
  type CgroupStats,
  type ConnectOptions,
  ContainerHandle as Container,
  check,
  type ExecOptions,
  type Finding,
  type HostReport,
  MicroVm,
  type MicroVmDisk,
  type MicroVmOptions,
  type Pressure,
  ProcessHandle as Process,
  type ProcessState,
  type RunOptions,
  run,
  type Stall,
  type StreamOptions,
} from "./runtime";

export interface StoreOptions {
  /** Absolute path of the image store; one process at a time has it open. */
  readonly root: string;
  /** Default: says nothing. */
  readonly log?: Log;
}

export interface PullImageOptions extends StoreOptions {
  readonly auth?: RegistryAuth;
  readonly signal?: AbortSignal;
}

const stores = new Map<string, Promise<Images>>();

/** The image store at `root`: its images and the writable snapshots on top of them. `close` it at the end. */
export function snapshotter(options: StoreOptions): Promise<Images> {
  const { root, log = silentLog } = options;
  let store = stores.get(root);
  if (!store) {
    store = openStore(root, log).catch((error: unknown) => {
      stores.delete(root);
      throw error;
    });
    stores.set(root, store);
  }
  return store;
}

async function openStore(root: string, log: Log): Promise<Images> {
  const { openImages } = await import("./image/index.js");
  const images = await openImages({ root, log });
  const close = async (): Promise<void> => {
    stores.delete(root);
    await images.close();
  };
  return { ...images, close };
}

/** Pulls from a registry: every digest, size and layer is verified. NOT_FOUND, UNAUTHENTICATED, UNAVAILABLE. */
export async function pullImage(reference: string, options: PullImageOptions): Promise<Image> {
  const { auth, signal } = options;
  return (await snapshotter(options)).pull({ reference, auth, signal });
}

/** Imports an OCI layout (directory or tar) or a docker-archive tar; returns every image in it. */
export async function importImage(path: string, options: StoreOptions): Promise<readonly Image[]> {
  return (await snapshotter(options)).import({ path });
}

export interface LibraryNetworkOptions {
  /** Default: /etc/cni/net.d. */
  readonly confDir?: string;
  /** Default: /opt/cni/bin, then /usr/lib/cni. */
  readonly binDirs?: readonly string[];
  /** Default: /run/netns. */
  readonly netnsDir?: string;
  readonly log?: Log;
}

/** Network namespaces, attached by CNI. `close` it at the end. */
export async function network(options: LibraryNetworkOptions = {}): Promise<Network> {
  const { openNetwork } = await import("./network/index.js");
  return openNetwork({
    confDir: options.confDir ?? "/etc/cni/net.d",
    binDirs: options.binDirs ?? ["/opt/cni/bin", "/usr/lib/cni"],
    netnsDir: options.netnsDir ?? "/run/netns",
    log: options.log ?? silentLog,
  });
}
