import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { test } from "node:test";
import { type Capability, capability } from "./capabilities";
import { cleanEnv } from "./command";
import { cgroup2Mount } from "./host";
import { needs, present, requirement } from "./needs";
import { inTestbed } from "./testbed";

/** A capability that no machine has: the name is checked by the compiler only. */
const absent = "cgroup2:absent" as Capability;

test("a capability that is missing is skipped for the testbed", { skip: inTestbed }, () => {
  assert.deepEqual(needs(capability(absent)), { skip: "in the testbed: cgroup2:absent" });
  const both = needs(capability(absent), requirement(false, "no skopeo"));
  assert.deepEqual(both, { skip: "in the testbed: cgroup2:absent; no skopeo" });
  assert.throws(() => present(capability(absent)), /in the testbed: cgroup2:absent/);
});

test("a controller is usable when the cgroup2 root lists it", () => {
  const root = cgroup2Mount();
  const listed = root === undefined ? [] : fs.readFileSync(`${root}/cgroup.controllers`, "utf8").split(/\s+/);
  for (const name of ["cpu", "memory", "io", "pids"] as const) {
    const { missing } = capability(`cgroup2:${name}`);
    assert.equal(missing, listed.includes(name) ? undefined : `in the testbed: cgroup2:${name}`);
  }
});

test("in the testbed a missing capability fails the test, a missing peer skips it", () => {
  const script = `
    const { test } = require("node:test");
    const { capability } = require(${JSON.stringify(require.resolve("./capabilities"))});
    const { needs, requirement } = require(${JSON.stringify(require.resolve("./needs"))});
    test("lacks", needs(capability("cgroup2:absent")), () => {});
    test("peer", needs(requirement(false, "no skopeo")), () => {});`;
  const env = cleanEnv({ ISOPOD_TESTBED: "1" });
  const { stdout, status } = spawnSync(process.execPath, ["--test-reporter=tap", "-e", script], {
    env,
    encoding: "utf8",
  });
  assert.equal(status, 1, stdout);
  assert.match(stdout, /^not ok \d+ - lacks$/m);
  assert.match(stdout, /cgroup2:absent: missing in the testbed itself/);
  assert.match(stdout, /^ok \d+ - peer # SKIP no skopeo$/m);
});

const everywhere = [
  ...(["cpu", "cpuset", "memory", "io", "pids", "hugetlb"] as const).map(
    (name) => `cgroup2:${name}` as const,
  ),
  ...(["apparmor", "kvm-linux", "swap", "psi", "hugepages", "cap-sys-resource"] as const),
];
for (const name of everywhere) {
  // Skipped where it is missing, a failure in the testbed: there this is the proof that it has everything.
  test(`this machine has ${name}`, needs(capability(name)), () => {
    assert.deepEqual(capability(name), { capability: name });
  });
}

const disk = capability("blockdev");
test("the disk takes an io.max", needs(disk), () => {
  const { device } = present(disk);
  const root = cgroup2Mount()!;
  const enabled = fs.readFileSync(`${root}/cgroup.subtree_control`, "utf8").split(/\s+/).includes("io");
  if (!enabled) fs.writeFileSync(`${root}/cgroup.subtree_control`, "+io");
  const group = fs.mkdtempSync(`${root}/isopod-capabilities-`);
  try {
    fs.writeFileSync(`${group}/io.max`, `${device} rbps=1048576`);
    assert.match(fs.readFileSync(`${group}/io.max`, "utf8"), new RegExp(`^${device} rbps=1048576 `));
  } finally {
    fs.rmdirSync(group);
  }
});
