import * as assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";

const root = path.resolve(__dirname, "../../..");
const SOURCES = [
  "test/agent/cpp/agent-test.cc",
  "test/fuzz/agent_rpc.cc",
  ...["frame", "messages", "wire"].map((name) => `native/agent/${name}.cc`),
  "native/core/error_text.cc",
];
const ROUNDS = 20_000;

test("the agent's codecs, under AddressSanitizer and UBSan", () => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-agent-sanitized-"));
  try {
    const program = path.join(dir, "agent-test");
    const sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    const options = ["-std=c++17", "-O1", "-g", ...sanitize, '-DISOPOD_VERSION="0"', "-Inative"];
    execFileSync("g++", [...options, "-o", program, ...SOURCES], { cwd: root, stdio: "pipe" });
    const corpus = path.join(root, "test/fuzz/corpus/agent_rpc");
    const inputs = fs.readdirSync(corpus).map((name) => path.join(corpus, name));
    const tap = execFileSync(program, [String(ROUNDS), ...inputs], { encoding: "utf8" });
    assert.doesNotMatch(tap, /^not ok/m, tap);
    assert.match(tap, /^1\.\.\d+$/m);
  } finally {
    fs.rmSync(dir, { recursive: true });
  }
});
