import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { command } from "../support/command";
import { type Daemon, startDaemon } from "../support/daemon";
import { type Host, privateHost } from "../support/host";
import { busyboxImage, push, writeLayout } from "../support/images";
import { needs, present } from "../support/needs";
import { peers } from "../support/peers";
import { type Registry, startRegistry } from "../support/registry";

/** The real crictl, as an administrator uses it: from an empty store to a pod and back. */
const crictl = peers.crictl();
const wanted = needs(crictl, peers.registry(), peers.skopeo(), peers.cni());
const prepared = wanted.skip === false;

let daemon: Daemon;
let host: Host;
let registry: Registry;
let image: string;

before(async () => {
  if (!prepared) return;
  registry = await startRegistry();
  // The registry's network is the machine's.
  host = await privateHost({ shareNetwork: true });
  daemon = await startDaemon({ cni: true, host });
  const layout = path.join(daemon.dir, "layout");
  writeLayout(layout, [{ name: "one", image: busyboxImage() }]);
  await push(layout, "one", { host: registry.host, repository: "tools/busybox:1" });
  image = `${registry.host}/tools/busybox:1`;
});
after(async () => {
  await daemon?.end();
  await host?.end();
  await registry?.stop();
});

async function run(...args: readonly string[]): Promise<string> {
  const endpoint = `unix://${daemon.socket}`;
  const options = ["--config", "/dev/null", "--runtime-endpoint", endpoint, "--image-endpoint", endpoint];
  const { stdout } = await command(present(crictl).crictl, [...options, ...args]);
  return stdout.trim();
}

const json = async <T>(...args: readonly string[]): Promise<T> => JSON.parse(await run(...args)) as T;

function write(name: string, value: object): string {
  const file = path.join(daemon.dir, name);
  fs.writeFileSync(file, JSON.stringify(value));
  return file;
}

test("crictl takes a pod from pull to rmi", wanted, async () => {
  const info = await json<{ status: { conditions: { type: string; status: boolean }[] } }>("info");
  const ready = info.status.conditions.filter(({ status }) => status).map(({ type }) => type);
  assert.deepEqual(ready, ["RuntimeReady", "NetworkReady"]);
  assert.match(await run("version"), /RuntimeName: {2}isopod/);

  await run("pull", image);
  const { images } = await json<{ images: { id: string; repoTags: string[] }[] }>("images", "-o", "json");
  assert.deepEqual(
    images.map(({ repoTags }) => repoTags),
    [[image]],
  );
  assert.match(await run("inspecti", image), /"chainID": "sha256:/);

  const logs = path.join(daemon.dir, "logs");
  fs.mkdirSync(logs);
  const pod = write("pod.json", {
    metadata: { name: "web", namespace: "default", uid: "u1", attempt: 1 },
    log_directory: logs,
    linux: { cgroup_parent: daemon.cgroupParent },
  });
  const container = write("container.json", {
    metadata: { name: "shell" },
    image: { image },
    command: ["/bin/sh", "-c", "echo hello; exec sleep 1000"],
    log_path: "shell.log",
    linux: {},
  });
  const podId = await run("runp", pod);
  const id = await run("create", podId, container, pod);
  await run("start", id);
  assert.match(await run("pods"), /Ready\s+web\s+default\s+1/);
  assert.match(await run("ps"), /Running\s+shell/);
  assert.equal(await run("exec", "-s", id, "echo", "inside"), "inside");
  assert.equal(await run("logs", id), "hello");
  assert.match(await run("stats", "--id", id), /shell|CONTAINER/);
  const inspected = await json<{
    info: { pid: number };
    status: { state: string; image: { image: string } };
  }>("inspect", id);
  assert.equal(inspected.status.state, "CONTAINER_RUNNING");
  assert.equal(inspected.status.image.image, image);
  assert.ok(fs.existsSync(`/proc/${inspected.info.pid}`));
  const pods = await json<{ status: { network: { ip: string } } }>("inspectp", podId);
  assert.ok(pods.status.network.ip.startsWith(`${daemon.network!.prefix}.`));

  await run("stop", "--timeout", "0", id);
  assert.match(await run("ps", "-a"), /Exited\s+shell/);
  await run("rm", id);
  await run("stopp", podId);
  assert.match(await run("pods"), /NotReady\s+web/);
  await run("rmp", podId);
  await run("rmi", image);
  assert.equal((await json<{ images: unknown[] }>("images", "-o", "json")).images?.length ?? 0, 0);
  assert.match(await run("imagefsinfo"), /"mountpoint"/);
});

test("crictl is told by name what is not built", wanted, async () => {
  await assert.rejects(run("events"), /GetContainerEvents: not supported yet/);
  await assert.rejects(run("statsp"), /ListPodSandboxStats: not supported yet/);
  await assert.rejects(run("metricsp"), /ListPodSandboxMetrics: not supported yet/);
});
