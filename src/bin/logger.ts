import { destination, pino } from "pino";
import type { Log } from "../base/log";

/**
 * JSON lines on standard error, which journald takes as they are. Written at once: a line about a crash is
 * worth more than the microseconds that a buffer saves.
 */
export function jsonLog(level: Level): LeveledLog {
  const threshold = { rank: RANKS[level] };
  const sink = destination({ fd: 2, sync: true });
  // journald may be restarted; a daemon with pods does not die of a closed pipe.
  sink.on("error", () => {});
  const log = adapt(
    pino(
      {
        // Children keep the level that they were born with; the threshold is everybody's.
        level: "debug",
        base: null,
        messageKey: "msg",
        timestamp: () => `,"time":"${new Date().toISOString()}"`,
        formatters: { level: (label) => ({ level: label }) },
      },
      sink,
    ),
    threshold,
  );
  return {
    ...log,
    setLevel: (wanted) => {
      threshold.rank = RANKS[wanted];
    },
  };
}

const RANKS = { debug: 0, info: 1, warn: 2, error: 3 } as const;
export type Level = keyof typeof RANKS;

export interface LeveledLog extends Log {
  /** From now on, also of what was made by `with`. */
  setLevel(level: Level): void;
}

type Pino = Pick<ReturnType<typeof pino>, "debug" | "info" | "warn" | "error"> & {
  child(fields: Record<string, unknown>): Pino;
};

function adapt(logger: Pino, threshold: { readonly rank: number }): Log {
  const at =
    (level: Level) =>
    (message: string, fields?: Record<string, unknown>): void => {
      if (RANKS[level] >= threshold.rank) logger[level](fields ?? {}, message);
    };
  return {
    debug: at("debug"),
    info: at("info"),
    warn: at("warn"),
    error: at("error"),
    with: (fields) => adapt(logger.child(fields), threshold),
  };
}
