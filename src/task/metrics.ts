import { IsopodError } from "../base/errors";
import { io } from "../gen/shim";
import type { TaskStats } from "./types";

type Uint = { toString(): string } | number | null | undefined;

const big = (value: Uint): bigint => BigInt(String(value ?? 0));

/** What the Stats call of a shim carries: cgroup metrics of either version, by their type. */
export function decodeStats(typeUrl: string, value: Uint8Array): TaskStats {
  if (typeUrl.endsWith("io.containerd.cgroups.v2.Metrics"))
    return fromV2(io.containerd.cgroups.v2.Metrics.decode(value));
  if (typeUrl.endsWith("io.containerd.cgroups.v1.Metrics"))
    return fromV1(io.containerd.cgroups.v1.Metrics.decode(value));
  throw new IsopodError("UNIMPLEMENTED", `stats of type "${typeUrl}": not known`);
}

function fromV2({ cpu, memory, memoryEvents, pids }: io.containerd.cgroups.v2.Metrics): TaskStats {
  return {
    cpuUsageNs: big(cpu?.usageUsec) * 1000n,
    ...(memory && {
      memoryUsage: big(memory.usage),
      memoryLimit: big(memory.usageLimit),
      inactiveFile: big(memory.inactiveFile),
      anon: big(memory.anon),
      pgfault: big(memory.pgfault),
      pgmajfault: big(memory.pgmajfault),
      swapUsage: big(memory.swapUsage),
    }),
    ...(pids && { pids: big(pids.current) }),
    ...(memoryEvents && { oomKills: big(memoryEvents.oomKill) }),
  };
}

function fromV1({ cpu, memory, pids, memoryOomControl }: io.containerd.cgroups.v1.Metrics): TaskStats {
  return {
    cpuUsageNs: big(cpu?.usage?.total),
    ...(memory && {
      memoryUsage: big(memory.usage?.usage),
      memoryLimit: big(memory.usage?.limit),
      inactiveFile: big(memory.totalInactiveFile),
      anon: big(memory.totalRss),
      pgfault: big(memory.totalPgFault),
      pgmajfault: big(memory.totalPgMajFault),
      swapUsage: big(memory.swap?.usage),
    }),
    ...(pids && { pids: big(pids.current) }),
    ...(memoryOomControl && { oomKills: big(memoryOomControl.oomKill) }),
  };
}
