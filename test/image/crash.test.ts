import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import * as crypto from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { native } from "../../src/native";
import { image as build, layer } from "../support/images";
import { fakeRegistry } from "./fake-registry";
import { filesOf, importBuilt, inFolder, mounted, open } from "./fixture";

function puller(dir: string, reference: string): ChildProcess & { said: (word: string) => Promise<void> } {
  const child = spawn(
    process.execPath,
    [path.join(__dirname, "pull-child.js"), path.join(dir, "root"), reference],
    { stdio: ["ignore", "pipe", "inherit"], env: { PATH: process.env["PATH"] } },
  );
  let text = "";
  let seen = () => {};
  child.stdout.on("data", (chunk) => {
    text += chunk;
    seen();
  });
  const said = (word: string) =>
    new Promise<void>((resolve, reject) => {
      seen = () => text.includes(word) && resolve();
      child.on("exit", () => reject(new Error(`ended before it said ${word}`)));
      seen();
    });
  return Object.assign(child, { said });
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  await ended;
}

const noise = crypto.randomBytes(2_000_000);
const parts = [0, 1, 2, 3].map((i) => noise.subarray(i * 500_000, (i + 1) * 500_000));
const built = build(parts.map((data, i) => layer([{ path: `part${i}`, data }], "none")));

test("a puller killed at any moment leaves no image or a whole one", async () => {
  await inFolder(async (dir) => {
    const blobs = [built.config, ...built.layers];
    for (const at of [0, 1, 2, 3, 4, 5]) {
      let asked = 0;
      let reached = () => {};
      const moment = new Promise<void>((resolve) => {
        reached = resolve;
      });
      // At the at-th blob half of it is sent, then nothing: the moment of death.
      await using registry = await fakeRegistry(built, (request, response) => {
        const blob = blobs.find((one) => request.url!.includes(`/blobs/${one.digest}`));
        if (blob === undefined || asked++ !== at) return false;
        response.writeHead(200, { "content-length": blob.size });
        response.write(blob.data.subarray(0, blob.size / 2));
        setTimeout(reached, 20);
        return true;
      });
      const child = puller(dir, registry.reference);
      try {
        await Promise.race([moment, child.said("pulled")]);
      } finally {
        await kill(child);
      }
      const images = await open(dir);
      try {
        if (asked <= at) {
          const image = images.find(registry.reference)!;
          await mounted(images, image, dir, (root) => {
            parts.forEach((data, i) => {
              assert.ok(fs.readFileSync(path.join(root, `part${i}`)).equals(data));
            });
          });
          await images.remove(image.id);
        }
        assert.deepEqual(images.list(), []);
        assert.deepEqual(filesOf(dir), ["content", "content/sha256", "ingest", "snapshots"]);
      } finally {
        await images.close();
      }
    }
  });
});

test("a pull whose process dies after its answer is whole", async () => {
  await inFolder(async (dir) => {
    await using registry = await fakeRegistry(built);
    const child = puller(dir, registry.reference);
    try {
      await child.said("pulled");
    } finally {
      await kill(child);
    }
    const images = await open(dir);
    try {
      assert.equal(images.find(registry.reference)?.id, built.config.digest);
    } finally {
      await images.close();
    }
  });
});

test("a second process is kept out of the store", async () => {
  await inFolder(async (dir) => {
    await using registry = await fakeRegistry(built);
    const child = puller(dir, registry.reference);
    try {
      await child.said("open");
      await assert.rejects(open(dir), {
        code: "FAILED_PRECONDITION",
        message: /root: in use by another process/,
      });
    } finally {
      await kill(child);
    }
    await (await open(dir)).close();
  });
});

test("a full disk fails the pull, frees its room and harms no other image", async () => {
  await inFolder(async (dir) => {
    const root = path.join(dir, "root");
    fs.mkdirSync(root);
    const mount = { type: "tmpfs", source: "tmpfs", target: root, options: ["size=16m", "mode=0711"] };
    await native().mount(mount);
    try {
      const images = await open(dir);
      try {
        const fits = await importBuilt(images, dir, build([layer([{ path: "f", data: "kept" }])]), "fits");
        const used = () => Number(execFileSync("stat", ["-fc", "%f", root], { encoding: "utf8" }));
        const before = used();
        const data = crypto.randomBytes(12_000_000);
        await using registry = await fakeRegistry(build([layer([{ path: "big", data }], "none")]));
        await assert.rejects(images.pull({ reference: registry.reference }), {
          code: "RESOURCE_EXHAUSTED",
          errno: "ENOSPC",
          message: /^pull image ".*": layer sha256:\w+: .*[Nn]o space left on device/,
        });
        assert.deepEqual(images.list(), [fits]);
        // Give or take the database's own pages.
        assert.ok(Math.abs(used() - before) < 64, `${before} blocks were free, now ${used()}`);
        await mounted(images, fits, dir, (seen) => {
          assert.equal(fs.readFileSync(path.join(seen, "f"), "utf8"), "kept");
        });
        await importBuilt(images, dir, build([layer([{ path: "g", data: "more" }])]), "more");
      } finally {
        await images.close();
      }
    } finally {
      await native().unmount({ path: root });
    }
  });
});
