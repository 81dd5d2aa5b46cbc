import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import {
  type BuiltImage,
  image as build,
  busyboxImage,
  index,
  layer,
  push,
  writeLayout,
} from "../support/images";
import { needs } from "../support/needs";
import { peers } from "../support/peers";
import { credentials, type Registry, startRegistry } from "../support/registry";
import { inStore, mounted } from "./fixture";

const registry = peers.registry();
const skopeo = peers.skopeo();
const both = needs(registry, skopeo);

interface To {
  readonly to: Registry;
  readonly repository: string;
  readonly dir: string;
  readonly format?: "oci" | "v2s2";
  readonly credentials?: string;
}

async function pushed(built: BuiltImage, { to, repository, dir, ...rest }: To): Promise<string> {
  const layout = path.join(dir, `push-${repository.replace(/[/:]/g, "-")}`);
  writeLayout(layout, [{ name: "x", image: built }]);
  await push(layout, "x", { host: to.host, repository, ...rest });
  return `${to.host}/${repository}`;
}

test("pulls OCI and Docker manifests, gzip and zstd layers, from a real registry", both, async () => {
  await using server = await startRegistry();
  await inStore(async (images, dir) => {
    const built = busyboxImage({}, [{ path: "etc/motd", data: "hello" }]);
    const oci = await pushed(built, { to: server, repository: "busybox:oci", dir });
    const docker = await pushed(built, { to: server, repository: "busybox:docker", dir, format: "v2s2" });
    const zstd = build([layer([{ path: "z", data: "zstd" }], "zstd")]);
    const packed = await pushed(zstd, { to: server, repository: "zstd:1", dir });
    const first = await images.pull({ reference: oci });
    assert.equal(first.id, built.config.digest);
    assert.deepEqual(first.repoTags, [oci]);
    assert.deepEqual(first.repoDigests, [`${server.host}/busybox@${built.manifest.digest}`]);
    await mounted(images, first, dir, (root) => {
      assert.equal(fs.readFileSync(path.join(root, "etc/motd"), "utf8"), "hello");
    });
    // Docker's manifest has a config of the same bytes: one image, two tags, two digests.
    const second = await images.pull({ reference: docker });
    assert.equal(second.id, first.id);
    assert.deepEqual(second.repoTags, [oci, docker]);
    assert.equal(second.repoDigests.length, 2);
    const third = await images.pull({ reference: packed });
    await mounted(images, third, dir, (root) => {
      assert.equal(fs.readFileSync(path.join(root, "z"), "utf8"), "zstd");
    });
  });
});

test("pulls by digest, and from an index the image of this platform", both, async () => {
  await using server = await startRegistry();
  await inStore(
    async (images, dir) => {
      const arm = build([layer([{ path: "arm", data: "" }])], {}, "arm64");
      const amd = build([layer([{ path: "amd", data: "" }])], {}, "amd64");
      const list = index([
        ["arm64", arm],
        ["amd64", amd],
      ]);
      const layout = path.join(dir, "layout");
      const named = [arm, amd].map((built, i) => ({ name: `part${i}`, image: built }));
      writeLayout(layout, named, [{ name: "all", index: list }]);
      await push(layout, "all", { host: server.host, repository: "multi:1", all: true });
      const image = await images.pull({ reference: `${server.host}/multi:1` });
      assert.equal(image.id, amd.config.digest);
      assert.deepEqual(image.repoDigests, [`${server.host}/multi@${list.digest}`]);
      const digest = `${server.host}/multi@${arm.manifest.digest}`;
      await assert.rejects(images.pull({ reference: digest }), {
        code: "NOT_FOUND",
        message: /linux\/amd64/,
      });
      const child = `${server.host}/multi:ignored@${amd.manifest.digest}`;
      const again = await images.pull({ reference: child });
      assert.deepEqual(again.repoTags, [`${server.host}/multi:1`]);
      assert.equal(again.repoDigests.length, 2);
    },
    { platform: { os: "linux", architecture: "amd64" } },
  );
});

for (const auth of ["basic", "bearer"] as const) {
  test(`${auth} authentication: right, wrong and no credentials`, both, async () => {
    await using server = await startRegistry({ auth });
    await inStore(async (images, dir) => {
      const { username, password } = credentials;
      const built = build([layer([{ path: "a", data: "1" }])]);
      const reference = await pushed(built, {
        to: server,
        repository: "private/a:1",
        dir,
        credentials: `${username}:${password}`,
      });
      const refusal = { code: "UNAUTHENTICATED", message: /401 unauthorized/ };
      await assert.rejects(images.pull({ reference }), refusal);
      await assert.rejects(images.pull({ reference, auth: { username, password: "wrong" } }), refusal);
      const elsewhere = { username, password, serverAddress: "https://example.com" };
      await assert.rejects(images.pull({ reference, auth: elsewhere }), refusal);
      assert.deepEqual(images.list(), []);
      const here = { username, password, serverAddress: `http://${server.host}/v2/` };
      assert.equal((await images.pull({ reference, auth: here })).id, built.config.digest);
      const encoded = Buffer.from(`${username}:${password}\0\0`).toString("base64");
      assert.equal((await images.pull({ reference, auth: { auth: encoded } })).id, built.config.digest);
    });
  });
}

test("what the registry does not have is not found", both, async () => {
  await using server = await startRegistry();
  await inStore(async (images) => {
    const reference = `${server.host}/nothing:1`;
    await assert.rejects(images.pull({ reference }), {
      code: "NOT_FOUND",
      message: /^pull image "127\.0\.0\.1:\d+\/nothing:1": .*404 not found: .*MANIFEST_UNKNOWN/,
    });
  });
});

test("a tag that moves leaves the old image its digest; concurrent pulls fetch once", both, async () => {
  await using server = await startRegistry();
  await inStore(async (images, dir) => {
    const shared = layer([{ path: "shared", data: "s".repeat(200_000) }]);
    const old = build([shared, layer([{ path: "v", data: "1" }])]);
    const reference = await pushed(old, { to: server, repository: "app:latest", dir });
    const first = await images.pull({ reference });
    const young = build([shared, layer([{ path: "v", data: "2" }])]);
    await pushed(young, { to: server, repository: "app:latest", dir });
    const before = server.log().length;
    const pulled = await Promise.all([1, 2, 3, 4].map(() => images.pull({ reference })));
    for (const image of pulled) assert.equal(image.id, young.config.digest);
    assert.deepEqual(images.find(old.config.digest)?.repoTags, []);
    assert.deepEqual(images.find(old.config.digest)?.repoDigests, first.repoDigests);
    assert.equal(images.find(reference)?.id, young.config.digest);
    const fetched = (digest: string) =>
      server
        .log()
        .slice(before)
        .split("\n")
        .filter((line) => line.includes(`"GET /v2/app/blobs/${digest}`)).length;
    assert.equal(fetched(shared.digest), 0);
    assert.equal(fetched(young.layers[1]!.digest), 1);
  });
});
