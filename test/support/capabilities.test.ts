import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { test } from "node:test";
import { type Capability, capability, inTestbed } from "./capabilities";
import { cleanEnv } from "./command";
import { cgroup2Mount } from "./host";
import { needs, present, requirement } from "./needs";

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
    assert.equal(needs(capability(`cgroup2:${name}`)).skip === false, listed.includes(name), name);
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
