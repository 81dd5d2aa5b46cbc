import assert from "node:assert/strict";
import { test } from "node:test";
import type { Mount } from "../../src/oci/mount";
import type { Linux, Spec } from "../../src/oci/runtime-spec";
import { type ContainerPlanOptions, compileContainer } from "../../src/runtime/compile";
import { environment } from "../../src/runtime/compile-process";
import { ATTR, MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE } from "../../src/runtime/mount-options";
import { type ReadPlan, readPlan } from "./plan-reader";
import { processOf, specOf, target } from "./specs";

const warnings: string[] = [];

function planOf(spec: Spec, more: Partial<ContainerPlanOptions> = {}): ReadPlan {
  warnings.length = 0;
  const { plan } = compileContainer({
    id: "c1",
    spec,
    bundle: "/bundle",
    rootfs: [],
    stdio: { stdin: "/io/in", stdout: "/io/out", stderr: "/io/err" },
    gate: "/state/c1.gate",
    base: undefined,
    target,
    dieWithParent: false,
    warn: (message) => void warnings.push(message),
    ...more,
  });
  return readPlan(plan);
}

const withLinux = (more: Partial<Linux>): Spec => {
  const spec = specOf(["/bin/true"]);
  return { ...spec, linux: { ...spec.linux, ...more } };
};

/** Asserts that these ops stand in this order, others between them or not. */
function inOrder(plan: ReadPlan, ...ops: readonly string[]): void {
  let at = -1;
  for (const op of ops) {
    const next = plan.order.indexOf(op, at + 1);
    assert.ok(next > at, `${op} after ${at} in ${plan.order.join(" ")}`);
    at = next;
  }
}

test("an ordinary spec compiles in the order that the kernel's rules leave", () => {
  const plan = planOf(specOf(["/bin/true"]));
  inOrder(
    plan,
    ...["unshare", "loopbackUp", "setsid", "hostname", "enterBase", "attachRoot", "mountNew", "mknod"],
    ...["symlink", "pivot", "stdio", "readonly", "mask", "keyring", "umask", "noNewPrivs", "bounding"],
    ...["groups", "ids", "cwd", "caps", "lookup", "gate", "exec"],
  );
  assert.equal(plan.order.at(-1), "exec");
  assert.equal(plan.cloneFlags, 0x6c000000, "pid, net, uts, ipc; never mnt and cgroup");
  assert.equal(plan.find("unshare").a, 0x02000000, "the cgroup namespace after placement");
});

test("an AppArmor profile is named as root, before the filter and the user", () => {
  const spec = specOf(["/bin/true"]);
  const named = (apparmorProfile: string): Spec => ({
    ...spec,
    process: { ...spec.process!, apparmorProfile },
  });
  const on = { target: { ...target, apparmor: true } };
  const seccomp = { defaultAction: "SCMP_ACT_ALLOW", syscalls: [] };
  for (const noNewPrivileges of [true, false]) {
    const process = { ...named("mine").process!, noNewPrivileges };
    const plan = planOf({ ...spec, process, linux: { ...spec.linux, seccomp } }, on);
    inOrder(plan, "pivot", "apparmor", "seccomp", "exec");
    inOrder(plan, "apparmor", "ids", "exec");
    assert.equal(plan.find("apparmor").subject, "mine");
  }
  assert.equal(planOf(named("unconfined"), on).find("apparmor").subject, "unconfined");
  assert.equal(planOf(spec, on).order.includes("apparmor"), false);
  assert.equal(
    planOf(named("unconfined")).order.includes("apparmor"),
    false,
    "a host without is that anyhow",
  );
  assert.throws(() => planOf(named("mine")), {
    code: "UNIMPLEMENTED",
    message: 'process.apparmorProfile: "mine": AppArmor is not enabled on this host',
  });
});

test("R8: what has a host path is opened first, and no op but those of the tree names one", () => {
  const spec = specOf(["/bin/true"], {
    mounts: [{ destination: "/data", type: "bind", source: "vol", options: ["rbind", "ro"] }],
  });
  const plan = planOf(spec);
  const tree = plan.opens.find(({ path }) => path === "/bundle/vol");
  assert.equal(tree?.kind, "tree");
  assert.equal(tree?.flags, 1, "recursive");
  assert.equal(plan.find("mountTree", "/data").a, tree?.slot);
  assert.deepEqual(
    plan.opens.filter(({ kind }) => kind === "file").map(({ path }) => path),
    ["/io/in", "/io/out", "/io/err", "/state/c1.gate"],
  );
});

test("R3: output is opened for reading and writing, input for reading, all given to the user", () => {
  const plan = planOf(
    specOf(["/bin/true"], { process: processOf(["/bin/true"], { user: { uid: 7, gid: 8 } }) }),
  );
  const flags = Object.fromEntries(plan.opens.map(({ path, flags, a }) => [path, [flags, a]]));
  assert.deepEqual(flags["/io/in"], [0, 7]);
  assert.deepEqual(flags["/io/out"], [2, 7]);
  assert.deepEqual(flags["/io/err"], [2, 7]);
  assert.deepEqual(flags["/state/c1.gate"], [2, 0xffffffff]);
});

test("without no_new_privs the filter comes before the capabilities go, with it after the gate", () => {
  const seccomp = { defaultAction: "SCMP_ACT_ALLOW", syscalls: [] };
  const process = processOf(["/bin/true"], { noNewPrivileges: false });
  const before = planOf({ ...withLinux({ seccomp }), process });
  inOrder(before, "seccomp", "bounding", "ids", "caps", "gate");
  assert.equal(before.order.includes("noNewPrivs"), false);
  inOrder(planOf(withLinux({ seccomp })), "noNewPrivs", "caps", "gate", "seccomp", "exec");
});

test("rules for system calls that nobody knows are named once", () => {
  const syscalls = [{ names: ["read", "frobnicate"], action: "SCMP_ACT_ALLOW" }];
  const spec = withLinux({ seccomp: { defaultAction: "SCMP_ACT_ERRNO", syscalls } });
  planOf(spec);
  assert.deepEqual(warnings, ["linux.seccomp: rules for unknown system calls do nothing"]);
  planOf(spec);
  assert.deepEqual(warnings, []);
});

test("R4: a pid namespace that is somebody else's is entered by a successor, before proc is mounted", () => {
  const plan = planOf(
    withLinux({
      namespaces: [
        { type: "pid", path: "/proc/42/ns/pid" },
        { type: "network", path: "/run/netns/p" },
        { type: "mount" },
      ],
    }),
  );
  assert.equal(plan.cloneFlags, 0);
  assert.deepEqual(
    plan.opens.filter(({ kind }) => kind === "namespace").map(({ path, a }) => [path, a]),
    [
      ["/proc/42/ns/pid", 0x20000000],
      ["/run/netns/p", 0x40000000],
    ],
  );
  assert.deepEqual(
    plan.all("setns").map(({ subject }) => subject),
    ["/run/netns/p"],
  );
  inOrder(plan, "setns", "successor", "setsid", "enterBase", "mountNew");
  assert.equal(plan.order.includes("loopbackUp"), false);
});

test("CVE-2022-29162: inheritable and ambient are empty unless the spec fills them", () => {
  const caps = planOf(specOf(["/bin/true"])).find("caps");
  assert.equal(caps.bytes("a", 8).readBigUInt64LE(), 0n);
  assert.equal(caps.bytes("b", 8).readBigUInt64LE(), 0n);
  assert.equal(caps.x, 0xa80425fbn);
  assert.equal(caps.y, 0xa80425fbn);
});

test("no capabilities in the spec are no capabilities", () => {
  const { capabilities: _none, ...process } = processOf(["/bin/true"]);
  const plan = planOf(specOf(["/bin/true"], { process }));
  assert.equal(plan.find("bounding").x, 0n);
  assert.equal(plan.find("caps").y, 0n);
});

test("capabilities that are not to be had are left out with one warning", () => {
  const names = ["CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_OF_TOMORROW"];
  const process = processOf(["/bin/true"], { capabilities: { bounding: names, permitted: names } });
  const plan = planOf(specOf(["/bin/true"], { process }), {
    target: { ...target, effectiveCapabilities: 0x1fffeffffffn },
  });
  assert.equal(plan.find("bounding").x, 1n);
  assert.deepEqual(warnings, ["capabilities that are not available here are left out"]);
});

test("ambient capabilities need their permitted and inheritable twins", () => {
  const process = processOf(["/bin/true"], {
    capabilities: {
      permitted: ["CAP_CHOWN", "CAP_KILL"],
      inheritable: ["CAP_CHOWN"],
      ambient: ["CAP_CHOWN", "CAP_KILL"],
    },
  });
  const caps = planOf(specOf(["/bin/true"], { process })).find("caps");
  assert.equal(caps.bytes("b", 8).readBigUInt64LE(), 1n);
  assert.match(warnings.join(), /ambient/);
});

test("mount words become attributes, propagation and data", () => {
  const spec = specOf(["/bin/true"], {
    mounts: [
      {
        destination: "/a",
        type: "tmpfs",
        source: "tmpfs",
        options: ["nosuid", "noatime", "mode=755", "size=1m"],
      },
      { destination: "/b", type: "bind", source: "/src", options: ["rbind", "rprivate", "ro", "suid"] },
      { destination: "/c", type: "bind", source: "/src", options: ["rbind", "rshared", "rro", "rnosuid"] },
      { destination: "/d", type: "bind", source: "/src", options: ["bind", "private", "rw"] },
      { destination: "/e", type: "bind", source: "/src", options: ["rbind"] },
    ],
  });
  const plan = planOf(spec);
  const a = plan.find("mountNew", "/a");
  assert.deepEqual(
    [a.text("a"), a.list("d"), a.x],
    ["tmpfs", ["mode=755", "size=1m"], ATTR.nosuid | ATTR.noatime],
  );
  const b = plan.find("mountTree", "/b");
  assert.deepEqual([b.x, b.y, b.d, b.b], [ATTR.rdonly, ATTR.nosuid, MS_PRIVATE | MS_REC, 0]);
  assert.equal(plan.find("mountTree", "/c").d, MS_SHARED | MS_REC, "a peer stays one");
  const below = plan.find("setAttr", "/c");
  assert.deepEqual([below.x, below.b], [ATTR.rdonly | ATTR.nosuid, 1]);
  const d = plan.find("mountTree", "/d");
  assert.deepEqual([d.y, d.d], [ATTR.rdonly, MS_SLAVE | MS_REC]);
  assert.equal(plan.find("propagate", "/d").a, MS_PRIVATE);
  assert.equal(plan.find("mountTree", "/e").d, MS_SLAVE | MS_REC, "no word: slave");
});

test("a later word takes back an earlier one", () => {
  const spec = specOf(["/bin/true"], {
    mounts: [
      {
        destination: "/a",
        type: "bind",
        source: "/s",
        options: ["bind", "ro", "noexec", "rw", "noatime", "relatime"],
      },
    ],
  });
  const mount = planOf(spec).find("mountTree", "/a");
  assert.equal(mount.x, ATTR.noexec);
  assert.equal(mount.y, ATTR.rdonly | ATTR.atime);
});

test("a read-only tmpfs and root become so at the end", () => {
  const spec = specOf(["/bin/true"], {
    root: { path: "rootfs", readonly: true },
    mounts: [{ destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["ro", "mode=755"] }],
  });
  const plan = planOf(spec);
  assert.equal(plan.find("mountNew", "/dev").x, 0n);
  const late = plan.all("setAttr");
  assert.deepEqual(
    late.map(({ subject, x }) => [subject, x]),
    [
      ["/dev", 1n],
      ["/", 1n],
    ],
  );
  inOrder(plan, "mknod", "pivot", "stdio", "setAttr");
});

test("a shared root is private to the host while it is built and shared at the end", () => {
  const plan = planOf(withLinux({ rootfsPropagation: "rshared" }));
  assert.equal(plan.find("attachRoot").b, MS_SLAVE | MS_REC);
  const late = plan.find("propagate", "/");
  assert.deepEqual([late.a, late.b], [MS_SHARED, 1]);
  inOrder(plan, "pivot", "mask", "propagate", "keyring");
});

test("CVE-2023-25809: without a cgroup namespace cgroup2 is read-only unless the spec says rw", () => {
  const mounts = (options: readonly string[]) => [{ destination: "/sys/fs/cgroup", type: "cgroup", options }];
  const host = withLinux({ namespaces: [{ type: "mount" }, { type: "uts" }] });
  const plan = planOf({ ...host, mounts: mounts(["nosuid"]) });
  assert.equal(plan.find("mountTree", "/sys/fs/cgroup").x, ATTR.nosuid | ATTR.rdonly);
  const writable = planOf({ ...host, mounts: mounts(["nosuid", "rw"]) });
  assert.equal(writable.find("mountTree", "/sys/fs/cgroup").x, ATTR.nosuid);
  assert.equal(
    planOf({ ...specOf(["/bin/true"]), mounts: mounts(["nosuid"]) }).find("mountNew").x,
    ATTR.nosuid,
  );
});

test("without a cgroup namespace cgroup2 is the host's mount, never a new one with options of its own", () => {
  const of = (options: readonly string[]) => {
    const mounts = [{ destination: "/sys/fs/cgroup", type: "cgroup2", source: "cgroup", options }];
    return planOf({ ...withLinux({ namespaces: [{ type: "mount" }, { type: "uts" }] }), mounts });
  };
  const plan = of(["rw", "nsdelegate", "memory_recursiveprot"]);
  assert.deepEqual(plan.all("mountNew"), []);
  const tree = plan.opens.find(({ path }) => path === "/sys/fs/cgroup");
  assert.equal(plan.find("mountTree", "/sys/fs/cgroup").a, tree?.slot);
  assert.throws(() => of(["frobnicate"]), /^IsopodError: mounts\[0\]\.options: \["frobnicate"\]/);
});

test("an overlay is opened from the layers' common directory", () => {
  const rootfs: Mount[] = [
    {
      type: "overlay",
      source: "overlay",
      options: [
        "index=off",
        "lowerdir=/var/lib/x/snapshots/3/fs:/var/lib/x/snapshots/1/fs",
        "upperdir=/var/lib/x/snapshots/9/fs",
        "workdir=/var/lib/x/snapshots/9/work",
      ],
    },
  ];
  const plan = planOf(specOf(["/bin/true"]), { rootfs });
  const open = plan.opens.find(({ kind }) => kind === "overlay");
  assert.equal(open?.path, "/var/lib/x/snapshots");
  assert.deepEqual(open?.list, ["lowerdir=3/fs:1/fs", "upperdir=9/fs", "workdir=9/work", "index=off"]);
  assert.equal(plan.find("attachRoot").a, open?.slot);
});

test("overlay escapes stay whole", () => {
  const rootfs: Mount[] = [{ type: "overlay", source: "overlay", options: ["ro", "lowerdir=/a/x\\:y:/a/z"] }];
  const open = planOf(specOf(["/bin/true"]), { rootfs }).opens.find(({ kind }) => kind === "overlay");
  assert.deepEqual([open?.path, open?.list, open?.flags], ["/", ["lowerdir=/a/x\\:y:/a/z"], 1]);
});

const REFUSED_ROOTFS: readonly (readonly [string, Mount, RegExp])[] = [
  [
    "loop",
    { type: "ext4", source: "/img", options: ["loop"] },
    /rootfs\[0\]\.options: "loop": not supported/,
  ],
  ["containerd's", { type: "bind", source: "/x", options: ["X-containerd.mkdir.path=/a"] }, /X-containerd/],
  ["target", { type: "bind", source: "/x", target: "/y", options: [] }, /rootfs\[0\]\.target/],
  ["relative layers", { type: "overlay", source: "overlay", options: ["lowerdir=a:b"] }, /must be absolute/],
];
for (const [name, mount, message] of REFUSED_ROOTFS)
  test(`a rootfs mount that cannot be made is refused: ${name}`, () => {
    assert.throws(() => planOf(specOf(["/bin/true"]), { rootfs: [mount] }), message);
  });

const REFUSED_MOUNTS: readonly (readonly [Spec["mounts"], RegExp])[] = [
  [
    [{ destination: "/x", type: "bind", source: "/s", options: ["bind", "size=1m"] }],
    /mounts\[0\]\.options: \["size=1m"\]: a bind/,
  ],
  [
    [{ destination: "/x", type: "bind", source: "/s", options: ["bind", "idmap"] }],
    /mounts\[0\]\.options: "idmap"/,
  ],
  [[{ destination: "/x", type: "bind", options: ["bind"] }], /mounts\[0\]\.source: undefined/],
  [[{ destination: "/x", type: "tmpfs", options: ["remount"] }], /mounts\[0\]\.options: "remount"/],
  [[{ destination: "/", type: "tmpfs" }], /mounts\[0\]\.destination: "\/"/],
  [[{ destination: "/x" }], /mounts\[0\]\.type: undefined: must name a file system/],
  [
    [{ destination: "/proc", type: "bind", source: "/tmp", options: ["bind"] }],
    /mounts\[0\]\.destination: "\/proc"/,
  ],
  [[{ destination: "/proc/sys/kernel", type: "bind", source: "/tmp", options: ["bind"] }], /only lxcfs/],
];
for (const [mounts, message] of REFUSED_MOUNTS)
  test(`a mount that would go astray is refused: ${JSON.stringify(mounts)}`, () => {
    assert.throws(() => planOf(specOf(["/bin/true"], { mounts: mounts ?? [] })), message);
  });

test("sysctls need a namespace of the container's own", () => {
  const plan = planOf(
    withLinux({ sysctl: { "net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.1/forwarding": "1" } }),
  );
  assert.deepEqual(
    plan.all("sysctl").map((op) => [op.text("c"), op.text("a")]),
    [
      ["net/ipv4/ip_forward", "1"],
      ["net/ipv4/conf/eth0.1/forwarding", "1"],
    ],
  );
  assert.throws(
    () => planOf(withLinux({ sysctl: { "vm.swappiness": "1" } })),
    /linux\.sysctl\.vm\.swappiness/,
  );
  assert.throws(() => planOf(withLinux({ sysctl: { "net.../../kernel.x": "1" } })), /would change the host/);
  const host = withLinux({
    namespaces: [{ type: "mount" }, { type: "uts" }],
    sysctl: { "kernel.msgmax": "1" },
  });
  assert.throws(() => planOf(host), /needs a namespace of its own: ipc/);
});

test("R9: pod files and shm come from the base where the spec has none of its own", () => {
  const spec = specOf(["/bin/true"], {
    mounts: [
      { destination: "/dev", type: "tmpfs", source: "tmpfs" },
      { destination: "/etc/hosts", type: "bind", source: "/own/hosts", options: ["bind"] },
    ],
  });
  const plan = planOf(spec, { base: { shm: true, files: ["hostname", "hosts", "resolv.conf"] } });
  assert.deepEqual(
    plan.all("baseTree").map(({ subject }) => subject),
    ["/shm", "/files/hostname", "/files/resolv.conf"],
  );
  assert.equal(plan.all("mountTree").filter(({ subject }) => subject === "/etc/hosts").length, 1);
  assert.equal(plan.find("mountTree", "/etc/hostname").y, ATTR.rdonly);
});

test("a mount namespace that is joined keeps its tree", () => {
  const namespaces: Linux["namespaces"] = [{ type: "mount", path: "/proc/42/ns/mnt" }, { type: "uts" }];
  const spec: Spec = { ...specOf(["/bin/true"]), root: { path: "/" }, mounts: [], linux: { namespaces } };
  const plan = planOf(spec);
  assert.equal(plan.find("setns").b, 0x00020000);
  assert.equal(plan.order.includes("pivot"), false);
  assert.throws(() => planOf({ ...spec, mounts: specOf([]).mounts! }), /mounts: .*joins a mount namespace/);
});

test("with a terminal the process opens no FIFO", () => {
  const process = processOf(["/bin/sh"], { terminal: true, consoleSize: { height: 24, width: 80 } });
  const plan = planOf(specOf(["/bin/sh"], { process }));
  assert.deepEqual(
    plan.opens.filter(({ path }) => path.startsWith("/io")),
    [],
  );
  assert.deepEqual([plan.find("console").x, plan.find("console").b], [(24n << 16n) | 80n, 1]);
});

test("rlimits: 2^64-1 survives JSON, unknown names do not", () => {
  const spec = JSON.parse(
    JSON.stringify(specOf(["/bin/true"])).replace(
      '"cwd"',
      '"rlimits":[{"type":"RLIMIT_NOFILE","soft":1024,"hard":18446744073709551615}],"cwd"',
    ),
  ) as Spec;
  const rlimit = planOf(spec).find("rlimit");
  assert.deepEqual([rlimit.a, rlimit.x, rlimit.y], [7, 1024n, 0xffffffffffffffffn]);
  const process = processOf(["/bin/true"], { rlimits: [{ type: "RLIMIT_FUN", soft: 1, hard: 1 }] });
  assert.throws(
    () => planOf(specOf([], { process })),
    /process\.rlimits\[0\]\.type: "RLIMIT_FUN": no such limit/,
  );
});

test("R5: oom_score_adj stands in the header; without CAP_SYS_RESOURCE lowering is best effort and said", () => {
  const process = processOf(["/bin/true"], { oomScoreAdj: -500 });
  const plan = planOf(specOf([], { process }), { target: { ...target, effectiveCapabilities: 0n } });
  assert.equal(plan.oomScoreAdj, -500);
  assert.equal(plan.flags, 1);
  assert.ok(warnings.some((warning) => warning.includes("CAP_SYS_RESOURCE")));
  const able = planOf(specOf([], { process }));
  assert.equal(able.flags, 0);
  assert.equal(planOf(specOf([])).oomScoreAdj, 0, "never the server's own");
});

test("what every pod carries is dropped with a warning each where there is no controller", () => {
  planOf(withLinux({ resources: { cpu: { shares: 102 }, unified: { "memory.oom.group": "1" } } }));
  assert.equal(warnings.filter((warning) => warning.includes("dropped")).length, 2);
});

test("the last of several settings of a variable wins, HOME is set", () => {
  assert.deepEqual(environment(["A=1", "B=2", "A=3"], 0), ["A=3", "B=2", "HOME=/root"]);
  assert.deepEqual(environment(["HOME=/x"], 5), ["HOME=/x"]);
});
