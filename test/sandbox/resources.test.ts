import assert from "node:assert/strict";
import { test } from "node:test";
import type { ContainerResources } from "../../src/sandbox";
import { limitsOf, mergeResources, updateOf } from "../../src/sandbox/resources";
import { containerConfig } from "./doubles";

const none = containerConfig().resources;
const asked = (changes: Partial<ContainerResources>): ContainerResources => ({ ...none, ...changes });

test("a container without limits asks for none; a period alone says nothing", () => {
  assert.deepEqual(limitsOf(none), {});
  assert.deepEqual(limitsOf(asked({ cpuPeriod: 100_000 })), {});
});

test("every limit of CRI in the words of the OCI spec", () => {
  const limits = limitsOf({
    cpuPeriod: 50_000,
    cpuQuota: 25_000,
    cpuShares: 512,
    memoryLimit: 64 << 20,
    memorySwapLimit: 96 << 20,
    cpusetCpus: "0-1",
    cpusetMems: "0",
    hugepageLimits: [
      { pageSize: "2MB", limit: 4 << 20 },
      { pageSize: "1GB", limit: 0 },
    ],
    unified: { "memory.high": "60000000", "memory.oom.group": "1" },
  });
  assert.deepEqual(limits, {
    memory: { limit: 64 << 20, swap: 96 << 20 },
    cpu: { shares: 512, quota: 25_000, period: 50_000, cpus: "0-1", mems: "0" },
    hugepageLimits: [
      { pageSize: "2MB", limit: 4 << 20 },
      { pageSize: "1GB", limit: 0 },
    ],
    unified: { "memory.high": "60000000", "memory.oom.group": "1" },
  });
});

test("without a word on swap nothing is swapped out; without a limit of memory there is none of swap", () => {
  assert.deepEqual(limitsOf(asked({ memoryLimit: 100 })).memory, { limit: 100, swap: 100 });
  assert.deepEqual(limitsOf(asked({ memoryLimit: 100, memorySwapLimit: -1 })).memory, {
    limit: 100,
    swap: -1,
  });
  assert.deepEqual(limitsOf(asked({ memoryLimit: -1 })).memory, { limit: -1, swap: -1 });
  // The runtime refuses it by name: what it counts together is not known.
  assert.deepEqual(limitsOf(asked({ memorySwapLimit: 100 })).memory, { swap: 100 });
});

test("an update: fields that are set take the place of the old ones, maps are merged key by key", () => {
  const old = asked({
    cpuShares: 512,
    memoryLimit: 100,
    cpusetCpus: "0",
    hugepageLimits: [{ pageSize: "2MB", limit: 1 }],
    unified: { "memory.high": "90", "pids.max": "5" },
  });
  const changes = asked({
    memoryLimit: 200,
    hugepageLimits: [{ pageSize: "1GB", limit: 2 }],
    unified: { "memory.high": "180" },
  });
  const merged = mergeResources(old, changes);
  assert.deepEqual(merged, {
    ...old,
    memoryLimit: 200,
    hugepageLimits: [
      { pageSize: "2MB", limit: 1 },
      { pageSize: "1GB", limit: 2 },
    ],
    unified: { "memory.high": "180", "pids.max": "5" },
  });
  assert.deepEqual(mergeResources(old, none), old, "0 and empty leave everything");
  assert.deepEqual(updateOf(changes, merged), {
    memory: { limit: 200, swap: 200, checkBeforeUpdate: true },
    hugepageLimits: [{ pageSize: "1GB", limit: 2 }],
    unified: { "memory.high": "180" },
  });
});

test("an update of one half is told with the other: memory and swap, quota and period", () => {
  const old = asked({ memoryLimit: 100, memorySwapLimit: 300, cpuQuota: 10_000, cpuPeriod: 50_000 });
  const update = (changes: Partial<ContainerResources>) =>
    updateOf(asked(changes), mergeResources(old, asked(changes)));
  assert.deepEqual(update({ memoryLimit: 200 }).memory, { limit: 200, swap: 300, checkBeforeUpdate: true });
  assert.deepEqual(update({ memorySwapLimit: 400 }).memory, {
    limit: 100,
    swap: 400,
    checkBeforeUpdate: true,
  });
  assert.deepEqual(update({ cpuQuota: 20_000 }).cpu, { quota: 20_000, period: 50_000 });
  assert.deepEqual(update({ cpuPeriod: 100_000 }).cpu, { quota: 10_000, period: 100_000 });
  assert.deepEqual(update({ cpuQuota: -1 }).cpu, { quota: -1, period: 50_000 });
  assert.deepEqual(update({ cpuShares: 2 }), { cpu: { shares: 2 } }, "and nothing besides");
});
