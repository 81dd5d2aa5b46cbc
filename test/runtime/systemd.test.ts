import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, type TestContext, test } from "node:test";
import { native } from "../../src/native";
import type { Spec } from "../../src/oci/runtime-spec";
import { containerRuntime } from "../../src/runtime";
import { recordPath } from "../../src/runtime/state";
import type { Container, Sandbox } from "../../src/runtime/types";
import { capability } from "../support/capabilities";
import { needs } from "../support/needs";
import { collect, containerOptions, eventually, KeptFds, runtimeOf } from "./fixture";
import { processOf, specOf } from "./specs";

const systemd = needs(capability("systemd"));
const limits = needs(
  capability("systemd"),
  capability("cgroup2:memory"),
  capability("cgroup2:pids"),
  capability("cgroup2:cpu"),
);

const hugetlb = needs(capability("systemd"), capability("cgroup2:hugetlb"));

const SLICE = `isopodtest${process.pid}.slice`;
const systemctl = (...args: string[]) => execFileSync("systemctl", args, { encoding: "utf8" }).trim();
const show = (unit: string, property: string) => systemctl("show", "--value", "--property", property, unit);
/** Unset by systemd once it has forgotten the unit. */
const isLoaded = (unit: string) => show(unit, "LoadState") === "loaded";
const cgroupRoot = (): string => native().features().cgroupRoot;
const unitOf = (id: string): string => `isopod-${id}.scope`;
const cgroupOf = (id: string): string => path.join(cgroupRoot(), SLICE, unitOf(id));
const read = (id: string, file: string): string =>
  fs.readFileSync(path.join(cgroupOf(id), file), "utf8").trim();

after(() => {
  if (!systemd.skip) systemctl("stop", SLICE);
});

function inSlice(id: string, spec: Spec): Spec {
  return { ...spec, linux: { ...spec.linux, cgroupsPath: `${SLICE}:isopod:${id}` } };
}

/** Options of a container that is a scope of our slice. */
function scoped(spec: Spec) {
  const options = containerOptions(spec);
  return { ...options, spec: inSlice(options.id, options.spec) };
}

let pods = 0;
/** Gone after the test, however that ends. */
async function podOf(t: TestContext, more: Parameters<typeof runtimeOf>[0] = {}) {
  const made = runtimeOf(more);
  const id = `s${process.pid}-${pods++}`;
  const sandbox = await made.runtime.sandbox({ id, pid: "pod", cgroupsPath: `${SLICE}:isopod:${id}` });
  t.after(() => sandbox.destroy());
  return { ...made, sandbox, id };
}

async function running(sandbox: Sandbox, spec = specOf(["/bin/sleep", "1000"])): Promise<Container> {
  const container = await sandbox.create(scoped(spec));
  await container.start();
  return container;
}

test("stub and containers are scopes of their own, and go with what they are for", systemd, async (t) => {
  const { sandbox, id, stateDir } = await podOf(t);
  assert.equal(show(unitOf(id), "ActiveState"), "active");
  assert.equal(show(unitOf(id), "Slice"), SLICE);
  assert.equal(show(unitOf(id), "ControlGroup"), `/${SLICE}/${unitOf(id)}`);
  assert.equal(show(unitOf(id), "Description"), `isopod sandbox ${id}`);
  assert.equal(read(id, "cgroup.procs"), String(sandbox.pid));

  const container = await running(sandbox);
  const unit = unitOf(container.id);
  assert.equal(show(unit, "ActiveState"), "active");
  assert.equal(show(unit, "Delegate"), "yes");
  assert.equal(read(container.id, "cgroup.procs"), String(container.pid));
  // An exec is cloned into the cgroup: systemd need not be asked.
  const exec = container.exec({ id: "e", process: processOf(["/bin/sleep", "1000"]), stdio: {} });
  await exec.start();
  assert.deepEqual(
    read(container.id, "cgroup.procs").split("\n").sort(),
    [`${container.pid}`, `${exec.pid}`].sort(),
  );
  // daemon-reload makes systemd look at all it knows.
  systemctl("daemon-reload");
  assert.equal(show(unit, "ActiveState"), "active");

  await container.kill(9);
  await container.exited;
  await container.delete();
  assert.ok(!isLoaded(unit));
  await sandbox.destroy();
  assert.ok(!isLoaded(unitOf(id)));
  assert.ok(!fs.existsSync(cgroupOf(id)));
  assert.deepEqual(fs.readdirSync(stateDir), []);
});

test("a container sees its scope as the root of its cgroup namespace", systemd, async (t) => {
  const { sandbox } = await podOf(t);
  const options = scoped(specOf(["/bin/cat", "/proc/self/cgroup"]));
  const container = await sandbox.create(options);
  const text = collect(options.fifo("stdout"));
  await container.start();
  await container.exited;
  await container.delete();
  assert.match(await text, /^0::\/$/m);
  await sandbox.destroy();
});

test("what a spec's annotations say is set on the unit", systemd, async (t) => {
  const { sandbox } = await podOf(t);
  const spec = specOf(["/bin/sleep", "1000"]);
  const annotations = {
    "org.systemd.property.TimeoutStopSec": "7",
    "org.systemd.property.Documentation": "['man:isopod(1)']",
  };
  const container = await running(sandbox, { ...spec, annotations });
  assert.equal(show(unitOf(container.id), "TimeoutStopUSec"), "7s");
  assert.equal(show(unitOf(container.id), "Documentation"), '"man:isopod(1)"');
  await sandbox.destroy();
});

test("a launch that fails leaves no unit, whatever it fails at", systemd, async (t) => {
  const { sandbox, id, stateDir } = await podOf(t);
  const spec = specOf(["/bin/true"]);
  const before = fs.readdirSync(stateDir);
  const cases: [string, Spec, object][] = [
    ["the stub", { ...spec, root: { path: "/no/such/root" } }, { step: "open" }],
    [
      "systemd",
      { ...spec, annotations: { "org.systemd.property.NoSuchThing": "1" } },
      { step: "start unit", code: "INVALID_ARGUMENT" },
    ],
    [
      "an annotation",
      { ...spec, annotations: { "org.systemd.property.KillMode": "mixed" } },
      { code: "INVALID_ARGUMENT" },
    ],
  ];
  for (const [what, broken, error] of cases) {
    const options = scoped(broken);
    await assert.rejects(sandbox.create(options), error, what);
    assert.ok(!isLoaded(unitOf(options.id)), what);
    assert.ok(!fs.existsSync(cgroupOf(options.id)), what);
  }
  assert.deepEqual(fs.readdirSync(stateDir), before);
  assert.deepEqual(
    fs.readdirSync(path.join(cgroupRoot(), SLICE)).filter((name) => name.endsWith(".scope")),
    [unitOf(id)],
  );
  await sandbox.destroy();
});

test("a living unit of that name is somebody's: refused, and left alone", systemd, async (t) => {
  const { sandbox } = await podOf(t);
  const options = scoped(specOf(["/bin/true"]));
  const unit = unitOf(options.id);
  const child = spawn("systemd-run", ["--scope", "--quiet", "--unit", unit, "sleep", "1000"], {
    stdio: "ignore",
  });
  t.after(() => child.kill("SIGKILL"));
  await eventually(() => assert.equal(show(unit, "ActiveState"), "active"));
  await assert.rejects(sandbox.create(options), { code: "ALREADY_EXISTS", step: "start unit" });
  assert.equal(show(unit, "ActiveState"), "active");
  assert.equal(child.exitCode, null);
  await sandbox.destroy();
});

test("a unit that failed earlier makes room", systemd, async (t) => {
  const { sandbox } = await podOf(t);
  const options = scoped(specOf(["/bin/sleep", "1000"]));
  const unit = unitOf(options.id);
  // A scope without --collect stays loaded when its runtime is over: it has failed.
  try {
    execFileSync("systemd-run", [
      "--scope",
      "--quiet",
      "--unit",
      unit,
      "-p",
      "RuntimeMaxSec=1",
      "sleep",
      "1000",
    ]);
  } catch {}
  await eventually(() => assert.equal(show(unit, "ActiveState"), "failed"));
  const container = await sandbox.create(options);
  assert.equal(show(unit, "ActiveState"), "active");
  assert.equal(show(unit, "Slice"), SLICE);
  await container.kill(9);
  await sandbox.destroy();
  assert.ok(!isLoaded(unit));
});

test("a later server knows the units, and removes them", systemd, async (t) => {
  const store = new KeptFds();
  const { sandbox, stateDir, id } = await podOf(t, { store, dieWithParent: false });
  const container = await running(sandbox);
  const second = containerRuntime({ stateDir, store: new KeptFds(), dieWithParent: false });
  const [found] = await second.recover({ fds: store.handOver(), exits: [] });
  const again = found!.containers.get(container.id)!;
  assert.equal(again.state, "running");
  const exec = again.exec({ id: "e", process: processOf(["/bin/sh", "-c", "exit 3"]), stdio: {} });
  await exec.start();
  assert.equal((await exec.exited).status, 3);
  await found!.destroy();
  for (const unit of [unitOf(id), unitOf(container.id)]) assert.ok(!isLoaded(unit), unit);
});

test("what was being made when the server ended is stopped", systemd, async () => {
  const { stateDir } = runtimeOf();
  const id = `half${process.pid}`;
  const child = spawn(
    "systemd-run",
    ["--scope", "--quiet", "--slice", SLICE, "--unit", unitOf(id), "sleep", "1000"],
    { stdio: "ignore" },
  );
  await eventually(() => assert.equal(show(unitOf(id), "ActiveState"), "active"));
  const record = {
    version: 1,
    kind: "container",
    id,
    pid: 0,
    createdAt: "0",
    bundle: "/x",
    cgroup: cgroupOf(id),
  };
  fs.writeFileSync(
    recordPath(stateDir, id),
    JSON.stringify({ ...record, unit: unitOf(id), stdio: {}, extra: {} }),
  );
  const gone = new Promise((resolve) => child.once("exit", resolve));
  await containerRuntime({ stateDir }).recover({ fds: {}, exits: [] });
  await gone;
  assert.ok(!isLoaded(unitOf(id)));
  assert.deepEqual(fs.readdirSync(stateDir), []);
});

const RESOURCES: NonNullable<Spec["linux"]>["resources"] = {
  memory: { limit: 64 << 20, reservation: 16 << 20 },
  cpu: { shares: 512, quota: 12_345, period: 50_000 },
  pids: { limit: 50 },
  unified: { "memory.high": "60M" },
};

const limited = (resources: typeof RESOURCES): Spec => {
  const spec = specOf(["/bin/sleep", "1000"]);
  return { ...spec, linux: { ...spec.linux, resources: { ...spec.linux?.resources, ...resources } } };
};

/** What both systemd and the kernel say. */
function agreed(id: string) {
  const unit = unitOf(id);
  return {
    memory: [read(id, "memory.max"), show(unit, "MemoryMax")],
    high: [read(id, "memory.high"), show(unit, "MemoryHigh")],
    low: [read(id, "memory.low"), show(unit, "MemoryLow")],
    pids: [read(id, "pids.max"), show(unit, "TasksMax")],
    weight: [read(id, "cpu.weight"), show(unit, "CPUWeight")],
    cpu: [read(id, "cpu.max"), show(unit, "CPUQuotaPerSecUSec"), show(unit, "CPUQuotaPeriodUSec")],
  };
}

test("limits are in the files and known to systemd, and a reload changes neither", limits, async (t) => {
  const { sandbox } = await podOf(t);
  const { id } = await running(sandbox, limited(RESOURCES));
  const expected = {
    memory: [`${64 << 20}`, `${64 << 20}`],
    high: [`${60 << 20}`, `${60 << 20}`],
    low: [`${16 << 20}`, `${16 << 20}`],
    pids: ["50", "50"],
    weight: ["59", "59"],
    // 24.69 %, rounded up.
    cpu: ["12500 50000", "250ms", "50ms"],
  };
  assert.deepEqual(agreed(id), expected);
  systemctl("daemon-reload");
  // Changing a neighbour makes systemd write to the whole slice.
  systemctl("set-property", "--runtime", SLICE, "CPUWeight=50", "MemoryMax=1G", "TasksMax=1000");
  assert.deepEqual(agreed(id), expected);
  await sandbox.destroy();
});

test("a controller that systemd knows nothing of is enabled for the scope", hugetlb, async (t) => {
  const { sandbox } = await podOf(t);
  const spec = limited({ hugepageLimits: [{ pageSize: "2MB", limit: 4 << 20 }] });
  const container = await running(sandbox, spec);
  assert.equal(read(container.id, "hugetlb.2MB.max"), `${4 << 20}`);
  systemctl("daemon-reload");
  await container.update({ hugepageLimits: [{ pageSize: "2MB", limit: 8 << 20 }] });
  assert.equal(read(container.id, "hugetlb.2MB.max"), `${8 << 20}`);
  await sandbox.destroy();
});

test("without a limit there is none, not systemd's default for tasks", limits, async (t) => {
  const { sandbox } = await podOf(t);
  const { id } = await running(sandbox);
  assert.deepEqual(agreed(id).pids, ["max", "infinity"]);
  assert.deepEqual(agreed(id).memory, ["max", "infinity"]);
  await sandbox.destroy();
});

test("an update changes files and unit, or neither", limits, async (t) => {
  const { sandbox } = await podOf(t);
  const container = await running(sandbox, limited(RESOURCES));
  const { id } = container;
  await container.update({ memory: { limit: 128 << 20 }, pids: { limit: -1 }, cpu: { quota: -1 } });
  const changed = agreed(id);
  assert.deepEqual(changed.memory, [`${128 << 20}`, `${128 << 20}`]);
  assert.deepEqual(changed.pids, ["max", "infinity"]);
  // Without a quota the period means nothing; systemd writes its own.
  assert.match(changed.cpu[0]!, /^max /);
  assert.deepEqual(changed.cpu.slice(1), ["infinity", "50ms"]);
  await assert.rejects(container.update({ memory: { limit: 96 << 20 }, cpu: { cpus: "4000" } }));
  assert.deepEqual(agreed(id), changed);
  systemctl("daemon-reload");
  assert.deepEqual(agreed(id), changed);
  await sandbox.destroy();
});

test(
  "a limit and a greedy process end in a count of OOM kills, though systemd is quick to clean",
  limits,
  async (t) => {
    const { sandbox } = await podOf(t);
    const greedy = specOf(["/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1"]);
    const memory = { limit: 20 << 20, swap: 20 << 20 };
    for (let round = 0; round < 10; round++) {
      const container = await running(sandbox, {
        ...greedy,
        linux: { ...greedy.linux, resources: { memory } },
      });
      const { status } = await container.exited;
      assert.equal(status, 137);
      assert.ok((await container.oomKills()) > 0, `round ${round}`);
      await container.delete();
    }
    await sandbox.destroy();
  },
);
