import assert from "node:assert/strict";
import { describe, test } from "node:test";
import * as fc from "fast-check";
import { unitLimits } from "../../../src/runtime/systemd/properties";

const options = { version: 252, starting: true };
const INFINITY = 2n ** 64n - 1n;
const MAX_PERIOD = 1_000_000;

/** name → value of what one write to a file means. */
function propertiesOf(file: string, value: string, more: object = {}, given = options) {
  const { properties } = unitLimits([{ file, value, ...more }], given);
  return Object.fromEntries(properties.map((property) => [property.name, property.value]));
}

describe("properties of a unit", () => {
  test("limits of memory, swap and tasks, in all the kernel's ways to write them", () => {
    assert.deepEqual(propertiesOf("memory.max", "1048576"), { MemoryMax: 1048576n });
    assert.deepEqual(propertiesOf("memory.high", "max"), { MemoryHigh: INFINITY });
    assert.deepEqual(propertiesOf("memory.low", "2G"), { MemoryLow: 2n << 30n });
    assert.deepEqual(propertiesOf("memory.min", "4k"), { MemoryMin: 4096n });
    assert.deepEqual(propertiesOf("memory.swap.max", "0"), { MemorySwapMax: 0n });
    assert.deepEqual(propertiesOf("pids.max", "100"), { TasksMax: 100n });
  });

  test("a quota is rounded up to whole per cents, and the file is given the same", () => {
    const { properties, writes } = unitLimits([{ file: "cpu.max", value: "1500 100000" }], options);
    assert.deepEqual(properties, [
      { name: "CPUQuotaPerSecUSec", signature: "t", value: 20_000n },
      { name: "CPUQuotaPeriodUSec", signature: "t", value: 100_000n },
    ]);
    assert.deepEqual(writes, [{ file: "cpu.max", value: "2000 100000" }]);
    assert.deepEqual(propertiesOf("cpu.max", "max 50000"), {
      CPUQuotaPerSecUSec: INFINITY,
      CPUQuotaPeriodUSec: 50_000n,
    });
  });

  test("rounding never takes, gives less than a per cent, and is done once", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1000, max: 100 * MAX_PERIOD }),
        fc.integer({ min: 1000, max: MAX_PERIOD }),
        (quota, period) => {
          const once = unitLimits([{ file: "cpu.max", value: `${quota} ${period}` }], options);
          const rounded = Number(once.writes[0]!.value.split(" ")[0]);
          // What systemd computes from the properties.
          assert.equal(
            BigInt(rounded),
            ((once.properties[0]!.value as bigint) * BigInt(period)) / 1_000_000n,
          );
          // The file counts in whole microseconds.
          assert.ok(rounded >= quota - 1, `${rounded} < ${quota}`);
          assert.ok(rounded - quota <= period / 100, `${rounded} of ${quota} in ${period}`);
        },
      ),
    );
  });

  test("weights; an idle cgroup is a weight of 0 where systemd knows it", () => {
    assert.deepEqual(propertiesOf("cpu.weight", "39"), { CPUWeight: 39n });
    assert.deepEqual(propertiesOf("cpu.idle", "1"), { CPUWeight: 0n });
    assert.deepEqual(propertiesOf("cpu.idle", "1", {}, { version: 249, starting: true }), {});
    assert.deepEqual(propertiesOf("cpu.idle", "0"), {});
    assert.deepEqual(propertiesOf("io.weight", "default 50"), { IOWeight: 50n });
    assert.deepEqual(propertiesOf("io.weight", "8:16 50"), { IODeviceWeight: [["/dev/block/8:16", 50n]] });
    const instead = { file: "io.weight", value: "default 500" };
    assert.deepEqual(propertiesOf("io.bfq.weight", "default 50", { instead }), { IOWeight: 500n });
  });

  test("rates of a device, one property each", () => {
    assert.deepEqual(propertiesOf("io.max", "8:0 rbps=1048576 wiops=max"), {
      IOReadBandwidthMax: [["/dev/block/8:0", 1048576n]],
      IOWriteIOPSMax: [["/dev/block/8:0", INFINITY]],
    });
  });

  test("lists of CPUs and nodes are masks, lowest bit first", () => {
    assert.deepEqual(propertiesOf("cpuset.cpus", "0-3,9"), { AllowedCPUs: new Uint8Array([0x0f, 0x02]) });
    assert.deepEqual(propertiesOf("cpuset.mems", "0"), { AllowedMemoryNodes: new Uint8Array([1]) });
  });

  test("a mask has exactly the list's bits", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: 0, max: 600 }), { minLength: 1 }), (cpus) => {
        const mask = propertiesOf("cpuset.cpus", cpus.join(","))["AllowedCPUs"] as Uint8Array;
        const bits = [...mask].flatMap((byte, i) =>
          [0, 1, 2, 3, 4, 5, 6, 7].filter((bit) => byte & (1 << bit)).map((bit) => i * 8 + bit),
        );
        assert.deepEqual(
          bits,
          cpus.sort((a, b) => a - b),
        );
      }),
    );
  });

  test("a whole group's end is a policy, from systemd 253 on and at the start only", () => {
    const given = (version: number, starting: boolean) => ({ version, starting });
    assert.deepEqual(propertiesOf("memory.oom.group", "1", {}, given(253, true)), { OOMPolicy: "kill" });
    assert.deepEqual(propertiesOf("memory.oom.group", "0", {}, given(253, true)), { OOMPolicy: "continue" });
    assert.deepEqual(propertiesOf("memory.oom.group", "1", {}, given(252, true)), {});
    assert.deepEqual(propertiesOf("memory.oom.group", "1", {}, given(253, false)), {});
  });

  test("what no property stands for, or cannot be read, is written to the file as it is", () => {
    const writes = [
      { file: "hugetlb.2MB.max", value: "0" },
      { file: "cpu.max.burst", value: "1000" },
      { file: "memory.max", value: "a lot" },
      { file: "cpu.max", value: "much" },
      { file: "cpu.max", value: "1000 0" },
      { file: "cpuset.cpus", value: "1-" },
      { file: "cpuset.cpus", value: "0-99999999999" },
      { file: "io.max", value: "sda rbps=1" },
      { file: "io.weight", value: "sda 1" },
    ];
    assert.deepEqual(unitLimits(writes, options), { properties: [], writes });
  });
});
