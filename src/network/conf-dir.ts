import * as fs from "node:fs";
import * as path from "node:path";
import { errnoOf, messageOf } from "../base/errors";
import type { Log } from "../base/log";
import { type ConfList, parseConfList } from "./conflist";

/** The directory of network configurations, followed as it changes. The first valid file by name counts. */
export interface ConfDir {
  readonly current: ConfList | undefined;
  /** Why there is none; undefined if there is one. */
  readonly problem: string | undefined;
  close(): void;
}

const SUFFIXES = [".conf", ".conflist", ".json"];
/** An editor's write is several events; one scan after the last of them is enough. */
const SETTLE_MS = 50;

export function followConfDir(dir: string, log: Log): ConfDir {
  return new Follower(dir, log);
}

/**
 * inotify while the directory exists. While it does not (or cannot be watched), every question scans it:
 * kubelet asks for Status every five seconds, so nothing here needs a timer of its own.
 */
class Follower implements ConfDir {
  readonly #dir: string;
  readonly #log: Log;
  #watcher: fs.FSWatcher | undefined;
  #watched = -1;
  #timer: NodeJS.Timeout | undefined;
  #current: ConfList | undefined;
  #problem: string | undefined;
  #told = "";

  constructor(dir: string, log: Log) {
    this.#dir = dir;
    this.#log = log;
    this.#scan();
  }

  get current(): ConfList | undefined {
    this.#scanUnlessWatched();
    return this.#current;
  }

  get problem(): string | undefined {
    this.#scanUnlessWatched();
    return this.#problem;
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#unwatch();
  }

  #scanUnlessWatched(): void {
    if (this.#watcher === undefined) this.#scan();
  }

  #scan(): void {
    // Watch before reading, or a change between the two goes unseen.
    this.#watch();
    const { list, problem } = firstValid(this.#dir);
    this.#current = list;
    this.#problem = problem;
    const told = problem ?? `network ${list?.name} (${list?.cniVersion})`;
    if (told === this.#told) return;
    this.#told = told;
    if (problem === undefined) this.#log.info("network configuration loaded", { network: list?.name });
    else this.#log.warn("no network configuration", { problem });
  }

  /** A directory that was replaced is another inode: its old watch would stay silent for ever. */
  #watch(): void {
    const inode = fs.statSync(this.#dir, { throwIfNoEntry: false })?.ino ?? -1;
    if (this.#watcher !== undefined && inode === this.#watched) return;
    this.#unwatch();
    if (inode === -1) return;
    try {
      this.#watcher = fs.watch(this.#dir, { persistent: false }, () => this.#changed());
      this.#watcher.on("error", () => this.#unwatch());
      this.#watched = inode;
    } catch {
      this.#unwatch();
    }
  }

  #changed(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#scan(), SETTLE_MS);
    this.#timer.unref();
  }

  #unwatch(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
    this.#watched = -1;
  }
}

function firstValid(dir: string): { list?: ConfList; problem?: string } {
  let names: string[];
  try {
    names = fs.readdirSync(dir).filter((name) => SUFFIXES.includes(path.extname(name)));
  } catch (error) {
    if (errnoOf(error) !== "ENOENT")
      return { problem: `reading ${dir}: ${messageOf(error)}: cni plugin not initialized` };
    names = [];
  }
  const problems: string[] = [];
  for (const name of names.sort()) {
    try {
      const file = path.join(dir, name);
      return { list: parseConfList(file, fs.readFileSync(file, "utf8")) };
    } catch (error) {
      problems.push(messageOf(error));
    }
  }
  const why = problems.length > 0 ? problems.join("; ") : `no network config found in ${dir}`;
  return { problem: `${why}: cni plugin not initialized` };
}
