import assert from "node:assert/strict";
import { test } from "node:test";
import { native } from "../../src/native";
import { capability } from "../support/capabilities";
import { needs } from "../support/needs";
import { containerOptions, ran, runtimeOf } from "./fixture";
import { processOf, specOf } from "./specs";

const apparmor = needs(capability("apparmor"));
const under = (apparmorProfile: string, args = ["/bin/cat", "/proc/self/attr/current"]) =>
  specOf(args, { process: processOf(args, { apparmorProfile }) });

test("the stub names the profile and the exec changes to it", apparmor, async () => {
  const policy = "profile isopod-runtime-test flags=(attach_disconnected) { file, }";
  const env = ["PATH=/usr/sbin:/usr/bin"];
  const load = { args: ["-rKq"], stdin: Buffer.from(policy), env, timeoutMs: 60_000 };
  assert.equal((await native().spawn({ ...load, file: "/usr/sbin/apparmor_parser" })).status, 0);
  assert.equal((await ran(under("isopod-runtime-test"))).stdout, "isopod-runtime-test (enforce)\n");
  assert.equal((await ran(under("unconfined"))).stdout, "unconfined\n");
});

test("a profile that is not loaded fails the create and names itself", apparmor, async () => {
  const { runtime } = runtimeOf();
  const sandbox = await runtime.sandbox({ id: "unloaded", implicit: true });
  await assert.rejects(sandbox.create(containerOptions(under("nobody-has-loaded-this"))), {
    code: "FAILED_PRECONDITION",
    step: "apparmor",
    message: 'applying AppArmor profile "nobody-has-loaded-this": no such profile is loaded',
  });
  assert.equal(sandbox.containers.size, 0);
  await sandbox.destroy();
});
