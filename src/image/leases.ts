/** What pulls under way have brought so far, kept from the collector. Lives in memory (see records.ts). */
export interface Lease {
  readonly digests: Set<string>;
  readonly chains: Set<string>;
  /** With `keepMs`, later: a pull that is tried again finds what the failed one had brought. */
  release(keepMs?: number): void;
}

export interface Leases {
  take(): Lease;
  digests(): Set<string>;
  chains(): Set<string>;
  close(): void;
}

/** `expired` is called when a lease that was kept ends. */
export function openLeases(expired: () => void): Leases {
  const held = new Set<Lease>();
  const timers = new Set<NodeJS.Timeout>();
  const all = (pick: (lease: Lease) => Set<string>) =>
    new Set([...held].flatMap((lease) => [...pick(lease)]));
  return {
    take() {
      const lease: Lease = {
        digests: new Set(),
        chains: new Set(),
        release(keepMs = 0) {
          if (keepMs === 0) {
            held.delete(lease);
            return;
          }
          const timer = setTimeout(() => {
            timers.delete(timer);
            held.delete(lease);
            expired();
          }, keepMs);
          timer.unref();
          timers.add(timer);
        },
      };
      held.add(lease);
      return lease;
    },
    digests: () => all((lease) => lease.digests),
    chains: () => all((lease) => lease.chains),
    close() {
      for (const timer of timers) clearTimeout(timer);
    },
  };
}
