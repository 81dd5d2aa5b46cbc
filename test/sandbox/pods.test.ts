import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { Index } from "../../src/sandbox/names";
import { openStore } from "../../src/sandbox/store";
import { type Bench, containerConfig, open, runPodRequest } from "./doubles";

/** A pod with a created container; its log in the bench's directory. */
async function created(bench: Bench): Promise<{ pod: string; container: string }> {
  const pod = await bench.pods.run(runPodRequest({ logDirectory: bench.logs }));
  const container = await bench.pods.create(pod, containerConfig({ logPath: "main/0.log" }));
  return { pod, container };
}

async function running(bench: Bench): Promise<{ pod: string; container: string }> {
  const ids = await created(bench);
  await bench.pods.start(ids.container);
  return ids;
}

async function until(what: string, condition: () => boolean): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.fail(`not within 5 s: ${what}`);
}

const stateFiles = (bench: Bench) =>
  fs.readdirSync(path.join(bench.dir, "state", "pods"), { recursive: true });

test("a pod and its container through their whole life; nothing is left", async (t) => {
  const bench = await open(t);
  const { pod, container } = await created(bench);
  const { pods } = bench;
  const view = pods.get(pod);
  assert.equal(view.ready, true);
  assert.deepEqual(view.ips, ["10.9.8.7"]);
  assert.equal(pods.getContainer(container).state, "created");
  assert.equal(pods.getContainer(container).startedAt, 0n);
  await pods.start(container);
  assert.equal(pods.getContainer(container).state, "running");
  bench.task().say("hello\nworld");
  bench.task().say("oops\n", "stderr");
  bench.task().end(3);
  await until("exited", () => pods.getContainer(container).state === "exited");
  const ended = pods.getContainer(container);
  assert.equal(ended.exitCode, 3);
  assert.equal(ended.reason, "Error");
  assert.ok(ended.finishedAt >= ended.createdAt);
  const log = fs.readFileSync(path.join(bench.logs, "main/0.log"), "utf8");
  assert.match(log, /^\S+ stdout F hello$/m);
  assert.match(log, /^\S+ stdout [PF] world$/m);
  assert.match(log, /^\S+ stderr F oops$/m);
  await pods.stop(pod);
  assert.equal(pods.get(pod).ready, false);
  assert.deepEqual(pods.get(pod).ips, []);
  await pods.remove(pod);
  assert.throws(() => pods.get(pod), { code: "NOT_FOUND" });
  assert.throws(() => pods.getContainer(container), { code: "NOT_FOUND" });
  assert.deepEqual(bench.world.left(), []);
  assert.deepEqual(stateFiles(bench), []);
  const again = await bench.reopen();
  assert.deepEqual(again.list({}), []);
});

for (const step of ["netns create", "network add", "sandbox create"])
  test(`RunPodSandbox: "${step}" fails, nothing is left, and a retry succeeds`, async (t) => {
    const bench = await open(t);
    bench.world.failing.add(step);
    await assert.rejects(bench.pods.run(runPodRequest()), new RegExp(`${step}: injected`));
    assert.deepEqual(bench.world.left(), []);
    assert.deepEqual(stateFiles(bench), []);
    assert.deepEqual(bench.pods.list({}), []);
    bench.world.failing.clear();
    await bench.pods.run(runPodRequest());
    assert.equal(bench.pods.list({ ready: true }).length, 1);
  });

test("RunPodSandbox whose undo fails too keeps the pod, NOTREADY, until it can be removed", async (t) => {
  const bench = await open(t);
  for (const step of ["sandbox create", "network del"]) bench.world.failing.add(step);
  await assert.rejects(bench.pods.run(runPodRequest()), /sandbox create: injected/);
  const [kept] = bench.pods.list({});
  assert.equal(kept?.ready, false);
  await assert.rejects(bench.pods.run(runPodRequest()), new RegExp(`is reserved for ${kept!.id}`));
  const pods = await bench.reopen();
  await assert.rejects(pods.remove(kept!.id), /network del: injected/);
  bench.world.failing.clear();
  await pods.remove(kept!.id);
  assert.deepEqual(bench.world.left(), []);
  await pods.run(runPodRequest());
});

for (const step of ["snapshot prepare", "task create"])
  test(`CreateContainer: "${step}" fails, nothing is left, and a retry succeeds`, async (t) => {
    const bench = await open(t);
    const pod = await bench.pods.run(runPodRequest({ logDirectory: bench.logs }));
    const before = [bench.world.left(), stateFiles(bench)];
    bench.world.failing.add(step);
    const config = containerConfig({ logPath: "main/0.log" });
    await assert.rejects(bench.pods.create(pod, config), new RegExp(`${step}: injected`));
    assert.deepEqual([bench.world.left(), stateFiles(bench)], before);
    assert.equal(fs.existsSync(path.join(bench.logs, "main/0.log")), false);
    assert.deepEqual(bench.pods.listContainers({}), []);
    bench.world.failing.clear();
    const id = await bench.pods.create(pod, config);
    assert.equal(bench.pods.getContainer(id).state, "created");
  });

test("StartContainer that cannot execute: EXITED, 128, StartError, and the error passes through", async (t) => {
  const bench = await open(t);
  const { container } = await created(bench);
  bench.world.failing.add("task start");
  await assert.rejects(bench.pods.start(container), /task start: injected/);
  const view = bench.pods.getContainer(container);
  assert.deepEqual([view.state, view.exitCode, view.reason], ["exited", 128, "StartError"]);
  assert.match(view.message, /task start: injected/);
  await assert.rejects(bench.pods.start(container), /CONTAINER_EXITED/);
});

test("an equal request joins the one in flight, and gets what it made afterwards", async (t) => {
  const bench = await open(t);
  const release = bench.world.hold("sandbox create");
  const both = Promise.all([bench.pods.run(runPodRequest()), bench.pods.run(runPodRequest())]);
  await until("the first is under way", () => bench.world.journal.includes("sandbox create"));
  await assert.rejects(bench.pods.run(runPodRequest({ hostname: "other" })), /is reserved for/);
  assert.deepEqual(bench.pods.list({}), []);
  release();
  const [first, second] = await both;
  assert.equal(first, second);
  assert.equal(await bench.pods.run(runPodRequest()), first);
  assert.equal(bench.world.journal.filter((step) => step === "sandbox create").length, 1);
  const ids = await Promise.all([
    bench.pods.create(first, containerConfig()),
    bench.pods.create(first, containerConfig()),
  ]);
  assert.equal(ids[0], ids[1]);
  await bench.pods.start(ids[0]);
  await assert.rejects(bench.pods.create(first, containerConfig()), /is reserved for/);
});

test("the name of a stopped pod stays taken until it is removed", async (t) => {
  const bench = await open(t);
  const pod = await bench.pods.run(runPodRequest());
  await bench.pods.stop(pod);
  await assert.rejects(bench.pods.run(runPodRequest()), { code: "ALREADY_EXISTS" });
  await bench.pods.remove(pod);
  assert.notEqual(await bench.pods.run(runPodRequest()), pod);
});

test("stop: the signal once, later calls only shorten, then SIGKILL", async (t) => {
  const bench = await open(t);
  const { container } = await running(bench);
  const task = bench.task();
  const first = bench.pods.stopContainer(container, 3600);
  const second = bench.pods.stopContainer(container, 7200);
  await until("signalled", () => task.kills.length === 1);
  assert.deepEqual(task.kills, [15]);
  const third = bench.pods.stopContainer(container, 0);
  await Promise.all([first, second, third]);
  assert.deepEqual(task.kills, [15, 9]);
  const view = bench.pods.getContainer(container);
  assert.deepEqual([view.state, view.exitCode], ["exited", 137]);
  await bench.pods.stopContainer(container, 0);
  await bench.pods.stopContainer("unknown", 0);
});

test("stop: the container's own signal, and no SIGKILL if it ends in time", async (t) => {
  const bench = await open(t);
  const pod = await bench.pods.run(runPodRequest());
  const container = await bench.pods.create(pod, containerConfig({ stopSignal: "SIGRTMIN+3" }));
  await bench.pods.start(container);
  const task = bench.task();
  const stop = bench.pods.stopContainer(container, 3600);
  await until("signalled", () => task.kills.length === 1);
  task.end(0);
  await stop;
  assert.deepEqual(task.kills, [37]);
  assert.equal(bench.pods.getContainer(container).reason, "Completed");
});

test("an OOM kill is read before the task, and with it the cgroup, is deleted", async (t) => {
  const bench = await open(t);
  const { container } = await running(bench);
  bench.world.oomKills = 1n;
  bench.task().end(137);
  await until("exited", () => bench.pods.getContainer(container).state === "exited");
  assert.equal(bench.pods.getContainer(container).reason, "OOMKilled");
  const { journal } = bench.world;
  assert.ok(journal.indexOf("task stats") < journal.indexOf("task delete"));
});

test("a DEL that fails fails StopPodSandbox; the next one does what is owed, once", async (t) => {
  const bench = await open(t);
  const pod = await bench.pods.run(runPodRequest());
  bench.world.failing.add("network del");
  await assert.rejects(bench.pods.stop(pod), /network del: injected/);
  assert.equal(bench.pods.get(pod).ready, false);
  assert.equal(bench.world.namespaces.size, 1);
  bench.world.failing.clear();
  const pods = await bench.reopen();
  await pods.stop(pod);
  assert.deepEqual([bench.world.attached.size, bench.world.namespaces.size], [0, 0]);
  await pods.stop(pod);
  await pods.stop("unknown");
  assert.equal(bench.world.journal.filter((step) => step === "network del").length, 2);
});

test("nothing begins in a pod that is stopped", async (t) => {
  const bench = await open(t);
  const { pod, container } = await created(bench);
  await bench.pods.stop(pod);
  const another = containerConfig({ metadata: { name: "main", attempt: 1 } });
  await assert.rejects(bench.pods.create(pod, another), { code: "FAILED_PRECONDITION" });
  await assert.rejects(bench.pods.start(container), { code: "FAILED_PRECONDITION" });
});

test("the end of the sandbox makes the pod NOTREADY", async (t) => {
  const bench = await open(t);
  const pod = await bench.pods.run(runPodRequest());
  bench.world.sandboxes.get(pod)?.end();
  await until("not ready", () => !bench.pods.get(pod).ready);
  await bench.pods.remove(pod);
  assert.deepEqual(bench.world.left(), []);
});

test("removal of a running container kills it; calls at once join", async (t) => {
  const bench = await open(t);
  const { container } = await running(bench);
  const task = bench.task();
  await Promise.all([bench.pods.removeContainer(container), bench.pods.removeContainer(container)]);
  assert.deepEqual(task.kills, [9]);
  assert.deepEqual(bench.pods.listContainers({}), []);
  await bench.pods.removeContainer(container);
});

test("restart: containers run on, logs continue, exits meanwhile are told with their true codes", async (t) => {
  const bench = await open(t);
  const { pod, container } = await running(bench);
  const task = bench.task();
  task.say("before\n");
  await bench.pods.close();
  task.say("while nobody reads\n");
  const pods = await bench.reopen();
  assert.equal(pods.get(pod).ready, true);
  assert.deepEqual(pods.get(pod).ips, ["10.9.8.7"]);
  assert.equal(pods.getContainer(container).state, "running");
  task.say("after\n");
  const log = () => fs.readFileSync(path.join(bench.logs, "main/0.log"), "utf8");
  await until("the log goes on", () => log().includes("after"));
  assert.deepEqual(
    log()
      .trim()
      .split("\n")
      .map((line) => line.split(" ").slice(3).join(" ")),
    ["before", "while nobody reads", "after"],
  );
  await pods.close();
  task.end(42);
  const next = await bench.reopen();
  const view = next.getContainer(container);
  assert.deepEqual([view.state, view.exitCode, view.reason], ["exited", 42, "Error"]);
  // And that is on record.
  assert.equal((await bench.reopen()).getContainer(container).exitCode, 42);
  await assert.rejects(bench.pods.run(runPodRequest()), /is reserved for/, "other log directory");
  assert.equal(await bench.pods.run(runPodRequest({ logDirectory: bench.logs })), pod);
});

test("restart: a pod whose shim is gone is NOTREADY, its containers EXITED 255", async (t) => {
  const bench = await open(t);
  const { pod, container } = await running(bench);
  bench.world.sandboxes.delete(pod);
  const pods = await bench.reopen();
  assert.equal(pods.get(pod).ready, false);
  const view = pods.getContainer(container);
  assert.deepEqual([view.state, view.exitCode, view.reason], ["exited", 255, "Unknown"]);
  await pods.remove(pod);
  assert.deepEqual(bench.world.left(), []);
});

test("restart: a shim that cannot be reached leaves containers UNKNOWN, and is asked again to stop", async (t) => {
  const bench = await open(t);
  const { pod, container } = await running(bench);
  bench.world.failing.add("sandbox reconnect");
  const pods = await bench.reopen();
  assert.equal(pods.get(pod).ready, false);
  assert.equal(pods.getContainer(container).state, "unknown");
  bench.world.failing.clear();
  await pods.remove(pod);
  assert.ok(bench.world.journal.includes("sandbox stop"));
  assert.deepEqual(
    bench.world.left().filter((left) => left !== container),
    [],
  );
});

test("restart: orphan snapshots and half-made pods go, with their network", async (t) => {
  const bench = await open(t);
  const pod = await bench.pods.run(runPodRequest());
  // A daemon killed in the middle: the sandbox file is the last thing that is written.
  fs.rmSync(path.join(bench.dir, "state", "pods", pod, "sandbox.json"));
  fs.mkdirSync(path.join(bench.dir, "state", "pods", "e".repeat(64)));
  bench.world.snapshots.set("f".repeat(64), { key: "", mounts: [], upper: "" });
  const pods = await bench.reopen();
  assert.deepEqual(pods.list({}), []);
  assert.deepEqual(bench.world.left(), []);
  assert.deepEqual(stateFiles(bench), []);
  await pods.run(runPodRequest());
});

test("restart: a half-made container goes with its task and snapshot", async (t) => {
  const bench = await open(t);
  const { pod, container } = await created(bench);
  const dir = path.join(bench.dir, "state", "pods", pod, "d".repeat(64));
  fs.mkdirSync(dir);
  bench.world.snapshots.set("d".repeat(64), { key: "", mounts: [], upper: "" });
  const pods = await bench.reopen();
  assert.equal(fs.existsSync(dir), false);
  assert.deepEqual([...bench.world.snapshots.keys()], [container]);
  assert.equal(pods.getContainer(container).state, "created");
  await pods.start(container);
});

test("a new boot: everything has ended, addresses are given back first, then pods can be removed", async (t) => {
  const bench = await open(t);
  const { pod, container } = await running(bench);
  await bench.pods.close();
  const store = openStore(path.join(bench.dir, "root", "pods"));
  await store.setBootId("an earlier one");
  await store.close();
  bench.world.sandboxes.clear();
  bench.world.namespaces.clear();
  const pods = await bench.reopen();
  assert.equal(pods.get(pod).ready, false);
  assert.equal(bench.world.attached.size, 0);
  const view = pods.getContainer(container);
  assert.deepEqual([view.state, view.exitCode, view.reason], ["exited", 255, "Unknown"]);
  await pods.remove(pod);
  assert.deepEqual(bench.world.left(), []);
});

test("lists: prefixes, states and labels; unknown ids give nothing; ambiguous ones are refused", async (t) => {
  const bench = await open(t);
  const { pod, container } = await created(bench);
  const other = await bench.pods.run(
    runPodRequest({ metadata: { name: "b", uid: "2", namespace: "n", attempt: 0 }, labels: { app: "b" } }),
  );
  const { pods } = bench;
  assert.equal(pods.get(pod.slice(0, 20)).id, pod);
  assert.deepEqual(pods.list({ id: "none" }), []);
  assert.deepEqual(
    pods.list({ labels: { app: "b" } }).map(({ id }) => id),
    [other],
  );
  assert.deepEqual(pods.list({ ready: false }), []);
  assert.equal(pods.listContainers({ podId: pod, state: "created" }).length, 1);
  assert.deepEqual(pods.listContainers({ podId: other }), []);
  assert.deepEqual(pods.listContainers({ id: container.slice(0, 20), labels: { no: "such" } }), []);
  const index = new Index<number>("thing");
  index.set("aa1", 1);
  index.set("aa2", 2);
  assert.throws(() => index.get("aa"), { code: "INVALID_ARGUMENT", message: /ambiguous/ });
  assert.equal(index.get("aa2"), 2);
});

test("ExecSync past its time: killed, DEADLINE_EXCEEDED, and nothing of it is left", async (t) => {
  const bench = await open(t);
  const { container } = await running(bench);
  const before = stateFiles(bench);
  await assert.rejects(bench.pods.execSync(container, ["sleep", "9"], 0.05), {
    code: "DEADLINE_EXCEEDED",
    message: /timed out/,
  });
  assert.ok(bench.world.journal.includes("exec delete"));
  assert.deepEqual(stateFiles(bench), before);
  await assert.rejects(bench.pods.execSync(container, [], 1), /cmd: \[\]: required/);
});

test("ReopenContainerLog goes on in a new file; only running containers have one to reopen", async (t) => {
  const bench = await open(t);
  const { container } = await created(bench);
  await assert.rejects(bench.pods.reopenLog(container), /CONTAINER_CREATED/);
  await bench.pods.start(container);
  const file = path.join(bench.logs, "main/0.log");
  bench.task().say("one\n");
  await until("logged", () => fs.readFileSync(file, "utf8").includes("one"));
  fs.renameSync(file, `${file}.1`);
  await bench.pods.reopenLog(container);
  bench.task().say("two\n");
  await until("logged anew", () => fs.readFileSync(file, "utf8").includes("two"));
  assert.equal(fs.readFileSync(`${file}.1`, "utf8").includes("two"), false);
});
