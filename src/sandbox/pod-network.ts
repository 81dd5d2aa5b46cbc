import * as fs from "node:fs";
import type { PodNetwork } from "../network";
import type { PodRecord } from "./records";

/** What the network is told of a pod; `netns` is "" once the pin is gone, unmounted by hand or by a boot. */
export function podNetwork(record: PodRecord): PodNetwork {
  const { config, id } = record;
  const { name, namespace, uid } = config.metadata;
  return {
    id,
    name,
    namespace,
    uid,
    netns: isNamespace(record.netns) ? record.netns : "",
    annotations: config.annotations,
    portMappings: config.portMappings,
    ...(config.dns && { dns: config.dns }),
    ...(config.cgroupParent !== "" && { cgroupParent: config.cgroupParent }),
  };
}

const NSFS_MAGIC = 0x6e736673;

function isNamespace(pin: string): boolean {
  if (pin === "") return false;
  try {
    return fs.statfsSync(pin).type === NSFS_MAGIC;
  } catch {
    return false;
  }
}
