import * as assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, test } from "node:test";
import { containerd, google, runtimeoptions } from "../../src/gen/shim";
import { eventually, Launcher, MONITOR, run } from "./launcher";

const launchers: Launcher[] = [];
function launcher(): Launcher {
  const made = new Launcher();
  launchers.push(made);
  return made;
}
after(async () => {
  for (const made of launchers) await made.close();
});

const options = (toml: string): google.protobuf.Any.$Properties => ({
  type_url: "runtimeoptions.v1.Options",
  value: runtimeoptions.v1.Options.encode({ configBody: Buffer.from(toml) }).finish(),
});
const legacy = (toml: string): Uint8Array => google.protobuf.Any.encode(options(toml)).finish();
const bootstrap = (id: string, more: object = {}): Uint8Array =>
  containerd.runtime.bootstrap.v1.BootstrapParams.encode({
    instanceId: id,
    namespace: "test",
    containerdTtrpcAddress: "/nowhere.ttrpc",
    ...more,
  }).finish();

test("start prints a plain address, closes its output and leaves a server that answers", async () => {
  const l = launcher();
  const { status, stdout, stderr } = await l.start("a");
  assert.equal(stderr, "");
  assert.equal(status, 0);
  const address = stdout.toString();
  assert.match(address, /^unix:\/\/.*\/s\/[0-9a-f]{32}$/);
  const socket = address.slice("unix://".length);
  assert.equal(fs.statSync(socket).mode & 0o777, 0o600);
  assert.equal(fs.statSync(l.socketDir).mode & 0o777, 0o700);
  assert.equal(fs.readFileSync(path.join(l.bundle("a"), "address"), "utf8"), address);
  const pid = await l.serverPid(address);
  const [noted] = l.starts();
  assert.equal(noted?.["started"], pid);
  assert.equal(noted?.["cwd"], "/", "no cwd that keeps a bundle busy");
  const fds = noted?.["fds"] as string[];
  assert.deepEqual(
    fds.filter((fd) => /^[0-4]=/.test(fd)).map((fd) => fd.replace(/\[\d+\]/, "")),
    ["0=/dev/null", "1=/dev/null", "2=/dev/null", "3=socket:", "4=socket:"],
  );
  assert.deepEqual(
    fds.filter((fd) => fd.includes("bundles")),
    [],
    "nothing of the caller's is inherited",
  );
});

test("BootstrapParams are answered with a BootstrapResult of version 3", async () => {
  const l = launcher();
  const { status, stdout } = await l.start("boot", { stdin: bootstrap("boot", { logLevel: -4 }) });
  assert.equal(status, 0);
  const result = containerd.runtime.bootstrap.v1.BootstrapResult.decode(stdout);
  assert.equal(result.version, 3);
  assert.equal(result.protocol, "ttrpc");
  await l.serverPid(result.address);
  const argv = l.starts()[0]?.["argv"] as string[];
  assert.equal(argv[argv.indexOf("-events") + 1], "/nowhere.ttrpc");
  assert.equal(argv.at(-1), "-debug");
});

test("an Any whose fields look like BootstrapParams of somebody else is taken as options", async () => {
  const l = launcher();
  const { status, stdout } = await l.start("any", { stdin: legacy('group = "node"') });
  assert.equal(status, 0);
  assert.match(stdout.toString(), /^unix:/);
});

test("start twice and eight at once: one address, one server", async () => {
  const l = launcher();
  const first = await l.start("one");
  const again = await Promise.all(Array.from({ length: 8 }, () => l.start("one")));
  for (const { stdout } of again) assert.equal(stdout.toString(), first.stdout.toString());
  await l.serverPid(first.stdout.toString());
  assert.equal(l.starts().length, 1);

  const fresh = await Promise.all(Array.from({ length: 8 }, () => l.start("two")));
  assert.equal(new Set(fresh.map(({ stdout }) => stdout.toString())).size, 1);
  await l.serverPid(fresh[0]!.stdout.toString());
  assert.equal(l.starts().length, 2);
});

test("containers of one sandbox share its server, other sandboxes and namespaces do not", async () => {
  const l = launcher();
  const annotations = { "io.kubernetes.cri.sandbox-id": "pod1" };
  const sandbox = await l.start("pod1", { config: { ociVersion: "1.2.0", annotations } });
  const container = await l.start("c1", { config: { mounts: [{ a: ["]"] }], annotations } });
  assert.equal(container.stdout.toString(), sandbox.stdout.toString());
  const other = await l.start("pod2");
  assert.notEqual(other.stdout.toString(), sandbox.stdout.toString());
  for (const { stdout } of [sandbox, other]) await l.serverPid(stdout.toString());
});

test("R1: group node has the build in its name; an existing sandbox stays with its server", async () => {
  const l = launcher();
  const node = { stdin: legacy('# one for all\ngroup = "node"\n') };
  const first = await l.start("p1", node);
  assert.equal((await l.start("p2", node)).stdout.toString(), first.stdout.toString());
  const address = first.stdout.toString();
  await l.serverPid(address);
  const records = `${address.slice("unix://".length)}.d`;
  fs.writeFileSync(path.join(records, "p1.json"), "{}");
  // An upgrade: another build of the server.
  fs.appendFileSync(path.join(l.dir, "shim-server.js"), "// newer\n");
  const upgraded = await l.start("p3", node);
  assert.notEqual(upgraded.stdout.toString(), address, "new pods go to a new server");
  fs.rmSync(path.join(l.bundle("p1"), "address"));
  assert.equal((await l.start("p1", node)).stdout.toString(), address, "by its record");
  assert.equal((await l.start("p1")).stdout.toString(), address, "whatever the group would be today");
  for (const { stdout } of [first, upgraded]) await l.serverPid(stdout.toString());
});

test("R1: node is scrubbed of what would change it", async () => {
  const l = launcher();
  const env = { NODE_OPTIONS: "--require /nonexistent.js", NODE_EXTRA_CA_CERTS: "/nonexistent.pem" };
  const { status, stdout } = await l.start("scrub", { env });
  assert.equal(status, 0);
  await l.serverPid(stdout.toString());
  assert.deepEqual(l.starts()[0]?.["nodeEnvironment"], []);
});

test("R1: a node of the wrong major is refused, its path in the text", async (t) => {
  const l = launcher();
  const fake = path.join(l.dir, "node");
  fs.writeFileSync(fake, "#!/bin/sh\necho v18.20.0\n", { mode: 0o755 });
  const real = fs.realpathSync(process.execPath);
  // In a mount namespace of its own every node that could be found is the fake one.
  const script = `mount --make-rprivate / && mount --bind "$1" "${real}" && shift && exec "$@"`;
  const args = ["-m", "sh", "-c", script, "sh", fake, l.monitor, ...l.args("old", "start")];
  const { status, stdout, stderr } = await run("unshare", args, {
    cwd: l.bundle("old"),
    env: { PATH: `${l.dir}:/usr/bin:/bin` },
  });
  t.diagnostic(stderr);
  assert.equal(status, 1);
  assert.equal(stdout.length, 0);
  assert.match(stderr, /finding node: need major 20 or later/);
  assert.ok(stderr.includes(`"${fake}": major 18`), "the path is in the text");
  assert.deepEqual(fs.existsSync(l.socketDir) ? fs.readdirSync(l.socketDir) : [], [], "nothing was made");
});

test("R1: a missing bundle is an error that names both places", async () => {
  const l = launcher();
  fs.rmSync(path.join(l.dir, "shim-server.js"));
  const { status, stderr } = await l.start("x");
  assert.equal(status, 1);
  assert.ok(stderr.includes(`"${l.dir}"`) && stderr.includes(`"${l.dir}/../../dist"`), stderr);
});

test("bad flags, ids, options and addresses are refused with field and value", async () => {
  const l = launcher();
  const cwd = l.bundle("bad");
  const refused = async (args: string[], stdin: Uint8Array | undefined, text: RegExp): Promise<void> => {
    const { status, stderr, stdout } = await run(l.monitor, args, { cwd, ...(stdin && { stdin }) });
    assert.notEqual(status, 0);
    assert.match(stderr, text);
    assert.equal(stdout.length, 0);
  };
  await refused(["-frobnicate", "start"], undefined, /flag "-frobnicate": unknown/);
  await refused(l.args("a/b", "start"), undefined, /-id "a\/b"/);
  await refused(l.args("x".repeat(77), "start"), undefined, /at most 76/);
  await refused(l.args("ok"), undefined, /verb "": must be start or delete/);
  await refused(l.args("ok", "start"), legacy('group = "zone"'), /options: group: "zone"/);
  await refused(l.args("ok", "start"), legacy("speed = 9"), /options: "speed": unknown key/);
  const foreign = google.protobuf.Any.encode({
    type_url: "containerd.runc.v1.Options",
    value: Buffer.from("x"),
  });
  await refused(l.args("ok", "start"), foreign.finish(), /options: type "containerd.runc.v1.Options"/);
  const long = ["-namespace", "n", "-id", "i", "-address", `/${"d".repeat(61)}/c.sock`, "start"];
  await refused(long, undefined, /more than 60 bytes/);
  assert.deepEqual(l.starts(), []);
});

test("flags come as -x v, --x v and -x=v", async () => {
  const l = launcher();
  const args = [`--namespace=test`, `-address=${l.dir}/c.sock`, "--id", "forms", "-debug", "start"];
  const { status, stdout, stderr } = await run(l.monitor, args, { cwd: l.bundle("forms"), env: l.env });
  assert.equal(status, 0, stderr);
  await l.serverPid(stdout.toString());
  assert.equal((l.starts()[0]!["argv"] as string[]).at(-1), "-debug");
});

test("-info tells features and echoes the options, -v prints a version", async () => {
  const stdin = legacy("");
  const { stdout } = await run(MONITOR, ["-info"], { stdin });
  const info = containerd.types.RuntimeInfo.decode(stdout);
  assert.equal(info.name, "io.containerd.isopod.v2");
  assert.equal(info.options?.type_url, "runtimeoptions.v1.Options");
  const features = JSON.parse(Buffer.from(info.features?.value ?? []).toString()) as {
    mountOptions: string[];
  };
  assert.ok(features.mountOptions.includes("rro"));
  assert.match((await run(MONITOR, ["-v"])).stdout.toString(), /^containerd-shim-isopod-v2 \d+\.\d+\.\d+\n$/);
});

test("the monitor is a small session leader that holds nothing of its caller", async () => {
  const l = launcher();
  const { stdout } = await l.start("held");
  await l.serverPid(stdout.toString());
  const monitor = Number(l.starts()[0]?.["parent"]);
  const stat = fs.readFileSync(`/proc/${monitor}/stat`, "utf8").split(") ")[1]!.split(" ");
  assert.equal(Number(stat[3]), monitor, "session");
  assert.equal(fs.readlinkSync(`/proc/${monitor}/cwd`), "/");
  for (const fd of fs.readdirSync(`/proc/${monitor}/fd`)) {
    assert.doesNotMatch(fs.readlinkSync(`/proc/${monitor}/fd/${fd}`), /pipe:|bundles/);
  }
  await eventually("the launcher ends", () => !l.isOurs(Number(stat[1])));
});

test("R5: monitor and server go to the lowest oom score they may, whatever their launcher had", async () => {
  const l = launcher();
  const raised = 'echo 500 > /proc/self/oom_score_adj && exec "$@"';
  const args = ["-c", raised, "sh", l.monitor, ...l.args("score", "start")];
  const { stdout, stderr } = await run("sh", args, { cwd: l.bundle("score"), env: l.env });
  assert.equal(stderr, "");
  const server = await l.serverPid(stdout.toString());
  const scoreOf = (pid: number | string): number =>
    Number(fs.readFileSync(`/proc/${pid}/oom_score_adj`, "utf8"));
  // CAP_SYS_RESOURCE is bit 24; without it the way back ends at what was set for us before: our own score.
  const effective = /CapEff:\t(\w+)/.exec(fs.readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0";
  const privileged = (BigInt(`0x${effective}`) >> 24n) & 1n;
  for (const pid of [Number(l.starts()[0]?.["parent"]), server]) {
    if (privileged) assert.equal(scoreOf(pid), -1000);
    else assert.ok(scoreOf(pid) <= scoreOf("self"), `${scoreOf(pid)} <= ${scoreOf("self")}`);
  }
});
