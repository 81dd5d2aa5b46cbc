/** Nanoseconds since 1970, the unit of CRI and ShimV2; the clock behind it counts milliseconds. */
export const now = (): bigint => BigInt(Date.now()) * 1_000_000n;
