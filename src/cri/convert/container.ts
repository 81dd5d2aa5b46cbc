import { invalid } from "../../base/errors";
import { runtime } from "../../gen/cri";
import type {
  ContainerConfig,
  ContainerFilter,
  ContainerMetadata,
  ContainerState,
  ContainerView,
  NamespaceOptions,
} from "../../sandbox";
import { choice, cstring, cstrings, int64, present, refuse, required } from "./fields";
import { readDevice, readMount, writeMount } from "./mounts";
import { readOomScoreAdj, readResources, writeResources } from "./resources";
import { readSecurity } from "./security";
import { readSignal, writeSignal } from "./signals";

const { ContainerState: State } = runtime.v1;

const CDI_ANNOTATION = "cdi.k8s.io/";

/**
 * A ContainerConfig; as with pods, checked here is what the message alone can tell. Ignored: `windows`, and
 * of `image` the annotations (a hint for choosing a platform), `runtime_handler` (there is one image store)
 * and `image_ref` (an output).
 *
 * `pod`: the pod's namespace options, which are the container's when it gives none.
 */
export function readContainerConfig(
  field: string,
  message: runtime.v1.IContainerConfig | null | undefined,
  pod: NamespaceOptions,
): ContainerConfig {
  const config = present(field, message);
  refuseCdi(field, config);
  const image = present(`${field}.image`, config.image);
  const resources = `${field}.linux.resources`;
  return {
    metadata: readMetadata(`${field}.metadata`, config.metadata),
    image: required(`${field}.image.image`, image.image),
    userSpecifiedImage: image.userSpecifiedImage ?? "",
    command: cstrings(`${field}.command`, config.command),
    args: cstrings(`${field}.args`, config.args),
    workingDir: cstring(`${field}.working_dir`, config.workingDir),
    envs: (config.envs ?? []).map((env, index) => readEnv(`${field}.envs[${index}]`, env)),
    mounts: (config.mounts ?? []).map((mount, index) => readMount(`${field}.mounts[${index}]`, mount)),
    devices: (config.devices ?? []).map((device, index) => readDevice(`${field}.devices[${index}]`, device)),
    labels: config.labels ?? {},
    annotations: config.annotations ?? {},
    logPath: cstring(`${field}.log_path`, config.logPath),
    stdin: config.stdin ?? false,
    stdinOnce: config.stdinOnce ?? false,
    tty: config.tty ?? false,
    resources: readResources(resources, config.linux?.resources),
    oomScoreAdj: readOomScoreAdj(resources, config.linux?.resources),
    security: readSecurity(`${field}.linux.security_context`, config.linux?.securityContext, pod),
    stopSignal: readSignal(`${field}.stop_signal`, config.stopSignal),
  };
}

function readMetadata(
  field: string,
  message: runtime.v1.IContainerMetadata | null | undefined,
): ContainerMetadata {
  const metadata = present(field, message);
  return { name: required(`${field}.name`, metadata.name), attempt: metadata.attempt ?? 0 };
}

/** Devices of the Container Device Interface are asked for by field or by annotation. */
function refuseCdi(field: string, config: runtime.v1.IContainerConfig): void {
  refuse(`${field}.CDI_devices`, config.CDIDevices);
  for (const [key, value] of Object.entries(config.annotations ?? {})) {
    if (key.startsWith(CDI_ANNOTATION)) refuse(`${field}.annotations["${key}"]`, value || key);
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Values are bytes on the wire; the OCI spec that they go into is JSON, so they must be UTF-8. */
function readEnv(field: string, env: runtime.v1.IKeyValue): readonly [string, string] {
  const key = required(`${field}.key`, env.key);
  if (key.includes("=")) throw invalid(`${field}.key`, key, 'must not contain "="');
  try {
    return [key, cstring(`${field}.value`, utf8.decode(env.value ?? new Uint8Array()))];
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw invalid(`${field}.value`, Buffer.from(env.value ?? []).toString("latin1"), "not UTF-8");
  }
}

const stateNumbers: Record<ContainerState, runtime.v1.ContainerState> = {
  created: State.CONTAINER_CREATED,
  running: State.CONTAINER_RUNNING,
  exited: State.CONTAINER_EXITED,
  unknown: State.CONTAINER_UNKNOWN,
};

const states: Readonly<Record<number, ContainerState>> = Object.fromEntries(
  Object.entries(stateNumbers).map(([name, value]) => [value, name as ContainerState]),
);

export function readContainerFilter(filter: runtime.v1.IContainerFilter | null | undefined): ContainerFilter {
  return {
    id: filter?.id || undefined,
    podId: filter?.podSandboxId || undefined,
    state: filter?.state ? choice("filter.state", filter.state.state, states) : undefined,
    labels: filter?.labelSelector ?? {},
  };
}

/** What the list and the status of a container have in common. */
const writeCommon = (container: ContainerView) => ({
  id: container.id,
  metadata: container.config.metadata,
  state: stateNumbers[container.state],
  createdAt: int64(container.createdAt),
  imageRef: container.imageRef,
  imageId: container.imageId,
  labels: { ...container.config.labels },
  annotations: { ...container.config.annotations },
});

export const writeContainer = (container: ContainerView): runtime.v1.IContainer => ({
  ...writeCommon(container),
  podSandboxId: container.podId,
  image: writeImageSpec(container, container.config.image),
});

/** `imageName` is the reference that a person would use; clients refuse a status without one. */
export const writeContainerStatus = (
  container: ContainerView,
  imageName: string,
): runtime.v1.IContainerStatus => ({
  ...writeCommon(container),
  startedAt: int64(container.startedAt),
  finishedAt: int64(container.finishedAt),
  exitCode: container.exitCode,
  image: writeImageSpec(container, imageName),
  reason: container.reason,
  message: container.message,
  mounts: container.config.mounts.map(writeMount),
  logPath: container.logPath,
  resources: { linux: writeResources(container.config.resources, container.config.oomScoreAdj) },
  user: {
    linux: {
      uid: int64(BigInt(container.user.uid)),
      gid: int64(BigInt(container.user.gid)),
      supplementalGroups: container.user.supplementalGroups.map((group) => int64(BigInt(group))),
    },
  },
  stopSignal: writeSignal(container.stopSignal),
});

const writeImageSpec = (container: ContainerView, image: string): runtime.v1.IImageSpec => ({
  image,
  userSpecifiedImage: container.config.userSpecifiedImage,
});

export const containerInfo = (container: ContainerView): unknown => ({
  sandboxID: container.podId,
  pid: container.pid,
  config: container.config,
  runtimeSpec: container.spec,
});
