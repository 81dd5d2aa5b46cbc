import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { after, test } from "node:test";
import { ran, started } from "../runtime/fixture";
import { specOf } from "../runtime/specs";

/**
 * Run by hang.test.ts in a process that it can kill, with the directory to mount on: a FUSE file system whose
 * server never answers, as an NFS server that went away.
 */
const directory = process.env["HUNG_VOLUME"]!;
const fuse = fs.openSync("/dev/fuse", "r+");
const options = "fd=3,rootmode=40000,user_id=0,group_id=0";
const mounted = spawnSync("mount", ["-i", "-t", "fuse", "-o", options, "hung", directory], {
  stdio: ["ignore", "inherit", "inherit", fuse],
});
assert.equal(mounted.status, 0);
after(() => spawnSync("umount", ["-l", directory]));

test("others go on while a launch waits for its volume, and it fails when the volume does", async () => {
  const spec = specOf(["/bin/true"]);
  const source = `${directory}/volume`;
  const mount = { source, destination: "/volume", type: "bind", options: ["rbind"] };
  let settled = false;
  const waiting = started({ ...spec, mounts: [...spec.mounts!, mount] }).finally(() => {
    settled = true;
  });
  waiting.catch(() => {});
  const others = Array.from({ length: 4 }, () => ran(specOf(["/bin/echo", "fine"])));
  for (const { stdout } of await Promise.all(others)) assert.equal(stdout, "fine\n");
  // More than libuv has threads.
  await Promise.all(Array.from({ length: 8 }, () => fs.promises.readFile("/proc/self/stat")));
  assert.equal(settled, false);
  fs.closeSync(fuse);
  await assert.rejects(waiting, new RegExp(`${source}.*(not connected|connection)`, "i"));
});
