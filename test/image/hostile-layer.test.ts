import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import type { Images } from "../../src/image";
import { image as build, digestOf, type Layer, layer, layerOf } from "../support/images";
import { type TarEntry, tar } from "../support/tar";
import { filesOf, importBuilt, inStore } from "./fixture";

/** Nothing of a refused image stays, and nothing appeared outside its layer. */
async function refused(layers: readonly Layer[], message: RegExp, code = "INVALID_ARGUMENT"): Promise<void> {
  await refusedIn(shared.images, shared.dir, layers, message, code);
}

/** Most tests leave it as it was. */
let shared: { images: Images; dir: string };
let finish = () => {};
let shut: Promise<void>;
before(async () => {
  await new Promise<void>((ready, fail) => {
    shut = inStore(async (images, dir) => {
      shared = { images, dir };
      ready();
      await new Promise<void>((resolve) => {
        finish = resolve;
      });
    });
    shut.catch(fail);
  });
});
after(async () => {
  finish();
  await shut;
});

async function refusedIn(
  images: Images,
  dir: string,
  layers: readonly Layer[],
  message: RegExp,
  code = "INVALID_ARGUMENT",
): Promise<void> {
  const before = filesOf(dir);
  const outside = fs.readdirSync("/");
  const built = build(layers);
  await assert.rejects(importBuilt(images, dir, built), (error: Error & { code?: string }) => {
    assert.equal(error.code, code, error.message);
    // The layer is named, and so is the entry.
    assert.match(error.message, /^layer sha256:[0-9a-f]{64}: /);
    assert.match(error.message, message);
    return true;
  });
  assert.equal(images.find(built.config.digest), undefined);
  assert.deepEqual(filesOf(dir), before);
  assert.deepEqual(fs.readdirSync("/"), outside);
}

const entries = (...given: TarEntry[]): Layer[] => [layer(given, "none")];

test("CVE-2014-9356: names that are absolute or contain .. are refused", async () => {
  for (const name of ["../escape", "a/../../escape", "/escape", "//escape", "a/..", ".."]) {
    await refused(
      entries({ path: "a/" }, { path: name, data: "x" }),
      new RegExp(name.replaceAll(".", "\\.")),
    );
  }
  await refused(entries({ path: "a/" }, { path: "a/../.wh.x", data: "" }), /a\/\.\.\/\.wh\.x/);
  await refused(entries({ path: "../up/" }), /\.\.\/up/);
  await refused(entries({ path: "../link", type: "symlink", link: "x" }), /\.\.\/link/);
});

test("CVE-2014-6407: hard links to absolute, climbing or missing targets are refused", async () => {
  for (const link of ["/etc/passwd", "../../etc/passwd", "a/../../../etc/passwd", "nothing", ""]) {
    await refused(
      entries({ path: "a/" }, { path: "stolen", type: "hardlink", link }),
      /"stolen": the hard link's target/,
    );
  }
  await refused(
    entries({ path: "a/" }, { path: "b", type: "hardlink", link: "a" }),
    /"b": the hard link's target is a directory/,
  );
});

test("CVE-2014-6407: links never lead a write or a hard link out of the layer", async () => {
  await inStore(async (images, dir) => {
    const victim = path.join(dir, "victim");
    fs.mkdirSync(victim);
    fs.writeFileSync(path.join(victim, "secret"), "untouched", { mode: 0o600 });
    const up = "../".repeat(30);
    const relative = path.relative("/", victim);
    // Climbing links are refused where they are used …
    const climbing: TarEntry[] = [{ path: "way", type: "symlink", link: up + relative }];
    const layers = entries(...climbing, { path: "way/new", data: "x" });
    await refusedIn(images, dir, layers, /"way\/new".*leaves the root|"way".*leaves the root/);
    const stolen = entries(...climbing, { path: "stolen", type: "hardlink", link: "way/secret" });
    await refusedIn(images, dir, stolen, /leaves the root/);
    // … absolute ones mean the image's own root, from this layer and from one below.
    const absolute: TarEntry = { path: "way", type: "symlink", link: victim };
    const write: TarEntry = { path: "way/new", data: "x" };
    for (const built of [build(entries(absolute, write)), build([...entries(absolute), ...entries(write)])]) {
      await importBuilt(images, dir, built);
      assert.deepEqual(fs.readdirSync(victim), ["secret"]);
    }
    const link = entries(absolute, { path: "stolen", type: "hardlink", link: "way/secret" });
    await refusedIn(images, dir, link, /"stolen": the hard link's target does not exist/);
    assert.equal(fs.readFileSync(path.join(victim, "secret"), "utf8"), "untouched");
    assert.equal(fs.statSync(path.join(victim, "secret")).nlink, 1);
  });
});

test("CVE-2014-6407: a directory swapped for a link in the middle of a layer is refused", async () => {
  const swap = entries(
    { path: "d/" },
    { path: "d/f", data: "1" },
    { path: "d", type: "symlink", link: "/etc" },
    { path: "d/passwd", data: "owned" },
  );
  await refused(swap, /"d": would replace a directory of the same layer/);
  await refused(entries({ path: "d/" }, { path: "d", data: "x" }), /"d": would replace a directory/);
  const link = entries({ path: "d/" }, { path: "f", data: "" }, { path: "d", type: "hardlink", link: "f" });
  await refused(link, /"d": would replace a directory/);
});

test("a file is never written through a link of the same name", async () => {
  await inStore(async (images, dir) => {
    const victim = path.join(dir, "victim");
    fs.writeFileSync(victim, "untouched");
    const given: TarEntry[] = [
      { path: "f", type: "symlink", link: victim },
      { path: "f", data: "written" },
      { path: "p", type: "symlink", link: victim },
      { path: "p", type: "fifo" },
    ];
    await importBuilt(images, dir, build(entries(...given)));
    assert.equal(fs.readFileSync(victim, "utf8"), "untouched");
  });
});

test("links that go round in circles are refused", async () => {
  const circle = entries(
    { path: "a", type: "symlink", link: "b" },
    { path: "b", type: "symlink", link: "a" },
    { path: "a/f", data: "x" },
  );
  await refused(circle, /"a" at "a\/f": too many symlinks/);
});

test("a file as a parent is refused", async () => {
  await refused(entries({ path: "f", data: "x" }, { path: "f/g", data: "x" }), /a parent is not a directory/);
});

test("the host's own attributes and devices cannot be set by a layer", async () => {
  for (const name of ["trusted.overlay.opaque", "trusted.overlay.redirect", "trusted.x"]) {
    const xattrs = { [name]: "y" };
    const message = new RegExp(`"(d/?|f|s)": extended attribute "${name.replaceAll(".", "\\.")}" is refused`);
    await refused(entries({ path: "d/", xattrs }), message);
    await refused(entries({ path: "f", data: "", xattrs }), message);
    await refused(entries({ path: "s", type: "symlink", link: "x", xattrs }), message);
  }
  await refused(
    entries({ path: "w", type: "char", major: 0, minor: 0 }),
    /"w": .*0:0 is an overlay whiteout/,
  );
});

test("whiteouts of nothing, of dots and of other types are refused", async () => {
  await refused(entries({ path: ".wh.", data: "" }), /"\.wh\.": a whiteout of no name/);
  await refused(entries({ path: ".wh...", data: "" }), /whiteout of no name/);
  await refused(
    entries({ path: ".wh.x", type: "symlink", link: "y" }),
    /"\.wh\.x": a whiteout must be a file/,
  );
});

test("archives that are no archives are refused by what is wrong with them", async () => {
  const good = tar([{ path: "f", data: "x".repeat(1000) }]);
  const broken = (change: (archive: Buffer) => Buffer | undefined) => {
    const copy = Buffer.from(good);
    return [layerOf(change(copy) ?? copy, "none")];
  };
  await refused(
    broken((a) => void a.writeUInt8(a[0]! ^ 1, 0)),
    /tar archive: a header's checksum is wrong/,
  );
  await refused(
    broken((a) => a.subarray(0, 700)),
    /tar archive: is truncated/,
  );
  await refused(entries({ path: "f", data: "x", claimedSize: 100_000_000 }), /tar archive: is truncated/);
  await refused(
    entries({ path: "f", data: "", pax: { "GNU.sparse.major": "1" } }),
    /sparse/,
    "UNIMPLEMENTED",
  );
  await refused(entries({ path: "f", data: "", pax: { size: "many" } }), /pax size "many" is not a number/);
  await refused(
    entries({ path: "f", data: "", pax: { uid: "4294967295" } }),
    /uid 4294967295 is out of range/,
  );
  const record = layerOf(
    tar([{ path: "f", data: "", pax: { a: "b" } }]).map((byte, at) => (at === 512 ? 0x39 : byte)) as Buffer,
    "none",
  );
  await refused([record], /a pax record is malformed/);
  const unknown = tar([{ path: "f", data: "" }]);
  unknown.write("S", 156);
  unknown.write("        ", 148);
  const sum = unknown.subarray(0, 512).reduce((a, b) => a + b, 0);
  unknown.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  await refused([layerOf(unknown, "none")], /entry "f": type: "S"/, "UNIMPLEMENTED");
});

test("compressed streams that are cut or damaged are refused", async () => {
  const archive = tar([{ path: "f", data: Buffer.alloc(100_000, "abc") }]);
  for (const compression of ["gzip", "zstd"] as const) {
    const whole = layerOf(archive, compression);
    const cut = layerOf(whole.data.subarray(0, whole.data.length - 10), "none");
    const { diffId, mediaType } = whole;
    await refused([{ ...cut, diffId, mediaType }], new RegExp(`${compression} stream`));
    const damaged = Buffer.from(whole.data);
    damaged.fill(0xff, 20, 60);
    await refused(
      [{ ...layerOf(damaged, "none"), diffId, mediaType }],
      /stream|diff_id|tar archive/,
      undefined,
    );
  }
});

test("sizes, digests and diff_ids that are not what was promised are refused", async () => {
  const honest = layer([{ path: "f", data: "x" }]);
  const other = digestOf(Buffer.from("other"));
  await refused(
    [{ ...honest, diffId: other }],
    /its diff_id is sha256:\w+, the config says sha256:/,
    "DATA_LOSS",
  );
  await refused([{ ...honest, size: honest.size - 1 }], /is longer than the \d+ bytes/, "DATA_LOSS");
  await refused([{ ...honest, size: honest.size + 1 }], /has \d+ bytes, its descriptor says/, "DATA_LOSS");
  // The file that the layout has under this name holds something else.
  await refused([{ ...honest, digest: other }], /its content has the digest sha256:/, "DATA_LOSS");
});

test("bombs are refused: entries, bytes and ratio", async () => {
  const many = Array.from({ length: 101 }, (_, i) => ({ path: `f${i}`, data: "" }));
  const limits = { entries: 100, bytes: 5_000_000, ratio: 50, ratioFrom: 100_000 };
  await inStore(
    async (images, dir) => {
      await refusedIn(images, dir, entries(...many), /has more than 100 entries/, "RESOURCE_EXHAUSTED");
      const zeros = [{ path: "zeros", data: Buffer.alloc(4_000_000) }];
      await refusedIn(images, dir, [layer(zeros)], /more than 50 times as much/, "RESOURCE_EXHAUSTED");
      const random = Buffer.from(Array.from({ length: 5_100_000 }, (_, i) => (i * 2_654_435_761) >>> 24));
      const large = [layer([{ path: "large", data: random }], "none")];
      await refusedIn(images, dir, large, /unpacks to more than 5000000 bytes/, "RESOURCE_EXHAUSTED");
    },
    { limits },
  );
});
