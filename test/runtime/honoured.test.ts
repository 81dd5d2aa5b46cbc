import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { native } from "../../src/native";
import type { Linux, Process, Spec, SpecMount } from "../../src/oci/runtime-spec";
import { defaultSeccomp } from "../../src/runtime";
import {
  containerOptions,
  ownMounts,
  ran,
  rootfs,
  runtimeOf,
  scratch,
  started,
  textOf,
  watched,
} from "./fixture";
import { CAPABILITIES, processOf, specOf } from "./specs";

/** What a spec asks for, seen from inside: each member that is honoured, in a container that runs. */
async function inside(
  script: string,
  more: Omit<Partial<Spec>, "process"> & { process?: Partial<Process> } = {},
): Promise<string> {
  const { process, ...rest } = more;
  const spec = specOf([], { ...rest, process: processOf(["/bin/sh", "-c", script], process) });
  const { status, stdout, stderr } = await ran(spec);
  assert.equal(status, 0, stderr);
  return stdout;
}

const linux = (more: Partial<Linux>): { linux: Linux } => ({ linux: { ...specOf([]).linux, ...more } });
const mounts = (...more: SpecMount[]): { mounts: SpecMount[] } => ({
  mounts: [...specOf([]).mounts!, ...more],
});
const status = (field: string): string => `grep ^${field}: /proc/self/status | cut -f2`;

let volumes = 0;
function volume(): string {
  const dir = path.join(scratch, `volume-${volumes++}`);
  fs.mkdirSync(dir);
  fs.writeFileSync(path.join(dir, "file"), "content\n");
  return dir;
}

test("user, groups, umask and working directory", async () => {
  const user = { uid: 1234, gid: 5678, umask: 0o027, additionalGids: [10, 20] };
  const output = await inside("id -u; id -g; id -G; umask; pwd; echo $HOME", {
    process: { user, cwd: "/new/dir" },
  });
  assert.equal(output, "1234\n5678\n5678 10 20\n0027\n/new/dir\n/\n");
});

test("capabilities: each set as given, ambient ones reach a user's program", async () => {
  const three = ["CAP_NET_RAW", "CAP_CHOWN", "CAP_KILL"];
  const capabilities = {
    bounding: three,
    permitted: three,
    effective: ["CAP_KILL"],
    inheritable: ["CAP_KILL"],
    ambient: ["CAP_KILL"],
  };
  const user = { uid: 1000, gid: 1000 };
  const output = await inside(
    ["Inh", "Prm", "Eff", "Bnd", "Amb"].map((set) => status(`Cap${set}`)).join(";"),
    {
      process: { capabilities, user },
    },
  );
  const [kill, all] = ["0000000000000020", "0000000000002021"];
  assert.deepEqual(output.trim().split("\n"), [kill, kill, kill, all, kill]);
});

test("CVE-2022-29162: root in a container has no inheritable capability, nor has an exec", async () => {
  await using container = await started(specOf(["/bin/sleep", "100"]));
  const exec = await container.exec(["/bin/sh", "-c", status("CapInh")]);
  assert.equal(await textOf(exec.stdout), "0000000000000000\n");
  await exec.wait();
  await exec.delete();
  assert.equal(await inside(status("CapInh")), "0000000000000000\n");
});

test("no_new_privs and the seccomp filter", async () => {
  const seccomp = defaultSeccomp(CAPABILITIES, {
    arch: native().features().arch,
    kernel: native().features().kernel,
  });
  const script = `${status("NoNewPrivs")}; ${status("Seccomp")}; mount -t tmpfs x /tmp 2>&1; true`;
  for (const noNewPrivileges of [true, false]) {
    const output = await inside(script, { ...linux({ seccomp }), process: { noNewPrivileges } });
    assert.equal(output, `${Number(noNewPrivileges)}\n2\nmount: permission denied (are you root?)\n`);
  }
});

test("rlimits", async () => {
  const rlimits = [
    { type: "RLIMIT_NOFILE", soft: 100, hard: 200 },
    { type: "RLIMIT_CORE", soft: 0, hard: 0 },
  ];
  assert.equal(await inside("ulimit -Sn; ulimit -Hn; ulimit -c", { process: { rlimits } }), "100\n200\n0\n");
});

test("a soft limit of open files that Node raised does not reach the container", async () => {
  assert.equal(await inside("ulimit -Sn"), "1024\n");
});

test("oom_score_adj, of the container and of an exec in it", async () => {
  const process = processOf(["/bin/sleep", "100"], { oomScoreAdj: 321 });
  await using container = await started(specOf([], { process }));
  assert.equal(fs.readFileSync(`/proc/${container.pid}/oom_score_adj`, "utf8"), "321\n");
  const exec = await container.exec(["/bin/cat", "/proc/self/oom_score_adj"]);
  assert.equal(await textOf(exec.stdout), "321\n");
  await exec.wait();
  await exec.delete();
});

test("environment: exactly what the spec says, and HOME", async () => {
  assert.equal(
    await inside("env | sort", { process: { env: ["A=1", "PATH=/bin", "A=2"] } }),
    "A=2\nHOME=/root\nPATH=/bin\nPWD=/\nSHLVL=1\n",
  );
});

test("domain name and sysctls", async () => {
  const output = await inside(
    "cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax",
    {
      domainname: "example.test",
      ...linux({ sysctl: { "net.ipv4.ip_forward": "1", "kernel.msgmax": "9000" } }),
    },
  );
  assert.equal(output, "example.test\n1\n9000\n");
});

test("masked files are empty, masked directories too, read-only paths cannot be written", async () => {
  const output = await inside(
    "wc -c < /proc/keys; ls /sys/firmware | wc -l; touch /sys/firmware/x 2>&1; echo 1 > /proc/sys/kernel/msgmax",
    { ...linux({ maskedPaths: ["/proc/keys", "/sys/firmware", "/not/there"] }) },
  ).catch((error: Error) => error.message);
  assert.match(output, /can't create \/proc\/sys\/kernel\/msgmax: Read-only file system/);
  assert.match(
    await inside("wc -c < /proc/keys; ls /sys/firmware | wc -l; touch /sys/firmware/x 2>&1; true"),
    /^0\n0\ntouch: .*Read-only file system\n$/,
  );
});

test("a read-only root is one, and its volumes are not", async () => {
  const source = volume();
  const output = await inside("touch /x 2>&1; touch /v/y && echo written", {
    root: { path: "rootfs", readonly: true },
    ...mounts({ destination: "/v", type: "bind", source, options: ["rbind", "rw"] }),
  });
  assert.equal(output, "touch: /x: Read-only file system\nwritten\n");
});

test("binds of directories and files, writable, read-only and recursively so", async () => {
  const source = volume();
  fs.mkdirSync(path.join(source, "sub"));
  execFileSync("mount", ["-t", "tmpfs", "isopod-test", path.join(source, "sub")]);
  try {
    const output = await inside(
      "cat /a/file; touch /b/x 2>&1; touch /b/sub/x && echo below; touch /c/sub/x 2>&1; cat /etc/one; ls /d/sub",
      mounts(
        { destination: "/a", type: "bind", source, options: ["bind"] },
        { destination: "/b", type: "bind", source, options: ["rbind", "ro"] },
        { destination: "/c", type: "bind", source, options: ["rbind", "rro"] },
        { destination: "/d", type: "bind", source, options: ["bind"] },
        { destination: "/etc/one", type: "bind", source: path.join(source, "file"), options: ["bind", "ro"] },
      ),
    );
    assert.equal(
      output,
      "content\ntouch: /b/x: Read-only file system\nbelow\ntouch: /c/sub/x: Read-only file system\ncontent\n",
    );
  } finally {
    execFileSync("umount", [path.join(source, "sub")]);
  }
});

test("tmpfs with options and copied content, mqueue, devpts, cgroup", async () => {
  const output = await inside(
    "stat -c %a /t; ls /etc/passwd; grep -c passwd /proc/self/mountinfo; cut -d' ' -f5 /proc/self/mountinfo | sort | tr '\\n' ' '; test -f /sys/fs/cgroup/cgroup.procs && cat /sys/fs/cgroup/cgroup.procs | wc -l",
    mounts(
      { destination: "/t", type: "tmpfs", source: "tmpfs", options: ["mode=1711", "size=64k"] },
      { destination: "/etc", type: "tmpfs", source: "tmpfs", options: ["tmpcopyup", "mode=755"] },
    ),
  ).catch((error: Error) => error.message);
  assert.match(output, /^1711\n\/etc\/passwd\n0\n\/ \/dev \/dev\/mqueue \/dev\/pts \/dev\/shm \/etc \/proc /);
});

test("devices: the default ones, those of the spec, and what the rules allow of them", async () => {
  const devices = [
    { path: "/dev/mine/loop", type: "b", major: 7, minor: 0, fileMode: 0o640, uid: 3, gid: 4 },
  ];
  const script =
    "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; stat -c '%a %u %g %t %T' /dev/mine/loop; readlink /dev/fd; readlink /dev/ptmx; head -c1 /dev/mine/loop 2>&1 | head -1; head -c2 /dev/zero | wc -c";
  const output = await inside(script, linux({ devices }));
  assert.match(output, /^640 3 4 7 0\n\/proc\/self\/fd\npts\/ptmx\nhead: .*Operation not permitted\n2\n$/);
});

test("a device whose node was made may be used only as the rules say", async () => {
  const spec = linux({
    devices: [{ path: "/dev/kmsg", type: "c", major: 1, minor: 11 }],
    resources: {
      devices: [
        { allow: false, access: "rwm" },
        { allow: true, type: "c", major: 1, minor: 11, access: "w" },
      ],
    },
  });
  assert.match(await inside("head -c1 /dev/kmsg 2>&1 | head -1", spec), /Operation not permitted/);
});

test("R8: what a container mounts inside a volume stays inside, what the host mounts comes in if asked", async () => {
  const source = volume();
  for (const dir of ["in", "out"]) fs.mkdirSync(path.join(source, dir));
  execFileSync("mount", ["--bind", source, source]);
  execFileSync("mount", ["--make-shared", source]);
  const capabilities = {
    bounding: ["CAP_SYS_ADMIN"],
    permitted: ["CAP_SYS_ADMIN"],
    effective: ["CAP_SYS_ADMIN"],
  };
  const script = "mount -t tmpfs in /v/in && echo ready; read x; ls /v/out";
  const seenOnHost = async (words: string[], expected: { host: boolean; inside: boolean }): Promise<void> => {
    const spec = specOf([], {
      process: processOf(["/bin/sh", "-c", script], { capabilities }),
      ...mounts({ destination: "/v", type: "bind", source, options: ["rbind", ...words] }),
      ...linux({ rootfsPropagation: words.includes("rshared") ? "rshared" : "" }),
    });
    const container = await started(spec, { stdin: "pipe" });
    const output = watched(container.stdout);
    await output.until("ready");
    const table = fs.readFileSync("/proc/self/mountinfo", "utf8");
    assert.equal(table.includes(`${source}/in `), expected.host, words.join());
    execFileSync("mount", ["-t", "tmpfs", "out", path.join(source, "out")]);
    fs.writeFileSync(path.join(source, "out/new"), "");
    container.stdin!.end("go\n");
    assert.equal((await output.end).includes("new"), expected.inside, words.join());
    await container.wait();
    await container.delete();
    for (const dir of ["out", ...(expected.host ? ["in"] : [])])
      execFileSync("umount", [path.join(source, dir)]);
  };
  try {
    await seenOnHost([], { host: false, inside: true });
    await seenOnHost(["rslave"], { host: false, inside: true });
    await seenOnHost(["rprivate"], { host: false, inside: false });
    await seenOnHost(["private"], { host: false, inside: false });
    await seenOnHost(["rshared"], { host: true, inside: true });
  } finally {
    execFileSync("umount", ["-R", source]);
  }
});

test("an overlay of layers is mounted in the container alone", async () => {
  const dirs = ["lower", "upper", "work"].map((name) => path.join(scratch, `overlay-${name}`));
  for (const dir of dirs) fs.mkdirSync(dir);
  const [lower, upper, work] = dirs as [string, string, string];
  fs.writeFileSync(path.join(lower, "layered"), "below\n");
  const options = [`lowerdir=${lower}:${rootfs}`, `upperdir=${upper}`, `workdir=${work}`];
  const before = ownMounts();
  const spec = specOf(["/bin/sh", "-c", "cat /layered; echo above > /layered; echo done; sleep 100"]);
  const container = await started(spec, { rootfs: [{ type: "overlay", source: "overlay", options }] });
  await watched(container.stdout).until("done");
  assert.deepEqual(ownMounts(), before);
  await container[Symbol.asyncDispose]();
  assert.equal(fs.readFileSync(path.join(lower, "layered"), "utf8"), "below\n");
  assert.ok(fs.existsSync(path.join(upper, "bin")) === false);
});

test("namespaces that are not named are the caller's, named paths are joined", async () => {
  const { runtime } = runtimeOf();
  const sandbox = await runtime.sandbox({ id: "ns", implicit: true });
  const options = containerOptions(
    specOf(["/bin/sleep", "100"], {
      linux: { namespaces: [{ type: "mount" }, { type: "uts" }, { type: "pid" }] },
    }),
  );
  const first = await sandbox.create(options);
  const ns = (pid: number | string, name: string): string => fs.readlinkSync(`/proc/${pid}/ns/${name}`);
  for (const name of ["net", "ipc", "cgroup"]) assert.equal(ns(first.pid, name), ns("self", name), name);
  for (const name of ["mnt", "uts", "pid"]) assert.notEqual(ns(first.pid, name), ns("self", name), name);
  const other = await runtime.sandbox({ id: "ns2", implicit: true });
  const second = await other.create(
    containerOptions(
      specOf(["/bin/sleep", "100"], {
        linux: {
          namespaces: [
            { type: "mount" },
            { type: "uts", path: `/proc/${first.pid}/ns/uts` },
            { type: "pid", path: `/proc/${first.pid}/ns/pid` },
          ],
        },
      }),
    ),
  );
  for (const name of ["uts", "pid"]) assert.equal(ns(second.pid, name), ns(first.pid, name), name);
  assert.notEqual(ns(second.pid, "mnt"), ns(first.pid, "mnt"));
  await other.destroy();
  await sandbox.destroy();
});

test("a mount namespace is joined as it stands", async () => {
  await using host = await started(specOf(["/bin/sh", "-c", "echo here > /tmp/mark; echo up; sleep 100"]));
  await watched(host.stdout).until("up");
  const namespaces: Linux["namespaces"] = [
    { type: "mount", path: `/proc/${host.pid}/ns/mnt` },
    { type: "pid", path: `/proc/${host.pid}/ns/pid` },
  ];
  const { hostname: _none, ...spec } = specOf(["/bin/sh", "-c", "cat /tmp/mark; pwd"]);
  const { stdout } = await ran({ ...spec, root: { path: "/" }, mounts: [], linux: { namespaces } });
  assert.equal(stdout, "here\n/\n");
});

test("containers die with the process that ran them", async () => {
  const script = `
    const { run } = require(${JSON.stringify(path.resolve(__dirname, "../../src"))});
    run(process.argv[1]).then((container) => { console.log(container.pid); setInterval(() => {}, 1000); });
  `;
  const bundle = path.join(scratch, "orphan");
  fs.mkdirSync(bundle);
  const spec = specOf(["/bin/sleep", "1000"], { root: { path: rootfs } });
  fs.writeFileSync(path.join(bundle, "config.json"), JSON.stringify(spec));
  const { spawn } = await import("node:child_process");
  const child = spawn(process.execPath, ["-e", script, bundle], { stdio: ["ignore", "pipe", "inherit"] });
  const pid = Number(
    await new Promise<string>((resolve) => child.stdout.once("data", (data) => resolve(String(data)))),
  );
  assert.ok(fs.existsSync(`/proc/${pid}`));
  child.kill("SIGKILL");
  for (let i = 0; i < 100 && fs.existsSync(`/proc/${pid}/exe`); i++)
    await new Promise((r) => setTimeout(r, 20));
  assert.equal(fs.existsSync(`/proc/${pid}/exe`), false);
});
