import assert from "node:assert/strict";
import { test } from "node:test";
import Long from "long";
import { io } from "../../src/gen/shim";
import { decodeStats } from "../../src/task/metrics";

const u = (value: bigint | number) => Long.fromString(value.toString(), true);
const MAX = u(2n ** 64n - 1n);
const V2 = "io.containerd.cgroups.v2.Metrics";

const v2 = (metrics: io.containerd.cgroups.v2.Metrics.$Properties) =>
  decodeStats(V2, io.containerd.cgroups.v2.Metrics.encode(metrics).finish());

test("metrics of cgroup v2: every controller, times in ns", () => {
  const psi = { some: { avg10: 1.5, avg60: 0.5, avg300: 0.1, total: u(7) }, full: { total: u(3) } };
  const stats = v2({
    cpu: {
      usageUsec: u(5),
      userUsec: u(3),
      systemUsec: u(2),
      nrPeriods: u(9),
      nrThrottled: u(4),
      throttledUsec: u(6),
      psi,
    },
    memory: {
      usage: u(100),
      usageLimit: u(200),
      maxUsage: u(150),
      inactiveFile: u(30),
      anon: u(20),
      swapUsage: u(8),
      swapLimit: u(0),
      kernelStack: u(1),
      slab: u(2),
      psi,
    },
    memoryEvents: { oomKill: u(2), max: u(11) },
    pids: { current: u(3), limit: u(10) },
    io: { usage: [{ major: u(8), minor: u(1), rbytes: u(4096), wios: u(2) }], psi },
    hugetlb: [{ pagesize: "2MB", current: u(0), max: MAX }],
  });
  const full = { avg10: 0, avg60: 0, avg300: 0, total: 3000n };
  assert.deepEqual(stats.cpu, {
    usage: 5000n,
    user: 3000n,
    system: 2000n,
    throttling: { periods: 9n, throttled: 4n, time: 6000n },
    pressure: { some: { avg10: 1.5, avg60: 0.5, avg300: 0.1, total: 7000n }, full },
  });
  assert.equal(stats.memory?.limit, 200n);
  assert.equal(stats.memory?.peak, 150n);
  assert.equal(stats.memory?.kernel, 3n);
  assert.equal(stats.memory?.limitHits, 11n);
  assert.deepEqual(stats.memory?.pressure?.full, full);
  assert.deepEqual(stats.swap, { usage: 8n, limit: 0n }, "no swap is a limit");
  assert.deepEqual(stats.pids, { current: 3n, limit: 10n });
  assert.equal(stats.oomKills, 2n);
  const device = { major: 8, minor: 1, readBytes: 4096n, writeBytes: 0n, reads: 0n, writes: 2n };
  assert.deepEqual(stats.io, [device]);
  assert.equal(stats.ioPressure?.some.total, 7000n);
  assert.deepEqual(stats.hugetlb, [{ pageSize: "2MB", usage: 0n }]);
});

test("metrics of cgroup v2: what is not there is absent, and no limit is none", () => {
  const bare = v2({ cpu: { usageUsec: u(5) } });
  assert.deepEqual(Object.keys(bare), ["cpu"]);
  assert.equal(bare.cpu.pressure, undefined);
  const unlimited = v2({ memory: { usage: u(1), usageLimit: MAX, swapLimit: MAX }, pids: { limit: MAX } });
  assert.equal(unlimited.memory?.limit, undefined);
  assert.deepEqual(unlimited.swap, { usage: 0n });
  assert.deepEqual(unlimited.pids, { current: 0n });
});

test("metrics of cgroup v1: memory and swap are told apart", () => {
  const bytes = io.containerd.cgroups.v1.Metrics.encode({
    cpu: { usage: { total: u(7), user: u(4) }, throttling: { throttledTime: u(2) } },
    memory: {
      usage: { usage: u(100), limit: u(200), failcnt: u(5) },
      swap: { usage: u(130), limit: u(200) },
      totalRss: u(60),
    },
    memoryOomControl: { oomKill: u(1) },
  }).finish();
  const stats = decodeStats("type.googleapis.com/io.containerd.cgroups.v1.Metrics", bytes);
  assert.deepEqual([stats.cpu.usage, stats.cpu.user, stats.cpu.throttling?.time], [7n, 4n, 2n]);
  assert.deepEqual([stats.memory?.usage, stats.memory?.limit, stats.memory?.anon], [100n, 200n, 60n]);
  assert.deepEqual(stats.swap, { usage: 30n, limit: 0n });
  assert.equal(stats.oomKills, 1n);
});

test("metrics of another type are refused", () => {
  assert.throws(() => decodeStats("windows.Stats", new Uint8Array()), { code: "UNIMPLEMENTED" });
});
