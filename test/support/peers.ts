import { spawnSync } from "node:child_process";
import * as path from "node:path";
import { cleanEnv } from "./command";
import type { Need } from "./needs";

/**
 * The real programs that tests and benches run against (`scripts/peers.mjs` fetches them into a cache
 * folder; nothing is installed). Each call returns absolute paths, or the reason why this machine cannot
 * have the peer. The first call for a peer may take long (download, Go build); `npm test` makes it before
 * the tests start.
 */
export const peers = {
  /** docker-registry 2.8. */
  registry: () => obtain<{ registry: string }>("registry"),
  /** skopeo 1.9; give it --insecure-policy. */
  skopeo: () => obtain<{ skopeo: string }>("skopeo"),
  umoci: () => obtain<{ umoci: string }>("umoci"),
  /** The folder with bridge, host-local, portmap, loopback and the other plugins. */
  cni: () => obtain<{ binDir: string }>("cni"),
  /** xtables-nft-multi (`iptables` is its first argument) and the value of XTABLES_LIBDIR. */
  iptables: () => obtain<{ iptables: string; extensions: string }>("iptables"),
  /** runc 1.1.5. */
  runc: () => obtain<{ runc: string }>("runc"),
  /** runc 1.5.2. */
  runc15: () => obtain<{ runc: string }>("runc-1.5"),
  /** crun 1.28 with its own libc. Wants a unified cgroup view: see `unified` in scripts/bench. */
  crun: () => obtain<{ crun: string }>("crun"),
  /** containerd 1.6.20. */
  containerd: () => obtain<Containerd>("containerd"),
  /** containerd 2.4.2. */
  containerd24: () => obtain<Containerd>("containerd-2.4"),
  /** crictl 1.37. */
  crictl: () => obtain<{ crictl: string }>("crictl"),
};

export interface Containerd {
  readonly containerd: string;
  readonly ctr: string;
  /** containerd-shim-runc-v2; its folder belongs into containerd's PATH. */
  readonly shim: string;
}

/** The top of the checkout. */
export const repository = path.resolve(__dirname, "../../..");

const obtained = new Map<string, unknown>();

function obtain<T>(name: string): Need<T> {
  let peer = obtained.get(name) as Need<T> | undefined;
  if (peer === undefined) {
    const script = path.join(repository, "scripts/peers.mjs");
    const { stdout, status } = spawnSync(process.execPath, [script, name], {
      encoding: "utf8",
      env: cleanEnv(),
      stdio: ["ignore", "pipe", "inherit"],
    });
    peer =
      status === 0
        ? (JSON.parse(stdout) as Record<string, Need<T>>)[name]!
        : { missing: `${name}: scripts/peers.mjs failed` };
    obtained.set(name, peer);
  }
  return peer;
}
