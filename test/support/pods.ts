import * as fs from "node:fs";
import * as path from "node:path";
import { silentLog } from "../../src/base/log";
import { runtime } from "../../src/gen/cri";
import { openImages } from "../../src/image";
import { type Daemon, type DaemonOptions, startDaemon } from "./daemon";
import { cgroup2Mount } from "./host";
import { type BuiltImage, busyboxImage, writeLayout } from "./images";
import { type Inventory, inventory, type LeakScope, leaks } from "./leaks";
import { until } from "./processes";

/** Pods and containers as tests want them: what kubelet always sends is filled in. */
export const BUSYBOX = "localhost/busybox:1";

const { NamespaceMode } = runtime.v1;
type PodConfig = runtime.v1.IPodSandboxConfig;
type ContainerConfig = runtime.v1.IContainerConfig;

export interface Running {
  readonly podId: string;
  readonly podConfig: PodConfig;
  /** Of the container. */
  readonly id: string;
  /** The container's log file. */
  readonly log: string;
}

let count = 0;

/** A daemon that knows busybox and whatever else is given. */
export function startPodDaemon(
  options: DaemonOptions & { readonly images?: readonly { name: string; image: BuiltImage }[] } = {},
): Promise<Daemon> {
  const images = [{ name: BUSYBOX, image: busyboxImage() }, ...(options.images ?? [])];
  const prepare = async (daemon: Daemon) => {
    await importImages(daemon, images);
    await options.prepare?.(daemon);
  };
  return startDaemon({ ...options, prepare });
}

/** Into the root of a daemon that does not run. */
export async function importImages(
  { root, dir }: Pick<Daemon, "root" | "dir">,
  images: readonly { name: string; image: BuiltImage }[],
): Promise<void> {
  fs.mkdirSync(root, { recursive: true });
  const store = await openImages({ root: path.join(root, "images"), log: silentLog });
  try {
    const layout = path.join(dir, "layout");
    writeLayout(layout, images);
    await store.import({ path: layout });
    fs.rmSync(layout, { recursive: true });
  } finally {
    await store.close();
  }
}

/** On the daemon's own network if it has one, else on the host's; its own pid namespace per container. */
export function podConfig(daemon: Daemon, overrides: PodConfig = {}): PodConfig {
  const name = `pod${count++}`;
  const network = daemon.network ? NamespaceMode.POD : NamespaceMode.NODE;
  const logDirectory = path.join(daemon.dir, "logs", name);
  fs.mkdirSync(logDirectory, { recursive: true });
  return {
    metadata: { name, uid: `uid-${name}`, namespace: "test", attempt: 0 },
    logDirectory,
    linux: {
      cgroupParent: daemon.cgroupParent,
      securityContext: { namespaceOptions: { network, pid: NamespaceMode.CONTAINER } },
    },
    ...overrides,
  };
}

export const containerConfig = (
  command: readonly string[],
  overrides: ContainerConfig = {},
): ContainerConfig => {
  const name = `ctr${count++}`;
  return {
    metadata: { name, attempt: 0 },
    image: { image: BUSYBOX },
    command: [...command],
    logPath: `${name}.log`,
    ...overrides,
  };
};

export const shell = (script: string): string[] => ["/bin/sh", "-c", script];

export async function runPod(daemon: Daemon, overrides: PodConfig = {}): Promise<[string, PodConfig]> {
  const config = podConfig(daemon, overrides);
  const { podSandboxId } = await daemon.cri.RunPodSandbox({ config });
  return [podSandboxId, config];
}

export async function create(
  daemon: Daemon,
  podSandboxId: string,
  sandboxConfig: PodConfig,
  config: ContainerConfig,
): Promise<string> {
  return (await daemon.cri.CreateContainer({ podSandboxId, config, sandboxConfig })).containerId;
}

/** Pod, container, start. */
export async function run(
  daemon: Daemon,
  command: readonly string[],
  overrides: { pod?: PodConfig; container?: ContainerConfig } = {},
): Promise<Running> {
  const [podId, config] = await runPod(daemon, overrides.pod);
  const container = containerConfig(command, overrides.container);
  const id = await create(daemon, podId, config, container);
  await daemon.cri.StartContainer({ containerId: id });
  return { podId, podConfig: config, id, log: path.join(config.logDirectory!, container.logPath!) };
}

export async function removePod({ cri }: Daemon, podSandboxId: string): Promise<void> {
  await cri.StopPodSandbox({ podSandboxId });
  await cri.RemovePodSandbox({ podSandboxId });
}

/** The container's status once it has exited. */
export async function exited({ cri }: Daemon, containerId: string): Promise<runtime.v1.IContainerStatus> {
  let status: runtime.v1.IContainerStatus = {};
  await until(async () => {
    status = (await cri.ContainerStatus({ containerId })).status!;
    return status.state === runtime.v1.ContainerState.CONTAINER_EXITED;
  }, `container ${containerId} has exited`);
  return status;
}

export interface LogLine {
  readonly stream: string;
  readonly tag: string;
  readonly text: string;
}

/** Lines of a CRI log; empty while there is none. */
export function logLines(file: string): LogLine[] {
  if (!fs.existsSync(file)) return [];
  const lines = fs.readFileSync(file, "utf8").split("\n").slice(0, -1);
  return lines.map((line) => {
    const parts = /^\d{4}-\d\d-\d\dT\S+ (stdout|stderr) ([PF]) (.*)$/s.exec(line);
    if (!parts) throw new Error(`not a line of a CRI log: ${line}`);
    return { stream: parts[1]!, tag: parts[2]!, text: parts[3]! };
  });
}

/** Waits for a line with this text. */
export const logged = (file: string, text: string): Promise<void> =>
  until(() => logLines(file).some((line) => line.text === text), `"${text}" is in ${file}`);

/** Runs a command in a container to its end. */
export async function execute(
  { cri }: Daemon,
  containerId: string,
  script: string,
): Promise<{ stdout: string; stderr: string; exitCode: number }> {
  const { stdout, stderr, exitCode } = await cri.ExecSync({ containerId, cmd: shell(script) });
  return { stdout: Buffer.from(stdout).toString(), stderr: Buffer.from(stderr).toString(), exitCode };
}

/** Where a daemon's pods could leave something; a daemon that is started again has other fds and threads. */
function leakScope(daemon: Daemon, watched: boolean): LeakScope {
  const dirs = ["state/pods", "state/bundles", "netns", "root/images/snapshots"].map((name) =>
    path.join(daemon.dir, name),
  );
  return {
    pid: daemon.host.pid,
    cgroups: [path.join(cgroup2Mount()!, daemon.cgroupParent)],
    dirs: [...dirs, ...(daemon.network ? [daemon.network.leases] : [])],
    watched: () => (watched ? { daemon: daemon.pid } : {}),
  };
}

export const inventoryOf = (daemon: Daemon, watched = true): Promise<Inventory> =>
  inventory(leakScope(daemon, watched));

export const leaksOf = (daemon: Daemon, before: Inventory, watched = true): Promise<string[]> =>
  leaks(before, leakScope(daemon, watched));
