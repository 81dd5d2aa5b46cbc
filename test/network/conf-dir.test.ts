import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { type TestContext, test } from "node:test";
import { silentLog } from "../../src/base/log";
import { type ConfDir, followConfDir } from "../../src/network/conf-dir";

const conf = (name: string) => JSON.stringify({ cniVersion: "1.0.0", name, plugins: [{ type: "bridge" }] });

function open(t: TestContext): { root: string; dir: string; follow: () => ConfDir } {
  const root = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-conf-"));
  t.after(() => fs.rmSync(root, { recursive: true }));
  const dir = path.join(root, "net.d");
  const follow = () => {
    const followed = followConfDir(dir, silentLog);
    t.after(() => followed.close());
    return followed;
  };
  return { root, dir, follow };
}

async function until(what: string, condition: () => boolean): Promise<void> {
  for (let i = 0; i < 250; i++) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.fail(`not within 5 s: ${what}`);
}

test("an absent or empty directory is a reason not to be ready", (t) => {
  const { dir, follow } = open(t);
  const followed = follow();
  assert.equal(followed.problem, `no network config found in ${dir}: cni plugin not initialized`);
  fs.mkdirSync(dir);
  assert.match(followed.problem ?? "", /no network config found/);
});

test("the first valid file by name counts, an invalid one is passed over", (t) => {
  const { dir, follow } = open(t);
  fs.mkdirSync(dir);
  fs.writeFileSync(path.join(dir, "00-broken.conflist"), "{");
  fs.writeFileSync(path.join(dir, "20-b.conflist"), conf("b"));
  fs.writeFileSync(path.join(dir, "10-a.json"), conf("a"));
  fs.writeFileSync(path.join(dir, "05-ignored.txt"), conf("ignored"));
  const followed = follow();
  assert.equal(followed.problem, undefined);
  assert.equal(followed.current?.name, "a");
});

test("only invalid files: the problem names file, field and value", (t) => {
  const { dir, follow } = open(t);
  fs.mkdirSync(dir);
  fs.writeFileSync(path.join(dir, "10.conflist"), JSON.stringify({ name: "n", plugins: [{ type: "" }] }));
  assert.match(follow().problem ?? "", /10\.conflist: plugins\[0\]\.type: "": .*cni plugin not initialized/);
});

test("changes are followed: write, rename, remove, the directory replaced", async (t) => {
  const { dir, follow } = open(t);
  const followed = follow();
  fs.mkdirSync(dir);
  fs.writeFileSync(path.join(dir, "20-b.conflist"), conf("b"));
  await until("b appears", () => followed.current?.name === "b");
  fs.writeFileSync(path.join(dir, "tmp"), conf("a"));
  fs.renameSync(path.join(dir, "tmp"), path.join(dir, "10-a.conflist"));
  await until("a comes first", () => followed.current?.name === "a");
  fs.rmSync(path.join(dir, "10-a.conflist"));
  await until("b again", () => followed.current?.name === "b");
  fs.renameSync(dir, `${dir}.old`);
  fs.mkdirSync(dir);
  await until("nothing left", () => followed.problem !== undefined);
  fs.writeFileSync(path.join(dir, "30-c.conflist"), conf("c"));
  await until("c in the new directory", () => followed.current?.name === "c");
});
