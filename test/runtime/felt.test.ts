import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import type { Resources, Spec } from "../../src/oci/runtime-spec";
import { capability } from "../support/capabilities";
import { needs } from "../support/needs";
import { cgroupParent, eventually, rootfs } from "./fixture";
import { contained, root, shell } from "./limits-fixture";
import { specOf } from "./specs";

/** Limits as the process feels them. Needs controllers that only cgroup v2 hosts have: docs/testbed.md. */

const memory = capability("cgroup2:memory");
const cpu = capability("cgroup2:cpu");
const MB = 1 << 20;

const limited = (spec: Spec, resources: Resources): Spec => ({
  ...spec,
  linux: { ...spec.linux, resources: { ...spec.linux?.resources, ...resources } },
});

/** Holds this many MB at once, touched. */
const greedy = (mb: number) => specOf(["/bin/dd", "if=/dev/zero", "of=/dev/null", `bs=${mb}M`, "count=1"]);
const noSwap = (mb: number) => ({ memory: { limit: mb * MB, swap: mb * MB } });

/** As a shim server is: the last process that the kernel would take. */
function beUnkillable(): () => void {
  const before = fs.readFileSync("/proc/self/oom_score_adj", "utf8");
  fs.writeFileSync("/proc/self/oom_score_adj", "-1000");
  return () => fs.writeFileSync("/proc/self/oom_score_adj", before);
}

test(
  "R5: a 20 MB limit and a greedy process end OOM-killed, and the server at -1000 survives",
  needs(memory, capability("cap-sys-resource")),
  async (t) => {
    t.after(beUnkillable());
    const { container } = await contained(t, limited(greedy(64), noSwap(20)));
    const told: string[] = [];
    container.onOom(() => void told.push(container.state));
    assert.equal((await container.exited).status, 137);
    assert.equal(await container.oomKills(), 1);
    assert.deepEqual(told, ["running"], "told once, and before the exit");
    const { memoryEvents } = await container.stats();
    assert.equal(memoryEvents?.["oom_kill"], 1n);
    const next = await contained(t, shell("echo still here"));
    assert.equal(await ended(next), "still here\n");
  },
);

async function ended({ container, output }: Awaited<ReturnType<typeof contained>>): Promise<string> {
  await container.exited;
  return output;
}

test("an OOM kill is known at the exit, whether or not anybody listened", needs(memory), async (t) => {
  for (let i = 0; i < 2; i++) {
    const { container } = await contained(t, limited(greedy(64), noSwap(20)));
    assert.equal((await container.exited).status, 137);
    assert.equal(await container.oomKills(), 1);
  }
});

test(
  "a kill of something else than the first process is told while the container runs on",
  needs(memory),
  async (t) => {
    const script = "dd if=/dev/zero of=/dev/null bs=64M count=1; echo status $?; sleep 100";
    const { container } = await contained(t, limited(shell(script), noSwap(20)), false);
    const told = new Promise<void>((resolve) => container.onOom(resolve));
    await container.start();
    await told;
    assert.equal(container.state, "running");
    assert.equal(await container.oomKills(), 1);
  },
);

test("a kill within a cgroup of the container's own counts as the container's", needs(memory), async (t) => {
  const script = `
    cd /sys/fs/cgroup && mkdir init inner && echo 0 > init/cgroup.procs &&
    echo +memory > cgroup.subtree_control && echo 10485760 > inner/memory.max && echo 0 > inner/memory.swap.max
    sh -c 'echo 0 > inner/cgroup.procs; exec dd if=/dev/zero of=/dev/null bs=64M count=1'
    echo status $?; sleep 100`;
  const spec = shell(script);
  const mounts = spec.mounts!.map((mount) =>
    mount.type === "cgroup" ? { ...mount, options: ["rw", "nosuid", "nodev", "noexec"] } : mount,
  );
  const { container } = await contained(t, { ...spec, mounts }, false);
  const told = new Promise<void>((resolve) => container.onOom(resolve));
  await container.start();
  await told;
  assert.equal(container.state, "running");
  assert.equal(await container.oomKills(), 1);
});

test(
  "a kill for the pod's limit counts as the container's whose process it took",
  needs(memory),
  async (t) => {
    const pod = path.join(root, cgroupParent, "pod");
    fs.mkdirSync(pod, { recursive: true });
    const spec = greedy(64);
    const cgroupsPath = `${cgroupParent}/pod/greedy`;
    const { container } = await contained(t, { ...spec, linux: { ...spec.linux, cgroupsPath } }, false);
    fs.writeFileSync(path.join(pod, "memory.max"), `${20 * MB}`);
    fs.writeFileSync(path.join(pod, "memory.swap.max"), "0");
    await container.start();
    assert.equal((await container.exited).status, 137);
    assert.equal(await container.oomKills(), 1);
  },
);

test("memory.oom.group takes all of the container's processes", needs(memory), async (t) => {
  const script = "sleep 100 & dd if=/dev/zero of=/dev/null bs=64M count=1; echo alive; sleep 100";
  const spec = limited(shell(script), { ...noSwap(20), unified: { "memory.oom.group": "1" } });
  const { container, output } = await contained(t, spec);
  assert.equal((await container.exited).status, 137);
  assert.equal(await output, "");
});

/** From the least that may be asked for: not enough for the stub, for its mounts, for the program, enough. */
const SMALL = [512, 640, 768, 1024, 1536, 2048, 4096];

test("R5: a limit that is too low for the launch ends it, clearly, and hangs nothing", {
  ...needs(memory, capability("cap-sys-resource")),
  timeout: 120_000,
}, async (t) => {
  t.after(beUnkillable());
  for (const kb of SMALL) {
    const spec = limited(shell("true"), { memory: { limit: kb << 10, swap: kb << 10 } });
    const outcome = await contained(t, spec)
      .then(async ({ container }) => `status ${(await container.exited).status}`)
      .catch(String);
    t.diagnostic(`${kb} KiB: ${outcome}`);
    assert.match(outcome, /^status (0|137)$|memory\.max is too low/, `${kb} KiB`);
  }
});

test("swap is for those who may", needs(memory, capability("swap")), async (t) => {
  const without = await contained(t, limited(greedy(40), noSwap(20)));
  assert.equal((await without.container.exited).status, 137);
  const swapping = { memory: { limit: 20 * MB, swap: 80 * MB } };
  const script = "dd if=/dev/zero of=/dev/null bs=40M count=1 2>/dev/null && echo survived";
  const spec = limited(shell(script), swapping);
  const box = await contained(t, spec);
  assert.equal(await ended(box), "survived\n");
  const { memory: reading } = await box.container.stats();
  assert.equal(reading?.limit, BigInt(20 * MB));
  assert.equal(reading?.swap?.limit, BigInt(60 * MB));
});

test("a quota holds a busy process back", needs(cpu), async (t) => {
  const spec = limited(shell("while :; do :; done"), { cpu: { quota: 5000, period: 50000 } });
  const { container } = await contained(t, spec);
  const throttled = async () => (await container.stats()).cpu.throttling!;
  while ((await throttled()).throttled < 3n) await new Promise((resolve) => setTimeout(resolve, 50));
  const { periods, throttledUsec } = await throttled();
  assert.ok(periods >= 3n);
  assert.ok(throttledUsec > 0n);
  await container.update({ cpu: { quota: -1 } });
  const free = await throttled();
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal((await throttled()).throttled, free.throttled, "and no longer");
});

test("a frozen container burns nothing", needs(cpu, memory), async (t) => {
  const { container } = await contained(t, limited(shell("while :; do :; done"), noSwap(20)));
  await container.pause();
  const used = async () => (await container.stats()).cpu.usageUsec;
  const before = await used();
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.equal(await used(), before);
  await container.update({ memory: { limit: 32 * MB, swap: 32 * MB } });
  await container.resume();
  while ((await used()) === before) await new Promise((resolve) => setTimeout(resolve, 20));
});

test("forks are refused beyond pids.max", needs(capability("cgroup2:pids")), async (t) => {
  const script = "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; wait";
  const { container, output } = await contained(t, limited(shell(script), { pids: { limit: 4 } }));
  await container.exited;
  assert.match(await output, /can't fork/);
  const { pids } = await container.stats();
  assert.equal(pids?.limit, 4n);
  assert.ok(pids.refused > 0n);
});

test(
  "a cpuset is where the process runs, and moves with an update",
  needs(capability("cgroup2:cpuset")),
  async (t) => {
    const tell = "grep Cpus_allowed_list /proc/self/status";
    const script = `${tell} > /tmp/before; while [ ! -e /tmp/go ]; do sleep 0.05; done; ${tell}`;
    const box = await contained(t, limited(shell(script), { cpu: { cpus: "0" } }));
    const file = (name: string) => path.join(rootfs, "tmp", name);
    await eventually(() => assert.equal(fs.readFileSync(file("before"), "utf8"), "Cpus_allowed_list:\t0\n"));
    await box.container.update({ cpu: { cpus: "1" } });
    fs.writeFileSync(file("go"), "");
    assert.equal(await ended(box), "Cpus_allowed_list:\t1\n");
  },
);

test(
  "huge pages end where their limit is",
  needs(capability("cgroup2:hugetlb"), capability("hugepages")),
  async (t) => {
    const script =
      "busybox fallocate -l 2097152 /huge/one && echo one; busybox fallocate -l 4194304 /huge/two || echo no more";
    const spec = limited(shell(script), { hugepageLimits: [{ pageSize: "2MB", limit: 2 * MB }] });
    const mounts = [
      ...spec.mounts!,
      { destination: "/huge", type: "hugetlbfs", source: "none", options: ["pagesize=2M"] },
    ];
    const box = await contained(t, { ...spec, mounts });
    assert.match(await ended(box), /^one\nno more\n/);
    const size = (await box.container.stats()).hugetlb?.find(({ pageSize }) => pageSize === "2MB");
    assert.equal(size?.limit, BigInt(2 * MB));
    assert.ok(size.failures > 0n);
  },
);

test("io.max slows the disk down", needs(capability("blockdev")), async (t) => {
  const { device, dir } = capability("blockdev") as { device: string; dir: string };
  const [major = 0, minor = 0] = device.split(":").map(Number);
  const volume = fs.mkdtempSync(path.join(dir, "io-"));
  t.after(() => fs.rmSync(volume, { recursive: true, force: true }));
  const script = "dd if=/dev/zero of=/v/f bs=64k count=48 oflag=direct";
  const spec = limited(shell(script), {
    blockIO: { throttleWriteBpsDevice: [{ major, minor, rate: MB }] },
  });
  const mounts = [
    ...spec.mounts!,
    { destination: "/v", type: "bind", source: volume, options: ["bind", "rw"] },
  ];
  const { container } = await contained(t, { ...spec, mounts }, false);
  const begin = process.hrtime.bigint();
  await container.start();
  assert.equal((await container.exited).status, 0);
  // 3 MB at 1 MB a second: however slow the machine, it cannot be sooner.
  const took = Number(process.hrtime.bigint() - begin) / 1e9;
  assert.ok(took > 2, `${took} s`);
  const reading = (await container.stats()).io?.find((one) => one.major === major && one.minor === minor);
  assert.ok((reading?.wbytes ?? 0n) >= BigInt(3 * MB));
});

test(
  "readings have every controller and its pressure",
  needs(memory, cpu, capability("psi"), capability("cgroup2:pids"), capability("cgroup2:io")),
  async (t) => {
    const { container } = await contained(t, limited(specOf(["/bin/sleep", "100"]), noSwap(20)));
    const stats = await container.stats();
    assert.ok(stats.cpu.throttling);
    assert.ok(stats.memory!.usage > 0n && stats.memory!.usage < BigInt(20 * MB));
    // Its values come late, but they come.
    assert.notEqual(stats.memory!.stat["anon"], undefined);
    assert.equal(stats.memory!.limit, BigInt(20 * MB));
    assert.equal(stats.pids!.current, 1n);
    for (const pressure of [stats.cpu.pressure, stats.memory!.pressure, stats.ioPressure])
      assert.equal(typeof pressure?.some.total, "bigint");
    assert.ok(stats.memoryEvents?.["max"] !== undefined);
  },
);
