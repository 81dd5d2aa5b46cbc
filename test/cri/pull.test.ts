import assert from "node:assert/strict";
import * as crypto from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { runtime } from "../../src/gen/cri";
import type { Daemon } from "../support/daemon";
import { type BuiltImage, busyboxImage, image, index, layer, push, writeLayout } from "../support/images";
import { needs } from "../support/needs";
import { peers } from "../support/peers";
import { exited, inventoryOf, leaksOf, removePod, run, shell, startPodDaemon } from "../support/pods";
import { until } from "../support/processes";
import { credentials, type Registry, startRegistry } from "../support/registry";

/** ImageService over CRI, against a real registry on the daemon's loopback that asks for credentials. */
const needed = needs(peers.registry(), peers.skopeo());
const [CANCELLED, DEADLINE_EXCEEDED, NOT_FOUND, UNAUTHENTICATED] = [1, 4, 5, 16];
const { username, password } = credentials;
const auth = { username, password };

let daemon: Daemon;
let registry: Registry;

before(async () => {
  if (needed.skip !== false) return;
  daemon = await startPodDaemon();
  // Brings up the shim's server, which stays.
  await removePod(daemon, (await run(daemon, ["true"])).podId);
  registry = await startRegistry({ auth: "basic", host: daemon.host });
});
after(async () => {
  await registry?.stop();
  await daemon?.end();
});

/** Pushes an image; gives the reference to pull it by. */
async function pushed(repository: string, built: BuiltImage): Promise<string> {
  const layout = path.join(daemon.dir, "push");
  writeLayout(layout, [{ name: "x", image: built }]);
  const to = { host: registry.host, from: daemon.host, credentials: `${username}:${password}` };
  await push(layout, "x", { ...to, repository });
  fs.rmSync(layout, { recursive: true });
  return `${registry.host}/${repository}`;
}

const pull = async (reference: string, credentials: runtime.v1.IAuthConfig | undefined = auth) => {
  const request = { image: { image: reference }, auth: credentials ?? null };
  return (await daemon.cri.PullImage(request)).imageRef;
};

const find = async (reference: string) =>
  (await daemon.cri.ImageStatus({ image: { image: reference } })).image ?? undefined;

const remove = (reference: string) => daemon.cri.RemoveImage({ image: { image: reference } });

/** An image nobody else has. */
const unique = (text: string): BuiltImage => image([layer([{ path: "what", data: text }])]);

test(
  "credentials: none, wrong ones and another server's are refused; right ones, in each form, are taken",
  needed,
  async () => {
    const reference = await pushed("private/a:1", unique("private"));
    const refusal = (error: { code: number; details: string }) => {
      assert.equal(error.code, UNAUTHENTICATED, error.details);
      assert.match(error.details, /private\/a:1.*401/);
      assert.ok(!error.details.includes(password));
      return true;
    };
    const before = await inventoryOf(daemon, false);
    await assert.rejects(pull(reference, {}), refusal);
    await assert.rejects(pull(reference, { username, password: "wrong" }), refusal);
    await assert.rejects(pull(reference, { ...auth, serverAddress: "https://example.com" }), refusal);
    assert.equal(await find(reference), undefined);
    assert.deepEqual(await leaksOf(daemon, before, false), []);
    const encoded = { auth: Buffer.from(`${username}:${password}`).toString("base64") };
    const named = { ...auth, serverAddress: registry.host };
    for (const right of [auth, encoded, named]) {
      assert.equal((await find(await pull(reference, right)))!.repoTags![0], reference);
      await remove(reference);
    }
    assert.ok(!daemon.log().includes(password), "no password in the daemon's log");
  },
);

test("an absent tag, repository or digest is not found, in the caller's words", needed, async () => {
  await pushed("there:1", unique("there"));
  const absent = `sha256:${"0".repeat(64)}`;
  for (const name of ["there:2", "not/there:1", `there@${absent}`])
    await assert.rejects(pull(`${registry.host}/${name}`), (error: { code: number; details: string }) => {
      assert.equal(error.code, NOT_FOUND, error.details);
      assert.ok(error.details.includes(`${registry.host}/${name}`), error.details);
      assert.match(error.details, /not found/);
      return true;
    });
});

test(
  "by digest there is no tag; by tag and digest the digest decides; no tag is latest",
  needed,
  async () => {
    const built = unique("by digest");
    const other = unique("the tag has moved on");
    await pushed("digest:latest", built);
    await pushed("digest:latest", other);
    const digest = `${registry.host}/digest@${built.manifest.digest}`;
    assert.equal(await pull(digest), built.config.digest);
    const found = (await find(digest))!;
    assert.deepEqual([found.repoTags, found.repoDigests], [[], [digest]]);
    assert.equal(await pull(`${registry.host}/digest:latest@${built.manifest.digest}`), built.config.digest);
    assert.equal(await pull(`${registry.host}/digest`), other.config.digest);
    assert.deepEqual((await find(other.config.digest))!.repoTags, [`${registry.host}/digest:latest`]);
    await remove(built.config.digest);
    await remove(other.config.digest);
  },
);

test("an index gives this machine's image, known by the index's digest", needed, async () => {
  const mine = unique("mine");
  const foreign = image([layer([{ path: "x", data: "foreign" }])], {}, "s390x");
  const list = index([
    [process.arch === "arm64" ? "arm64" : "amd64", mine],
    ["s390x", foreign],
  ]);
  const layout = path.join(daemon.dir, "index");
  const parts = [mine, foreign].map((one, i) => ({ name: `part${i}`, image: one }));
  writeLayout(layout, parts, [{ name: "all", index: list }]);
  const to = { host: registry.host, from: daemon.host, credentials: `${username}:${password}` };
  await push(layout, "all", { ...to, repository: "multi:1", all: true });
  assert.equal(await pull(`${registry.host}/multi:1`), mine.config.digest);
  const { repoDigests } = (await find(mine.config.digest))!;
  assert.deepEqual(repoDigests, [`${registry.host}/multi@${list.digest}`]);
  await remove(mine.config.digest);
});

test("removal by any one name takes them all, of every repository, and is repeatable", needed, async () => {
  const before = await inventoryOf(daemon, false);
  const built = unique("many names");
  const names = ["one:1", "one:2", "two/two:1"];
  for (const name of names) assert.equal(await pull(await pushed(name, built)), built.config.digest);
  const references = names.map((name) => `${registry.host}/${name}`);
  assert.deepEqual([...(await find(built.config.digest))!.repoTags!].sort(), [...references].sort());
  const { images } = await daemon.cri.ListImages({ filter: { image: { image: references[2]! } } });
  assert.deepEqual(
    images.map(({ id }) => id),
    [built.config.digest],
  );
  await Promise.all([1, 2, 3, 4, 5].map(() => remove(references[1]!)));
  for (const reference of [...references, built.config.digest])
    assert.equal(await find(reference), undefined, reference);
  await remove(references[0]!);
  const blobs = fs.readdirSync(path.join(daemon.root, "images/content/sha256"));
  for (const blob of [built.config, built.manifest, ...built.layers])
    assert.ok(!blobs.includes(blob.digest.slice("sha256:".length)), `${blob.mediaType} is gone`);
  assert.deepEqual(await leaksOf(daemon, before, false), []);
});

test(
  "an image is removed while its container runs: the container lives on, then its layers go too",
  needed,
  async () => {
    const before = await inventoryOf(daemon, false);
    const { cri } = daemon;
    const built = busyboxImage({}, [{ path: "etc/mark", data: "marked\n" }]);
    const reference = await pushed("used:1", built);
    await pull(reference);
    const script = "trap 'cat /etc/mark; exit 3' TERM; while :; do sleep 0.05; done";
    const { id, podId, log } = await run(daemon, shell(script), {
      container: { image: { image: reference } },
    });
    await remove(built.config.digest);
    assert.equal(await find(reference), undefined);
    const status = (await cri.ContainerStatus({ containerId: id })).status!;
    assert.equal(status.state, runtime.v1.ContainerState.CONTAINER_RUNNING);
    assert.equal(status.image!.image, reference);
    assert.equal(status.imageId, built.config.digest);
    assert.notEqual(status.imageRef, "");
    assert.equal((await cri.ListContainers({ filter: { id } })).containers[0]!.imageId, built.config.digest);
    const mark = await cri.ExecSync({ containerId: id, cmd: ["cat", "/etc/mark"] });
    assert.equal(Buffer.from(mark.stdout).toString(), "marked\n");
    await cri.StopContainer({ containerId: id, timeout: 20 as never });
    assert.equal((await exited(daemon, id)).exitCode, 3);
    assert.match(fs.readFileSync(log, "utf8"), / marked\n/);
    await removePod(daemon, podId);
    assert.deepEqual(await leaksOf(daemon, before, false), []);
  },
);

test("ImageFsInfo names a directory that exists, and grows and shrinks with the images", needed, async () => {
  const read = async () => {
    const { imageFilesystems, containerFilesystems } = await daemon.cri.ImageFsInfo({});
    assert.deepEqual(imageFilesystems, containerFilesystems);
    assert.equal(imageFilesystems.length, 1);
    const [{ fsId, usedBytes, inodesUsed, timestamp }] = imageFilesystems as [runtime.v1.IFilesystemUsage];
    assert.ok(fs.statSync(fsId!.mountpoint!).isDirectory());
    assert.notEqual(timestamp!.toString(), "0");
    return { bytes: Number(usedBytes!.value), inodes: Number(inodesUsed!.value) };
  };
  // Random, since skopeo compresses what is not yet.
  const data = crypto.randomBytes(100_000);
  const reference = await pushed("size:1", image([layer([{ path: "big", data }])]));
  const empty = await read();
  await pull(reference);
  const full = await read();
  // The blob and what it unpacks to.
  assert.ok(full.bytes >= empty.bytes + 2 * data.length, `${empty.bytes} to ${full.bytes}`);
  assert.ok(full.inodes > empty.inodes);
  const { size } = (await find(reference))!;
  assert.ok(Number(size) >= data.length);
  await remove(reference);
  await until(async () => (await read()).bytes === empty.bytes, "usage is as before");
});

test(
  "pulls at once fetch each blob once; one that gives up does not take the others along",
  needed,
  async () => {
    const base = layer([{ path: "base", data: crypto.randomBytes(300_000) }]);
    const both = ["x", "y"].map((text) => image([base, layer([{ path: text, data: text }])]));
    const references = await Promise.all([pushed("at/once:x", both[0]!)]);
    references.push(await pushed("at/once:y", both[1]!));
    const before = registry.log().length;
    const early = (options: object) =>
      daemon.cri.PullImage({ image: { image: references[0]! }, auth }, options).then(
        () => assert.fail("it should have given up"),
        (error: { code: number }) => error.code,
      );
    const abort = new AbortController();
    const given = [early({ timeoutMs: 1 }), early({ signal: abort.signal })];
    const pulls = [0, 1, 0, 1, 0].map((which) => pull(references[which]!));
    abort.abort();
    assert.deepEqual(await Promise.all(given), [DEADLINE_EXCEEDED, CANCELLED]);
    const ids = await Promise.all(pulls);
    assert.deepEqual([...new Set(ids)].sort(), both.map(({ config }) => config.digest).sort());
    for (const blob of [base, both[0]!.layers[1]!, both[1]!.layers[1]!]) {
      const lines = registry.log().slice(before).split("\n");
      const served = lines.filter((line) => line.includes(`"GET /v2/at/once/blobs/${blob.digest}`));
      assert.equal(served.filter((line) => / 200 /.test(line)).length, 1, blob.digest);
    }
    for (const id of ids) await remove(id);
  },
);
