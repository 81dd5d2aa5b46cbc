import { isIP } from "node:net";
import { invalid } from "../base/errors";
import { runtime } from "../gen/cri";
import type { Images } from "../image";
import type { ContainerView, ExecResult, Pods } from "../sandbox";
import {
  containerInfo,
  readContainerConfig,
  readContainerFilter,
  writeContainer,
  writeContainerStatus,
} from "./convert/container";
import { cstrings, integer, required } from "./convert/fields";
import { metricDescriptors, writeMetrics } from "./convert/metrics";
import {
  podInfo,
  readPodConfig,
  readPodFilter,
  readPodResources,
  writePod,
  writePodStatus,
} from "./convert/pod";
import type { RunPodMessage } from "./convert/raw";
import { readOomScoreAdj, readResources } from "./convert/resources";
import { readPodStatsFilter, readStatsFilter, writePodStats, writeStats } from "./convert/stats";
import { type StatusOptions, statusOf } from "./runtime-status";
import { type Handlers, MAX_MESSAGE } from "./server";

export interface RuntimeRooms {
  readonly pods: Pods;
  readonly images: Images;
  /** Why there is no usable network configuration; undefined if there is one. */
  readonly networkNotReady: () => string | undefined;
}

const DRIVERS = {
  cgroupfs: runtime.v1.CgroupDriver.CGROUPFS,
  systemd: runtime.v1.CgroupDriver.SYSTEMD,
};

type v1 = typeof runtime.v1;
type Message<Name extends keyof v1> = v1[Name] extends { create(): infer T } ? T : never;

/** RuntimeService: thin. What a call means is in the sandbox room; here it changes its clothes. */
export function runtimeService(rooms: () => RuntimeRooms, options: StatusOptions): Handlers {
  return {
    ...runtimeWide(rooms, options),
    ...podMethods(rooms),
    ...containerMethods(rooms),
    ...ioMethods(rooms),
  };
}

function runtimeWide(rooms: () => RuntimeRooms, options: StatusOptions): Handlers {
  return {
    Version: () => ({
      version: "0.1.0",
      runtimeName: "isopod",
      runtimeVersion: options.version,
      runtimeApiVersion: "v1",
    }),
    Status: (request: Message<"StatusRequest">) => {
      const { pods, networkNotReady } = rooms();
      const notReady = { runtime: pods.runtimeNotReady(), network: networkNotReady() };
      return statusOf(notReady, options, request.verbose);
    },
    // Asked for once: kubelet takes it for the node's life, over its own flag.
    RuntimeConfig: () => ({ linux: { cgroupDriver: DRIVERS[options.cgroupDriver ?? "cgroupfs"] } }),
    // kubelet tells everybody its pod CIDR; a CNI configuration of ours has its own ranges.
    UpdateRuntimeConfig: (request: Message<"UpdateRuntimeConfigRequest">) => {
      checkCidrs(
        "runtime_config.network_config.pod_cidr",
        request.runtimeConfig?.networkConfig?.podCidr ?? "",
      );
      return {};
    },
  };
}

function checkCidrs(field: string, text: string): void {
  for (const cidr of text.split(",").filter((part) => part !== "")) {
    const [address = "", length = ""] = cidr.trim().split("/");
    const bits = { 4: 32, 6: 128 }[isIP(address)];
    if (bits === undefined || !/^\d{1,3}$/.test(length) || Number(length) > bits) {
      throw invalid(field, text, `"${cidr}" is not a CIDR`);
    }
  }
}

function podMethods(rooms: () => RuntimeRooms): Handlers {
  return {
    RunPodSandbox: async ({ message, configBytes }: RunPodMessage) => {
      const config = readPodConfig("config", message.config);
      const handler = message.runtimeHandler;
      return { podSandboxId: await rooms().pods.run({ config, configBytes, handler }) };
    },
    StopPodSandbox: async (request: Message<"StopPodSandboxRequest">) => {
      await rooms().pods.stop(required("pod_sandbox_id", request.podSandboxId));
      return {};
    },
    RemovePodSandbox: async (request: Message<"RemovePodSandboxRequest">) => {
      await rooms().pods.remove(required("pod_sandbox_id", request.podSandboxId));
      return {};
    },
    PodSandboxStatus: (request: Message<"PodSandboxStatusRequest">) => {
      const pod = rooms().pods.get(required("pod_sandbox_id", request.podSandboxId));
      return { status: writePodStatus(pod), info: request.verbose ? { info: json(podInfo(pod)) } : {} };
    },
    UpdatePodSandboxResources: async (request: Message<"UpdatePodSandboxResourcesRequest">) => {
      const id = required("pod_sandbox_id", request.podSandboxId);
      await rooms().pods.updatePod(id, readPodResources("", request));
      return {};
    },
    ListPodSandbox: (request: Message<"ListPodSandboxRequest">) => ({
      items: rooms().pods.list(readPodFilter(request.filter)).map(writePod),
    }),
  };
}

function containerMethods(rooms: () => RuntimeRooms): Handlers {
  return {
    CreateContainer: async (request: Message<"CreateContainerRequest">) => {
      const { pods } = rooms();
      const podId = required("pod_sandbox_id", request.podSandboxId);
      const { namespaces } = pods.get(podId).config;
      const config = readContainerConfig("config", request.config, namespaces);
      // Only checked: the pod is what RunPodSandbox made it.
      if (request.sandboxConfig) readPodConfig("sandbox_config", request.sandboxConfig);
      return { containerId: await pods.create(podId, config) };
    },
    StartContainer: async (request: Message<"StartContainerRequest">) => {
      await rooms().pods.start(required("container_id", request.containerId));
      return {};
    },
    StopContainer: async (request: Message<"StopContainerRequest">) => {
      const timeout = integer("timeout", request.timeout, { min: Number.MIN_SAFE_INTEGER });
      await rooms().pods.stopContainer(required("container_id", request.containerId), timeout);
      return {};
    },
    RemoveContainer: async (request: Message<"RemoveContainerRequest">) => {
      await rooms().pods.removeContainer(required("container_id", request.containerId));
      return {};
    },
    ListContainers: (request: Message<"ListContainersRequest">) => ({
      containers: rooms().pods.listContainers(readContainerFilter(request.filter)).map(writeContainer),
    }),
    // NRI plugins are whom the annotations are for; there are none.
    UpdateContainerResources: async (request: Message<"UpdateContainerResourcesRequest">) => {
      const resources = readResources("linux", request.linux);
      readOomScoreAdj("linux", request.linux);
      await rooms().pods.updateContainer(required("container_id", request.containerId), resources);
      return {};
    },
    ContainerStatus: (request: Message<"ContainerStatusRequest">) => {
      const { pods, images } = rooms();
      const container = pods.getContainer(required("container_id", request.containerId));
      return {
        status: writeContainerStatus(container, imageName(container, images)),
        info: request.verbose ? { info: json(containerInfo(container)) } : {},
      };
    },
  };
}

/** kubelet creates containers from an image's id and shows people the name that this returns. */
function imageName({ config, imageId }: ContainerView, images: Images): string {
  if (config.userSpecifiedImage !== "") return config.userSpecifiedImage;
  const image = images.find(imageId);
  const isId = imageId.replace(/^sha256:/, "").startsWith(config.image.replace(/^sha256:/, ""));
  return (isId ? (image?.repoTags[0] ?? image?.repoDigests[0]) : undefined) ?? config.image;
}

function ioMethods(rooms: () => RuntimeRooms): Handlers {
  return {
    ExecSync: async (request: Message<"ExecSyncRequest">) => {
      const command = cstrings("cmd", request.cmd);
      required("cmd[0]", command[0]);
      const timeout = integer("timeout", request.timeout);
      const result = await rooms().pods.execSync(
        required("container_id", request.containerId),
        command,
        timeout,
      );
      return { ...fitted(result), exitCode: result.exitCode };
    },
    ReopenContainerLog: async (request: Message<"ReopenContainerLogRequest">) => {
      await rooms().pods.reopenLog(required("container_id", request.containerId));
      return {};
    },
    ContainerStats: async (request: Message<"ContainerStatsRequest">) => ({
      stats: writeStats(await rooms().pods.stats(required("container_id", request.containerId))),
    }),
    ListContainerStats: async (request: Message<"ListContainerStatsRequest">) => ({
      stats: (await rooms().pods.listStats(readStatsFilter(request.filter))).map(writeStats),
    }),
    ListMetricDescriptors: () => ({ descriptors: metricDescriptors() }),
    ListPodSandboxMetrics: async () => ({ podMetrics: (await rooms().pods.podMetrics()).map(writeMetrics) }),
    PodSandboxStats: async (request: Message<"PodSandboxStatsRequest">) => ({
      stats: writePodStats(await rooms().pods.podStats(required("pod_sandbox_id", request.podSandboxId))),
    }),
    ListPodSandboxStats: async (request: Message<"ListPodSandboxStatsRequest">) => ({
      stats: (await rooms().pods.listPodStats(readPodStatsFilter(request.filter))).map(writePodStats),
    }),
  };
}

/** Room for both outputs in one message: tags, lengths and the exit code take less than this. */
const OUTPUT_ROOM = MAX_MESSAGE - 64;

/** Each output is capped by itself; both together must still fit what clients accept. */
export function fitted({ stdout, stderr }: Pick<ExecResult, "stdout" | "stderr">): {
  stdout: Buffer;
  stderr: Buffer;
} {
  const half = OUTPUT_ROOM / 2;
  const forOut = Math.max(half, OUTPUT_ROOM - stderr.length);
  const forErr = Math.max(half, OUTPUT_ROOM - stdout.length);
  return { stdout: stdout.subarray(0, forOut), stderr: stderr.subarray(0, forErr) };
}

/** Verbose answers; 64-bit values go as numbers' text. */
const json = (value: unknown): string =>
  JSON.stringify(value, (_key, v: unknown) => (typeof v === "bigint" ? v.toString() : v));
