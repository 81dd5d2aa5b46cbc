import type { Resources } from "../oci/runtime-spec";
import type { ContainerResources } from "./types";

/**
 * CRI's limits in the words of the OCI spec. In CRI 0 and "" mean unset, at an update unchanged, and -1 no
 * limit. What a limit becomes in a cgroup, and whether it can be had here, is the runtime's business.
 */

/** A new container's limits: only what was asked for, so that one without limits costs no write. */
export function limitsOf(resources: ContainerResources): Resources {
  return {
    ...unlessEmpty("memory", memoryOf(resources)),
    ...unlessEmpty("cpu", cpuOf(resources)),
    ...othersOf(resources),
  };
}

/** What an update leaves: each field of `changes` that is set takes the place of the old one. */
export function mergeResources(old: ContainerResources, changes: ContainerResources): ContainerResources {
  const sizes = new Map(old.hugepageLimits.map(({ pageSize, limit }) => [pageSize, limit]));
  for (const { pageSize, limit } of changes.hugepageLimits) sizes.set(pageSize, limit);
  return {
    cpuPeriod: changes.cpuPeriod || old.cpuPeriod,
    cpuQuota: changes.cpuQuota || old.cpuQuota,
    cpuShares: changes.cpuShares || old.cpuShares,
    memoryLimit: changes.memoryLimit || old.memoryLimit,
    memorySwapLimit: changes.memorySwapLimit || old.memorySwapLimit,
    cpusetCpus: changes.cpusetCpus || old.cpusetCpus,
    cpusetMems: changes.cpusetMems || old.cpusetMems,
    hugepageLimits: [...sizes].map(([pageSize, limit]) => ({ pageSize, limit })),
    unified: { ...old.unified, ...changes.unified },
  };
}

/**
 * What to ask the shim for. Memory and swap are one limit in two fields (CRI's swap counts both together), so
 * a change of one is told with the other, and so are quota and period. A memory limit below what is in use is
 * to be refused: the kernel would reclaim, then kill.
 */
export function updateOf(changes: ContainerResources, merged: ContainerResources): Resources {
  const memory = changes.memoryLimit !== 0 || changes.memorySwapLimit !== 0;
  const time = changes.cpuQuota !== 0 || changes.cpuPeriod !== 0;
  const { cpuQuota, cpuPeriod } = merged;
  return {
    ...(memory && { memory: { ...memoryOf(merged), checkBeforeUpdate: true } }),
    ...unlessEmpty("cpu", cpuOf({ ...changes, ...(time && { cpuQuota, cpuPeriod }) })),
    ...othersOf(changes),
  };
}

/** Without a word on swap a limit of memory means just that: nothing may be swapped out. */
function memoryOf({ memoryLimit: limit, memorySwapLimit: swap }: ContainerResources): object {
  if (limit !== 0) return { limit, swap: swap || limit };
  return swap === 0 ? {} : { swap };
}

function cpuOf(resources: ContainerResources): object {
  const { cpuShares, cpuQuota, cpuPeriod, cpusetCpus, cpusetMems } = resources;
  return {
    ...(cpuShares > 0 && { shares: cpuShares }),
    // kubelet sends a period with every container; without a quota it says nothing.
    ...(cpuQuota !== 0 && { quota: cpuQuota, ...(cpuPeriod > 0 && { period: cpuPeriod }) }),
    ...(cpusetCpus !== "" && { cpus: cpusetCpus }),
    ...(cpusetMems !== "" && { mems: cpusetMems }),
  };
}

function othersOf({ hugepageLimits, unified }: ContainerResources): Resources {
  return {
    // Here 0 is a limit: kubelet sends it for each size of which a pod may have none.
    ...(hugepageLimits.length > 0 && { hugepageLimits }),
    ...(Object.keys(unified).length > 0 && { unified }),
  };
}

const unlessEmpty = (key: "memory" | "cpu", limits: object): Resources =>
  Object.keys(limits).length > 0 ? { [key]: limits } : {};
