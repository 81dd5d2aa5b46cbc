import * as assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import { command } from "./command";
import { busyboxImage, image, index, layer, push, writeDockerArchive, writeLayout } from "./images";
import { needs, present } from "./needs";
import { peers } from "./peers";
import { credentials, startRegistry } from "./registry";

const skopeo = peers.skopeo();
const umoci = peers.umoci();

function temporary(t: { after(fn: () => void): void }): string {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-test-"));
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }));
  return dir;
}

test(
  "an assembled image passes through a registry, pushed with credentials",
  needs(skopeo, peers.registry()),
  async (t) => {
    const dir = temporary(t);
    writeLayout(path.join(dir, "layout"), [{ name: "busybox", image: busyboxImage() }]);
    for (const auth of [undefined, "basic", "bearer"] as const) {
      await using registry = await startRegistry(auth === undefined ? {} : { auth });
      const to = { host: registry.host, repository: "team/busybox:1" };
      const pair = `${credentials.username}:${credentials.password}`;
      if (auth !== undefined)
        await assert.rejects(
          push(path.join(dir, "layout"), "busybox", to),
          /unauthorized|authentication required/,
        );
      await push(path.join(dir, "layout"), "busybox", auth === undefined ? to : { ...to, credentials: pair });
      const creds = auth === undefined ? [] : ["--creds", pair];
      const inspect = ["--insecure-policy", "inspect", "--tls-verify=false", "--config", ...creds];
      const config = await command(present(skopeo).skopeo, [
        ...inspect,
        `docker://${registry.host}/team/busybox:1`,
      ]);
      assert.deepEqual(JSON.parse(config.stdout).config.Cmd, ["sh"]);
    }
  },
);

test(
  "another tool unpacks layouts with whiteouts, xattrs and long names as they were meant",
  needs(umoci),
  async (t) => {
    const dir = temporary(t);
    const long = `deep/${"x".repeat(150)}`;
    const lower = layer([
      { path: "keep", data: "lower" },
      { path: "gone", data: "lower" },
      { path: "opaque/" },
      { path: "opaque/old", data: "lower" },
      { path: "deep/" },
      {
        path: long,
        data: "long",
        mtime: 1_700_000_000.25,
        xattrs: { "user.binary": Buffer.from([0, 255, 10]) },
      },
    ]);
    const upper = layer([
      { path: ".wh.gone" },
      { path: "opaque/" },
      { path: "opaque/.wh..wh..opq" },
      { path: "opaque/new", data: "upper", mode: 0o4755, uid: 5, gid: 6 },
      { path: "hard", type: "hardlink", link: "opaque/new" },
    ]);
    writeLayout(path.join(dir, "layout"), [{ name: "layers", image: image([lower, upper]) }]);
    const bundle = path.join(dir, "bundle");
    await command(present(umoci).umoci, ["unpack", "--image", `${dir}/layout:layers`, bundle]);
    const root = path.join(bundle, "rootfs");
    assert.deepEqual(fs.readdirSync(root).sort(), ["deep", "hard", "keep", "opaque"]);
    assert.deepEqual(fs.readdirSync(path.join(root, "opaque")), ["new"]);
    const stat = fs.statSync(path.join(root, "hard"));
    assert.deepEqual([stat.mode & 0o7777, stat.uid, stat.gid, stat.nlink], [0o4755, 5, 6, 2]);
    assert.equal(fs.readFileSync(path.join(root, long), "utf8"), "long");
  },
);

test(
  "zstd layers, indexes and docker archives are what other tools take them for",
  needs(skopeo),
  async (t) => {
    const dir = temporary(t);
    const one = image([layer([{ path: "a", data: "a".repeat(300_000) }], "zstd")]);
    const other = image([layer([{ path: "b", data: "b" }])], {}, "riscv64");
    const both = index([
      ["amd64", one],
      ["riscv64", other],
    ]);
    writeLayout(
      path.join(dir, "layout"),
      [{ image: one }, { image: other }],
      [{ name: "both", index: both }],
    );
    writeDockerArchive(path.join(dir, "save.tar"), [{ tags: ["example.com/one:1"], image: one }]);
    const copy = (args: string[]) => command(present(skopeo).skopeo, ["--insecure-policy", "copy", ...args]);
    await copy([
      "--override-arch",
      "amd64",
      `oci:${dir}/layout:both`,
      "--dest-decompress",
      `dir:${dir}/plain`,
    ]);
    const manifest = JSON.parse(fs.readFileSync(path.join(dir, "plain/manifest.json"), "utf8"));
    assert.equal(manifest.layers[0].digest, one.layers[0]!.diffId);
    await copy([`docker-archive:${dir}/save.tar:example.com/one:1`, `dir:${dir}/from-archive`]);
  },
);
