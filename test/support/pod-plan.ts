import Long from "long";
import type { CriClient } from "./cri-client";

/** A pod with one container, as kubelet would ask for it; benches and soak send the very same requests. */
export interface PodPlan {
  readonly name: string;
  readonly network: "host" | "bridge";
  readonly image: string;
  readonly cgroupParent: string;
  /** Default: the image's. */
  readonly command?: readonly string[];
  /** Where the container's log goes, as `main.log`; default: nowhere. */
  readonly logDirectory?: string;
}

export interface RunningPod {
  readonly plan: PodPlan;
  readonly podId: string;
  readonly containerId: string;
}

const POD = 0;
const CONTAINER = 1;
const NODE = 2;

/** kubelet sends the same for the pod and for each container. */
const namespaces = (network: PodPlan["network"]) => ({
  network: network === "host" ? NODE : POD,
  pid: CONTAINER,
  ipc: POD,
});

export const podConfig = ({ name, network, cgroupParent, logDirectory }: PodPlan) => ({
  metadata: { name, uid: `uid-${name}`, namespace: "test", attempt: 0 },
  hostname: network === "host" ? "" : name,
  logDirectory: logDirectory ?? "",
  dnsConfig: { servers: ["192.0.2.1"], searches: ["test.local"], options: [] },
  labels: { app: "test" },
  linux: {
    cgroupParent,
    securityContext: {
      namespaceOptions: namespaces(network),
      seccomp: { profileType: 0 },
    },
  },
});

export const containerConfig = ({ network, image, command, logDirectory }: PodPlan) => ({
  metadata: { name: "main", attempt: 0 },
  image: { image },
  command: [...(command ?? [])],
  envs: [{ key: "KUBERNETES_SERVICE_HOST", value: Buffer.from("192.0.2.1") }],
  labels: { app: "test" },
  logPath: logDirectory === undefined ? "" : "main.log",
  linux: {
    resources: { oomScoreAdj: Long.fromNumber(500) },
    securityContext: {
      namespaceOptions: namespaces(network),
      seccomp: { profileType: 0 },
      maskedPaths: ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
      readonlyPaths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    },
  },
});

/** RunPodSandbox, CreateContainer, StartContainer. */
export async function startPod(cri: CriClient, plan: PodPlan): Promise<RunningPod> {
  const config = podConfig(plan);
  const { podSandboxId: podId } = await cri.RunPodSandbox({ config });
  const { containerId } = await cri.CreateContainer({
    podSandboxId: podId,
    config: containerConfig(plan),
    sandboxConfig: config,
  });
  await cri.StartContainer({ containerId });
  return { plan, podId, containerId };
}

/** Returns standard output; throws unless the command ends with 0. */
export async function exec(cri: CriClient, pod: RunningPod, cmd: readonly string[]): Promise<string> {
  const request = { containerId: pod.containerId, cmd: [...cmd], timeout: Long.fromNumber(10) };
  const { exitCode, stdout, stderr } = await cri.ExecSync(request);
  if (exitCode !== 0) throw new Error(`${cmd.join(" ")} ended with ${exitCode}: ${Buffer.from(stderr)}`);
  return Buffer.from(stdout).toString();
}

/** StopContainer (SIGTERM, ten seconds, SIGKILL), RemoveContainer, StopPodSandbox, RemovePodSandbox. */
export async function endPod(cri: CriClient, pod: RunningPod): Promise<void> {
  await cri.StopContainer({ containerId: pod.containerId, timeout: Long.fromNumber(10) });
  await cri.RemoveContainer({ containerId: pod.containerId });
  await cri.StopPodSandbox({ podSandboxId: pod.podId });
  await cri.RemovePodSandbox({ podSandboxId: pod.podId });
}
