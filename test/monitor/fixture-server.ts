/**
 * Stands in for the shim's server in tests of the monitor: notes how it was started, serves a Task service
 * that only remembers what it was asked, and crashes or ends on request.
 */
import * as fs from "node:fs";
import { Server } from "../../src/ttrpc";

const env = process.env;
const note = (what: object): void =>
  fs.appendFileSync(env["FIXTURE_LOG"] ?? "/dev/null", `${JSON.stringify(what)}\n`);

note({
  started: process.pid,
  parent: process.ppid,
  argv: process.argv.slice(2),
  nodeEnvironment: Object.keys(env).filter((name) => name.startsWith("NODE_")),
  cwd: process.cwd(),
  fds: fs.readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      return [`${fd}=${fs.readlinkSync(`/proc/self/fd/${fd}`)}`];
    } catch {
      return [];
    }
  }),
});

if (env["FIXTURE_CRASH"]) process.exit(3);

const server = new Server({
  services: {
    "containerd.task.v3.Task": {
      Connect: () => ({ shimPid: process.pid }),
      Kill: ({ id, signal, all }: { id: string; signal: number; all: boolean }) => {
        note({ kill: id, signal, all });
        return {};
      },
      Wait: () => ({}),
      Delete: ({ id }: { id: string }) => {
        note({ delete: id });
        return { pid: 42, exitStatus: 7, exitedAt: { seconds: 1_700_000_000 as never, nanos: 5 } };
      },
      // Ends without accepting anybody who comes in the meantime.
      Pause: () => {
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500);
        process.exit(0);
      },
      Shutdown: () => {
        // Ends after its answer, as a server does whose last container is gone.
        setTimeout(() => process.exit(0), 20);
        return {};
      },
    },
  },
});
process.on("SIGTERM", () => process.exit(0));
void server.listen({ fd: 3 });
