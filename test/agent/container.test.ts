import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { IsopodError } from "../../src/base/errors";
import { native } from "../../src/native";
import { until as eventually } from "../support/processes";
import {
  type ConnectedAgent,
  cgroupParent,
  childrenOf,
  connected,
  create,
  exec,
  run,
  until,
} from "./fixture";

const code = (wanted: string) => (error: unknown) => IsopodError.is(error) && error.code === wanted;
const cgroup = (id: string): string => path.join(native().features().cgroupRoot, cgroupParent, id);

let made: ConnectedAgent;
before(async () => {
  made = await connected();
});
after(() => made[Symbol.asyncDispose]());

test("a container runs from a real plan: output, exit code, nothing left", async () => {
  const done = await run(made, "echo out; echo err >&2; hostname; exit 7");
  assert.equal(done.status, 7);
  assert.match(done.stdout, /^out\n/);
  assert.equal(done.stderr, "err\n");
  assert.ok(done.exitedAt > 1_600_000_000_000_000_000n);
  assert.deepEqual(
    fs.existsSync(path.dirname(cgroup("x"))),
    false,
    "the parent cgroup went with its last child",
  );
});

test("a container sees itself as pid 1, and nothing of the agent's descriptors", async () => {
  const { stdout } = await run(made, "echo $$; ls /proc/self/fd | wc -l; ls /");
  const [pid, fds, ...tree] = stdout.trim().split("\n");
  assert.equal(pid, "1");
  // 0, 1, 2 and the directory that ls reads.
  assert.equal(fds, "4");
  assert.ok(!tree.includes("initramfs"));
});

test("created, started, stopped, gone: each state and what it refuses", async () => {
  const { agent } = made;
  const { id, pid } = await create(made, ["sleep", "100"]);
  assert.ok(fs.existsSync(`/proc/${pid}`));
  await assert.rejects(agent.pause(id), code("FAILED_PRECONDITION"));
  await assert.rejects(exec(made, "no-such", ["true"]), code("NOT_FOUND"));
  await agent.start(id);
  await assert.rejects(agent.start(id), code("FAILED_PRECONDITION"));
  await assert.rejects(agent.delete({ id }), code("FAILED_PRECONDITION"));
  await assert.rejects(agent.resume(id), code("FAILED_PRECONDITION"));

  await agent.pause(id);
  await assert.rejects(agent.pause(id), code("FAILED_PRECONDITION"));
  await assert.rejects(exec(made, id, ["true"]), code("FAILED_PRECONDITION"));
  await agent.resume(id);

  const waiting = agent.wait({ id });
  await agent.signal({ id }, 15);
  await agent.signal({ id }, 9);
  assert.equal((await waiting).status, 137);
  assert.equal((await agent.wait({ id })).status, 137, "later callers hear it too");
  await assert.rejects(agent.signal({ id }, 9), code("NOT_FOUND"));
  await agent.signal({ id }, 9, { all: true });
  await assert.rejects(exec(made, id, ["true"]), code("FAILED_PRECONDITION"));
  assert.equal((await agent.delete({ id })).status, 137);
  await assert.rejects(agent.delete({ id }), code("NOT_FOUND"));
  assert.equal(fs.existsSync(cgroup(id)), false);
});

test("deleting a container that was never started ends it", async () => {
  const { id, pid } = await create(made, ["sleep", "100"]);
  const exit = await made.agent.delete({ id });
  assert.equal(exit.exitedAt, 0n);
  assert.equal(native().pidfdOpen({ pid }), undefined);
});

test("what cannot be launched says why, and leaves nothing", async () => {
  const { agent } = made;
  const failed = (error: unknown): boolean =>
    IsopodError.is(error) &&
    error.step === "exec" &&
    error.path === "nothing" &&
    error.message === 'exec: "nothing": executable file not found in $PATH';
  await assert.rejects(create(made, ["nothing"]), failed);
  const bad = { id: "bad", plan: new Uint8Array(64), cgroup: `${cgroupParent}/bad` };
  await assert.rejects(agent.createContainer(bad), code("INVALID_ARGUMENT"));
  for (const path of ["", "relative", "/", "/a/../b", "//a"])
    await assert.rejects(agent.createContainer({ ...bad, cgroup: path }), code("INVALID_ARGUMENT"), path);
  for (const id of ["", "..", "a/b", "a b", "x".repeat(200)])
    await assert.rejects(agent.createContainer({ ...bad, id }), code("INVALID_ARGUMENT"), id);
  // Nobody listens there.
  await assert.rejects(agent.createContainer({ ...bad, stdio: { stdout: 7 } }), code("UNAVAILABLE"));
  await assert.rejects(agent.wait({ id: "bad" }), code("NOT_FOUND"));
  assert.equal(fs.existsSync(path.dirname(cgroup("x"))), false);
});

test("an id that is in use is refused, also while it is being created", async () => {
  const { agent } = made;
  const { id } = await create(made, ["sleep", "100"]);
  const again = { id, plan: new Uint8Array(8), cgroup: `${cgroupParent}/other` };
  await assert.rejects(agent.createContainer(again), code("ALREADY_EXISTS"));
  await agent.delete({ id });
});

test("stdin arrives, a half-close is its end; 10 MB come back as they went", async () => {
  const { id, streams } = await create(made, ["cat"], { names: ["stdin", "stdout"] });
  await made.agent.start(id);
  const [stdin, output] = [await streams.stream("stdin"), streams.text("stdout")];
  const sent = Buffer.alloc(10 << 20, "isopod microVM ");
  stdin.end(sent);
  assert.equal((await output) === sent.toString(), true);
  assert.equal((await made.agent.wait({ id })).status, 0);
  await made.agent.delete({ id });
});

test("closeStdin ends stdin behind what was sent before", async () => {
  const { id, streams } = await create(made, ["cat"], { names: ["stdin", "stdout"] });
  await made.agent.start(id);
  const stdin = await streams.stream("stdin");
  const stdout = await streams.stream("stdout");
  stdin.write("before\n");
  await until(stdout, "before");
  await made.agent.closeStdin({ id });
  assert.equal((await made.agent.wait({ id })).status, 0);
  stdin.destroy();
  await made.agent.delete({ id });
});

test("a process does not notice that nobody reads its output", async () => {
  const script = "i=0; while [ $i -lt 200 ]; do head -c 4096 /proc/kallsyms; i=$((i+1)); done; exit 3";
  const { id, streams } = await create(made, ["sh", "-c", script], { names: ["stdout"] });
  (await streams.stream("stdout")).destroy();
  await made.agent.start(id);
  assert.equal((await made.agent.wait({ id })).status, 3);
  await made.agent.delete({ id });
});

test("an exit is told although a child still holds the output", async () => {
  const { id, streams } = await create(made, ["sh", "-c", "sleep 100 & echo $!"], { names: ["stdout"] });
  await made.agent.start(id);
  const output = streams.text("stdout");
  assert.equal((await made.agent.wait({ id })).status, 0);
  await made.agent.delete({ id });
  assert.match(await output, /^\d+\n$/, "its end is the container's end");
});

test("a terminal: one stream both ways, its size, its controlling process", async () => {
  const script = "stty size; read line; echo got $line; stty size; exit 4";
  const { id, streams } = await create(made, ["sh", "-c", script], { names: ["stdout"], terminal: true });
  const terminal = await streams.stream("stdout");
  await made.agent.start(id);
  await until(terminal, "24 80");
  await made.agent.resize({ id }, { rows: 50, columns: 132 });
  terminal.write("words\n");
  assert.match(await until(terminal, "50 132"), /got words/);
  assert.equal((await made.agent.wait({ id })).status, 4);
  terminal.destroy();
  await made.agent.delete({ id });
});

test("execs: output, exit code, terminal, signals; each ends before its container", async () => {
  const { agent } = made;
  const { id } = await create(made, ["sleep", "100"]);
  await agent.start(id);

  const first = await exec(made, id, ["sh", "-c", "echo $$; cat /proc/1/comm; exit 9"], ["stdout"]);
  const [pid, name] = (await first.streams.text("stdout")).trim().split("\n");
  assert.notEqual(pid, "1");
  assert.equal(name, "sleep");
  assert.equal((await agent.wait({ id, execId: first.execId })).status, 9);
  await agent.delete({ id, execId: first.execId });
  await assert.rejects(agent.wait({ id, execId: first.execId }), code("NOT_FOUND"));

  await assert.rejects(exec(made, id, ["nothing"]), /executable file not found/);

  const second = await exec(made, id, ["sleep", "200"]);
  const pids = await agent.pids(id);
  assert.deepEqual(
    pids.filter(({ execId }) => execId === second.execId).map((entry) => entry.pid),
    [second.pid],
  );
  await agent.signal({ id, execId: second.execId }, 15);
  assert.equal((await agent.wait({ id, execId: second.execId })).status, 143);

  const order: string[] = [];
  const third = await exec(made, id, ["sleep", "300"]);
  const ends = [
    agent.wait({ id, execId: third.execId }).then(() => order.push("exec")),
    agent.wait({ id }).then(() => order.push("container")),
  ];
  await agent.signal({ id }, 9);
  await Promise.all(ends);
  assert.deepEqual(order, ["exec", "container"]);
  await agent.delete({ id });
});

test("a container can join another one's pid namespace, and is killed for itself", async () => {
  const { agent } = made;
  const first = await create(made, ["sleep", "100"]);
  await agent.start(first.id);
  const script = "cat /proc/1/comm; sleep 1000 & exec sleep 200";
  const second = await create(made, ["sh", "-c", script], {
    names: ["stdout"],
    pid: "join",
    join: first.id,
  });
  await agent.start(second.id);
  await until(await second.streams.stream("stdout"), "sleep");
  await agent.signal({ id: second.id }, 9);
  assert.equal((await agent.wait({ id: second.id })).status, 137);
  await agent.delete({ id: second.id });
  assert.equal((await agent.pids(first.id)).length, 1);
  await agent.signal({ id: first.id }, 9);
  await agent.wait({ id: first.id });
  await agent.delete({ id: first.id });
  await assert.rejects(create(made, ["true"], { pid: "join", join: first.id }), code("NOT_FOUND"));
});

test("a container joins as many as a plan can name, no more", async () => {
  const first = await create(made, ["sleep", "100"]);
  const options = { id: "many", plan: new Uint8Array(8), cgroup: `${cgroupParent}/many` };
  const join = (count: number) =>
    made.agent.createContainer({ ...options, join: Array.from({ length: count }, () => first.id) });
  await assert.rejects(join(60), (error: unknown) => /joins too many/.test(String(error)));
  await assert.rejects(join(59), (error: unknown) => /launch plan/.test(String(error)));
  await made.agent.delete({ id: first.id });
});

test("orphans that fall to the agent are reaped, its own children are not mistaken for them", async () => {
  // Without a pid namespace of their own their children fall to the agent when they end.
  const exits = Array.from({ length: 20 }, (_, i) => run(made, `sleep 100 & exit ${i}`, { pid: "guest" }));
  const done = await Promise.all(exits);
  assert.deepEqual(
    done.map(({ status }) => status),
    Array.from({ length: 20 }, (_, i) => i),
  );
  await eventually(() => childrenOf(made.child.pid!).length === 0, "no child is left");
});

test("readings are the files' own, limits are all or nothing", async () => {
  const { agent } = made;
  const { id } = await create(made, ["sleep", "100"]);
  await agent.start(id);
  const files = await agent.stats(id, ["cpu.stat", "cgroup.procs", "no.such"]);
  assert.deepEqual([...files.keys()], ["cpu.stat", "cgroup.procs"]);
  assert.match(files.get("cpu.stat")!, /^usage_usec \d+/);
  for (const name of ["../cgroup.procs", "a/b", ".", ""])
    await assert.rejects(agent.stats(id, [name]), code("INVALID_ARGUMENT"), name);

  const depth = { file: "cgroup.max.depth", value: "3" };
  await agent.update(id, [depth, { file: "no.such", value: "1", optional: true }]);
  assert.equal(fs.readFileSync(path.join(cgroup(id), depth.file), "utf8"), "3\n");
  const failing = [
    { ...depth, value: "5" },
    { file: "cgroup.max.descendants", value: "x" },
  ];
  await assert.rejects(agent.update(id, failing), (error: unknown) => IsopodError.is(error));
  assert.equal(fs.readFileSync(path.join(cgroup(id), depth.file), "utf8"), "3\n");
  await assert.rejects(agent.update(id, [{ file: "../x", value: "1" }]), code("INVALID_ARGUMENT"));
  await agent.signal({ id }, 9);
  await agent.wait({ id });
  await agent.delete({ id });
});

test("when the host is gone so are the containers, and their cgroups", async () => {
  const other = await connected();
  const { id, pid } = await create(other, ["sleep", "100"], { names: ["stdout"] });
  await other.agent.start(id);
  other.agent.close();
  assert.equal(await other.ended, 0);
  assert.equal(native().pidfdOpen({ pid }), undefined);
  assert.equal(fs.existsSync(cgroup(id)), false);
});

test("after containers, execs and failures the agent holds no more descriptors than before", async () => {
  await using other = await connected();
  const open = (): number => fs.readdirSync(`/proc/${other.child.pid}/fd`).length;
  await run(other, "true");
  const before = open();
  for (let i = 0; i < 5; i++) await run(other, "echo x");
  const { id } = await create(other, ["sleep", "100"], { names: ["stdout"], terminal: true });
  await other.agent.start(id);
  await exec(other, id, ["true"], ["stdout"]);
  await other.agent.signal({ id }, 9);
  await other.agent.wait({ id });
  await other.agent.delete({ id });
  await assert.rejects(create(other, ["nothing"], { names: ["stdin", "stdout"] }));
  await eventually(() => open() <= before, `no more than ${before} descriptors`);
});
