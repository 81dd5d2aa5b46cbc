import * as assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { describe, test } from "node:test";
import { NO_SLOT, native, OP, OPEN, type OpFields, PlanWriter, type Slot } from "../../src/native";
import { ALL_NAMESPACES, ATTR, CLONE, containers, descriptors, MS, u64, withFault } from "./busybox";

/**
 * Every step of every launch fails once: four plans hold all ops and opens of plan.h between them, and the
 * fault build of the stub fails the n-th. No step can be forgotten: the union is compared with plan.h.
 */
const S_IFCHR = 0o020000;
const LEAVE = 0xffffffff;
const O_RDWR = 2;

const faultImage = path.resolve(__dirname, "../../../build/Release/isopod-init-fault");
const planHeader = path.resolve(__dirname, "../../../native/core/plan.h");

interface Step {
  readonly name: string;
  /** What the error's text must contain. */
  readonly text: string;
}

/** Writes a plan and remembers its steps; the subject of each op is its number, so that an error names it. */
class Recorder {
  readonly writer = new PlanWriter();
  readonly opens: Step[] = [];
  readonly ops: Step[] = [];

  open(kind: keyof typeof OPEN, fields: Parameters<PlanWriter["open"]>[1]): Slot {
    this.opens.push({ name: `open ${kind}`, text: String(fields.path ?? "") });
    return this.writer.open(OPEN[kind], fields);
  }

  op(op: keyof typeof OP, fields: OpFields = {}): void {
    const subject = fields.subject ?? `step-${this.ops.length}`;
    this.ops.push({ name: `op ${op}`, text: String(subject) });
    this.writer.op(OP[op], { ...fields, subject });
  }

  string(text: string): number {
    return this.writer.string(text);
  }
}

describe("a launch that fails leaves nothing, whatever step it was", () => {
  const given = containers();

  function container(): { recorder: Recorder; plan: Uint8Array } {
    const r = new Recorder();
    const layers = path.join(given.dir, "layers");
    for (const name of ["upper", "work"]) fs.mkdirSync(path.join(layers, name), { recursive: true });
    const gate = path.join(given.dir, "gate");
    if (!fs.existsSync(gate)) native().makeFifo({ path: gate, mode: 0o600 });
    const base = r.open("fd", { path: "base", a: 0 });
    const root = r.open("overlay", {
      path: layers,
      list: [`lowerdir=${given.rootfs}`, "upperdir=upper", "workdir=work"],
    });
    const volume = r.open("tree", { path: given.rootfs });
    const scratch = r.open("filesystem", { path: "scratch", data: "tmpfs", list: ["size=1m"] });
    const nothing = r.open("device", { path: "/dev/null", a: 1, b: 3, flags: S_IFCHR });
    const gateSlot = r.open("file", { path: gate, flags: O_RDWR, a: LEAVE, b: LEAVE });
    r.op("setsid");
    r.op("unshare", { a: CLONE.newcgroup });
    r.op("loopbackUp");
    r.op("hostname");
    r.op("domainname");
    r.op("enterBase", { a: base });
    const fromBase = r.writer.slot();
    r.op("baseTree", { subject: "/empty", a: fromBase });
    r.op("attachRoot", { a: root, b: MS.slave | MS.rec });
    r.op("mountNew", { a: r.string("proc"), b: r.string("proc"), c: r.string("/proc") });
    r.op("mountNew", { a: r.string("tmpfs"), b: r.string("tmpfs"), c: r.string("/dev") });
    r.op("copyUp", { c: r.string("/dev") });
    r.op("mkdir", { c: r.string("/dev/pts"), a: 0o755 });
    r.op("mountNew", { a: r.string("devpts"), b: r.string("devpts"), c: r.string("/dev/pts") });
    r.op("mountTree", { a: volume, c: r.string("/volume"), d: MS.slave | MS.rec });
    r.op("mountTree", { a: scratch, c: r.string("/scratch"), d: MS.private });
    r.op("mountTree", { a: fromBase, c: r.string("/from-base"), d: MS.private });
    r.op("symlink", { a: r.string("pts/ptmx"), c: r.string("/dev/ptmx") });
    r.op("mknod", { c: r.string("/dev/null"), a: S_IFCHR | 0o666, b: (1 << 20) | 3 });
    const blob = r.writer.blob(Buffer.from("text"));
    r.op("writeFile", { c: r.string("/dev/file"), a: blob, b: 4, d: 0o644 });
    r.op("setAttr", { c: r.string("/scratch"), x: ATTR.rdonly });
    r.op("pivot");
    r.op("console", { b: 1, x: (24n << 16n) | 80n });
    r.op("stdio", { a: NO_SLOT, b: NO_SLOT, c: NO_SLOT });
    r.op("sysctl", { c: r.string("kernel/msgmax"), a: r.string("1000") });
    r.op("mask", { c: r.string("/proc/keys"), a: nothing });
    r.op("readonly", { c: r.string("/proc/sys") });
    r.op("propagate", { c: r.string("/"), a: MS.shared });
    r.op("keyring");
    r.op("rlimit", { a: 7, x: 100n, y: 100n });
    r.op("umask", { a: 0o22 });
    r.op("oomScoreAdj", { a: 0 });
    r.op("bounding", { x: 0n });
    r.op("groups", { a: 0, b: 0 });
    r.op("chownStdio", { a: 5 });
    r.op("ids", { a: 5, b: 5 });
    r.op("pdeathsig", { a: 9 });
    r.op("cwd", { c: r.string("/tmp") });
    r.op("caps", { a: u64(r.writer, 0n), b: u64(r.writer, 0n) });
    r.op("dumpable", { a: 1 });
    r.op("noNewPrivs");
    r.op("sync", { a: 1 });
    const argv = r.writer.list(["true"]);
    const env = r.writer.list(["PATH=/bin"]);
    r.op("lookup", { a: argv, b: env });
    // Reports READY; faults before it are faults of the launch.
    const allow = Buffer.from(new Uint32Array([0x00000006, 0x7fff0000]).buffer);
    r.op("seccomp", { a: r.writer.blob(allow), b: allow.length });
    r.op("gate", { a: gateSlot });
    r.op("exec", { a: argv, b: env });
    return { recorder: r, plan: r.writer.finish({ cloneFlags: ALL_NAMESPACES, oomScoreAdj: 0 }) };
  }

  function sandbox(): { recorder: Recorder; plan: Uint8Array } {
    const r = new Recorder();
    const base = r.open("fd", { path: "base", a: 0 });
    r.op("enterBase", { a: base });
    r.op("newRoot", { d: r.writer.list(["mode=755"]) });
    r.op("mkdir", { c: r.string("/empty"), a: 0o755 });
    r.op("pivot");
    r.op("chroot", { c: r.string("/empty") });
    r.op("pause");
    return { recorder: r, plan: r.writer.finish({ cloneFlags: CLONE.newpid }) };
  }

  function join(): { recorder: Recorder; plan: Uint8Array } {
    const r = new Recorder();
    const uts = r.open("namespace", { path: "/proc/self/ns/uts", a: CLONE.newuts });
    r.op("setns", { a: uts, b: CLONE.newuts });
    r.op("successor", { a: NO_SLOT, b: NO_SLOT });
    r.op("setsid");
    const argv = r.writer.list(["/bin/true"]);
    r.op("exec", { a: argv, b: argv });
    return { recorder: r, plan: r.writer.finish({ cloneFlags: 0 }) };
  }

  /** No step behind the profile is reached where the kernel has no AppArmor. */
  function confined(): { recorder: Recorder; plan: Uint8Array } {
    const r = new Recorder();
    r.op("setsid");
    r.op("apparmor");
    const argv = r.writer.list(["/bin/true"]);
    r.op("exec", { a: argv, b: argv });
    return { recorder: r, plan: r.writer.finish({ cloneFlags: 0 }) };
  }

  const traces = () => ({
    fds: descriptors(),
    mounts: given.mounts(),
    children: fs
      .readdirSync("/proc/self/task")
      .map((task) => fs.readFileSync(`/proc/self/task/${task}/children`, "utf8"))
      .join(""),
    rootfs: fs.readdirSync(given.rootfs).join(" "),
  });

  test("every Open and every Op of plan.h is among the steps", () => {
    const text = fs.readFileSync(planHeader, "utf8");
    const named = (pattern: RegExp) =>
      [...text.matchAll(pattern)].map(([, name]) => name![0]!.toLowerCase() + name!.slice(1));
    const known = [
      ...named(/^ {2}kOpen(\w+) = /gm).map((name) => `open ${name}`),
      ...named(/^ {2}kOp(?!en)(\w+) = /gm).map((name) => `op ${name}`),
    ];
    const covered = new Set(
      [container(), sandbox(), join(), confined()].flatMap(({ recorder }) =>
        [...recorder.opens, ...recorder.ops].map(({ name }) => name),
      ),
    );
    assert.ok(known.length > 50);
    assert.deepEqual(
      known.filter((name) => !covered.has(name)),
      [],
    );
  });

  for (const [name, make] of Object.entries({ container, sandbox, join, confined })) {
    test(`${name}: each step fails by name and is undone`, async () => {
      const { recorder, plan } = make();
      const image = fs.openSync(faultImage, "r");
      const steps = [...recorder.opens, ...recorder.ops];
      const cgroup = given.cgroup();
      try {
        // Threads, the stub's image and the likes start with the first launch.
        await assert.rejects(launch(plan, image, cgroup, 0));
        const before = traces();
        for (const [index, step] of steps.entries()) {
          // What fails behind the gate fails the start, not the launch; behind the profile see confined().
          const last = recorder.ops[index - recorder.opens.length]?.name === "op exec";
          if (last && (name === "container" || name === "confined")) continue;
          await assert.rejects(
            launch(plan, image, cgroup, index),
            (error: Error & Record<string, string>) => {
              assert.equal(error["errno"], "EIO", `${step.name}: ${error.message}`);
              assert.notEqual(error["step"], "launch", `${step.name} has no word in error_text.cc`);
              assert.ok(error.message.includes(`"${step.text}"`), `${step.name}: ${error.message}`);
              assert.match(error.message, /: input\/output error$/);
              return true;
            },
          );
          assert.equal(fs.existsSync(cgroup), false, `${step.name}: the cgroup is left`);
          assert.deepEqual(traces(), before, step.name);
        }
      } finally {
        fs.closeSync(image);
      }
    });
  }

  test("the exec behind the gate fails the start", async () => {
    const { recorder, plan } = container();
    const image = fs.openSync(faultImage, "r");
    const index = recorder.opens.length + recorder.ops.length - 1;
    const { pid, pidfd, result, pty } = await launch(plan, image, given.cgroup(), index);
    fs.closeSync(image);
    const gate = fs.openSync(path.join(given.dir, "gate"), fs.constants.O_WRONLY | fs.constants.O_NONBLOCK);
    fs.writeSync(gate, "s");
    fs.closeSync(gate);
    await assert.rejects(native().awaitExec({ result: result! }), { step: "exec", errno: "EIO" });
    await native().awaitExit({ pid, pidfd });
    for (const fd of [pidfd, pty!]) fs.closeSync(fd);
  });

  test("without a fault the three plans run", async () => {
    for (const make of [container, sandbox, join]) {
      const { plan } = make();
      const done = await given.launch(plan, {
        until: make === join ? "exec" : "ready",
        cgroup: given.cgroup(),
      });
      native().signal({ pidfd: done.pidfd, signal: 9 });
      await native().awaitExit({ pid: done.pid, pidfd: done.pidfd });
      for (const fd of [done.pidfd, done.result, done.pty]) if (fd !== undefined) fs.closeSync(fd);
    }
  });

  const launch = (plan: Uint8Array, initImage: number, cgroup: string, step: number) =>
    given.launch(withFault(plan, step), { initImage, cgroup, until: "ready" });
});
