import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import {
  image as build,
  busyboxImage,
  index,
  layer,
  writeDockerArchive,
  writeLayout,
  writeLayoutTar,
} from "../support/images";
import { importBuilt, inFolder, inStore, mounted, open } from "./fixture";

const small = (text: string) => build([layer([{ path: "file", data: text }])]);

test("an OCI layout becomes an image whose snapshot mounts", async () => {
  await inStore(async (images, dir) => {
    const built = busyboxImage({ User: "user" }, [{ path: "etc/motd", data: "hello" }]);
    const image = await importBuilt(images, dir, built, "example.com/busybox:1");
    assert.equal(image.id, built.config.digest);
    assert.deepEqual(image.repoTags, ["example.com/busybox:1"]);
    assert.deepEqual(image.repoDigests, [`example.com/busybox@${built.manifest.digest}`]);
    const sizes = [built.config.size, ...built.layers.map((one) => one.size)];
    assert.equal(
      image.size,
      sizes.reduce((a, b) => a + b),
    );
    assert.equal(image.config.config?.User, "user");
    assert.match(image.passwd, /^user:x:1000:/m);
    assert.match(image.group, /^extra:x:50000:user$/m);
    await mounted(images, image, dir, (root) => {
      assert.equal(fs.readFileSync(path.join(root, "etc/motd"), "utf8"), "hello");
      assert.equal(fs.readlinkSync(path.join(root, "bin/ls")), "busybox");
      assert.equal(fs.statSync(path.join(root, "tmp")).mode & 0o7777, 0o1777);
      fs.writeFileSync(path.join(root, "etc/motd"), "changed");
    });
    await mounted(images, image, dir, (root) => {
      assert.equal(fs.readFileSync(path.join(root, "etc/motd"), "utf8"), "hello");
    });
  });
});

test("images, snapshots and their files are there after the store is opened again", async () => {
  await inFolder(async (dir) => {
    const first = await open(dir);
    const image = await importBuilt(first, dir, busyboxImage(), "busybox");
    const snapshot = await first.prepare({ key: "c1", image });
    fs.writeFileSync(path.join(snapshot.upper, "written"), "x");
    await first.close();
    const second = await open(dir);
    try {
      assert.deepEqual(second.find("busybox"), image);
      assert.deepEqual(second.snapshotKeys(), ["c1"]);
      assert.deepEqual(second.snapshot("c1"), snapshot);
      assert.equal(fs.readFileSync(path.join(snapshot.upper, "written"), "utf8"), "x");
      await second.removeSnapshot("c1");
      await second.removeSnapshot("c1");
      assert.equal(second.snapshot("c1"), undefined);
      assert.equal(fs.existsSync(snapshot.upper), false);
    } finally {
      await second.close();
    }
  });
});

test("a layout in a tar and a docker archive give the same image as the layout directory", async () => {
  await inStore(async (images, dir) => {
    const built = build([
      layer([{ path: "a", data: "1" }]),
      layer([{ path: "b", data: "2" }], "zstd"),
      layer([{ path: "c", data: "3" }], "none"),
    ]);
    const layout = path.join(dir, "layout");
    writeLayout(layout, [{ name: "example.com/a:1", image: built }]);
    writeLayoutTar(path.join(dir, "oci.tar"), layout);
    writeDockerArchive(path.join(dir, "docker.tar"), [{ tags: ["a:2", "example.com/a:3"], image: built }]);
    const found = [];
    for (const file of ["layout", "oci.tar", "docker.tar"]) {
      found.push(...(await images.import({ path: path.join(dir, file) })));
    }
    assert.deepEqual(
      found.map((one) => one.id),
      [built.config.digest, built.config.digest, built.config.digest],
    );
    const image = images.find("example.com/a:1")!;
    assert.deepEqual(image.repoTags, ["example.com/a:1", "docker.io/library/a:2", "example.com/a:3"]);
    assert.equal(images.list().length, 1);
    await mounted(images, image, dir, (root) => {
      assert.deepEqual(fs.readdirSync(root).sort(), ["a", "b", "c"]);
    });
  });
});

test("a docker archive alone brings compressed and plain layers", async () => {
  await inStore(async (images, dir) => {
    const built = build([layer([{ path: "a", data: "1" }]), layer([{ path: "b", data: "2" }], "none")]);
    const other = small("other");
    const file = path.join(dir, "docker.tar");
    writeDockerArchive(file, [
      { tags: ["one:1"], image: built },
      { tags: ["two:1"], image: other },
    ]);
    const found = await images.import({ path: file });
    assert.deepEqual(
      found.map((one) => one.repoTags),
      [["docker.io/library/one:1"], ["docker.io/library/two:1"]],
    );
    await mounted(images, found[0]!, dir, (root) => {
      assert.equal(fs.readFileSync(path.join(root, "b"), "utf8"), "2");
    });
  });
});

test("an index gives the image of this platform, and not found where there is none", async () => {
  const arm = build([layer([{ path: "arm", data: "" }])], {}, "arm64");
  const amd = build([layer([{ path: "amd", data: "" }])], {}, "amd64");
  const both = index([
    ["arm64", arm],
    ["amd64", amd],
  ]);
  for (const [architecture, expected] of [
    ["amd64", amd],
    ["arm64", arm],
    ["riscv64", undefined],
  ] as const) {
    await inStore(
      async (images, dir) => {
        const layout = path.join(dir, "layout");
        writeLayout(layout, [], [{ name: "example.com/x:1", index: both }]);
        for (const built of [arm, amd]) {
          for (const blob of [...built.layers, built.config, built.manifest]) {
            fs.writeFileSync(path.join(layout, "blobs", blob.digest.replace(":", "/")), blob.data);
          }
        }
        const imported = images.import({ path: layout });
        if (expected === undefined) {
          await assert.rejects(imported, { code: "NOT_FOUND", message: /linux\/riscv64 .*not found/ });
          assert.deepEqual(images.list(), []);
          return;
        }
        const [image] = await imported;
        assert.equal(image!.id, expected.config.digest);
        assert.deepEqual(image!.repoDigests, [`example.com/x@${both.digest}`]);
      },
      { platform: { os: "linux", architecture } },
    );
  }
});
