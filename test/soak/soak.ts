import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { setTimeout } from "node:timers/promises";
import Long from "long";
import { leasedAddresses } from "../support/cni";
import { type Daemon, importImages, startDaemon } from "../support/daemon";
import { cgroup2Mount, onHost } from "../support/host";
import { busyboxImage, compileStatic, writeDockerArchive } from "../support/images";
import { type LeakScope, leaks, privateDirty, settledInventory } from "../support/leaks";
import { endPod, exec, type PodPlan, type RunningPod, startPod } from "../support/pod-plan";
import { isAlive, until } from "../support/processes";

/** Pods come and go; afterwards everything must be as before. */
export interface SoakOptions {
  /** One after another. */
  readonly count: number;
  /** Then so many at the same time. */
  readonly atOnce: number;
  /** Who is killed by SIGKILL while a pod runs, every so many pods. */
  readonly kill?: "daemon" | "server";
  readonly every?: number;
  /** Memory is read after every so many pods. Default: never. */
  readonly memoryEvery?: number;
  readonly say: (text: string) => void;
}

export interface SoakResult {
  /** What is left or gone, as `leaks` says it; empty if all is as before. */
  readonly leaks: readonly string[];
  /** One reading each `memoryEvery` pods. */
  readonly memory: readonly (readonly Memory[])[];
}

const image = "localhost/soak:1";
/** Threads and connections that come with use are there before the first look. */
const WARM_UP = 10;

export async function soak(options: SoakOptions): Promise<SoakResult> {
  const files = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-soak-"));
  try {
    const archive = path.join(files, "soak.tar");
    writeDockerArchive(archive, [{ tags: [image], image: await soakImage() }]);
    await using daemon = await startDaemon({
      cni: true,
      prepare: async (prepared) => void (await importImages(prepared, archive)),
    });
    return await churn(daemon, path.join(files, "logs"), options);
  } finally {
    fs.rmSync(files, { recursive: true, force: true });
  }
}

/** Says a word, then waits for SIGTERM. */
async function soakImage() {
  const source = `
    #include <signal.h>
    #include <unistd.h>
    static void end(int s) { (void)s; _exit(7); }
    int main(void) { signal(SIGTERM, end); write(1, "up\\n", 3); for (;;) pause(); }`;
  const program = await compileStatic("soak", source);
  return busyboxImage({ Cmd: ["/bin/soak"] }, [{ path: "bin/soak", mode: 0o755, data: program }]);
}

async function churn(daemon: Daemon, logs: string, options: SoakOptions): Promise<SoakResult> {
  const { count, atOnce, kill, every = 20, memoryEvery, say } = options;
  const plan = (name: string): PodPlan => {
    const logDirectory = path.join(logs, name);
    fs.mkdirSync(logDirectory, { recursive: true });
    return { name, network: "bridge", image, cgroupParent: daemon.cgroupParent, logDirectory };
  };
  for (let pod = 0; pod < WARM_UP; pod++) await live(daemon, plan(`warm-${pod}`));
  if (kill !== undefined) await live(daemon, plan("warm-killed"), () => killOne(daemon, kill));
  await together(daemon, WARM_UP, (pod) => plan(`warm-together-${pod}`));
  if (memoryEvery !== undefined) await memory(daemon);
  const scope = scopeOf(daemon);
  const before = await settledInventory(scope);
  const readings: (readonly Memory[])[] = [];
  for (let pod = 1; pod <= count; pod++) {
    const strike = kill !== undefined && pod % every === 0;
    await live(daemon, plan(`pod-${pod}`), strike ? () => killOne(daemon, kill) : undefined);
    if (memoryEvery !== undefined && pod % memoryEvery === 0) {
      readings.push(await memory(daemon));
      say(`${pod} pods: ${readings.at(-1)!.map(describe).join("; ")}`);
    }
  }
  await together(daemon, atOnce, (pod) => plan(`together-${pod}`));
  say(`${atOnce} pods at once`);
  // A mount that others made before us goes when they remove its mount point.
  const foreign = (line: string) => line.includes(" mounts: ") && !line.includes(daemon.dir);
  const left = (await leaks(before, scope)).filter((line) => !(line.startsWith("-") && foreign(line)));
  const leases = leasedAddresses(daemon.network!).map((address) => `+1 leases: ${address}`);
  return { leaks: [...left, ...leases], memory: readings };
}

const describe = ({ process, heap, privateDirty }: Memory): string =>
  `${process} heap ${heap.toFixed(1)}, private dirty ${privateDirty.toFixed(1)} MiB`;

function scopeOf(daemon: Daemon): LeakScope {
  const top = path.join(cgroup2Mount() ?? "/sys/fs/cgroup", daemon.cgroupParent);
  return {
    pid: daemon.host.pid,
    cgroups: [top],
    dirs: [daemon.state, daemon.root, path.join(daemon.dir, "netns")],
    // Named after the daemon's pid, which a restart changes.
    ignore: /\/lock\/\d+-/,
    watched: () => {
      const [server] = daemon.servers();
      const [monitor] = daemon.monitors();
      return { daemon: daemon.pid, server: server ?? 0, monitor: monitor ?? 0 };
    },
  };
}

/** One pod's life, with `strike` in the middle: address, log, exec and exit code must come out right. */
async function live(daemon: Daemon, plan: PodPlan, strike?: () => Promise<void>): Promise<void> {
  const { cri } = daemon;
  const pod = await startPod(cri, plan);
  await strike?.();
  const output = await exec(cri, pod, ["ip", "-o", "-4", "addr", "show", "dev", "eth0"]);
  if (!output.includes(`${daemon.network!.prefix}.`)) throw new Error(`${plan.name}: no address: ${output}`);
  await finish(daemon, pod);
}

async function finish(daemon: Daemon, pod: RunningPod): Promise<void> {
  const { cri } = daemon;
  const log = path.join(pod.plan.logDirectory!, "main.log");
  // Before its handler stands, the first process of a pid namespace ignores SIGTERM.
  await until(() => fs.existsSync(log) && fs.statSync(log).size > 0, `${pod.plan.name} says that it is up`);
  await cri.StopContainer({ containerId: pod.containerId, timeout: Long.fromNumber(10) });
  const { status } = await cri.ContainerStatus({ containerId: pod.containerId });
  if (status?.exitCode !== 7) throw new Error(`${pod.plan.name}: ended with ${status?.exitCode}, not 7`);
  const text = fs.readFileSync(log, "utf8");
  if (!/ stdout F up\n$/.test(text)) throw new Error(`${pod.plan.name}: its log is ${JSON.stringify(text)}`);
  await endPod(cri, pod);
  fs.rmSync(pod.plan.logDirectory!, { recursive: true });
}

async function together(daemon: Daemon, count: number, plan: (pod: number) => PodPlan): Promise<void> {
  const pods = await Promise.all(Array.from({ length: count }, (_, pod) => startPod(daemon.cri, plan(pod))));
  await Promise.all(pods.map((pod) => finish(daemon, pod)));
}

const SERVER_KILL_MS = 13_000;
let lastServerKill = 0;

async function killOne(daemon: Daemon, who: "daemon" | "server"): Promise<void> {
  if (who === "daemon") {
    await daemon.kill();
    await daemon.start();
    return;
  }
  // Its monitor takes a sixth crash within a minute for a loop, and gives up.
  await setTimeout(Math.max(0, lastServerKill + SERVER_KILL_MS - Date.now()));
  lastServerKill = Date.now();
  const [server] = daemon.servers();
  if (server === undefined) throw new Error("no shim server runs");
  process.kill(server, "SIGKILL");
  await until(() => !isAlive(server) && daemon.servers().length > 0, "the monitor started another server");
}

export interface Memory {
  readonly process: "daemon" | "server";
  /** MiB. */
  readonly heap: number;
  readonly privateDirty: number;
}

/** After a forced collection; the heap is part of what is dirty, yet tells a leak of objects from one of pages. */
async function memory(daemon: Daemon): Promise<readonly Memory[]> {
  const probe = path.join(__dirname, "heap-probe.js");
  const found: Memory[] = [];
  for (const pid of [daemon.pid, ...daemon.servers()]) {
    const { stdout } = await onHost(daemon.host, process.execPath, [probe, String(pid)]);
    found.push({
      process: pid === daemon.pid ? "daemon" : "server",
      heap: Number(stdout) / 1024 / 1024,
      privateDirty: privateDirty(pid) / 1024,
    });
  }
  return found;
}

/** What the limit is on: heap plus Private_Dirty of both, MiB. */
export const total = (parts: readonly Memory[]): number =>
  parts.reduce((sum, { heap, privateDirty }) => sum + heap + privateDirty, 0);
