import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import Long from "long";
import { runtime } from "../../src/gen/cri";
import { capability } from "../support/capabilities";
import type { Daemon } from "../support/daemon";
import { cgroup2Mount } from "../support/host";
import { needs } from "../support/needs";
import {
  containerConfig,
  create,
  execute,
  exited,
  logged,
  removePod,
  run,
  runPod,
  shell,
  startPodDaemon,
} from "../support/pods";
import { until } from "../support/processes";

/** What kubelet asks for in LinuxContainerResources, written, read back, and felt by the process. */
type Limits = runtime.v1.ILinuxContainerResources;
const { ContainerState: State, NamespaceMode } = runtime.v1;
const FAILED_PRECONDITION = 9;
const MIB = 1 << 20;
const memory = capability("cgroup2:memory");
const cpu = capability("cgroup2:cpu");

const limited = needs(memory, cpu, capability("cgroup2:pids"), capability("cgroup2:cpuset"));
/** The one controller that also hybrid hosts give to cgroup2. */
const huge = needs(capability("cgroup2:hugetlb"));
let daemon: Daemon;
before(async () => {
  if (!limited.skip || !huge.skip) daemon = await startPodDaemon();
});
after(() => daemon?.end());

const long = (value: number) => Long.fromNumber(value);
const withLimits = (resources: Limits) => ({ container: { linux: { resources } } });
const number = (value: unknown) => Number(String(value));

/** A file of the container's cgroup, as the host sees it. */
const cgroupFile = (id: string, file: string) =>
  fs.readFileSync(path.join(cgroup2Mount()!, daemon.cgroupParent, id, file), "utf8").trim();

const resourcesOf = async (containerId: string) =>
  (await daemon.cri.ContainerStatus({ containerId })).status!.resources!.linux!;

/** Allocates so many MiB at once, and says that it could. */
const greedy = (mib: number) => `dd if=/dev/zero of=/dev/null bs=${mib}M count=1 2>/dev/null && echo had it`;

test("every limit of CRI is written where the kernel reads it, and told by status", limited, async () => {
  const resources: Limits = {
    cpuPeriod: long(50_000),
    cpuQuota: long(25_000),
    cpuShares: long(512),
    memoryLimitInBytes: long(64 * MIB),
    memorySwapLimitInBytes: long(96 * MIB),
    oomScoreAdj: long(321),
    cpusetCpus: "0",
    cpusetMems: "0",
    hugepageLimits: [{ pageSize: "2MB", limit: Long.fromNumber(2 * MIB, true) }],
    unified: { "memory.high": String(60 * MIB), "memory.oom.group": "1", "pids.max": "17" },
  };
  const { id, podId, log } = await run(
    daemon,
    shell("grep Cpus_allowed_list /proc/self/status; cat /proc/self/oom_score_adj; exec sleep 1000"),
    withLimits(resources),
  );
  const read = (file: string) => cgroupFile(id, file);
  assert.equal(read("cpu.max"), "25000 50000");
  assert.equal(read("cpu.weight"), "59");
  assert.equal(read("memory.max"), String(64 * MIB));
  assert.equal(read("memory.swap.max"), String(32 * MIB));
  assert.equal(read("memory.high"), String(60 * MIB));
  assert.equal(read("memory.oom.group"), "1");
  assert.equal(read("pids.max"), "17");
  assert.equal(read("cpuset.cpus"), "0");
  assert.equal(read("cpuset.mems"), "0");
  assert.equal(read("hugetlb.2MB.max"), String(2 * MIB));
  await logged(log, "Cpus_allowed_list:\t0");
  await logged(log, "321");
  const told = await resourcesOf(id);
  for (const key of [
    "cpuPeriod",
    "cpuQuota",
    "cpuShares",
    "memoryLimitInBytes",
    "memorySwapLimitInBytes",
  ] as const)
    assert.equal(number(told[key]), number(resources[key]), key);
  assert.deepEqual(told.unified, resources.unified);
  assert.equal(told.cpusetCpus, "0");
  // An exec is in the same cgroup.
  const forked = await execute(daemon, id, "for i in $(seq 30); do sleep 5 & done 2>&1; wait");
  assert.match(forked.stdout + forked.stderr, /can't fork|Resource temporarily unavailable/);
  await removePod(daemon, podId);
});

test("R5: a greedy process ends OOMKilled with 137, and daemon and shim do not", limited, async () => {
  const { id, podId } = await run(
    daemon,
    ["dd", "if=/dev/zero", "of=/dev/null", "bs=40M", "count=1"],
    withLimits({ memoryLimitInBytes: long(20 * MIB) }),
  );
  const status = await exited(daemon, id);
  assert.equal(status.reason, "OOMKilled");
  assert.equal(status.exitCode, 137);
  assert.deepEqual(daemon.servers().length, 1);
  // The event came too, beside what the cgroup told at the end.
  await until(() => /"out of memory".*/.test(daemon.log()) && daemon.log().includes(id), "TaskOOM has come");
  // The same limit, and a modest process.
  const modest = await run(daemon, shell(greedy(5)), withLimits({ memoryLimitInBytes: long(20 * MIB) }));
  assert.equal((await exited(daemon, modest.id)).reason, "Completed");
  await removePod(daemon, podId);
  await removePod(daemon, modest.podId);
});

test(
  "an OOM kill of a child is told when the container fails of it; memory.oom.group takes all",
  limited,
  async () => {
    const child = await run(
      daemon,
      shell(`dd if=/dev/zero of=/dev/null bs=40M count=1; exit 3`),
      withLimits({ memoryLimitInBytes: long(20 * MIB) }),
    );
    const ended = await exited(daemon, child.id);
    assert.deepEqual([ended.exitCode, ended.reason], [3, "OOMKilled"]);
    const group = await run(
      daemon,
      shell(`dd if=/dev/zero of=/dev/null bs=40M count=1; exit 3`),
      withLimits({ memoryLimitInBytes: long(20 * MIB), unified: { "memory.oom.group": "1" } }),
    );
    const all = await exited(daemon, group.id);
    assert.deepEqual([all.exitCode, all.reason], [137, "OOMKilled"]);
    await removePod(daemon, child.podId);
    await removePod(daemon, group.podId);
  },
);

test("a quota of CPU time is felt, and statistics tell how much", limited, async () => {
  const { id, podId } = await run(
    daemon,
    shell("while :; do :; done"),
    withLimits({ cpuPeriod: long(100_000), cpuQuota: long(10_000) }),
  );
  const throttled = () => number(/^nr_throttled (\d+)$/m.exec(cgroupFile(id, "cpu.stat"))?.[1]);
  await until(() => throttled() > 3, "the loop is held back");
  const first = (await daemon.cri.ContainerStats({ containerId: id })).stats!;
  await until(() => throttled() > 8, "the loop is held back again");
  const second = (await daemon.cri.ContainerStats({ containerId: id })).stats!;
  const used =
    number(second.cpu!.usageCoreNanoSeconds!.value) - number(first.cpu!.usageCoreNanoSeconds!.value);
  const passed = number(second.cpu!.timestamp) - number(first.cpu!.timestamp);
  assert.ok(used > 0);
  assert.ok(used < passed / 2, `${used} ns of CPU in ${passed} ns, with a tenth allowed`);
  assert.ok(number(second.cpu!.usageNanoCores!.value) < 5e8);
  await removePod(daemon, podId);
});

test("an update of a running container is felt: it may have more, then less", limited, async () => {
  const { id, podId } = await run(
    daemon,
    ["sleep", "1000"],
    withLimits({ memoryLimitInBytes: long(20 * MIB), cpuShares: long(2) }),
  );
  assert.notEqual((await execute(daemon, id, greedy(40))).exitCode, 0);
  await daemon.cri.UpdateContainerResources({
    containerId: id,
    linux: { memoryLimitInBytes: long(100 * MIB), cpuQuota: long(50_000), cpuPeriod: long(100_000) },
  });
  assert.equal((await execute(daemon, id, greedy(40))).stdout, "had it\n");
  assert.equal(cgroupFile(id, "memory.max"), String(100 * MIB));
  assert.equal(cgroupFile(id, "memory.swap.max"), "0");
  assert.equal(cgroupFile(id, "cpu.max"), "50000 100000");
  assert.equal(cgroupFile(id, "cpu.weight"), "1", "what was not named stays");
  await daemon.cri.UpdateContainerResources({
    containerId: id,
    linux: { memoryLimitInBytes: long(30 * MIB), cpuQuota: long(-1) },
  });
  assert.notEqual((await execute(daemon, id, greedy(40))).exitCode, 0);
  assert.equal(cgroupFile(id, "cpu.max"), "max 100000");
  const told = await resourcesOf(id);
  assert.deepEqual([number(told.memoryLimitInBytes), number(told.cpuShares)], [30 * MIB, 2]);
  await removePod(daemon, podId);
});

test(
  "an update is all or nothing, and below what is in use it is refused, not met by killing",
  limited,
  async () => {
    const { id, podId, log } = await run(
      daemon,
      // On a tmpfs, so that it cannot be reclaimed: there is no swap for it.
      shell("dd if=/dev/zero of=/dev/shm/x bs=1M count=30 2>/dev/null; echo full; exec sleep 1000"),
      withLimits({ memoryLimitInBytes: long(60 * MIB), cpuQuota: long(20_000), cpuPeriod: long(100_000) }),
    );
    await logged(log, "full");
    const held = () =>
      ["memory.max", "memory.swap.max", "cpu.max", "pids.max"].map((file) => cgroupFile(id, file));
    const before = held();
    const refused = (linux: Limits, text: RegExp) =>
      assert.rejects(
        daemon.cri.UpdateContainerResources({ containerId: id, linux }),
        (error: { details: string }) => text.test(error.details) || assert.fail(error.details),
      );
    await refused(
      { cpuQuota: long(30_000), memoryLimitInBytes: long(10 * MIB) },
      /memory\.limit: 10485760: below/,
    );
    assert.deepEqual(held(), before);
    // The kernel itself refuses the last of three: the others are put back.
    await refused(
      { cpuQuota: long(30_000), memoryLimitInBytes: long(50 * MIB), unified: { "pids.max": "many" } },
      /unified.*pids\.max/,
    );
    await refused({ memoryLimitInBytes: long(50 * MIB), cpusetCpus: "4095" }, /cpu\.cpus/);
    assert.deepEqual(held(), before);
    assert.equal(number((await resourcesOf(id)).memoryLimitInBytes), 60 * MIB);
    const { status } = await daemon.cri.ContainerStatus({ containerId: id });
    assert.equal(status!.state, State.CONTAINER_RUNNING);
    await removePod(daemon, podId);
  },
);

test("a created container is updated before it starts, an ended one is not", limited, async () => {
  const [podId, pod] = await runPod(daemon);
  const id = await create(daemon, podId, pod, containerConfig(shell(greedy(40))));
  const update = () =>
    daemon.cri.UpdateContainerResources({ containerId: id, linux: { memoryLimitInBytes: long(20 * MIB) } });
  await update();
  assert.equal(cgroupFile(id, "memory.max"), String(20 * MIB));
  await daemon.cri.StartContainer({ containerId: id });
  assert.equal((await exited(daemon, id)).reason, "OOMKilled");
  await assert.rejects(update(), { code: FAILED_PRECONDITION });
  await removePod(daemon, podId);
});

test("limits outlive daemon and shim server, and are updated by their successors", limited, async () => {
  const { id, podId } = await run(
    daemon,
    ["sleep", "1000"],
    withLimits({ memoryLimitInBytes: long(40 * MIB), cpuShares: long(512) }),
  );
  const update = (mib: number) =>
    daemon.cri.UpdateContainerResources({ containerId: id, linux: { memoryLimitInBytes: long(mib * MIB) } });
  await update(50);
  await daemon.kill();
  await daemon.start();
  assert.equal(number((await resourcesOf(id)).memoryLimitInBytes), 50 * MIB);
  for (const pid of daemon.servers()) process.kill(pid, "SIGKILL");
  await update(60);
  assert.equal(cgroupFile(id, "memory.max"), String(60 * MIB));
  assert.equal(cgroupFile(id, "memory.swap.max"), "0");
  // Killed for want of memory after all that, and told as such.
  await update(20);
  await execute(daemon, id, greedy(40)).catch(() => {});
  await daemon.cri.StopContainer({ containerId: id, timeout: long(0) });
  assert.equal((await exited(daemon, id)).reason, "OOMKilled");
  await removePod(daemon, podId);
});

test("statistics of a container and its pod: memory, swap, pressure, processes", {
  ...limited,
  ...needs(memory, capability("psi")),
}, async () => {
  // As kubelet does: a cgroup for each pod.
  const namespaceOptions = { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER };
  const cgroupParent = `${daemon.cgroupParent}/pod-of-its-own`;
  const alone = { linux: { cgroupParent, securityContext: { namespaceOptions } } };
  const { id, podId, log } = await run(
    daemon,
    shell("dd if=/dev/zero of=/dev/shm/x bs=1M count=8 2>/dev/null; echo full; exec sleep 1000"),
    { ...withLimits({ memoryLimitInBytes: long(64 * MIB) }), pod: alone },
  );
  await logged(log, "full");
  const { stats } = await daemon.cri.ListContainerStats({ filter: { podSandboxId: podId } });
  assert.deepEqual(
    stats.map(({ attributes }) => attributes!.id),
    [id],
  );
  const { cpu, memory, swap, io } = stats[0]!;
  const workingSet = number(memory!.workingSetBytes!.value);
  assert.ok(workingSet >= 8 * MIB && workingSet < 64 * MIB, `${workingSet}`);
  assert.equal(number(memory!.availableBytes!.value), 64 * MIB - workingSet);
  assert.ok(number(memory!.pageFaults!.value) > 0);
  assert.equal(number(swap!.swapUsageBytes!.value), 0);
  for (const psi of [cpu!.psi, memory!.psi, io!.psi]) assert.equal(typeof psi!.Some!.Avg10, "number");
  const pod = (await daemon.cri.PodSandboxStats({ podSandboxId: podId })).stats!.linux!;
  assert.ok(number(pod.memory!.usageBytes!.value) >= number(memory!.usageBytes!.value));
  assert.ok(number(pod.cpu!.usageCoreNanoSeconds!.value) >= number(cpu!.usageCoreNanoSeconds!.value));
  // The container's, and the sandbox's own.
  assert.equal(number(pod.process!.processCount!.value), 2);
  assert.equal(pod.containers!.length, 1);
  assert.equal((await daemon.cri.ListPodSandboxStats({ filter: { id: podId } })).stats.length, 1);
  await removePod(daemon, podId);
});

test(
  "a privileged container sees the host's cgroups and changes nothing of how they are mounted",
  limited,
  async () => {
    // Options of the one superblock that all cgroup2 mounts share.
    const options = () => {
      const line = fs
        .readFileSync("/proc/self/mountinfo", "utf8")
        .split("\n")
        .find((one) => one.includes(" - cgroup2 "))!;
      return line.split(" ").at(-1);
    };
    const before = options();
    assert.match(before!, /nsdelegate/);
    const namespaceOptions = { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER };
    const securityContext = { privileged: true, namespaceOptions };
    const { id, podId } = await run(daemon, ["sleep", "1000"], {
      pod: { linux: { cgroupParent: daemon.cgroupParent, securityContext } },
      container: { linux: { securityContext: { privileged: true, namespaceOptions } } },
    });
    const seen = await execute(
      daemon,
      id,
      `ls -d /sys/fs/cgroup${daemon.cgroupParent} && cat /proc/self/cgroup`,
    );
    assert.equal(seen.exitCode, 0, seen.stderr);
    assert.ok(seen.stdout.includes(`${daemon.cgroupParent}/${id}`), seen.stdout);
    assert.equal(options(), before);
    await removePod(daemon, podId);
  },
);

test(
  "huge pages: from CreateContainer over updates, refusals and crashes to the cgroup and to status",
  huge,
  async () => {
    const pages = (limit: number, pageSize = "2MB") => ({
      hugepageLimits: [{ pageSize, limit: Long.fromNumber(limit, true) }],
    });
    const { id, podId } = await run(daemon, ["sleep", "1000"], withLimits(pages(2 * MIB)));
    const holds = async (limit: number) => {
      assert.equal(cgroupFile(id, "hugetlb.2MB.max"), String(limit));
      const told = (await resourcesOf(id)).hugepageLimits!.map(({ pageSize, limit }) => [
        pageSize,
        number(limit),
      ]);
      assert.deepEqual(told, [["2MB", limit]]);
    };
    const update = (linux: Limits) => daemon.cri.UpdateContainerResources({ containerId: id, linux });
    await holds(2 * MIB);
    await update(pages(4 * MIB));
    await holds(4 * MIB);
    await assert.rejects(update(pages(6 * MIB, "many")), { code: 3 });
    await assert.rejects(update({ ...pages(6 * MIB), unified: { "frobnication.max": "1" } }), {
      code: FAILED_PRECONDITION,
    });
    await holds(4 * MIB);
    await daemon.kill();
    await daemon.start();
    await holds(4 * MIB);
    for (const pid of daemon.servers()) process.kill(pid, "SIGKILL");
    await update(pages(0));
    await holds(0);
    await daemon.cri.UpdateContainerResources({ containerId: id });
    await holds(0);
    await daemon.cri.UpdatePodSandboxResources({ podSandboxId: podId, resources: { cpuShares: long(7) } });
    const { info } = await daemon.cri.PodSandboxStatus({ podSandboxId: podId, verbose: true });
    assert.equal(JSON.parse(info["info"]!).config.resources.cpuShares, 7);
    await removePod(daemon, podId);
  },
);
