import { type Container, type Context, containerState, type Pod, podIsReady } from "./context";
import type { ContainerFilter, ContainerView, PodFilter, PodView } from "./types";

/** Reading is memory only: kubelet lists everything once a second. */
export function podView(pod: Pod): PodView {
  const { record } = pod;
  return {
    id: record.id,
    config: record.config,
    handler: record.handler,
    ready: podIsReady(pod),
    createdAt: record.createdAt,
    ips: record.network?.ips ?? [],
    pid: pod.sandbox?.record.pid ?? 0,
    netns: record.netns,
  };
}

export function containerView(container: Container): ContainerView {
  const { version: _format, ...record } = container.record;
  return { ...record, state: containerState(container), pid: container.task?.pid ?? 0, spec: container.spec };
}

/** An unknown id makes an empty list, no error; all members must agree. */
export const listPods = (context: Context, filter: PodFilter): PodView[] =>
  findPods(context, filter).map(podView);

export function findPods(context: Context, filter: PodFilter): Pod[] {
  const one = filter.id ? [context.pods.find(filter.id)] : [...context.pods];
  return one
    .filter((pod): pod is Pod => pod !== undefined)
    .filter((pod) => filter.ready === undefined || podIsReady(pod) === filter.ready)
    .filter((pod) => hasLabels(pod.record.config.labels, filter.labels));
}

export function listContainers(context: Context, filter: ContainerFilter): Container[] {
  const one = filter.id ? [context.containers.find(filter.id)] : [...context.containers];
  return one
    .filter((container): container is Container => container !== undefined)
    .filter(({ record }) => !filter.podId || record.podId.startsWith(filter.podId))
    .filter((container) => filter.state === undefined || containerState(container) === filter.state)
    .filter(({ record }) => hasLabels(record.config.labels, filter.labels));
}

function hasLabels(labels: Readonly<Record<string, string>>, wanted: Readonly<Record<string, string>> = {}) {
  return Object.entries(wanted).every(([key, value]) => labels[key] === value);
}
