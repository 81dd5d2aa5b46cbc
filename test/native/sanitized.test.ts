import * as assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";

const root = path.resolve(__dirname, "../../..");

test("the plan checker, the stub's strings and the error texts, under AddressSanitizer and UBSan", () => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-sanitized-"));
  try {
    const program = path.join(dir, "core-test");
    const sources = ["test/native/cpp/core-test.cc", "native/core/error_text.cc", "native/init/memory.cc"];
    execFileSync(
      "g++",
      [
        ...["-std=c++17", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
        ...["-DISOPOD_HOSTED", "-Inative", "-o", program, ...sources],
      ],
      { cwd: root, stdio: "pipe" },
    );
    const tap = execFileSync(program, ["100000"], { encoding: "utf8" });
    assert.doesNotMatch(tap, /^not ok/m, tap);
    assert.match(tap, /^1\.\.\d+$/m);
  } finally {
    fs.rmSync(dir, { recursive: true });
  }
});
