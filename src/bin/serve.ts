import * as fs from "node:fs";
import * as path from "node:path";
import { messageOf } from "../base/errors";
import type { Log } from "../base/log";
import { type Cri, serveCri } from "../cri";
import { native } from "../native";
import type { Config } from "./config";
import { VERSION } from "./installation";
import { lockDirectory } from "./lock";
import { loopDelayMeter } from "./loop-delay";
import { openRooms } from "./rooms";
import { systemd } from "./systemd";

/** How long calls in flight may take after SIGTERM; systemd's TimeoutStopSec is longer. */
const GRACE_MS = 20_000;

/**
 * The daemon, from start to end. Order: lock what is ours, listen (answering UNAVAILABLE), open the rooms,
 * which take up what an earlier daemon left, answer, tell systemd. It ends on SIGTERM or SIGINT: calls in
 * flight finish, pods stay. SIGHUP calls `reload`, which never rejects.
 *
 * Returns the exit code.
 */
export async function serve(config: Config, log: Log, reload: () => Promise<void>): Promise<number> {
  const began = performance.now();
  process.umask(0o022);
  const stopped = stopSignal();
  const manager = systemd(log);
  process.on("SIGHUP", () => void manager.reloading(reload));
  const undo: (() => unknown)[] = [];
  try {
    for (const field of ["root", "state"] as const) undo.push(await takeDirectory(field, config[field]));
    const delay = loopDelayMeter();
    undo.push(delay.stop);
    const cri = await listen(config, log, () => ({
      config: JSON.stringify({ ...config, stateDir: config.state, rootDir: config.root }),
      eventLoopDelay: JSON.stringify(delay.read()),
    }));
    undo.push(() => cri.close(0));
    const rooms = await openRooms(config, log);
    undo.push(rooms.close);
    cri.open(rooms);
    manager.ready();
    log.info("ready", { version: VERSION, listen: config.listen, ms: Math.round(performance.now() - began) });
    const signal = await stopped;
    log.info("stopping", { signal });
    manager.stopping();
    await cri.close(GRACE_MS);
    return 0;
  } finally {
    for (const step of undo.reverse()) {
      try {
        await step();
      } catch (error) {
        log.error("stopping", { error: messageOf(error) });
      }
    }
    log.info("stopped");
  }
}

/** Made if missing, readable by root alone but for the way to a socket that a group may use. */
async function takeDirectory(field: "root" | "state", directory: string): Promise<() => void> {
  fs.mkdirSync(directory, { recursive: true, mode: field === "state" ? 0o711 : 0o700 });
  return (await lockDirectory(field, directory)).release;
}

async function listen(config: Config, log: Log, info: () => Record<string, string>): Promise<Cri> {
  const socket = config.listen.slice("unix://".length);
  fs.mkdirSync(path.dirname(socket), { recursive: true, mode: 0o711 });
  const { features } = native().features();
  return serveCri({
    socket,
    log,
    version: VERSION,
    defaultHandler: config.default_handler,
    cgroupDriver: config.cgroup.driver,
    handlers: Object.entries(config.handlers).map(([name, handler]) => ({
      name,
      // Known of our own shim only; kubelet then refuses for others what they might well do.
      recursiveReadOnlyMounts: isOurs(handler.runtime_type) && features["mountSetattr"] === true,
      userNamespaces: false,
    })),
    info,
  });
}

const isOurs = (runtimeType: string): boolean => /^io\.containerd\.isopod(-vm)?\.v2$/.test(runtimeType);

/** Resolves with the signal that ends the daemon; a second one ends it at once. */
function stopSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.on(signal, () => {
        process.once(signal, () => process.exit(1));
        resolve(signal);
      });
    }
  });
}
