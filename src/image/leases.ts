/** What pulls under way have brought so far, kept from the collector. Lives in memory (see records.ts). */
export interface Lease {
  readonly digests: Set<string>;
  readonly chains: Set<string>;
  /** All of it has a record now. Nor is it kept any longer for the sake of an earlier attempt. */
  done(): void;
  /** It failed; what it had brought is kept for so long for another attempt. */
  failed(keepMs: number): void;
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
  const kept = new Map<Lease, NodeJS.Timeout>();
  const all = (pick: (lease: Lease) => Set<string>) =>
    new Set([...held, ...kept.keys()].flatMap((lease) => [...pick(lease)]));
  return {
    take() {
      const lease: Lease = {
        digests: new Set(),
        chains: new Set(),
        done() {
          held.delete(lease);
          for (const other of kept.keys()) {
            for (const digest of lease.digests) other.digests.delete(digest);
            for (const chain of lease.chains) other.chains.delete(chain);
          }
        },
        failed(keepMs) {
          held.delete(lease);
          if (keepMs === 0) return;
          const timer = setTimeout(() => {
            kept.delete(lease);
            expired();
          }, keepMs);
          kept.set(lease, timer.unref());
        },
      };
      held.add(lease);
      return lease;
    },
    digests: () => all((lease) => lease.digests),
    chains: () => all((lease) => lease.chains),
    close() {
      for (const timer of kept.values()) clearTimeout(timer);
    },
  };
}
