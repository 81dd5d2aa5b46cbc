import assert from "node:assert/strict";
import * as fs from "node:fs";
import { after, before, test } from "node:test";
import Long from "long";
import { runtime } from "../../src/gen/cri";
import type { Daemon } from "../support/daemon";
import {
  BUSYBOX,
  containerConfig,
  create,
  execute,
  exited,
  inventoryOf,
  leaksOf,
  logged,
  logLines,
  podConfig,
  removePod,
  run,
  runPod,
  shell,
  startPodDaemon,
} from "../support/pods";
import { until } from "../support/processes";

/** The way of a pod through a real daemon, shim and container: what kubelet sees at each step. */
const { ContainerState: State, PodSandboxState, NamespaceMode } = runtime.v1;

let daemon: Daemon;
before(async () => {
  daemon = await startPodDaemon();
});
after(() => daemon?.end());

test("a pod from RunPodSandbox to RemovePodSandbox leaves nothing", async () => {
  // The first container brings up the shim's server and the thread that pumps its output, which stay.
  await removePod(daemon, (await run(daemon, ["sleep", "1000"])).podId);
  const empty = await inventoryOf(daemon);
  const { cri } = daemon;
  const labels = { "io.kubernetes.pod.name": "x", ünï: "ß" };
  const [podId, config] = await runPod(daemon, { labels, annotations: { a: "1" } });
  const pod = (await cri.PodSandboxStatus({ podSandboxId: podId, verbose: true })).status!;
  assert.equal(pod.state ?? 0, PodSandboxState.SANDBOX_READY);
  assert.equal(pod.metadata?.uid, config.metadata?.uid);
  assert.deepEqual(pod.labels, labels);
  assert.deepEqual(pod.annotations, { a: "1" });
  assert.equal(pod.runtimeHandler, "isopod");
  assert.equal(pod.linux?.namespaces?.options?.network, NamespaceMode.NODE);

  const container = containerConfig(shell("echo out; echo err >&2; exec sleep 1000"), { labels: { c: "1" } });
  const id = await create(daemon, podId, config, container);
  const created = (await cri.ContainerStatus({ containerId: id })).status!;
  assert.equal(created.state ?? 0, State.CONTAINER_CREATED);
  assert.equal((created.startedAt ?? Long.ZERO).toString(), "0");

  await cri.StartContainer({ containerId: id });
  const { status: running, info } = await cri.ContainerStatus({ containerId: id, verbose: true });
  assert.equal(running!.state, State.CONTAINER_RUNNING);
  assert.deepEqual(running!.labels, { c: "1" });
  assert.equal(running!.image!.image, BUSYBOX);
  const { pid } = JSON.parse(info["info"]!) as { pid: number };
  assert.match(fs.readFileSync(`/proc/${pid}/cmdline`, "utf8"), /^sleep\0/);
  const log = `${config.logDirectory}/${container.logPath}`;
  await logged(log, "out");
  await logged(log, "err");
  assert.deepEqual(
    logLines(log)
      .map(({ stream, tag, text }) => `${stream} ${tag} ${text}`)
      .sort(),
    ["stderr F err", "stdout F out"],
  );

  await cri.StopContainer({ containerId: id });
  const stopped = await exited(daemon, id);
  assert.equal(stopped.exitCode, 137);
  await cri.StopPodSandbox({ podSandboxId: podId });
  assert.equal(
    (await cri.PodSandboxStatus({ podSandboxId: podId })).status!.state,
    PodSandboxState.SANDBOX_NOTREADY,
  );
  await cri.RemovePodSandbox({ podSandboxId: podId });
  assert.deepEqual((await cri.ListPodSandbox({})).items, []);
  assert.deepEqual((await cri.ListContainers({})).containers, []);
  assert.deepEqual(await leaksOf(daemon, empty), []);
});

test("exit codes, reasons and times are the container's own", async () => {
  const { cri } = daemon;
  const [podId, config] = await runPod(daemon);
  const cases: [script: string, code: number, reason: string][] = [
    ["exit 0", 0, "Completed"],
    ["exit 7", 7, "Error"],
    ["kill -9 $$", 137, "Error"],
    ["kill -15 $$; sleep 1", 143, "Error"],
  ];
  for (const [script, code, reason] of cases) {
    // A shell that is pid 1 is not killed by signals from its own namespace: a child is.
    const ended = script.startsWith("kill") ? `sh -c '${script}'; exit $?` : script;
    const id = await create(daemon, podId, config, containerConfig(shell(ended)));
    await cri.StartContainer({ containerId: id });
    const status = await exited(daemon, id);
    assert.equal(status.exitCode ?? 0, code, script);
    assert.equal(status.reason, reason, script);
    const times = [status.createdAt!, status.startedAt!, status.finishedAt!].map(String).map(BigInt);
    assert.ok(times[0]! <= times[1]! && times[1]! <= times[2]!, `${script}: ${times}`);
  }
  await removePod(daemon, podId);
});

test("states: a container starts once, in a pod that is ready, and may be stopped and removed at any time", async () => {
  const { cri } = daemon;
  const [podId, config] = await runPod(daemon);
  const id = await create(daemon, podId, config, containerConfig(["sleep", "1000"]));
  await assert.rejects(cri.ExecSync({ containerId: id, cmd: ["true"] }), /CREATED|created/);
  await cri.StartContainer({ containerId: id });
  await assert.rejects(cri.StartContainer({ containerId: id }), /RUNNING|running/);
  await cri.RemoveContainer({ containerId: id });
  await assert.rejects(cri.ContainerStatus({ containerId: id }), { code: 5 });
  const neverStarted = await create(daemon, podId, config, containerConfig(["sleep", "1000"]));
  await cri.StopContainer({ containerId: neverStarted });
  await cri.RemoveContainer({ containerId: neverStarted });
  await cri.StopPodSandbox({ podSandboxId: podId });
  await assert.rejects(
    create(daemon, podId, config, containerConfig(["true"])),
    /not ready|NOTREADY|stopped/i,
  );
  await cri.RemovePodSandbox({ podSandboxId: podId });
});

test("what is absent may be stopped and removed again; asking for it is NOT_FOUND", async () => {
  const { cri } = daemon;
  const [podId] = await runPod(daemon);
  await cri.StopPodSandbox({ podSandboxId: podId });
  await cri.StopPodSandbox({ podSandboxId: podId });
  await cri.RemovePodSandbox({ podSandboxId: podId });
  for (const gone of [podId, "0123456789abcdef"]) {
    await cri.StopPodSandbox({ podSandboxId: gone });
    await cri.RemovePodSandbox({ podSandboxId: gone });
    await cri.StopContainer({ containerId: gone });
    await cri.RemoveContainer({ containerId: gone });
    await assert.rejects(cri.PodSandboxStatus({ podSandboxId: gone }), { code: 5 });
    await assert.rejects(cri.ContainerStatus({ containerId: gone }), { code: 5 });
    await assert.rejects(cri.StartContainer({ containerId: gone }), { code: 5 });
    assert.deepEqual((await cri.ListPodSandbox({ filter: { id: gone } })).items, []);
    assert.deepEqual((await cri.ListContainers({ filter: { id: gone } })).containers, []);
  }
});

test("ids may be cut short, lists are filtered by all that is given", async () => {
  const { cri } = daemon;
  const one = await run(daemon, ["sleep", "1000"], { pod: { labels: { app: "a", tier: "x" } } });
  const two = await run(daemon, ["true"], { pod: { labels: { app: "a" } } });
  await exited(daemon, two.id);
  assert.equal((await cri.PodSandboxStatus({ podSandboxId: one.podId.slice(0, 12) })).status!.id, one.podId);
  assert.equal((await cri.ContainerStatus({ containerId: one.id.slice(0, 12) })).status!.id, one.id);
  const pods = async (filter: runtime.v1.IPodSandboxFilter) =>
    (await cri.ListPodSandbox({ filter })).items.map(({ id }) => id).sort();
  assert.deepEqual(await pods({ labelSelector: { app: "a" } }), [one.podId, two.podId].sort());
  assert.deepEqual(await pods({ labelSelector: { app: "a", tier: "x" } }), [one.podId]);
  assert.deepEqual(await pods({ id: two.podId.slice(0, 10) }), [two.podId]);
  assert.deepEqual(await pods({ id: one.podId, state: { state: PodSandboxState.SANDBOX_NOTREADY } }), []);
  const containers = async (filter: runtime.v1.IContainerFilter) =>
    (await cri.ListContainers({ filter })).containers.map(({ id }) => id);
  assert.deepEqual(await containers({ state: { state: State.CONTAINER_EXITED }, podSandboxId: two.podId }), [
    two.id,
  ]);
  assert.deepEqual(await containers({ state: { state: State.CONTAINER_RUNNING } }), [one.id]);
  for (const { podId } of [one, two]) await removePod(daemon, podId);
});

test("ExecSync: streams apart, exit code, environment, a deadline that leaves no process", async () => {
  const container = { envs: [{ key: "GREETING", value: Buffer.from("hä") }], workingDir: "/tmp" };
  const { id, podId } = await run(daemon, ["sleep", "1000"], { container });
  const result = await execute(daemon, id, "echo $GREETING; pwd; echo no >&2; exit 3");
  assert.deepEqual(result, { stdout: "hä\n/tmp\n", stderr: "no\n", exitCode: 3 });
  await assert.rejects(daemon.cri.ExecSync({ containerId: id, cmd: ["/no/such"] }), /no such file/i);
  const slow = daemon.cri.ExecSync({
    containerId: id,
    cmd: shell("sleep 4321 & sleep 4321"),
    timeout: Long.ONE,
  });
  await assert.rejects(slow, { code: 4 });
  await until(
    async () => (await execute(daemon, id, "pgrep -f 'sleep 4321'")).stdout === "",
    "no sleep is left",
  );
  const burst = await execute(daemon, id, "head -c 3000000 /dev/zero | tr '\\0' x");
  assert.equal(burst.stdout.length, 3_000_000);
  await removePod(daemon, podId);
});

test("ReopenContainerLog after a rotation: no line is lost, none is written to the old file", async () => {
  const { id, podId, log } = await run(
    daemon,
    shell("i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done"),
  );
  await logged(log, "line 3");
  fs.renameSync(log, `${log}.1`);
  await daemon.cri.ReopenContainerLog({ containerId: id });
  const size = fs.statSync(`${log}.1`).size;
  await until(() => logLines(log).length > 5, "the new file has lines");
  assert.equal(fs.statSync(`${log}.1`).size, size);
  const numbers = [...logLines(`${log}.1`), ...logLines(log)].map(({ text }) => Number(text.split(" ")[1]));
  assert.deepEqual(
    numbers,
    Array.from({ length: numbers.length }, (_, index) => index + 1),
  );
  await daemon.cri.StopContainer({ containerId: id });
  await assert.rejects(daemon.cri.ReopenContainerLog({ containerId: id }), /EXITED|exited|running/);
  await removePod(daemon, podId);
});

test("stats: a running container has cpu, a stopped one only its name", async () => {
  const busy = shell("while :; do :; done");
  const { id, podId } = await run(daemon, busy);
  const { cri } = daemon;
  let usage = 0n;
  await until(async () => {
    const { stats } = await cri.ContainerStats({ containerId: id });
    assert.equal(stats!.attributes!.id, id);
    assert.notEqual(stats!.cpu!.timestamp!.toString(), "0");
    const next = BigInt(stats!.cpu!.usageCoreNanoSeconds!.value!.toString());
    const grown = usage !== 0n && next > usage;
    usage = next;
    return grown;
  }, "cpu usage grows");
  const list = async (filter: runtime.v1.IContainerStatsFilter) =>
    (await cri.ListContainerStats({ filter })).stats.map(({ attributes }) => attributes!.id);
  assert.deepEqual(await list({ podSandboxId: podId }), [id]);
  assert.deepEqual(await list({ id, labelSelector: { none: "x" } }), []);
  await assert.rejects(cri.ContainerStats({ containerId: "nowhere" }), { code: 5 });
  await removePod(daemon, podId);
});

test("a request repeated while it runs joins the work in flight; one that is done is not done again", async () => {
  const { cri } = daemon;
  const config = podConfig(daemon);
  const requests = await Promise.all([1, 2, 3].map(() => cri.RunPodSandbox({ config })));
  const [podId] = requests.map(({ podSandboxId }) => podSandboxId);
  assert.deepEqual(new Set(requests.map(({ podSandboxId }) => podSandboxId)).size, 1);
  assert.equal((await cri.RunPodSandbox({ config })).podSandboxId, podId);
  await assert.rejects(cri.RunPodSandbox({ config: { ...config, labels: { other: "1" } } }), { code: 6 });
  const container = containerConfig(["sleep", "1000"]);
  const ids = await Promise.all([1, 2].map(() => create(daemon, podId!, config, container)));
  assert.equal(new Set(ids).size, 1);
  await cri.StartContainer({ containerId: ids[0]! });
  await Promise.all([1, 2, 3].map(() => cri.StopContainer({ containerId: ids[0]! })));
  await Promise.all([1, 2, 3].map(() => cri.StopPodSandbox({ podSandboxId: podId! })));
  await Promise.all([1, 2, 3].map(() => cri.RemovePodSandbox({ podSandboxId: podId! })));
  assert.deepEqual((await cri.ListPodSandbox({})).items, []);
});

test("a caller that gives up early finds the pod done when it asks again", async () => {
  const { cri } = daemon;
  const config = podConfig(daemon);
  await assert.rejects(cri.RunPodSandbox({ config }, { timeoutMs: 1 }), { code: 4 });
  const { podSandboxId } = await cri.RunPodSandbox({ config });
  assert.equal((await cri.ListPodSandbox({})).items.length, 1);
  await removePod(daemon, podSandboxId);
});
