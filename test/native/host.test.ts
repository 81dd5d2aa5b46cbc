import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { after, test } from "node:test";
import { native } from "../../src/native";

const directory = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-host-"));
const netnsDir = path.join(directory, "netns");
const cgroups = path.join(native().features().cgroupRoot, `isopod-test-${process.pid}`);
after(async () => {
  await native().cgroupDestroy({ path: cgroups, timeoutMs: 5000 });
  await native().unmount({ path: directory });
  await native().removeTree({ path: directory });
});

/** A process that sleeps in the cgroup `path`, made for it. */
function sleeper(cgroup: string): number {
  fs.mkdirSync(cgroup, { recursive: true });
  const child = spawn("sleep", ["1000"], { stdio: "ignore" });
  fs.writeFileSync(path.join(cgroup, "cgroup.procs"), String(child.pid));
  return child.pid!;
}

const mounted = (where: string): boolean =>
  fs
    .readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .some((line) => line.split(" ")[4] === where);

test("R7: a network namespace is pinned below a shared directory, with lo up, and goes without a trace", async () => {
  const pins = ["a", "b", "c"].map((name) => path.join(netnsDir, name));
  await Promise.all(pins.map((pin) => native().netnsCreate({ path: pin })));
  const own = fs.readlinkSync("/proc/self/ns/net");
  for (const pin of pins) {
    const inside = execFileSync(
      "nsenter",
      [`--net=${pin}`, "sh", "-c", "readlink /proc/self/ns/net; cat /sys/class/net/lo/flags /proc/net/dev"],
      { encoding: "utf8" },
    );
    assert.notEqual(inside.split("\n")[0], own);
  }
  const lo = execFileSync("nsenter", [`--net=${pins[0]}`, "ip", "-o", "addr", "show", "lo"], {
    encoding: "utf8",
  });
  assert.match(lo, /127\.0\.0\.1/);
  const line = fs
    .readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .find((l) => l.split(" ")[4] === netnsDir);
  assert.match(line ?? "", / shared:\d+ /);
  await assert.rejects(native().netnsCreate({ path: pins[0]! }), { errno: "EEXIST", path: pins[0] });
  for (const pin of pins) {
    await native().netnsDelete({ path: pin });
    await native().netnsDelete({ path: pin });
    assert.equal(mounted(pin), false);
  }
  assert.deepEqual(fs.readdirSync(netnsDir), []);
});

test("a network namespace that cannot be pinned leaves nothing", async () => {
  const pin = path.join(directory, "file", "pin");
  fs.writeFileSync(path.join(directory, "file"), "");
  await assert.rejects(native().netnsCreate({ path: pin }));
});

test("a cgroup with processes and children is emptied and removed", async () => {
  const top = path.join(cgroups, "destroy");
  sleeper(path.join(top, "one"));
  sleeper(path.join(top, "one", "two"));
  await native().cgroupDestroy({ path: top, timeoutMs: 5000 });
  assert.equal(fs.existsSync(top), false);
  await native().cgroupDestroy({ path: top, timeoutMs: 5000 });
});

test("freezing stops and thawing continues", async () => {
  const cgroup = path.join(cgroups, "freeze");
  sleeper(cgroup);
  await native().cgroupFreeze({ path: cgroup, frozen: true, timeoutMs: 5000 });
  assert.match(fs.readFileSync(path.join(cgroup, "cgroup.events"), "utf8"), /frozen 1/);
  await native().cgroupFreeze({ path: cgroup, frozen: false, timeoutMs: 5000 });
  assert.match(fs.readFileSync(path.join(cgroup, "cgroup.events"), "utf8"), /frozen 0/);
  await native().cgroupDestroy({ path: cgroup, timeoutMs: 5000 });
  await assert.rejects(native().cgroupFreeze({ path: cgroup, frozen: true, timeoutMs: 100 }), {
    code: "NOT_FOUND",
  });
});

test("a tree deeper than any path is removed, links and their targets are left alone", async () => {
  const top = path.join(directory, "deep");
  const outside = path.join(directory, "outside");
  fs.mkdirSync(outside);
  fs.writeFileSync(path.join(outside, "kept"), "kept");
  fs.mkdirSync(top);
  fs.symlinkSync(outside, path.join(top, "link"));
  execFileSync(
    "python3",
    ["-c", "import os\nfor i in range(3000):\n os.mkdir('d'); open('f','w').close(); os.chdir('d')"],
    { cwd: top },
  );
  await native().removeTree({ path: top });
  assert.equal(fs.existsSync(top), false);
  assert.equal(fs.readFileSync(path.join(outside, "kept"), "utf8"), "kept");
  await native().removeTree({ path: top });
});

test("a mount below a tree survives its removal", async () => {
  const top = path.join(directory, "volumes");
  const volume = path.join(top, "volume");
  fs.mkdirSync(volume, { recursive: true });
  await native().mount({ type: "tmpfs", source: "tmpfs", target: volume, options: ["size=1m", "nosuid"] });
  fs.writeFileSync(path.join(volume, "data"), "data");
  await assert.rejects(native().removeTree({ path: top }), { errno: "EBUSY" });
  assert.equal(fs.readFileSync(path.join(volume, "data"), "utf8"), "data");
  await native().unmount({ path: volume });
  assert.equal(mounted(volume), false);
});

test("usage counts hard links once and does not follow links", async () => {
  const top = path.join(directory, "usage");
  fs.mkdirSync(path.join(top, "sub"), { recursive: true });
  fs.writeFileSync(path.join(top, "big"), Buffer.alloc(1 << 20, 1));
  fs.linkSync(path.join(top, "big"), path.join(top, "sub", "again"));
  fs.symlinkSync("/usr", path.join(top, "usr"));
  const { bytes, inodes } = await native().diskUsage({ path: top });
  assert.equal(inodes, 4n);
  assert.ok(bytes >= 1n << 20n && bytes < 1n << 21n, `${bytes}`);
  await assert.rejects(native().diskUsage({ path: path.join(top, "absent") }), { code: "NOT_FOUND" });
});

test("a fifo has exactly the mode and owner asked for; one that exists is an error", () => {
  const name = path.join(directory, "fifo");
  native().makeFifo({ path: name, mode: 0o622, uid: 1234, gid: 4321 });
  const status = fs.statSync(name);
  assert.ok(status.isFIFO());
  assert.deepEqual([status.mode & 0o7777, status.uid, status.gid], [0o622, 1234, 4321]);
  assert.throws(() => native().makeFifo({ path: name, mode: 0o600 }), { code: "ALREADY_EXISTS", path: name });
});

test("without NOTIFY_SOCKET there is nobody to notify", () => {
  delete process.env["NOTIFY_SOCKET"];
  assert.equal(native().notify({ state: "READY=1" }), false);
});
