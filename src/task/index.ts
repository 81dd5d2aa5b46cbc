import * as fs from "node:fs";
import * as net from "node:net";
import * as path from "node:path";
import type { Log } from "../base/log";
import { undoOnFailure } from "../base/scope";
import { native } from "../native";
import { ShimBinaries } from "./binary";
import { serveEvents } from "./events";
import { Link } from "./link";
import { createDrivenSandbox, DrivenSandbox } from "./sandbox-task";
import type { CreateSandboxOptions, Handler, SandboxTask, SandboxTaskRecord, Shims } from "./types";

export type * from "./types";

export interface ShimsOptions {
  /** On tmpfs: bundles, and the socket that shims know us by. */
  readonly state: string;
  readonly log: Log;
  /** Where shim binaries are looked for, before PATH. */
  readonly searchDirs: readonly string[];
  /** containerd's namespace, told to shims; `k8s.io` by default. */
  readonly namespace?: string;
}

/**
 * Opens the driver's side of ShimV2 below `state`:
 *
 *   bundles/<id>/      of sandboxes and containers; a sandbox's has the FIFO that its shim logs to
 *   shim.sock.ttrpc    where shims send events; `shim.sock` itself is only a name
 *   s/                 the shims' own sockets, made by them
 */
export async function openShims(options: ShimsOptions): Promise<Shims> {
  const { state, log, searchDirs, namespace = "k8s.io" } = options;
  const bundles = path.join(state, "bundles");
  fs.mkdirSync(bundles, { recursive: true, mode: 0o700 });
  const address = path.join(state, "shim.sock");
  const oomKilled = new Map<string, boolean>();
  const events = await serveEvents(`${address}.ttrpc`, log, (id) => {
    if (oomKilled.has(id)) oomKilled.set(id, true);
  });
  const binaries = new ShimBinaries({ address, namespace }, searchDirs);
  const links = new Links(log);
  const bundleOf = (id: string): string => path.join(bundles, id);

  const createSandbox = (request: CreateSandboxOptions): Promise<SandboxTask> =>
    undoOnFailure(async (scope) => {
      const { id, handler } = request;
      const binary = binaries.find(handler);
      const bundle = bundleOf(id);
      fs.mkdirSync(bundle, { mode: 0o700 });
      scope.defer("bundle", () => native().removeTree({ path: bundle }));
      const output = openLog(bundle);
      try {
        const started = await binary.start({ id, bundle });
        scope.defer("shim", () => binary.delete({ id, bundle }));
        const { link, fresh } = await links.get(started.address);
        if (fresh) passOn(output.release(), log.with({ shim: handler.name }));
        return await createDrivenSandbox(request, { link, binary, bundleOf, oomKilled }, started.version);
      } finally {
        output.close();
      }
    });

  return {
    createSandbox,
    async reconnect(record: SandboxTaskRecord): Promise<SandboxTask> {
      const binary = binaries.find(record.handler);
      // `start` first: it finds the server, or brings it back, or says that there is nothing to come back to.
      const { address } = await binary.start(record);
      const { link } = await links.get(address);
      const sandbox = new DrivenSandbox({ ...record, address }, { link, binary, bundleOf, oomKilled });
      await sandbox.ready();
      return sandbox;
    },
    async discard({ id, handler }: { id: string; handler: Handler }): Promise<void> {
      const bundle = bundleOf(id);
      if (!fs.existsSync(bundle)) return;
      await binaries.find(handler).delete({ id, bundle });
      await native().removeTree({ path: bundle });
    },
    async close(): Promise<void> {
      links.close();
      await events.close();
    },
  };
}

/** One link per shim server, by its address. */
class Links {
  readonly #log: Log;
  readonly #links = new Map<string, Link>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** The open link to `address`; `fresh` if there was none. */
  async get(address: string): Promise<{ link: Link; fresh: boolean }> {
    const known = this.#links.get(address);
    const link = known ?? new Link(address, this.#log);
    const fresh = !link.connected;
    this.#links.set(address, link);
    return { link: await link.open(), fresh };
  }

  close(): void {
    for (const link of this.#links.values()) link.close();
  }
}

/**
 * The FIFO that a shim's server logs to, made before `start`. We hold both ends, so that it neither ends nor
 * blocks its opening while no server has it.
 */
function openLog(bundle: string): { release(): number; close(): void } {
  const fifo = path.join(bundle, "log");
  native().makeFifo({ path: fifo, mode: 0o600 });
  let fd = fs.openSync(fifo, fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
  const release = (): number => {
    const released = fd;
    fd = -1;
    return released;
  };
  return { release, close: () => void (fd >= 0 && fs.closeSync(release())) };
}

/** Takes `fd`: every line that comes is logged, our own shim's JSON lines as what they are. */
function passOn(fd: number, log: Log): void {
  const socket = new net.Socket({ fd, readable: true, writable: false });
  let rest = "";
  socket.setEncoding("utf8");
  socket.on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line !== "") passLine(line, log);
  });
  socket.on("error", (error) => log.warn(`reading a shim's log: ${error.message}`));
  socket.unref();
}

function passLine(line: string, log: Log): void {
  let entry: { level?: unknown; msg?: unknown } | undefined;
  try {
    entry = JSON.parse(line) as typeof entry;
  } catch {}
  if (typeof entry?.msg !== "string") {
    log.info(line);
    return;
  }
  const { level, msg, ...fields } = entry;
  const known = level === "debug" || level === "warn" || level === "error" ? level : "info";
  log[known](msg, fields);
}
