import * as assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import { native } from "../../src/native";

const env = ["PATH=/bin:/usr/bin"];
const shell = (script: string, options: object = {}) =>
  native().spawn({ file: "/bin/sh", args: ["-c", script], env, timeoutMs: 10_000, ...options });

test("status, output, stdin, environment, directory and descriptors", async () => {
  const file = path.join(os.tmpdir(), `isopod-spawn-${process.pid}`);
  const fd = fs.openSync(file, "w+");
  fs.unlinkSync(file);
  fs.writeSync(fd, "from seven");
  try {
    const done = await shell("cat; cat /proc/self/fd/7; pwd; echo $A >&2; exit 3", {
      env: [...env, "A=b"],
      stdin: Buffer.from("input "),
      cwd: "/usr",
      fds: { 7: fd },
    });
    assert.equal(done.status, 3);
    assert.equal(done.stdout.toString(), "input from seven/usr\n");
    assert.equal(done.stderr.toString(), "b\n");
    assert.equal(done.timedOut, false);
  } finally {
    fs.closeSync(fd);
  }
});

test("the child has no descriptor, signal disposition or mask of ours", async () => {
  const { stdout } = await shell("ls /proc/self/fd; cat /proc/self/status");
  assert.match(stdout.toString(), /^0\n1\n2\n3\n/);
  assert.match(stdout.toString(), /^SigBlk:\s+0+$/m);
  assert.match(stdout.toString(), /^SigIgn:\s+0+$/m);
});

test("R11: at its deadline a program dies with all of its group", async () => {
  const done = await shell("sleep 1000 & echo $!; wait", { timeoutMs: 300 });
  assert.equal(done.timedOut, true);
  assert.equal(done.status, 128 + 9);
  const stat = `/proc/${Number(done.stdout.toString())}/stat`;
  const gone = () => !fs.existsSync(stat) || /\) [ZX] /.test(fs.readFileSync(stat, "utf8"));
  for (let i = 0; i < 200 && !gone(); i++) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.ok(gone(), "a process of the killed group lives on");
});

test("what a program leaves running keeps running, and is not waited for", async () => {
  const done = await shell("sleep 1000 & echo $!");
  const pid = Number(done.stdout.toString());
  assert.equal(done.status, 0);
  process.kill(pid, "SIGKILL");
});

test("output beyond the limit is drained and dropped; input that nobody reads is no error", async () => {
  const done = await shell("head -c 3000000 /dev/zero; echo end >&2", {
    maxOutput: 1000,
    stdin: Buffer.alloc(1 << 20),
  });
  assert.equal(done.stdout.length, 1000);
  assert.equal(done.stderr.toString(), "end\n");
  assert.equal(done.status, 0);
});

test("a program that cannot be run is refused by its path", async () => {
  await assert.rejects(native().spawn({ file: "/no/such", args: [], env: [], timeoutMs: 1000 }), {
    message: 'running "/no/such": no such file or directory',
    errno: "ENOENT",
    path: "/no/such",
  });
  assert.throws(() => native().spawn({ file: "sh", args: [], env: [], timeoutMs: 1000 }), {
    code: "INVALID_ARGUMENT",
    message: "file: must be an absolute path",
  });
});
