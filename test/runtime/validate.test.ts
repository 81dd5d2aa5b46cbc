import assert from "node:assert/strict";
import { test } from "node:test";
import { IsopodError } from "../../src/base/errors";
import { checkId, checkProcess, checkSpec } from "../../src/runtime/validate";
import { processOf, specOf } from "./specs";

/** The ordinary spec with `value` at `path`. */
function specWith(path: string, value: unknown): unknown {
  const spec = structuredClone(specOf(["/bin/true"])) as unknown as Record<string, unknown>;
  const keys = path.split(/[.[\]]+/).filter(Boolean);
  let at = spec;
  for (const key of keys.slice(0, -1)) {
    at[key] ??= {};
    at = at[key] as Record<string, unknown>;
  }
  at[keys.at(-1)!] = value;
  return spec;
}

const messageOf = (spec: unknown): string => {
  try {
    checkSpec(spec);
  } catch (error) {
    assert.ok(IsopodError.is(error));
    return `${error.code} ${error.message}`;
  }
  return "accepted";
};

const REFUSED: readonly (readonly [string, unknown])[] = [
  ["hooks", { prestart: [{ path: "/bin/true" }] }],
  ["process.selinuxLabel", "system_u:system_r:container_t:s0"],
  ["process.scheduler", { policy: "SCHED_RR", priority: 3 }],
  ["process.ioPriority", { class: "IOPRIO_CLASS_RT", priority: 1 }],
  ["process.execCPUAffinity", { initial: "0" }],
  ["process.commandLine", "cmd.exe"],
  ["process.user.username", "ContainerUser"],
  ["linux.uidMappings", [{ containerID: 0, hostID: 100000, size: 65536 }]],
  ["linux.gidMappings", [{ containerID: 0, hostID: 100000, size: 65536 }]],
  ["linux.timeOffsets", { monotonic: { secs: 5 } }],
  ["linux.netDevices", { eth0: { name: "net1" } }],
  ["linux.intelRdt", { closID: "guaranteed" }],
  ["linux.memoryPolicy", { mode: "MPOL_BIND", nodes: "0" }],
  ["linux.personality", { domain: "LINUX32" }],
  ["linux.mountLabel", "system_u:object_r:container_file_t:s0"],
  ["linux.seccomp", { defaultAction: "SCMP_ACT_ALLOW", listenerPath: "/run/agent.sock" }],
  ["linux.resources.memory", { swappiness: 10 }],
  ["linux.resources.memory", { kernel: 1048576 }],
  ["linux.resources.memory", { kernelTCP: 1048576 }],
  ["linux.resources.memory", { disableOOMKiller: true }],
  ["linux.resources.cpu", { realtimeRuntime: 950000 }],
  ["linux.resources.cpu", { realtimePeriod: 1000000 }],
  ["linux.resources.blockIO", { leafWeight: 100 }],
  ["linux.resources.network", { priorities: [{ name: "eth0", priority: 1 }] }],
  ["linux.resources.network", { classID: 1 }],
  ["linux.namespaces[6]", { type: "user" }],
  ["linux.namespaces[6]", { type: "time" }],
  ["mounts[0].uidMappings", [{ containerID: 0, hostID: 1000, size: 1 }]],
  ["windows", { layerFolders: ["c:"] }],
  ["vm", { kernel: { path: "/vmlinuz" } }],
];

for (const [path, value] of REFUSED)
  test(`what is not built is refused by name and value: ${path} ${JSON.stringify(value)}`, () => {
    const message = messageOf(specWith(path, value));
    assert.match(message, /^UNIMPLEMENTED /);
    assert.ok(message.startsWith(`UNIMPLEMENTED ${path}`), message);
  });

const INVALID: readonly (readonly [string, unknown, string])[] = [
  ["ociVersion", "2.0.0", 'ociVersion: "2.0.0": must be a version 1 of the specification'],
  ["process.cwd", "tmp", 'process.cwd: "tmp": must be an absolute path'],
  ["process.args", [], "process.args: []: must name a program"],
  ["process.args[0]", 7, "process.args[0]: 7: must be a string"],
  ["process.args[0]", "a\0b", 'process.args[0]: "a\\u0000b": contains a NUL byte'],
  ["process.env[0]", "PATH", 'process.env[0]: "PATH": must be NAME=VALUE'],
  ["process.user.umask", 0o1777, "process.user.umask: 1023: must be a whole number from 0 to 511"],
  ["process.rlimits", [{ type: "RLIMIT_CPU" }], "process.rlimits[0].hard: undefined: is required"],
  ["process.oomScoreAdj", 1001, "process.oomScoreAdj: 1001: must be a whole number from -1000 to 1000"],
  [
    "process.capabilities.bounding[0]",
    "chown",
    'process.capabilities.bounding[0]: "chown": must be a CAP_ name',
  ],
  ["process.colour", "red", 'process.colour: "red": unknown member'],
  ["linux.namespaces[2].type", "foo", 'linux.namespaces[2].type: "foo": must be one of pid, network'],
  ["linux.namespaces[6]", { type: "pid" }, 'linux.namespaces[6].type: "pid": named twice'],
  ["linux.namespaces[0].path", "ns", 'linux.namespaces[0].path: "ns": must be an absolute path'],
  ["linux.devices", [{ path: "/dev/x", type: "z" }], 'linux.devices[0].type: "z": must be one of c, u, b, p'],
  ["linux.maskedPaths[0]", "proc", 'linux.maskedPaths[0]: "proc": must be an absolute path'],
  ["linux.rootfsPropagation", "sharedd", 'linux.rootfsPropagation: "sharedd": must be one of'],
  [
    "linux.resources.devices[0].access",
    "rx",
    'linux.resources.devices[0].access: "rx": must be made of r, w and m',
  ],
  [
    "linux.resources.memory",
    { limit: -2 },
    "linux.resources.memory.limit: -2: must be a whole number from -1",
  ],
  ["linux.resources.cpu", { cpus: "0-x" }, 'linux.resources.cpu.cpus: "0-x": must be a list'],
  ["linux.resources.cpu", { idle: 2 }, "linux.resources.cpu.idle: 2: must be a whole number from 0 to 1"],
  ["linux.resources.pids", { limit: "7" }, 'linux.resources.pids.limit: "7": must be a whole number'],
  ["linux.resources.blockIO", { weight: 5 }, "linux.resources.blockIO.weight: 5: must be a whole number"],
  [
    "linux.resources.blockIO",
    { throttleReadBpsDevice: [{ major: 8, rate: 1 }] },
    "linux.resources.blockIO.throttleReadBpsDevice[0].minor: undefined: is required",
  ],
  [
    "linux.resources.hugepageLimits",
    [{ pageSize: "2M", limit: 0 }],
    'linux.resources.hugepageLimits[0].pageSize: "2M": must be a size such as 2MB or 1GB',
  ],
  ["linux.resources.unified", { "memory.max": 5 }, "linux.resources.unified.memory.max: 5: must be a string"],
  ["mounts[1].destination", "dev", 'mounts[1].destination: "dev": must be an absolute path'],
  ["mounts[1].optoins", ["ro"], 'mounts[1].optoins: ["ro"]: unknown member'],
  ["root", undefined, "root: undefined: is required"],
  ["solitaire", 1, "solitaire: 1: unknown member"],
];

for (const [path, value, expected] of INVALID)
  test(`a malformed spec names the field and the value: ${path} ${JSON.stringify(value)}`, () => {
    const message = messageOf(specWith(path, value));
    assert.ok(message.startsWith(`INVALID_ARGUMENT ${expected}`), message);
  });

test("a document that is no object is refused", () => {
  assert.equal(messageOf([]), "INVALID_ARGUMENT config: []: must be an object");
});

test("hostname and domainname need a uts namespace of the container's own", () => {
  const without = specOf(["/bin/true"], { linux: { namespaces: [{ type: "mount" }, { type: "pid" }] } });
  assert.match(messageOf(without), /^INVALID_ARGUMENT hostname: "box": needs a uts namespace/);
});

test("0, empty and -1 as none ask for nothing", () => {
  const unset: readonly (readonly [string, unknown])[] = [
    ["process.apparmorProfile", ""],
    ["process.apparmorProfile", "docker-default"],
    ["process.scheduler", null],
    ["hooks", {}],
    ["hooks", { prestart: null, poststop: [] }],
    ["linux.resources.memory", { limit: 0, swap: -1, reservation: 0, disableOOMKiller: false }],
    ["linux.resources.cpu", { shares: 1024, quota: -1, period: 100000, cpus: "" }],
    ["linux.resources.pids", { limit: -1 }],
    ["linux.resources.hugepageLimits", [{ pageSize: "2MB", limit: 0 }]],
    ["linux.resources.unified", { "memory.oom.group": "1" }],
    ["linux.resources.blockIO", { weight: 0, throttleReadBpsDevice: [] }],
    ["linux.mountLabel", ""],
    ["mounts[0].uidMappings", null],
  ];
  for (const [path, value] of unset) assert.equal(messageOf(specWith(path, value)), "accepted", path);
});

test("CVE-2026-30892: a user id is a whole number below 2^32-1, wholly read or refused", () => {
  for (const uid of ["0", "1000:0", "", -1, 1.5, 2 ** 32 - 1, 2 ** 32, Number.NaN, true])
    assert.match(
      messageOf(specWith("process.user.uid", uid)),
      /^INVALID_ARGUMENT process\.user\.uid: /,
      `${uid}`,
    );
  for (const gid of ["5", -1, 2 ** 32 - 1])
    assert.match(
      messageOf(specWith("process.user.additionalGids", [gid])),
      /^INVALID_ARGUMENT process\.user\.additionalGids\[0\]: /,
    );
  assert.equal(messageOf(specWith("process.user.uid", 2 ** 32 - 2)), "accepted");
});

test("the process of an exec is checked the same way", () => {
  assert.doesNotThrow(() => checkProcess(processOf(["/bin/true"])));
  assert.throws(() => checkProcess({ cwd: "/" }), /^IsopodError: process\.args: undefined: is required/);
  assert.throws(() => checkProcess("x"), /^IsopodError: process: "x": must be an object/);
});

test("ids are file names of a narrow alphabet", () => {
  for (const id of ["a", "web-1_x.y+z", "f".repeat(128)]) assert.doesNotThrow(() => checkId("id", id));
  for (const id of ["", ".", "..", "a/b", "a b", "a@b", "ä", "f".repeat(129), "a\n"])
    assert.throws(() => checkId("id", id), /^IsopodError: id: /, JSON.stringify(id));
});
