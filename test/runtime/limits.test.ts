import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import type { Resources, Spec } from "../../src/oci/runtime-spec";
import { capability } from "../support/capabilities";
import { needs } from "../support/needs";
import { cgroupParent, eventually } from "./fixture";
import { contained, fileOf, root, shell } from "./limits-fixture";
import { processOf } from "./specs";

/** Limits as the kernel takes them: written, read back, all or nothing. How they are felt: felt.test.ts. */

const hugetlb = capability("cgroup2:hugetlb");
const memory = capability("cgroup2:memory");
const cpu = capability("cgroup2:cpu");
const pids = capability("cgroup2:pids");
const cpuset = capability("cgroup2:cpuset");

const MB = 1 << 20;
const sleep = shell("sleep 100");

const withResources = (resources: Resources, spec: Spec = sleep): Spec => ({
  ...spec,
  linux: { ...spec.linux, resources: { ...spec.linux?.resources, ...resources } },
});

const ROWS: readonly (readonly [
  need: object,
  resources: Resources,
  files: Readonly<Record<string, string>>,
])[] = [
  [
    hugetlb,
    {
      hugepageLimits: [{ pageSize: "2MB", limit: 4 * MB }],
      unified: { "cgroup.max.depth": "2", "cgroup.max.descendants": "5" },
    },
    {
      "hugetlb.2MB.max": `${4 * MB}`,
      "hugetlb.2MB.rsvd.max": `${4 * MB}`,
      "cgroup.max.depth": "2",
      "cgroup.max.descendants": "5",
    },
  ],
  [
    hugetlb,
    { hugepageLimits: [{ pageSize: "2MB", limit: 0 }], unified: { "hugetlb.2MB.rsvd.max": `${2 * MB}` } },
    { "hugetlb.2MB.max": "0", "hugetlb.2MB.rsvd.max": `${2 * MB}` },
  ],
  [
    memory,
    {
      memory: { limit: 32 * MB, swap: 40 * MB, reservation: 8 * MB },
      unified: { "memory.high": `${16 * MB}`, "memory.min": `${4 * MB}`, "memory.oom.group": "1" },
    },
    {
      "memory.max": `${32 * MB}`,
      "memory.swap.max": `${8 * MB}`,
      "memory.low": `${8 * MB}`,
      "memory.high": `${16 * MB}`,
      "memory.min": `${4 * MB}`,
      "memory.oom.group": "1",
    },
  ],
  [memory, { memory: { limit: -1 } }, { "memory.max": "max", "memory.swap.max": "max" }],
  [
    memory,
    { memory: { limit: 32 * MB, swap: 32 * MB }, unified: { "memory.max": `${48 * MB}` } },
    { "memory.max": `${48 * MB}`, "memory.swap.max": "0" },
  ],
  [
    cpu,
    { cpu: { shares: 1024, quota: 50000, period: 200000, burst: 20000 } },
    { "cpu.weight": "100", "cpu.max": "50000 200000", "cpu.max.burst": "20000" },
  ],
  [
    cpu,
    { cpu: { quota: -1, period: 50000, idle: 1, shares: 512 } },
    { "cpu.max": "max 50000", "cpu.idle": "1" },
  ],
  [
    cpuset,
    { cpu: { cpus: "0", mems: "0" }, pids: { limit: 33 }, unified: { "io.weight": "default 200" } },
    { "cpuset.cpus": "0", "cpuset.mems": "0", "pids.max": "33", "io.weight": "default 200" },
  ],
];

for (const [need, resources, files] of ROWS)
  test(`read back: ${JSON.stringify(resources)}`, needs(need), async (t) => {
    const { container } = await contained(t, withResources(resources));
    for (const [file, value] of Object.entries(files)) assert.equal(fileOf(container, file), value, file);
  });

test(
  "read back: io.max of a disk, and the rates that are not asked for",
  needs(capability("blockdev")),
  async (t) => {
    const { device } = capability("blockdev") as { device: string };
    const [major = 0, minor = 0] = device.split(":").map(Number);
    const { container } = await contained(
      t,
      withResources({
        blockIO: {
          throttleReadBpsDevice: [{ major, minor, rate: MB }],
          throttleWriteIOPSDevice: [{ major, minor, rate: 100 }],
        },
      }),
    );
    assert.equal(fileOf(container, "io.max"), `${device} rbps=${MB} wbps=max riops=max wiops=100`);
    await container.update({ blockIO: { throttleReadBpsDevice: [{ major, minor, rate: 0 }] } });
    assert.equal(fileOf(container, "io.max"), `${device} rbps=max wbps=max riops=max wiops=100`);
    const failing = container.update({
      blockIO: {
        throttleWriteBpsDevice: [
          { major, minor, rate: 5 },
          { major: 4000, minor: 7, rate: 5 },
        ],
      },
    });
    await assert.rejects(failing, /resources\.blockIO\.throttleWriteBpsDevice/);
    assert.equal(fileOf(container, "io.max"), `${device} rbps=max wbps=max riops=max wiops=100`);
  },
);

test("controllers are handed down all the way to a container's cgroup", needs(memory, cpuset), async (t) => {
  const cgroupsPath = `${cgroupParent}/deep/deeper/down-${process.pid}`;
  const spec = withResources({ memory: { limit: 32 * MB }, cpu: { cpus: "0" } });
  const { container } = await contained(t, { ...spec, linux: { ...spec.linux, cgroupsPath } });
  const cgroup = path.join(root, cgroupsPath);
  assert.equal(fs.readFileSync(path.join(cgroup, "memory.max"), "utf8").trim(), `${32 * MB}`);
  assert.equal(fs.readFileSync(path.join(cgroup, "cpuset.cpus"), "utf8").trim(), "0");
  assert.ok(container.pid > 0);
});

// --- what cannot be set fails the create, by name, and leaves nothing ---

const IMPOSSIBLE: readonly (readonly [need: object, resources: Resources, message: RegExp])[] = [
  [
    hugetlb,
    { hugepageLimits: [{ pageSize: "3MB", limit: 1 }] },
    /linux\.resources\.hugepageLimits\[0\]\.limit: setting limit "1" at ".*hugetlb\.3MB\.max": no such file/,
  ],
  [
    hugetlb,
    { unified: { "cgroup.max.depth": "5", "cgroup.max.descendants": "many" } },
    /linux\.resources\.unified\[cgroup\.max\.descendants\]: setting limit "many" at ".*": invalid argument/,
  ],
  [
    hugetlb,
    { unified: { "hugetlb.2MB.current": "5" } },
    /linux\.resources\.unified\[hugetlb\.2MB\.current\]: .*(permission denied|invalid argument)/,
  ],
  [cpuset, { cpu: { cpus: "0-4000" } }, /linux\.resources\.cpu\.cpus: setting limit "0-4000" at /],
  [
    cpu,
    { cpu: { quota: 5 } },
    /linux\.resources\.cpu\.quota: setting limit "5 100000" at .*invalid argument/,
  ],
];

for (const [need, resources, message] of IMPOSSIBLE)
  test(`a limit that cannot be set leaves nothing: ${JSON.stringify(resources)}`, needs(need), async (t) => {
    const parent = path.join(root, cgroupParent);
    const before = fs.existsSync(parent) ? subdirectories(parent) : [];
    await assert.rejects(contained(t, withResources(resources)), message);
    const left = subdirectories(parent).filter((name) => !before.includes(name));
    assert.deepEqual(left, []);
  });

const subdirectories = (directory: string): string[] =>
  fs
    .readdirSync(directory, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => name);

test("the settings of a cgroup that was there before are put back when the launch fails", async (t) => {
  const cgroupsPath = `${cgroupParent}/mine-${process.pid}`;
  const cgroup = path.join(root, cgroupsPath);
  fs.mkdirSync(cgroup, { recursive: true });
  fs.writeFileSync(path.join(cgroup, "cgroup.max.depth"), "9");
  const limited = withResources({ unified: { "cgroup.max.depth": "3", "cgroup.max.descendants": "4" } });
  const spec: Spec = {
    ...limited,
    process: { ...limited.process!, args: ["/bin/none"] },
    linux: { ...limited.linux, cgroupsPath },
  };
  await assert.rejects(contained(t, spec), /"\/bin\/none"/);
  const value = (file: string) => fs.readFileSync(path.join(cgroup, file), "utf8").trim();
  assert.deepEqual([value("cgroup.max.depth"), value("cgroup.max.descendants")], ["9", "max"]);
});

test("a parent that is threaded is refused, with what it is", async (t) => {
  const parent = path.join(root, cgroupParent, "threads");
  const threaded = path.join(parent, "inner");
  fs.mkdirSync(threaded, { recursive: true });
  fs.writeFileSync(path.join(threaded, "cgroup.type"), "threaded");
  const cgroupsPath = `${cgroupParent}/threads/inner/box`;
  await assert.rejects(contained(t, { ...sleep, linux: { ...sleep.linux, cgroupsPath } }), {
    code: "FAILED_PRECONDITION",
    message: /inner": cgroup\.type is "threaded": a container needs a domain cgroup/,
  });
  assert.deepEqual(subdirectories(threaded), []);
});

test(
  "an exec joins the first process where the container has cgroups of its own",
  needs(hugetlb),
  async (t) => {
    const spec = shell(`
    cd /sys/fs/cgroup && mkdir init other && echo 0 > init/cgroup.procs &&
    echo +hugetlb > cgroup.subtree_control && echo ready; sleep 100`);
    const mounts = spec.mounts!.map((mount) =>
      mount.type === "cgroup" ? { ...mount, options: ["rw", "nosuid", "nodev", "noexec"] } : mount,
    );
    const { container } = await contained(t, { ...spec, mounts });
    const cgroup = path.join(root, cgroupParent, container.id);
    await eventually(() => assert.equal(fileOf(container, "cgroup.subtree_control"), "hugetlb"));
    const exec = container.exec({ id: "e", process: processOf(["/bin/sleep", "100"]), stdio: {} });
    await exec.start();
    const members = fs.readFileSync(path.join(cgroup, "init/cgroup.procs"), "utf8").split("\n");
    assert.ok(members.includes(`${exec.pid}`));
    await exec.kill(9);
    await exec.exited;
    await exec.delete();
  },
);

// --- update ---

test("an update takes hold in every state but stopped, all of it or nothing", needs(hugetlb), async (t) => {
  const { container } = await contained(t, withResources({ unified: { "cgroup.max.depth": "2" } }), false);
  const depth = () => fileOf(container, "cgroup.max.depth");
  const set = (value: string) => container.update({ unified: { "cgroup.max.depth": value } });
  await set("3");
  assert.equal(depth(), "3", "created");
  await container.start();
  await set("4");
  assert.equal(depth(), "4", "running");
  await container.pause();
  await set("5");
  assert.equal(depth(), "5", "paused");
  await container.resume();

  await assert.rejects(
    container.update({
      hugepageLimits: [{ pageSize: "2MB", limit: 2 * MB }],
      unified: { "cgroup.max.depth": "6", "cgroup.max.descendants": "many" },
    }),
    /^IsopodError: resources\.unified\[cgroup\.max\.descendants\]: setting limit "many"/,
  );
  assert.deepEqual(
    [depth(), fileOf(container, "hugetlb.2MB.max"), fileOf(container, "cgroup.max.descendants")],
    ["5", "max", "max"],
  );
  await assert.rejects(container.update({ memory: { swappiness: 5 } }), /resources\.memory\.swappiness: 5/);

  await container.kill(9);
  await container.exited;
  await assert.rejects(set("7"), { code: "FAILED_PRECONDITION", message: /is stopped/ });
});

test("devices may come along with an update, unchanged", needs(hugetlb), async (t) => {
  const devices = [
    { allow: false, access: "rwm" },
    { allow: true, type: "c", major: 1, minor: 3, access: "rw" },
  ];
  const { container } = await contained(t, withResources({ devices }));
  const copy = devices.map(({ access, ...rest }) => ({ access, ...rest }));
  await container.update({ devices: copy, unified: { "cgroup.max.depth": "1" } });
  assert.equal(fileOf(container, "cgroup.max.depth"), "1");
  await assert.rejects(container.update({ devices: devices.slice(0, 1) }), {
    code: "UNIMPLEMENTED",
    message: /resources\.devices/,
  });
});

test("updates at once come one after the other", needs(hugetlb), async (t) => {
  const { container } = await contained(t, sleep);
  const values = Array.from({ length: 20 }, (_, i) => `${i + 1}`);
  await Promise.all(values.map((value) => container.update({ unified: { "cgroup.max.depth": value } })));
  assert.equal(fileOf(container, "cgroup.max.depth"), "20");
});

test("an update of a running container: memory, cpu, pids", needs(memory, cpu, pids, cpuset), async (t) => {
  const { container } = await contained(
    t,
    withResources({ memory: { limit: 64 * MB, swap: 64 * MB }, cpu: { quota: 20000, burst: 10000 } }),
  );
  await container.update({
    memory: { limit: 96 * MB, swap: 100 * MB },
    cpu: { quota: 80000, period: 200000, burst: 60000, shares: 512 },
    pids: { limit: 50 },
  });
  const now = () =>
    ["memory.max", "memory.swap.max", "cpu.max", "cpu.max.burst", "cpu.weight", "pids.max"].map((file) =>
      fileOf(container, file),
    );
  const held = [`${96 * MB}`, `${4 * MB}`, "80000 200000", "60000", "59", "50"];
  assert.deepEqual(now(), held);
  await assert.rejects(
    container.update({
      memory: { limit: 48 * MB, swap: 48 * MB },
      cpu: { quota: 10000, burst: 1000, shares: 2, cpus: "0-4000" },
      pids: { limit: 3 },
    }),
    /resources\.cpu\.cpus: setting limit "0-4000"/,
  );
  assert.deepEqual(now(), held, "rolled back");
  await container.update({ cpu: { quota: 10000, burst: 1000 } });
  assert.equal(fileOf(container, "cpu.max"), "10000 200000", "the burst went down first");
  await assert.rejects(
    container.update({ memory: { limit: 4096, swap: 4096, checkBeforeUpdate: true } }),
    /resources\.memory\.limit: 4096: below the \d+ bytes in use/,
  );
  await container.update({ cpu: { idle: 1 } });
  assert.equal(fileOf(container, "cpu.idle"), "1");
  await container.update({ cpu: { shares: 1024 } });
  await container.update({ cpu: { idle: 0 } });
  assert.deepEqual([fileOf(container, "cpu.idle"), fileOf(container, "cpu.weight")], ["0", "100"]);
});

test("a later server knows what an update has changed", needs(hugetlb), async (t) => {
  const { container, recovered } = await contained(t, sleep, true, true);
  await container.update({ unified: { "cgroup.max.depth": "3" }, cpu: { shares: 0 } });
  const again = await recovered();
  await again.update({ unified: { "cgroup.max.descendants": "9" } });
  const values = ["cgroup.max.depth", "cgroup.max.descendants"].map((file) => fileOf(container, file));
  assert.deepEqual(values, ["3", "9"]);
});

test("and completes it with what the next one says", needs(cpu), async (t) => {
  const spec = withResources({ cpu: { quota: 20000, period: 50000 } });
  const { container, recovered } = await contained(t, spec, true, true);
  await container.update({ cpu: { quota: 30000 } });
  const again = await recovered();
  await again.update({ cpu: { period: 100000 } });
  assert.equal(fileOf(container, "cpu.max"), "30000 100000");
});

test("a container that is deleted while its limits change leaves nothing", needs(hugetlb), async (t) => {
  const { container } = await contained(t, sleep);
  const cgroup = path.join(root, cgroupParent, container.id);
  await container.kill(9);
  const updating = container.update({ unified: { "cgroup.max.depth": "3" } }).catch(() => {});
  await container.exited;
  await Promise.all([updating, container.delete()]);
  await eventually(() => assert.equal(fs.existsSync(cgroup), false));
});
