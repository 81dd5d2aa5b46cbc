import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import type { ContainerConfig, NamespaceOptions, SecurityContext } from "../../src/sandbox";
import { leasedAddresses, writeNetwork } from "../support/cni";
import { privateHost } from "../support/host";
import { needs, present } from "../support/needs";
import { peers } from "../support/peers";
import { logText, openSite, podRequest, type Site, shell, shimProcesses, until } from "./real";

const cni = peers.cni();
const onHost = { network: "node", pid: "container", ipc: "pod" } as const;
const hostPod = { namespaces: onHost, hostname: "" };
const WAIT = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

function inHost(config: ContainerConfig, changes: Partial<SecurityContext> = {}): ContainerConfig {
  return { ...config, security: { ...config.security, namespaces: onHost, ...changes } };
}

/** Creates and starts a container on the host's network, in a pod of its own unless given. */
async function running(site: Site, config: ContainerConfig, pod?: string): Promise<string> {
  const { pods } = site.daemon;
  const id = await pods.create(pod ?? (await pods.run(podRequest(site, hostPod))), config);
  await pods.start(id);
  return id;
}

const ended = (site: Site, id: string) =>
  until("the container has ended", () => site.daemon.pods.getContainer(id).state === "exited");

const output = async (site: Site, id: string, command: readonly string[]) =>
  (await site.daemon.pods.execSync(id, command, 20)).stdout.toString().trim();

const log = (site: Site) => path.join(site.logs, "main/0.log");

test("a container's whole life: output, exit code, exec, stats, and nothing left", async (t) => {
  const site = await openSite(t);
  const { pods } = site.daemon;
  const script = "echo hello; echo oops >&2; while [ ! -e /go ]; do sleep 0.05; done; exit 7";
  const container = await running(site, inHost(shell(script)));
  const exec = await pods.execSync(container, ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], 10);
  assert.deepEqual([exec.stdout.toString(), exec.stderr.toString(), exec.exitCode], ["out\n", "err\n", 3]);
  assert.ok(((await pods.stats(container)).usage?.cpu.usage ?? 0n) > 0n);
  await pods.execSync(container, ["/bin/touch", "/go"], 10);
  await ended(site, container);
  const view = pods.getContainer(container);
  assert.deepEqual([view.exitCode, view.reason], [7, "Error"]);
  assert.deepEqual(logText(log(site)).sort(), ["hello", "oops"]);
  await pods.remove(view.podId);
  for (const dir of ["pods", "bundles"]) assert.deepEqual(fs.readdirSync(path.join(site.state, dir)), []);
  assert.deepEqual(site.daemon.images.snapshotKeys(), []);
});

test("a pod with an address: network, name and files of its own", needs(cni), async (t) => {
  const host = await privateHost();
  t.after(() => host.end());
  const dir = fs.mkdtempSync("/tmp/iso-net-");
  t.after(() => fs.rmSync(dir, { recursive: true }));
  const written = writeNetwork(dir, { host });
  const bin = path.join(dir, "bin");
  fs.mkdirSync(bin);
  for (const name of fs.readdirSync(present(cni).binDir))
    fs.writeFileSync(
      path.join(bin, name),
      `#!/bin/sh\nexec nsenter -t ${host.pid} -n -- ${present(cni).binDir}/${name} "$@"\n`,
      { mode: 0o755 },
    );
  const site = await openSite(t, { network: { confDir: written.confDir, binDirs: [bin] } });
  const { pods } = site.daemon;
  const dns = { servers: ["10.0.0.53"], searches: ["a.b"], options: ["ndots:2"] };
  const pod = await pods.run(podRequest(site, { hostname: "web-0", dns }));
  const container = await pods.create(pod, shell(WAIT));
  await pods.start(container);
  const [ip] = pods.get(pod).ips;
  assert.deepEqual(leasedAddresses(written), [ip]);
  assert.match(await output(site, container, ["ip", "addr", "show", "eth0"]), new RegExp(`inet ${ip}/24`));
  assert.equal(await output(site, container, ["hostname"]), "web-0");
  assert.equal(await output(site, container, ["cat", "/etc/hostname"]), "web-0");
  assert.deepEqual((await output(site, container, ["cat", "/etc/resolv.conf"])).split("\n").sort(), [
    "nameserver 10.0.0.53",
    "options ndots:2",
    "search a.b",
  ]);
  assert.equal(await output(site, container, ["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]), "0");
  assert.match(await output(site, container, ["mount"]), /on \/dev\/shm type tmpfs/);
  const again = await site.restart();
  assert.deepEqual(again.get(pod).ips, [ip]);
  await again.stop(pod);
  assert.deepEqual(leasedAddresses(written), []);
  assert.deepEqual(fs.readdirSync(path.join(site.dir, "netns")), []);
  assert.deepEqual(again.get(pod).ips, []);
  await again.remove(pod);
});

test("StartContainer of what is not there: the stub's words, StartError, 128", async (t) => {
  const site = await openSite(t);
  const { pods } = site.daemon;
  const pod = await pods.run(podRequest(site, hostPod));
  const config = { ...inHost(shell("")), command: ["/no/such"] };
  // The kernel knows at exec, which comes with start; the lookup in PATH may know at create.
  let id = "";
  const attempt = async () => {
    id = await pods.create(pod, config);
    await pods.start(id);
  };
  await assert.rejects(attempt(), /\/no\/such.*no such file or directory/i);
  if (id !== "") {
    const view = pods.getContainer(id);
    assert.deepEqual([view.state, view.exitCode, view.reason], ["exited", 128, "StartError"]);
  }
});

test("an absent mount source is refused at create, by name, and leaves nothing", async (t) => {
  const site = await openSite(t);
  const { pods } = site.daemon;
  const pod = await pods.run(podRequest(site, hostPod));
  const before = [fs.readdirSync(path.join(site.state, "bundles")), site.daemon.images.snapshotKeys()];
  const mounts = [
    {
      containerPath: "/data",
      hostPath: path.join(site.dir, "absent"),
      readonly: false,
      selinuxRelabel: false,
      propagation: "private",
      recursiveReadOnly: false,
    },
  ] as const;
  await assert.rejects(pods.create(pod, inHost(shell("true", { mounts }))), /absent.*no such file/i);
  assert.deepEqual(
    [fs.readdirSync(path.join(site.state, "bundles")), site.daemon.images.snapshotKeys()],
    before,
  );
  assert.equal(fs.existsSync(log(site)), false);
});

test("volumes are seen inside, read-only ones cannot be written", async (t) => {
  const site = await openSite(t);
  const volume = path.join(site.dir, "volume");
  fs.mkdirSync(volume);
  fs.writeFileSync(path.join(volume, "file"), "content");
  const mount = {
    hostPath: volume,
    selinuxRelabel: false,
    propagation: "private",
    recursiveReadOnly: false,
  } as const;
  const mounts = [
    { ...mount, containerPath: "/rw", readonly: false },
    { ...mount, containerPath: "/ro", readonly: true },
  ];
  const id = await running(site, inHost(shell(WAIT, { mounts })));
  assert.equal(await output(site, id, ["cat", "/ro/file"]), "content");
  assert.equal((await site.daemon.pods.execSync(id, ["touch", "/ro/x"], 10)).exitCode, 1);
  await site.daemon.pods.execSync(id, ["touch", "/rw/x"], 10);
  assert.deepEqual(fs.readdirSync(volume).sort(), ["file", "x"]);
});

test("user, groups, capabilities and no_new_privs are as asked, in the container and in an exec", async (t) => {
  const site = await openSite(t);
  const id = await running(
    site,
    inHost(shell(`id -u; id -g; id -G; ${WAIT}`), {
      runAsUser: 1000,
      supplementalGroups: [1234],
      noNewPrivs: true,
      dropCapabilities: ["ALL"],
    }),
  );
  await until("logged", () => logText(log(site)).length >= 3);
  assert.deepEqual(logText(log(site)), ["1000", "1000", "1000 1234 50000"]);
  assert.deepEqual(site.daemon.pods.getContainer(id).user, {
    uid: 1000,
    gid: 1000,
    supplementalGroups: [1000, 1234, 50000],
  });
  assert.equal(await output(site, id, ["id", "-G"]), "1000 1234 50000");
  const status = await output(site, id, ["cat", "/proc/self/status"]);
  assert.match(status, /NoNewPrivs:\s+1/);
  assert.match(status, /CapBnd:\s+0+\n/);
  // A container's own user may open its stdout again by name.
  const reopened = await site.daemon.pods.execSync(id, ["sh", "-c", "echo again > /proc/1/fd/1"], 10);
  assert.equal(reopened.exitCode, 0, reopened.stderr.toString());
  await until("logged", () => logText(log(site)).includes("again"));
});

test("what is confined by default, and what a privileged container may", async (t) => {
  const site = await openSite(t);
  const { pods } = site.daemon;
  const pod = await pods.run(podRequest(site, { ...hostPod, privileged: true }));
  const named = (name: string) => ({ metadata: { name, attempt: 0 }, logPath: "" });
  const confinement = { maskedPaths: ["/proc/uptime"], readonlyPaths: ["/proc/sys"], readonlyRootfs: true };
  const plain = await running(site, inHost(shell(WAIT, named("plain")), confinement), pod);
  const privileged = await running(
    site,
    inHost(shell(WAIT, named("all")), { ...confinement, privileged: true, readonlyRootfs: false }),
    pod,
  );
  const code = async (id: string, script: string) =>
    (await pods.execSync(id, ["sh", "-c", script], 20)).exitCode;
  for (const [script, whenPlain, whenPrivileged] of [
    ["touch /x 2>/dev/null", 1, 0],
    ["echo > /proc/sys/kernel/domainname 2>/dev/null", 1, 0],
    ["grep -q . /proc/uptime", 1, 0],
    ["mount -t tmpfs none /tmp 2>/dev/null", 1, 0],
    ["test -w /sys/fs/cgroup/cgroup.procs && echo $$ > /sys/fs/cgroup/cgroup.procs", 1, 0],
    ["test -c /dev/loop-control || test -c /dev/kmsg", 1, 0],
    ["test -c /dev/null && echo > /dev/null", 0, 0],
  ] as const)
    assert.deepEqual(
      [await code(plain, script), await code(privileged, script)].map(Boolean),
      [Boolean(whenPlain), Boolean(whenPrivileged)],
      script,
    );
});

test("a working directory that is missing is made; the host's pids are seen if asked", async (t) => {
  const site = await openSite(t);
  const { pods } = site.daemon;
  const namespaces: NamespaceOptions = { network: "node", pid: "node", ipc: "node" };
  const pod = await pods.run(podRequest(site, { namespaces, hostname: "" }));
  const id = await running(site, inHost(shell(WAIT, { workingDir: "/made/here" }), { namespaces }), pod);
  assert.equal(await output(site, id, ["pwd"]), "/made/here");
  const self = await output(site, id, ["sh", "-c", `cat /proc/${process.pid}/comm`]);
  assert.equal(self, fs.readFileSync(`/proc/${process.pid}/comm`, "utf8").trim());
  assert.equal(
    await output(site, id, ["readlink", "/proc/self/ns/ipc"]),
    fs.readlinkSync("/proc/self/ns/ipc"),
  );
});

test("standard input that nobody attaches to is silent, not at its end", async (t) => {
  const site = await openSite(t);
  const id = await running(site, inHost(shell("read line; echo over", { stdin: true })));
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(site.daemon.pods.getContainer(id).state, "running");
});

test("pods side by side leave neither descriptors nor processes", async (t) => {
  const site = await openSite(t);
  const { pods } = site.daemon;
  const round = async (n: number) => {
    const metadata = { name: `p${n}`, uid: "u", namespace: "n", attempt: 0 };
    const pod = await pods.run(podRequest(site, { ...hostPod, metadata }));
    const id = await running(site, inHost(shell(WAIT, { logPath: `p${n}.log` })), pod);
    await pods.execSync(id, ["true"], 20);
    await pods.stopContainer(id, 10);
    await pods.remove(pod);
  };
  await round(0);
  const fds = () => fs.readdirSync("/proc/self/fd").length;
  const before = [fds(), shimProcesses(site.state).length];
  await Promise.all([1, 2, 3, 4, 5, 6].map(round));
  await until("all is given back", () => fds() <= before[0]!);
  assert.equal(shimProcesses(site.state).length, before[1]);
  for (const dir of ["pods", "bundles"]) assert.deepEqual(fs.readdirSync(path.join(site.state, dir)), []);
  assert.deepEqual(site.daemon.images.snapshotKeys(), []);
});

test("a shared pid namespace, and one container's joined by another", async (t) => {
  const site = await openSite(t);
  const { pods } = site.daemon;
  const shared: NamespaceOptions = { network: "node", pid: "pod", ipc: "pod" };
  const pod = await pods.run(podRequest(site, { namespaces: shared, hostname: "" }));
  const first = await running(site, inHost(shell(WAIT), { namespaces: shared }), pod);
  assert.notEqual(await output(site, first, ["sh", "-c", "ps | grep -c trap"]), "0");
  assert.doesNotMatch(await output(site, first, ["cat", "/proc/1/cmdline"]), /trap/);
  await pods.remove(pod);
  const other = await pods.run(
    podRequest(site, { ...hostPod, metadata: { name: "b", uid: "b", namespace: "b", attempt: 0 } }),
  );
  const target = await running(site, inHost(shell(WAIT)), other);
  const joined = await running(
    site,
    inHost(shell(WAIT, { metadata: { name: "debug", attempt: 0 }, logPath: "" }), {
      namespaces: { ...onHost, pid: "target", targetId: target },
    }),
    other,
  );
  assert.match(await output(site, joined, ["cat", "/proc/1/cmdline"]), /trap/);
  await pods.remove(other);
});

test("a terminal: one stream, TERM set, carriage returns as a terminal writes them", async (t) => {
  const site = await openSite(t);
  const id = await running(site, inHost(shell("test -t 1 && echo $TERM; echo err >&2", { tty: true })));
  await ended(site, id);
  const lines = fs.readFileSync(log(site), "utf8");
  assert.match(lines, /stdout F xterm/);
  assert.match(lines, /stdout F err/);
  assert.doesNotMatch(lines, /stderr/);
});

test("ExecSync: time-out kills the whole tree; a background child does not hold it up; output is capped", async (t) => {
  const site = await openSite(t);
  const { pods } = site.daemon;
  const id = await running(site, inHost(shell(WAIT)));
  const tree = ["sh", "-c", "sleep 4321 & sh -c 'sleep 4321; true' & wait"];
  await assert.rejects(pods.execSync(id, tree, 0.5), { code: "DEADLINE_EXCEEDED" });
  assert.equal(await output(site, id, ["sh", "-c", "ps | grep -v grep | grep -c 4321 || true"]), "0");
  const began = Date.now();
  const held = await pods.execSync(id, ["sh", "-c", "sleep 30 & echo done"], 20);
  assert.equal(held.stdout.toString(), "done\n");
  assert.ok(Date.now() - began < 15_000);
  const big = await pods.execSync(id, ["sh", "-c", "head -c 20000000 /dev/zero"], 60);
  assert.equal(big.stdout.length, 16 << 20);
  await assert.rejects(pods.execSync(id, ["/no/such"], 10), /no such file or directory/i);
  const dir = path.join(site.state, "pods", pods.getContainer(id).podId, id);
  assert.deepEqual(fs.readdirSync(dir).sort(), ["started", "stderr", "stdout"]);
});

test("StopContainer: a handler of SIGTERM is heard; who ignores it is killed; 137 is told", async (t) => {
  const site = await openSite(t);
  const { pods } = site.daemon;
  const polite = await running(
    site,
    inHost(shell("trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done")),
  );
  await until("up", () => logText(log(site)).includes("up"));
  await pods.stopContainer(polite, 30);
  assert.equal(pods.getContainer(polite).exitCode, 5);
  assert.deepEqual(logText(log(site)), ["up", "bye"]);
  const stubborn = inHost(
    shell("trap '' TERM; while :; do sleep 0.05; done", { metadata: { name: "b", attempt: 0 } }),
  );
  const id = await running(site, stubborn, pods.getContainer(polite).podId);
  await pods.stopContainer(id, 0.3);
  assert.deepEqual([pods.getContainer(id).exitCode, pods.getContainer(id).reason], [137, "Error"]);
});

test("R3: the daemon comes back: containers ran on, their output is whole, exits are told truly", async (t) => {
  const site = await openSite(t);
  const config = shell("i=0; while [ ! -e /go ]; do i=$((i+1)); echo line $i; sleep 0.01; done; exit 9");
  const id = await running(site, inHost(config));
  await until("some lines", () => logText(log(site)).length > 5);
  const { startedAt } = site.daemon.pods.getContainer(id);
  const pods = await site.restart(() => new Promise((resolve) => setTimeout(resolve, 300)));
  assert.equal(pods.getContainer(id).state, "running");
  assert.equal(pods.getContainer(id).startedAt, startedAt);
  const seen = logText(log(site)).length;
  await until("more lines", () => logText(log(site)).length > seen + 5);
  await pods.execSync(id, ["touch", "/go"], 10);
  const next = await site.restart(() => new Promise((resolve) => setTimeout(resolve, 500)));
  await ended(site, id);
  assert.deepEqual([next.getContainer(id).exitCode, next.getContainer(id).reason], [9, "Error"]);
  const lines = logText(log(site));
  assert.deepEqual(
    lines,
    lines.map((_line, i) => `line ${i + 1}`),
  );
});

test("R3: a created container survives the daemon and can be started by the next", async (t) => {
  const site = await openSite(t);
  const pod = await site.daemon.pods.run(podRequest(site, hostPod));
  const id = await site.daemon.pods.create(pod, inHost(shell("echo here; exit 4")));
  const pods = await site.restart();
  assert.equal(pods.getContainer(id).state, "created");
  await pods.start(id);
  await ended(site, id);
  assert.equal(pods.getContainer(id).exitCode, 4);
  assert.deepEqual(logText(log(site)), ["here"]);
});

test("R3: kill -9 of the shim's server: containers, logs and exit codes live on", async (t) => {
  const site = await openSite(t);
  const { pods } = site.daemon;
  const id = await running(site, inHost(shell("while [ ! -e /go ]; do sleep 0.05; done; echo end; exit 6")));
  const servers = shimProcesses(site.state).filter((pid) =>
    fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("shim-server"),
  );
  assert.equal(servers.length, 1);
  process.kill(servers[0]!, "SIGKILL");
  // A call that was under way may fail; the next finds the new server.
  const go = () => pods.execSync(id, ["touch", "/go"], 20);
  assert.equal((await go().catch(go)).exitCode, 0);
  await ended(site, id);
  assert.deepEqual([pods.getContainer(id).exitCode, pods.getContainer(id).reason], [6, "Error"]);
  assert.deepEqual(logText(log(site)), ["end"]);
});
