import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { IsopodError } from "../../src/base/errors";
import type { CgroupWrite } from "../../src/native";
import type { Resources } from "../../src/oci/runtime-spec";
import { compileResources, controllersOf, weightOf } from "../../src/runtime/resources";
import { mergeResources } from "../../src/runtime/resources-merge";

const host = {
  cgroupRoot: "/sys/fs/cgroup",
  controllers: ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"],
};
const bare = { cgroupRoot: "/sys/fs/cgroup/unified", controllers: ["hugetlb"] };

const compiled = (change: Resources, held?: Resources, on = host, warnings: string[] = []) =>
  compileResources({
    field: "linux.resources",
    change,
    ...(held && { held }),
    host: on,
    warn: (message) => void warnings.push(message),
  });

/** `file=value` lines, marks for what else a write says. */
const written = (change: Resources, held?: Resources): string[] => compiled(change, held).map(shown);

function shown({ file, value, optional, retry, instead }: CgroupWrite): string {
  const marks = `${optional ? "?" : ""}${retry ? "~" : ""}`;
  return `${file}${marks}=${value}${instead ? ` | ${shown(instead)}` : ""}`;
}

const ROWS: readonly (readonly [string, Resources, readonly string[]])[] = [
  ["nothing", {}, []],
  ["nothing, as Go writes it", JSON.parse('{"memory":null,"cpu":null,"pids":{"limit":null}}'), []],
  ["shares", { cpu: { shares: 1024 } }, ["cpu.weight=100"]],
  ["quota", { cpu: { quota: 20000 } }, ["cpu.max=20000 100000"]],
  ["quota and period", { cpu: { quota: 20000, period: 50000 } }, ["cpu.max=20000 50000"]],
  ["the default period without a quota", { cpu: { period: 100000, quota: 0 } }, []],
  ["another period without a quota", { cpu: { period: 50000 } }, ["cpu.max=max 50000"]],
  ["no quota", { cpu: { quota: -1 } }, ["cpu.max=max 100000"]],
  [
    "burst, before or after the quota",
    { cpu: { quota: 20000, burst: 5000 } },
    ["cpu.max.burst~=5000", "cpu.max=20000 100000"],
  ],
  ["idle", { cpu: { idle: 1 } }, ["cpu.idle=1"]],
  ["idle outweighs shares", { cpu: { idle: 1, shares: 512 } }, ["cpu.idle=1"]],
  ["not idle, as every cgroup is", { cpu: { idle: 0 } }, []],
  ["cpuset", { cpu: { cpus: "0-1,3", mems: "0" } }, ["cpuset.cpus=0-1,3", "cpuset.mems=0"]],
  ["memory", { memory: { limit: 1 << 20 } }, ["memory.max=1048576"]],
  [
    "memory without limit takes swap along",
    { memory: { limit: -1 } },
    ["memory.swap.max?=max", "memory.max=max"],
  ],
  [
    "swap on top of memory",
    { memory: { limit: 1 << 20, swap: 3 << 20 } },
    ["memory.swap.max=2097152", "memory.max=1048576"],
  ],
  [
    "no swap: there may be no such file",
    { memory: { limit: 1 << 20, swap: 1 << 20 } },
    ["memory.swap.max?=0", "memory.max=1048576"],
  ],
  ["any swap", { memory: { limit: 1 << 20, swap: -1 } }, ["memory.swap.max?=max", "memory.max=1048576"]],
  ["reservation", { memory: { reservation: 4096 } }, ["memory.low=4096"]],
  ["a number that JSON rounds", { memory: { limit: 2 ** 63 } }, ["memory.max=9223372036854775808"]],
  ["pids", { pids: { limit: 20 } }, ["pids.max=20"]],
  ["any number of pids", { pids: { limit: -1 } }, ["pids.max=max"]],
  ["no pids but the one that is", { pids: { limit: 0 } }, ["pids.max=1"]],
  ["weight", { blockIO: { weight: 500 } }, ["io.bfq.weight=default 500 | io.weight=default 4950"]],
  [
    "weight of a device",
    { blockIO: { weightDevice: [{ major: 8, minor: 16, weight: 1000 }] } },
    ["io.bfq.weight=8:16 1000 | io.weight=8:16 10000"],
  ],
  [
    "rates",
    {
      blockIO: {
        throttleReadBpsDevice: [{ major: 8, minor: 0, rate: 1000 }],
        throttleWriteBpsDevice: [{ major: 8, minor: 0, rate: 2000 }],
        throttleReadIOPSDevice: [{ major: 8, minor: 16, rate: 10 }],
        throttleWriteIOPSDevice: [{ major: 8, minor: 16, rate: 0 }],
      },
    },
    ["io.max=8:0 rbps=1000", "io.max=8:0 wbps=2000", "io.max=8:16 riops=10", "io.max=8:16 wiops=max"],
  ],
  [
    "huge pages, of which none is a limit too",
    {
      hugepageLimits: [
        { pageSize: "2MB", limit: 4 << 20 },
        { pageSize: "1GB", limit: 0 },
      ],
    },
    [
      "hugetlb.2MB.max=4194304",
      "hugetlb.2MB.rsvd.max?=4194304",
      "hugetlb.1GB.max=0",
      "hugetlb.1GB.rsvd.max?=0",
    ],
  ],
  [
    "rdma",
    { rdma: { mlx5_0: { hcaHandles: 3, hcaObjects: 10000 }, mlx5_1: { hcaObjects: 7 }, mlx5_2: {} } },
    ["rdma.max=mlx5_0 hca_handle=3 hca_object=10000", "rdma.max=mlx5_1 hca_object=7"],
  ],
  [
    "unified, last and line by line",
    {
      unified: { "memory.high": "1000", "io.max": "8:0 rbps=1\n8:16 wbps=2\n", "cgroup.max.depth": "2" },
      memory: { limit: 2 << 20 },
    },
    [
      "memory.max=2097152",
      "memory.high=1000",
      "io.max=8:0 rbps=1",
      "io.max=8:16 wbps=2",
      "cgroup.max.depth=2",
    ],
  ],
  ["unified that says nothing", { unified: { "memory.high": "" } }, []],
];

for (const [name, resources, expected] of ROWS)
  test(`what becomes of ${name}`, () => assert.deepEqual(written(resources), expected));

test("shares land on v2's scale: both ends, the default, and kubelet's smallest", () => {
  const known = [
    [1, 1],
    [2, 1],
    [102, 17],
    [512, 59],
    [1024, 100],
    [2048, 174],
    [4096, 303],
    [262_144, 10_000],
    [1_000_000, 10_000],
  ] as const;
  for (const [shares, weight] of known) assert.equal(weightOf(shares), weight, `${shares}`);
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 300_000 }), (shares) => {
      assert.ok(weightOf(shares) >= weightOf(shares - 1), "more shares never weigh less");
      assert.ok(weightOf(shares) >= 1 && weightOf(shares) <= 10_000);
    }),
  );
});

const REFUSED: readonly (readonly [Resources, string, RegExp])[] = [
  [{ memory: { swap: 5000 } }, "INVALID_ARGUMENT", /resources\.memory\.swap: 5000: .*needs memory\.limit/],
  [{ memory: { limit: -1, swap: 5000 } }, "INVALID_ARGUMENT", /memory\.swap: 5000: .*needs memory\.limit/],
  [
    { memory: { limit: 6000, swap: 5000 } },
    "INVALID_ARGUMENT",
    /memory\.swap: 5000: .*below memory\.limit 6000/,
  ],
  [
    { cpu: { quota: 5000, burst: 9000 } },
    "INVALID_ARGUMENT",
    /cpu\.burst: 9000: must not be above cpu\.quota 5000/,
  ],
  [{ unified: { "memory/max": "1" } }, "INVALID_ARGUMENT", /unified\[memory\/max\]: "1": must be the name/],
  [{ unified: { "../memory.max": "1" } }, "INVALID_ARGUMENT", /unified\[\.\.\/memory\.max\]/],
  [{ unified: { memory: "1" } }, "INVALID_ARGUMENT", /unified\[memory\]/],
  [{ unified: { "cgroup.procs": "1" } }, "UNIMPLEMENTED", /unified\[cgroup\.procs\]: "1": is no limit/],
  [{ unified: { "cgroup.kill": "1" } }, "UNIMPLEMENTED", /cgroup\.kill/],
  [{ unified: { "cgroup.subtree_control": "+cpu" } }, "UNIMPLEMENTED", /cgroup\.subtree_control/],
  [{ unified: { "memory.reclaim": "1G" } }, "UNIMPLEMENTED", /memory\.reclaim\]: "1G": is an act/],
  [{ unified: { "memory.pressure": "some 1 2" } }, "UNIMPLEMENTED", /memory\.pressure/],
  [{ unified: { "dmem.max": "1" } }, "FAILED_PRECONDITION", /needs the dmem controller/],
];

for (const [resources, code, message] of REFUSED)
  test(`refused by member and value: ${JSON.stringify(resources)}`, () =>
    assert.throws(
      () => compiled(resources),
      (error: unknown) => IsopodError.is(error) && error.code === code && message.test(error.message),
    ));

test("R5: no container is born into less memory than the stub needs until it may be killed", () => {
  const low: readonly Resources[] = [
    { memory: { limit: 4096 } },
    { memory: { limit: (512 << 10) - 1 } },
    { memory: { limit: 1 << 30 }, unified: { "memory.max": "4096" } },
    { unified: { "memory.max": "511K" } },
    { unified: { "memory.max": "0" } },
  ];
  for (const resources of low)
    assert.throws(
      () => compiled(resources),
      /resources\.(memory\.limit|unified\[memory\.max\]): "\d+K?": less/,
    );
  const enough: readonly Resources[] = [
    { memory: { limit: 512 << 10 } },
    { memory: { limit: 4096 }, unified: { "memory.max": "1M" } },
    { unified: { "memory.max": "512k" } },
    { unified: { "memory.max": "max" } },
  ];
  for (const resources of enough) assert.doesNotThrow(() => compiled(resources));
  assert.doesNotThrow(
    () => compiled({ memory: { limit: 4096 } }, {}),
    "a running one may be limited to less",
  );
});

test("a missing controller is named, with what there is", () => {
  const needs: readonly (readonly [Resources, string])[] = [
    [{ memory: { limit: 4096 } }, "memory"],
    [{ memory: { reservation: 4096 } }, "memory"],
    [{ cpu: { quota: 5000 } }, "cpu"],
    [{ cpu: { idle: 1 } }, "cpu"],
    [{ cpu: { burst: 5 } }, "cpu"],
    [{ cpu: { cpus: "0" } }, "cpuset"],
    [{ pids: { limit: 5 } }, "pids"],
    [{ blockIO: { weight: 100 } }, "io"],
    [{ blockIO: { throttleReadBpsDevice: [{ major: 8, minor: 0, rate: 1 }] } }, "io"],
    [{ rdma: { mlx: { hcaHandles: 1 } } }, "rdma"],
    [{ unified: { "memory.high": "5" } }, "memory"],
  ];
  for (const [resources, controller] of needs)
    assert.throws(
      () => compiled(resources, undefined, bare),
      (error: unknown) =>
        IsopodError.is(error) &&
        error.code === "FAILED_PRECONDITION" &&
        error.message.includes(`needs the ${controller} controller`) &&
        error.message.includes("(it has: hugetlb)"),
      JSON.stringify(resources),
    );
});

test("without a controller there are no limits to lift; what kubelet gives every container is dropped aloud", () => {
  const warnings: string[] = [];
  const none = { memory: { limit: -1, swap: -1 }, cpu: { quota: -1, period: 100_000 }, pids: { limit: -1 } };
  assert.deepEqual(compiled(none, undefined, bare, warnings), []);
  assert.equal(warnings.length, 0);
  const usual = { cpu: { shares: 2 }, unified: { "memory.oom.group": "1" } };
  assert.deepEqual(compiled(usual, undefined, bare, warnings), []);
  assert.deepEqual(
    warnings.map((warning) => warning.split(" ")[0]),
    ["linux.resources.cpu.shares", "linux.resources.unified[memory.oom.group]"],
  );
});

test("the controllers that have to be enabled, each once", () => {
  const limits = compiled({
    memory: { limit: 5 << 20, reservation: 4096 },
    pids: { limit: 1 },
    unified: { "cgroup.max.depth": "1" },
  });
  assert.deepEqual(controllersOf(limits), ["pids", "memory"]);
});

test("an update says what a member means together with what holds", () => {
  const held: Resources = {
    cpu: { quota: 20000, period: 50000, shares: 512 },
    memory: { limit: 4096, swap: 8192 },
  };
  assert.deepEqual(written({ cpu: { period: 25000 } }, held), ["cpu.max=20000 25000"]);
  assert.deepEqual(written({ cpu: { quota: 30000 } }, held), ["cpu.max=30000 50000"]);
  assert.deepEqual(written({ cpu: { quota: -1 } }, held), ["cpu.max=max 50000"]);
  assert.deepEqual(written({ memory: { limit: 6000 } }, held), ["memory.swap.max=2192", "memory.max=6000"]);
  assert.deepEqual(written({ memory: { swap: 4096 } }, held), ["memory.swap.max?=0"]);
  assert.throws(() => compiled({ memory: { limit: 9000 } }, held), /below memory\.limit 9000/);
  assert.deepEqual(written({ cpu: { idle: 1 } }, held), ["cpu.idle=1"]);
  const idle = mergeResources(held, { cpu: { idle: 1 } });
  assert.deepEqual(written({ cpu: { shares: 1024 } }, idle), [], "its weight comes when it wakes");
  assert.deepEqual(written({ cpu: { idle: 0 } }, mergeResources(idle, { cpu: { shares: 1024 } })), [
    "cpu.idle=0",
    "cpu.weight=100",
  ]);
  assert.deepEqual(written({ cpu: { burst: 0 } }, held), ["cpu.max.burst~=0"]);
});

// --- what holds after an update is what a container created that way would have ---

const device = fc.record({ major: fc.constantFrom(8, 253), minor: fc.constantFrom(0, 16) });
const rates = fc.uniqueArray(
  fc.tuple(device, fc.integer({ min: 0, max: 9 })).map(([at, rate]) => ({ ...at, rate })),
  { selector: ({ major, minor }) => `${major}:${minor}`, maxLength: 3 },
);
const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
const amount = fc.integer({ min: 0, max: 1000 }).map((mb) => mb << 20);

const resources: fc.Arbitrary<Resources> = fc.record(
  {
    memory: fc.record(
      {
        limit: amount,
        reservation: amount,
        swap: fc.integer({ min: 1000, max: 2000 }).map((mb) => mb * (1 << 20)),
      },
      { requiredKeys: ["limit"] },
    ),
    cpu: fc.record(
      {
        shares: fc.integer({ min: 0, max: 5000 }),
        quota: fc.integer({ min: -1, max: 50 }).map((n) => (n > 0 ? n + 9 : n)),
        period: fc.integer({ min: 0, max: 50 }),
        burst: fc.integer({ min: 0, max: 9 }),
        idle: fc.constantFrom(0, 1),
        cpus: fc.constantFrom("", "0", "0-1"),
      },
      { requiredKeys: [] },
    ),
    pids: fc.record({ limit: fc.integer({ min: -1, max: 5 }) }),
    blockIO: fc.record(
      { weight: fc.constantFrom(0, 10, 1000), throttleReadBpsDevice: rates, throttleWriteIOPSDevice: rates },
      { requiredKeys: [] },
    ),
    hugepageLimits: fc
      .uniqueArray(fc.constantFrom("2MB", "1GB"), { maxLength: 2 })
      .chain((sizes) => fc.tuple(...sizes.map((pageSize) => amount.map((limit) => ({ pageSize, limit }))))),
    unified: fc.dictionary(
      fc.constantFrom("memory.high", "pids.max", "io.max"),
      fc.constantFrom("8:0 rbps=4", "5"),
    ),
  },
  { requiredKeys: [] },
) as fc.Arbitrary<Resources>;

/** A cgroup on paper: what its files say after these writes. Defaults are left out. */
class Files {
  readonly lines = new Map<string, string>();

  apply(writes: readonly CgroupWrite[]): this {
    for (const { file, key = "", value, unset } of writes) {
      if (file === "io.max") {
        const [device = "", pair = ""] = value.split(" ");
        this.#set(`${file} ${device} ${pair.split("=")[0]}`, pair.split("=")[1] ?? "", "max");
      } else {
        this.#set(`${file} ${key}`, value, unset ?? defaults[file] ?? "max");
      }
      // An idle cgroup has no weight, and has the default one when it wakes.
      if (file === "cpu.idle") this.lines.delete("cpu.weight ");
    }
    return this;
  }

  #set(name: string, value: string, none: string): void {
    if (value === none) this.lines.delete(name);
    else this.lines.set(name, value);
  }
}

const defaults: Readonly<Record<string, string>> = {
  "cpu.max": "max 100000",
  "cpu.max.burst": "0",
  "cpu.idle": "0",
  "cpu.weight": "100",
};

const tryCompile = (change: Resources, held?: Resources) => {
  try {
    return compiled(change, held);
  } catch {
    return undefined;
  }
};

test("created and then updated is the same as created so at once", () => {
  fc.assert(
    fc.property(resources, resources, (first, change) => {
      const created = tryCompile(first);
      const merged = mergeResources(first, change);
      const update = tryCompile(change, first);
      const atOnce = tryCompile(merged);
      fc.pre(created !== undefined && update !== undefined && atOnce !== undefined);
      // Unified wins at create, but a later change of the same file by its member wins over that.
      fc.pre(Object.keys(first.unified ?? {}).length === 0);
      const one = new Files().apply(created!).apply(update!).lines;
      assert.deepEqual([...one].sort(), [...new Files().apply(atOnce!).lines].sort());
    }),
    { numRuns: 2000 },
  );
});

test("whatever is asked for, every write names a file of its controller and what asked for it", () => {
  fc.assert(
    fc.property(resources, maybe(resources), (change, held) => {
      for (const { file, controller, field, value, key } of tryCompile(change, held) ?? []) {
        assert.match(file, /^[a-z]+(\.[A-Za-z0-9]+)+$/);
        assert.equal(file.split(".")[0], controller);
        assert.match(field, /^linux\.resources\.[a-zA-Z]+/);
        assert.notEqual(value, "");
        if (key !== undefined) assert.ok(value.startsWith(`${key} `));
      }
    }),
  );
});
