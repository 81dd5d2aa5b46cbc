import * as assert from "node:assert/strict";
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import { after, before, test } from "node:test";
import type { containerd } from "../../src/gen/shim";
import { native } from "../../src/native";
import { type Client, nanosecondsOf } from "../../src/ttrpc";
import { eventually, sleep } from "../monitor/launcher";
import { Driver, execSpec, TASK } from "./harness";

type State = containerd.task.v3.StateResponse.$Shape;
const RUNNING = 2;
const STOPPED = 3;
const limit = { timeout: 60_000 };
let driver: Driver;
before(async () => {
  driver = await Driver.open();
}, limit);
after(() => driver?.close(), limit);

interface Shim {
  readonly address: string;
  readonly server: number;
  readonly monitor: number;
  client: Client;
  // biome-ignore lint/suspicious/noExplicitAny: answers of many methods
  task(method: string, request: object): Promise<any>;
  /** As R3 has a driver do it: the connection ended, `start` again, then State. */
  reconnect(): Promise<void>;
}

async function shimOf(id: string): Promise<Shim> {
  const address = await driver.start(id);
  const found = (await driver.processes(address))!;
  const shim: Shim = {
    address,
    ...found,
    client: await driver.connect(address),
    task: (method, request) => shim.client.call(TASK, method, request),
    reconnect: async () => {
      await shim.client.closed;
      assert.equal(await driver.start(id), address, "start leads to the same address");
      shim.client = await driver.connect(address);
    },
  };
  await shim.task("Connect", { id }); // accepted: what waits in the backlog survives a crash
  return shim;
}

/** A container that says each tick, waits for a signal and ends with 5. */
async function ticking(shim: Shim, id: string): Promise<{ pid: number; out: ReturnType<Driver["fifo"]> }> {
  const script = "trap 'exit 5' TERM; i=0; while true; do echo tick $i; i=$((i+1)); sleep 0.05; done";
  const bundle = driver.spec(id, script);
  const out = driver.fifo(id, "out");
  const { pid } = await shim.task("Create", { id, bundle, stdout: out.path });
  await shim.task("Start", { id });
  await eventually("it ticks", () => out.sofar().includes("tick 2"));
  return { pid, out };
}

const alive = (pid: number): boolean => fs.existsSync(`/proc/${pid}/cwd`);

test(
  "R2: kill -9 of the server: containers live on, their exit codes and output are right",
  limit,
  async () => {
    const shim = await shimOf("crash");
    const { pid, out } = await ticking(shim, "crash");
    await shim.task("Exec", { id: "crash", execId: "e", spec: execSpec("sleep 1000") });
    const exec = await shim.task("Start", { id: "crash", execId: "e" });
    process.kill(shim.server, "SIGKILL");
    await shim.reconnect();
    const state = (await shim.task("State", { id: "crash" })) as State;
    assert.deepEqual([state.status, state.pid], [RUNNING, pid]);
    const execState = (await shim.task("State", { id: "crash", execId: "e" })) as State;
    assert.deepEqual([execState.status, execState.pid], [RUNNING, exec.pid]);
    const connected = await shim.task("Connect", { id: "crash" });
    assert.notEqual(connected.shimPid, shim.server);
    const seen = out.sofar().length;
    await eventually("it still ticks", () => out.sofar().length > seen + 20);
    // Everything else works on what was taken up: exec, pause, signals.
    await shim.task("Exec", { id: "crash", execId: "f", spec: execSpec("exit 6") });
    await shim.task("Start", { id: "crash", execId: "f" });
    assert.equal((await shim.task("Wait", { id: "crash", execId: "f" })).exitStatus, 6);
    await shim.task("Pause", { id: "crash" });
    await shim.task("Resume", { id: "crash" });
    const waiting = shim.task("Wait", { id: "crash" });
    await shim.task("Kill", { id: "crash", signal: 15 });
    assert.equal((await waiting).exitStatus, 5, "not the server's child any more, and yet its true exit");
    assert.equal((await shim.task("Wait", { id: "crash", execId: "e" })).exitStatus, 137);
    assert.equal((await shim.task("Delete", { id: "crash" })).exitStatus, 5);
    assert.match(await out.text, /^tick 0\ntick 1\n/);
    assert.equal(/tick (\d+)\n(?!tick)/.test(`${out.sofar()}`), true);
    await eventually("exit is published", () => driver.topics("crash").includes("exit"));
  },
);

test("R2: what ends while no server is there has its true exit, and it is published", limit, async () => {
  const shim = await shimOf("meanwhile");
  const { pid } = await ticking(shim, "meanwhile");
  process.kill(shim.monitor, "SIGSTOP"); // so that no new server comes before the container has ended
  process.kill(shim.server, "SIGKILL");
  await eventually("the server is gone", () => !alive(shim.server));
  const pidfd = native().pidfdOpen({ pid })!;
  native().signal({ pidfd, signal: 15 });
  fs.closeSync(pidfd);
  await eventually("the container ends", () => !alive(pid));
  process.kill(shim.monitor, "SIGCONT");
  await shim.reconnect();
  const state = (await shim.task("State", { id: "meanwhile" })) as State;
  assert.deepEqual([state.status, state.exitStatus], [STOPPED, 5]);
  const exit = await shim.task("Wait", { id: "meanwhile" });
  assert.equal(exit.exitStatus, 5);
  assert.ok(nanosecondsOf(exit.exitedAt)! > 0n);
  await eventually("exit is published", () => driver.topics("meanwhile").includes("exit"));
  assert.equal((await shim.task("Delete", { id: "meanwhile" })).exitStatus, 5);
});

test(
  "R3: a container that was created before the crash starts after it; a bad one still says why",
  limit,
  async () => {
    const shim = await shimOf("gate");
    const bundle = driver.spec("gate", "exit 8");
    await shim.task("Create", { id: "gate", bundle });
    process.kill(shim.server, "SIGKILL");
    await shim.reconnect();
    assert.equal(((await shim.task("State", { id: "gate" })) as State).status, 1);
    await shim.task("Start", { id: "gate" });
    assert.equal((await shim.task("Wait", { id: "gate" })).exitStatus, 8);
    await shim.task("Delete", { id: "gate" });
  },
);

test("R3: a restarted server whose containers are gone ends within seconds", limit, async () => {
  const shim = await shimOf("ends");
  process.kill(shim.server, "SIGKILL");
  await shim.client.closed;
  await eventually("a new server", async () => (await driver.processes(shim.address)) !== undefined);
  await eventually("the monitor ends", () => !alive(shim.monitor));
  assert.equal(fs.existsSync(shim.address.slice("unix://".length)), false);
});

test(
  "R2: kill -9 of the monitor: the server carries on, exits are right, and it cleans up alone",
  limit,
  async () => {
    const shim = await shimOf("alone");
    await ticking(shim, "alone");
    process.kill(shim.monitor, "SIGKILL");
    await eventually("the monitor is gone", () => !alive(shim.monitor));
    await shim.task("Exec", { id: "alone", execId: "e", spec: execSpec("exit 3") });
    await shim.task("Start", { id: "alone", execId: "e" });
    assert.equal((await shim.task("Wait", { id: "alone", execId: "e" })).exitStatus, 3);
    await shim.task("Kill", { id: "alone", signal: 15 });
    assert.equal((await shim.task("Wait", { id: "alone" })).exitStatus, 5);
    await shim.task("Delete", { id: "alone" });
    await shim.task("Shutdown", { id: "alone" });
    await eventually("the server ends", () => !alive(shim.server));
    assert.equal(fs.existsSync(shim.address.slice("unix://".length)), false, "no socket is left");
  },
);

test("R3: kill -9 of both: the container lives on and is found again by its cgroup", limit, async () => {
  const shim = await shimOf("both");
  const { pid, out } = await ticking(shim, "both");
  process.kill(shim.monitor, "SIGKILL");
  process.kill(shim.server, "SIGKILL");
  await shim.client.closed;
  await eventually("both are gone", () => !alive(shim.monitor) && !alive(shim.server));
  const seen = out.sofar().length;
  await eventually("it still ticks", () => out.sofar().length > seen);
  await shim.reconnect();
  const state = (await shim.task("State", { id: "both" })) as State;
  assert.deepEqual([state.status, state.pid], [RUNNING, pid]);
  await shim.task("Exec", { id: "both", execId: "e", spec: execSpec("exit 3") });
  await shim.task("Start", { id: "both", execId: "e" });
  assert.equal((await shim.task("Wait", { id: "both", execId: "e" })).exitStatus, 3);
  await shim.task("Kill", { id: "both", signal: 15 });
  assert.equal(
    (await shim.task("Wait", { id: "both" })).exitStatus,
    255,
    "its parent was init: nobody knows",
  );
  await shim.task("Delete", { id: "both" });
});

test("R3: a recorded pid that is somebody else by now is not taken for the container", limit, async () => {
  const shim = await shimOf("reused");
  const { pid } = await ticking(shim, "reused");
  process.kill(shim.monitor, "SIGKILL");
  process.kill(shim.server, "SIGKILL");
  await shim.client.closed;
  await eventually("both are gone", () => !alive(shim.monitor) && !alive(shim.server));
  process.kill(pid, "SIGKILL");
  const stranger = spawn("sleep", ["1000"]);
  const record = `${shim.address.slice("unix://".length)}.d/reused.json`;
  const text = fs.readFileSync(record, "utf8");
  fs.writeFileSync(record, text.replace(`"pid":${pid}`, `"pid":${stranger.pid}`));
  await shim.reconnect();
  assert.equal(((await shim.task("State", { id: "reused" })) as State).status, STOPPED);
  await assert.rejects(shim.task("Kill", { id: "reused", signal: 9 }), { code: "NOT_FOUND" });
  assert.ok(alive(stranger.pid!));
  stranger.kill();
  await shim.task("Delete", { id: "reused" });
});

test(
  "R3: SIGTERM ends server and monitor, the container lives; delete ends that one and no other",
  limit,
  async () => {
    const shim = await shimOf("term");
    const { pid } = await ticking(shim, "term");
    const other = await ticking(shim, "bystander");
    process.kill(shim.monitor, "SIGTERM");
    await eventually("both end", () => !alive(shim.monitor) && !alive(shim.server));
    assert.ok(alive(pid) && alive(other.pid));
    const response = await driver.delete("term");
    assert.equal(response.pid, pid);
    assert.equal(response.exitStatus, 137);
    await eventually("it is gone", () => !alive(pid));
    assert.ok(alive(other.pid), "delete -id X kills X and nothing else");
    assert.equal(fs.existsSync(`${driver.cgroup}/term`), false);
    assert.equal((await driver.delete("term")).exitStatus, 137, "idempotent");
    await shim.reconnect();
    assert.equal(((await shim.task("State", { id: "bystander" })) as State).status, RUNNING);
    await assert.rejects(shim.task("State", { id: "term" }), { code: "NOT_FOUND" });
    await shim.task("Kill", { id: "bystander", signal: 9 });
    await shim.task("Wait", { id: "bystander" });
    await shim.task("Delete", { id: "bystander" });
  },
);

test(
  "R3: delete beside a living server kills through it, tells the true exit, leaves the rest alone",
  limit,
  async () => {
    const shim = await shimOf("live");
    await ticking(shim, "live");
    const other = await ticking(shim, "neighbour");
    assert.equal((await driver.delete("live")).exitStatus, 137);
    await assert.rejects(shim.task("State", { id: "live" }), { code: "NOT_FOUND" });
    assert.ok(alive(other.pid));
    const bundle = driver.spec("done", "exit 4");
    await shim.task("Create", { id: "done", bundle });
    await shim.task("Start", { id: "done" });
    await shim.task("Wait", { id: "done" });
    assert.equal((await driver.delete("done")).exitStatus, 4, "the recorded exit, not 137");
    await driver.delete("neighbour");
  },
);

test(
  "R2: five crashes in a minute end the service; delete still tells what the monitor recorded",
  limit,
  async () => {
    const shim = await shimOf("loop");
    const { pid } = await ticking(shim, "loop");
    for (let server: number | undefined = shim.server, i = 0; i < 6; i++) {
      process.kill(server!, "SIGKILL");
      await eventually("it is gone", () => !alive(server!));
      if (i === 5) break;
      await eventually("the next one", async () => {
        server = (await driver.processes(shim.address))?.server;
        return server !== undefined;
      });
    }
    const socket = shim.address.slice("unix://".length);
    await eventually("the socket is gone", () => !fs.existsSync(socket));
    assert.ok(alive(pid), "the container lives");
    process.kill(pid, "SIGTERM");
    await eventually("its exit is recorded", () => fs.existsSync(`${socket}.d/loop.exit`));
    assert.equal((await driver.delete("loop")).exitStatus, 5);
    await sleep(50);
    assert.equal(fs.existsSync(`${socket}.d`), false);
  },
);
