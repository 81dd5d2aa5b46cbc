import assert from "node:assert/strict";
import * as fs from "node:fs";
import { test } from "node:test";
import { parseInterfaces, readInterfaces } from "../../src/sandbox/interfaces";
import { parseOpenFiles, processFacts } from "../../src/sandbox/process-facts";
import { usageOf } from "../../src/sandbox/stats";
import { containerConfig, open, runPodRequest } from "./doubles";

const DEV = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0
  eth0:18446744073709551615 20 3 4 0 0 0 0 50 60 7 8 0 0 0 0
`;

test("the counters of a network namespace, 64 bits of them", () => {
  const [lo, eth0] = parseInterfaces(DEV);
  assert.equal(lo?.name, "lo");
  assert.deepEqual(eth0, {
    name: "eth0",
    received: { bytes: 2n ** 64n - 1n, packets: 20n, errors: 3n, dropped: 4n },
    sent: { bytes: 50n, packets: 60n, errors: 7n, dropped: 8n },
  });
  assert.ok(readInterfaces(process.pid)!.every(({ name }) => name !== "lo"));
  assert.equal(readInterfaces(2 ** 22 + 1), undefined, "nobody has that pid");
});

test("what /proc tells of processes: descriptors, sockets, the limit; one that is gone counts for nothing", async () => {
  const here = await processFacts([process.pid, 2 ** 22 + 1]);
  assert.equal(here.processes, 2);
  assert.ok(here.descriptors >= 3);
  assert.ok(here.sockets <= here.descriptors);
  assert.equal(here.openFilesLimit, parseOpenFiles(fs.readFileSync("/proc/self/limits", "utf8")));
  assert.equal(
    parseOpenFiles("Max open files            1024                 524288               files\n"),
    1024,
  );
  assert.equal(
    parseOpenFiles("Max open files            unlimited            unlimited            files\n"),
    undefined,
  );
  assert.deepEqual(await processFacts([]), {
    processes: 0,
    descriptors: 0,
    sockets: 0,
    openFilesLimit: undefined,
  });
});

test("the working set is what would not be dropped, and what is left is counted from there", () => {
  const base = { anon: 0n, file: 0n, fileMapped: 0n, kernel: 0n, pageFaults: 0n, majorPageFaults: 0n };
  const cpu = { usage: 5n, user: 0n, system: 0n };
  const of = (usage: bigint, inactiveFile: bigint, limit?: bigint) => {
    const memory = { ...base, usage, inactiveFile, ...(limit !== undefined && { limit }) };
    const { workingSet, available } = usageOf({ cpuSample: undefined }, { cpu, memory });
    return [workingSet, available];
  };
  assert.deepEqual(of(100n, 30n, 200n), [70n, 130n]);
  assert.deepEqual(of(100n, 130n, 200n), [0n, 200n], "the two are not read at the same time");
  assert.deepEqual(of(100n, 30n), [70n, 0n], "no limit, nothing to be counted");
  assert.deepEqual(of(100n, 0n, 50n), [100n, 0n]);
  assert.equal(usageOf({ cpuSample: undefined }, { cpu }).nanoCores, undefined, "one sample is none");
  const sampled = { cpuSample: { at: 1n, usage: 4n, nanoCores: undefined } };
  assert.equal(usageOf(sampled, { cpu }).nanoCores, 0n);
  assert.equal(sampled.cpuSample.usage, 5n);
});

test("a pod without a cgroup of its own is the sum of its containers; a stopped one has no usage", async (t) => {
  const bench = await open(t);
  const pod = await bench.pods.run(runPodRequest());
  for (const name of ["a", "b"]) {
    const id = await bench.pods.create(pod, containerConfig({ metadata: { name, attempt: 0 } }));
    await bench.pods.start(id);
  }
  const stats = await bench.pods.podStats(pod);
  assert.equal(stats.usage?.cpu.usage, 2_000_000n);
  assert.equal(stats.containers.length, 2);
  assert.equal((await bench.pods.listPodStats({ id: pod })).length, 1);
  assert.deepEqual(await bench.pods.listPodStats({ id: "absent" }), []);
  await assert.rejects(bench.pods.podStats("absent"), { code: "NOT_FOUND" });
  assert.equal((await bench.pods.podMetrics())[0]?.facts.length, 2);
  await bench.pods.stop(pod);
  assert.equal((await bench.pods.podStats(pod)).usage, undefined);
  assert.deepEqual(await bench.pods.podMetrics(), []);
});
