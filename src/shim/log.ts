import * as fs from "node:fs";
import type { Log } from "../base/log";

/** A log whose receiver can change: each bundle brings a `log` FIFO, and its reader may end. */
export interface ShimLog extends Log {
  /** Another bundle's FIFO, used once the present receiver is gone. */
  offer(bundle: string): void;
}

const LEVELS = { debug: 0, info: 1, warn: 2, error: 3 } as const;
type Level = keyof typeof LEVELS;

/**
 * JSON lines to stderr, which is the first bundle's `log` FIFO, non-blocking: a reader that falls 64 KiB
 * behind loses lines, it never stalls a container.
 */
export function shimLog(options: { debug: boolean }): ShimLog {
  const lowest = LEVELS[options.debug ? "debug" : "info"];
  let fd = 2;
  let gone = isNull(fd);

  function write(line: string): void {
    try {
      fs.writeSync(fd, line);
    } catch (error) {
      gone = (error as NodeJS.ErrnoException).code !== "EAGAIN";
    }
  }

  function offer(bundle: string): void {
    if (!gone) return;
    try {
      // Without a reader ENXIO: no reason to hold it.
      const opened = fs.openSync(`${bundle}/log`, fs.constants.O_WRONLY | fs.constants.O_NONBLOCK);
      if (fd !== 2) fs.closeSync(fd);
      fd = opened;
      gone = false;
    } catch {}
  }

  const bind = (bound: Record<string, unknown>): ShimLog => {
    const at = (level: Level) => (msg: string, fields?: Record<string, unknown>) => {
      if (LEVELS[level] < lowest) return;
      write(
        `${JSON.stringify({ level, time: new Date().toISOString(), name: "shim", ...bound, ...fields, msg })}\n`,
      );
    };
    return {
      debug: at("debug"),
      info: at("info"),
      warn: at("warn"),
      error: at("error"),
      with: (fields) => bind({ ...bound, ...fields }),
      offer,
    };
  };
  return bind({});
}

function isNull(fd: number): boolean {
  try {
    return fs.fstatSync(fd).rdev === fs.statSync("/dev/null").rdev;
  } catch {
    return true;
  }
}
