import * as path from "node:path";
import { readOomKills } from "../cgroup-stats";

interface Slice {
  /** What the slice counts and nobody who lives is answerable for. */
  settled: number;
  readonly living: Set<string>;
}

/**
 * Whose OOM kills they were. systemd removes a scope's cgroup as soon as that is empty, perhaps before we have
 * looked into its memory.events for the last time. But the kernel counts each kill in all cgroups above as well,
 * and the slice stays: what it counts, and no scope that can be read accounts for, was in the one that cannot.
 */
export class SliceKills {
  readonly #slices = new Map<string, Slice>();

  /** From now on `cgroup`, a scope's, is one of those that live. */
  enter(cgroup: string): void {
    const slice = path.posix.dirname(cgroup);
    const own = readOomKills(cgroup) ?? 0;
    const known = this.#slices.get(slice);
    if (known === undefined) {
      this.#slices.set(slice, { settled: (readOomKills(slice) ?? 0) - own, living: new Set([cgroup]) });
      return;
    }
    known.settled -= own;
    known.living.add(cgroup);
  }

  /** The last count of `cgroup`, of which `seen` were seen while it was there. */
  leave(cgroup: string, seen: number): number {
    const slice = path.posix.dirname(cgroup);
    const known = this.#slices.get(slice);
    if (!known?.living.delete(cgroup)) return seen;
    const kills = readOomKills(cgroup) ?? Math.max(seen, this.#unaccounted(slice, known));
    known.settled += kills;
    if (known.living.size === 0) this.#slices.delete(slice);
    return kills;
  }

  #unaccounted(slice: string, { settled, living }: Slice): number {
    const others = [...living].reduce((sum, cgroup) => sum + (readOomKills(cgroup) ?? 0), 0);
    return (readOomKills(slice) ?? 0) - settled - others;
  }
}
