import { type IntervalHistogram, monitorEventLoopDelay } from "node:perf_hooks";

/** Nanoseconds by which timers came late since the last reading. */
export interface LoopDelay {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

const RESOLUTION_MS = 5;
const RESOLUTION_NS = RESOLUTION_MS * 1e6;
/** A daemon that nobody measures does not wake up 200 times a second for it. */
const IDLE_MS = 60_000;

/** Measures from one reading to the next; the first reading starts it and is all zeros. */
export function loopDelayMeter(): { read(): LoopDelay; stop(): void } {
  let histogram: IntervalHistogram | undefined;
  let idle: NodeJS.Timeout | undefined;
  const stop = () => {
    clearTimeout(idle);
    histogram?.disable();
    histogram = undefined;
  };
  // What is recorded are whole intervals; the delay is what exceeds the one asked for.
  const late = (interval: number) => Math.max(0, Math.round(interval) - RESOLUTION_NS);
  const read = (): LoopDelay => {
    const delay =
      histogram && histogram.count > 0
        ? {
            p50: late(histogram.percentile(50)),
            p99: late(histogram.percentile(99)),
            max: late(histogram.max),
          }
        : { p50: 0, p99: 0, max: 0 };
    stop();
    histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
    histogram.enable();
    idle = setTimeout(stop, IDLE_MS).unref();
    return delay;
  };
  return { read, stop };
}
