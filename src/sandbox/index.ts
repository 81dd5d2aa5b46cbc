import * as fs from "node:fs";
import * as path from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { Log } from "../base/log";
import type { Images } from "../image";
import { native } from "../native";
import type { Network } from "../network";
import { type CgroupDriver, defaultCgroupParent } from "../oci/cgroups-path";
import type { Seccomp } from "../oci/runtime-spec";
import type { Handler, Shims } from "../task";
import { type ApparmorHost, apparmorOf } from "./apparmor";
import type { Context } from "./context";
import { containerOutcome, createContainer } from "./create-container";
import { execSync } from "./exec-sync";
import { Index, Names } from "./names";
import { podMetrics } from "./pod-metrics";
import { listPodStats, podStats } from "./pod-stats";
import { recover } from "./recover";
import { removeContainer } from "./remove-container";
import { removePod } from "./remove-pod";
import { reopenLog } from "./reopen-log";
import { podOutcome, runPod } from "./run-pod";
import { startContainer } from "./start-container";
import { containerStats, listStats } from "./stats";
import { stopContainer } from "./stop-container";
import { stopPod } from "./stop-pod";
import { openStore } from "./store";
import type { ContainerConfig, Pods } from "./types";
import { updateContainer } from "./update-container";
import { updatePod } from "./update-pod";
import { containerView, listContainers, listPods, podView } from "./views";

export type { CgroupDriver } from "../oci/cgroups-path";
export { apparmorParser } from "./apparmor";
export type * from "./types";

export interface PodsOptions {
  /** Persistent: records go to `<root>/pods`. */
  readonly root: string;
  /** On tmpfs: FIFOs and shims' coordinates go to `<state>/pods`. */
  readonly state: string;
  /** Borrowed, as are the next two: the caller closes them after `close`. */
  readonly images: Images;
  readonly network: Network;
  readonly shims: Shims;
  readonly handlers: readonly Handler[];
  /** Name of the handler that "" means. */
  readonly defaultHandler: string;
  /** Who makes pods' cgroups, and so what their `cgroup_parent` must be; default cgroupfs. */
  readonly cgroupDriver?: CgroupDriver;
  /** For pods without a cgroup parent; default: the driver's own. */
  readonly cgroupParentDefault?: string;
  /** RuntimeDefault's filter for a process with these capabilities. */
  readonly defaultSeccomp: (capabilities: readonly string[]) => Seccomp;
  /** The kernel's AppArmor unless given (tests). */
  readonly apparmor?: ApparmorHost;
  readonly log: Log;
}

/** Resolves once everything that an earlier daemon left is taken up again. */
export async function openPods(options: PodsOptions): Promise<Pods> {
  const { cgroupDriver = "cgroupfs" } = options;
  fs.mkdirSync(path.join(options.state, "pods"), { recursive: true, mode: 0o700 });
  const store = openStore(path.join(options.root, "pods"));
  const context: Context = {
    log: options.log,
    images: options.images,
    network: options.network,
    shims: options.shims,
    store,
    handlers: new Map(options.handlers.map((handler) => [handler.name, handler])),
    defaultHandler: options.defaultHandler,
    cgroupDriver,
    cgroupParentDefault: options.cgroupParentDefault ?? defaultCgroupParent(cgroupDriver),
    defaultSeccomp: options.defaultSeccomp,
    apparmor: apparmorOf(options.log, options.apparmor),
    stateDir: options.state,
    pods: new Index("sandbox"),
    containers: new Index("container"),
    podNames: new Names(
      "sandbox",
      (a, b) => a.handler === b.handler && Buffer.compare(a.configBytes, b.configBytes) === 0,
      (id) => podOutcome(context, id),
    ),
    containerNames: new Names<ContainerConfig>("container", isDeepStrictEqual, (id) =>
      containerOutcome(context, id),
    ),
    closed: false,
  };
  try {
    await recover(context);
  } catch (error) {
    await close(context);
    throw error;
  }
  return {
    run: (request) => runPod(context, request),
    stop: (id) => stopPod(context, id),
    remove: (id) => removePod(context, id),
    get: (id) => podView(context.pods.get(id)),
    list: (filter) => listPods(context, filter),
    create: (podId, config) => createContainer(context, podId, config),
    start: (id) => startContainer(context, id),
    stopContainer: (id, timeout) => stopContainer(context, id, timeout),
    removeContainer: (id) => removeContainer(context, id),
    getContainer: (id) => containerView(context.containers.get(id)),
    listContainers: (filter) => listContainers(context, filter).map(containerView),
    updateContainer: (id, resources) => updateContainer(context, id, resources),
    updatePod: (id, changes) => updatePod(context, id, changes),
    execSync: (id, command, timeout) => execSync(context, id, command, timeout),
    reopenLog: (id) => reopenLog(context, id),
    stats: (id) => containerStats(context, id),
    listStats: (filter) => listStats(context, filter),
    podStats: (id) => podStats(context, id),
    listPodStats: (filter) => listPodStats(context, filter),
    podMetrics: () => podMetrics(context),
    runtimeNotReady: () =>
      native().features().cgroupRoot === "" ? "no cgroup2 mount: containers need one" : undefined,
    close: () => close(context),
  };
}

/** What is in the FIFOs is written to the logs; the rest waits there for the next daemon. */
async function close(context: Context): Promise<void> {
  if (context.closed) return;
  context.closed = true;
  await Promise.all([...context.containers].map((container) => container.output?.close()));
  await context.store.close();
}
