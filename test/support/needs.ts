import { type Capability, reportLacking } from "./capabilities";
import { inTestbed } from "./testbed";

/**
 * What a test needs from the machine beyond root and namespaces. A test names its needs and is skipped
 * aloud, with the reason, where one is missing:
 *
 *   const skopeo = peers.skopeo();
 *   test("copies an image", needs(skopeo), async () => { … present(skopeo).skopeo … });
 *
 * What the machine's kernel or PID 1 may lack is a capability (./capabilities): skipped here, it runs in
 * the testbed.
 */
export interface Missing {
  /** Why it cannot be had here. */
  readonly missing: string;
}

export type Need<T> = (T & { readonly missing?: undefined }) | Missing;

/** Options for node:test. */
export interface Needed {
  readonly skip: string | false;
  /** Aborted: the test fails before it runs. */
  readonly signal?: AbortSignal;
}

/** Skips with every reason at once; inside the testbed a missing capability fails the test instead. */
export function needs(...wanted: readonly Need<unknown>[]): Needed {
  const missing = wanted.filter((need): need is Missing => (need as Missing).missing !== undefined);
  const lacking = missing.filter(
    (need): need is Missing & { capability: Capability } => "capability" in need,
  );
  if (inTestbed && lacking.length > 0) {
    const reason = lacking.map((need) => `${need.missing}: missing in the testbed itself`).join("; ");
    return { skip: false, signal: AbortSignal.abort(new Error(reason)) };
  }
  for (const need of lacking) reportLacking(need.capability);
  return { skip: missing.length > 0 ? missing.map((need) => need.missing).join("; ") : false };
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
