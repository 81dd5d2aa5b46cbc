import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import { cleanEnv, command } from "../support/command";
import { repository } from "../support/peers";
import { isAlive, until } from "../support/processes";

/** Boots machines: scripts/test runs this file by itself, beside nothing else that is heavy. */

const program = path.join(repository, "dist/test/testbed/main.js");
const minutes = 60_000;
/** Where a run keeps its files. */
const cache = path.join(process.env["XDG_CACHE_HOME"] ?? path.join(os.homedir(), ".cache"), "isopod-testbed");

function testbed(args: readonly string[], accept: readonly number[]) {
  return command(process.execPath, [program, ...args], {
    cwd: repository,
    accept,
    timeoutMs: 8 * minutes,
    env: { GIVEN: "it's given" },
  });
}

/** Everything below a process. */
function descendants(pid: number): number[] {
  const children = fs
    .readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8")
    .split(" ")
    .filter(Boolean)
    .map(Number);
  return children.flatMap((child) => [child, ...descendants(child)]);
}

/** A run under way, and what it has of processes and open files when its command has begun. */
async function begun(dir: string): Promise<{ runner: ChildProcess; machine: number[] }> {
  const script = "echo begun; exec sleep 600";
  const runner = spawn(process.execPath, [program, "sh", "-c", script], {
    cwd: repository,
    env: cleanEnv({ TMPDIR: dir }),
    stdio: ["ignore", "pipe", "inherit"],
  });
  await new Promise<void>((resolve, reject) => {
    runner.stdout!.on("data", () => resolve());
    runner.on("close", (code) => reject(new Error(`the testbed ended with ${code}`)));
  });
  return { runner, machine: descendants(runner.pid!) };
}

test("a command's status, streams, environment, directory and results come back", async () => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-testbed-"));
  try {
    const script = [
      'process.stdout.write(Buffer.alloc(3_000_000, "isopod"))',
      "process.stderr.write(JSON.stringify([process.cwd(), process.env.GIVEN, process.argv.slice(1)]))",
      'require("fs").mkdirSync(process.env.ISOPOD_RESULTS + "/a")',
      'require("fs").writeFileSync(process.env.ISOPOD_RESULTS + "/a/file", "left")',
      "process.exitCode = 7",
    ].join(";");
    const result = await testbed(["--results", dir, "node", "-e", script, "--", "a  b", "$HOME"], [7]);
    assert.equal(result.status, 7);
    const hash = (text: string | Buffer) => createHash("sha256").update(text).digest("hex");
    assert.equal(
      hash(result.stdout),
      hash(Buffer.alloc(3_000_000, "isopod")),
      `${result.stdout.length} bytes`,
    );
    assert.deepEqual(JSON.parse(result.stderr), [repository, "it's given", ["a  b", "$HOME"]]);
    assert.equal(fs.readFileSync(path.join(dir, "a/file"), "utf8"), "left");
  } finally {
    fs.rmSync(dir, { recursive: true });
  }
});

test("a killed runner leaves no QEMU and no file", async () => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-testbed-"));
  const before = fs.readdirSync(cache);
  try {
    const { runner, machine } = await begun(dir);
    try {
      const names = machine.map((pid) => fs.readFileSync(`/proc/${pid}/comm`, "utf8").trim());
      assert.ok(
        names.some((name) => name.startsWith("qemu-system")),
        names.join(" "),
      );
      assert.deepEqual(fs.readdirSync(cache), before, "no file has a name while it runs");
    } finally {
      runner.kill("SIGKILL");
    }
    await until(() => !machine.some(isAlive), "QEMU is gone");
    assert.deepEqual(fs.readdirSync(cache), before);
    assert.deepEqual(fs.readdirSync(dir), []);
  } finally {
    fs.rmSync(dir, { recursive: true });
  }
});

test("a panic ends the run with the console's last lines", async () => {
  const result = await testbed(["sh", "-c", "echo c > /proc/sysrq-trigger; sleep 600"], [125]);
  assert.match(result.stderr, /ended before the command did; the last lines of its console:\n/);
  assert.match(result.stderr, /^ {2}\| .*Kernel panic - not syncing: sysrq triggered crash/m);
});

test("a guest that does not get done is ended at its timeout", async () => {
  const result = await testbed(["--timeout", "3", "true"], [124]);
  assert.match(result.stderr, /not done within 3 s; the last lines of its console:\n/);
});
