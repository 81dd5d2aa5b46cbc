import * as assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { native, OP, OPEN, PlanWriter } from "../../src/native";

const source = (name: string) => fs.readFileSync(path.resolve(__dirname, "../../..", name), "utf8");
const built = (name: string) => path.resolve(__dirname, "../../../build/Release", name);
const lower = (name: string) => name[0]!.toLowerCase() + name.slice(1);

test("the addon exports what types.ts declares, and nothing else", () => {
  const text = source("src/native/types.ts");
  const body = text.slice(text.indexOf("export interface Native {"));
  const declared = [...body.matchAll(/^ {2}(\w+)\(/gm)].map(([, name]) => name!);
  assert.ok(declared.length > 30);
  assert.deepEqual(Object.keys(native()).sort(), declared.sort());
});

test("the numbers of plan.ts are those of plan.h", () => {
  const header = source("native/core/plan.h");
  const numbers = (pattern: RegExp) =>
    Object.fromEntries([...header.matchAll(pattern)].map(([, name, value]) => [lower(name!), Number(value)]));
  assert.deepEqual({ ...OPEN }, numbers(/^ {2}kOpen(\w+) = (\d+),/gm));
  assert.deepEqual({ ...OP }, numbers(/^ {2}kOp(?!en[A-Z])(\w+) = (\d+),/gm));
});

test("plan.ts moves exactly the operands that plan_check.h takes for offsets", () => {
  const table = source("native/core/plan_check.h");
  const kinds = new Map(
    [...table.matchAll(/\{kOp(\w+), "(.{4})"\}/g)].map(([, name, letters]) => [lower(name!), letters!]),
  );
  assert.equal(kinds.size, Object.keys(OP).length);
  for (const [name, letters] of kinds) {
    const words = operandsThatMove(OP[name as keyof typeof OP]);
    for (const [i, operand] of ["a", "b", "c", "d"].entries())
      assert.equal(words[i], /[solLBGCP]/.test(letters[i]!), `${name}.${operand}`);
  }
});

/** Writes one op with offset 8 in each operand and looks which of them were rebased. */
function operandsThatMove(op: number): boolean[] {
  const plan = new PlanWriter();
  const text = plan.string("x");
  plan.op(op, { a: text, b: text, c: text, d: text });
  const bytes = Buffer.from(plan.finish({ cloneFlags: 0 }));
  return [0, 1, 2, 3].map((i) => bytes.readUInt32LE(32 + 8 + 4 * i) !== text);
}

test("the stub needs nothing: no symbol, no library, no initialiser, no writable code", () => {
  for (const name of ["isopod-init", "isopod-init-fault"]) {
    const elf = execFileSync("readelf", ["-lSdW", built(name)], { encoding: "utf8" });
    assert.doesNotMatch(elf, /INTERP|DYNAMIC|\.init_array|\.fini_array|\.ctors|\.tdata|\.tbss/, name);
    assert.doesNotMatch(elf, /LOAD.* (RWE|WE)/, name);
  }
  // Each object by itself: undefined are only its neighbours, the memory functions and what arch.h enters.
  const objects = built("obj.target/isopod-init/native/init");
  const undefinedIn = (file: string) =>
    execFileSync("nm", ["-uC", path.join(objects, file)], { encoding: "utf8" })
      .split("\n")
      .map((line) => line.trim().replace(/^U /, ""))
      .filter(Boolean);
  const files = fs.readdirSync(objects).filter((file) => file.endsWith(".o"));
  assert.ok(files.length > 8);
  const allowed = /^(isopod::init::\w+|memcpy|memmove|memset|memcmp|isopod_init_main)(\(|$)/;
  for (const file of files)
    assert.deepEqual(
      undefinedIn(file).filter((symbol) => !allowed.test(symbol)),
      [],
      file,
    );
});

test("no core object knows of JavaScript", () => {
  const symbols = execFileSync("nm", ["-uC", built("core.a")], { encoding: "utf8" });
  assert.doesNotMatch(symbols, /napi_|Napi::|node::| uv_/);
});

test("loading the addon changes nothing of the process", () => {
  const script = `
    const fs = require("fs");
    const look = () => JSON.stringify({
      threads: fs.readdirSync("/proc/self/task").length,
      umask: process.umask(),
      status: fs.readFileSync("/proc/self/status", "utf8").split("\\n").filter((l) => /^(Sig|Shd|Cap|NoNew|Seccomp|Umask)/.test(l)),
      limits: fs.readFileSync("/proc/self/limits", "utf8"),
      oom: fs.readFileSync("/proc/self/oom_score_adj", "utf8"),
      fds: fs.readdirSync("/proc/self/fd").length,
    });
    const before = look();
    require(${JSON.stringify(built("isopod.node"))});
    if (look() !== before) { console.log(before, look()); process.exit(1); }
  `;
  execFileSync(process.execPath, ["-e", script], { stdio: "pipe" });
});
