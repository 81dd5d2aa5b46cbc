import assert from "node:assert/strict";
import { test } from "node:test";
import type { ContainerResources } from "../../src/sandbox";
import { type Bench, containerConfig, open, runPodRequest } from "./doubles";

const none = containerConfig().resources;
const resources = (changes: Partial<ContainerResources>): ContainerResources => ({ ...none, ...changes });

async function created(bench: Bench, changes: Partial<ContainerResources> = {}): Promise<string> {
  const pod = await bench.pods.run(runPodRequest());
  return bench.pods.create(pod, containerConfig({ resources: resources(changes) }));
}

const limitOf = (bench: Bench, id: string) => bench.pods.getContainer(id).config.resources.memoryLimit;
const memory = (limit: number) => ({ memory: { limit, swap: limit, checkBeforeUpdate: true } });

test("limits go to the shim with the spec, and an update of them is status and record", async (t) => {
  const bench = await open(t);
  const id = await created(bench, { memoryLimit: 100, cpuShares: 2 });
  const spec = bench.task().options.spec as { linux: { resources: { memory: object; cpu: object } } };
  assert.deepEqual(spec.linux.resources.memory, { limit: 100, swap: 100 });
  assert.deepEqual(spec.linux.resources.cpu, { shares: 2 });
  // Created: the cgroup is there already.
  await bench.pods.updateContainer(id, resources({ memoryLimit: 200 }));
  await bench.pods.start(id);
  await bench.pods.updateContainer(id, resources({ memoryLimit: 300 }));
  assert.deepEqual(bench.task().updates, [memory(200), memory(300)]);
  await bench.reopen();
  const view = bench.pods.getContainer(id);
  assert.equal(view.config.resources.memoryLimit, 300);
  assert.equal(view.config.resources.cpuShares, 2);
  assert.deepEqual((view.spec as typeof spec).linux.resources.memory, { limit: 300, swap: 300 });
});

test("an update that the shim refuses leaves everything as it was", async (t) => {
  const bench = await open(t);
  const id = await created(bench, { memoryLimit: 100 });
  bench.world.failing.add("task update");
  await assert.rejects(
    bench.pods.updateContainer(id, resources({ memoryLimit: 200 })),
    /task update: injected/,
  );
  assert.equal(limitOf(bench, id), 100);
  bench.world.failing.clear();
  await bench.reopen();
  assert.equal(limitOf(bench, id), 100);
  assert.deepEqual(bench.task().updates, [], "and the next daemon does not try again");
});

test("an update that a crash cut off is finished by the next daemon", async (t) => {
  const bench = await open(t);
  const id = await created(bench);
  await bench.pods.start(id);
  bench.world.hold("task update");
  void bench.pods.updateContainer(id, resources({ memoryLimit: 200 }));
  while (!bench.world.journal.includes("task update")) await new Promise(setImmediate);
  // The call never returns to the daemon that made it.
  bench.world.held.delete("task update");
  await bench.reopen();
  assert.equal(limitOf(bench, id), 200);
  assert.deepEqual(bench.task().updates, [{ memory: { limit: 200, swap: 200 } }]);
});

test("updates of a container go one after the other, and its end waits for the one under way", async (t) => {
  const bench = await open(t);
  const id = await created(bench);
  await bench.pods.start(id);
  const release = bench.world.hold("task update");
  const first = bench.pods.updateContainer(id, resources({ memoryLimit: 200 }));
  const second = bench.pods.updateContainer(id, resources({ memoryLimit: 300 }));
  while (!bench.world.journal.includes("task update")) await new Promise(setImmediate);
  bench.task().end(0);
  release();
  await first;
  // The second finds a container that may have ended by then; what it may not do is lose the end.
  await second.catch(() => {});
  await bench.pods.stopContainer(id, 0);
  await bench.reopen();
  const view = bench.pods.getContainer(id);
  assert.equal(view.state, "exited");
  assert.equal(view.reason, "Completed");
  assert.ok([200, 300].includes(view.config.resources.memoryLimit));
});

test("an ended container is not updated, an unknown one is NOT_FOUND, nothing asked for is nothing done", async (t) => {
  const bench = await open(t);
  const id = await created(bench);
  await bench.pods.updateContainer(id, none);
  assert.deepEqual(bench.task().updates, []);
  await bench.pods.start(id);
  bench.task().end(1);
  while (bench.pods.getContainer(id).state !== "exited") await new Promise(setImmediate);
  await assert.rejects(bench.pods.updateContainer(id, resources({ memoryLimit: 1 })), {
    code: "FAILED_PRECONDITION",
    message: /CONTAINER_EXITED/,
  });
  await assert.rejects(bench.pods.updateContainer("absent", none), { code: "NOT_FOUND" });
});

test("a pod's resources are kept with it", async (t) => {
  const bench = await open(t);
  const pod = await bench.pods.run(
    runPodRequest({ resources: resources({ memoryLimit: 100, cpuShares: 5 }) }),
  );
  await bench.pods.updatePod(pod, {
    resources: resources({ memoryLimit: 300 }),
    overhead: resources({ cpuQuota: 7 }),
  });
  await bench.reopen();
  const { config } = bench.pods.get(pod);
  assert.equal(config.resources?.memoryLimit, 300);
  assert.equal(config.resources?.cpuShares, 5);
  assert.equal(config.overhead?.cpuQuota, 7);
  await assert.rejects(bench.pods.updatePod("absent", { resources: undefined, overhead: undefined }), {
    code: "NOT_FOUND",
  });
});

test("OOMKilled by the shim's event alone, when its statistics do not tell", async (t) => {
  const bench = await open(t);
  const id = await created(bench);
  await bench.pods.start(id);
  bench.world.failing.add("task stats");
  bench.task().oomKilled = true;
  bench.task().end(137);
  while (bench.pods.getContainer(id).state !== "exited") await new Promise(setImmediate);
  assert.equal(bench.pods.getContainer(id).reason, "OOMKilled");
});
