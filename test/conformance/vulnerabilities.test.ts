import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import type { Linux, Spec, SpecMount } from "../../src/oci/runtime-spec";
import type { RunOptions } from "../../src/runtime";
import type { Container } from "../../src/runtime/types";
import { containerOptions, ran, rootfs, runtimeOf, scratch, started, textOf } from "../runtime/fixture";
import { processOf, specOf } from "../runtime/specs";

/**
 * Other runtimes' vulnerabilities, tried on ours: each test is the attack, with an image, a volume or a spec
 * as an attacker would make it. docs/conformance.md has the list.
 */
const ordinary = specOf([]);

const shell = (script: string, more: Partial<Spec> = {}): Spec => specOf(["/bin/sh", "-c", script], more);

const linux = (more: Partial<Linux>): Linux => ({ ...ordinary.linux, ...more });

const bind = (source: string, destination: string): SpecMount => ({
  source,
  destination,
  type: "bind",
  options: ["rbind", "rw"],
});

let made = 0;

function directory(): string {
  const where = path.join(scratch, `hostile-${made++}`);
  fs.mkdirSync(where);
  return where;
}

/** An image of the attacker's own: `prepare` makes it hostile. */
function hostileRoot(prepare: (root: string) => void): { readonly path: string } {
  const root = directory();
  execFileSync("cp", ["-a", `${rootfs}/.`, root]);
  prepare(root);
  return { path: root };
}

async function output(spec: Spec, more: Partial<RunOptions> = {}): Promise<string> {
  const { status, stdout, stderr } = await ran(spec, more);
  assert.equal(status, 0, stderr);
  return stdout;
}

/** A container that was created and waits for its start. */
async function created(spec: Spec): Promise<Container> {
  const { runtime } = runtimeOf();
  const sandbox = await runtime.sandbox({ id: `box-${made++}`, implicit: true });
  return sandbox.create(containerOptions(spec));
}

async function discard(container: Container): Promise<void> {
  await container.kill(9);
  await container.exited;
  await container.delete();
}

test("CVE-2016-9962: a neighbour in its pid namespace sees nothing of a stub that waits", async () => {
  await using neighbour = await started(specOf(["/bin/sleep", "100"]));
  const namespaces = ordinary.linux!.namespaces!.map(({ type }) =>
    type === "pid" ? { type, path: `/proc/${neighbour.pid}/ns/pid` } : { type },
  );
  const waiting = await created(specOf(["/bin/true"], { linux: linux({ namespaces }) }));
  try {
    const status = fs.readFileSync(`/proc/${waiting.pid}/status`, "utf8");
    const inner = /^NSpid:.*\t(\d+)$/m.exec(status)![1]!;
    for (const what of ["ls -l /proc/PID/fd/", "cat /proc/PID/environ", "ls -l /proc/PID/exe"]) {
      const script = `${what.replace("PID", inner)} 2>&1; ls -d /proc/${inner}`;
      const exec = await neighbour.exec(["/bin/sh", "-c", script]);
      const [said] = await Promise.all([textOf(exec.stdout), exec.wait()]);
      await exec.delete();
      assert.match(said, /Permission denied/, what);
      assert.ok(said.endsWith(`/proc/${inner}\n`), "the stub is in sight");
    }
  } finally {
    await discard(waiting);
  }
});

test("CVE-2019-5736: the runtime's executable, reached through a container, cannot be written", async () => {
  const waiting = await created(specOf(["/bin/true"]));
  const exe = fs.openSync(`/proc/${waiting.pid}/exe`, "r");
  try {
    assert.match(fs.readlinkSync(`/proc/${waiting.pid}/exe`), /^\/memfd:/, "no file of the host");
    // While it runs the kernel says ETXTBSY to anybody; the attack waits for the exec and opens it anew.
    await discard(waiting);
    const again = fs.openSync(`/proc/self/fd/${exe}`, "r+");
    try {
      assert.throws(() => fs.writeSync(again, "#!"), { code: "EPERM" });
      assert.throws(() => fs.ftruncateSync(again, 0), { code: "EPERM" });
    } finally {
      fs.closeSync(again);
    }
  } finally {
    fs.closeSync(exe);
  }
  assert.equal(await output(shell("echo unharmed")), "unharmed\n");
});

test("CVE-2019-19921: /proc and /sys that are links of the image are refused", async () => {
  for (const name of ["proc", "sys"]) {
    const root = hostileRoot((at) => {
      fs.rmSync(path.join(at, name), { recursive: true, force: true });
      fs.mkdirSync(path.join(at, "tmp/fake"), { recursive: true });
      fs.symlinkSync("tmp/fake", path.join(at, name));
    });
    await assert.rejects(ran(shell("true", { root })), new RegExp(`"/${name}".*is not a real directory`));
  }
});

test("CVE-2021-30465: a destination that leads through links of the image ends beneath its root", async () => {
  const volume = directory();
  const outside = directory();
  fs.writeFileSync(path.join(volume, "proof"), "here\n");
  const root = hostileRoot((at) => {
    fs.symlinkSync(`../../../../../../..${outside}`, path.join(at, "relative"));
    fs.symlinkSync("/elsewhere", path.join(at, "absolute"));
    fs.mkdirSync(path.join(at, outside), { recursive: true });
    fs.mkdirSync(path.join(at, "elsewhere"));
  });
  const mounts = [...ordinary.mounts!, bind(volume, "/relative/in"), bind(volume, "/absolute/in")];
  const said = await output(shell(`cat ${outside}/in/proof /elsewhere/in/proof`, { root, mounts }));
  assert.equal(said, "here\nhere\n");
  assert.deepEqual(fs.readdirSync(outside), []);
});

test("CVE-2024-21626: no descriptor of the host is left, and none can be the working directory", async () => {
  const open = "for fd in /proc/self/fd/*; do test -e $fd && echo $fd; done; true";
  assert.deepEqual((await output(shell(open))).match(/\d+/g), ["0", "1", "2"]);
  // sysctls and masks leave directories open in the stub: as a working directory they would lead outside.
  const sysctl = { "net.ipv4.ip_forward": "1" };
  for (let fd = 3; fd < 24; fd++) {
    const process = processOf(["/bin/true"], { cwd: `/proc/self/fd/${fd}` });
    await assert.rejects(ran({ ...ordinary, process, linux: linux({ sysctl }) }), /\/proc\/self\/fd/);
  }
});

test("CVE-2024-45310: a mount point that is missing is made beneath the root and nowhere else", async () => {
  const volume = directory();
  const outside = directory();
  const root = hostileRoot((at) => {
    fs.symlinkSync(`../../../../../../..${outside}`, path.join(at, "link"));
    fs.mkdirSync(path.join(at, outside), { recursive: true });
  });
  const mounts = [...ordinary.mounts!, bind(volume, "/link/a/b"), bind(volume, "/made/a/b")];
  const said = await output(shell(`ls -d /made/a/b ${outside}/a/b`, { root, mounts }));
  assert.equal(said, `/made/a/b\n${outside}/a/b\n`);
  assert.deepEqual(fs.readdirSync(outside), []);
});

test("CVE-2025-31133: a masked file shows the host's null device, whatever the container's /dev/null is", async () => {
  const dev = directory();
  fs.symlinkSync("/etc/victim", path.join(dev, "null"));
  fs.symlinkSync("/proc/self/fd", path.join(dev, "fd"));
  const root = hostileRoot((at) => {
    fs.writeFileSync(path.join(at, "etc/secret"), "secret\n");
    fs.writeFileSync(path.join(at, "etc/victim"), "victim\n");
  });
  const mounts = ordinary.mounts!.map((m) => (m.destination === "/dev" ? bind(dev, "/dev") : m));
  const spec = shell("stat -c '%F %t:%T' /etc/secret; cat /etc/secret", {
    root,
    mounts: mounts.filter(({ destination }) => !destination.startsWith("/dev/")),
    linux: linux({ maskedPaths: ["/etc/secret"] }),
  });
  // With an input of its own: without one, the false /dev/null alone would be refused.
  assert.equal(await output(spec, { stdin: "pipe" }), "character special file 1:3\n");
});

test("CVE-2025-52565: a terminal is taken from a devpts, not from a directory that looks like one", async () => {
  const fake = directory();
  execFileSync("mknod", [path.join(fake, "ptmx"), "c", "5", "2"]);
  fs.writeFileSync(path.join(fake, "0"), "not a terminal\n");
  const mounts = ordinary.mounts!.map((m) => (m.destination === "/dev/pts" ? bind(fake, "/dev/pts") : m));
  const process = processOf(["/bin/true"], { terminal: true });
  await assert.rejects(ran({ ...ordinary, process, mounts }), /\/dev\/pts is not a devpts of its own/);
});

test("CVE-2025-52881: a sysctl reaches the kernel, not the file that an image puts in its place", async () => {
  const root = hostileRoot((at) => {
    fs.mkdirSync(path.join(at, "proc/sys/net/ipv4"), { recursive: true });
    fs.writeFileSync(path.join(at, "proc/sys/net/ipv4/ip_forward"), "fake\n");
  });
  const mounts = ordinary.mounts!.map((m) =>
    m.destination === "/proc" ? { ...m, destination: "/real" } : m,
  );
  const spec = shell("cat /proc/sys/net/ipv4/ip_forward /real/sys/net/ipv4/ip_forward", {
    root,
    mounts,
    linux: linux({ sysctl: { "net.ipv4.ip_forward": "1" }, maskedPaths: [], readonlyPaths: [] }),
  });
  assert.equal(await output(spec), "fake\n1\n");
});

test("CVE-2026-41579: devices and links of /dev are made beneath the root, wherever its /dev leads", async () => {
  const outside = directory();
  const root = hostileRoot((at) => {
    fs.rmSync(path.join(at, "dev"), { recursive: true, force: true });
    fs.symlinkSync(`../../../../../../..${outside}`, path.join(at, "dev"));
    fs.mkdirSync(path.join(at, outside), { recursive: true });
  });
  const mounts = ordinary.mounts!.filter(({ destination }) => !destination.startsWith("/dev"));
  const said = await output(
    shell(`stat -c '%n %t:%T' ${outside}/null; readlink ${outside}/stdin`, { root, mounts }),
  );
  assert.equal(said, `${outside}/null 1:3\n/proc/self/fd/0\n`);
  assert.deepEqual(fs.readdirSync(outside), []);
});
