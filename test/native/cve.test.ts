import * as assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { describe, test } from "node:test";
import { NO_SLOT, native, OP, OPEN, PlanWriter } from "../../src/native";
import { ATTR, containerPlan, containers, MS, mountNew, statusField, u64 } from "./busybox";

const S_IFCHR = 0o020000;
const LEAVE = 0xffffffff;

/**
 * Old holes of container runtimes, each as an attack on this one. Many come from a name in a hostile root
 * that leads out of it. The base that a container is built on is empty but for /root and /empty, so a name
 * that escaped shows itself there: what should have happened in the container's /empty did not.
 */
describe("attacks", () => {
  const given = containers();

  /** A root whose `name` is an absolute link to its own /empty. */
  function rootWithLink(name: string): string {
    const root = given.freshRoot();
    fs.mkdirSync(path.join(root, "empty"));
    fs.rmSync(path.join(root, name), { recursive: true, force: true });
    fs.symlinkSync("/empty", path.join(root, name));
    return root;
  }

  test("CVE-2016-9962: before its exec nobody without CAP_SYS_PTRACE may look into the stub", async () => {
    const gate = path.join(given.dir, "ptrace-gate");
    native().makeFifo({ path: gate, mode: 0o600 });
    const stub = await given.launch(
      containerPlan({ rootfs: given.rootfs, args: ["true"], gate, process: (plan) => plan.op(OP.caps, {}) }),
      { until: "ready" },
    );
    // The same user, and no capability that the stub lacks: only "not dumpable" stands between them.
    const attack = await native().spawn({
      file: "/usr/bin/setpriv",
      args: [
        "--bounding-set=-all",
        "--inh-caps=-all",
        "sh",
        "-c",
        `readlink /proc/${stub.pid}/fd/3; cat /proc/${stub.pid}/maps /proc/${stub.pid}/environ`,
      ],
      env: ["PATH=/bin:/usr/bin"],
      timeoutMs: 5000,
    });
    native().signal({ pidfd: stub.pidfd, signal: 9 });
    await native().awaitExit({ pid: stub.pid, pidfd: stub.pidfd });
    for (const fd of [stub.pidfd, stub.result!]) fs.closeSync(fd);
    assert.match(attack.stderr.toString(), /Permission denied/);
    assert.equal(attack.stdout.toString(), "");
  });

  test("CVE-2019-5736: the stub's image cannot be written, by anybody, at any time", async () => {
    const gate = path.join(given.dir, "image-gate");
    native().makeFifo({ path: gate, mode: 0o600 });
    const stub = await given.launch(containerPlan({ rootfs: given.rootfs, args: ["true"], gate }), {
      until: "ready",
    });
    const image = fs.openSync(`/proc/${stub.pid}/exe`, "r");
    native().signal({ pidfd: stub.pidfd, signal: 9 });
    await native().awaitExit({ pid: stub.pid, pidfd: stub.pidfd });
    for (const fd of [stub.pidfd, stub.result!]) fs.closeSync(fd);
    // Nobody executes it now, so ETXTBSY no longer protects it.
    const byte = Buffer.alloc(1);
    fs.readSync(image, byte, 0, 1, 0);
    assert.throws(() => {
      const writable = fs.openSync(`/proc/self/fd/${image}`, "r+");
      try {
        fs.writeSync(writable, byte, 0, 1, 0);
      } finally {
        fs.closeSync(writable);
      }
    }, /EPERM|EROFS/);
    fs.closeSync(image);
    assert.equal((await given.run("exit 6")).status, 6);
  });

  // CVE-2023-27561 and CVE-2023-28642 were the same hole, opened again.
  for (const [place, type, link] of [
    ["/proc", "proc", "/tmp"],
    ["/proc", "proc", "tmp"],
    ["/sys", "sysfs", "/tmp"],
  ] as const)
    test(`CVE-2019-19921: ${place} that is a link to ${link} in the image gets no ${type}`, async () => {
      const root = given.freshRoot();
      const name = path.join(root, place);
      fs.rmdirSync(name);
      fs.symlinkSync(link, name);
      await assert.rejects(given.run("true", { rootfs: root }), {
        message: `mounting "${type}" at "${place}": is not a real directory`,
      });
    });

  test("CVE-2021-30465: a mount's destination is resolved inside the root", async () => {
    const { output } = await given.run("cat /proc/self/mountinfo", {
      rootfs: rootWithLink("data"),
      tree: (plan) => mountNew(plan, "tmpfs", "tmpfs", "/data"),
    });
    assert.match(output, / \/empty .* tmpfs /);
  });

  test("CVE-2021-30465: a destination that is swapped all the time never leads out", async () => {
    const volume = path.join(given.dir, "swapped");
    fs.mkdirSync(path.join(volume, "a"), { recursive: true });
    fs.mkdirSync(path.join(volume, "b"));
    fs.rmdirSync(path.join(volume, "a"));
    // The attacker flips a/b between a directory and a link that climbs to the root.
    const swapper = native().spawn({
      file: "/bin/sh",
      args: [
        "-c",
        "while [ -e b ]; do ln -sfn ../../../../../../../../empty a; rm a; mkdir a; rmdir a; done",
      ],
      cwd: volume,
      env: ["PATH=/bin:/usr/bin"],
      timeoutMs: 20_000,
    });
    const before = given.mounts();
    for (let i = 0; i < 30; i++) {
      let slot = NO_SLOT;
      const ran = given.run("grep -c victim /proc/self/mountinfo; ls /", {
        opens: (plan) => (slot = plan.open(OPEN.tree, { path: volume })),
        tree: (plan) => {
          plan.op(OP.mountTree, { a: slot, c: plan.string("/vol"), d: MS.private });
          mountNew(plan, "tmpfs", "victim", "/vol/a");
        },
      });
      const outcome = await ran.catch((error: Error & { errno?: string }) => error);
      // Mounted in the container (until the attacker's rmdir takes it away again), or the race is an error.
      if (outcome instanceof Error) assert.match(outcome.message, /^mounting "tmpfs" at "\/vol\/a": /);
      else assert.match(outcome.output, /^[01]\n/);
    }
    fs.rmdirSync(path.join(volume, "b"));
    await swapper;
    assert.deepEqual(given.mounts(), before);
  });

  test("CVE-2022-29162: inheritable capabilities are none unless the plan says so", async () => {
    const { output } = await given.run("cat /proc/self/status", {
      process: (plan) => {
        plan.op(OP.caps, {
          x: ~0n & native().features().effectiveCapabilities,
          y: native().features().effectiveCapabilities,
          a: u64(plan, 1n),
        });
        plan.op(OP.caps, { x: 1n, y: 1n });
      },
    });
    assert.match(statusField(output, "CapInh"), /^0+$/);
  });

  test("CVE-2024-21626: a working directory through /proc/self/fd leads nowhere", async () => {
    for (let fd = 3; fd < 16; fd++) {
      await assert.rejects(
        given.run("pwd", {
          opens: (plan) => plan.open(OPEN.file, { path: "/", flags: 0o10200000, a: LEAVE, b: LEAVE }),
          process: (plan) => plan.op(OP.cwd, { c: plan.string(`/proc/self/fd/${fd}`) }),
        }),
        { step: "cwd" },
        `descriptor ${fd}`,
      );
    }
  });

  test("CVE-2024-21626: a container's first process has descriptors 0, 1 and 2 and no other", async () => {
    const { output } = await given.run("exec ls /proc/1/fd", {
      opens: (plan) => plan.open(OPEN.file, { path: "/", flags: 0o200000, a: LEAVE, b: LEAVE }),
    });
    // 3 is the directory that ls reads.
    assert.equal(output, "0\n1\n2\n3\n");
  });

  test("CVE-2024-21626: no program is executed through a descriptor that is closed only by the exec", async () => {
    for (let fd = 4; fd < 20; fd++)
      await assert.rejects(
        given.launch(
          containerPlan({
            rootfs: given.rootfs,
            args: [`/proc/self/fd/${fd}/bin/busybox`, "true"],
            opens: (plan) => plan.open(OPEN.file, { path: "/", flags: 0o10200000, a: LEAVE, b: LEAVE }),
          }),
        ),
        { step: "exec" },
        `descriptor ${fd}`,
      );
  });

  test("CVE-2024-21626: what Node has inherited without close-on-exec does not reach the stub", () => {
    const leaked = fs.openSync("/etc", "r");
    const script = path.join(__dirname, "inherited.js");
    const { stdout } = spawnSync(process.execPath, [script], {
      stdio: ["ignore", "pipe", "inherit", leaked],
    });
    fs.closeSync(leaked);
    const open = JSON.parse(stdout.toString()) as string[];
    assert.deepEqual(
      open.filter((name) => name !== "/dev/null" && !name.endsWith("/gate") && !name.startsWith("socket:")),
      [],
    );
    assert.equal(open.length, 5);
  });

  test("CVE-2024-45310: directories are made inside the root, one component at a time", async () => {
    const { output } = await given.run("ls /empty; ls /empty/one", {
      rootfs: rootWithLink("data"),
      tree: (plan) => plan.op(OP.mkdir, { c: plan.string("/data/one/two"), a: 0o755 }),
    });
    assert.equal(output, "one\ntwo\n");
  });

  test("CVE-2025-31133: what stands at /dev/null in the image is neither trusted nor opened", async () => {
    const root = given.freshRoot();
    fs.symlinkSync("/proc/sys/kernel/hostname", path.join(root, "dev/null"));
    fs.writeFileSync(path.join(root, "secret"), "secret\n");
    // The usual plan brings a /dev of its own; this one takes the image's.
    const plan = new PlanWriter();
    const base = plan.open(OPEN.fd, { a: 0 });
    const tree = plan.open(OPEN.tree, { path: root });
    plan.op(OP.enterBase, { a: base });
    plan.op(OP.attachRoot, { a: tree, b: MS.private });
    mountNew(plan, "proc", "proc", "/proc");
    plan.op(OP.pivot);
    plan.op(OP.stdio, { a: NO_SLOT, b: NO_SLOT, c: NO_SLOT });
    const argv = plan.list(["/bin/true"]);
    plan.op(OP.exec, { a: argv, b: argv });
    await assert.rejects(given.launch(plan.finish({ cloneFlags: 0x20000000 })), {
      message: /is not the null device/,
    });
  });

  test("CVE-2025-31133: a mask is the host's null device, whatever the container has", async () => {
    const root = given.freshRoot();
    fs.writeFileSync(path.join(root, "secret"), "secret\n");
    let nothing = NO_SLOT;
    const { output } = await given.run("cat /secret; echo x > /secret; stat -c '%t %T' /secret", {
      rootfs: root,
      opens: (plan) => (nothing = plan.open(OPEN.device, { path: "/dev/null", a: 1, b: 3, flags: S_IFCHR })),
      tree: (plan) => plan.op(OP.mask, { c: plan.string("/secret"), a: nothing }),
    });
    assert.equal(output, "1 3\n");
    assert.equal(fs.readFileSync(path.join(root, "secret"), "utf8"), "secret\n");
    await assert.rejects(
      given.run("true", {
        opens: (plan) => plan.open(OPEN.device, { path: "/dev/zero", a: 1, b: 3, flags: S_IFCHR }),
      }),
      { message: 'opening "/dev/zero": not the device asked for' },
    );
  });

  test("CVE-2025-52565: a console is made only in a real devpts, and never bound through a link", async () => {
    const terminal = (rootfs: string, tree: (plan: PlanWriter) => void) =>
      given.launch(
        containerPlan({
          rootfs,
          args: ["true"],
          stdio: false,
          tree: (plan) => {
            tree(plan);
            plan.op(OP.console, { b: 1 });
          },
        }),
      );
    await assert.rejects(
      terminal(given.rootfs, (plan) => {
        mountNew(plan, "tmpfs", "tmpfs", "/dev/pts");
        plan.op(OP.mknod, { c: plan.string("/dev/pts/ptmx"), a: S_IFCHR | 0o666, b: (5 << 20) | 2 });
      }),
      { step: "console", message: /not a devpts of its own/ },
    );
    await assert.rejects(
      terminal(given.rootfs, (plan) =>
        plan.op(OP.symlink, { c: plan.string("/dev/console"), a: plan.string("/proc/sys/kernel/hostname") }),
      ),
      { step: "console", errno: "ELOOP" },
    );
  });

  test("CVE-2025-52881: a sysctl is written in a procfs of our own, not where the container put something", async () => {
    const decoy = path.join(given.dir, "decoy");
    fs.writeFileSync(decoy, "untouched\n");
    let slot = NO_SLOT;
    const { output } = await given.run(
      "cat /proc/sys/kernel/msgmax; umount /proc/sys/kernel/msgmax; cat /proc/sys/kernel/msgmax",
      {
        opens: (plan) => (slot = plan.open(OPEN.tree, { path: decoy })),
        tree: (plan) =>
          plan.op(OP.mountTree, { a: slot, c: plan.string("/proc/sys/kernel/msgmax"), d: MS.private }),
        process: (plan) => plan.op(OP.sysctl, { c: plan.string("kernel/msgmax"), a: plan.string("4321") }),
      },
    );
    assert.equal(fs.readFileSync(decoy, "utf8"), "untouched\n");
    assert.match(output, /^untouched\n/);
  });

  test("CVE-2026-41579: nodes of a /dev that is a link in the image are made inside the root", async () => {
    const root = rootWithLink("devices");
    const { output } = await given.run("ls /empty", {
      rootfs: root,
      tree: (plan) =>
        plan.op(OP.mknod, { c: plan.string("/devices/zero"), a: S_IFCHR | 0o600, b: (1 << 20) | 5 }),
    });
    assert.equal(output, "zero\n");
  });

  test("CVE-2026-47766: a file written below a link of the image is written inside the root", async () => {
    const { output } = await given.run("cat /empty/file", {
      rootfs: rootWithLink("conf"),
      tree: (plan) => {
        const bytes = Buffer.from("inside\n");
        plan.op(OP.writeFile, {
          c: plan.string("/conf/file"),
          a: plan.blob(bytes),
          b: bytes.length,
          d: 0o644,
        });
      },
    });
    assert.equal(output, "inside\n");
  });

  test("CVE-2025-24965: a file that is a link in the image is rewritten where it leads inside the root", async () => {
    const root = given.freshRoot();
    const victim = path.join(given.dir, "victim");
    fs.writeFileSync(victim, "host\n");
    fs.mkdirSync(path.join(root, path.dirname(victim)), { recursive: true });
    fs.writeFileSync(path.join(root, victim), "image\n");
    fs.symlinkSync(victim, path.join(root, "config"));
    const bytes = Buffer.from("written\n");
    const write = (x: bigint) =>
      given.run(`cat ${victim}`, {
        rootfs: root,
        tree: (plan) =>
          plan.op(OP.writeFile, {
            c: plan.string("/config"),
            a: plan.blob(bytes),
            b: bytes.length,
            d: 0o644,
            x,
          }),
      });
    await assert.rejects(write(0n), { errno: "EEXIST" });
    assert.equal((await write(1n)).output, "written\n");
    assert.equal(fs.readFileSync(victim, "utf8"), "host\n");
    // Devices and FIFOs are not written into.
    fs.rmSync(path.join(root, victim));
    native().makeFifo({ path: path.join(root, victim), mode: 0o600 });
    await assert.rejects(write(1n), { message: 'writing "/config": is not a regular file' });
  });

  test("the late read-only word reaches the mount it names, not what a link names", async () => {
    const { output } = await given.run("touch /empty/x /tmp/y", {
      rootfs: rootWithLink("data"),
      tree: (plan) => {
        mountNew(plan, "tmpfs", "tmpfs", "/empty");
        mountNew(plan, "tmpfs", "tmpfs", "/tmp");
        plan.op(OP.setAttr, { c: plan.string("/data"), x: ATTR.rdonly });
      },
    });
    assert.equal(output, "touch: /empty/x: Read-only file system\n");
  });
});
