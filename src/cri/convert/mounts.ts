import { invalid, unsupported } from "../../base/errors";
import { runtime } from "../../gen/cri";
import type { ContainerConfig, ContainerMount } from "../../sandbox";
import { choice, cstring, refuse, required } from "./fields";

const { MountPropagation: Propagation } = runtime.v1;

const propagations = {
  [Propagation.PROPAGATION_PRIVATE]: "private",
  [Propagation.PROPAGATION_HOST_TO_CONTAINER]: "hostToContainer",
  [Propagation.PROPAGATION_BIDIRECTIONAL]: "bidirectional",
} as const;

const propagationNumbers = {
  private: Propagation.PROPAGATION_PRIVATE,
  hostToContainer: Propagation.PROPAGATION_HOST_TO_CONTAINER,
  bidirectional: Propagation.PROPAGATION_BIDIRECTIONAL,
} as const;

export function readMount(field: string, mount: runtime.v1.IMount): ContainerMount {
  const containerPath = required(`${field}.container_path`, mount.containerPath);
  refuseImageVolume(field, mount);
  refuse(`${field}.uidMappings`, mount.uidMappings, "id-mapped mounts are not supported yet");
  refuse(`${field}.gidMappings`, mount.gidMappings, "id-mapped mounts are not supported yet");
  refuse(`${field}.mount_options`, mount.mountOptions);
  const read: ContainerMount = {
    containerPath,
    hostPath: required(`${field}.host_path`, mount.hostPath),
    readonly: mount.readonly ?? false,
    selinuxRelabel: mount.selinuxRelabel ?? false,
    propagation: choice(`${field}.propagation`, mount.propagation, propagations),
    recursiveReadOnly: mount.recursiveReadOnly ?? false,
  };
  if (read.recursiveReadOnly && (!read.readonly || read.propagation !== "private")) {
    throw invalid(
      `${field}.recursive_read_only`,
      true,
      "needs readonly to be true and propagation to be PROPAGATION_PRIVATE",
    );
  }
  return read;
}

/** kubelet looks for this word at the start of an error to report it as the volume's. */
const IMAGE_VOLUME_SENTINEL = "ImageVolumeMountFailed";

function refuseImageVolume(field: string, mount: runtime.v1.IMount): void {
  const why = "image volumes are not supported yet";
  if (mount.image) {
    throw unsupported(`${IMAGE_VOLUME_SENTINEL}: ${field}.image`, mount.image.image ?? "", why);
  }
  if (mount.imageSubPath) {
    throw unsupported(`${IMAGE_VOLUME_SENTINEL}: ${field}.image_sub_path`, mount.imageSubPath, why);
  }
}

/** The answer to ContainerStatus lists exactly what was asked for, never the mounts that we add. */
export const writeMount = (mount: ContainerMount): runtime.v1.IMount => ({
  containerPath: mount.containerPath,
  hostPath: mount.hostPath,
  readonly: mount.readonly,
  selinuxRelabel: mount.selinuxRelabel,
  propagation: propagationNumbers[mount.propagation],
  recursiveReadOnly: mount.recursiveReadOnly,
});

export function readDevice(field: string, device: runtime.v1.IDevice): ContainerConfig["devices"][number] {
  const permissions = cstring(`${field}.permissions`, device.permissions);
  if (!/^[rwm]*$/.test(permissions)) {
    throw invalid(`${field}.permissions`, permissions, "may only hold the letters r, w and m");
  }
  return {
    containerPath: required(`${field}.container_path`, device.containerPath),
    hostPath: required(`${field}.host_path`, device.hostPath),
    permissions,
  };
}
