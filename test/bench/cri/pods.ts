import Long from "long";
import type { CriClient } from "../../support/cri-client";

/** A pod as the bench makes it; every contender gets the very same requests. */
export interface PodPlan {
  readonly name: string;
  readonly network: "host" | "bridge";
  readonly image: string;
}

export interface RunningPod {
  readonly plan: PodPlan;
  readonly podId: string;
  readonly containerId: string;
}

/** One for all contenders: pods of both lie below, none at the same time. */
export const cgroupParent = `/isopod-bench-${process.pid}`;

const POD = 0;
const CONTAINER = 1;
const NODE = 2;

const podConfig = ({ name, network }: PodPlan) => ({
  metadata: { name, uid: `uid-${name}`, namespace: "bench", attempt: 0 },
  hostname: network === "host" ? "" : name,
  logDirectory: "",
  dnsConfig: { servers: ["192.0.2.1"], searches: ["bench.local"], options: [] },
  labels: { app: "bench" },
  linux: {
    cgroupParent,
    securityContext: {
      namespaceOptions: { network: network === "host" ? NODE : POD, pid: CONTAINER, ipc: POD },
      seccomp: { profileType: 0 },
    },
  },
});

const containerConfig = (image: string) => ({
  metadata: { name: "main", attempt: 0 },
  image: { image },
  command: ["/bin/wait"],
  envs: [{ key: "KUBERNETES_SERVICE_HOST", value: Buffer.from("192.0.2.1") }],
  labels: { app: "bench" },
  logPath: "",
  linux: {
    resources: { oomScoreAdj: Long.fromNumber(500) },
    securityContext: {
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
    config: containerConfig(plan.image),
    sandboxConfig: config,
  });
  await cri.StartContainer({ containerId: containerId });
  return { plan, podId, containerId };
}

export async function execTrue(cri: CriClient, pod: RunningPod): Promise<void> {
  const command = { containerId: pod.containerId, cmd: ["/bin/true"], timeout: Long.fromNumber(10) };
  const { exitCode: code } = await cri.ExecSync(command);
  if (code !== 0) throw new Error(`/bin/true ended with ${code}`);
}

/** StopContainer (it ends at SIGTERM), RemoveContainer, StopPodSandbox, RemovePodSandbox. */
export async function endPod(cri: CriClient, pod: RunningPod): Promise<void> {
  await cri.StopContainer({ containerId: pod.containerId, timeout: Long.fromNumber(10) });
  await cri.RemoveContainer({ containerId: pod.containerId });
  await cri.StopPodSandbox({ podSandboxId: pod.podId });
  await cri.RemovePodSandbox({ podSandboxId: pod.podId });
}
