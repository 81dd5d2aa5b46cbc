import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { cleanEnv } from "../support/command";
import { busyboxImage, writeDockerArchive } from "../support/images";
import { bundleOf, scratch } from "./fixture";
import { specOf } from "./specs";

/** The examples of docs/ as a user has them: the package's own entry, in a process of their own. */
const packageRoot = path.resolve(__dirname, "../../..");
const execute = promisify(execFile);

async function example(name: string, ...args: string[]): Promise<string> {
  const modules = path.join(scratch, "node_modules");
  if (!fs.existsSync(modules)) {
    fs.mkdirSync(modules);
    fs.symlinkSync(packageRoot, path.join(modules, "isopod"));
  }
  const script = path.join(scratch, name);
  fs.copyFileSync(path.join(packageRoot, "docs/examples", name), script);
  const { stdout, stderr } = await execute(process.execPath, [script, ...args], { env: cleanEnv() });
  assert.equal(stderr, "");
  return stdout;
}

test("docs/examples/run-bundle.js runs a bundle and a program beside it", async () => {
  const { bundle } = bundleOf(specOf(["/bin/sh", "-c", "sleep 100"]));
  const output = await example("run-bundle.js", bundle);
  assert.deepEqual(output.trim().split("\n").sort(), [
    "box",
    "container ended with 137",
    "exec ended with 0",
  ]);
});

test("docs/examples/run-image.js imports an image and runs on top of it", async () => {
  const archive = path.join(scratch, "image.tar");
  writeDockerArchive(archive, [{ tags: ["example.test/busybox:1"], image: busyboxImage() }]);
  assert.equal(await example("run-image.js", archive, path.join(scratch, "store")), "hello from an image\n");
});

test("the package's door is what docs/library.md says, and opening it loads nothing", async () => {
  const script = `
    const door = require(${JSON.stringify(packageRoot)});
    const loaded = Object.keys(require.cache).filter((file) => /\\.node$|lmdb|undici/.test(file));
    console.log(JSON.stringify([Object.keys(door).sort(), loaded]));
  `;
  const { stdout } = await execute(process.execPath, ["-e", script], { env: cleanEnv() });
  assert.deepEqual(JSON.parse(stdout), [
    [
      "Container",
      "IsopodError",
      "MicroVm",
      "Process",
      "check",
      "importImage",
      "network",
      "pullImage",
      "run",
      "snapshotter",
    ],
    [],
  ]);
});
