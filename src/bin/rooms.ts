import * as path from "node:path";
import { IsopodError, messageOf } from "../base/errors";
import type { Log } from "../base/log";
import type { RuntimeRooms } from "../cri";
import { openImages } from "../image";
import { native } from "../native";
import { openNetwork } from "../network";
import { defaultSeccomp } from "../runtime";
import { openPods } from "../sandbox";
import { type Handler, openShims } from "../task";
import type { Config } from "./config";
import { programDirs } from "./installation";
import { systemdVersion } from "./systemd";

/** Opens the rooms from the bottom up; `close` goes the other way and leaves pods and shims alive. */
export async function openRooms(
  config: Config,
  log: Log,
): Promise<RuntimeRooms & { close(): Promise<void> }> {
  const undo: (() => unknown)[] = [];
  const close = async () => {
    for (const step of undo.splice(0).reverse()) await step();
  };
  try {
    if (config.cgroup.driver === "systemd") await askSystemd();
    const images = await openImages({
      root: path.join(config.root, "images"),
      log,
    });
    undo.push(() => images.close());
    const network = openNetwork({
      confDir: config.cni.conf_dir,
      binDirs: config.cni.bin_dirs,
      netnsDir: config.cni.netns_dir,
      log,
    });
    undo.push(() => network.close());
    const shims = await openShims({ state: config.state, searchDirs: programDirs(), log });
    undo.push(() => shims.close());
    const pods = await openPods({
      root: config.root,
      state: config.state,
      images,
      network,
      shims,
      handlers: await handlersOf(config),
      defaultHandler: config.default_handler,
      cgroupDriver: config.cgroup.driver,
      defaultSeccomp: (capabilities) => defaultSeccomp(capabilities, native().features()),
      log,
    });
    undo.push(() => pods.close());
    return { pods, images, networkNotReady: () => network.notReady(), close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Rather now than at the first pod: kubelet is told of the driver once, for the node's life. */
async function askSystemd(): Promise<void> {
  try {
    await systemdVersion();
  } catch (error) {
    throw new IsopodError("FAILED_PRECONDITION", `cgroup.driver: "systemd": ${messageOf(error)}`, {
      path: "cgroup.driver",
      cause: error,
    });
  }
}

async function handlersOf(config: Config): Promise<Handler[]> {
  const { stringify } = await import("smol-toml");
  return Object.entries(config.handlers).map(([name, { runtime_type, path: binary, options }]) => ({
    name,
    runtimeType: runtime_type,
    path: binary || undefined,
    options: Object.keys(options).length > 0 ? stringify(options) : undefined,
  }));
}
