import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as net from "node:net";
import * as os from "node:os";
import * as path from "node:path";
import { type TestContext, test } from "node:test";
import { lockDirectory } from "../../src/bin/lock";

function folder(t: TestContext, name: string): string {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-lock-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  const inner = path.join(dir, name);
  fs.mkdirSync(inner);
  return inner;
}

test("a directory is locked once, and again after its release, however long its path", async (t) => {
  const dir = folder(t, "d".repeat(200));
  const first = await lockDirectory("root", dir);
  await assert.rejects(lockDirectory("root", dir), {
    code: "FAILED_PRECONDITION",
    message: `root: "${dir}": in use by another isopod`,
  });
  await assert.rejects(lockDirectory("root", dir), /in use/);
  first.release();
  (await lockDirectory("root", dir)).release();
});

/** What a killed process leaves: a bound name that nobody listens on. */
async function leaveDead(dir: string): Promise<void> {
  const lock = path.join(dir, "lock");
  fs.mkdirSync(lock);
  const dead = net.createServer().listen(path.join(lock, "x"));
  await new Promise((resolve) => dead.once("listening", resolve));
  fs.renameSync(path.join(lock, "x"), path.join(lock, "4711-dead"));
  await new Promise((resolve) => dead.close(resolve));
}

test("a lock that a killed process left is taken over and cleared away", async (t) => {
  const dir = folder(t, "d");
  await leaveDead(dir);
  const lock = await lockDirectory("root", dir);
  assert.equal(fs.readdirSync(path.join(dir, "lock")).length, 1);
  assert.equal(fs.existsSync(path.join(dir, "lock/4711-dead")), false);
  lock.release();
});

test("of many that come at once, never two get it", async (t) => {
  const dir = folder(t, "d");
  await leaveDead(dir);
  const results = await Promise.allSettled(Array.from({ length: 8 }, () => lockDirectory("root", dir)));
  const won = results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  assert.ok(won.length <= 1, `${won.length} have it`);
  for (const lock of won) lock.release();
  (await lockDirectory("root", dir)).release();
});
