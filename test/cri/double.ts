import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import type { TestContext } from "node:test";
import { silentLog } from "../../src/base/log";
import { serveCri } from "../../src/cri";
import type { Image, Images } from "../../src/image/types";
import type {
  ContainerConfig,
  ContainerView,
  PodConfig,
  Pods,
  PodView,
  RunPod,
} from "../../src/sandbox/types";
import { type CriClient, criClient } from "../support/cri-client";

/** Stands in for the rooms behind the gRPC server, to see what conversion hands them and what it makes of answers. */
export interface Double {
  readonly cri: CriClient;
  readonly socket: string;
  /** What the rooms were called with, in order. */
  readonly calls: { method: string; args: readonly unknown[] }[];
  readonly pods: { [K in keyof Pods]: Pods[K] };
  readonly images: { [K in keyof Images]: Images[K] };
  network: string | undefined;
  runtime: string | undefined;
}

export const podId = "a".repeat(64);
export const containerId = "b".repeat(64);

export async function withDouble(t: TestContext): Promise<Double> {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-cri-"));
  const socket = path.join(dir, "cri.sock");
  const calls: Double["calls"] = [];
  const record =
    <T>(method: string, result: T) =>
    (...args: unknown[]): T => {
      calls.push({ method, args });
      return result;
    };
  const nothing = (method: string) => record(method, Promise.resolve());
  const pods = {
    run: record("run", Promise.resolve(podId)),
    stop: nothing("stop"),
    remove: nothing("remove"),
    get: () => podView,
    list: record("list", []),
    create: record("create", Promise.resolve(containerId)),
    start: nothing("start"),
    stopContainer: nothing("stopContainer"),
    removeContainer: nothing("removeContainer"),
    listContainers: record("listContainers", []),
    reopenLog: nothing("reopenLog"),
    listStats: record("listStats", Promise.resolve([])),
    listPodStats: record("listPodStats", Promise.resolve([])),
    podMetrics: record("podMetrics", Promise.resolve([])),
    runtimeNotReady: () => double.runtime,
  } as unknown as Double["pods"];
  const images = {
    pull: record("pull", Promise.resolve(image)),
    list: record("list", [image]),
    find: record("find", undefined),
    remove: nothing("remove"),
    usage: () => ({ mountpoint: "/", bytes: 5n, inodes: 6n, timestamp: 1_764_000_000_000_000_001n }),
  } as unknown as Double["images"];
  const server = await serveCri({
    socket,
    log: silentLog,
    version: "1.2.3",
    handlers: [
      { name: "isopod", recursiveReadOnlyMounts: true, userNamespaces: false },
      { name: "abc", recursiveReadOnlyMounts: false, userNamespaces: false },
    ],
    defaultHandler: "isopod",
    info: () => ({ config: '{"stateDir":"/x"}' }),
  });
  const double: Double = {
    cri: criClient(socket),
    socket,
    calls,
    pods,
    images,
    network: undefined,
    runtime: undefined,
  };
  server.open({ pods, images, networkNotReady: () => double.network });
  t.after(async () => {
    double.cri.close();
    await server.close(0);
    fs.rmSync(dir, { recursive: true });
  });
  return double;
}

export const image: Image = {
  id: `sha256:${"1".repeat(64)}`,
  repoTags: ["localhost:5000/probe:v1"],
  repoDigests: [`localhost:5000/probe@sha256:${"2".repeat(64)}`],
  size: 4_000_000_000,
  config: {
    architecture: "amd64",
    os: "linux",
    config: { User: "1000:staff" },
    rootfs: { type: "layers", diff_ids: [] },
  },
  chainId: `sha256:${"3".repeat(64)}`,
  passwd: "",
  group: "",
  pinned: false,
};

/** What conversion makes of a request that says the least it may. */
export const leastPod: PodConfig = {
  metadata: { name: "pod", uid: "uid-1", namespace: "default", attempt: 0 },
  hostname: "",
  logDirectory: "",
  dns: undefined,
  portMappings: [],
  labels: {},
  annotations: {},
  cgroupParent: "",
  sysctls: {},
  privileged: false,
  namespaces: { network: "pod", pid: "pod", ipc: "pod", targetId: undefined },
};

export const leastContainer: ContainerConfig = {
  metadata: { name: "ctr", attempt: 0 },
  image: image.id,
  userSpecifiedImage: "",
  command: [],
  args: [],
  workingDir: "",
  envs: [],
  mounts: [],
  devices: [],
  labels: {},
  annotations: {},
  logPath: "",
  stdin: false,
  stdinOnce: false,
  tty: false,
  resources: {
    cpuPeriod: 0,
    cpuQuota: 0,
    cpuShares: 0,
    memoryLimit: 0,
    memorySwapLimit: 0,
    cpusetCpus: "",
    cpusetMems: "",
    hugepageLimits: [],
    unified: {},
  },
  oomScoreAdj: 0,
  security: {
    addCapabilities: [],
    dropCapabilities: [],
    addAmbientCapabilities: [],
    privileged: false,
    namespaces: leastPod.namespaces,
    runAsUser: undefined,
    runAsUsername: "",
    runAsGroup: undefined,
    readonlyRootfs: false,
    supplementalGroups: [],
    supplementalGroupsPolicy: "merge",
    noNewPrivs: false,
    maskedPaths: [],
    readonlyPaths: [],
    seccomp: undefined,
    apparmor: undefined,
  },
  stopSignal: "",
};

export const podView: PodView = {
  id: podId,
  config: leastPod,
  handler: "isopod",
  ready: true,
  createdAt: 1_764_000_000_000_000_001n,
  ips: ["10.1.0.2", "fd00::2"],
  pid: 42,
  netns: "/run/netns/x",
};

export const containerView: ContainerView = {
  id: containerId,
  podId,
  config: leastContainer,
  imageId: image.id,
  imageRef: image.repoDigests[0]!,
  state: "exited",
  createdAt: 1_764_000_000_000_000_001n,
  startedAt: 1_764_000_000_000_000_002n,
  finishedAt: 1_764_000_000_000_000_003n,
  exitCode: 137,
  reason: "OOMKilled",
  message: "",
  logPath: "/var/log/pods/x/0.log",
  user: { uid: 1000, gid: 4_294_967_294, supplementalGroups: [1000, 50000] },
  stopSignal: "SIGRTMIN+3",
  pid: 0,
  spec: { ociVersion: "1.2.0" },
};

export const ran = (double: Double): RunPod => double.calls.at(-1)!.args[0] as RunPod;
