import * as assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { describe, test } from "node:test";
import { NO_SLOT, native, OP, OPEN, PlanWriter } from "../../src/native";
import {
  ALL_NAMESPACES,
  ATTR,
  CLONE,
  containerPlan,
  containers,
  descriptors,
  MS,
  mountNew,
  statusField,
  u64,
} from "./busybox";

const CAP = { chown: 0, kill: 5, netBindService: 10 } as const;
const S_IFCHR = 0o020000;
const S_IFIFO = 0o010000;

describe("launch", () => {
  const given = containers();

  test("a container runs on its own root, in its own pid namespace", async () => {
    const { status, output } = await given.run("echo $$; ls /; exit 7");
    assert.equal(status, 7);
    assert.equal(output, "1\nbin\ndev\netc\nproc\nsys\ntmp\n");
  });

  test("a plan that is not one is refused before anything is done", async () => {
    await assert.rejects(given.launch(Buffer.alloc(64)), {
      message: "reading the launch plan: not a plan",
      code: "INVALID_ARGUMENT",
    });
    const plan = containerPlan({ rootfs: given.rootfs, args: ["true"], cloneFlags: CLONE.newuser });
    await assert.rejects(given.launch(plan), { message: /clone flag not allowed/ });
  });

  test("the first failure names step, object and errno", async () => {
    await assert.rejects(given.run("true", { rootfs: "/no/such/rootfs" }), {
      message: 'opening "/no/such/rootfs": no such file or directory',
      step: "open",
      errno: "ENOENT",
      path: "/no/such/rootfs",
      code: "FAILED_PRECONDITION",
    });
    await assert.rejects(
      given.run("true", { tree: (plan) => mountNew(plan, "tmpfs", "tmpfs", "/tmp", ["size=many"]) }),
      {
        message: 'mounting "tmpfs" at "/tmp": invalid argument',
        step: "mount",
        errno: "EINVAL",
        path: "/tmp",
      },
    );
    await assert.rejects(given.launch(containerPlan({ rootfs: given.rootfs, args: ["nope"] })), {
      message: 'exec: "nope": executable file not found in $PATH',
      step: "exec",
      errno: "ENOENT",
    });
  });

  test("created, then started through the gate; the result socket tells of the exec", async () => {
    const gate = path.join(given.dir, "gate");
    native().makeFifo({ path: gate, mode: 0o600 });
    const plan = containerPlan({ rootfs: given.rootfs, args: ["sh", "-c", "exit 3"], gate });
    const { pid, pidfd, result } = await given.launch(plan, { until: "ready" });
    assert.ok(result !== undefined);
    assert.match(fs.readlinkSync(`/proc/${pid}/exe`), /isopod-init/);
    assert.equal(fs.readFileSync(`/proc/${pid}/environ`, "utf8"), "");
    open(gate);
    await native().awaitExec({ result });
    assert.equal((await native().awaitExit({ pid, pidfd })).status, 3);
    fs.closeSync(pidfd);
    fs.unlinkSync(gate);
  });

  test("an exec that fails after the start is an error of the start, with its reason", async () => {
    const gate = path.join(given.dir, "gate");
    native().makeFifo({ path: gate, mode: 0o600 });
    fs.writeFileSync(path.join(given.rootfs, "tmp/garbage"), "\x7fELF nonsense", { mode: 0o755 });
    const plan = containerPlan({ rootfs: given.rootfs, args: ["/tmp/garbage"], gate });
    const { pid, pidfd, result } = await given.launch(plan, { until: "ready" });
    open(gate);
    await assert.rejects(native().awaitExec({ result: result! }), {
      message: 'exec: "/tmp/garbage": exec format error',
      errno: "ENOEXEC",
    });
    await native().awaitExit({ pid, pidfd });
    fs.closeSync(pidfd);
    fs.unlinkSync(gate);
  });

  test("a stub that is killed at its gate is no successful exec", async () => {
    const gate = path.join(given.dir, "gate");
    native().makeFifo({ path: gate, mode: 0o600 });
    const { pid, pidfd, result } = await given.launch(
      containerPlan({ rootfs: given.rootfs, args: ["true"], gate }),
      { until: "ready" },
    );
    native().signal({ pidfd, signal: 9 });
    await assert.rejects(native().awaitExec({ result: result! }), /killed before its exec/);
    assert.equal((await native().awaitExit({ pid, pidfd })).status, 137);
    fs.closeSync(pidfd);
    fs.unlinkSync(gate);
  });

  test("a created container starts although nobody listens to its stub any more", async () => {
    const gate = path.join(given.dir, "gate");
    native().makeFifo({ path: gate, mode: 0o600 });
    const { pid, pidfd, result } = await given.launch(
      containerPlan({ rootfs: given.rootfs, args: ["sh", "-c", "exit 8"], gate }),
      { until: "ready" },
    );
    fs.closeSync(result!);
    open(gate);
    assert.equal((await native().awaitExit({ pid, pidfd })).status, 8);
    fs.closeSync(pidfd);
    fs.unlinkSync(gate);
  });

  test("R2: the exit record is there before the process is reaped", async () => {
    const record = path.join(given.dir, "exit");
    const { pid, pidfd } = await given.launch(
      containerPlan({ rootfs: given.rootfs, args: ["sh", "-c", "exit 9"] }),
    );
    const exit = await native().awaitExit({ pid, pidfd, record });
    assert.equal(exit.status, 9);
    assert.deepEqual(JSON.parse(fs.readFileSync(record, "utf8")), {
      status: 9,
      exitedAt: String(exit.exitedAt),
    });
    assert.equal(fs.existsSync(`/proc/${pid}`), false);
    fs.closeSync(pidfd);
  });

  test("R2: an exit that cannot be recorded is an error, and the process is reaped all the same", async () => {
    const { pid, pidfd } = await given.launch(containerPlan({ rootfs: given.rootfs, args: ["true"] }));
    await assert.rejects(native().awaitExit({ pid, pidfd, record: "/no/such/dir/exit" }), {
      errno: "ENOENT",
    });
    assert.equal(fs.existsSync(`/proc/${pid}`), false);
    fs.closeSync(pidfd);
  });

  test("the exit of somebody else's child is read from its record", async () => {
    const record = path.join(given.dir, "foreign");
    const { stdout } = await native().spawn({
      file: "/bin/sh",
      args: ["-c", "sleep 0.2 >/dev/null 2>&1 & echo $!"],
      env: ["PATH=/bin:/usr/bin"],
      timeoutMs: 5000,
    });
    const pid = Number(stdout.toString());
    const pidfd = native().pidfdOpen({ pid });
    assert.ok(pidfd !== undefined);
    fs.writeFileSync(record, '{"status":42,"exitedAt":"1234567890123456789"}\n');
    const exit = await native().awaitExit({ pid, pidfd, record, child: false });
    assert.deepEqual(exit, { status: 42, exitedAt: 1234567890123456789n });
    fs.closeSync(pidfd);
    assert.equal(native().pidfdOpen({ pid: 4194304 }), undefined);
  });

  test("its cgroup is made for it, holds it from its first instruction, and is removed if it fails", async () => {
    const cgroup = given.cgroup();
    const { output } = await given.run("cat /proc/1/cgroup", { cgroup });
    assert.match(output, new RegExp(`^0::.*/${path.basename(cgroup)}$`, "m"));
    await native().cgroupDestroy({ path: cgroup, timeoutMs: 2000 });
    await assert.rejects(given.run("true", { cgroup, rootfs: "/no/such" }));
    assert.equal(fs.existsSync(cgroup), false);
    fs.mkdirSync(cgroup);
    await assert.rejects(given.run("true", { cgroup, rootfs: "/no/such" }));
    assert.equal(fs.existsSync(cgroup), true, "a cgroup that was there before stays");
  });

  test("signals, limits, umask and timer slack are a fresh process's, not Node's", async () => {
    const { output } = await given.run(
      "cat /proc/self/status /proc/self/limits; umask; cat /proc/self/timerslack_ns",
    );
    for (const name of ["SigBlk", "SigIgn", "SigCgt"]) {
      // busybox's shell itself handles SIGINT and the like; nothing may be blocked or ignored.
      if (name !== "SigCgt") assert.match(statusField(output, name), /^0+$/, name);
    }
    assert.match(output, /^Max open files\s+1024\s/m);
    assert.match(output, /^0022$/m);
    assert.equal(statusField(output, "CapInh"), "0000000000000000");
    assert.equal(statusField(output, "NoNewPrivs"), "0");
  });

  test("identity: rlimit, umask, groups, user, capabilities, no_new_privs, directory", async () => {
    const keep = (1n << BigInt(CAP.chown)) | (1n << BigInt(CAP.netBindService));
    const ambient = 1n << BigInt(CAP.netBindService);
    const { status, output } = await given.run("cat /proc/self/status; umask; pwd; ulimit -n; ulimit -Hn", {
      process: (plan) => {
        plan.op(OP.rlimit, { a: 7, x: 123n, y: 456n });
        plan.op(OP.umask, { a: 0o027 });
        plan.op(OP.bounding, { x: keep });
        plan.op(OP.groups, { a: plan.blob(Buffer.from(new Uint32Array([7, 8]).buffer)), b: 2 });
        plan.op(OP.ids, { a: 1000, b: 1001 });
        plan.op(OP.cwd, { c: plan.string("/tmp") });
        plan.op(OP.caps, { x: keep, y: keep, a: u64(plan, ambient), b: u64(plan, ambient) });
        plan.op(OP.noNewPrivs);
      },
    });
    assert.equal(status, 0);
    assert.match(statusField(output, "Uid"), /^1000\s+1000\s+1000\s+1000$/);
    assert.match(statusField(output, "Gid"), /^1001\s+1001\s+1001\s+1001$/);
    assert.equal(statusField(output, "Groups").trim(), "7 8");
    assert.equal(BigInt(`0x${statusField(output, "CapBnd")}`), keep);
    assert.equal(BigInt(`0x${statusField(output, "CapAmb")}`), ambient);
    assert.equal(BigInt(`0x${statusField(output, "CapEff")}`), ambient);
    assert.equal(statusField(output, "NoNewPrivs"), "1");
    assert.match(output, /0027\n\/tmp\n123\n456\n$/);
  });

  test("the tree: directories, links, nodes, files, late read-only, propagation, host name", async () => {
    const { status, output } = await given.run(
      "stat -c '%a %u %g %F' /tmp/a/b; readlink /tmp/l; stat -c '%F %t %T %a %u' /dev/full; cat /tmp/f;" +
        "stat -c '%a' /tmp/f; touch /tmp/x; cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname; cat /proc/self/mountinfo",
      {
        tree: (plan) => {
          const at = (text: string) => plan.string(text);
          mountNew(plan, "tmpfs", "tmpfs", "/tmp", ["mode=1777"]);
          plan.op(OP.mkdir, { c: at("/tmp/a/b"), a: 0o751, x: 5n | (6n << 32n) });
          plan.op(OP.symlink, { c: at("/tmp/l"), a: at("a/b") });
          plan.op(OP.symlink, { c: at("/tmp/l"), a: at("other") });
          plan.op(OP.mknod, { c: at("/dev/full"), a: S_IFCHR | 0o640, b: (1 << 20) | 7, x: 3n });
          plan.op(OP.mknod, { c: at("/dev/full"), a: S_IFCHR | 0o640, b: (1 << 20) | 7 });
          plan.op(OP.mknod, { c: at("/tmp/fifo"), a: S_IFIFO | 0o600 });
          plan.op(OP.writeFile, { c: at("/tmp/f"), a: plan.blob(Buffer.from("one\n")), b: 4, d: 0o604 });
          plan.op(OP.writeFile, {
            c: at("/tmp/f"),
            a: plan.blob(Buffer.from("two\n")),
            b: 4,
            d: 0o604,
            x: 1n,
          });
          plan.op(OP.setAttr, { c: at("/tmp"), x: ATTR.rdonly });
          plan.op(OP.propagate, { c: at("/tmp"), a: MS.shared });
          plan.op(OP.hostname, { subject: "inside" });
          plan.op(OP.domainname, { subject: "domain" });
        },
      },
    );
    assert.equal(status, 0);
    const lines = output.split("\n");
    assert.deepEqual(lines.slice(0, 5), [
      "751 5 6 directory",
      "a/b",
      "character special file 1 7 640 3",
      "two",
      "604",
    ]);
    assert.match(output, /touch: \/tmp\/x: Read-only file system/);
    assert.match(output, /^inside\ndomain$/m);
    assert.match(output, / \/tmp ro,relatime shared:\d+ /);
  });

  test("a node that is something else is not taken for the one asked for", async () => {
    const tree = (plan: PlanWriter): void => {
      plan.op(OP.mknod, { c: plan.string("/dev/null"), a: S_IFCHR | 0o666, b: (1 << 20) | 5 });
    };
    await assert.rejects(given.run("true", { tree }), {
      message: 'making device "/dev/null": exists and is something else',
    });
  });

  test("binds: a file onto a missing file, a directory, an optional source that is absent", async () => {
    const file = path.join(given.dir, "bound");
    fs.writeFileSync(file, "bound\n");
    let fileSlot = NO_SLOT;
    let directorySlot = NO_SLOT;
    let absentSlot = NO_SLOT;
    const { output } = await given.run(
      "cat /tmp/new/file; ls /tmp/new; ls /mnt/etc | head -1; touch /mnt/x",
      {
        opens: (plan) => {
          fileSlot = plan.open(OPEN.tree, { path: file });
          directorySlot = plan.open(OPEN.tree, { path: given.rootfs });
          absentSlot = plan.open(OPEN.tree, { path: "/no/such", flags: 2 });
        },
        tree: (plan) => {
          const at = (text: string) => plan.string(text);
          mountNew(plan, "tmpfs", "tmpfs", "/tmp", []);
          plan.op(OP.mountTree, { a: fileSlot, c: at("/tmp/new/file"), d: MS.private });
          plan.op(OP.mountTree, {
            a: directorySlot,
            c: at("/mnt"),
            x: ATTR.rdonly | ATTR.nosuid,
            d: MS.private,
          });
          plan.op(OP.mountTree, { a: absentSlot, c: at("/tmp/never"), d: MS.private });
        },
      },
    );
    assert.match(output, /^bound\nfile\n/);
    assert.match(output, /touch: \/mnt\/x: Read-only file system/);
  });

  test("masked paths are empty, read-only paths are read-only, absent ones are skipped", async () => {
    const { output } = await given.run(
      "cat /proc/timer_list | wc -c; cat /proc/keys | wc -c; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/hostname; touch /sys/firmware/x",
      {
        tree: (plan) => plan.op(OP.readonly, { c: plan.string("/no/such") }),
      },
    );
    assert.match(output, /^0\n0\n0\n/);
    assert.match(output, /can't create \/proc\/sys\/kernel\/hostname: Read-only file system/);
    assert.match(output, /touch: \/sys\/firmware\/x: Read-only file system/);
  });

  test("sysctls are written in the container's namespaces", async () => {
    const { output } = await given.run(
      "cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward /proc/net/dev",
      {
        process: (plan) => {
          plan.op(OP.sysctl, { c: plan.string("kernel/msgmax"), a: plan.string("12345") });
          plan.op(OP.sysctl, { c: plan.string("net/ipv4/ip_forward"), a: plan.string("1") });
          plan.op(OP.loopbackUp);
        },
      },
    );
    assert.match(output, /^12345\n1\n/);
    assert.match(output, /^\s*lo:/m);
  });

  test("tmpcopyup copies what lies beneath: modes, owners, links, nodes, depth", async () => {
    const root = given.freshRoot();
    const data = path.join(root, "data");
    fs.mkdirSync(path.join(data, "a/b/c"), { recursive: true, mode: 0o711 });
    fs.writeFileSync(path.join(data, "a/b/c/file"), "x".repeat(300_000));
    fs.chmodSync(path.join(data, "a/b/c/file"), 0o4755);
    fs.chownSync(path.join(data, "a"), 11, 22);
    fs.symlinkSync("/etc/passwd", path.join(data, "link"));
    fs.chmodSync(data, 0o1777);
    for (let i = 0; i < 200; i++) fs.writeFileSync(path.join(data, `many-${"n".repeat(60)}-${i}`), "");
    const { output } = await given.run(
      "stat -c '%a' /data; stat -c '%a %s' /data/a/b/c/file; stat -c '%u %g' /data/a; readlink /data/link; ls /data | wc -l; touch /data/new",
      {
        rootfs: root,
        tree: (plan) => {
          mountNew(plan, "tmpfs", "tmpfs", "/data");
          plan.op(OP.copyUp, { c: plan.string("/data") });
        },
      },
    );
    assert.equal(output, "1777\n4755 300000\n11 22\n/etc/passwd\n202\n");
    assert.equal(fs.existsSync(path.join(data, "new")), false);
  });

  test("stdio: /dev/null by default, its owner changed otherwise", async () => {
    const fifo = path.join(given.dir, "owned");
    native().makeFifo({ path: fifo, mode: 0o600 });
    const reader = fs.openSync(fifo, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
    const plan = containerPlan({
      rootfs: given.rootfs,
      stdout: fifo,
      args: ["sh", "-c", "echo to fd 1; stat -Lc %t:%T /dev/fd/0 /proc/self/fd/0"],
      process: (writer) => {
        writer.op(OP.ids, { a: 77, b: 77 });
        writer.op(OP.chownStdio, { a: 77 });
      },
    });
    const { pid, pidfd } = await given.launch(plan);
    await native().awaitExit({ pid, pidfd });
    assert.equal(fs.statSync(fifo).uid, 77);
    fs.closeSync(reader);
    fs.closeSync(pidfd);
  });

  test("a terminal: controlling, sized, at /dev/console, its master comes back", async () => {
    const plan = containerPlan({
      rootfs: given.rootfs,
      args: ["sh", "-c", "tty; stty size; stat -c %F /dev/console; echo to the console > /dev/console"],
      tree: (writer) => writer.op(OP.console, { b: 1, x: (33n << 16n) | 44n }),
      stdio: false,
    });
    for (const name of ["tty", "stty"]) {
      const link = path.join(given.rootfs, "bin", name);
      if (!fs.existsSync(link)) fs.symlinkSync("busybox", link);
    }
    const { pid, pidfd, pty } = await given.launch(plan);
    assert.ok(pty !== undefined);
    const pump = native().pumpCollect({ fd: pty, limit: 4096 });
    const text = (await native().pumpEnd({ pump })).toString();
    await native().awaitExit({ pid, pidfd });
    fs.closeSync(pidfd);
    assert.equal(text, "/dev/pts/0\r\n33 44\r\ncharacter special file\r\nto the console\r\n");
  });

  test("an exec joins the namespaces and the cgroup of a container by a successor", async () => {
    const cgroup = given.cgroup();
    const target = await given.launch(containerPlan({ rootfs: given.rootfs, args: ["sleep", "1000"] }), {
      cgroup,
    });
    const out = path.join(given.dir, "exec-out");
    fs.writeFileSync(out, "");
    const plan = new PlanWriter();
    const types = { ipc: CLONE.newipc, uts: CLONE.newuts, net: CLONE.newnet, mnt: CLONE.newns };
    const slots = Object.entries(types).map(
      ([name, type]) =>
        [plan.open(OPEN.namespace, { path: `/proc/${target.pid}/ns/${name}`, a: type }), type] as const,
    );
    const pidns = plan.open(OPEN.namespace, { path: `/proc/${target.pid}/ns/pid`, a: CLONE.newpid });
    const group = plan.open(OPEN.file, { path: cgroup, flags: 0o10200000, a: 0xffffffff, b: 0xffffffff });
    const stdout = plan.open(OPEN.file, { path: out, flags: 2, a: 0xffffffff, b: 0xffffffff });
    for (const [slot, type] of slots) plan.op(OP.setns, { a: slot, b: type });
    plan.op(OP.successor, { a: pidns, b: group });
    plan.op(OP.stdio, { a: NO_SLOT, b: stdout, c: stdout });
    const argv = plan.list(["sh", "-c", "cat /proc/1/comm; ls /; cat /proc/self/cgroup; exit 5"]);
    const env = plan.list(["PATH=/bin"]);
    plan.op(OP.exec, { a: argv, b: env });
    const exec = await native().launch({ plan: plan.finish({ cloneFlags: 0 }), until: "exec" });
    assert.equal((await native().awaitExit({ pid: exec.pid, pidfd: exec.pidfd })).status, 5);
    const output = fs.readFileSync(out, "utf8");
    assert.match(output, /^sleep\nbin\ndev\netc\n/);
    assert.match(output, new RegExp(`^0::.*/${path.basename(cgroup)}$`, "m"));
    native().signal({ pidfd: target.pidfd, signal: 9 });
    await native().awaitExit({ pid: target.pid, pidfd: target.pidfd });
    for (const { pidfd } of [target, exec]) fs.closeSync(pidfd);
    const zombies = fs
      .readdirSync(`/proc/${process.pid}/task`)
      .map((task) => fs.readFileSync(`/proc/${process.pid}/task/${task}/children`, "utf8").trim());
    assert.equal(zombies.join(""), "", "the first stub was reaped");
  });

  test("overlay roots: short options, and long ones by lowerdir+ or mount(2)", async () => {
    const place = path.join(given.dir, "overlay");
    for (const many of [1, 20]) {
      const work = path.join(place, String(many));
      const lowers = Array.from({ length: many }, (_, i) => `lower-${"l".repeat(30)}-${i}`);
      for (const name of [...lowers, "upper", "work"])
        fs.mkdirSync(path.join(work, name), { recursive: true });
      for (const [i, name] of lowers.entries()) fs.writeFileSync(path.join(work, name, `file${i}`), "");
      const list = [`lowerdir=${[...lowers, given.rootfs].join(":")}`, "upperdir=upper", "workdir=work"];
      const { output } = await given.run("ls / | grep -c file; touch /written; mount | head -1", {
        rootfs: "",
        rootOpen: (plan) => plan.open(OPEN.overlay, { path: work, list }),
      });
      assert.match(output, new RegExp(`^${many}\n`));
      assert.ok(fs.existsSync(path.join(work, "upper/written")));
    }
    const mounts = fs.readFileSync("/proc/self/mountinfo", "utf8");
    assert.ok(!mounts.includes(place), "nothing was mounted on the host");
  });

  test("the process dies with the thread's process only if asked (PDEATHSIG)", async () => {
    const { output } = await given.run("cat /proc/self/status | grep -c Name", {
      process: (plan) => {
        plan.op(OP.ids, { a: 5, b: 5 });
        plan.op(OP.pdeathsig, { a: 9 });
      },
    });
    assert.equal(output, "1\n");
  });

  test("many at once, from two launchers", async () => {
    const done = await Promise.all(Array.from({ length: 24 }, (_, i) => given.run(`exit ${i}`)));
    assert.deepEqual(
      done.map(({ status }) => status),
      Array.from({ length: 24 }, (_, i) => i),
    );
  });

  test("nothing is left: no descriptor, no child, no memory file", async () => {
    await given.run("true");
    const before = descriptors();
    for (let i = 0; i < 20; i++) await given.run("true");
    await assert.rejects(given.run("true", { rootfs: "/no/such" }));
    assert.equal(descriptors(), before);
  });

  test("all namespaces are new, none is the host's", async () => {
    const kinds = ["ipc", "mnt", "net", "pid", "uts", "cgroup"];
    const { output } = await given.run(`for n in ${kinds.join(" ")}; do readlink /proc/self/ns/$n; done`, {
      cloneFlags: ALL_NAMESPACES,
      tree: (plan) => plan.op(OP.unshare, { a: CLONE.newcgroup }),
    });
    const inside = output.trim().split("\n");
    for (const [i, kind] of kinds.entries())
      assert.notEqual(inside[i], fs.readlinkSync(`/proc/self/ns/${kind}`), kind);
    assert.equal(new Set(inside).size, kinds.length);
  });

  function open(gate: string): void {
    const fd = fs.openSync(gate, fs.constants.O_WRONLY | fs.constants.O_NONBLOCK);
    fs.writeSync(fd, "s");
    fs.closeSync(fd);
  }
});
