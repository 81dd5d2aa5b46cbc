// The virtio devices against a guest made of C++ (test/native/cpp/virtio): no KVM is needed. Each
// case there is a test here, under AddressSanitizer and UBSan; those about threads run under
// ThreadSanitizer as well.
import * as assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";

const root = path.resolve(__dirname, "../../..");

function build(program: string): string {
  fs.mkdirSync(path.join(root, "build/sanitized"), { recursive: true });
  const make = ["make", "-s", "-j2", "-f", "test/native/cpp/Makefile", program];
  // Test files run side by side and build the same objects.
  execFileSync("flock", ["build/sanitized/lock", ...make], { cwd: root, stdio: "pipe" });
  return path.join(root, "build/sanitized", program);
}

function run(program: string, title: string): void {
  const { status, signal, stdout, stderr } = spawnSync(program, [title], { encoding: "utf8" });
  assert.equal(signal ?? status, 0, `${stdout}${stderr}`);
  assert.match(stdout, /^ok 1 - /m);
}

const program = build("virtio-test");
const titles = execFileSync(program, ["--list"], { encoding: "utf8" }).trim().split("\n");
for (const title of titles) test(title, () => run(program, title));

test("threads: no data race", async (context) => {
  const raced = build("virtio-test-threads");
  for (const title of titles.filter((name) => /^threads: |worker/.test(name)))
    await context.test(title, () => run(raced, title));
});
