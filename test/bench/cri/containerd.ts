import { type ChildProcess, spawn } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import type { TestNetwork } from "../../support/cni";
import { cleanEnv, command } from "../../support/command";
import { type CriClient, criClient } from "../../support/cri-client";
import type { Host } from "../../support/host";
import type { Containerd } from "../../support/peers";
import { processesNaming } from "../../support/processes";

/** A containerd of one's own: everything it touches lies below `dir`. */
export interface PrivateContainerd {
  readonly socket: string;
  readonly pid: number;
  readonly cri: CriClient;
  /** Imports a `docker save` tar for CRI. */
  importImage(tar: string): Promise<void>;
  stop(): Promise<void>;
}

export interface ContainerdOptions {
  /** Short: sockets lie below (sun_path). */
  readonly dir: string;
  readonly host: Host;
  readonly peer: Containerd;
  /** 2.x takes another shape of configuration. */
  readonly version: "1.6" | "2.4";
  /** runc or crun. */
  readonly runtime: string;
  readonly network: TestNetwork;
  readonly pauseImage: string;
}

export async function startContainerd(options: ContainerdOptions): Promise<PrivateContainerd> {
  const { dir, host, peer, version } = options;
  const socket = path.join(dir, "c.sock");
  const log = path.join(dir, "containerd.log");
  const config = path.join(dir, "config.toml");
  fs.mkdirSync(dir, { recursive: true });
  fs.writeFileSync(config, version === "1.6" ? config16(options, socket) : config24(options, socket));
  // The shim is found beside containerd only if both are in PATH.
  const env = cleanEnv({ PATH: `${path.dirname(peer.shim)}:${process.env["PATH"]}` });
  const [enter, ...args] = [...host.enter, peer.containerd, "--config", config, "--log-level", "warn"];
  const output = fs.openSync(log, "a");
  const child = spawn(enter!, args, { env, stdio: ["ignore", output, output] });
  fs.closeSync(output);
  const cri = criClient(socket);
  const stop = async () => {
    cri.close();
    await ended(child);
    for (const pid of processesNaming(dir)) process.kill(pid, "SIGKILL");
    await command(host.enter[0]!, [...host.enter.slice(1), "sh", "-c", unmountScript(dir)]);
  };
  try {
    await ready(cri, child, log);
  } catch (error) {
    await stop().catch(() => undefined);
    throw error;
  }
  const importImage = async (tar: string) => {
    const ctr = [...host.enter, peer.ctr, "-a", socket, "-n", "k8s.io", "images", "import", tar];
    await command(ctr[0]!, ctr.slice(1), { env });
  };
  return { socket, pid: child.pid!, cri, importImage, stop };
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = new Promise((resolve) => child.on("exit", resolve));
  child.kill("SIGTERM");
  const hard = setTimeout(() => child.kill("SIGKILL"), 5000);
  await exit;
  clearTimeout(hard);
}

/** What containerd leaves mounted in the host when pods outlive it. */
const unmountScript = (dir: string): string =>
  `grep -F ' ${dir}/' /proc/self/mountinfo | cut -d ' ' -f 5 | sort -r | xargs -r -n 1 umount -l`;

async function ready(cri: CriClient, child: ChildProcess, log: string): Promise<void> {
  const deadline = Date.now() + 30_000;
  for (;;) {
    try {
      const { status } = await cri.Status({}, { timeoutMs: 2000 });
      // Others are warnings, such as that of a deprecated host.
      const wanted = (status?.conditions ?? []).filter(
        ({ type }) => type === "RuntimeReady" || type === "NetworkReady",
      );
      const missing = wanted.filter((condition) => !condition.status);
      if (missing.length === 0) return;
      throw new Error(missing.map(({ type, message }) => `${type}: ${message}`).join("; "));
    } catch (error) {
      if (child.exitCode !== null || Date.now() > deadline) {
        throw new Error(`containerd is not ready: ${error}\n${fs.readFileSync(log, "utf8").slice(-3000)}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

/** What no test needs, and what would reach beyond `dir`. */
const disabled = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.nri.v1.nri",
];

// restrict_oom_score_adj: pods want -998, which a machine without CAP_SYS_RESOURCE refuses.
const quoted = (value: unknown): string => JSON.stringify(value);

function config16({ dir, runtime, network, pauseImage }: ContainerdOptions, socket: string): string {
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  return `version = 2
root = ${quoted(`${dir}/root`)}
state = ${quoted(`${dir}/state`)}
disabled_plugins = ${quoted(disabled)}
[grpc]
  address = ${quoted(socket)}
[ttrpc]
  address = ${quoted(`${socket}.ttrpc`)}
[${cri}]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  sandbox_image = ${quoted(pauseImage)}
  disable_apparmor = true
  restrict_oom_score_adj = true
[${cri}.cni]
  bin_dir = ${quoted(network.binDir)}
  conf_dir = ${quoted(network.confDir)}
[${cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[${cri}.containerd.runtimes.runc.options]
  BinaryName = ${quoted(runtime)}
  Root = ${quoted(`${dir}/runtime`)}
`;
}

function config24({ dir, runtime, network, pauseImage }: ContainerdOptions, socket: string): string {
  const cri = 'plugins."io.containerd.cri.v1.runtime"';
  return `version = 4
root = ${quoted(`${dir}/root`)}
state = ${quoted(`${dir}/state`)}
disabled_plugins = ${quoted(disabled)}
imports = []
[plugins."io.containerd.server.v1.grpc"]
  address = ${quoted(socket)}
[plugins."io.containerd.server.v1.ttrpc"]
  address = ${quoted(`${socket}.ttrpc`)}
[plugins."io.containerd.shim.v1.manager"]
  socket_dir = ${quoted(`${dir}/s`)}
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = ${quoted(pauseImage)}
[${cri}]
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[${cri}.cni]
  bin_dirs = [${quoted(network.binDir)}]
  conf_dir = ${quoted(network.confDir)}
[${cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[${cri}.containerd.runtimes.runc.options]
  BinaryName = ${quoted(runtime)}
  Root = ${quoted(`${dir}/runtime`)}
`;
}
