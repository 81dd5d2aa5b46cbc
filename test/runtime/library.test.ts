import assert from "node:assert/strict";
import * as fs from "node:fs";
import { test } from "node:test";
import { check, IsopodError } from "../../src";
import { ran, scratch, started, textOf } from "./fixture";
import { processOf, specOf } from "./specs";

const shell = (script: string) => specOf(["/bin/sh", "-c", script]);

test("a container from a bundle runs, and its output and exit code come back", async () => {
  const { status, stdout, stderr } = await ran(shell("echo out; echo err >&2; exit 7"));
  assert.deepEqual({ status, stdout, stderr }, { status: 7, stdout: "out\n", stderr: "err\n" });
});

test("it is pid 1 of its own pid namespace, with its own host name, loopback, mounts and nothing else", async () => {
  const { stdout } = await ran(
    shell(
      "echo $$; hostname; ip -o link | cut -d: -f2; ls /; ls /proc/self/fd | wc -l; grep ^0: /proc/self/cgroup",
    ),
  );
  const [pid, name, link, ...rest] = stdout.trim().split("\n");
  assert.deepEqual([pid, name, link?.trim()], ["1", "box", "lo"]);
  assert.deepEqual(rest, ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "4", "0::/"]);
});

test("stdin is read to its end", async () => {
  const container = await started(specOf(["/bin/cat"]), { stdin: "pipe" });
  const output = textOf(container.stdout);
  container.stdin?.write("one\n");
  container.stdin?.end("two\n");
  assert.equal(await output, "one\ntwo\n");
  assert.equal((await container.wait()).status, 0);
  await container.delete();
});

test("an exec runs beside the first process and has its own streams and exit code", async () => {
  await using container = await started(specOf(["/bin/sleep", "100"]));
  const exec = await container.exec(["/bin/sh", "-c", "cat; ps | wc -l; id -u; exit 3"], { stdin: "pipe" });
  exec.stdin?.end("hello\n");
  const [stdout, exit] = await Promise.all([textOf(exec.stdout), exec.wait()]);
  assert.match(stdout, /^hello\n\d+\n0\n$/);
  assert.equal(exit.status, 3);
  await exec.delete();
  assert.equal((await container.pids()).length, 1);
});

test("kill, pause, resume and pids do what they say", async () => {
  const container = await started(specOf(["/bin/sleep", "100"]));
  assert.deepEqual(await container.pids(), [container.pid]);
  await container.pause();
  assert.equal(container.state, "paused");
  await container.resume();
  assert.equal(container.state, "running");
  await container.kill("SIGKILL");
  assert.equal((await container.wait()).status, 137);
  await container.delete();
});

test("an own process may have a terminal", async () => {
  const process = processOf(["/bin/sh", "-c", "tty; stty size; test -c /dev/console && echo console"], {
    terminal: true,
    consoleSize: { height: 33, width: 99 },
  });
  const container = await started(specOf([], { process }));
  assert.equal(await textOf(container.stdout), "/dev/pts/0\r\n33 99\r\nconsole\r\n");
  assert.equal(container.stderr, null);
  await container.wait();
  await container.delete();
});

test("a program that is not there fails the start by name and leaves nothing", async () => {
  await assert.rejects(started(specOf(["no-such-program"])), (error: unknown) => {
    assert.ok(IsopodError.is(error));
    assert.match(error.message, /"no-such-program".*executable file not found in \$PATH/);
    return true;
  });
});

test("what cannot be read or parsed is named", async () => {
  await assert.rejects(
    started(specOf([]), { bundle: `${scratch}/none` }),
    /reading ".*\/none\/config\.json"/,
  );
  fs.mkdirSync(`${scratch}/torn`);
  fs.writeFileSync(`${scratch}/torn/config.json`, '{"ociVersion": ');
  await assert.rejects(
    started(specOf([]), { bundle: `${scratch}/torn` }),
    /parsing ".*\/torn\/config\.json"/,
  );
});

test("check tells what this host can run", () => {
  const report = check();
  assert.equal(report.ok, true, JSON.stringify(report.findings));
  for (const { level, cure } of report.findings) assert.equal(level === "ok", cure === undefined);
});
