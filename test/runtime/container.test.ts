import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { IsopodError } from "../../src/base/errors";
import { native } from "../../src/native";
import type { ContainerOptions, Sandbox } from "../../src/runtime/types";
import {
  cgroupParent,
  collect,
  containerOptions,
  eventually,
  openFds,
  ownMounts,
  runtimeOf,
  scratch,
} from "./fixture";
import { processOf, specOf } from "./specs";

const shell = (script: string) => specOf(["/bin/sh", "-c", script]);
const sleep = specOf(["/bin/sleep", "100"]);
const code = (wanted: string) => (error: unknown) => IsopodError.is(error) && error.code === wanted;

/** An implicit sandbox with its one container, and their state directory. */
async function created(options: ContainerOptions) {
  const { runtime, stateDir } = runtimeOf();
  const sandbox = await runtime.sandbox({ id: options.id, implicit: true });
  const container = await sandbox.create(options);
  return { runtime, stateDir, sandbox, container };
}

const cgroupOf = (id: string): string => path.join(native().features().cgroupRoot, cgroupParent, id);

test("created, running, paused, stopped, gone: each state and what it refuses", async () => {
  const options = containerOptions(sleep);
  const { container, sandbox, stateDir } = await created(options);
  assert.equal(container.state, "created");
  assert.deepEqual(fs.readdirSync(stateDir).sort(), [`${options.id}.gate`, `${options.id}.json`]);
  await assert.rejects(container.pause(), code("FAILED_PRECONDITION"));

  await container.start();
  assert.equal(container.state, "running");
  assert.deepEqual(fs.readdirSync(stateDir), [`${options.id}.json`]);
  await assert.rejects(container.start(), code("FAILED_PRECONDITION"));
  await assert.rejects(container.delete(), code("FAILED_PRECONDITION"));
  await assert.rejects(container.resume(), code("FAILED_PRECONDITION"));

  await container.pause();
  assert.equal(container.state, "paused");
  await assert.rejects(container.delete(), code("FAILED_PRECONDITION"));
  const exec = container.exec({ id: "e", process: processOf(["/bin/true"]), stdio: {} });
  await assert.rejects(exec.start(), code("FAILED_PRECONDITION"));
  await container.resume();

  await container.kill(9);
  assert.equal((await container.exited).status, 137);
  assert.equal(container.state, "stopped");
  assert.ok(fs.existsSync(path.join(stateDir, `${options.id}.exit`)), "the exit is recorded");
  await assert.rejects(container.kill(15), code("NOT_FOUND"));
  await assert.rejects(container.start(), code("FAILED_PRECONDITION"));
  assert.throws(
    () => container.exec({ id: "f", process: processOf(["/bin/true"]), stdio: {} }),
    code("FAILED_PRECONDITION"),
  );

  assert.equal((await container.delete()).status, 137);
  assert.equal((await sandbox.exited).status, 137);
  assert.deepEqual(fs.readdirSync(stateDir), []);
  assert.equal(fs.existsSync(cgroupOf(options.id)), false);
});

test("deleting a container that was never started ends it", async () => {
  const options = containerOptions(sleep);
  const { container, stateDir } = await created(options);
  const { pid } = container;
  assert.deepEqual(await container.delete(), container.exit);
  assert.equal(native().pidfdOpen({ pid }), undefined);
  assert.deepEqual(fs.readdirSync(stateDir), []);
});

test("an id is given once at a time", async () => {
  const options = containerOptions(sleep);
  const { container, runtime } = await created(options);
  const other = await runtime.sandbox({ id: "other", implicit: true });
  await assert.rejects(other.create(options), code("ALREADY_EXISTS"));
  await container.delete();
  const again = await other.create(options);
  await again.delete();
});

test("two creates of one id at once make one container", async () => {
  const options = containerOptions(sleep);
  const { runtime } = runtimeOf();
  const one = await runtime.sandbox({ id: "one", implicit: true });
  const two = await runtime.sandbox({ id: "two", implicit: true });
  const results = await Promise.allSettled([one.create(options), two.create(options)]);
  assert.deepEqual(
    results.map(({ status }) => status),
    ["fulfilled", "rejected"],
  );
  await one.destroy();
  await two.destroy();
});

test("what is written just before the end is read afterwards", async () => {
  const options = containerOptions(shell("echo last words"));
  const { container } = await created(options);
  await container.start();
  await container.exited;
  // A reader that comes when all writers have gone sees no hang-up (pipe_poll): it takes what is there.
  const fd = fs.openSync(options.fifo("stdout"), fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  assert.equal(fs.readFileSync(fd, "utf8"), "last words\n");
  fs.closeSync(fd);
  await container.delete();
});

test("closeStdin lets the process read on to its end of file", async () => {
  const options = containerOptions(shell("cat; echo end"), { stdin: true });
  const { container } = await created(options);
  await container.start();
  const stdin = fs.openSync(options.fifo("stdin"), "w");
  fs.writeSync(stdin, "data\n");
  fs.closeSync(stdin);
  const output = collect(options.fifo("stdout"));
  assert.equal(container.state, "running", "the server's end keeps it open");
  container.closeStdin();
  await container.exited;
  assert.equal(await output, "data\nend\n");
  await container.delete();
});

test("output to file:// is appended", async () => {
  const options = containerOptions(shell("echo one; echo two >&2"));
  const file = path.join(scratch, "appended");
  fs.writeFileSync(file, "zero\n");
  const { container } = await created({
    ...options,
    stdio: { stdout: `file://${file}`, stderr: `file://${file}` },
  });
  await container.start();
  await container.exited;
  await container.delete();
  assert.equal(fs.readFileSync(file, "utf8"), "zero\none\ntwo\n");
  assert.equal(fs.statSync(file).uid, 0);
});

test("stdio that isopod does not speak is refused by name", async () => {
  const options = containerOptions(sleep);
  const { runtime } = runtimeOf();
  const sandbox = await runtime.sandbox({ id: "s", implicit: true });
  for (const [stdio, message] of [
    [{ stdout: "binary:///bin/log" }, /stdout: "binary:\/\/\/bin\/log"/],
    [{ stdin: "file:///x" }, /stdin: "file:\/\/\/x"/],
    [{ stderr: "relative" }, /stderr: "relative"/],
    [{ stdout: "/nowhere/fifo" }, /opening stdout: "\/nowhere\/fifo": ENOENT/],
  ] as const)
    await assert.rejects(sandbox.create({ ...options, stdio }), message);
});

test("a container that shares the host's pid namespace takes its children along", async () => {
  const spec = specOf(["/bin/sh", "-c", "sleep 100 & echo started; exit 0"], {
    linux: { namespaces: [{ type: "mount" }, { type: "uts" }] },
  });
  const options = containerOptions({
    ...spec,
    linux: { ...spec.linux, cgroupsPath: `${cgroupParent}/shared-${process.pid}` },
  });
  const { container } = await created({ ...options, stdio: {} });
  await container.start();
  await container.exited;
  for (let i = 0; i < 100 && (await container.pids()).length > 0; i++)
    await new Promise((r) => setTimeout(r, 10));
  assert.deepEqual(await container.pids(), []);
  await container.delete();
});

test("an exec ends before its container, and its end is known first", async () => {
  const options = containerOptions(sleep);
  const { container } = await created(options);
  await container.start();
  const exec = container.exec({ id: "e", process: processOf(["/bin/sleep", "100"]), stdio: {} });
  assert.deepEqual([exec.state, exec.pid], ["created", 0]);
  await assert.rejects(exec.kill(9), code("FAILED_PRECONDITION"));
  assert.throws(
    () => container.exec({ id: "e", process: processOf(["/bin/true"]), stdio: {} }),
    code("ALREADY_EXISTS"),
  );
  await exec.start();
  assert.deepEqual((await container.pids()).map(({ execId }) => execId).sort(), ["e", undefined]);
  const order: string[] = [];
  void exec.exited.then(() => order.push("exec"));
  void container.exited.then(() => order.push("container"));
  await container.kill(9);
  await container.exited;
  await exec.exited;
  assert.deepEqual(order, ["exec", "container"]);
  assert.equal(exec.exit?.status, 137);
  await container.delete();
});

test("an exec that cannot be executed stays created and says why", async () => {
  const options = containerOptions(sleep);
  const { container } = await created(options);
  await container.start();
  const exec = container.exec({ id: "e", process: processOf(["nothing"]), stdio: {} });
  await assert.rejects(exec.start(), /"nothing".*executable file not found in \$PATH/);
  assert.equal(exec.state, "created");
  await exec.delete();
  assert.equal(container.execs.size, 0);
  await container.kill(9);
  await container.exited;
  await container.delete();
});

test("an exec may run in a container that was not started yet", async () => {
  const options = containerOptions(sleep);
  const { container } = await created(options);
  const exec = container.exec({ id: "e", process: processOf(["/bin/sh", "-c", "exit 4"]), stdio: {} });
  await exec.start();
  assert.equal((await exec.exited).status, 4);
  await container.delete();
});

test("stats are there as long as the cgroup is", async () => {
  const options = containerOptions(shell("while :; do :; done"));
  const { container, sandbox } = await created(options);
  await container.start();
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok((await container.stats()).cpu.usageUsec > 0n);
  assert.equal(await container.oomKills(), 0);
  await container.kill(9, { all: true });
  await container.exited;
  assert.ok((await sandbox.stats()).cpu.usageUsec > 0n);
  await container.delete();
  await assert.doesNotReject(container.kill(9, { all: true }), "already gone is fine");
});

/** Spec changes that make a create fail at different depths; nothing may be left of any. */
const FAILURES: readonly (readonly [string, (options: ContainerOptions) => ContainerOptions, RegExp])[] = [
  ["an invalid id", (o) => ({ ...o, id: "a/b" }), /id: "a\/b"/],
  ["a refused field", (o) => ({ ...o, spec: { ...o.spec, hooks: { poststop: [{ path: "/x" }] } } }), /hooks/],
  ["a FIFO that is not there", (o) => ({ ...o, stdio: { stdout: "/no/fifo" } }), /"\/no\/fifo"/],
  [
    "a unit in no slice",
    (o) => ({ ...o, spec: { ...o.spec, linux: { ...o.spec.linux, cgroupsPath: "a:b:c" } } }),
    /linux\.cgroupsPath: "a:b:c": "a" is not a slice/,
  ],
  [
    "a cgroup path that climbs",
    (o) => ({ ...o, spec: { ...o.spec, linux: { ...o.spec.linux, cgroupsPath: "/x/../../y" } } }),
    /linux\.cgroupsPath/,
  ],
  [
    "a root that is not there",
    (o) => ({ ...o, spec: { ...o.spec, root: { path: "/no/root" } } }),
    /"\/no\/root".*no such file/i,
  ],
  [
    "a volume that is not there",
    (o) => ({
      ...o,
      spec: {
        ...o.spec,
        mounts: [
          ...o.spec.mounts!,
          { destination: "/v", type: "bind", source: "/no/volume", options: ["bind"] },
        ],
      },
    }),
    /"\/no\/volume"/,
  ],
  [
    "a mount that the kernel refuses",
    (o) => ({
      ...o,
      spec: { ...o.spec, mounts: [{ destination: "/t", type: "tmpfs", options: ["size=lots"] }] },
    }),
    /"\/t"/,
  ],
  [
    "a file system of no name",
    (o) => ({ ...o, spec: { ...o.spec, mounts: [{ destination: "/t", type: "nofs" }] } }),
    /"\/t"/,
  ],
  [
    "a namespace that is none",
    (o) => ({
      ...o,
      spec: {
        ...o.spec,
        linux: {
          ...o.spec.linux,
          namespaces: [{ type: "mount" }, { type: "uts" }, { type: "network", path: "/etc/passwd" }],
        },
      },
    }),
    /"\/etc\/passwd"/,
  ],
  [
    "a sysctl of no name",
    (o) => ({ ...o, spec: { ...o.spec, linux: { ...o.spec.linux, sysctl: { "net.no.such": "1" } } } }),
    /net\.no\.such/,
  ],
  [
    "a program that is not there",
    (o) => ({ ...o, spec: { ...o.spec, process: processOf(["/bin/none"]) } }),
    /"\/bin\/none"/,
  ],
  [
    "a working directory that is a file",
    (o) => ({ ...o, spec: { ...o.spec, process: processOf(["/bin/true"], { cwd: "/bin/busybox" }) } }),
    /"\/bin\/busybox"/,
  ],
];

for (const [name, change, message] of FAILURES)
  test(`a create that fails leaves nothing: ${name}`, async () => {
    const { runtime, stateDir } = runtimeOf();
    const sandbox = await runtime.sandbox({ id: "box", implicit: true });
    await native()
      .baseNamespace()
      .then((fd) => fs.closeSync(fd));
    const options = containerOptions(shell("true"));
    // The first launch of a runtime opens what it keeps.
    await (await sandbox.create(containerOptions(shell("true")))).delete();
    const mounts = ownMounts();
    const fds = openFds();
    await assert.rejects(sandbox.create(change(options)), message);
    await eventually(() => assert.deepEqual(openFds(), fds));
    assert.deepEqual(ownMounts(), mounts);
    assert.deepEqual(fs.readdirSync(stateDir), []);
    assert.equal(fs.existsSync(cgroupOf(options.id)), false);
    const again = await sandbox.create(options);
    await again.delete();
  });

test("a cgroup with somebody in it is not taken", async () => {
  const first = containerOptions(sleep);
  const { container } = await created(first);
  const spec = { ...sleep, linux: { ...sleep.linux, cgroupsPath: `${cgroupParent}/${first.id}` } };
  const { runtime } = runtimeOf();
  const sandbox: Sandbox = await runtime.sandbox({ id: "second", implicit: true });
  await assert.rejects(sandbox.create(containerOptions(spec)), /has processes already/);
  assert.equal(container.state, "created");
  await container.delete();
});

test("a parent cgroup that somebody else removes as empty is made again", async () => {
  const spec = { ...sleep, linux: { ...sleep.linux, cgroupsPath: `${cgroupParent}/inner/${process.pid}` } };
  const { runtime } = runtimeOf();
  const sandbox = await runtime.sandbox({ id: "p", implicit: true });
  const creating = sandbox.create(containerOptions(spec));
  const parent = path.join(native().features().cgroupRoot, cgroupParent, "inner");
  fs.rmdirSync(parent);
  const container = await creating;
  assert.ok(fs.existsSync(path.join(parent, String(process.pid))));
  await container.delete();
});
