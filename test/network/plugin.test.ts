import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { type TestContext, test } from "node:test";
import { silentLog } from "../../src/base/log";
import { openNetwork, type PodNetwork } from "../../src/network";
import { cniArgs, runtimeConfigOf } from "../../src/network/runtime-config";

/** A plugin that writes down what it was told and does as its configuration's `script` says. */
const PLUGIN = `#!/bin/sh
input=$(cat)
printf '%s\\n%s\\n' "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME netns=$CNI_NETNS args=$CNI_ARGS" "$input" \\
  >> "$(dirname "$0")/calls"
env | grep -c '^NODE_OPTIONS=' >> "$(dirname "$0")/node-options"
eval "$(printf '%s' "$input" | sed -n 's/.*"script":"\\([^"]*\\)".*/\\1/p' | tr '^' '"')"
`;

const pod: PodNetwork = {
  id: "5".repeat(64),
  name: "web",
  namespace: "default",
  uid: "u-1",
  netns: "/run/netns/x",
  annotations: {},
  portMappings: [],
};

interface Bench {
  readonly dir: string;
  readonly network: ReturnType<typeof openNetwork>;
  calls(): { call: string; input: Record<string, unknown> }[];
}

function open(t: TestContext, list: Record<string, unknown>): Bench {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-cni-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  for (const name of ["first", "second"]) fs.writeFileSync(path.join(dir, name), PLUGIN, { mode: 0o755 });
  fs.writeFileSync(path.join(dir, "10.conflist"), JSON.stringify({ name: "n", ...list }));
  const network = openNetwork({ confDir: dir, binDirs: ["/absent", dir], netnsDir: dir, log: silentLog });
  t.after(() => network.close());
  const calls = () => {
    const file = path.join(dir, "calls");
    const lines = fs.existsSync(file) ? fs.readFileSync(file, "utf8").trim().split("\n") : [];
    const pairs: { call: string; input: Record<string, unknown> }[] = [];
    for (let i = 0; i < lines.length; i += 2)
      pairs.push({ call: lines[i]!, input: JSON.parse(lines[i + 1]!) as Record<string, unknown> });
    return pairs;
  };
  return { dir, network, calls };
}

// A script travels inside JSON, so its own quotes are written `^`.
const answer = (address: string) => `echo '{^ips^:[{^address^:^${address}^}]}'`;

test("the chain: environment, stdin, prevResult, result; DEL in reverse with the final result", async (t) => {
  const { network, calls } = open(t, {
    cniVersion: "1.0.0",
    plugins: [
      { type: "first", script: answer("10.0.0.1/24"), capabilities: { portMappings: true } },
      { type: "second", script: answer("10.0.0.2/24"), capabilities: { dns: true } },
    ],
  });
  const asking: PodNetwork = {
    ...pod,
    portMappings: [
      { protocol: "tcp", hostPort: 8080, containerPort: 80, hostIp: "" },
      { protocol: "udp", hostPort: 0, containerPort: 53, hostIp: "" },
    ],
    dns: { servers: ["10.0.0.53"], searches: [], options: [] },
  };
  const config = network.configuration();
  const attachment = await network.add(asking, config);
  assert.deepEqual(attachment.ips, ["10.0.0.2"]);
  await network.del({ ...asking, netns: "" }, attachment);
  const seen = calls();
  assert.deepEqual(
    seen.map(({ call, input }) => `${call.split(" ")[0]} ${String(input["type"])}`),
    ["ADD first", "ADD second", "DEL second", "DEL first"],
  );
  const id = pod.id;
  assert.equal(
    seen[0]?.call,
    `ADD ${id} eth0 netns=/run/netns/x args=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;` +
      `K8S_POD_INFRA_CONTAINER_ID=${id};K8S_POD_UID=u-1`,
  );
  assert.match(seen[2]?.call ?? "", /^DEL \S+ eth0 netns= args=/);
  const [first, second, delSecond, delFirst] = seen.map(({ input }) => input);
  assert.equal(first?.["name"], "n");
  assert.equal(first?.["cniVersion"], "1.0.0");
  assert.equal(first?.["capabilities"], undefined);
  assert.equal(first?.["prevResult"], undefined);
  assert.deepEqual(first?.["runtimeConfig"], {
    portMappings: [{ protocol: "tcp", hostPort: 8080, containerPort: 80 }],
  });
  assert.deepEqual(second?.["runtimeConfig"], { dns: asking.dns });
  assert.deepEqual(second?.["prevResult"], { ips: [{ address: "10.0.0.1/24" }] });
  for (const input of [delSecond, delFirst])
    assert.deepEqual(input?.["prevResult"], { ips: [{ address: "10.0.0.2/24" }] });
});

test("a failed ADD is undone by DEL and tells the plugin's own words", async (t) => {
  const complain = "echo '{^code^:11,^msg^:^later^,^details^:^busy^}'; exit 1";
  const { network, calls } = open(t, {
    cniVersion: "0.4.0",
    plugins: [
      { type: "first", script: answer("10.0.0.1/24") },
      { type: "second", script: `test $CNI_COMMAND = DEL || { ${complain}; }` },
    ],
  });
  await assert.rejects(network.add(pod, network.configuration()), {
    code: "UNAVAILABLE",
    message: /attaching pod 5+ to network "n": plugin "second": ADD: later: busy \(exit code 1, error 11\)/,
  });
  assert.deepEqual(
    calls().map(({ call, input }) => [call.split(" ")[0], input["type"], "prevResult" in input]),
    [
      ["ADD", "first", false],
      ["ADD", "second", true],
      ["DEL", "second", false],
      ["DEL", "first", false],
    ],
  );
});

test("a DEL that fails stops there; the error is the plugin's stderr if it has no JSON", async (t) => {
  const { network, calls } = open(t, {
    cniVersion: "1.0.0",
    plugins: [{ type: "first" }, { type: "second", script: "echo no luck >&2; exit 3" }],
  });
  const config = network.configuration();
  const noLuck = {
    message: /detaching pod 5+ from network "n": plugin "second": DEL: no luck \(exit code 3\)/,
  };
  await assert.rejects(network.del(pod, { config, result: {} }), noLuck);
  assert.deepEqual(calls().length, 1);
  // After an ADD that never finished, what the first holds is given back all the same.
  await assert.rejects(network.del(pod, { config }), noLuck);
  assert.deepEqual(calls().length, 3);
});

test("an ADD without an address for eth0 fails and is undone", async (t) => {
  const { network, calls } = open(t, {
    cniVersion: "1.0.0",
    plugins: [{ type: "first", script: "echo '{}'" }],
  });
  await assert.rejects(network.add(pod, network.configuration()), /no address for eth0/);
  assert.equal(calls().at(-1)?.call.split(" ")[0], "DEL");
});

test("DEL before 0.4.0 gets no prevResult", async (t) => {
  const { network, calls } = open(t, {
    cniVersion: "0.3.1",
    plugins: [{ type: "first", script: answer("10.0.0.1/24") }],
  });
  const attachment = await network.add(pod, network.configuration());
  await network.del(pod, attachment);
  assert.equal("prevResult" in (calls().at(-1)?.input ?? {}), false);
});

test("a plugin that is nowhere is named with the places searched", async (t) => {
  const { dir, network } = open(t, { cniVersion: "1.0.0", plugins: [{ type: "third" }] });
  await assert.rejects(network.add(pod, network.configuration()), {
    code: "NOT_FOUND",
    message: new RegExp(`plugin "third": no such executable in /absent, ${dir}`),
  });
});

test("R11: plugins see neither NODE_OPTIONS nor what an outer plugin was told", async (t) => {
  const before = process.env["NODE_OPTIONS"];
  process.env["NODE_OPTIONS"] = "--no-warnings";
  t.after(() => {
    if (before === undefined) delete process.env["NODE_OPTIONS"];
    else process.env["NODE_OPTIONS"] = before;
  });
  const { dir, network } = open(t, {
    cniVersion: "1.0.0",
    plugins: [{ type: "first", script: answer("10.0.0.1/24") }],
  });
  await network.add(pod, network.configuration());
  assert.equal(fs.readFileSync(path.join(dir, "node-options"), "utf8").trim(), "0");
});

test("a configuration that changes after ADD does not change its DEL", async (t) => {
  const { dir, network, calls } = open(t, {
    cniVersion: "1.0.0",
    plugins: [{ type: "first", script: answer("10.0.0.1/24") }],
  });
  const attachment = await network.add(pod, network.configuration());
  fs.writeFileSync(
    path.join(dir, "10.conflist"),
    JSON.stringify({ name: "m", plugins: [{ type: "second" }] }),
  );
  const stored = JSON.parse(JSON.stringify(attachment)) as typeof attachment;
  await network.del(pod, stored);
  assert.equal(calls().at(-1)?.input["name"], "n");
});

test("bandwidth annotations are Kubernetes quantities within the field's bounds", () => {
  const rates = (ingress: string) =>
    runtimeConfigOf({ ...pod, annotations: { "kubernetes.io/ingress-bandwidth": ingress } })["bandwidth"];
  assert.deepEqual(rates("10M"), { ingressRate: 10_000_000, ingressBurst: 0xffff_ffff });
  assert.deepEqual(rates("1Ki"), { ingressRate: 1024, ingressBurst: 0xffff_ffff });
  assert.deepEqual(rates("1.5k"), { ingressRate: 1500, ingressBurst: 0xffff_ffff });
  assert.throws(
    () => rates("999"),
    /annotations\["kubernetes.io\/ingress-bandwidth"\]: "999": must be between/,
  );
  assert.throws(() => rates("2P"), /must be between/);
  assert.throws(() => rates("fast"), /"fast": not a quantity/);
});

test("CNI_ARGS: a name cannot smuggle in further arguments", () => {
  assert.throws(
    () => cniArgs({ ...pod, name: "web;IP=10.0.0.9" }),
    /K8S_POD_NAME: "web;IP=10\.0\.0\.9": must/,
  );
});
