import Long from "long";
import type { runtime } from "../../gen/cri";
import type { ContainerResources } from "../../sandbox";
import { cstring, integer } from "./fields";

/** -1 says "no limit" for these, as 0 does. */
const orNone = { min: -1 };
const OOM_SCORE = { min: -1000, max: 1000 };

export function readResources(
  field: string,
  resources: runtime.v1.ILinuxContainerResources | null | undefined,
): ContainerResources {
  return {
    cpuPeriod: integer(`${field}.cpu_period`, resources?.cpuPeriod),
    cpuQuota: integer(`${field}.cpu_quota`, resources?.cpuQuota, orNone),
    cpuShares: integer(`${field}.cpu_shares`, resources?.cpuShares),
    memoryLimit: integer(`${field}.memory_limit_in_bytes`, resources?.memoryLimitInBytes, orNone),
    memorySwapLimit: integer(
      `${field}.memory_swap_limit_in_bytes`,
      resources?.memorySwapLimitInBytes,
      orNone,
    ),
    cpusetCpus: cstring(`${field}.cpuset_cpus`, resources?.cpusetCpus),
    cpusetMems: cstring(`${field}.cpuset_mems`, resources?.cpusetMems),
    hugepageLimits: (resources?.hugepageLimits ?? []).map((entry, index) => ({
      pageSize: cstring(`${field}.hugepage_limits[${index}].page_size`, entry.pageSize),
      limit: integer(`${field}.hugepage_limits[${index}].limit`, entry.limit),
    })),
    unified: resources?.unified ?? {},
  };
}

export const readOomScoreAdj = (
  field: string,
  resources: runtime.v1.ILinuxContainerResources | null | undefined,
): number => integer(`${field}.oom_score_adj`, resources?.oomScoreAdj, OOM_SCORE);

const long = (value: number): Long => Long.fromNumber(value);

export const writeResources = (
  resources: ContainerResources,
  oomScoreAdj: number,
): runtime.v1.ILinuxContainerResources => ({
  cpuPeriod: long(resources.cpuPeriod),
  cpuQuota: long(resources.cpuQuota),
  cpuShares: long(resources.cpuShares),
  memoryLimitInBytes: long(resources.memoryLimit),
  memorySwapLimitInBytes: long(resources.memorySwapLimit),
  oomScoreAdj: long(oomScoreAdj),
  cpusetCpus: resources.cpusetCpus,
  cpusetMems: resources.cpusetMems,
  hugepageLimits: resources.hugepageLimits.map(({ pageSize, limit }) => ({
    pageSize,
    limit: Long.fromNumber(limit, true),
  })),
  unified: { ...resources.unified },
});
