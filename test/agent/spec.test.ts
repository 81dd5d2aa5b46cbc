import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { GUEST_FD } from "../../src/agent";
import type { Process, Spec } from "../../src/oci/runtime-spec";
import { defaultSeccomp } from "../../src/runtime";
import { compileContainer } from "../../src/runtime/compile";
import { compileExec } from "../../src/runtime/compile-exec";
import { CAPABILITIES, processOf, specOf } from "../runtime/specs";
import { type ConnectedAgent, cgroupParent, connected, freshId, rootfs, streams } from "./fixture";

/** OCI specs, compiled for the agent's own kernel and run by it: what a microVM's runtime does. */
let made: ConnectedAgent;
before(async () => {
  made = await connected();
});
after(() => made[Symbol.asyncDispose]());

const NAMES = ["stdin", "stdout", "stderr"] as const;
const handed = { handed: { stdin: GUEST_FD.stdin, stdout: GUEST_FD.stdout, stderr: GUEST_FD.stderr } };

async function create(spec: Spec) {
  const { agent } = made;
  const id = freshId();
  const { plan, deviceProgram, limits } = compileContainer({
    id,
    spec,
    bundle: path.dirname(rootfs),
    rootfs: [],
    stdio: handed,
    gate: GUEST_FD.gate,
    base: undefined,
    target: agent.guest,
    dieWithParent: false,
    warn: () => {},
  });
  const terminal = spec.process?.terminal ?? false;
  const ends = await streams(made, terminal ? ["stdout"] : NAMES, terminal);
  const cgroup = `${cgroupParent}/${id}`;
  await agent.createContainer({ id, plan, cgroup, cgroupWrites: limits, deviceProgram, stdio: ends.stdio });
  return { id, ends, cgroup: path.join(agent.guest.cgroupRoot, cgroup) };
}

async function exec(id: string, cgroup: string, spec: Spec, process: Process): Promise<string> {
  const ends = await streams(made, NAMES);
  const plan = compileExec({
    containerId: id,
    spec,
    process,
    stdio: handed,
    cgroup,
    target: made.agent.guest,
    dieWithParent: false,
    warn: () => {},
  });
  await made.agent.exec({ id, execId: "x", plan, stdio: ends.stdio });
  const output = await ends.text("stdout");
  assert.equal((await made.agent.wait({ id, execId: "x" })).status, 0);
  return output;
}

const user = { uid: 1234, gid: 567, additionalGids: [89] };

test("a whole spec: user, capabilities, seccomp, masks, its own output by name; and an exec in it", async () => {
  const script = [
    "echo $$ $(id -u) $(id -g)",
    // Whoever opens its own output by name needs a pipe that is its own (nginx logs so).
    "echo by name > /proc/self/fd/1",
    "cat /proc/keys | wc -l",
    "test -w /proc/sys/kernel/hostname || echo read-only",
    "grep -E '^(Seccomp|NoNewPrivs|CapEff):' /proc/self/status",
    "read line; echo got $line >&2; exit 6",
  ].join("\n");
  const base = specOf(["sh", "-c", script]);
  const spec: Spec = {
    ...base,
    process: processOf(["sh", "-c", script], { user, env: ["PATH=/bin"] }),
    linux: { ...base.linux, seccomp: defaultSeccomp(CAPABILITIES, made.agent.guest) },
  };
  const { id, ends, cgroup } = await create(spec);
  await made.agent.start(id);
  const [stdin, stdout, stderr] = [await ends.stream("stdin"), ends.text("stdout"), ends.text("stderr")];
  const inner = await exec(
    id,
    cgroup,
    spec,
    processOf(["sh", "-c", "id -u; cat /proc/1/comm"], { user, env: ["PATH=/bin"] }),
  );
  assert.equal(inner, "1234\nsh\n");
  stdin.end("words\n");
  assert.equal((await made.agent.wait({ id })).status, 6);
  assert.equal(await stderr, "got words\n");
  assert.deepEqual((await stdout).trim().split("\n"), [
    ...["1 1234 567", "by name", "0", "read-only"],
    ...["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"],
  ]);
  await made.agent.delete({ id });
});

test("limits of the spec are the cgroup's before the first instruction", async () => {
  const limits = { unified: { "cgroup.max.depth": "3" } };
  const base = specOf(["sleep", "100"]);
  const spec: Spec = {
    ...base,
    process: processOf(["sleep", "100"], { env: ["PATH=/bin"] }),
    linux: { ...base.linux, resources: { ...base.linux?.resources, ...limits } },
  };
  const { id, cgroup } = await create(spec);
  assert.equal(fs.readFileSync(path.join(cgroup, "cgroup.max.depth"), "utf8"), "3\n");
  await made.agent.delete({ id });
});

test("a terminal of a whole spec is its console", async () => {
  const process = processOf(["sh", "-c", "tty; test -c /dev/console && echo console; stty size"], {
    env: ["PATH=/bin"],
    terminal: true,
    consoleSize: { height: 12, width: 34 },
  });
  const { id, ends } = await create({ ...specOf(["true"]), process });
  const output = ends.text("stdout");
  await made.agent.start(id);
  assert.equal((await made.agent.wait({ id })).status, 0);
  assert.equal((await output).replaceAll("\r", ""), "/dev/pts/0\nconsole\n12 34\n");
  await made.agent.delete({ id });
});
