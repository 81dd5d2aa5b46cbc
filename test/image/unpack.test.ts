import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import type { Image, Images } from "../../src/image";
import { image as build, type Compression, layer, layerOf } from "../support/images";
import { type TarEntry, tar } from "../support/tar";
import { importBuilt, inStore, mounted } from "./fixture";

const dir = (name: string, rest: Partial<TarEntry> = {}): TarEntry => ({ path: `${name}/`, ...rest });
const file = (name: string, data = name, rest: Partial<TarEntry> = {}): TarEntry => ({
  path: name,
  data,
  ...rest,
});
const symlink = (name: string, link: string): TarEntry => ({ path: name, type: "symlink", link });
const hardlink = (name: string, link: string): TarEntry => ({ path: name, type: "hardlink", link });

const importLayers = (images: Images, at: string, ...layers: readonly TarEntry[][]): Promise<Image> =>
  importBuilt(images, at, build(layers.map((entries) => layer(entries, "none"))));

/** Unpacks the layers and looks at them through the overlay mount that a container would get. */
async function unpacked(layers: readonly TarEntry[][], look: (root: string) => unknown): Promise<void> {
  await inStore(async (images, at) => {
    await mounted(images, await importLayers(images, at, ...layers), at, look);
  });
}

const list = (root: string, name = ""): string[] => fs.readdirSync(path.join(root, name)).sort();
const read = (root: string, name: string): string => fs.readFileSync(path.join(root, name), "utf8");

/** `getfattr -m - -d`, by the test's own eyes: Node has no call for attributes. */
function attributes(name: string): string {
  const script =
    "import os,sys\nfor n in sorted(os.listxattr(sys.argv[1],follow_symlinks=False)):\n" +
    " print(n, os.getxattr(sys.argv[1],n,follow_symlinks=False).hex())";
  return execFileSync("python3", ["-c", script, name], { encoding: "utf8" });
}

test("whiteouts hide files and directories of the layers below", async () => {
  const lower = [dir("d"), file("d/a"), file("d/b"), dir("gone"), file("gone/x"), file("top")];
  const upper = [dir("d"), file("d/.wh.a", ""), file(".wh.gone", ""), file(".wh.top", ""), file("new")];
  await unpacked([lower, upper], (root) => {
    assert.deepEqual(list(root), ["d", "new"]);
    assert.deepEqual(list(root, "d"), ["b"]);
  });
});

test("an opaque directory hides what it had below, also the root", async () => {
  const lower = [dir("d"), file("d/old"), dir("d/sub"), file("d/sub/old"), file("other")];
  await unpacked([lower, [dir("d"), file("d/.wh..wh..opq", ""), file("d/new")]], (root) => {
    assert.deepEqual(list(root, "d"), ["new"]);
    assert.deepEqual(list(root), ["d", "other"]);
  });
  await unpacked([lower, [file(".wh..wh..opq", ""), file("only")], [file("more")]], (root) => {
    assert.deepEqual(list(root), ["more", "only"]);
  });
});

test("a whiteout never hides what its own layer brings, whichever comes first", async () => {
  const lower = [dir("d"), file("d/old"), file("f", "old")];
  const first = [file(".wh.d", ""), file(".wh.f", ""), dir("d"), file("d/new"), file("f", "new")];
  const last = [dir("d"), file("d/new"), file("f", "new"), file(".wh.d", ""), file(".wh.f", "")];
  const implied = [file(".wh.d", ""), file("d/new"), file("f", "new")];
  for (const upper of [first, last, implied]) {
    await unpacked([lower, upper], (root) => {
      assert.deepEqual(list(root, "d"), ["new"]);
      assert.equal(read(root, "f"), "new");
    });
  }
});

test("a directory that a layer does not declare is as the layers below have it", async () => {
  const lower = [
    dir(".", { mode: 0o750, uid: 7, gid: 8, mtime: 1_000_000_000 }),
    dir("a", { mode: 0o1770, uid: 1000, gid: 2000, mtime: 1_234_567_890.5, xattrs: { "user.note": "kept" } }),
    dir("a/b", { mode: 0o700, uid: 5, gid: 6 }),
  ];
  await unpacked([lower, [file("x")], [file("a/b/c/f"), file("fresh/f")]], (root) => {
    const of = (name: string) => {
      const { mode, uid, gid, mtimeMs } = fs.statSync(path.join(root, name));
      return [(mode & 0o7777).toString(8), uid, gid, mtimeMs];
    };
    assert.deepEqual(of(""), ["750", 7, 8, 1_000_000_000_000]);
    assert.deepEqual(of("a"), ["1770", 1000, 2000, 1_234_567_890_500]);
    assert.deepEqual(of("a/b").slice(0, 3), ["700", 5, 6]);
    assert.deepEqual(of("a/b/c").slice(0, 3), ["755", 0, 0]);
    assert.deepEqual(of("fresh").slice(0, 3), ["755", 0, 0]);
    assert.match(attributes(path.join(root, "a")), /^user\.note 6b657074$/m);
  });
});

test("modes with setuid, owners, times in nanoseconds and attributes are kept", async () => {
  // VFS_CAP_REVISION_3 with a root id: bytes that are no UTF-8.
  const capability = Buffer.from(`01000003${"00200000".repeat(4)}80ffe901`, "hex");
  await unpacked(
    [
      [
        dir("bin", { mtime: 1_111_111_111 }),
        file("bin/su", "x", { mode: 0o4755, uid: 0, gid: 42, pax: { mtime: "1600000000.123456789" } }),
        file("bin/ping", "x", { mode: 0o755, xattrs: { "security.capability": capability } }),
        file("bin/big", "y".repeat(3_000_000), { mode: 0o6711, gid: 65534, pax: { uid: "4294967294" } }),
        file("empty", ""),
        symlink("bin/link", "su"),
      ],
    ],
    (root) => {
      const su = fs.statSync(path.join(root, "bin/su"), { bigint: true });
      assert.equal(su.mode & 0o7777n, 0o4755n);
      assert.deepEqual([su.uid, su.gid], [0n, 42n]);
      assert.equal(su.mtimeNs, 1_600_000_000_123_456_789n);
      const big = fs.statSync(path.join(root, "bin/big"));
      assert.deepEqual([big.mode & 0o7777, big.uid, big.size], [0o6711, 4294967294, 3_000_000]);
      assert.ok(fs.readFileSync(path.join(root, "bin/big")).every((byte) => byte === 0x79));
      assert.equal(fs.statSync(path.join(root, "bin")).mtimeMs, 1_111_111_111_000);
      assert.equal(fs.lstatSync(path.join(root, "bin/link")).mtimeMs, 1_700_000_000_000);
      assert.equal(fs.statSync(path.join(root, "empty")).size, 0);
      const value = attributes(path.join(root, "bin/ping"));
      assert.equal(value.trim(), `security.capability ${capability.toString("hex")}`);
    },
  );
});

test("hard links share an inode, also with a file of a lower layer", async () => {
  const lower = [
    dir("usr", { mode: 0o711 }),
    file("usr/tool", "tool", {
      mode: 0o4711,
      uid: 3,
      gid: 4,
      mtime: 1_500_000_000,
      xattrs: { "user.a": "b" },
    }),
    symlink("usr/way", "tool"),
    symlink("lib", "usr"),
  ];
  const upper = [
    file("one"),
    hardlink("two", "one"),
    dir("in"),
    hardlink("in/tool", "usr/tool"),
    hardlink("in/again", "lib/tool"),
    hardlink("in/way", "usr/way"),
  ];
  await unpacked([lower, upper], (root) => {
    const inode = (name: string) => fs.lstatSync(path.join(root, name)).ino;
    assert.equal(inode("one"), inode("two"));
    assert.equal(inode("in/tool"), inode("usr/tool"));
    assert.equal(inode("in/again"), inode("usr/tool"));
    assert.equal(fs.readlinkSync(path.join(root, "in/way")), "tool");
    assert.equal(read(root, "in/tool"), "tool");
    const { mode, uid, gid, mtimeMs, nlink } = fs.statSync(path.join(root, "usr/tool"));
    assert.deepEqual([mode & 0o7777, uid, gid, mtimeMs, nlink], [0o4711, 3, 4, 1_500_000_000_000, 3]);
    assert.match(attributes(path.join(root, "usr/tool")), /^user\.a 62$/m);
    assert.equal(fs.statSync(path.join(root, "usr")).mode & 0o7777, 0o711);
  });
});

test("devices, FIFOs, long names and names that are no UTF-8", async () => {
  const long = `${"d".repeat(200)}/${"f".repeat(250)}`;
  const bytes = Buffer.from("caf\xe9-\xff", "latin1");
  await unpacked(
    [
      [
        { path: "null", type: "char", major: 1, minor: 3, mode: 0o666 },
        { path: "disk", type: "block", major: 259, minor: 70000, mode: 0o660, gid: 6 },
        { path: "pipe", type: "fifo", mode: 0o620 },
        file(long, "long"),
        symlink("away", `/${"t".repeat(300)}`),
        file("ascii", "bytes", { pax: { path: bytes } }),
      ],
    ],
    (root) => {
      const nul = fs.statSync(path.join(root, "null"));
      assert.ok(nul.isCharacterDevice());
      assert.equal(nul.rdev, (1 << 8) | 3);
      const disk = fs.statSync(path.join(root, "disk"));
      assert.ok(disk.isBlockDevice());
      assert.deepEqual([disk.mode & 0o7777, disk.gid], [0o660, 6]);
      assert.ok(fs.statSync(path.join(root, "pipe")).isFIFO());
      assert.equal(read(root, long), "long");
      assert.equal(fs.readlinkSync(path.join(root, "away")).length, 301);
      assert.equal(fs.readFileSync(Buffer.concat([Buffer.from(`${root}/`), bytes]), "utf8"), "bytes");
    },
  );
});

test("a path through a symlink ends inside the root, wherever the link comes from", async () => {
  const lower = [
    dir("usr"),
    dir("usr/lib", { mode: 0o711 }),
    symlink("lib", "usr/lib"),
    symlink("run", "/var/run"),
  ];
  const upper = [
    file("lib/from-lower"),
    file("run/absolute"),
    dir("x"),
    symlink("x/y", "../usr/../z"),
    file("x/y/own-layer"),
    symlink("abs", "/usr"),
    file("abs/via-own-absolute"),
  ];
  await unpacked([lower, upper], (root) => {
    assert.equal(read(root, "usr/lib/from-lower"), "lib/from-lower");
    assert.equal(fs.readlinkSync(path.join(root, "lib")), "usr/lib");
    assert.equal(read(root, "var/run/absolute"), "run/absolute");
    assert.equal(fs.readlinkSync(path.join(root, "run")), "/var/run");
    assert.equal(read(root, "z/own-layer"), "x/y/own-layer");
    assert.equal(read(root, "usr/via-own-absolute"), "abs/via-own-absolute");
    assert.equal(fs.statSync(path.join(root, "usr/lib")).mode & 0o7777, 0o711);
  });
});

test("of two entries of one name the later one holds", async () => {
  const entries = [
    file("f", "1"),
    file("f", "2"),
    symlink("s", "f"),
    file("s", "now a file"),
    file("d"),
    dir("d", { mode: 0o700 }),
    dir("d", { mode: 0o711 }),
    file("d/in"),
    hardlink("h", "f"),
    file("f", "3"),
  ];
  await unpacked([entries], (root) => {
    assert.equal(read(root, "f"), "3");
    assert.equal(read(root, "h"), "2");
    assert.equal(read(root, "s"), "now a file");
    assert.equal(fs.statSync(path.join(root, "d")).mode & 0o7777, 0o711);
    assert.deepEqual(list(root, "d"), ["in"]);
  });
});

test("what GNU tar and the compressors write unpacks to the same tree", async () => {
  await inStore(async (images, at) => {
    const source = path.join(at, "source");
    fs.mkdirSync(path.join(source, "deep", "er".repeat(80), "x".repeat(120)), { recursive: true });
    fs.writeFileSync(path.join(source, "deep", "er".repeat(80), "x".repeat(120), "f"), "deep");
    // Machine code: what compressors have real work with.
    fs.writeFileSync(path.join(source, "program"), fs.readFileSync(process.execPath).subarray(0, 4_000_000));
    fs.writeFileSync(path.join(source, "sparse-like"), Buffer.alloc(2_500_000));
    fs.linkSync(path.join(source, "sparse-like"), path.join(source, "linked"));
    fs.symlinkSync("y".repeat(180), path.join(source, "long-link"));
    for (const format of ["gnu", "pax", "ustar"]) {
      if (format === "ustar") fs.rmSync(path.join(source, "deep"), { recursive: true });
      if (format === "ustar") fs.rmSync(path.join(source, "long-link"));
      const archive = execFileSync("tar", ["-C", source, `--format=${format}`, "-cf", "-", "."], {
        maxBuffer: 1 << 26,
      });
      for (const tool of [["gzip"], ["gzip", "-9"], ["zstd"], ["zstd", "-19"]]) {
        const data = execFileSync(tool[0]!, [...tool.slice(1), "-c"], { input: archive, maxBuffer: 1 << 26 });
        const plain = layerOf(archive, "none");
        const suffix = tool[0] === "zstd" ? "+zstd" : "+gzip";
        const packed = {
          ...layerOf(data, "none"),
          mediaType: `${plain.mediaType}${suffix}`,
          diffId: plain.diffId,
        };
        const image = await importBuilt(images, at, build([packed]));
        await mounted(images, image, at, (root) => {
          execFileSync("diff", ["-r", "--no-dereference", source, root], { stdio: "pipe" });
        });
        await images.remove(image.id);
      }
    }
  });
});

test("an image of many layers mounts and reads through all of them", async () => {
  const layers = Array.from({ length: 60 }, (_, i) => [
    dir("shared", { mode: 0o700 + (i % 8) }),
    file(`shared/${i}`),
    ...(i > 0 ? [file(`shared/.wh.${i - 1}`, "")] : []),
  ]);
  await unpacked(layers, (root) => {
    assert.deepEqual(list(root, "shared"), ["59"]);
  });
});

test("an image without layers is an empty writable directory", async () => {
  await inStore(async (images, at) => {
    const image = await importBuilt(images, at, build([]));
    await mounted(images, image, at, (root) => {
      assert.deepEqual(list(root), []);
      fs.writeFileSync(path.join(root, "f"), "");
    });
  });
});

test("concatenated gzip members and zstd frames are one stream", async () => {
  const { gzipSync } = await import("node:zlib");
  const archive = tar([file("a", "a".repeat(5000)), file("b")]);
  await inStore(async (images, at) => {
    for (const compression of ["gzip", "zstd"] as Compression[]) {
      const parts = [archive.subarray(0, 700), archive.subarray(700)];
      const data = Buffer.concat(
        parts.map((part) => (compression === "gzip" ? gzipSync(part) : layerOf(part, "zstd").data)),
      );
      const packed = { ...layerOf(data, "none"), mediaType: layerOf(archive, compression).mediaType };
      const image = await importBuilt(
        images,
        at,
        build([{ ...packed, diffId: layerOf(archive, "none").diffId }]),
      );
      await mounted(images, image, at, (root) => {
        assert.equal(read(root, "a").length, 5000);
      });
      await images.remove(image.id);
    }
  });
});
