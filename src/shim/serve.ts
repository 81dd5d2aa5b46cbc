import * as fs from "node:fs";
import { messageOf } from "../base/errors";
import { native } from "../native";
import { containerRuntime, type FdStore } from "../runtime";
import { Server } from "../ttrpc";
import type { ShimContext } from "./context";
import { eventQueue } from "./events";
import { lifetime } from "./lifetime";
import { type ShimLog, shimLog } from "./log";
import { findOrphans } from "./orphans";
import { sandboxService } from "./sandbox-service";
import { Task } from "./task";
import { taskService } from "./task-service";
import { VERSION } from "./version";

/** As the monitor starts it: see native/monitor/protocol.h for the two descriptors. */
export interface ServeOptions {
  readonly namespace: string;
  /** Path of the socket that is listened on; its records are in `<socket>.d`. */
  readonly socket: string;
  /** Where events go; "" nowhere. */
  readonly events: string;
  readonly group: "pod" | "node";
  readonly restarted: boolean;
  readonly debug: boolean;
}

const LISTEN_FD = 3;
const STORE_FD = 4;
const FLUSH_MS = 3_000;

export async function serveShim(options: ServeOptions): Promise<void> {
  const log = shimLog(options);
  const monitor = watchMonitor(log);
  const left = await native().storeOpen({ fd: STORE_FD });
  const stateDir = `${options.socket}.d`;
  const runtime = containerRuntime({
    stateDir,
    store: fdStore(log),
    warn: (message, fields) => log.warn(message, fields),
  });
  const life = lifetime({
    group: options.group,
    restarted: options.restarted,
    empty: () => context.tasks.size + context.sandboxes.size + context.reserved.size === 0,
    connections: () => server.connections,
    end: (why) => void end(why),
  });
  const context: ShimContext = {
    runtime,
    events: eventQueue({ address: options.events, namespace: options.namespace, log }),
    log,
    tasks: new Map(),
    sandboxes: new Map(),
    reserved: new Set(),
    settled: (asked) => life.check(asked),
  };
  const task = taskService(context);
  const server = new Server({
    services: {
      "containerd.task.v2.Task": task,
      "containerd.task.v3.Task": task,
      "containerd.runtime.sandbox.v1.Sandbox": sandboxService(context),
    },
    onConnections: () => life.check(),
  });
  let ending = false;

  async function end(why: string): Promise<void> {
    if (ending) return;
    ending = true;
    log.info("ending", { why, pid: process.pid });
    // Answers under way first, then events; the monitor takes the socket away, unless it is gone.
    await new Promise((resolve) => setImmediate(resolve));
    await context.events.flush(FLUSH_MS);
    if (!monitor.alive) removeSocket(options.socket);
    process.exit(0);
  }

  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => void end(signal));
  for (const sandbox of await runtime.recover(findOrphans(stateDir, left))) {
    if (sandbox.pid !== 0) context.sandboxes.set(sandbox.id, sandbox);
    for (const container of sandbox.containers.values()) {
      context.tasks.set(container.id, new Task(context, sandbox, container));
    }
  }
  await server.listen({ fd: LISTEN_FD });
  log.info("serving", { version: VERSION, pid: process.pid, ...options, tasks: context.tasks.size });
  life.check();
}

/** The monitor is our parent; without it we carry on, and a crash of ours will cost the descriptors. */
function watchMonitor(log: ShimLog): { readonly alive: boolean } {
  const state = { alive: true };
  const pid = process.ppid;
  const lost = (): void => {
    state.alive = false;
    log.error("the monitor is gone: containers live on, but a crash of this server would lose their exits");
  };
  const pidfd = native().pidfdOpen({ pid });
  if (pidfd === undefined || process.ppid !== pid) {
    lost();
    return state;
  }
  void native()
    .awaitExit({ pid, pidfd, child: false })
    .catch(() => {})
    .then(lost)
    .finally(() => fs.closeSync(pidfd));
  return state;
}

/** The store is a safety net: what it cannot keep must not fail a container. */
function fdStore(log: ShimLog): FdStore {
  const guarded = (what: string, call: () => void): void => {
    try {
      call();
    } catch (error) {
      log.warn(what, { error: messageOf(error) });
    }
  };
  return {
    put: (name, fd) => guarded(`storing "${name}"`, () => native().storePut({ name, fd })),
    drop: (name) => guarded(`dropping "${name}"`, () => native().storeDrop({ name })),
    task: (id, pid, record) => guarded(`naming "${id}"`, () => native().storeTask({ id, pid, record })),
  };
}

function removeSocket(socket: string): void {
  fs.rmSync(socket, { force: true });
  try {
    fs.rmdirSync(`${socket}.d`);
  } catch {} // records of containers that live on
}
