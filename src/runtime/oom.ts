import * as fs from "node:fs";
import * as path from "node:path";
import { messageOf } from "../base/errors";
import { readOomKills } from "./cgroup-stats";
import type { Warn } from "./compile-process";
import type { Engine } from "./engine";
import type { Place } from "./place";
import type { SliceKills } from "./systemd/slice-kills";

/**
 * Tells of OOM kills in a cgroup as they happen. The kernel counts a kill in memory.events, of the victim's
 * cgroup and of all above it, before it sends the signal (mm/oom_kill.c), and says so to whoever watches the
 * file by inotify. So a kill is seen in the count at the latest when its process has ended, and one look at
 * the end leaves none out, whether or not its notification has come by then.
 */
export class OomWatch {
  readonly #cgroup: string;
  readonly #slice: SliceKills | undefined;
  readonly #warn: Warn;
  readonly #listeners: (() => void)[] = [];
  #watcher: fs.FSWatcher | undefined;
  #seen = 0;
  #over = false;

  constructor({ cgroup, unit }: Place, { kills, warn }: Pick<Engine, "kills" | "warn">) {
    this.#cgroup = cgroup;
    this.#slice = unit === undefined ? undefined : kills;
    this.#warn = warn;
  }

  /** Once there is a cgroup. */
  open(): void {
    this.#slice?.enter(this.#cgroup);
  }

  get kills(): number {
    this.#look();
    return this.#seen;
  }

  /** Nothing is watched before somebody listens. Kills up to here are told too: after a crash, once more. */
  listen(listener: () => void): void {
    if (this.#over) return;
    this.#listeners.push(listener);
    this.#watcher ??= this.#watch();
    queueMicrotask(() => {
      if (this.#seen > 0) listener();
      this.#look();
    });
  }

  /** At the end of the container: the last look, before its cgroup goes, or after if systemd was quicker. */
  close(): void {
    if (this.#over) return;
    this.#count(this.#slice?.leave(this.#cgroup, this.#seen) ?? readOomKills(this.#cgroup) ?? 0);
    this.#over = true;
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  #look(): void {
    if (!this.#over) this.#count(readOomKills(this.#cgroup) ?? 0);
  }

  #count(kills: number): void {
    if (kills <= this.#seen) return;
    this.#seen = kills;
    for (const listener of this.#listeners) listener();
  }

  /** Without the memory controller there is no file and no kill of the cgroup's own. */
  #watch(): fs.FSWatcher | undefined {
    const file = path.join(this.#cgroup, "memory.events");
    if (!fs.existsSync(file)) return undefined;
    try {
      const watcher = fs.watch(file, { persistent: false }, () => this.#look());
      watcher.on("error", (error) => this.#late(error));
      return watcher;
    } catch (error) {
      this.#late(error);
      return undefined;
    }
  }

  #late(error: unknown): void {
    this.#warn("OOM kills are told when the container ends: its memory.events cannot be watched", {
      cgroup: this.#cgroup,
      error: messageOf(error),
    });
  }
}
