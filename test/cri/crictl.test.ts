import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { command } from "../support/command";
import { type Daemon, startDaemon } from "../support/daemon";
import { busyboxImage, push, writeLayout } from "../support/images";
import type { Inventory } from "../support/leaks";
import { needs, present } from "../support/needs";
import { peers } from "../support/peers";
import { inventoryOf, leaksOf, logged } from "../support/pods";
import { type Registry, startRegistry } from "../support/registry";

/** An operator with crictl at a node: every command that isopod has an answer for, on a pod with an address. */
const crictlPeer = peers.crictl();
const needed = needs(crictlPeer, peers.registry(), peers.skopeo(), peers.cni());

let daemon: Daemon;
let registry: Registry;
let image: string;
let empty: Inventory;
const built = busyboxImage({ User: "1000:1000" });

before(async () => {
  if (needed.skip !== false) return;
  daemon = await startDaemon({ cni: true });
  registry = await startRegistry({ host: daemon.host });
  const layout = path.join(daemon.dir, "layout");
  writeLayout(layout, [{ name: "busybox", image: built }]);
  await push(layout, "busybox", { host: registry.host, repository: "lib/busybox:1", from: daemon.host });
  image = `${registry.host}/lib/busybox:1`;
  // Its own configuration, or it would take the machine's.
  fs.writeFileSync(path.join(daemon.dir, "crictl.yaml"), `runtime-endpoint: unix://${daemon.socket}\n`);
  // A first pod brings up what stays: the shim's server, the bridge, host-local's notes.
  await crictl("pull", image);
  const first = configs("first", "true");
  await crictl("run", first.container, first.pod);
  await crictl("rmp", "-f", "-a");
  await crictl("rmi", image);
  empty = await inventoryOf(daemon, false);
});
after(async () => {
  await registry?.stop();
  await daemon?.end();
});

const run = (args: readonly string[], accept = [0]) => {
  const { crictl } = present(crictlPeer);
  return command(crictl, ["--config", path.join(daemon.dir, "crictl.yaml"), ...args], { accept });
};

/** What it prints, without the newline at its end. */
const crictl = async (...args: string[]): Promise<string> => (await run(args)).stdout.trim();

// biome-ignore lint/suspicious/noExplicitAny: crictl's JSON is CRI's, which these tests read into.
const asJson = async (...args: string[]): Promise<any> => JSON.parse(await crictl(...args));

/** Files that `runp` and `create` read. */
function configs(name: string, script: string): { pod: string; container: string; log: string } {
  const pod = path.join(daemon.dir, `${name}-pod.json`);
  const container = path.join(daemon.dir, `${name}-container.json`);
  const logDirectory = path.join(daemon.dir, "logs", name);
  const metadata = { name, namespace: "default", uid: `uid-${name}`, attempt: 1 };
  // As kubelet labels containers: `crictl ps` tells their pods by it.
  const labels = { app: name, "io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "default" };
  const linux = { cgroup_parent: daemon.cgroupParent };
  fs.writeFileSync(
    pod,
    JSON.stringify({ metadata, labels, linux, hostname: name, log_directory: logDirectory }),
  );
  fs.writeFileSync(
    container,
    JSON.stringify({
      metadata: { name: "main" },
      image: { image },
      command: ["/bin/sh", "-c", script],
      log_path: "main.log",
      labels,
    }),
  );
  return { pod, container, log: path.join(logDirectory, "main.log") };
}

test("version, info and imagefsinfo", needed, async () => {
  assert.match(await crictl("version"), /RuntimeName: +isopod\n.*RuntimeApiVersion: +v1$/s);
  const info = await asJson("info");
  const conditions = info.status.conditions as { type: string; status: boolean }[];
  assert.deepEqual(
    conditions.map(({ type, status }) => [type, status]),
    [
      ["RuntimeReady", true],
      ["NetworkReady", true],
    ],
  );
  assert.equal(info.config.state, daemon.state);
  const { status } = await asJson("imagefsinfo");
  assert.equal(status.imageFilesystems[0].fsId.mountpoint, path.join(daemon.root, "images"));
  assert.equal(await crictl("runtime-config"), "cgroup driver:   CGROUPFS");
});

test("a pulled image is listed, inspected by every name, and removed by one", needed, async () => {
  const id = built.config.digest;
  assert.match(await crictl("pull", image), new RegExp(`${id}$`));
  assert.deepEqual((await crictl("images", "-q")).split("\n"), [id]);
  const [header, line] = (await crictl("images")).split("\n");
  assert.match(header!, /^IMAGE +TAG +IMAGE ID +SIZE$/);
  assert.match(line!, new RegExp(`^${registry.host}/lib/busybox +1 +${id.slice(7, 20)} +[\\d.]+[kM]B$`));
  for (const name of [id, id.slice(7, 20), image, `${registry.host}/lib/busybox@${built.manifest.digest}`]) {
    const { status, info } = await asJson("inspecti", name);
    assert.equal(status.id, id, name);
    assert.deepEqual(status.repoTags, [image]);
    assert.deepEqual(status.repoDigests, [`${registry.host}/lib/busybox@${built.manifest.digest}`]);
    assert.equal(status.uid.value, "1000");
    assert.deepEqual(info.imageSpec.rootfs.diff_ids, [built.layers[0]!.diffId]);
  }
  assert.match(await crictl("rmi", image), /Deleted/);
  assert.equal(await crictl("images", "-q"), "");
  const gone = await run(["inspecti", image], [1]);
  assert.match(gone.stderr, /no such image/);
  assert.deepEqual(await leaksOf(daemon, empty, false), []);
});

test("a pod with a container, from runp to rmp", needed, async () => {
  await crictl("pull", image);
  const file = configs("web", "echo to the log; echo and an error >&2; exec sleep 1000");

  const pod = await crictl("runp", file.pod);
  assert.match(pod, /^[0-9a-f]{64}$/);
  assert.match(
    await crictl("pods", "--name", "web", "--state", "ready", "--label", "app=web", "--no-trunc"),
    new RegExp(`\\n${pod} +\\S.* Ready +web +default +1 `),
  );
  const { status: podStatus, info: podInfo } = await asJson("inspectp", pod);
  const { ip } = podStatus.network;
  assert.ok(ip.startsWith(`${daemon.network!.prefix}.`), ip);
  assert.equal(podStatus.runtimeHandler, "isopod");
  assert.equal(typeof podInfo, "object");

  const id = await crictl("create", pod, file.container, file.pod);
  assert.match(id, /^[0-9a-f]{64}$/);
  assert.equal((await asJson("inspect", id)).status.state, "CONTAINER_CREATED");
  assert.equal(await crictl("start", id.slice(0, 13)), id.slice(0, 13));
  assert.match(
    await crictl("ps", "--no-trunc"),
    new RegExp(`\\n${id} +${image} +\\S.* Running +main +0 +${pod} +web +default`),
  );
  const { status, info } = await asJson("inspect", id);
  assert.equal(status.state, "CONTAINER_RUNNING");
  assert.equal(status.imageId, built.config.digest);
  assert.equal(status.logPath, file.log);
  assert.equal(status.user.linux.uid, "1000");
  assert.match(fs.readFileSync(`/proc/${info.pid}/cmdline`, "utf8"), /^sleep\0/);
  assert.deepEqual(info.runtimeSpec.process.args.slice(0, 2), ["/bin/sh", "-c"]);

  const told = await crictl("exec", "-s", id, "sh", "-c", "hostname; id -u; ip -4 -o addr show eth0");
  assert.match(told, new RegExp(`^web\\n1000\\n.* inet ${ip.replaceAll(".", "\\.")}/24 `));
  const failed = await run(["exec", "-s", id, "sh", "-c", "echo out; echo err >&2; exit 42"], [1]);
  assert.match(failed.stderr, /exited with 42: err/);

  await logged(file.log, "and an error");
  const log = await run(["logs", id]);
  assert.deepEqual([log.stdout, log.stderr], ["to the log\n", "and an error\n"]);
  const [stats] = (await asJson("stats", "-o", "json", "--id", id)).stats;
  assert.equal(stats.attributes.id, id);
  assert.ok(BigInt(stats.cpu.usageCoreNanoSeconds.value) > 0n);
  assert.match(await crictl("stats"), new RegExp(`${id.slice(0, 13)} +main `));

  // Unset, its pid namespace is the pod's: it is not pid 1, so SIGTERM ends it.
  await crictl("stop", "--timeout", "20", id);
  const stopped = (await asJson("inspect", id)).status;
  assert.deepEqual([stopped.state, stopped.exitCode], ["CONTAINER_EXITED", 143]);
  assert.deepEqual(await crictl("ps", "-q"), "");
  assert.deepEqual(await crictl("ps", "-a", "-q"), id);
  await crictl("rm", id);
  assert.equal(await crictl("ps", "-a", "-q"), "");

  assert.match(await crictl("stopp", pod), new RegExp(`Stopped sandbox ${pod}`));
  assert.equal((await asJson("inspectp", pod)).status.state, "SANDBOX_NOTREADY");
  assert.match(await crictl("rmp", pod), new RegExp(`Removed sandbox ${pod}`));
  assert.equal(await crictl("pods", "-q"), "");
  await crictl("rmi", built.config.digest);
  assert.equal(await crictl("images", "-q"), "");
  assert.deepEqual(await leaksOf(daemon, empty, false), []);
});

test("crictl run starts pod and container; rmp -f takes down what runs", needed, async () => {
  await crictl("pull", image);
  const file = configs("quick", "exec sleep 1000");
  const id = await crictl("run", file.container, file.pod);
  assert.equal((await asJson("inspect", id)).status.state, "CONTAINER_RUNNING");
  const refusal = await run(["rmp", await crictl("pods", "-q")], [1]);
  assert.match(refusal.stderr, /is running, please stop it first/);
  await crictl("rmp", "-f", "-a");
  assert.equal(await crictl("ps", "-a", "-q"), "");
  assert.equal(await crictl("pods", "-q"), "");
  await crictl("rmi", "--prune");
  assert.equal(await crictl("images", "-q"), "");
  assert.deepEqual(await leaksOf(daemon, empty, false), []);
});

test("an update of limits, and statistics and metrics of the pod", needed, async () => {
  const { pod, container } = configs("limits", "sleep 1000");
  const id = await crictl("run", container, pod);
  await crictl("update", "--cpu-share", "512", id);
  const { status } = await asJson("inspect", id);
  assert.equal(status.resources.linux.cpuShares, "512");
  const { stats } = await asJson("statsp", "-o", "json");
  assert.deepEqual(
    stats.map((one: { attributes: { metadata: { name: string } } }) => one.attributes.metadata.name),
    ["limits"],
  );
  assert.equal(stats[0].linux.network.defaultInterface.name, "eth0");
  assert.ok(Number(stats[0].linux.network.defaultInterface.rxBytes.value) > 0);
  assert.equal(stats[0].linux.containers[0].attributes.id, id);
  assert.match(await crictl("metricsp"), /"container_network_receive_bytes_total"/);
  await crictl("rmp", "-f", stats[0].attributes.id);
  await crictl("rmi", image);
});

test("what is not built is said to crictl in words", needed, async () => {
  assert.match((await run(["events"], [1])).stderr, /GetContainerEvents: not supported yet/);
  const missing = configs("missing", "true");
  const pod = await crictl("runp", missing.pod);
  const create = await run(["create", pod, missing.container, missing.pod], [1]);
  assert.match(create.stderr, new RegExp(`${image}.*not found`));
  await crictl("rmp", "-f", pod);
});
