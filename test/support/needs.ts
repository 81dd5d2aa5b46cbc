/**
 * What a test needs from the machine beyond root and namespaces. A test names its needs and is skipped
 * aloud, with the reason, where one is missing:
 *
 *   const skopeo = peers.skopeo();
 *   test("copies an image", needs(skopeo), async () => { … present(skopeo).skopeo … });
 */
export interface Missing {
  /** Why it cannot be had here. */
  readonly missing: string;
}

export type Need<T> = (T & { readonly missing?: undefined }) | Missing;

/** Options for node:test: skips with every reason at once. */
export function needs(...wanted: readonly Need<unknown>[]): { skip: string | false } {
  const reasons = wanted.flatMap((need) => ((need as Missing).missing ? [(need as Missing).missing] : []));
  return { skip: reasons.length > 0 ? reasons.join("; ") : false };
}

/** The thing itself, inside a test that declared it by `needs`. */
export function present<T>(need: Need<T>): T {
  if ((need as Missing).missing !== undefined) throw new Error((need as Missing).missing);
  return need as T;
}

/** Names whatever a condition stands for: `requirement(process.arch === "x64", "needs x86_64")`. */
export function requirement(met: boolean, reason: string): Need<object> {
  return met ? {} : { missing: reason };
}
