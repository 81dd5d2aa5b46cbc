import { isDeepStrictEqual } from "node:util";
import { messageOf } from "../base/errors";
import type { Config } from "./config";
import type { LeveledLog } from "./logger";

/**
 * SIGHUP, `systemctl reload`: reads the configuration again. What can change while pods run is changed, which is
 * `log.level`; other changes are named and wait for a restart. A file with mistakes changes nothing. The network
 * configuration is followed without being asked.
 */
export function reloader(inForce: Config, read: () => Promise<Config>, log: LeveledLog): () => Promise<void> {
  let level = inForce.log.level;
  return async () => {
    try {
      const wanted = await read();
      const waiting = (Object.keys(wanted) as (keyof Config)[]).filter(
        (key) => key !== "log" && !isDeepStrictEqual(wanted[key], inForce[key]),
      );
      if (wanted.log.level !== level) {
        level = wanted.log.level;
        log.setLevel(level);
      }
      if (waiting.length > 0) log.warn("configuration changed: restart isopod for it", { keys: waiting });
      log.info("configuration read again", { level });
    } catch (error) {
      log.error("reading the configuration again: nothing is changed", { error: messageOf(error) });
    }
  };
}
