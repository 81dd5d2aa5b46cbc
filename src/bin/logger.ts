import { destination, pino } from "pino";
import type { Log } from "../base/log";

/**
 * JSON lines on standard error, which journald takes as they are. Written at once: a line about a crash is
 * worth more than the microseconds that a buffer saves.
 */
export function jsonLog(level: string): Log {
  const sink = destination({ fd: 2, sync: true });
  // journald may be restarted; a daemon with pods does not die of a closed pipe.
  sink.on("error", () => {});
  return adapt(
    pino(
      {
        level,
        base: null,
        messageKey: "msg",
        timestamp: () => `,"time":"${new Date().toISOString()}"`,
        formatters: { level: (label) => ({ level: label }) },
      },
      sink,
    ),
  );
}

type Pino = Pick<ReturnType<typeof pino>, "debug" | "info" | "warn" | "error"> & {
  child(fields: Record<string, unknown>): Pino;
};

function adapt(logger: Pino): Log {
  return {
    debug: (message, fields) => logger.debug(fields ?? {}, message),
    info: (message, fields) => logger.info(fields ?? {}, message),
    warn: (message, fields) => logger.warn(fields ?? {}, message),
    error: (message, fields) => logger.error(fields ?? {}, message),
    with: (fields) => adapt(logger.child(fields)),
  };
}
