import type Long from "long";
import type { google } from "../gen/shim";

const NS = 1_000_000_000n;
/** Go's zero time, which containerd sends for "not yet": year 1. */
const YEAR_ONE = -62_135_596_800;

/** google.protobuf.Timestamp of nanoseconds since 1970; undefined stands for Go's zero time. */
export function timestampOf(nanoseconds: bigint | undefined): google.protobuf.Timestamp.$Properties {
  // The encoder takes any number for int64; seconds are exact in a double.
  if (nanoseconds === undefined) return { seconds: YEAR_ONE as unknown as Long };
  return { seconds: Number(nanoseconds / NS) as unknown as Long, nanos: Number(nanoseconds % NS) };
}

/** Nanoseconds since 1970; undefined for an absent timestamp or one before 1970, which means "not yet". */
export function nanosecondsOf(
  timestamp: google.protobuf.Timestamp.$Properties | null | undefined,
): bigint | undefined {
  const seconds = BigInt(String(timestamp?.seconds ?? 0));
  return seconds <= 0n ? undefined : seconds * NS + BigInt(timestamp?.nanos ?? 0);
}
