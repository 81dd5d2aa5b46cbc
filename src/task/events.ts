import * as fs from "node:fs";
import type { Log } from "../base/log";
import { Server } from "../ttrpc";

/**
 * Where shims send their events (`containerd.services.events.ttrpc.v1.Events`). They are hints and only
 * logged: what is true, Wait, State and Stats say. A shim that could not deliver would hold its events back
 * and retry, so somebody must listen.
 */
export async function serveEvents(path: string, log: Log): Promise<Server> {
  fs.rmSync(path, { force: true });
  const server = new Server({
    services: {
      "containerd.services.events.ttrpc.v1.Events": {
        Forward: ({ envelope }: { envelope?: { topic?: string } }) => {
          log.debug("shim event", { topic: envelope?.topic });
          return {};
        },
      },
    },
  });
  await server.listen({ path });
  fs.chmodSync(path, 0o600);
  return server;
}
