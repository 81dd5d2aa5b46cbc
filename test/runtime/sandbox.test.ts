import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { IsopodError } from "../../src/base/errors";
import { native } from "../../src/native";
import type { Spec } from "../../src/oci/runtime-spec";
import type { Sandbox, SandboxOptions } from "../../src/runtime/types";
import { cgroupParent, collect, containerOptions, runtimeOf } from "./fixture";
import { specOf } from "./specs";

let count = 0;
async function podOf(more: Partial<SandboxOptions> = {}) {
  const { runtime, stateDir } = runtimeOf();
  const id = `p${process.pid}-${count++}`;
  const sandbox = await runtime.sandbox({
    id,
    hostname: "web",
    pid: "pod",
    cgroupsPath: `${cgroupParent}/${id}`,
    shmSize: 1 << 20,
    files: { hostname: "web\n", hosts: "127.0.0.1 localhost web\n", "resolv.conf": "nameserver 192.0.2.1\n" },
    ...more,
  });
  return { sandbox, stateDir, id };
}

/** A spec as a pod's container has it: the pod's ipc, uts and pid namespaces. */
function inPod(sandbox: Sandbox, script: string): Spec {
  const spec = specOf(["/bin/sh", "-c", script]);
  const { hostname: _pods, ...rest } = spec;
  const ns = (file: string): string => `/proc/${sandbox.pid}/ns/${file}`;
  return {
    ...rest,
    mounts: spec.mounts!.filter(({ destination }) => destination !== "/dev/shm"),
    linux: {
      ...spec.linux,
      namespaces: [
        { type: "pid", path: ns("pid") },
        { type: "ipc", path: ns("ipc") },
        { type: "uts", path: ns("uts") },
        { type: "network" },
        { type: "mount" },
        { type: "cgroup" },
      ],
    },
  };
}

async function output(sandbox: Sandbox, spec: Spec): Promise<string> {
  const options = containerOptions(spec);
  const container = await sandbox.create(options);
  const text = collect(options.fifo("stdout"));
  await container.start();
  await container.exited;
  await container.delete();
  return text;
}

test("containers of a pod share host name, shm, files and pid namespace", async () => {
  const { sandbox, stateDir, id } = await podOf();
  const first = await output(
    sandbox,
    inPod(sandbox, "hostname; echo shared > /dev/shm/x; cat /etc/hosts /etc/hostname"),
  );
  assert.equal(first, "web\n127.0.0.1 localhost web\nweb\n");
  const second = await output(
    sandbox,
    inPod(sandbox, "cat /dev/shm/x /etc/resolv.conf; test -d /proc/1 && [ $$ != 1 ] && echo pod"),
  );
  assert.equal(second, "shared\nnameserver 192.0.2.1\npod\n");
  await sandbox.destroy();
  assert.deepEqual(fs.readdirSync(stateDir), []);
  assert.equal(fs.existsSync(path.join(native().features().cgroupRoot, cgroupParent, id)), false);
});

test("R6: the stub has no identity, capability, file or descriptor that a container of its pod could use", async () => {
  const { sandbox } = await podOf();
  const { pid } = sandbox;
  const status = fs.readFileSync(`/proc/${pid}/status`, "utf8");
  const field = (name: string): string => new RegExp(`^${name}:[ \\t]*(.*)$`, "m").exec(status)?.[1] ?? "";
  assert.equal(field("Uid"), "65535\t65535\t65535\t65535");
  assert.equal(field("Groups").trim(), "");
  for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
    assert.equal(field(set), "0000000000000000", set);
  assert.deepEqual([field("NoNewPrivs"), field("Seccomp")], ["1", "2"]);
  assert.deepEqual(fs.readdirSync(`/proc/${pid}/root`), []);
  assert.equal(fs.readdirSync(`/proc/${pid}/fd`).length, 1, "the control socket");
  assert.throws(() => fs.writeFileSync(`/proc/${pid}/root/x`, ""), /EROFS/);
  const inside = await output(
    sandbox,
    inPod(
      sandbox,
      "ls /proc/1/root 2>&1 | grep -c denied; cat /proc/1/environ 2>&1 | wc -c; ls -l /proc/1/exe 2>&1 | grep -c node",
    ),
  );
  assert.match(inside, /^1\n\d+\n0\n$/);
  await sandbox.destroy();
});

test("stop ends what runs in it and the stub; it can be repeated", async () => {
  const { sandbox } = await podOf();
  const options = containerOptions(inPod(sandbox, "sleep 100"));
  const container = await sandbox.create(options);
  await container.start();
  await Promise.all([sandbox.stop(), sandbox.stop()]);
  assert.equal(container.exit?.status, 137);
  assert.equal(sandbox.exit?.status, 137);
  await assert.rejects(sandbox.create(containerOptions(specOf(["/bin/true"]))), /is stopped/);
  await sandbox.destroy();
  await sandbox.destroy();
});

test("containers outlive nothing: destroy while one is being created", async () => {
  const { sandbox, stateDir } = await podOf();
  const creating = sandbox.create(containerOptions(inPod(sandbox, "sleep 100")));
  const destroyed = sandbox.destroy();
  await creating.catch(() => {});
  await destroyed;
  assert.deepEqual(fs.readdirSync(stateDir), []);
});

test("a killed stub is seen, and its sandbox can still be destroyed", async () => {
  const { sandbox, stateDir } = await podOf();
  process.kill(sandbox.pid, "SIGKILL");
  assert.equal((await sandbox.exited).status, 137);
  await assert.rejects(sandbox.create(containerOptions(specOf(["/bin/true"]))), /is stopped/);
  await sandbox.destroy();
  assert.deepEqual(fs.readdirSync(stateDir), []);
});

test("a sandbox that cannot be made leaves nothing", async () => {
  const { runtime, stateDir } = runtimeOf();
  await assert.rejects(
    runtime.sandbox({ id: "bad", netns: "/no/netns", cgroupsPath: `${cgroupParent}/bad` }),
    (error: unknown) => IsopodError.is(error) && error.message.includes('"/no/netns"'),
  );
  assert.deepEqual(fs.readdirSync(stateDir), []);
  assert.equal(fs.existsSync(path.join(native().features().cgroupRoot, cgroupParent, "bad")), false);
});

test("a pod keeps what its maker gave it to remember", async () => {
  const { sandbox } = await podOf({ extra: { name: "web-0" } });
  assert.deepEqual(sandbox.extra, { name: "web-0" });
  assert.ok(sandbox.createdAt > 0n);
  await sandbox.destroy();
});

test("the pod's sysctls hold in its namespaces", async () => {
  const { sandbox } = await podOf({ sysctls: { "kernel.msgmax": "4242" } });
  assert.equal(await output(sandbox, inPod(sandbox, "cat /proc/sys/kernel/msgmax")), "4242\n");
  await sandbox.destroy();
});

test("statistics are the stub's, or those of the pod's own cgroup with its containers", async () => {
  for (const podCgroup of [true, false]) {
    const pod = `${cgroupParent}/statistics-${podCgroup}`;
    const { sandbox, id } = await podOf({ cgroupsPath: `${pod}/stub`, podCgroup });
    const spec = inPod(sandbox, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 1000");
    const container = await sandbox.create(
      containerOptions({ ...spec, linux: { ...spec.linux, cgroupsPath: `${pod}/container` } }),
    );
    await container.start();
    const used = async () => (await container.stats()).cpu.usageUsec;
    while ((await used()) < 50_000n) await new Promise((resolve) => setTimeout(resolve, 20));
    const read = await used();
    const told = (await sandbox.stats()).cpu.usageUsec;
    assert.equal(told >= read, podCgroup, `${told} of ${id}, its container ${read}`);
    await sandbox.destroy();
  }
});
