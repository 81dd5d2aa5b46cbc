import * as assert from "node:assert/strict";
import { once } from "node:events";
import * as fs from "node:fs";
import * as path from "node:path";
import { describe, test } from "node:test";
import { Worker } from "node:worker_threads";
import { NO_SLOT, native, OP, OPEN, PlanWriter } from "../../src/native";
import { ATTR, CLONE, containerPlan, containers, MS, mountNew, statusField, u64 } from "./busybox";

const O_RDONLY = 0;
const LEAVE = 0xffffffff;
const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Waits until `ready` holds; false after five seconds. */
async function eventually(ready: () => boolean): Promise<boolean> {
  for (let i = 0; i < 500 && !ready(); i++) await pause(10);
  return ready();
}

const children = (): number[] =>
  fs
    .readdirSync("/proc/self/task")
    .flatMap((task) => fs.readFileSync(`/proc/self/task/${task}/children`, "utf8").trim().split(" "))
    .filter(Boolean)
    .map(Number);

describe("rules of the design", () => {
  const given = containers();

  test("R2: the exit is on record while the kernel still remembers it: the process is a zombie until then", async () => {
    const record = path.join(given.dir, "held");
    // The temporary file is a FIFO without a reader: the write of the record waits for us, in a worker, since
    // it happens on the thread that asked.
    native().makeFifo({ path: `${record}.tmp`, mode: 0o600 });
    const { pid, pidfd } = await given.launch(containerPlan({ rootfs: given.rootfs, args: ["true"] }));
    const worker = new Worker(
      `const { workerData, parentPort } = require("node:worker_threads");
       const { native } = require(workerData.seam);
       native().awaitExit(workerData.wait).then(({ status }) => parentPort.postMessage(status));`,
      {
        eval: true,
        workerData: { seam: require.resolve("../../src/native"), wait: { pid, pidfd, record } },
      },
    );
    const exit = once(worker, "message");
    assert.ok(
      await eventually(() => /\) Z /.test(fs.readFileSync(`/proc/${pid}/stat`, "utf8"))),
      "not a zombie",
    );
    await pause(100);
    assert.ok(fs.existsSync(`/proc/${pid}`), "reaped before its exit was on record");
    const reader = fs.openSync(`${record}.tmp`, "r");
    assert.deepEqual(await exit, [0]);
    await worker.terminate();
    assert.equal(fs.existsSync(`/proc/${pid}`), false);
    for (const fd of [reader, pidfd]) fs.closeSync(fd);
  });

  test("R4: a launch into a frozen or populated cgroup is refused, and no launcher waits for it", async () => {
    const cgroup = given.cgroup();
    const first = await given.launch(containerPlan({ rootfs: given.rootfs, args: ["sleep", "1000"] }), {
      cgroup,
    });
    const into = () => given.launch(containerPlan({ rootfs: given.rootfs, args: ["true"] }), { cgroup });
    await assert.rejects(into(), { errno: "EBUSY", message: /in use: joining needs a successor/ });
    await native().cgroupFreeze({ path: cgroup, frozen: true, timeoutMs: 5000 });
    for (let i = 0; i < 3; i++) await assert.rejects(into(), { errno: "EBUSY", message: /frozen/ });
    assert.equal((await given.run("exit 4")).status, 4);
    await native().cgroupDestroy({ path: cgroup, timeoutMs: 5000 });
    await native().awaitExit({ pid: first.pid, pidfd: first.pidfd });
    fs.closeSync(first.pidfd);
  });

  test("R4: an exec into a frozen container blocks nobody, and no process of the container ever sees Node", async () => {
    const cgroup = given.cgroup();
    const seen = path.join(given.dir, "seen");
    fs.writeFileSync(seen, "");
    const target = await given.launch(
      containerPlan({
        rootfs: given.rootfs,
        stdout: seen,
        args: ["sh", "-c", "while :; do for p in /proc/[0-9]*; do readlink $p/exe; done; done"],
      }),
      { cgroup },
    );
    const exec = () => {
      const plan = new PlanWriter();
      const pidns = plan.open(OPEN.namespace, { path: `/proc/${target.pid}/ns/pid`, a: CLONE.newpid });
      const mnt = plan.open(OPEN.namespace, { path: `/proc/${target.pid}/ns/mnt`, a: CLONE.newns });
      const group = plan.open(OPEN.file, { path: cgroup, flags: 0o10200000, a: LEAVE, b: LEAVE });
      plan.op(OP.setns, { a: mnt, b: CLONE.newns });
      plan.op(OP.successor, { a: pidns, b: group });
      const argv = plan.list(["/bin/true"]);
      plan.op(OP.exec, { a: argv, b: argv });
      return native().launch({ plan: plan.finish({ cloneFlags: 0 }), until: "exec" });
    };
    for (let i = 0; i < 20; i++) {
      const { pid, pidfd } = await exec();
      await native().awaitExit({ pid, pidfd });
      fs.closeSync(pidfd);
    }
    await native().cgroupFreeze({ path: cgroup, frozen: true, timeoutMs: 5000 });
    const waiting = exec();
    for (let i = 0; i < 4; i++) assert.equal((await given.run("exit 4")).status, 4);
    await native().cgroupFreeze({ path: cgroup, frozen: false, timeoutMs: 5000 });
    const { pid, pidfd } = await waiting;
    await native().awaitExit({ pid, pidfd });
    native().signal({ pidfd: target.pidfd, signal: 9 });
    await native().awaitExit({ pid: target.pid, pidfd: target.pidfd });
    for (const fd of [pidfd, target.pidfd]) fs.closeSync(fd);
    const exes = new Set(fs.readFileSync(seen, "utf8").trim().split("\n"));
    assert.ok(exes.has("/bin/busybox"));
    assert.deepEqual(
      [...exes].filter((exe) => exe.includes("node")),
      [],
    );
  });

  test("R4: the setns op refuses a pid namespace: only a successor enters one", async () => {
    const plan = new PlanWriter();
    const pidns = plan.open(OPEN.namespace, { path: "/proc/self/ns/pid", a: CLONE.newpid });
    plan.op(OP.setns, { a: pidns, b: CLONE.newpid });
    const argv = plan.list(["/bin/true"]);
    plan.op(OP.exec, { a: argv, b: argv });
    await assert.rejects(native().launch({ plan: plan.finish({ cloneFlags: 0 }), until: "exec" }), {
      step: "setns",
      errno: "EINVAL",
    });
  });

  test("R5: oom_score_adj is set before anything else, even while the first open hangs", async () => {
    const fifo = path.join(given.dir, "hanging");
    native().makeFifo({ path: fifo, mode: 0o600 });
    const plan = new PlanWriter();
    // Opening a FIFO for reading waits for a writer: the stub stays in its first open.
    plan.open(OPEN.file, { path: fifo, flags: O_RDONLY, a: LEAVE, b: LEAVE });
    const argv = plan.list(["/bin/true"]);
    plan.op(OP.exec, { a: argv, b: argv });
    const launch = native().launch({ plan: plan.finish({ cloneFlags: 0, oomScoreAdj: 789 }), until: "exec" });
    const stub = () =>
      children().find(
        (pid) =>
          fs.readFileSync(`/proc/${pid}/comm`, "utf8").startsWith("memfd:isopod") ||
          fs.readFileSync(`/proc/${pid}/wchan`, "utf8").includes("fifo"),
      );
    let pid: number | undefined;
    const found = () => {
      pid = stub();
      return pid !== undefined;
    };
    assert.ok(await eventually(found));
    assert.ok(await eventually(() => fs.readFileSync(`/proc/${pid}/oom_score_adj`, "utf8") === "789\n"));
    fs.closeSync(fs.openSync(fifo, "r+"));
    const done = await launch;
    await native().awaitExit({ pid: done.pid, pidfd: done.pidfd });
    fs.closeSync(done.pidfd);
  });

  test("R5: a score that may not be lowered fails the launch, or is left with best effort", async () => {
    const mine = Number(fs.readFileSync("/proc/self/oom_score_adj", "utf8"));
    const may = (native().features().effectiveCapabilities & (1n << 24n)) !== 0n;
    const plan = (best: boolean) => {
      const writer = new PlanWriter();
      const argv = writer.list(["/bin/cat", "/proc/self/oom_score_adj"]);
      writer.op(OP.exec, { a: argv, b: argv });
      return writer.finish({
        cloneFlags: 0,
        oomScoreAdj: Math.max(mine - 1, -1000),
        oomBestEffort: best,
      });
    };
    const run = async (best: boolean) => {
      const { pid, pidfd } = await native().launch({ plan: plan(best), until: "exec" });
      await native().awaitExit({ pid, pidfd });
      fs.closeSync(pidfd);
    };
    if (may) await run(false);
    else await assert.rejects(run(false), { message: /oom_score_adj refused/ });
    await run(true);
  });

  test("R6: the waiting stub has nothing: no root, no capability, no descriptor but its socket, few calls", async () => {
    const plan = new PlanWriter();
    const base = plan.open(OPEN.fd, { path: "base", a: 0 });
    const volume = plan.open(OPEN.tree, { path: given.rootfs });
    plan.op(OP.enterBase, { a: base });
    plan.op(OP.newRoot, { d: plan.list(["mode=755"]) });
    plan.op(OP.mkdir, { c: plan.string("/empty"), a: 0o755 });
    plan.op(OP.pivot);
    plan.op(OP.setAttr, { c: plan.string("/"), x: ATTR.rdonly });
    plan.op(OP.chroot, { c: plan.string("/empty") });
    plan.op(OP.bounding, { x: 0n });
    plan.op(OP.groups, { a: 0, b: 0 });
    plan.op(OP.ids, { a: 65535, b: 65535 });
    plan.op(OP.caps, {});
    plan.op(OP.noNewPrivs);
    const filter = new Uint32Array([
      // A = nr; allow sendmsg 46, rt_sigtimedwait 128, wait4 61, exit_group 231; else kill the process.
      0x00000020, 0, 0x04000015, 46, 0x03000015, 128, 0x02000015, 61, 0x01000015, 231, 0x00000006, 0x80000000,
      0x00000006, 0x7fff0000,
    ]);
    const bytes = process.arch === "x64" ? Buffer.from(filter.buffer) : Buffer.alloc(0);
    plan.op(OP.pause, bytes.length > 0 ? { a: plan.blob(bytes), b: bytes.length } : {});
    assert.notEqual(volume, NO_SLOT);
    const stub = await given.launch(plan.finish({ cloneFlags: CLONE.newpid }), { until: "ready" });
    const at = `/proc/${stub.pid}`;
    const status = fs.readFileSync(`${at}/status`, "utf8");
    assert.match(statusField(status, "Uid"), /^65535\s+65535\s+65535\s+65535$/);
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
      assert.match(statusField(status, set), /^0+$/, set);
    assert.equal(statusField(status, "NoNewPrivs"), "1");
    if (bytes.length > 0) assert.equal(statusField(status, "Seccomp"), "2");
    assert.deepEqual(fs.readdirSync(`${at}/root/`), []);
    assert.throws(() => fs.writeFileSync(`${at}/root/x`, ""), { code: "EROFS" });
    const open = fs.readdirSync(`${at}/fd`).map((fd) => fs.readlinkSync(`${at}/fd/${fd}`));
    assert.equal(open.length, 1, open.join(" "));
    assert.match(open[0]!, /^socket:/);
    // Its /proc entries are root's: it is not dumpable.
    assert.equal(fs.statSync(`${at}/environ`).uid, 0);
    native().signal({ pidfd: stub.pidfd, signal: 15 });
    assert.equal((await native().awaitExit({ pid: stub.pid, pidfd: stub.pidfd })).status, 0);
    for (const fd of [stub.pidfd, stub.result!]) fs.closeSync(fd);
  });

  test("the waiting stub reaps what falls to it as pid 1", async () => {
    const plan = new PlanWriter();
    plan.op(OP.pause);
    const stub = await given.launch(plan.finish({ cloneFlags: CLONE.newpid }), { until: "ready" });
    const join = new PlanWriter();
    const pidns = join.open(OPEN.namespace, { path: `/proc/${stub.pid}/ns/pid`, a: CLONE.newpid });
    join.op(OP.successor, { a: pidns, b: NO_SLOT });
    const argv = join.list(["/bin/sh", "-c", "(sleep 0.1 &) ; exit 0"]);
    join.op(OP.exec, { a: argv, b: join.list(["PATH=/bin:/usr/bin"]) });
    const exec = await native().launch({ plan: join.finish({ cloneFlags: 0 }), until: "exec" });
    await native().awaitExit({ pid: exec.pid, pidfd: exec.pidfd });
    const below = () => fs.readFileSync(`/proc/${stub.pid}/task/${stub.pid}/children`, "utf8").trim();
    assert.ok(await eventually(() => below() === ""), `left: ${below()}`);
    native().signal({ pidfd: stub.pidfd, signal: 9 });
    await native().awaitExit({ pid: stub.pid, pidfd: stub.pidfd });
    for (const fd of [stub.pidfd, stub.result!, exec.pidfd]) fs.closeSync(fd);
  });

  test("R8: a volume inside a volume leaves the host's mount table alone", async () => {
    const outer = path.join(given.dir, "outer");
    fs.mkdirSync(path.join(outer, "inner"), { recursive: true });
    await native().mount({ type: "tmpfs", source: "tmpfs", target: outer, options: [] });
    fs.mkdirSync(path.join(outer, "inner"));
    await native().spawn({
      file: "/bin/mount",
      args: ["--make-shared", outer],
      env: ["PATH=/bin:/usr/bin"],
      timeoutMs: 5000,
    });
    const before = given.mounts();
    assert.match(before.join("\n"), new RegExp(` ${outer} .* shared:`));
    let volume = NO_SLOT;
    let nested = NO_SLOT;
    const { output } = await given.run("cat /proc/self/mountinfo", {
      opens: (plan) => {
        volume = plan.open(OPEN.tree, { path: outer, flags: 1 });
        nested = plan.open(OPEN.tree, { path: given.rootfs });
      },
      tree: (plan) => {
        plan.op(OP.mountTree, { a: volume, c: plan.string("/mnt"), d: MS.slave | MS.rec });
        plan.op(OP.mountTree, { a: nested, c: plan.string("/mnt/inner"), d: MS.private });
        mountNew(plan, "tmpfs", "tmpfs", "/mnt/inner");
      },
    });
    assert.match(output, / \/mnt\/inner /);
    assert.deepEqual(given.mounts(), before);
  });

  test("R8: HostToContainer sees the host's later mounts, Bidirectional shows its own, private does neither", async () => {
    const volume = path.join(given.dir, "shared");
    fs.mkdirSync(volume);
    await native().mount({ type: "tmpfs", source: "tmpfs", target: volume, options: [] });
    for (const name of ["fromhost", "fromcontainer"]) fs.mkdirSync(path.join(volume, name));
    await native().spawn({
      file: "/bin/mount",
      args: ["--make-shared", volume],
      env: ["PATH=/bin:/usr/bin"],
      timeoutMs: 5000,
    });
    const words = { private: MS.private, slave: MS.slave, shared: MS.shared };
    for (const [name, word] of Object.entries(words)) {
      const gate = path.join(given.dir, `gate-${name}`);
      const out = path.join(given.dir, `view-${name}`);
      native().makeFifo({ path: gate, mode: 0o600 });
      fs.writeFileSync(out, "");
      let slot = NO_SLOT;
      const plan = containerPlan({
        rootfs: given.rootfs,
        stdout: out,
        gate,
        args: ["sh", "-c", "mount -t tmpfs tmpfs /mnt/fromcontainer; cat /proc/self/mountinfo; sleep 1000"],
        opens: (writer) => (slot = writer.open(OPEN.tree, { path: volume, flags: 1 })),
        tree: (writer) => writer.op(OP.mountTree, { a: slot, c: writer.string("/mnt"), d: word | MS.rec }),
      });
      const { pid, pidfd, result } = await given.launch(plan, { until: "ready" });
      await native().mount({
        type: "tmpfs",
        source: "tmpfs",
        target: path.join(volume, "fromhost"),
        options: [],
      });
      fs.writeFileSync(gate, "s");
      await native().awaitExec({ result: result! });
      assert.ok(await eventually(() => fs.readFileSync(out, "utf8").includes("/mnt/fromcontainer")));
      const host = fs.readFileSync("/proc/self/mountinfo", "utf8");
      assert.equal(
        fs.readFileSync(out, "utf8").includes(" /mnt/fromhost "),
        name !== "private",
        `${name}: host to container`,
      );
      assert.equal(
        host.includes(` ${volume}/fromcontainer `),
        name === "shared",
        `${name}: container to host`,
      );
      native().signal({ pidfd, signal: 9 });
      await native().awaitExit({ pid, pidfd });
      fs.closeSync(pidfd);
      for (const place of ["fromhost", "fromcontainer"])
        await native().unmount({ path: path.join(volume, place) });
    }
  });

  test("R8: the container's table holds nothing of the host's, however much is mounted there", async () => {
    const { output } = await given.run("cat /proc/self/mountinfo");
    const inside = output
      .trim()
      .split("\n")
      .map((line) => line.split(" ")[4]);
    assert.deepEqual(
      inside.filter((place) => !/^\/($|proc|sys|dev)/.test(place!)),
      [],
    );
  });

  test("a plan's capabilities hold for its own process only", async () => {
    const { output } = await given.run("cat /proc/self/status", {
      process: (plan) => plan.op(OP.caps, { x: 1n, y: 1n, a: u64(plan, 0n) }),
    });
    // Root regains its bounding set at exec (capabilities(7)); what it may not regain is bounded before.
    assert.notEqual(statusField(output, "CapBnd"), "0000000000000001");
    assert.notEqual(
      fs.readFileSync("/proc/self/status", "utf8").match(/CapEff:\s+(.*)/)?.[1],
      "0000000000000001",
    );
  });
});
