import * as assert from "node:assert/strict";
import * as fs from "node:fs";
import { after, before, test } from "node:test";
import { runtime as cri } from "../../src/gen/cri";
import type { containerd } from "../../src/gen/shim";
import { type Client, nanosecondsOf } from "../../src/ttrpc";
import { eventually } from "../monitor/launcher";
import { Driver, SANDBOX, TASK } from "./harness";

const limit = { timeout: 60_000 };
const NODE = 2;
let driver: Driver;
before(async () => {
  driver = await Driver.open();
}, limit);
after(() => driver?.close(), limit);

const code = (wanted: string) => (error: { code?: string }) => error.code === wanted;

function podConfig(more: object = {}, namespaces: object = {}): Uint8Array {
  return cri.v1.PodSandboxConfig.encode({
    metadata: { name: "p", uid: "u", namespace: "n" },
    hostname: "",
    dnsConfig: { servers: ["10.9.8.7"], searches: ["a.b"], options: ["ndots:5"] },
    linux: {
      cgroupParent: driver.cgroupParent,
      securityContext: { namespaceOptions: { network: NODE, pid: 1, ...namespaces } },
    },
    ...more,
  }).finish();
}

async function pod(id: string, more: object = {}, namespaces: object = {}) {
  const address = await driver.start(id);
  const client = await driver.connect(address);
  // biome-ignore lint/suspicious/noExplicitAny: answers of many methods
  const sandbox = (method: string, request: object = {}): Promise<any> =>
    client.call(SANDBOX, method, { sandboxId: id, ...request });
  const value = podConfig(more, namespaces);
  const create = (request: object = {}) =>
    sandbox("CreateSandbox", {
      bundlePath: driver.bundle(id),
      options: { type_url: "type.googleapis.com/runtime.v1.PodSandboxConfig", value },
      ...request,
    });
  return { address, client, sandbox, create };
}

async function runIn(client: Client, id: string, sandbox: string, script: string): Promise<string> {
  const bundle = driver.spec(id, script, { sandbox });
  const out = driver.fifo(id, "out");
  await client.call(TASK, "Create", { id, bundle, stdout: out.path });
  await client.call(TASK, "Start", { id });
  await client.call(TASK, "Wait", { id });
  await client.call(TASK, "Delete", { id });
  return out.text;
}

test("a sandbox lives through the whole service, and ShutdownSandbox ends its server", limit, async () => {
  const { address, client, sandbox, create } = await pod("life");
  await assert.rejects(sandbox("StartSandbox"), code("NOT_FOUND"));
  await create();
  await assert.rejects(create(), code("ALREADY_EXISTS"));
  const { pid, createdAt } = await sandbox("StartSandbox");
  assert.ok(fs.existsSync(`/proc/${pid}/ns/ipc`));
  assert.ok(nanosecondsOf(createdAt)! > 0n);
  assert.deepEqual((await sandbox("Platform")).platform.os, "linux");
  const ready = await sandbox("SandboxStatus", { verbose: true });
  assert.deepEqual([ready.state, ready.pid], ["SANDBOX_READY", pid]);
  assert.equal(nanosecondsOf(ready.exitedAt), undefined);
  await sandbox("PingSandbox");
  const { metrics } = (await sandbox(
    "SandboxMetrics",
  )) as containerd.runtime.sandbox.v1.SandboxMetricsResponse.$Shape;
  assert.equal(metrics?.data?.type_url, "io.containerd.cgroups.v2.Metrics");
  const waiting = sandbox("WaitSandbox");
  const bundle = driver.spec("left", "sleep 1000", { sandbox: "life" });
  await client.call(TASK, "Create", { id: "left", bundle });
  await client.call(TASK, "Start", { id: "left" });
  await sandbox("StopSandbox", { timeoutSecs: 5 });
  assert.ok(nanosecondsOf((await waiting).exitedAt)! > 0n);
  assert.equal((await sandbox("SandboxStatus")).state, "SANDBOX_NOTREADY");
  assert.equal(((await client.call(TASK, "Wait", { id: "left" })) as { exitStatus: number }).exitStatus, 137);
  const processes = (await driver.processes(address))!;
  await sandbox("ShutdownSandbox");
  await client.closed;
  await eventually("server and monitor end", () => !fs.existsSync(`/proc/${processes.monitor}/cwd`));
  assert.deepEqual(fs.readdirSync(driver.socketDir), [], "neither socket nor records");
});

test(
  "R9: hostname, hosts, resolv.conf and shm are made by the shim, for every container that lacks them",
  limit,
  async () => {
    const { client, sandbox, create } = await pod("files", {}, { network: NODE });
    await create();
    const text = await runIn(
      client,
      "reads",
      "files",
      "cat /etc/resolv.conf; cat /etc/hostname; cat /etc/hosts >/dev/null && echo hosts; echo > /dev/shm/x && busybox df /dev/shm",
    );
    assert.match(text, /^search a\.b\nnameserver 10\.9\.8\.7\noptions ndots:5\n/);
    assert.ok(text.includes(`\n${fs.readFileSync("/etc/hostname", "utf8").trim() || ""}`));
    assert.match(text, /\nhosts\n/);
    assert.match(text, /\/dev\/shm/);
    // The second container sees what the first left in the pod's shm.
    assert.equal(await runIn(client, "sees", "files", "cat /dev/shm/x; echo seen"), "\nseen\n");
    await sandbox("ShutdownSandbox");
  },
);

test("what a pod may not ask for is refused by field and value, and nothing is left", limit, async () => {
  const { client, sandbox } = await pod("refused");
  const refused = async (options: object, request: object, wanted: string, text: RegExp): Promise<void> => {
    await assert.rejects(
      sandbox("CreateSandbox", { bundlePath: driver.bundle("refused"), options, ...request }),
      (error: { code: string; message: string }) => {
        assert.equal(error.code, wanted, error.message);
        assert.match(error.message, text);
        return true;
      },
    );
  };
  const type_url = "runtime.v1.PodSandboxConfig";
  const options = (more: object, namespaces: object = {}) => ({
    type_url,
    value: podConfig(more, namespaces),
  });
  await refused({ type_url: "x.Y", value: podConfig() }, {}, "INVALID_ARGUMENT", /^options: "x\.Y"/);
  await refused({ type_url, value: Buffer.from([0xff]) }, {}, "INVALID_ARGUMENT", /^decoding options/);
  await refused(
    options({}),
    { netnsPath: "/run/netns/x" },
    "INVALID_ARGUMENT",
    /^netns_path: "\/run\/netns\/x"/,
  );
  await refused(options({}, { network: 0 }), {}, "INVALID_ARGUMENT", /^netns_path: ""/);
  await refused(options({}, { pid: 3 }), {}, "INVALID_ARGUMENT", /^namespace_options.pid: 3/);
  await refused(options({}, { usernsOptions: { mode: 0 } }), {}, "UNIMPLEMENTED", /^userns_options.mode: 0/);
  const selinux = {
    cgroupParent: driver.cgroupParent,
    securityContext: { namespaceOptions: { network: NODE }, selinuxOptions: { level: "s0" } },
  };
  await refused(options({ linux: selinux }), {}, "UNIMPLEMENTED", /^selinux_options/);
  await assert.rejects(sandbox("SandboxStatus"), code("NOT_FOUND"));
  await sandbox("ShutdownSandbox");
  await client.closed;
});
