import { IsopodError } from "../base/errors";
import type { Log } from "../base/log";
import type { RuntimeRooms } from "../cri";
import type { Config } from "./config";

/** Opens the rooms from the bottom up; `close` goes the other way and leaves pods and shims alive. */
export function openRooms(_config: Config, _log: Log): Promise<RuntimeRooms & { close(): Promise<void> }> {
  throw new IsopodError("UNIMPLEMENTED", "opening rooms: not built yet");
}
