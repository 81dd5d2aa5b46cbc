import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { command } from "../support/command";
import { checkout, compiled, inTemporary } from "./programs";

test("hostile FUSE messages leave nothing outside the tree touched, under AddressSanitizer and UBSan", async () => {
  await inTemporary(async (dir) => {
    const handlers = fs
      .readdirSync(path.join(checkout, "native/fs"))
      .filter((name) => /^op_.*\.cc$/.test(name));
    const sources = ["session.cc", "inodes.cc", "caller.cc", ...handlers].map((name) => `native/fs/${name}`);
    const sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread"];
    const program = await compiled(dir, "session-test", [...sources, ...sanitizers]);
    const cwd = path.join(dir, "cwd");
    fs.mkdirSync(cwd);
    const { stdout } = await command(program, [], { cwd });
    assert.doesNotMatch(stdout, /^not ok/m, stdout);
    assert.match(stdout, /^1\.\.\d+$/m);
  });
});
