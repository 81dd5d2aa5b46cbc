import * as assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import type { containerd, google } from "../../src/gen/shim";
import { io } from "../../src/gen/shim";
import { native } from "../../src/native";
import { type Client, nanosecondsOf } from "../../src/ttrpc";
import { eventually } from "../monitor/launcher";
import { capability } from "../support/capabilities";
import { needs } from "../support/needs";
import { Driver, execSpec, TASK } from "./harness";

type State = containerd.task.v3.StateResponse.$Shape;
const STATUS = { created: 1, running: 2, stopped: 3, paused: 4 };
const limit = { timeout: 60_000 };
const withMemory = { timeout: 600_000, ...needs(capability("cgroup2:memory")) };
const withHugetlb = { ...limit, ...needs(capability("cgroup2:hugetlb")) };

let driver: Driver;
let client: Client;
before(async () => {
  driver = await Driver.open();
  client = await driver.connect(await driver.start("all", "node"));
}, limit);
after(async () => {
  client?.close();
  await driver?.close();
}, limit);

// biome-ignore lint/suspicious/noExplicitAny: answers of many methods
const task = (method: string, request: object, service = TASK): Promise<any> =>
  client.call(service, method, request);
const create = (id: string, more: object = {}, service = TASK): Promise<{ pid: number }> =>
  task("Create", { id, bundle: driver.bundle(id), ...more }, service);
const code = (wanted: string) => (error: { code?: string }) => error.code === wanted;

for (const service of ["containerd.task.v2.Task", TASK]) {
  test(`a whole life by ${service}`, limit, async () => {
    const id = service.includes("v2") ? "life2" : "life3";
    driver.spec(id, "echo out; echo err >&2; exit 7");
    const [stdout, stderr] = [driver.fifo(id, "out"), driver.fifo(id, "err")];
    const { pid } = await create(id, { stdout: stdout.path, stderr: stderr.path }, service);
    assert.ok(pid > 0);
    const state = (await task("State", { id }, service)) as State;
    assert.equal(state.status, STATUS.created);
    assert.equal(state.stdout, stdout.path);
    assert.equal(nanosecondsOf(state.exitedAt), undefined, "year 1 while it has not ended");
    assert.equal(Number(state.exitedAt?.seconds), -62_135_596_800);
    const waiting = task("Wait", { id }, service); // before the start
    assert.deepEqual((await task("Start", { id }, service)).pid, pid);
    const exit = await waiting;
    assert.equal(exit.exitStatus, 7);
    assert.ok(nanosecondsOf(exit.exitedAt)! > 1_700_000_000_000_000_000n);
    assert.deepEqual(await task("Wait", { id }, service), exit, "again, after the end");
    const ended = (await task("State", { id }, service)) as State;
    assert.deepEqual([ended.status, ended.exitStatus], [STATUS.stopped, 7]);
    assert.equal((await task("Connect", { id }, service)).taskPid, pid);
    const deleted = await task("Delete", { id }, service);
    assert.deepEqual([deleted.pid, deleted.exitStatus], [pid, 7]);
    assert.deepEqual([await stdout.text, await stderr.text], ["out\n", "err\n"]);
    await assert.rejects(task("Delete", { id }, service), code("NOT_FOUND"));
    await assert.rejects(task("State", { id }, service), code("NOT_FOUND"));
    assert.equal((await task("Connect", { id }, service)).taskPid, 0, "Connect answers for unknown ids");
    await eventually("the last event", () => driver.topics(id).includes("delete"));
    assert.deepEqual(driver.topics(id), ["create", "start", "exit", "delete"]);
    const event = driver.events.find(
      ({ topic, event: e }) => topic === "/tasks/exit" && e["id"] === id,
    )!.event;
    assert.deepEqual([event["pid"], event["exitStatus"]], [pid, 7]);
  });
}

test("events of execs: added, started, exit, and every exec's exit before init's", limit, async () => {
  const id = "execs";
  driver.spec(id, "sleep 1000");
  await create(id);
  await task("Start", { id });
  const out = driver.fifo(id, "e-out");
  await task("Exec", { id, execId: "short", stdout: out.path, spec: execSpec("echo $$ in; exit 4") });
  await assert.rejects(task("Exec", { id, execId: "short", spec: execSpec("true") }), code("ALREADY_EXISTS"));
  assert.equal(((await task("State", { id, execId: "short" })) as State).status, STATUS.created);
  await assert.rejects(task("Kill", { id, execId: "short", signal: 9 }), code("FAILED_PRECONDITION"));
  const { pid } = await task("Start", { id, execId: "short" });
  assert.ok(pid > 0);
  assert.equal((await task("Wait", { id, execId: "short" })).exitStatus, 4);
  assert.equal((await task("Delete", { id, execId: "short" })).exitStatus, 4);
  assert.match(await out.text, /^\d+ in\n$/);
  await task("Exec", { id, execId: "long", spec: execSpec("sleep 1000") });
  const started = await task("Start", { id, execId: "long" });
  const { processes } = (await task("Pids", { id })) as containerd.task.v3.PidsResponse.$Shape;
  assert.equal(processes?.length, 2);
  const named = processes?.find((found) => found.pid === started.pid);
  assert.equal((named!.info as google.protobuf.Any.$Shape).type_url, "containerd.runc.v1.ProcessDetails");
  await task("Kill", { id, signal: 9, all: true });
  assert.equal((await task("Wait", { id })).exitStatus, 137);
  assert.equal((await task("Wait", { id, execId: "long" })).exitStatus, 137);
  await assert.rejects(task("Start", { id, execId: "none" }), code("NOT_FOUND"));
  await assert.rejects(
    task("Exec", { id, execId: "late", spec: execSpec("true") }),
    code("FAILED_PRECONDITION"),
  );
  await task("Delete", { id });
  await eventually("the last event", () => driver.topics(id).includes("delete"));
  assert.deepEqual(driver.topics(id), [
    "create",
    "start",
    "exec-added short",
    "exec-started short",
    "exit short",
    "exec-added long",
    "exec-started long",
    "exit long",
    "exit",
    "delete",
  ]);
});

test(
  "without a pid namespace init's end takes the execs along, and their exits come first",
  limit,
  async () => {
    const id = "shared";
    driver.spec(id, "sleep 1000", { pid: "host" });
    await create(id);
    await task("Start", { id });
    await task("Exec", { id, execId: "e", spec: execSpec("sleep 1000") });
    await task("Start", { id, execId: "e" });
    await task("Kill", { id, signal: 15 });
    await task("Wait", { id });
    assert.equal((await task("Wait", { id, execId: "e" })).exitStatus, 137);
    await task("Delete", { id });
    await eventually("the last event", () => driver.topics(id).includes("delete"));
    assert.deepEqual(driver.topics(id).slice(-3), ["exit e", "exit", "delete"]);
  },
);

test("an exec that cannot start stays created, its Wait returns and its Delete works", limit, async () => {
  const id = "badexec";
  driver.spec(id, "sleep 1000");
  await create(id);
  await task("Start", { id });
  const spec = execSpec("");
  spec.value = Buffer.from(JSON.stringify({ args: ["/nonexistent"], cwd: "/", user: { uid: 0, gid: 0 } }));
  await task("Exec", { id, execId: "e", spec });
  const waiting = task("Wait", { id, execId: "e" });
  await assert.rejects(task("Start", { id, execId: "e" }), /nonexistent/);
  assert.equal((await waiting).exitStatus ?? 0, 0);
  assert.equal(((await task("State", { id, execId: "e" })) as State).status, STATUS.created);
  await task("Delete", { id, execId: "e" });
  await task("Kill", { id, signal: 9 });
  await task("Wait", { id });
  await task("Delete", { id });
});

test("a terminal: input, output, size", limit, async () => {
  const id = "tty";
  driver.spec(id, "read line; stty size; echo got $line", { terminal: true });
  const out = driver.fifo(id, "out");
  const stdin = path.join(driver.bundle(id), "in");
  fs.rmSync(stdin, { force: true });
  native().makeFifo({ path: stdin, mode: 0o600 });
  await create(id, { terminal: true, stdin, stdout: out.path });
  await task("Start", { id });
  await task("ResizePty", { id, width: 101, height: 37 });
  const input = fs.openSync(stdin, fs.constants.O_WRONLY);
  fs.writeSync(input, "hello\n");
  assert.equal((await task("Wait", { id })).exitStatus ?? 0, 0);
  await task("Delete", { id });
  fs.closeSync(input);
  assert.match(await out.text, /37 101\r\ngot hello\r\n/);
});

test("closing stdin ends its reader; what was buffered is delivered", limit, async () => {
  const id = "stdin";
  driver.spec(id, "cat; echo end");
  const out = driver.fifo(id, "out");
  const stdin = path.join(driver.bundle(id), "in");
  native().makeFifo({ path: stdin, mode: 0o600 });
  await create(id, { stdin, stdout: out.path });
  await task("Start", { id });
  const input = fs.openSync(stdin, fs.constants.O_WRONLY);
  fs.writeSync(input, "kept\n");
  fs.closeSync(input);
  await task("CloseIO", { id, stdin: true });
  assert.equal((await task("Wait", { id })).exitStatus ?? 0, 0);
  await task("Delete", { id });
  assert.equal(await out.text, "kept\nend\n");
});

test("signals: status is 128 + n; a finished process is NOT_FOUND", limit, async () => {
  const id = "signals";
  driver.spec(id, "trap 'exit 9' TERM; while true; do sleep 0.05; done");
  await create(id);
  await task("Start", { id });
  await assert.rejects(task("Start", { id }), code("FAILED_PRECONDITION"));
  await assert.rejects(task("Delete", { id }), code("FAILED_PRECONDITION"));
  await new Promise((resolve) => setTimeout(resolve, 200)); // until the shell has its trap
  await task("Kill", { id, signal: 15 });
  assert.equal((await task("Wait", { id })).exitStatus, 9);
  await assert.rejects(task("Kill", { id, signal: 9 }), code("NOT_FOUND"));
  await task("Kill", { id, signal: 9, all: true }); // CRI sends this to tasks that have ended
  await task("Delete", { id });
});

test("pause and resume, for execs as well; in the wrong state they are refused", limit, async () => {
  const id = "pause";
  driver.spec(id, "sleep 1000");
  await create(id);
  await assert.rejects(task("Pause", { id }), code("FAILED_PRECONDITION"));
  await task("Start", { id });
  await task("Exec", { id, execId: "e", spec: execSpec("sleep 1000") });
  await task("Start", { id, execId: "e" });
  await task("Pause", { id });
  assert.equal(((await task("State", { id })) as State).status, STATUS.paused);
  assert.equal(((await task("State", { id, execId: "e" })) as State).status, STATUS.paused);
  await task("Resume", { id });
  assert.equal(((await task("State", { id })) as State).status, STATUS.running);
  await assert.rejects(task("Resume", { id }), code("FAILED_PRECONDITION"));
  await task("Kill", { id, signal: 9 });
  await task("Wait", { id });
  await task("Delete", { id });
  await eventually("the last event", () => driver.topics(id).includes("delete"));
  assert.deepEqual(
    driver.topics(id).filter((topic) => /paused|resumed/.test(topic)),
    ["paused", "resumed"],
  );
});

test("stats are the cgroup's, as a message that CRI takes", limit, async () => {
  const id = "stats";
  driver.spec(id, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000");
  await create(id);
  await task("Start", { id });
  await eventually("CPU time is counted", async () => {
    const { stats } = (await task("Stats", { id })) as containerd.task.v3.StatsResponse.$Shape;
    assert.equal(stats?.type_url, "io.containerd.cgroups.v2.Metrics");
    const metrics = io.containerd.cgroups.v2.Metrics.decode(stats!.value!);
    return Number(metrics.cpu?.usageUsec ?? 0) > 0;
  });
  await task("Kill", { id, signal: 9 });
  await task("Wait", { id });
  await task("Stats", { id }); // answerable after the end
  await task("Delete", { id });
});

test("a created container can be deleted without ever having started", limit, async () => {
  const id = "never";
  driver.spec(id, "true");
  await create(id);
  await task("Delete", { id });
  await eventually("the last event", () => driver.topics(id).includes("delete"));
  assert.equal(driver.topics(id).includes("start"), false);
});

test("what is not built or not sound is refused by field and value", limit, async () => {
  const id = "refused";
  driver.spec(id, "true");
  const refused = async (more: object, wanted: string, text: RegExp): Promise<void> => {
    await assert.rejects(create(id, more), (error: { code: string; message: string }) => {
      assert.equal(error.code, wanted);
      assert.match(error.message, text);
      return true;
    });
  };
  await refused({ checkpoint: "/img" }, "UNIMPLEMENTED", /^checkpoint: "\/img"/);
  await refused({ stdout: "binary:///bin/log" }, "UNIMPLEMENTED", /^stdout: "binary:/);
  await refused({ stdin: "in" }, "INVALID_ARGUMENT", /^stdin: "in": must be an absolute path/);
  await refused({ terminal: true }, "INVALID_ARGUMENT", /^terminal: true: process.terminal of the spec/);
  await refused({ bundle: "b" }, "INVALID_ARGUMENT", /^bundle: "b"/);
  const options = { type_url: "containerd.runc.v1.Options", value: Buffer.from("x") };
  await refused({ options }, "UNIMPLEMENTED", /^options: "containerd.runc.v1.Options"/);
  fs.writeFileSync(path.join(driver.bundle(id), "config.json"), "{");
  await refused({}, "INVALID_ARGUMENT", /^reading .*config.json: /);
  await assert.rejects(task("Checkpoint", { id }), code("UNIMPLEMENTED"));
  for (const method of [
    "State",
    "Start",
    "Kill",
    "Wait",
    "Pids",
    "Stats",
    "Exec",
    "Delete",
    "Pause",
    "Update",
  ]) {
    await assert.rejects(
      task(method, { id: "unknown", execId: "e", spec: execSpec("true") }),
      code("NOT_FOUND"),
    );
  }
  assert.deepEqual(driver.topics(id), []);
});

const RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
const resources = (value: unknown, type = RESOURCES) => ({
  resources: { type_url: type, value: Buffer.from(JSON.stringify(value)) },
});

test(
  "Update: what is not sound is refused by field and value, whichever state the task is in",
  limit,
  async () => {
    const id = "update";
    driver.spec(id, "sleep 1000");
    await create(id);
    const refused = (request: object, wanted: string, message: RegExp) =>
      assert.rejects(task("Update", { id, ...request }), { code: wanted, message });
    const unsound = async () => {
      await refused({}, "INVALID_ARGUMENT", /^resources: "": must be a LinuxResources/);
      await refused(resources({}, "windows.Resources"), "INVALID_ARGUMENT", /"windows\.Resources"/);
      await refused(resources(7), "INVALID_ARGUMENT", /^resources: 7: must be an object/);
      await refused(
        resources({ memory: { swappiness: 3 } }),
        "UNIMPLEMENTED",
        /^resources\.memory\.swappiness: 3/,
      );
      await refused(
        resources({ memory: { limit: "1G" } }),
        "INVALID_ARGUMENT",
        /^resources\.memory\.limit: "1G"/,
      );
      await refused(resources({ frobs: 3 }), "INVALID_ARGUMENT", /frobs/);
      await task("Update", { id, ...resources({}) });
    };
    await unsound();
    await task("Start", { id });
    await unsound();
    await task("Kill", { id, signal: 9 });
    await task("Wait", { id });
    await refused(resources({ cpu: { shares: 5 } }), "FAILED_PRECONDITION", /is stopped/);
    await task("Delete", { id });
  },
);

test("Update: a limit that was set is what Stats tell", withHugetlb, async () => {
  const id = "huge";
  driver.spec(id, "sleep 1000");
  await create(id);
  await task("Start", { id });
  await task("Update", { id, ...resources({ hugepageLimits: [{ pageSize: "2MB", limit: 4 << 20 }] }) });
  const stats = await task("Stats", { id });
  const { hugetlb } = io.containerd.cgroups.v2.Metrics.decode(stats.stats.value);
  const limitOf2M = hugetlb.find(({ pagesize }) => pagesize === "2MB")?.max;
  assert.equal(limitOf2M?.toString(), String(4 << 20));
  await task("Kill", { id, signal: 9 });
  await task("Wait", { id });
  await task("Delete", { id });
});

test("TaskOOM comes when it happens, and before the exit that it leads to", withMemory, async () => {
  const id = "oom";
  const greedy = "busybox dd if=/dev/zero of=/dev/null bs=40M count=1";
  const memory = { limit: 20 << 20, swap: 20 << 20 };
  driver.spec(id, `${greedy}; sleep 1000`, { resources: { memory } });
  await create(id);
  await task("Start", { id });
  await eventually("TaskOOM while the container lives on", () => driver.topics(id).includes("oom"));
  const { stats } = await task("Stats", { id });
  const metrics = io.containerd.cgroups.v2.Metrics.decode(stats.value);
  assert.equal(metrics.memoryEvents?.oomKill?.toString(), "1");
  assert.equal(metrics.memory?.usageLimit?.toString(), String(20 << 20));
  assert.equal(metrics.memory?.swapLimit?.toString(), "0");
  assert.equal(metrics.pids?.limit?.toString(), String(2n ** 64n - 1n), "no limit, as containerd says it");
  assert.equal((await task("State", { id })).status, STATUS.running);
  await task("Update", { id, ...resources({ memory: { limit: 100 << 20, swap: 100 << 20 } }) });
  await task("Exec", { id, execId: "modest", spec: execSpec(greedy) });
  await task("Start", { id, execId: "modest" });
  assert.equal((await task("Wait", { id, execId: "modest" })).exitStatus, 0, "the new limit is felt");
  await task("Kill", { id, signal: 9 });
  await task("Wait", { id });
  await task("Delete", { id });
  await eventually("the last event", () => driver.topics(id).includes("delete"));
  const own = driver.topics(id).filter((topic) => !topic.includes("modest"));
  assert.deepEqual(own, ["create", "start", "oom", "exit", "delete"]);
});

test("a second Create of an id is refused and leaves the first alone", limit, async () => {
  const id = "twice";
  driver.spec(id, "sleep 1000");
  const both = await Promise.allSettled([create(id), create(id)]);
  assert.deepEqual(both.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
  await assert.rejects(create(id), code("ALREADY_EXISTS"));
  await task("Start", { id });
  await task("Kill", { id, signal: 9 });
  assert.equal((await task("Wait", { id })).exitStatus, 137);
  await task("Delete", { id });
});

test("output does not pass through the thread that runs the server", limit, async () => {
  const id = "flood";
  driver.spec(id, "busybox dd if=/dev/zero bs=65536 count=400 2>/dev/null | busybox tr '\\0' x; exit 0");
  const out = driver.fifo(id, "out");
  await create(id, { stdout: out.path });
  const { shimPid } = (await task("Connect", { id })) as { shimPid: number };
  // Of the thread that runs JavaScript; the process's own count takes in every child that it reaped.
  const io = `/proc/${shimPid}/task/${shimPid}/io`;
  const read = (): number => Number(/rchar: (\d+)/.exec(fs.readFileSync(io, "utf8"))?.[1]);
  const before = read();
  await task("Start", { id });
  await task("Wait", { id });
  await task("Delete", { id });
  assert.equal((await out.text).length, 400 * 65536);
  assert.ok(read() - before < 1 << 20, `the server read ${read() - before} bytes`);
});
