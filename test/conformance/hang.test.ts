import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import { needs, requirement } from "../support/needs";

const fuse = requirement(fs.existsSync("/dev/fuse"), "needs /dev/fuse");

test("R10: a volume that never answers holds neither Node nor other launches", needs(fuse), () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-hung-"));
  const environment: NodeJS.ProcessEnv = { ...process.env, HUNG_VOLUME: directory };
  delete environment["NODE_TEST_CONTEXT"];
  try {
    const { status, stdout } = spawnSync(process.execPath, [path.join(__dirname, "hung-volume.js")], {
      env: environment,
      encoding: "utf8",
      timeout: 30_000,
      killSignal: "SIGKILL",
    });
    assert.equal(status, 0, stdout);
  } finally {
    spawnSync("umount", ["-l", directory]);
    fs.rmdirSync(directory);
  }
});
