import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import Long from "long";
import { runtime } from "../../src/gen/cri";
import { native } from "../../src/native";
import { leasedAddresses } from "../support/cni";
import { type Daemon, startDaemon } from "../support/daemon";
import { onHost } from "../support/host";
import { needs } from "../support/needs";
import { peers } from "../support/peers";
import {
  containerConfig,
  create,
  execute,
  exited,
  inventoryOf,
  leaksOf,
  logLines,
  podConfig,
  removePod,
  run,
  runPod,
  shell,
  startPodDaemon,
} from "../support/pods";
import { until } from "../support/processes";

/** A host that is not as it should be: full disks, broken configuration. Told by name; what runs, runs on. */
const { ContainerState: State } = runtime.v1;
const long = (value: number): Long => Long.fromNumber(value);

test("a log on a full disk: the container runs on, and the log goes on when there is room", async (t) => {
  const daemon = await startPodDaemon();
  t.after(() => daemon.end());
  const config = podConfig(daemon);
  const logs = config.logDirectory!;
  await onHost(daemon.host, "mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", logs]);
  const { podSandboxId: podId } = await daemon.cri.RunPodSandbox({ config });
  const script = `line=$(head -c 2000 /dev/zero | tr '\\0' x); i=0
    while :; do i=$((i+1)); echo $i $line; echo $i >/count; sleep 0.005; done`;
  const container = containerConfig(shell(script));
  const id = await create(daemon, podId, config, container);
  await daemon.cri.StartContainer({ containerId: id });
  const count = async () => Number((await execute(daemon, id, "cat /count")).stdout);
  // 64 KiB hold about 30 lines.
  await until(async () => (await count()) > 100, "the container writes on");
  const log = path.join(`/proc/${daemon.host.pid}/root`, logs, container.logPath!);
  const full = fs.statSync(log).size;
  assert.ok(full <= 64 * 1024);
  const { status } = await daemon.cri.ContainerStatus({ containerId: id });
  assert.equal(status!.state, State.CONTAINER_RUNNING);
  await onHost(daemon.host, "mount", ["-o", "remount,size=16m", logs]);
  await until(() => fs.statSync(log).size > full + 10_000, "the log goes on");
  await daemon.cri.StopContainer({ containerId: id });
  assert.equal((await exited(daemon, id)).exitCode, 137);
  // What could be written in part is closed by a newline, so no two lines run into each other.
  const texts = fs.readFileSync(log, "utf8").split("\n").slice(0, -1);
  const whole = texts.filter((text) => / stdout F \d+ x{2000}$/.test(text));
  assert.ok(whole.length >= texts.length - 1, `${texts.length - whole.length} of ${texts.length} torn`);
  const numbers = whole.map((text) => Number(text.split(" ")[3]));
  assert.ok(
    numbers.every((number, i) => i === 0 || number > numbers[i - 1]!),
    "none twice, none late",
  );
  assert.ok(numbers.at(-1)! > numbers.length, "some are lost");
  await removePod(daemon, podId);
});

test("a log directory that cannot be made fails the container by its path, and leaves nothing", async (t) => {
  const daemon = await startPodDaemon();
  t.after(() => daemon.end());
  await removePod(daemon, (await run(daemon, ["true"])).podId);
  const file = path.join(daemon.dir, "a-file");
  fs.writeFileSync(file, "");
  const empty = await inventoryOf(daemon);
  const [podId, config] = await runPod(daemon, { logDirectory: path.join(file, "logs") });
  await assert.rejects(
    create(daemon, podId, config, containerConfig(["true"])),
    (error: { details: string }) => {
      assert.ok(error.details.includes(file), error.details);
      return true;
    },
  );
  await removePod(daemon, podId);
  assert.deepEqual(await leaksOf(daemon, empty), []);
});

test("a container without a log path runs, and its output goes nowhere", async (t) => {
  const daemon = await startPodDaemon();
  t.after(() => daemon.end());
  const container = { logPath: "" };
  const { id, podId } = await run(daemon, shell("yes | head -c 1000000"), { container });
  assert.equal((await exited(daemon, id)).exitCode ?? 0, 0);
  assert.equal((await daemon.cri.ContainerStatus({ containerId: id })).status!.logPath, "");
  await removePod(daemon, podId);
});

const conflist = (daemon: Daemon, name: string): string => path.join(daemon.dir, "cni", name);

async function networkCondition(daemon: Daemon): Promise<runtime.v1.IRuntimeCondition> {
  const { status } = await daemon.cri.Status({});
  return status!.conditions!.find(({ type }) => type === "NetworkReady")!;
}

test(
  "a malformed conflist: NetworkReady says file and field, pods with an address are refused, others run",
  needs(peers.cni()),
  async (t) => {
    const daemon = await startPodDaemon({ cni: true });
    t.after(() => daemon.end());
    const good = fs.readFileSync(conflist(daemon, "10-test.conflist"), "utf8");
    const [runs, runsConfig] = await runPod(daemon);
    await create(daemon, runs, runsConfig, containerConfig(["true"]));
    const cases: [content: string, words: RegExp][] = [
      ['{"name": "x"', /10-test\.conflist/],
      [good.replace('"1.0.0"', '"9.9.9"'), /10-test\.conflist.*cniVersion.*9\.9\.9/],
      [good.replace('"type":"bridge"', '"type":"../bridge"'), /10-test\.conflist.*type.*\.\.\/bridge/],
    ];
    for (const [content, words] of cases) {
      fs.writeFileSync(conflist(daemon, "10-test.conflist"), content);
      await until(async () => !(await networkCondition(daemon)).status, "the network is not ready");
      await until(async () => words.test((await networkCondition(daemon)).message!), `told as ${words}`);
      assert.equal((await networkCondition(daemon)).reason, "NetworkPluginNotReady");
      const before = await inventoryOf(daemon, false);
      await assert.rejects(daemon.cri.RunPodSandbox({ config: podConfig(daemon) }), words);
      assert.deepEqual(await leaksOf(daemon, before, false), []);
    }
    const node = runtime.v1.NamespaceMode.NODE;
    const onHostNetwork = { linux: { securityContext: { namespaceOptions: { network: node } } } };
    await removePod(daemon, (await run(daemon, ["true"], { pod: onHostNetwork })).podId);
    // Its DEL uses what its ADD used.
    await removePod(daemon, runs);
    fs.writeFileSync(conflist(daemon, "10-test.conflist"), good);
    await until(async () => (await networkCondition(daemon)).status === true, "the network is ready again");
    await removePod(daemon, (await run(daemon, ["true"])).podId);
    assert.deepEqual(fs.readdirSync(path.join(daemon.dir, "netns")), []);
  },
);

test(
  "no address is left: RunPodSandbox says so and leaves nothing; with one free again it works",
  needs(peers.cni()),
  async (t) => {
    const daemon = await startPodDaemon({ cni: true });
    t.after(() => daemon.end());
    const { prefix } = daemon.network!;
    const file = conflist(daemon, "10-test.conflist");
    const range = `"rangeStart":"${prefix}.7","rangeEnd":"${prefix}.7","gateway"`;
    fs.writeFileSync(file, fs.readFileSync(file, "utf8").replace('"gateway"', range));
    await daemon.stop();
    await daemon.start();
    const holder = await run(daemon, ["sleep", "1000"]);
    const { status } = await daemon.cri.PodSandboxStatus({ podSandboxId: holder.podId });
    assert.equal(status!.network!.ip, `${prefix}.7`);
    const before = await inventoryOf(daemon, false);
    const config = podConfig(daemon);
    await assert.rejects(daemon.cri.RunPodSandbox({ config }), /bridge.*no IP addresses available/);
    assert.deepEqual(await leaksOf(daemon, before, false), []);
    await removePod(daemon, holder.podId);
    const { podSandboxId } = await daemon.cri.RunPodSandbox({ config });
    await removePod(daemon, podSandboxId);
  },
);

test(
  "a plugin that refuses its configuration: RunPodSandbox says why, the pod can be removed, no address is held",
  needs(peers.cni()),
  async (t) => {
    const daemon = await startPodDaemon({ cni: { plugins: [{ type: "portmap", snat: "not a boolean" }] } });
    t.after(() => daemon.end());
    // portmap refuses ADD and DEL alike, so the pod is kept, as kubelet's to stop and remove.
    await assert.rejects(daemon.cri.RunPodSandbox({ config: podConfig(daemon) }), /portmap.*snat/);
    const [kept] = (await daemon.cri.ListPodSandbox({})).items;
    assert.equal(kept!.state, runtime.v1.PodSandboxState.SANDBOX_NOTREADY);
    await removePod(daemon, kept!.id!);
    assert.deepEqual((await daemon.cri.ListPodSandbox({})).items, []);
    assert.deepEqual(leasedAddresses(daemon.network!), []);
    assert.deepEqual(fs.readdirSync(path.join(daemon.dir, "netns")), []);
  },
);

test("a malformed config.toml: serve names file, key and value and touches nothing", async (t) => {
  const daemon = await startDaemon({ start: false });
  t.after(() => daemon.end());
  const file = path.join(daemon.dir, "config.toml");
  const good = fs.readFileSync(file, "utf8");
  const cases: [content: string, words: RegExp][] = [
    [`${good}\n[cni`, /config\.toml/],
    [good.replace("version = 1", "version = 7"), /config\.toml.*version.*7/],
    [`rooot = "/x"\n${good}`, /config\.toml.*rooot.*root/],
    [`default_handler = "isopd"\n${good}`, /default_handler.*isopd/],
  ];
  for (const [content, words] of cases) {
    fs.writeFileSync(file, content);
    await assert.rejects(daemon.start(), words);
    assert.deepEqual(
      [daemon.root, daemon.state, daemon.socket].filter((one) => fs.existsSync(one)),
      [],
    );
  }
  fs.writeFileSync(file, good);
  await daemon.start();
});

test("what kubelet asks of every container runs on any host; a limit needs its controller, and says so", async (t) => {
  const daemon = await startPodDaemon();
  t.after(() => daemon.end());
  const [podId, pod] = await runPod(daemon);
  const created = (resources: runtime.v1.ILinuxContainerResources) =>
    create(daemon, podId, pod, containerConfig(["true"], { linux: { resources } }));
  const id = await created({ cpuShares: long(512), unified: { "memory.oom.group": "1" } });
  await daemon.cri.StartContainer({ containerId: id });
  assert.equal((await exited(daemon, id)).exitCode ?? 0, 0);
  const { controllers } = native().features();
  const cases: [resources: runtime.v1.ILinuxContainerResources, controller: string][] = [
    [{ memoryLimitInBytes: long(1 << 28) }, "memory"],
    [{ cpuQuota: long(50_000) }, "cpu"],
    [{ cpusetCpus: "0" }, "cpuset"],
    [{ cpusetMems: "0" }, "cpuset"],
    [{ hugepageLimits: [{ pageSize: "2MB", limit: long(1 << 21) }] }, "hugetlb"],
    [{ unified: { "pids.max": "10" } }, "pids"],
    [{ unified: { "memory.min": "1", "memory.oom.group": "1" } }, "memory"],
  ];
  for (const [resources, controller] of cases) {
    if (controllers.includes(controller)) {
      await created(resources);
      continue;
    }
    await assert.rejects(created(resources), (error: { code: number; details: string }) => {
      assert.equal(error.code, 9, error.details);
      assert.match(
        error.details,
        new RegExp(`^linux\\.resources\\..*needs the ${controller} controller, which cgroup2`),
      );
      return true;
    });
  }
  await removePod(daemon, podId);
});

test("RPCs that are not built name themselves, also the streaming ones", async (t) => {
  const daemon = await startDaemon();
  t.after(() => daemon.end());
  const { cri } = daemon;
  const unary = ["Exec", "Attach", "PortForward", "CheckpointContainer"];
  for (const name of unary)
    await assert.rejects(cri.raw(name, Buffer.alloc(0)), { code: 12, details: `${name}: not supported yet` });
  for (const name of ["GetContainerEvents", "StreamContainers", "StreamImages"])
    await assert.rejects(cri.stream(name, {}), { code: 12, details: `${name}: not supported yet` });
});

test("a cgroup parent that cannot hold the pod: its path and the reason, and nothing is left", async (t) => {
  const daemon = await startPodDaemon();
  t.after(() => daemon.end());
  await removePod(daemon, (await run(daemon, ["true"])).podId);
  const empty = await inventoryOf(daemon);
  // An interface file of the cgroup above stands where the directory should be.
  const cgroupParent = `${daemon.cgroupParent}/cgroup.procs`;
  const config = podConfig(daemon);
  const linux = { ...config.linux, cgroupParent };
  await assert.rejects(
    daemon.cri.RunPodSandbox({ config: { ...config, linux } }),
    (error: { details: string }) => {
      assert.ok(error.details.includes(cgroupParent), error.details);
      return true;
    },
  );
  assert.deepEqual((await daemon.cri.ListPodSandbox({})).items, []);
  assert.deepEqual(await leaksOf(daemon, empty), []);
});

test("after any refusal the same name works with the fault taken out", async (t) => {
  const daemon = await startPodDaemon();
  t.after(() => daemon.end());
  const [podId, pod] = await runPod(daemon);
  const bad = containerConfig(["true"], { image: { image: "localhost/none:1" } });
  await assert.rejects(create(daemon, podId, pod, bad), { code: 5 });
  const absent = { ...containerConfig(["true"]), metadata: bad.metadata!, logPath: bad.logPath! };
  const mounts = [{ containerPath: "/m", hostPath: path.join(daemon.dir, "not-there") }];
  await assert.rejects(create(daemon, podId, pod, { ...absent, mounts }), /not-there/);
  fs.mkdirSync(mounts[0]!.hostPath);
  const id = await create(daemon, podId, pod, { ...absent, mounts });
  await daemon.cri.StartContainer({ containerId: id });
  assert.equal((await exited(daemon, id)).exitCode ?? 0, 0);
  assert.deepEqual(logLines(path.join(pod.logDirectory!, absent.logPath)), []);
  await removePod(daemon, podId);
});
