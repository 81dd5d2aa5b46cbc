/**
 * When a server ends by itself (R2, R3). Nothing is left to serve when it has no sandbox, no container and no
 * Create under way; then:
 *
 *   group pod    at Shutdown; else when nobody has been connected for a minute (a driver that died between
 *                `start` and Create)
 *   group node   when no driver has been connected for ten minutes
 *   restarted    after 5 s without a driver: its containers ended while it was away
 *
 * A timer runs only while all of that holds, so an idle server with pods is never woken.
 */
export interface Lifetime {
  /** Call whenever something began or ended, and at Shutdown. */
  check(asked?: "shutdown"): void;
}

export interface LifetimeOptions {
  readonly group: "pod" | "node";
  readonly restarted: boolean;
  empty(): boolean;
  connections(): number;
  /** Ends the process, after the answers under way. */
  end(why: string): void;
}

const IDLE_MS = { pod: 60_000, node: 600_000 } as const;
const RESTARTED_MS = 5_000;

export function lifetime({ group, restarted, empty, connections, end }: LifetimeOptions): Lifetime {
  let timer: NodeJS.Timeout | undefined;
  return {
    check: (asked) => {
      clearTimeout(timer);
      if (!empty()) return;
      if (asked === "shutdown" && group === "pod") {
        end("shut down");
        return;
      }
      if (connections() > 0) return;
      timer = setTimeout(
        () => {
          if (empty() && connections() === 0) end("nothing to serve");
        },
        restarted ? RESTARTED_MS : IDLE_MS[group],
      );
    },
  };
}
