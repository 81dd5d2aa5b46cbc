import { type ChildProcess, spawn } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { silentLog } from "../../src/base/log";
import { type Image, openImages } from "../../src/image";
import type { CgroupDriver } from "../../src/oci/cgroups-path";
import { type TestNetwork, writeNetwork } from "./cni";
import { cleanEnv, command } from "./command";
import { type CriClient, criClient } from "./cri-client";
import { destroyCgroup, type Host, onHost, privateHost } from "./host";
import { repository } from "./peers";
import { argumentsOf, killAll, processesOf, until } from "./processes";
import { patience } from "./testbed";

/** A real `isopod serve` in a private host, with everything it touches below one temporary folder. */
export interface Daemon extends AsyncDisposable {
  readonly dir: string;
  readonly root: string;
  readonly state: string;
  readonly socket: string;
  readonly host: Host;
  readonly network: TestNetwork | undefined;
  readonly cgroupDriver: CgroupDriver;
  /** For pods' `cgroup_parent`: what is below dies at `end`. With the systemd driver a slice's path. */
  readonly cgroupParent: string;
  readonly cri: CriClient;
  /** Of `isopod serve`; 0 while none runs. */
  readonly pid: number;
  /** What it and its shims have written to standard error. */
  log(): string;
  /** Starts it and waits until it answers and is ready; after `stop` or `kill` once more. */
  start(): Promise<void>;
  /** SIGTERM: pods live on. */
  stop(): Promise<void>;
  /** SIGKILL: pods live on. */
  kill(): Promise<void>;
  /** Shim servers (Node) and their monitors (native), by pid. */
  servers(): number[];
  monitors(): number[];
  /** Ends all of it and removes the folder; idempotent. */
  end(): Promise<void>;
}

export interface DaemonOptions {
  /** Made and ended by the daemon unless given. */
  readonly host?: Host;
  /** CNI with bridge and host-local; default: none, so only pods on the host's network run. */
  readonly cni?: boolean | Omit<Parameters<typeof writeNetwork>[1] & object, "host">;
  /** Default: what ISOPOD_TEST_CGROUP_DRIVER says, else cgroupfs. systemd must then be PID 1. */
  readonly cgroupDriver?: CgroupDriver;
  /** Further config.toml lines. */
  readonly config?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Runs before the daemon is started for the first time, e.g. to import images into `root`. */
  readonly prepare?: (daemon: Daemon) => Promise<void>;
  /** False: the caller calls `start`. */
  readonly start?: boolean;
}

export async function startDaemon(options: DaemonOptions = {}): Promise<Daemon> {
  // Short, because sockets lie below.
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isd-"));
  const host = options.host ?? (await privateHost());
  const daemon = new DaemonProcess(dir, host, options);
  try {
    // As on a machine where `ip netns` has been used: the daemon finds its netns_dir a shared mount.
    const netns = path.join(dir, "netns");
    fs.mkdirSync(netns);
    await onHost(host, "sh", ["-c", `mount --bind ${netns} ${netns} && mount --make-shared ${netns}`]);
    await options.prepare?.(daemon);
    if (options.start !== false) await daemon.start();
    return daemon;
  } catch (error) {
    await daemon.end();
    throw error;
  }
}

/** Puts what is in a `docker save` tar or an OCI layout into the image store of a daemon that is not running. */
export async function importImages(daemon: Daemon, archive: string): Promise<readonly Image[]> {
  const images = await openImages({ root: path.join(daemon.root, "images"), log: silentLog });
  try {
    return await images.import({ path: archive });
  } finally {
    await images.close();
  }
}

function defaultDriver(): CgroupDriver {
  const driver = process.env["ISOPOD_TEST_CGROUP_DRIVER"] || "cgroupfs";
  if (driver === "cgroupfs" || driver === "systemd") return driver;
  throw new Error(`ISOPOD_TEST_CGROUP_DRIVER: "${driver}": must be cgroupfs or systemd`);
}

/** A dash in a slice's name would put it into another one. */
const parentFor = (driver: CgroupDriver, name: string): string =>
  driver === "systemd" ? `/${name.replaceAll("-", "")}.slice` : `/${name}`;

class DaemonProcess implements Daemon {
  readonly dir: string;
  readonly root: string;
  readonly state: string;
  readonly socket: string;
  readonly host: Host;
  readonly network: TestNetwork | undefined;
  readonly cgroupDriver: CgroupDriver;
  readonly cgroupParent: string;
  readonly cri: CriClient;
  private readonly options: DaemonOptions;
  private child: ChildProcess | undefined;

  constructor(dir: string, host: Host, options: DaemonOptions) {
    this.dir = dir;
    this.root = path.join(dir, "root");
    this.state = path.join(dir, "state");
    this.socket = path.join(dir, "isopod.sock");
    this.host = host;
    this.cgroupDriver = options.cgroupDriver ?? defaultDriver();
    this.cgroupParent = parentFor(this.cgroupDriver, path.basename(dir));
    this.options = options;
    if (options.cni !== undefined && options.cni !== false) {
      this.network = writeNetwork(dir, { ...(options.cni === true ? {} : options.cni), host });
    }
    fs.mkdirSync(path.join(dir, "cni"), { recursive: true });
    fs.writeFileSync(path.join(dir, "config.toml"), this.config());
    this.cri = criClient(this.socket);
  }

  get pid(): number {
    return this.running() ? this.child!.pid! : 0;
  }

  log(): string {
    return fs.readFileSync(path.join(this.dir, "isopod.log"), "utf8");
  }

  async start(): Promise<void> {
    const program = path.join(repository, "bin/isopod");
    const log = fs.openSync(path.join(this.dir, "isopod.log"), "a");
    const [enter, ...rest] = this.host.enter;
    const args = [...rest, program, "serve", "--config", path.join(this.dir, "config.toml")];
    this.child = spawn(enter!, args, { env: cleanEnv(this.options.env), stdio: ["ignore", log, log] });
    fs.closeSync(log);
    await until(async () => (await this.isReady()) || !this.running(), "isopod serve is ready", 30_000);
    if (!this.running()) throw new Error(`isopod serve ended: ${this.log().slice(-3000)}`);
  }

  stop(): Promise<void> {
    return this.signal("SIGTERM");
  }

  kill(): Promise<void> {
    return this.signal("SIGKILL");
  }

  servers(): number[] {
    return processesOf(this.host).filter((pid) =>
      argumentsOf(pid).some((one) => one.endsWith("/shim-server.js")),
    );
  }

  monitors(): number[] {
    return processesOf(this.host).filter((pid) =>
      argumentsOf(pid)[0]?.endsWith("/containerd-shim-isopod-v2"),
    );
  }

  async end(): Promise<void> {
    this.cri.close();
    await this.kill();
    // A monitor restarts its server: it goes first.
    await killAll(this.monitors());
    await killAll(processesOf(this.host));
    // Stopping a slice stops the scopes in it, so that systemd forgets them too.
    if (this.cgroupDriver === "systemd")
      await command("systemctl", ["stop", path.basename(this.cgroupParent)], { accept: [0, 5] });
    await destroyCgroup(this.cgroupParent);
    await this.network?.remove();
    if (this.options.host === undefined) await this.host.end();
    fs.rmSync(this.dir, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.end();
  }

  private config(): string {
    const quoted = (value: string) => JSON.stringify(value);
    return `version = 1
root = ${quoted(this.root)}
state = ${quoted(this.state)}
listen = ${quoted(`unix://${this.socket}`)}
[cgroup]
driver = ${quoted(this.cgroupDriver)}
[cni]
conf_dir = ${quoted(path.join(this.dir, "cni"))}
bin_dirs = [${this.network === undefined ? "" : quoted(this.network.binDir)}]
netns_dir = ${quoted(path.join(this.dir, "netns"))}
${this.options.config ?? ""}`;
  }

  private async isReady(): Promise<boolean> {
    try {
      const { status } = await this.cri.Status({}, { timeoutMs: 2000 * patience });
      const conditions = new Map(status?.conditions?.map(({ type, status }) => [type, status]));
      return (
        conditions.get("RuntimeReady") === true && (!this.network || conditions.get("NetworkReady") === true)
      );
    } catch {
      return false;
    }
  }

  private running(): boolean {
    return this.child !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  private async signal(signal: NodeJS.Signals): Promise<void> {
    if (!this.running()) return;
    const ended = new Promise((resolve) => this.child!.on("exit", resolve));
    this.child!.kill(signal);
    await ended;
  }
}
