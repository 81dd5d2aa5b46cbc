import * as assert from "node:assert/strict";
import * as fs from "node:fs";
import { after, before, test } from "node:test";
import { runtime as cri } from "../../src/gen/cri";
import type { Client } from "../../src/ttrpc";
import { eventually } from "../monitor/launcher";
import { Driver, execSpec, ourProcesses, SANDBOX, TASK } from "./harness";

const limit = { timeout: 120_000 };
const CYCLES = 20;
let driver: Driver;
before(async () => {
  driver = await Driver.open();
}, limit);
after(() => driver?.close(), limit);

const countOf = (dir: string): number => fs.readdirSync(dir).length;

/** What a cycle could leave: of the server, the monitor, the host, the state directory. */
function held(server: number, monitor: number, socket: string): Record<string, unknown> {
  return {
    serverFds: countOf(`/proc/${server}/fd`),
    serverThreads: countOf(`/proc/${server}/task`),
    monitorFds: countOf(`/proc/${monitor}/fd`),
    children: fs.readFileSync(`/proc/${server}/task/${server}/children`, "utf8"),
    monitorChildren: fs.readFileSync(`/proc/${monitor}/task/${monitor}/children`, "utf8"),
    mounts: fs
      .readFileSync(`/proc/${server}/mountinfo`, "utf8")
      .split("\n")
      .filter((m) => m.includes(driver.dir)),
    records: fs.readdirSync(`${socket}.d`),
    sockets: fs.readdirSync(driver.socketDir),
    cgroups: fs.existsSync(driver.cgroup)
      ? fs.readdirSync(driver.cgroup, { withFileTypes: true }).filter((e) => e.isDirectory()).length
      : 0,
  };
}

async function cycle(client: Client, n: number): Promise<void> {
  const [podId, id] = [`pod${n}`, `c${n}`];
  const value = cri.v1.PodSandboxConfig.encode({
    linux: {
      cgroupParent: driver.cgroupParent,
      securityContext: { namespaceOptions: { network: 2, pid: 1 } },
    },
  }).finish();
  const options = { type_url: "runtime.v1.PodSandboxConfig", value };
  await driver.start(podId, "node");
  await client.call(SANDBOX, "CreateSandbox", {
    sandboxId: podId,
    bundlePath: driver.bundle(podId),
    options,
  });
  await client.call(SANDBOX, "StartSandbox", { sandboxId: podId });
  const bundle = driver.spec(id, "sleep 1000", { sandbox: podId });
  const out = driver.fifo(id, "out");
  await client.call(TASK, "Create", { id, bundle, stdout: out.path });
  await client.call(TASK, "Start", { id });
  await client.call(TASK, "Exec", { id, execId: "e", spec: execSpec("exit 1") });
  await client.call(TASK, "Start", { id, execId: "e" });
  await client.call(TASK, "Wait", { id, execId: "e" });
  await client.call(TASK, "Delete", { id, execId: "e" });
  await client.call(TASK, "Kill", { id, signal: 9 });
  await client.call(TASK, "Wait", { id });
  // Every second one leaves the container to the sandbox's end.
  if (n % 2 === 0) await client.call(TASK, "Delete", { id });
  await client.call(SANDBOX, "StopSandbox", { sandboxId: podId });
  await client.call(SANDBOX, "ShutdownSandbox", { sandboxId: podId });
  await out.text;
}

test(`${CYCLES} pods one after another leave nothing in server, monitor, host or state`, limit, async () => {
  const address = await driver.start("first", "node");
  const socket = address.slice("unix://".length);
  const client = await driver.connect(address);
  await cycle(client, 1000); // what is made once and kept: the base namespace, the pump thread
  await cycle(client, 1001);
  const { server, monitor } = (await driver.processes(address))!;
  const now = () => JSON.stringify(held(server, monitor, socket));
  let before = now();
  await eventually("the server comes to rest", async () => {
    const last = before;
    before = now();
    return last === before;
  });
  for (let n = 0; n < CYCLES; n++) await cycle(client, n);
  await eventually(`as before: ${before}`, () => now() === before).catch(() => {});
  assert.deepEqual(held(server, monitor, socket), JSON.parse(before));
  assert.deepEqual(ourProcesses(driver.dir).sort(), [server, monitor].sort());
  client.close();
});
