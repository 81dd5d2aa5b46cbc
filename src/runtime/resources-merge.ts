import type { BlockIO, Resources } from "../oci/runtime-spec";

/**
 * `held` with what `change` asks for: what will hold once that is done. Members that are absent, 0 or "" ask
 * for nothing, but for those whose 0 is a value.
 */
export function mergeResources(held: Resources, change: Resources): Resources {
  const { checkBeforeUpdate: _once, ...memory } = members(held.memory, change.memory);
  const merged: Resources = {
    ...held,
    memory,
    cpu: members(held.cpu, change.cpu, ["idle", "burst"]),
    pids: members(held.pids, change.pids, ["limit"]),
    blockIO: mergeBlockIO(held.blockIO ?? {}, change.blockIO ?? {}),
    hugepageLimits: entries(held.hugepageLimits, change.hugepageLimits, ({ pageSize }) => pageSize),
    rdma: { ...held.rdma, ...change.rdma },
    unified: { ...held.unified, ...change.unified },
  };
  return Object.fromEntries(
    Object.entries(merged).filter(([, value]) => value && Object.keys(value as object).length > 0),
  );
}

function members<T extends object>(
  held: T | undefined,
  change: T | undefined,
  zeros: readonly (keyof T)[] = [],
): T {
  const asked = Object.entries(change ?? {}).filter(
    ([key, value]) =>
      value !== undefined &&
      value !== null &&
      value !== "" &&
      (value !== 0 || zeros.includes(key as keyof T)),
  );
  return { ...held, ...Object.fromEntries(asked) } as T;
}

function mergeBlockIO(held: BlockIO, change: BlockIO): BlockIO {
  const device = ({ major, minor }: { major: number; minor: number }): string => `${major}:${minor}`;
  const merged: BlockIO = {
    ...members(held, change),
    weightDevice: entries(held.weightDevice, change.weightDevice, device),
    throttleReadBpsDevice: entries(held.throttleReadBpsDevice, change.throttleReadBpsDevice, device),
    throttleWriteBpsDevice: entries(held.throttleWriteBpsDevice, change.throttleWriteBpsDevice, device),
    throttleReadIOPSDevice: entries(held.throttleReadIOPSDevice, change.throttleReadIOPSDevice, device),
    throttleWriteIOPSDevice: entries(held.throttleWriteIOPSDevice, change.throttleWriteIOPSDevice, device),
  };
  return Object.fromEntries(
    Object.entries(merged).filter(([, value]) => !Array.isArray(value) || value.length > 0),
  );
}

/** A later entry of a key takes the place of the earlier one. */
function entries<T>(
  held: readonly T[] | undefined | null,
  change: readonly T[] | undefined | null,
  key: (entry: T) => string,
): T[] {
  return [...new Map([...(held ?? []), ...(change ?? [])].map((entry) => [key(entry), entry])).values()];
}
