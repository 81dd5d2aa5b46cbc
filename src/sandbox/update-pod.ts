import type { Context } from "./context";
import { mergeResources } from "./resources";
import type { ContainerResources, PodConfig } from "./types";

/**
 * UpdatePodSandboxResources: kubelet tells what it has written to the pod's cgroup, which is its own. It is kept
 * with the pod; ShimV2 has no call to hand it on.
 */
export async function updatePod(
  context: Context,
  prefix: string,
  changes: Pick<PodConfig, "overhead" | "resources">,
): Promise<void> {
  const pod = context.pods.get(prefix);
  await pod.lock.run(async () => {
    const { config } = pod.record;
    const merged: PodConfig = {
      ...config,
      overhead: merge(config.overhead, changes.overhead),
      resources: merge(config.resources, changes.resources),
    };
    pod.record = { ...pod.record, config: merged };
    await context.store.putPod(pod.record);
  });
}

const merge = (
  old: ContainerResources | undefined,
  changes: ContainerResources | undefined,
): ContainerResources | undefined => (old && changes ? mergeResources(old, changes) : (changes ?? old));
