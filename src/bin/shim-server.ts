/**
 * The shim's server, as the monitor starts it (native/monitor/supervisor.cc): everything it will ever need is
 * loaded here and now, so that an upgrade of the files on disk cannot change a running server.
 */
import { parseArgs } from "node:util";
import { invalid, messageOf } from "../base/errors";
import { serveShim } from "../shim";

/** Go-style flags: one dash, the value as the next word. */
function flags(words: readonly string[]) {
  const { values } = parseArgs({
    args: words.map((word) => (word.startsWith("-") ? `-${word}` : word)),
    options: {
      namespace: { type: "string" },
      socket: { type: "string" },
      events: { type: "string" },
      group: { type: "string" },
      fresh: { type: "boolean" },
      restarted: { type: "boolean" },
      debug: { type: "boolean" },
    },
  });
  const { namespace = "", socket = "", events = "", group = "", restarted = false, debug = false } = values;
  if (group !== "pod" && group !== "node") throw invalid("-group", group, 'must be "pod" or "node"');
  return { namespace, socket, events, group, restarted, debug } as const;
}

Promise.resolve()
  .then(() => serveShim(flags(process.argv.slice(2))))
  .catch((error: unknown) => {
    process.stderr.write(`${JSON.stringify({ level: "error", name: "shim", msg: messageOf(error) })}\n`);
    process.exit(1);
  });
