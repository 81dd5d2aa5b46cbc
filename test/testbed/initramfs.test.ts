import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import { cpio, directory, file } from "./cpio";
import { jobScript } from "./initramfs";
import { loadOrder } from "./modules";

test("cpio: busybox unpacks what was packed", () => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-cpio-"));
  try {
    // Lengths of every remainder by 4, in names and in data.
    const names = ["a", "ab", "abc", "abcd", "abcde"];
    const entries = names.map((name) => file(`in/${name}`, name.repeat(name.length), name === "ab"));
    const archive = cpio([directory("in"), ...entries, file("empty", "")]);
    assert.equal(archive.length % 4, 0);
    execFileSync("busybox", ["cpio", "-i"], { cwd: dir, input: archive, stdio: ["pipe", "pipe", "pipe"] });
    assert.deepEqual(fs.readdirSync(path.join(dir, "in")), names);
    for (const name of names) {
      const copy = path.join(dir, "in", name);
      assert.equal(fs.readFileSync(copy, "utf8"), name.repeat(name.length));
      assert.equal(fs.statSync(copy).mode & 0o777, name === "ab" ? 0o755 : 0o644);
    }
    assert.equal(fs.statSync(path.join(dir, "empty")).size, 0);
  } finally {
    fs.rmSync(dir, { recursive: true });
  }
});

test("modules are loaded after what they need, by either spelling, once", () => {
  const dep = [
    "kernel/fs/a.ko: kernel/lib/b-1.ko kernel/lib/c.ko",
    "kernel/lib/b-1.ko: kernel/lib/c.ko",
    "kernel/lib/c.ko.xz:",
    "kernel/lib/c.ko:",
    "kernel/x/other.ko:",
  ].join("\n");
  const index = { dep, builtin: "kernel/core/in-side.ko\n" };
  assert.deepEqual(loadOrder(index, [{ name: "a" }, { name: "b_1" }]), [
    "kernel/lib/c.ko",
    "kernel/lib/b-1.ko",
    "kernel/fs/a.ko",
  ]);
  assert.deepEqual(loadOrder(index, [{ name: "in_side" }, { name: "gone", optional: true }]), []);
  assert.throws(() => loadOrder(index, [{ name: "gone" }]), /this kernel has no module gone/);
  assert.deepEqual(loadOrder({ dep }, [{ name: "c" }, { name: "gone" }]), ["kernel/lib/c.ko"]);
  const circle = { dep: "a.ko: b.ko\nb.ko: a.ko\n", builtin: "" };
  assert.throws(() => loadOrder(circle, [{ name: "a" }]), /modules need each other: a.ko b.ko a.ko/);
});

test("the job's words, variables and directory arrive as they are", () => {
  const words = ["a b", "$HOME", "it's", "`date`", "new\nline", "*", "", "ü"];
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod job's-"));
  try {
    const show = "console.log(JSON.stringify([process.cwd(), process.env, process.argv.slice(1)]))";
    const script = jobScript(
      {
        command: [process.execPath, "-e", show, "--", ...words],
        env: { GIVEN: "it's $given" },
        shell: false,
      },
      {
        directory: dir,
        env: { KEPT: "k\nk", NODE_OPTIONS: "--bad", "no-name": "x", PATH: process.env["PATH"] },
      },
    );
    const out = execFileSync("/bin/sh", ["-c", script], { encoding: "utf8", env: {} });
    const [cwd, env, argv] = JSON.parse(out) as [string, Record<string, string>, string[]];
    assert.equal(cwd, dir);
    assert.deepEqual(argv, words);
    assert.equal(env["GIVEN"], "it's $given");
    assert.equal(env["KEPT"], "k\nk");
    assert.equal(env["ISOPOD_TESTBED"], "1");
    assert.ok(!("NODE_OPTIONS" in env) && !("no-name" in env));
  } finally {
    fs.rmSync(dir, { recursive: true });
  }
});
