import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, test } from "node:test";
import { native } from "../../src/native";

/** Settings that every cgroup v2 has, whatever its controllers: the tree's own limits. */
const DEPTH = "cgroup.max.depth";
const DESCENDANTS = "cgroup.max.descendants";

const root = path.join(native().features().cgroupRoot, `isopod-test-write-${process.pid}`);
fs.mkdirSync(root);
after(() => native().cgroupDestroy({ path: root, timeoutMs: 5000 }));

let made = 0;
function cgroup(): string {
  const directory = path.join(root, String(made++));
  fs.mkdirSync(directory);
  return directory;
}

const read = (directory: string, file: string): string =>
  fs.readFileSync(path.join(directory, file), "utf8").trim();

test("writes in order and tells what puts the former values back, newest first", async () => {
  const directory = cgroup();
  const undo = await native().cgroupWrite({
    path: directory,
    writes: [
      { file: DEPTH, value: "3" },
      { file: DESCENDANTS, value: "40" },
      { file: DEPTH, value: "4" },
    ],
  });
  assert.deepEqual([read(directory, DEPTH), read(directory, DESCENDANTS)], ["4", "40"]);
  assert.deepEqual(undo, [
    { file: DEPTH, value: "3" },
    { file: DESCENDANTS, value: "max" },
    { file: DEPTH, value: "max" },
  ]);
  await native().cgroupWrite({ path: directory, writes: undo });
  assert.deepEqual([read(directory, DEPTH), read(directory, DESCENDANTS)], ["max", "max"]);
});

test("all or nothing: after a failure every file is as it was", async () => {
  const directory = cgroup();
  await native().cgroupWrite({ path: directory, writes: [{ file: DEPTH, value: "7" }] });
  const failing = native().cgroupWrite({
    path: directory,
    writes: [
      { file: DEPTH, value: "3" },
      { file: DESCENDANTS, value: "40" },
      { file: DESCENDANTS, value: "lots" },
      { file: DEPTH, value: "5" },
    ],
  });
  const file = path.join(directory, DESCENDANTS);
  await assert.rejects(failing, {
    step: "limit",
    errno: "EINVAL",
    code: "INVALID_ARGUMENT",
    path: file,
    message: `setting limit "lots" at "${file}": invalid argument`,
  });
  assert.deepEqual([read(directory, DEPTH), read(directory, DESCENDANTS)], ["7", "max"]);
});

test("a file that is not there fails, is skipped, or another is written for it", async () => {
  const directory = cgroup();
  const missing = { file: "no.such", value: "1" };
  await assert.rejects(native().cgroupWrite({ path: directory, writes: [missing] }), {
    errno: "ENOENT",
    code: "FAILED_PRECONDITION",
    path: path.join(directory, "no.such"),
  });
  await native().cgroupWrite({ path: directory, writes: [{ ...missing, optional: true }] });
  const undo = await native().cgroupWrite({
    path: directory,
    writes: [{ ...missing, instead: { file: DEPTH, value: "2" } }],
  });
  assert.equal(read(directory, DEPTH), "2");
  assert.deepEqual(undo, [{ file: DEPTH, value: "max" }]);
  await assert.rejects(
    native().cgroupWrite({
      path: directory,
      writes: [{ ...missing, instead: { file: "none.either", value: "2" } }],
    }),
    { path: path.join(directory, "none.either") },
  );
});

test("EINVAL of a write that may have come too early is asked again at the end, once", async () => {
  const directory = cgroup();
  const writes = [
    { file: DEPTH, value: "x", retry: true },
    { file: DESCENDANTS, value: "9" },
  ];
  await assert.rejects(native().cgroupWrite({ path: directory, writes }), {
    errno: "EINVAL",
    path: path.join(directory, DEPTH),
  });
  assert.equal(read(directory, DESCENDANTS), "max", "the others had been written before");
});

test("names of files only, and no cgroup is no place", async () => {
  const directory = cgroup();
  for (const file of ["../cgroup.max.depth", "", "/etc/passwd", "a\0b"])
    assert.throws(() => native().cgroupWrite({ path: directory, writes: [{ file, value: "1" }] }), {
      code: "INVALID_ARGUMENT",
    });
  assert.throws(() => native().cgroupWrite({ path: directory, writes: [{ file: DEPTH } as never] }), {
    code: "INVALID_ARGUMENT",
    message: /value: must be a string/,
  });
  await assert.rejects(native().cgroupWrite({ path: `${directory}/none`, writes: [] }), { errno: "ENOENT" });
});
