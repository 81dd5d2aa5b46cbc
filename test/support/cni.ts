import * as fs from "node:fs";
import * as path from "node:path";
import { command } from "./command";
import type { Host } from "./host";
import { onHost } from "./host";
import { present } from "./needs";
import { peers } from "./peers";

/** A CNI network of one's own: bridge, host-local (and portmap), with a bridge and a subnet nobody else has. */
export interface TestNetwork {
  /** For `[cni] conf_dir`. */
  readonly confDir: string;
  /** For `[cni] bin_dirs`. */
  readonly binDir: string;
  readonly name: string;
  readonly bridge: string;
  /** e.g. "198.18.7" of 198.18.7.0/24; the gateway is .1. */
  readonly prefix: string;
  /** host-local keeps one file per address here. */
  readonly leases: string;
  /** Removes the bridge, which no plugin ever does. Files go with their folder, the caller's. */
  remove(): Promise<void>;
}

export interface NetworkOptions {
  readonly portmap?: boolean;
  readonly ipMasq?: boolean;
  /** Further plugins at the end of the chain. */
  readonly plugins?: readonly object[];
  /** Where the bridge will be; default: the caller's network namespace. */
  readonly host?: Host;
}

let count = 0;

/** Writes the configuration below `dir`. Needs `peers.cni()`. */
export function writeNetwork(dir: string, options: NetworkOptions = {}): TestNetwork {
  const { binDir } = present(peers.cni());
  // 198.18.0.0/15 is kept for measurements (RFC 2544): no route of a user's machine leads there.
  const number = (process.pid * 7 + count++) % 512;
  const prefix = `198.${18 + (number >> 8)}.${number & 255}`;
  const name = `isopod-test-${process.pid}-${count}`;
  const bridge = `iso${process.pid.toString(36)}x${count}`;
  const confDir = path.join(dir, "cni");
  const leases = path.join(dir, "leases");
  fs.mkdirSync(confDir, { recursive: true });
  const ranges = [[{ subnet: `${prefix}.0/24`, gateway: `${prefix}.1` }]];
  const plugins: object[] = [
    {
      type: "bridge",
      bridge,
      isGateway: true,
      ipMasq: options.ipMasq ?? false,
      hairpinMode: true,
      ipam: { type: "host-local", dataDir: leases, ranges, routes: [{ dst: "0.0.0.0/0" }] },
    },
  ];
  if (options.portmap) plugins.push({ type: "portmap", capabilities: { portMappings: true }, snat: true });
  plugins.push(...(options.plugins ?? []));
  fs.writeFileSync(
    path.join(confDir, "10-test.conflist"),
    JSON.stringify({ cniVersion: "1.0.0", name, plugins }),
  );
  const remove = async () => {
    const args = ["link", "del", bridge];
    if (options.host === undefined) await command("ip", args, { accept: [0, 1] });
    else await onHost(options.host, "ip", args).catch(() => undefined);
  };
  return { confDir, binDir, name, bridge, prefix, leases: path.join(leases, name), remove };
}

/** Addresses that host-local holds; its lock and reservation files are none. */
export function leasedAddresses(network: TestNetwork): string[] {
  if (!fs.existsSync(network.leases)) return [];
  return fs.readdirSync(network.leases).filter((name) => /^\d+\.\d+\.\d+\.\d+$/.test(name));
}
