import { WebSocket } from "undici";
import { until } from "../support/processes";

/**
 * Forces a garbage collection in another Node process and prints its heap in bytes: SIGUSR1 makes Node open
 * its inspector on 127.0.0.1:9229, so this must run in that process's network namespace. The inspector is
 * closed again, for the next process to have the port.
 *
 *   node heap-probe.js PID
 */
async function main(pid: number): Promise<void> {
  process.kill(pid, "SIGUSR1");
  let url = "";
  await until(async () => {
    try {
      const response = await fetch("http://127.0.0.1:9229/json/list");
      url = ((await response.json()) as { webSocketDebuggerUrl: string }[])[0]!.webSocketDebuggerUrl;
      return true;
    } catch {
      return false;
    }
  }, "the inspector answers");
  const socket = new WebSocket(url);
  await new Promise((resolve, reject) => {
    socket.addEventListener("open", resolve);
    socket.addEventListener("error", reject);
  });
  let id = 0;
  const ask = (method: string, params: object = {}) => {
    const call = ++id;
    socket.send(JSON.stringify({ id: call, method, params }));
    return new Promise<Record<string, unknown>>((resolve) => {
      socket.addEventListener("message", ({ data }) => {
        const answer = JSON.parse(String(data)) as { id: number; result: Record<string, unknown> };
        if (answer.id === call) resolve(answer.result);
      });
    });
  };
  await ask("HeapProfiler.collectGarbage");
  await ask("HeapProfiler.collectGarbage");
  const { usedSize } = await ask("Runtime.getHeapUsage");
  console.log(String(usedSize));
  // Not awaited: closing the inspector closes this very connection.
  const expression = "setTimeout(() => process.mainModule.require('node:inspector').close(), 10)";
  await ask("Runtime.evaluate", { expression, includeCommandLineAPI: true });
  socket.close();
}

main(Number(process.argv[2])).catch((error: unknown) => {
  console.error(error);
  process.exit(1);
});
