import * as fs from "node:fs";
import * as path from "node:path";
import type { TestContext } from "node:test";
import { type Log, silentLog } from "../../src/base/log";
import { runtime } from "../../src/gen/cri";
import { type Images, openImages } from "../../src/image";
import { native } from "../../src/native";
import { type Network, openNetwork } from "../../src/network";
import type { Seccomp } from "../../src/oci/runtime-spec";
import { type ContainerConfig, openPods, type PodConfig, type Pods, type RunPod } from "../../src/sandbox";
import { openShims, type Shims } from "../../src/task";
import { busyboxImage, writeLayout } from "../support/images";
import { repository } from "../support/peers";
import { containerConfig, podConfig } from "./doubles";

/** The whole lower half for real: images, network, shims (one server for all pods), containers. */
export interface Daemon {
  readonly pods: Pods;
  readonly images: Images;
  /** As a graceful end; pods live on. */
  close(): Promise<void>;
}

export interface Site {
  readonly dir: string;
  readonly state: string;
  readonly logs: string;
  readonly cgroupParent: string;
  daemon: Daemon;
  /** Ends the daemon, does `meanwhile`, starts the next. */
  restart(meanwhile?: () => Promise<void>): Promise<Pods>;
}

export interface SiteOptions {
  readonly network?: { readonly confDir: string; readonly binDirs: readonly string[] };
  readonly log?: Log;
}

let count = 0;
/** Anything that filters: which calls a default lets through is tested elsewhere. */
const filter: Seccomp = {
  defaultAction: "SCMP_ACT_ALLOW",
  syscalls: [{ names: ["acct"], action: "SCMP_ACT_ERRNO" }],
};

export async function openSite(t: TestContext, options: SiteOptions = {}): Promise<Site> {
  // sun_path is short.
  const dir = fs.mkdtempSync("/tmp/iso-");
  const state = path.join(dir, "state");
  const netnsDir = path.join(dir, "netns");
  const cgroupParent = `/isopod-test-${process.pid}-${count++}`;
  const log = options.log ?? silentLog;
  const open = async (): Promise<Daemon> => {
    const images = await openImages({ root: path.join(dir, "root"), log });
    const network: Network = openNetwork({
      confDir: options.network?.confDir ?? path.join(dir, "none"),
      binDirs: options.network?.binDirs ?? [],
      netnsDir,
      log,
    });
    fs.mkdirSync(state, { recursive: true });
    const shims: Shims = await openShims({
      state,
      log,
      searchDirs: [path.join(repository, "build/Release")],
    });
    const pods = await openPods({
      root: path.join(dir, "root"),
      state,
      images,
      network,
      shims,
      handlers: [{ name: "isopod", runtimeType: "io.containerd.isopod.v2", options: 'group = "node"\n' }],
      defaultHandler: "isopod",
      cgroupParentDefault: cgroupParent,
      defaultSeccomp: () => filter,
      log,
    });
    const close = async () => {
      await pods.close();
      await shims.close();
      network.close();
      await images.close();
    };
    return { pods, images, close };
  };
  const site: Site = {
    dir,
    state,
    logs: path.join(dir, "logs"),
    cgroupParent,
    daemon: await open(),
    restart: async (meanwhile) => {
      await site.daemon.close();
      await meanwhile?.();
      site.daemon = await open();
      return site.daemon.pods;
    },
  };
  t.after(async () => {
    for (const { id } of site.daemon.pods.list({})) await site.daemon.pods.remove(id).catch(() => {});
    await site.daemon.close();
    killServers(state);
    await native().cgroupDestroy({
      path: path.join(native().features().cgroupRoot, cgroupParent),
      timeoutMs: 5000,
    });
    await native().unmount({ path: netnsDir });
    fs.rmSync(dir, { recursive: true, force: true });
  });
  const layout = path.join(dir, "layout");
  writeLayout(layout, [{ name: "busybox", image: busyboxImage() }]);
  await site.daemon.images.import({ path: layout, name: "example.org/busybox:1" });
  return site;
}

/** Shim servers outlive their pods by minutes, on purpose; a test ends its own. */
export function shimProcesses(state: string): number[] {
  return fs
    .readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const text =
          fs.readFileSync(`/proc/${pid}/cmdline`, "utf8") + fs.readFileSync(`/proc/${pid}/environ`, "utf8");
        return pid !== process.pid && text.includes(state) && /shim/.test(text);
      } catch {
        return false;
      }
    });
}

function killServers(state: string): void {
  for (const pid of shimProcesses(state)) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // Gone by itself.
    }
  }
}

/** RunPodSandbox as it comes off the wire: the shim reads the same bytes as we do. */
export function podRequest(site: Site, changes: Partial<PodConfig> = {}): RunPod {
  const config = podConfig({ logDirectory: site.logs, cgroupParent: site.cgroupParent, ...changes });
  const mode = { pod: 0, container: 1, node: 2, target: 3 };
  const { network, pid, ipc } = config.namespaces;
  const configBytes = runtime.v1.PodSandboxConfig.encode({
    metadata: config.metadata,
    hostname: config.hostname,
    logDirectory: config.logDirectory,
    ...(config.dns && {
      dnsConfig: {
        servers: [...config.dns.servers],
        searches: [...config.dns.searches],
        options: [...config.dns.options],
      },
    }),
    labels: config.labels,
    annotations: config.annotations,
    linux: {
      cgroupParent: config.cgroupParent,
      sysctls: config.sysctls,
      securityContext: {
        namespaceOptions: { network: mode[network], pid: mode[pid], ipc: mode[ipc] },
        privileged: config.privileged,
      },
    },
  }).finish();
  return { config, configBytes, handler: "" };
}

export const shell = (script: string, changes: Partial<ContainerConfig> = {}): ContainerConfig =>
  containerConfig({
    image: "example.org/busybox:1",
    command: ["/bin/sh", "-c", script],
    logPath: "main/0.log",
    ...changes,
  });

export async function until(what: string, condition: () => boolean, ms = 10_000): Promise<void> {
  for (const deadline = Date.now() + ms; Date.now() < deadline; ) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`not within ${ms} ms: ${what}`);
}

/** The text of a CRI log's lines, without time, stream and tag. */
export const logText = (file: string): string[] =>
  fs
    .readFileSync(file, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => line.split(" ").slice(3).join(" "));
