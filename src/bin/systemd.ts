import type { Log } from "../base/log";
import { native } from "../native";

/**
 * Type=notify: systemd waits for READY, counts on WATCHDOG at least once per WATCHDOG_USEC, and is told
 * when we stop. Without NOTIFY_SOCKET nothing of this happens.
 */
export interface Systemd {
  ready(): void;
  /** Until `work` has settled, however it does. */
  reloading(work: () => Promise<void>): Promise<void>;
  stopping(): void;
}

export function systemd(log: Log): Systemd {
  let watchdog: NodeJS.Timeout | undefined;
  const tell = (state: string) => {
    try {
      native().notify({ state });
    } catch (error) {
      log.warn("telling systemd", { state, error: String(error) });
    }
  };
  return {
    ready: () => {
      tell(`READY=1\nMAINPID=${process.pid}`);
      const period = watchdogPeriod();
      // From the event loop, so that a loop that hangs is seen to hang.
      if (period !== undefined) watchdog = setInterval(() => tell("WATCHDOG=1"), period).unref();
    },
    reloading: async (work) => {
      // systemd tells a reload from an earlier one by the time.
      tell(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
      await work().finally(() => tell("READY=1"));
    },
    stopping: () => {
      clearInterval(watchdog);
      tell("STOPPING=1");
    },
  };
}

/** As systemd writes it: `252.38-1~deb12u1`. Rejects where systemd is not to be talked to, with the reason. */
export const systemdVersion = (): Promise<string> =>
  native().unitRead({
    interface: "org.freedesktop.systemd1.Manager",
    property: "Version",
    timeoutMs: 10_000,
  });

/** Half of what is allowed, in ms; undefined without a watchdog or if it is meant for another process. */
function watchdogPeriod(): number | undefined {
  const usec = Number(process.env["WATCHDOG_USEC"]);
  const pid = process.env["WATCHDOG_PID"];
  if (!Number.isInteger(usec) || usec <= 0) return undefined;
  if (pid !== undefined && Number(pid) !== process.pid) return undefined;
  return Math.max(1, Math.floor(usec / 2000));
}
