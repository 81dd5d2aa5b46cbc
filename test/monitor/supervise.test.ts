import * as assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, test } from "node:test";
import { containerd } from "../../src/gen/shim";
import { nanosecondsOf } from "../../src/ttrpc";
import { eventually, Launcher, run, sleep } from "./launcher";

const launchers: Launcher[] = [];
async function started(id: string, env: Record<string, string> = {}) {
  const launcher = new Launcher();
  launchers.push(launcher);
  const { stdout, stderr } = await launcher.start(id, { env });
  assert.equal(stderr, "");
  const address = stdout.toString();
  return { launcher, address, socket: address.slice("unix://".length) };
}
after(async () => {
  for (const launcher of launchers) await launcher.close();
});

test("R2: a server that crashes is started again on the same socket", async () => {
  const { launcher, address } = await started("crash");
  const first = await launcher.serverPid(address);
  process.kill(first, "SIGKILL");
  await eventually("a new server", () => launcher.starts().length === 2);
  const second = await launcher.serverPid(address);
  assert.notEqual(second, first);
  assert.equal(launcher.starts()[0]?.["parent"], launcher.starts()[1]?.["parent"]);
  assert.ok((launcher.starts()[1]!["argv"] as string[]).includes("-restarted"));
});

test("R2: after five restarts in a minute the socket closes, so that drivers fall back to delete", async () => {
  const { launcher, socket } = await started("loop", { FIXTURE_CRASH: "1" });
  await eventually("the monitor gives up", () => launcher.starts().length === 6 && !fs.existsSync(socket));
  await sleep(100);
  assert.equal(launcher.starts().length, 6, "one start and five restarts");
});

test("a server that ends by itself takes socket, records and monitor with it", async () => {
  const { launcher, address, socket } = await started("done");
  await launcher.call(address, "Shutdown");
  const monitor = Number(launcher.starts()[0]?.["parent"]);
  await eventually("the monitor ends", () => !launcher.isOurs(monitor));
  assert.deepEqual(fs.readdirSync(path.dirname(socket)), []);
  const again = await launcher.start("done");
  assert.equal(again.stdout.toString(), address);
  await launcher.serverPid(address);
});

test("a client that comes while the server ends is served by a new one", async () => {
  const { launcher, address } = await started("race");
  const first = await launcher.serverPid(address);
  const pause = launcher.call(address, "Pause").catch(() => {});
  await sleep(100);
  const second = await launcher.serverPid(address); // waited in the backlog of the one that was ending
  await pause;
  assert.notEqual(second, first);
});

test("R3: SIGTERM ends server and monitor and removes the socket, records stay", async () => {
  const { launcher, address, socket } = await started("term");
  const server = await launcher.serverPid(address);
  fs.writeFileSync(`${socket}.d/term.json`, "{}");
  const monitor = Number(launcher.starts()[0]?.["parent"]);
  process.kill(monitor, "SIGTERM");
  await eventually("both end", () => !launcher.isOurs(monitor) && !launcher.isOurs(server));
  assert.equal(fs.existsSync(socket), false);
  assert.deepEqual(fs.readdirSync(`${socket}.d`), ["term.json"]);
});

test("R2: without its monitor the server carries on; killed both, start makes a new pair", async () => {
  const { launcher, address } = await started("both");
  const server = await launcher.serverPid(address);
  const monitor = Number(launcher.starts()[0]?.["parent"]);
  process.kill(monitor, "SIGKILL");
  await eventually("the monitor is gone", () => !launcher.isOurs(monitor));
  assert.equal(await launcher.serverPid(address), server);
  assert.equal((await launcher.start("both")).stdout.toString(), address, "still the same server");
  process.kill(server, "SIGKILL");
  // A dying process loses its name before its sockets.
  await eventually("the socket is dead", () =>
    launcher.serverPid(address).then(
      () => false,
      () => true,
    ),
  );
  assert.equal((await launcher.start("both")).stdout.toString(), address, "the dead socket was replaced");
  assert.notEqual(await launcher.serverPid(address), server);
});

const remove = async (launcher: Launcher, id: string) => {
  const { status, stdout, stderr } = await run(
    launcher.monitor,
    launcher.args(id, "-bundle", launcher.bundle(id), "delete"),
    { cwd: launcher.bundle(id) },
  );
  assert.equal(stderr, "");
  assert.equal(status, 0);
  return containerd.task.v3.DeleteResponse.decode(stdout);
};

test("delete goes through a living server and tells the exit that it knows", async () => {
  const { launcher, address, socket } = await started("live");
  await launcher.serverPid(address);
  fs.writeFileSync(`${socket}.d/live.json`, "{}");
  const response = await remove(launcher, "live");
  assert.deepEqual([response.pid, response.exitStatus], [42, 7]);
  assert.equal(nanosecondsOf(response.exitedAt), 1_700_000_000_000_000_005n);
  assert.deepEqual(
    launcher.notes().filter((note) => "kill" in note || "delete" in note),
    [{ kill: "live", signal: 9, all: true }, { delete: "live" }],
  );
});

test("R3: delete of an unknown id touches nothing and answers 137, twice", async () => {
  const { launcher, address } = await started("bystander");
  const before = await launcher.serverPid(address);
  for (const _ of [1, 2]) {
    const response = await remove(launcher, "stranger");
    assert.equal(response.exitStatus, 137);
    assert.ok(Math.abs(Number(nanosecondsOf(response.exitedAt)! / 1_000_000n) - Date.now()) < 60_000);
  }
  assert.equal(await launcher.serverPid(address), before);
  assert.deepEqual(
    launcher.notes().filter((note) => "kill" in note),
    [],
  );
});

test("R3: without a server, delete goes by the records: true exit told, that id's files removed, no other's", async () => {
  const { launcher, address, socket } = await started("gone");
  const server = await launcher.serverPid(address);
  const records = `${socket}.d`;
  const write = (name: string, content: object): void =>
    fs.writeFileSync(path.join(records, name), JSON.stringify(content));
  write("gone.json", { version: 1, kind: "container", id: "gone", pid: 4_000_000, cgroup: "/nonexistent" });
  write("gone.exit", { status: 3, exitedAt: "1700000000000000001" });
  write("gone@e1.json", { kind: "exec" });
  write("gone.too.json", { version: 1, kind: "container", id: "gone.too", pid: 1, cgroup: "/" });
  const monitor = Number(launcher.starts()[0]?.["parent"]);
  for (const pid of [monitor, server]) process.kill(pid, "SIGKILL");
  await eventually("both are gone", () => !launcher.isOurs(monitor) && !launcher.isOurs(server));
  const response = await remove(launcher, "gone");
  assert.deepEqual([response.pid, response.exitStatus], [4_000_000, 3]);
  assert.equal(nanosecondsOf(response.exitedAt), 1_700_000_000_000_000_001n);
  assert.deepEqual(fs.readdirSync(records), ["gone.too.json"]);
});
