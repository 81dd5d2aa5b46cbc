import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { native } from "../../src/native";
import { containerRuntime } from "../../src/runtime";
import { cgroupParent, collect, containerOptions, KeptFds, runtimeOf } from "./fixture";
import { processOf, specOf } from "./specs";

/**
 * A server's end without its end: a second runtime takes up what the first one's state directory and the
 * kept fds tell. Processes are this process's children all the while, so it also plays the monitor that
 * reaps them: the first runtime is still watching.
 */
test("R2: records and kept fds are enough to go on with running containers", async () => {
  const store = new KeptFds();
  const { runtime, stateDir } = runtimeOf({ store, dieWithParent: false });
  const id = `r${process.pid}`;
  const pod = await runtime.sandbox({ id, cgroupsPath: `${cgroupParent}/${id}`, extra: { pod: 1 } });
  const running = containerOptions(specOf(["/bin/sh", "-c", "read x; echo got $x; exit 5"]), { stdin: true });
  const waiting = containerOptions(specOf(["/bin/sh", "-c", "exit 6"]));
  const ended = containerOptions(specOf(["/bin/sh", "-c", "exit 7"]));
  const alone = containerOptions(specOf(["/bin/sleep", "100"]));
  const first = await pod.create(running);
  await first.start();
  const exec = first.exec({ id: "e", process: processOf(["/bin/sleep", "100"]), stdio: {} });
  await exec.start();
  first.exec({ id: "later", process: processOf(["/bin/sh", "-c", "exit 8"]), stdio: {} });
  await pod.create(waiting);
  const over = await pod.create(ended);
  await over.start();
  await over.exited;
  const implicit = await runtime.sandbox({ id: alone.id, implicit: true });
  await (await implicit.create(alone)).start();

  const kept = new KeptFds();
  const second = containerRuntime({ stateDir, store: kept, dieWithParent: false });
  const sandboxes = await second.recover({ fds: store.handOver(), exits: [] });
  assert.deepEqual(sandboxes.map((sandbox) => sandbox.id).sort(), [id, alone.id].sort());
  const found = sandboxes.find((sandbox) => sandbox.id === id)!;
  assert.deepEqual(found.extra, { pod: 1 });
  assert.equal(found.pid, pod.pid);
  const states = [...found.containers.values()].map((container) => [container.id, container.state]).sort();
  assert.deepEqual(
    states,
    [
      [running.id, "running"],
      [waiting.id, "created"],
      [ended.id, "stopped"],
    ].sort(),
  );
  assert.equal(found.containers.get(ended.id)?.exit?.status, 7);

  const again = found.containers.get(running.id)!;
  assert.equal(again.execs.get("e")?.state, "running");
  const later = again.execs.get("later")!;
  await later.start();
  assert.equal((await later.exited).status, 8);
  const output = collect(running.fifo("stdout"));
  fs.writeFileSync(running.fifo("stdin"), "it\n");
  assert.equal((await again.exited).status, 5);
  assert.equal(await output, "got it\n");

  const late = found.containers.get(waiting.id)!;
  await late.start();
  assert.equal((await late.exited).status, 6);
  for (const sandbox of sandboxes) await sandbox.destroy();
  assert.deepEqual(fs.readdirSync(stateDir), []);
});

test("what was being made when the server ended is taken down", async () => {
  const { stateDir } = runtimeOf();
  const cgroup = path.join(native().features().cgroupRoot, cgroupParent, "half");
  fs.mkdirSync(cgroup, { recursive: true });
  const record = {
    version: 1,
    kind: "container",
    id: "half",
    pid: 0,
    createdAt: "0",
    bundle: "/",
    cgroup,
    stdio: {},
  };
  fs.writeFileSync(path.join(stateDir, "half.json"), JSON.stringify(record));
  const warnings: string[] = [];
  const runtime = containerRuntime({ stateDir, warn: (message) => void warnings.push(message) });
  assert.deepEqual(await runtime.recover({ fds: {}, exits: [] }), []);
  assert.equal(fs.existsSync(cgroup), false);
  assert.deepEqual(fs.readdirSync(stateDir), []);
  assert.match(warnings.join(), /taking down/);
});

test("a torn record is named, left alone, and hides no other", async () => {
  const { stateDir } = runtimeOf();
  fs.writeFileSync(path.join(stateDir, "torn.json"), '{"version": 1, ');
  fs.writeFileSync(path.join(stateDir, "new.json"), '{"version": 99}');
  const warnings: unknown[] = [];
  const runtime = containerRuntime({
    stateDir,
    warn: (_message, fields) => void warnings.push(fields?.["file"]),
  });
  assert.deepEqual(await runtime.recover({ fds: {}, exits: [] }), []);
  assert.equal(warnings.length, 2);
  assert.deepEqual(fs.readdirSync(stateDir).sort(), ["new.json", "torn.json"]);
});

test("a process that ended while nobody watched, and left no record, has status 255", async () => {
  const { stateDir } = runtimeOf();
  const cgroup = path.join(native().features().cgroupRoot, cgroupParent, "lost");
  const record = {
    version: 1,
    kind: "container",
    id: "lost",
    pid: 999999,
    createdAt: "0",
    bundle: "/",
    cgroup,
    stdio: {},
  };
  fs.writeFileSync(path.join(stateDir, "lost.json"), JSON.stringify(record));
  const [sandbox] = await containerRuntime({ stateDir }).recover({ fds: {}, exits: [] });
  assert.equal((await sandbox!.exited).status, 255);
  await sandbox!.destroy();
  assert.deepEqual(fs.readdirSync(stateDir), []);
});

test("an exit that the monitor saw is the one", async () => {
  const { stateDir } = runtimeOf();
  const cgroup = path.join(native().features().cgroupRoot, cgroupParent, "seen");
  const record = {
    version: 1,
    kind: "container",
    id: "seen",
    pid: 999999,
    createdAt: "0",
    bundle: "/",
    cgroup,
    stdio: {},
  };
  fs.writeFileSync(path.join(stateDir, "seen.json"), JSON.stringify(record));
  const exits = [{ id: "seen", status: 42, exitedAt: 7n }];
  const [sandbox] = await containerRuntime({ stateDir }).recover({ fds: {}, exits });
  assert.deepEqual(await sandbox!.exited, { id: "seen", status: 42, exitedAt: 7n });
  await sandbox!.destroy();
});
