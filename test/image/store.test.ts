import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { silentLog } from "../../src/base/log";
import { openImages } from "../../src/image";
import { image as build, layer, writeLayout } from "../support/images";
import { filesOf, importBuilt, inFolder, inStore, mounted, open } from "./fixture";

const one = build([layer([{ path: "f", data: "1" }])]);
const two = build([...one.layers, layer([{ path: "g", data: "2" }])]);
const empty = ["content", "content/sha256", "ingest", "snapshots"];

test("an image is found by id, by unique prefix and by every way to write its name", async () => {
  await inStore(async (images, dir) => {
    const image = await importBuilt(images, dir, one, "busybox");
    const hex = image.id.slice("sha256:".length);
    const names = ["busybox", "busybox:latest", "library/busybox", "docker.io/library/busybox:latest"];
    const ids = [image.id, hex, hex.slice(0, 8), image.id.slice(0, 20)];
    const digests = [`busybox@${one.manifest.digest}`, `busybox:other@${one.manifest.digest}`];
    for (const text of [...names, ...ids, ...digests]) assert.equal(images.find(text), image, text);
    for (const text of [
      "busybox:1",
      "",
      "UPPER",
      "sha256:",
      "example.com/busybox",
      `busybox@sha256:${hex}`,
    ]) {
      assert.equal(images.find(text), undefined, text);
    }
    await importBuilt(images, dir, two);
    assert.equal(images.find("sha256:"), undefined);
  });
});

test("a name comes before an id prefix", async () => {
  await inStore(async (images, dir) => {
    const image = await importBuilt(images, dir, one, "example.com/x");
    const prefix = image.id.slice(7, 12);
    const other = await importBuilt(images, dir, two, prefix);
    assert.equal(images.find(prefix), other);
  });
});

test("removal takes all names and collects what nobody else needs", async () => {
  await inStore(async (images, dir) => {
    await importBuilt(images, dir, one, "a:1");
    await importBuilt(images, dir, one, "example.com/b:2");
    const kept = await importBuilt(images, dir, two, "c:3");
    await Promise.all(
      ["a:1", "example.com/b:2", one.config.digest, "a:1"].map((name) => images.remove(name)),
    );
    assert.deepEqual(images.list(), [kept]);
    // The layer that both have stays, the other's documents go.
    await mounted(images, kept, dir, (root) => {
      assert.deepEqual(fs.readdirSync(root).sort(), ["f", "g"]);
    });
    assert.equal(fs.readdirSync(path.join(dir, "root/content/sha256")).length, 4);
    await images.remove("nothing");
    await images.remove("c:3");
    assert.deepEqual(filesOf(dir), empty);
  });
});

test("an image in use loses its names, its layers stay until the container is gone", async () => {
  await inStore(async (images, dir) => {
    const image = await importBuilt(images, dir, two, "a");
    const snapshot = await images.prepare({ key: "c1", image });
    await images.remove("a");
    assert.equal(images.find(image.id), undefined);
    assert.deepEqual(images.snapshot("c1"), snapshot);
    const lower = snapshot.mounts[0]!.options[0]!.slice("lowerdir=".length).split(":");
    assert.deepEqual(
      lower.map((at) => fs.readdirSync(at)),
      [["g"], ["f"]],
    );
    await assert.rejects(images.prepare({ key: "c2", image: { ...image, chainId: one.layers[0]!.digest } }), {
      code: "NOT_FOUND",
    });
    await importBuilt(images, dir, two, "a");
    assert.equal(filesOf(dir).filter((name) => /^snapshots\/\d+$/.test(name)).length, 3);
    await images.remove("a");
    await images.removeSnapshot("c1");
    assert.deepEqual(filesOf(dir), empty);
  });
});

test("a failed prepare leaves nothing; a key is taken once", async () => {
  await inStore(async (images, dir) => {
    const image = await importBuilt(images, dir, one);
    await images.prepare({ key: "k", image });
    const before = filesOf(dir);
    await assert.rejects(images.prepare({ key: "k", image }), { code: "ALREADY_EXISTS", message: /"k"/ });
    await assert.rejects(images.prepare({ key: "", image }), { code: "INVALID_ARGUMENT" });
    assert.deepEqual(filesOf(dir), before);
  });
});

test("directories without a record are gone when the store opens", async () => {
  await inFolder(async (dir) => {
    const first = await open(dir);
    const image = await importBuilt(first, dir, one, "a");
    const { upper } = await first.prepare({ key: "k", image });
    await first.close();
    const before = filesOf(dir);
    const snapshots = path.join(dir, "root/snapshots");
    fs.mkdirSync(path.join(snapshots, "77/fs/deep"), { recursive: true });
    fs.mkdirSync(path.join(snapshots, "stray"));
    fs.writeFileSync(path.join(dir, "root/ingest/5"), "half a blob");
    fs.writeFileSync(path.join(dir, "root/content/sha256", "0".repeat(64)), "nobody's");
    const second = await open(dir);
    assert.deepEqual(filesOf(dir), before);
    await second.close();
    // A power cut may leave a snapshot's record empty.
    fs.writeFileSync(path.join(path.dirname(upper), "snapshot.json"), "");
    const third = await open(dir);
    assert.deepEqual(third.snapshotKeys(), []);
    assert.equal(fs.existsSync(upper), false);
    await third.close();
  });
});

test("usage counts blobs, layers and what containers have written", async () => {
  await inStore(async (images, dir) => {
    const start = images.usage();
    assert.equal(start.mountpoint, path.join(dir, "root"));
    assert.equal(start.bytes, 0n);
    const image = await importBuilt(
      images,
      dir,
      build([layer([{ path: "f", data: "x".repeat(100_000) }], "none")]),
    );
    const filled = images.usage();
    assert.ok(filled.bytes > 200_000n && filled.bytes < 230_000n, `${filled.bytes}`);
    assert.ok(filled.inodes >= 4n && filled.timestamp > 0n);
    await images.prepare({ key: "k", image });
  });
  await inFolder(async (dir) => {
    const first = await open(dir);
    const image = await importBuilt(first, dir, one);
    const { upper } = await first.prepare({ key: "k", image });
    fs.writeFileSync(path.join(upper, "log"), Buffer.alloc(500_000, 1));
    await first.close();
    const second = await open(dir);
    const deadline = Date.now() + 10_000;
    while (second.snapshotUsage("k") === undefined && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    const measured = second.snapshotUsage("k")!;
    assert.ok(measured.bytes >= 500_000n && measured.bytes < 520_000n, `${measured.bytes}`);
    assert.equal(measured.inodes, 2n);
    assert.ok(second.usage().bytes > measured.bytes);
    await second.close();
  });
});

test("the store's root must be usable", async () => {
  await inFolder(async (dir) => {
    for (const root of ["relative", `${dir}/a:b`, `${dir}/a,b`, `${dir}/a b`]) {
      await assert.rejects(openImages({ root, log: silentLog }), {
        code: "INVALID_ARGUMENT",
        message: /^root: /,
      });
    }
  });
});

test("what is no archive is refused by name", async () => {
  await inStore(async (images, dir) => {
    const text = path.join(dir, "text");
    fs.writeFileSync(text, "hello");
    fs.mkdirSync(path.join(dir, "folder"));
    await assert.rejects(images.import({ path: path.join(dir, "missing") }), { code: "NOT_FOUND" });
    await assert.rejects(images.import({ path: "relative" }), { code: "INVALID_ARGUMENT" });
    await assert.rejects(images.import({ path: text }), { code: "INVALID_ARGUMENT" });
    await assert.rejects(images.import({ path: path.join(dir, "folder") }), {
      message: /neither an OCI layout/,
    });
    fs.writeFileSync(text, Buffer.concat([Buffer.from([0x1f, 0x8b]), Buffer.alloc(600)]));
    await assert.rejects(images.import({ path: text }), {
      code: "UNIMPLEMENTED",
      message: /gzip-compressed/,
    });
    const layout = path.join(dir, "layout");
    writeLayout(layout, [
      { name: "a:1", image: one },
      { name: "b:1", image: two },
    ]);
    await assert.rejects(images.import({ path: layout, name: "x" }), { message: /holds 2 images/ });
    fs.writeFileSync(path.join(layout, "oci-layout"), '{"imageLayoutVersion":"2.0.0"}');
    await assert.rejects(images.import({ path: layout }), {
      message: /oci-layout\.imageLayoutVersion: "2\.0\.0"/,
    });
    assert.deepEqual(filesOf(dir), empty);
  });
});
