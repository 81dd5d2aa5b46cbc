import * as fs from "node:fs";
import { messageOf } from "../base/errors";
import type { Log } from "../base/log";
import { containerd } from "../gen/shim";
import { Server } from "../ttrpc";

interface Envelope {
  readonly topic?: string;
  readonly event?: { readonly value?: Uint8Array } | null;
}

/**
 * Where shims send their events (`containerd.services.events.ttrpc.v1.Events`). They are hints: what is true,
 * Wait, State and Stats say. One is listened to, since a shim may know of an OOM kill that its statistics do
 * not show; the others are only logged. A shim that could not deliver would hold its events back and retry,
 * so somebody must take them.
 */
export async function serveEvents(
  path: string,
  log: Log,
  onOom: (containerId: string) => void,
): Promise<Server> {
  fs.rmSync(path, { force: true });
  const server = new Server({
    services: {
      "containerd.services.events.ttrpc.v1.Events": {
        Forward: ({ envelope }: { envelope?: Envelope }) => {
          log.debug("shim event", { topic: envelope?.topic });
          if (envelope?.topic === "/tasks/oom") hearOom(envelope, log, onOom);
          return {};
        },
      },
    },
  });
  await server.listen({ path });
  fs.chmodSync(path, 0o600);
  return server;
}

function hearOom({ event }: Envelope, log: Log, onOom: (containerId: string) => void): void {
  try {
    const { containerId } = containerd.events.TaskOOM.decode(event?.value ?? new Uint8Array());
    log.info("out of memory", { container: containerId });
    onOom(containerId);
  } catch (error) {
    log.warn("decoding TaskOOM", { error: messageOf(error) });
  }
}
