import assert from "node:assert/strict";
import { test } from "node:test";
import { compileExec } from "../../src/runtime/compile-exec";
import { compileSandbox } from "../../src/runtime/compile-sandbox";
import { ATTR } from "../../src/runtime/mount-options";
import { readPlan } from "./plan-reader";
import { processOf, specOf, target } from "./specs";

const exec = (spec = specOf(["/bin/true"]), process = processOf(["/bin/id"])) =>
  readPlan(
    compileExec({
      containerId: "c1",
      spec,
      process,
      stdio: {},
      cgroup: "/sys/fs/cgroup/isopod/c1",
      target: { ...target, apparmor: true },
      dieWithParent: true,
      warn: () => {},
    }),
  );

test("R4: an exec makes no namespace, enters most at once, then goes on as a successor", () => {
  const plan = exec();
  assert.equal(plan.cloneFlags, 0);
  const [joining, last, ...more] = plan.all("setns");
  assert.deepEqual(more, []);
  assert.equal(joining?.b, 0x4c020000, "ipc, uts, net, mnt");
  assert.equal(
    last?.b,
    0x02000000,
    "the cgroup namespace from within the cgroup: nsdelegate refuses it before",
  );
  const successor = plan.find("successor");
  assert.deepEqual(
    plan.opens.slice(0, 2).map(({ path, slot }) => [path, slot]),
    [
      ["ipc,uts,net,mnt", joining?.a],
      ["pid", successor.a],
    ],
  );
  assert.equal(plan.opens.find(({ slot }) => slot === successor.b)?.path, "/sys/fs/cgroup/isopod/c1");
  assert.deepEqual(plan.order.slice(0, 3), ["setns", "successor", "setns"]);
  assert.equal(plan.order.includes("gate"), false);
  assert.equal(plan.order.at(-1), "exec");
});

test("CVE-2022-29162: an exec inherits no inheritable capability", () => {
  assert.equal(exec().find("caps").bytes("a", 8).readBigUInt64LE(), 0n);
});

test("an exec in a container with the host's pid namespace joins its cgroup all the same", () => {
  const plan = exec(specOf(["/bin/true"], { linux: { namespaces: [{ type: "mount" }] } }));
  assert.equal(plan.find("successor").a, 0xffffffff);
  assert.notEqual(plan.find("successor").b, 0xffffffff);
});

test("an exec without a score of its own takes the container's", () => {
  const spec = specOf([], { process: processOf(["/bin/true"], { oomScoreAdj: 300 }) });
  assert.equal(exec(spec).oomScoreAdj, 300);
});

test("R6: the sandbox stub ends in an empty read-only root, without identity, capability or descriptor", () => {
  const plan = readPlan(
    compileSandbox(
      {
        id: "p1",
        netns: "/run/netns/p1",
        hostname: "web",
        pid: "pod",
        shmSize: 67108864,
        files: { hosts: "127.0.0.1 localhost\n" },
        sysctls: { "net.ipv4.ip_forward": "1" },
      },
      target,
      false,
    ),
  );
  assert.equal(plan.cloneFlags, 0x2c000000, "pid, uts, ipc");
  assert.equal(plan.order.slice(-8).join(" "), "chroot noNewPrivs bounding groups ids caps dumpable pause");
  assert.equal(plan.find("chroot").text("c"), "/empty");
  assert.ok((plan.find("setAttr", "/").x & ATTR.rdonly) !== 0n);
  assert.deepEqual([plan.find("ids").a, plan.find("ids").b], [65535, 65535]);
  assert.deepEqual([plan.find("caps").x, plan.find("caps").y, plan.find("bounding").x], [0n, 0n, 0n]);
  assert.equal(plan.find("dumpable").a, 0);
  assert.ok(plan.find("pause").b > 0, "a filter");
  assert.equal(
    plan.find("writeFile").bytes("a", plan.find("writeFile").b).toString(),
    "127.0.0.1 localhost\n",
  );
  assert.deepEqual(plan.find("mountNew", "/shm").list("d"), ["mode=1777", "size=67108864"]);
});

test("a sandbox of the host's namespaces makes none", () => {
  const plan = readPlan(compileSandbox({ id: "p1", ipc: "host", uts: "host", pid: "host" }, target, false));
  assert.equal(plan.cloneFlags, 0);
  assert.equal(plan.order.includes("hostname"), false);
});

test("a sandbox's sysctls need its namespaces", () => {
  assert.throws(
    () => compileSandbox({ id: "p1", sysctls: { "net.core.somaxconn": "9" } }, target, false),
    /sysctls\.net\.core\.somaxconn: "9": needs a namespace of its own: network/,
  );
});

test("an exec does not step out of the container's AppArmor profile by naming none", () => {
  const confined = specOf([], { process: processOf(["/bin/true"], { apparmorProfile: "mine" }) });
  assert.equal(exec(confined).find("apparmor").subject, "mine");
  const other = processOf(["/bin/id"], { apparmorProfile: "other" });
  assert.equal(exec(confined, other).find("apparmor").subject, "other");
  assert.equal(exec().order.includes("apparmor"), false);
});
