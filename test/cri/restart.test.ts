import assert from "node:assert/strict";
import * as fs from "node:fs";
import { after, before, test } from "node:test";
import { runtime } from "../../src/gen/cri";
import type { Daemon } from "../support/daemon";
import { needs } from "../support/needs";
import { peers } from "../support/peers";
import {
  execute,
  exited,
  inventoryOf,
  leaksOf,
  logged,
  logLines,
  type Running,
  removePod,
  run,
  runPod,
  shell,
  startPodDaemon,
} from "../support/pods";
import { argumentsOf, isAlive, killAll, until } from "../support/processes";

/** Each process of the chain is killed while pods run: what they do and did is still known and right. */
const { ContainerState: State, PodSandboxState } = runtime.v1;
const cni = peers.cni();
const withCni = { ...needs(cni) };

let daemon: Daemon;
before(async () => {
  daemon = await startPodDaemon("missing" in cni ? {} : { cni: true });
});
after(() => daemon?.end());

/** Counts upwards in its log, twice a second and more. */
const counting = shell("i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done");
/** Ends with this code when told so. */
const obedient = (code: number) => shell(`trap "exit ${code}" TERM; echo up; while :; do sleep 0.05; done`);

const addressOf = async (podSandboxId: string): Promise<string> =>
  (await daemon.cri.PodSandboxStatus({ podSandboxId })).status!.network!.ip!;

const stateOf = async (containerId: string): Promise<runtime.v1.ContainerState> =>
  (await daemon.cri.ContainerStatus({ containerId })).status!.state ?? 0;

/** No number is missing and none comes twice: nothing written was lost over the restart. */
function checkCount(file: string, least: number): void {
  const numbers = logLines(file).map(({ text }) => Number(text));
  assert.deepEqual(
    numbers,
    Array.from({ length: numbers.length }, (_, index) => index + 1),
  );
  assert.ok(numbers.length >= least, `only ${numbers.length} lines`);
}

const grown = async ({ log }: Running): Promise<void> => {
  const before = logLines(log).length;
  await until(() => logLines(log).length > before + 3, `${log} grows`);
};

const down: [name: string, end: () => Promise<void>][] = [
  ["is stopped", () => daemon.stop()],
  ["is killed", () => daemon.kill()],
];
for (const [how, end] of down) {
  test(
    `R3: the daemon ${how}: pods run on; state, exit codes, logs and addresses are right afterwards`,
    withCni,
    async () => {
      const counter = await run(daemon, counting);
      const ending = await run(daemon, shell("read x < /dev/zero & sleep 0.4; exit 17"));
      const created = await run(daemon, obedient(5));
      await logged(created.log, "up");
      await logged(counter.log, "3");
      const address = await addressOf(counter.podId);
      assert.match(address, new RegExp(`^${daemon.network!.prefix.replaceAll(".", "\\.")}\\.`));
      const servers = daemon.servers();
      await end();
      // Meanwhile one container ends by itself.
      await until(() => !argumentsRunning("exit 17"), "the second container has ended");
      await daemon.start();
      assert.deepEqual(daemon.servers(), servers);
      assert.equal(await addressOf(counter.podId), address);
      assert.equal(await stateOf(counter.id), State.CONTAINER_RUNNING);
      const ended = await exited(daemon, ending.id);
      assert.equal(ended.exitCode, 17);
      assert.equal(ended.reason, "Error");
      await grown(counter);
      checkCount(counter.log, 10);
      assert.equal((await execute(daemon, counter.id, "echo in")).stdout, "in\n");
      await daemon.cri.StopContainer({ containerId: created.id, timeout: 5 as never });
      assert.equal((await exited(daemon, created.id)).exitCode, 5);
      for (const { podId } of [counter, ending, created]) await removePod(daemon, podId);
    },
  );
}

/** A container's process, found by its command line. */
function argumentsRunning(text: string): boolean {
  return fs
    .readdirSync("/proc")
    .some((name) => /^\d+$/.test(name) && argumentsOf(Number(name)).some((one) => one.includes(text)));
}

test("R3: the shim's server is killed: pods run on, and an exit meanwhile is known", withCni, async () => {
  const counter = await run(daemon, counting);
  const ending = await run(daemon, shell("sleep 0.3; exit 23"));
  const obeying = await run(daemon, obedient(6));
  await logged(obeying.log, "up");
  const address = await addressOf(counter.podId);
  const [server] = daemon.servers();
  await killAll([server!]);
  await until(() => daemon.servers().some((pid) => pid !== server), "a new server runs");
  const ended = await exited(daemon, ending.id);
  assert.equal(ended.exitCode, 23);
  assert.equal(await stateOf(counter.id), State.CONTAINER_RUNNING);
  assert.equal(await addressOf(counter.podId), address);
  await grown(counter);
  checkCount(counter.log, 5);
  assert.equal((await execute(daemon, counter.id, "echo in")).stdout, "in\n");
  await daemon.cri.StopContainer({ containerId: obeying.id, timeout: 5 as never });
  assert.equal((await exited(daemon, obeying.id)).exitCode, 6);
  const next = await run(daemon, shell("exit 9"));
  assert.equal((await exited(daemon, next.id)).exitCode, 9);
  for (const { podId } of [counter, ending, obeying, next]) await removePod(daemon, podId);
});

test("R3: daemon and server are killed together: pods run on and are found again", withCni, async () => {
  const counter = await run(daemon, counting);
  await logged(counter.log, "3");
  const [server] = daemon.servers();
  await Promise.all([daemon.kill(), killAll([server!])]);
  await daemon.start();
  assert.equal(await stateOf(counter.id), State.CONTAINER_RUNNING);
  await grown(counter);
  checkCount(counter.log, 8);
  await removePod(daemon, counter.podId);
});

test("R2: the monitor is killed: the server carries on", withCni, async () => {
  const counter = await run(daemon, counting);
  await logged(counter.log, "3");
  const [server] = daemon.servers();
  await killAll(daemon.monitors());
  await grown(counter);
  assert.equal(await stateOf(counter.id), State.CONTAINER_RUNNING);
  assert.ok(isAlive(server!));
  assert.equal((await execute(daemon, counter.id, "echo in")).stdout, "in\n");
  const next = await run(daemon, shell("exit 9"));
  assert.equal((await exited(daemon, next.id)).exitCode, 9);
  checkCount(counter.log, 5);
  for (const { podId } of [counter, next]) await removePod(daemon, podId);
});

test(
  "R3: server and monitor are killed together: pods run on, only how they end is not known",
  withCni,
  async () => {
    const counter = await run(daemon, counting);
    await logged(counter.log, "3");
    const [server] = daemon.servers();
    await killAll([...daemon.monitors(), server!]);
    await until(() => daemon.servers().some((pid) => pid !== server), "a new server runs");
    await grown(counter);
    assert.equal(await stateOf(counter.id), State.CONTAINER_RUNNING);
    assert.equal((await execute(daemon, counter.id, "echo in")).stdout, "in\n");
    await daemon.cri.StopContainer({ containerId: counter.id });
    assert.notEqual((await exited(daemon, counter.id)).exitCode ?? 0, 0);
    checkCount(counter.log, 5);
    await removePod(daemon, counter.podId);
    const next = await run(daemon, shell("exit 9"));
    assert.equal((await exited(daemon, next.id)).exitCode, 9);
    await removePod(daemon, next.podId);
  },
);

test(
  "pods that were stopped are still listed after a restart, and removing them leaves nothing",
  withCni,
  async () => {
    await removePod(daemon, (await run(daemon, ["true"])).podId);
    const empty = await inventoryOf(daemon, false);
    const [podId] = await runPod(daemon);
    await daemon.cri.StopPodSandbox({ podSandboxId: podId });
    await daemon.kill();
    await daemon.start();
    const { items } = await daemon.cri.ListPodSandbox({});
    assert.deepEqual(
      items.map(({ id, state }) => [id, state]),
      [[podId, PodSandboxState.SANDBOX_NOTREADY]],
    );
    await removePod(daemon, podId);
    assert.deepEqual(await leaksOf(daemon, empty, false), []);
  },
);
