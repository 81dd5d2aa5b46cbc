import Long from "long";
import type { io } from "../gen/shim";
import type { CgroupStats } from "../runtime";
import { type Any, packAny } from "../ttrpc";

type MemoryStat = io.containerd.cgroups.v2.MemoryStat.$Properties;

/** A reading as the message that CRI and containerd's metrics plugin accept. */
export function metricsOf(stats: CgroupStats): Any {
  const { cpu, memory, memoryEvents, pids, io } = stats;
  const metrics: io.containerd.cgroups.v2.Metrics.$Properties = {
    cpu: {
      usageUsec: uint64(cpu.usageUsec),
      userUsec: uint64(cpu.userUsec),
      systemUsec: uint64(cpu.systemUsec),
    },
    ...(pids && {
      pids: { current: uint64(pids.current), ...(pids.limit && { limit: uint64(pids.limit) }) },
    }),
    ...(memory && { memory: memoryOf(memory) }),
    ...(memoryEvents && { memoryEvents: fields(memoryEvents) }),
    ...(io && {
      io: {
        usage: io.map(({ major, minor, ...counters }) => ({ major, minor, ...fields(counters) })) as never,
      },
    }),
  };
  return packAny("io.containerd.cgroups.v2.Metrics", metrics);
}

function memoryOf(memory: NonNullable<CgroupStats["memory"]>): MemoryStat {
  return {
    ...fields(memory.stat),
    usage: uint64(memory.usage),
    ...(memory.limit !== undefined && { usageLimit: uint64(memory.limit) }),
  };
}

/** `snake_case` keys of the kernel as the camelCase fields of the message; unknown ones are not encoded. */
function fields(values: Readonly<Record<string, bigint>>): Record<string, Long> {
  const out: Record<string, Long> = {};
  for (const [key, value] of Object.entries(values)) {
    out[key.replace(/_(\w)/g, (_all, letter: string) => letter.toUpperCase())] = uint64(value);
  }
  return out;
}

const uint64 = (value: bigint): Long =>
  Long.fromBits(Number(value & 0xffffffffn), Number((value >> 32n) & 0xffffffffn), true);
