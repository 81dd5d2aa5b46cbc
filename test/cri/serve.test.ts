import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { writeNetwork } from "../support/cni";
import { cleanEnv } from "../support/command";
import { startDaemon } from "../support/daemon";
import { needs } from "../support/needs";
import { peers, repository } from "../support/peers";
import { execute, logged, podConfig, removePod, run, shell, startPodDaemon } from "../support/pods";
import { until } from "../support/processes";

const cni = peers.cni();

const serve = (args: readonly string[]) =>
  spawnSync(path.join(repository, "bin/isopod"), ["serve", ...args], {
    env: cleanEnv(),
    encoding: "utf8",
    timeout: 30_000,
  });

test("one root, one state and one socket serve one daemon", async (t) => {
  const daemon = await startDaemon();
  t.after(() => daemon.end());
  const other = path.join(daemon.dir, "other");
  const listen = (name: string) => ["--listen", `unix://${daemon.dir}/${name}.sock`];
  const cases: [args: string[], why: RegExp][] = [
    [["--root", daemon.root, "--state", `${other}s`, ...listen("a")], /root: .*: in use by another isopod/],
    [["--root", `${other}r`, "--state", daemon.state, ...listen("b")], /state: .*: in use by another isopod/],
    [
      ["--root", `${other}r`, "--state", `${other}s`, "--listen", `unix://${daemon.socket}`],
      /isopod\.sock.*: another process listens there/,
    ],
  ];
  for (const [args, why] of cases) {
    const { status, stderr } = serve(args);
    assert.equal(status, 1);
    assert.match(stderr, why);
  }
  assert.equal((await daemon.cri.Version({})).runtimeName, "isopod");
});

test("everything lies below root, state, netns_dir and the socket; others may not look into it", async (t) => {
  const daemon = await startDaemon();
  t.after(() => daemon.end());
  assert.deepEqual(fs.readdirSync(daemon.dir).sort(), [
    "cni",
    "config.toml",
    "isopod.log",
    "isopod.sock",
    "netns",
    "root",
    "state",
  ]);
  assert.equal(fs.statSync(daemon.root).mode & 0o777, 0o700);
  assert.equal(fs.statSync(daemon.state).mode & 0o777, 0o711);
  assert.equal(fs.statSync(daemon.socket).mode & 0o777, 0o660);
});

test("calls in flight finish when the daemon is told to stop; new ones are refused", async (t) => {
  const daemon = await startPodDaemon();
  t.after(() => daemon.end());
  const { id, podId } = await run(daemon, ["sleep", "1000"]);
  const slow = execute(daemon, id, "echo begun >/began; sleep 1; echo done");
  await until(
    async () => (await execute(daemon, id, "cat /began 2>/dev/null")).stdout !== "",
    "it has begun",
  );
  const stopped = daemon.stop();
  await until(() => daemon.log().includes('"msg":"stopping"'), "it stops");
  await assert.rejects(daemon.cri.Version({}), { code: 14 });
  assert.equal((await slow).stdout, "done\n");
  await stopped;
  assert.match(daemon.log(), /"msg":"stopped"/);
  await daemon.start();
  await removePod(daemon, podId);
});

test("verbose Status carries the configuration and the event loop's delay since the last question", async (t) => {
  const daemon = await startDaemon();
  t.after(() => daemon.end());
  const read = async () => {
    const { info } = await daemon.cri.Status({ verbose: true });
    return {
      config: JSON.parse(info["config"]!) as { stateDir: string },
      delay: JSON.parse(info["eventLoopDelay"]!) as { p50: number; p99: number; max: number },
    };
  };
  const first = await read();
  assert.equal(first.config.stateDir, daemon.state);
  assert.deepEqual(first.delay, { p50: 0, p99: 0, max: 0 });
  await new Promise((resolve) => setTimeout(resolve, 100));
  const { delay } = await read();
  assert.ok(delay.max > 0 && delay.p50 <= delay.p99 && delay.p99 <= delay.max, JSON.stringify(delay));
});

test("output written while no daemon runs waits and comes first", async (t) => {
  const daemon = await startPodDaemon();
  t.after(() => daemon.end());
  const { log, podId } = await run(daemon, shell("echo one; sleep 0.5; echo two; exec sleep 1000"));
  await logged(log, "one");
  await daemon.kill();
  await new Promise((resolve) => setTimeout(resolve, 700));
  await daemon.start();
  await logged(log, "two");
  await removePod(daemon, podId);
});

test(
  "without a network only pods on the host's network run; one that appears is used at once",
  needs(cni),
  async (t) => {
    const daemon = await startPodDaemon();
    t.after(() => daemon.end());
    const network = async () => {
      const { status } = await daemon.cri.Status({});
      return status!.conditions!.find(({ type }) => type === "NetworkReady")!;
    };
    const before = await network();
    assert.equal(before.status ?? false, false);
    assert.equal(before.reason, "NetworkPluginNotReady");
    assert.match(before.message!, /no network config found in .*\/cni: cni plugin not initialized/);
    await removePod(daemon, (await run(daemon, ["true"])).podId);
    const own = podConfig(daemon, { linux: { cgroupParent: daemon.cgroupParent } });
    await assert.rejects(daemon.cri.RunPodSandbox({ config: own }), /cni plugin not initialized/);
    assert.deepEqual((await daemon.cri.ListPodSandbox({})).items, []);
    const written = writeNetwork(fs.mkdtempSync(path.join(daemon.dir, "net-")), { host: daemon.host });
    for (const name of fs.readdirSync(written.confDir)) {
      const text = fs.readFileSync(path.join(written.confDir, name), "utf8");
      fs.writeFileSync(path.join(daemon.dir, "cni", name), text);
    }
    await until(async () => (await network()).status === true, "the network is ready");
  },
);
