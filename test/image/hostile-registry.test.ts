import assert from "node:assert/strict";
import * as crypto from "node:crypto";
import * as fs from "node:fs";
import * as net from "node:net";
import * as path from "node:path";
import { test } from "node:test";
import { type Blob, image as build, digestOf, layer } from "../support/images";
import { type FakeRegistry, fakeRegistry, sendBlob } from "./fake-registry";
import { filesOf, inStore, mounted } from "./fixture";

const quick = { http: { pauseMs: 1, stallMs: 300 } };
const small = build([layer([{ path: "f", data: "content" }])]);
const noise = crypto.randomBytes(3_000_000);
const large = build([layer([{ path: "large", data: noise }], "none")]);
const isBlob = (url: string | undefined, blob: Blob) => url?.includes(`/blobs/${blob.digest}`) ?? false;
const auth = { username: "user", password: "secret" };
const basic = `Basic ${Buffer.from("user:secret").toString("base64")}`;

async function refused(registry: FakeRegistry, message: RegExp, code: string): Promise<void> {
  await inStore(async (images, dir) => {
    await assert.rejects(
      images.pull({ reference: registry.reference, auth }),
      (error: Error & { code?: string }) => {
        assert.equal(error.code, code, error.message);
        assert.match(error.message, message);
        assert.doesNotMatch(error.message, /secret|dXNlcjpzZWNyZXQ/);
        return true;
      },
    );
    assert.deepEqual(images.list(), []);
    if (code !== "UNAVAILABLE")
      assert.deepEqual(filesOf(dir), ["content", "content/sha256", "ingest", "snapshots"]);
  }, quick);
}

test("CVE-2020-15157: credentials never follow a redirect to another host", async () => {
  await using other = await fakeRegistry(small);
  await using registry = await fakeRegistry(small, (request, response) => {
    if (request.headers.authorization !== basic) {
      response.writeHead(401, { "www-authenticate": 'Basic realm="r"' }).end();
      return true;
    }
    if (!request.url!.includes("/blobs/")) return false;
    response.writeHead(307, { location: `http://${other.host}${request.url}?X-Signature=abc` }).end();
    return true;
  });
  await inStore(async (images) => {
    const image = await images.pull({ reference: registry.reference, auth });
    assert.equal(image.id, small.config.digest);
  });
  assert.ok(registry.requests.some((one) => one.authorization === basic));
  assert.ok(other.requests.length >= 2);
  assert.deepEqual(
    other.requests.filter((one) => one.authorization !== undefined),
    [],
  );
});

test("CVE-2020-15157: not even by way of the other host back home", async () => {
  let home = "";
  await using other = await fakeRegistry(undefined, (request, response) => {
    response.writeHead(302, { location: `http://${home}/leak${request.url}` }).end();
    return true;
  });
  await using registry = await fakeRegistry(small, (request, response) => {
    if (request.url!.startsWith("/leak")) return false;
    if (request.headers.authorization !== basic) {
      response.writeHead(401, { "www-authenticate": 'Basic realm="r"' }).end();
      return true;
    }
    if (!request.url!.includes("/blobs/")) return false;
    response.writeHead(302, { location: `http://${other.host}${request.url}` }).end();
    return true;
  });
  home = registry.host;
  await inStore(async (images) => {
    await images.pull({ reference: registry.reference, auth });
  });
  const returned = registry.requests.filter((one) => one.line.includes("/leak"));
  assert.ok(returned.length >= 2);
  for (const one of returned) assert.equal(one.authorization, undefined);
});

test("a redirect within the registry keeps the credentials; one in circles ends", async () => {
  await using registry = await fakeRegistry(small, (request, response) => {
    if (request.headers.authorization !== basic) {
      response.writeHead(401, { "www-authenticate": 'Basic realm="r"' }).end();
      return true;
    }
    if (!request.url!.startsWith("/v2/")) return false;
    response.writeHead(301, { location: `/moved${request.url}` }).end();
    return true;
  });
  await inStore(async (images) => {
    assert.equal((await images.pull({ reference: registry.reference, auth })).id, small.config.digest);
  });
  await using circle = await fakeRegistry(small, (request, response) => {
    response.writeHead(302, { location: request.url }).end();
    return true;
  });
  await refused(circle, /more than 10 redirects/, "UNAVAILABLE");
});

test("an identity token is exchanged by POST and never sent on by a redirect", async () => {
  let posted = "";
  await using tokens = await fakeRegistry(undefined, (request, response) => {
    assert.equal(request.method, "POST");
    request.on("data", (chunk) => {
      posted += chunk;
    });
    request.on("end", () => response.end(JSON.stringify({ access_token: "t0ken", expires_in: 60 })));
    return true;
  });
  const challenge = (realm: string) => `Bearer realm="${realm}",service="reg",scope="repository:app:pull"`;
  await using registry = await fakeRegistry(small, (request, response) => {
    if (request.headers.authorization === "Bearer t0ken") return false;
    response.writeHead(401, { "www-authenticate": challenge(`http://${tokens.host}/token`) }).end();
    return true;
  });
  await inStore(async (images) => {
    await images.pull({ reference: registry.reference, auth: { identityToken: "refresh" } });
  });
  assert.deepEqual(Object.fromEntries(new URLSearchParams(posted)), {
    service: "reg",
    scope: "repository:app:pull",
    grant_type: "refresh_token",
    client_id: "isopod",
    refresh_token: "refresh",
  });
  await using astray = await fakeRegistry(undefined, (_request, response) => {
    response.writeHead(307, { location: `http://${tokens.host}/token` }).end();
    return true;
  });
  await using second = await fakeRegistry(small, (_request, response) => {
    response.writeHead(401, { "www-authenticate": challenge(`http://${astray.host}/token`) }).end();
    return true;
  });
  const before = tokens.requests.length;
  await inStore(async (images) => {
    await assert.rejects(images.pull({ reference: second.reference, auth: { identityToken: "refresh" } }), {
      message: /would carry credentials to another host/,
    });
  });
  assert.equal(tokens.requests.length, before);
});

test("broken transfers go on where they broke off, with and without range support", async () => {
  const blob = large.layers[0]!;
  for (const ranges of [true, false]) {
    let sent = 0;
    await using registry = await fakeRegistry(large, (request, response) => {
      if (!isBlob(request.url, blob) || sent >= 4) return false;
      sent++;
      if (!ranges) delete request.headers.range;
      // A quarter more each time, then the connection breaks.
      const from = Number(/\d+/.exec(request.headers.range ?? "")?.[0] ?? 0);
      const piece = blob.data.subarray(from, (sent * blob.size) / 4);
      const status = from > 0 ? 206 : 200;
      const headers = {
        "content-length": blob.size - from,
        ...(from > 0 ? { "content-range": `bytes ${from}-${blob.size - 1}/${blob.size}` } : {}),
      };
      response.writeHead(status, headers);
      response.write(piece, () => response.destroy());
      return true;
    });
    await inStore(async (images, dir) => {
      const image = await images.pull({ reference: registry.reference });
      await mounted(images, image, dir, (root) => {
        assert.ok(fs.readFileSync(path.join(root, "large")).equals(noise));
      });
    }, quick);
    const asked = registry.requests.filter((one) => one.line.includes(blob.digest)).map((one) => one.range);
    assert.equal(asked[0], undefined);
    assert.ok(
      asked.slice(1).every((range) => /^bytes=[1-9]\d*-$/.test(range ?? "")),
      asked.join(" "),
    );
    assert.ok(asked.length >= 4);
  }
});

test("a transfer that brings nothing more, or another range, ends in an error", async () => {
  const blob = large.layers[0]!;
  await using stingy = await fakeRegistry(large, (request, response) => {
    if (!isBlob(request.url, blob)) return false;
    response.writeHead(200, { "content-length": blob.size });
    response.write(blob.data.subarray(0, 1000), () => response.destroy());
    return true;
  });
  await refused(stingy, new RegExp(`layer ${blob.digest}: .*GET .*/blobs/`), "UNAVAILABLE");
  await using liar = await fakeRegistry(large, (request, response) => {
    if (!isBlob(request.url, blob)) return false;
    if (request.headers.range === undefined) {
      response.writeHead(200, { "content-length": blob.size });
      response.write(blob.data.subarray(0, 1000), () => response.destroy());
    } else {
      response.writeHead(206, { "content-range": `bytes 0-${blob.size - 1}/${blob.size}` }).end(blob.data);
    }
    return true;
  });
  await refused(liar, /asked for bytes from \d+, got "bytes 0-/, "DATA_LOSS");
});

test("a connection on which nothing comes is given up", async () => {
  const blob = large.layers[0]!;
  await using registry = await fakeRegistry(large, (request, response) => {
    if (!isBlob(request.url, blob)) return false;
    response.writeHead(200, { "content-length": blob.size });
    response.write(blob.data.subarray(0, 1000));
    return true;
  });
  await refused(registry, /no data came, stalled/, "UNAVAILABLE");
});

test("no server: RegistryUnavailable stands at the start of an unclassified error", async () => {
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as net.AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  await inStore(async (images) => {
    await assert.rejects(images.pull({ reference: `127.0.0.1:${port}/app:1` }), {
      code: "UNKNOWN",
      message: /^RegistryUnavailable: pull image "127\.0\.0\.1:\d+\/app:1": .*connection refused$/,
    });
  });
});

test("content that is not what its digest says is refused, manifest, config and layer", async () => {
  const other = build([layer([{ path: "f", data: "evil" }])]);
  const swap = (from: Blob, to: Blob) =>
    fakeRegistry(small, (request, response) => {
      if (!request.url!.includes(from.digest)) return false;
      sendBlob(request, response, { ...to, digest: from.digest });
      return true;
    });
  const wrong = /content has the digest sha256:|has \d+ bytes, its descriptor says/;
  await using config = await swap(small.config, {
    ...small.config,
    data: Buffer.from(small.config.data).fill(32, 3, 4),
  });
  await refused(config, wrong, "DATA_LOSS");
  const data = Buffer.from(small.layers[0]!.data);
  data[20]! ^= 1;
  await using blob = await swap(small.layers[0]!, { ...small.layers[0]!, data });
  await inStore(async (images) => {
    await assert.rejects(images.pull({ reference: blob.reference }), {
      message: /^pull image .*: layer sha256/,
    });
    assert.deepEqual(images.list(), []);
  });
  await using manifest = await fakeRegistry(small, (request, response) => {
    if (!request.url!.includes("/manifests/")) return false;
    sendBlob(request, response, { ...other.manifest, digest: small.manifest.digest });
    return true;
  });
  await refused(manifest, wrong, "DATA_LOSS");
  await using pinned = await fakeRegistry(other, (request, response) => {
    if (!request.url!.includes("/manifests/")) return false;
    sendBlob(request, response, { ...other.manifest, digest: other.manifest.digest });
    return true;
  });
  await inStore(async (images) => {
    const reference = `${pinned.host}/app@${small.manifest.digest}`;
    await assert.rejects(images.pull({ reference }), { code: "DATA_LOSS", message: wrong });
  });
});

const serving = (document: unknown, mediaType = "application/vnd.oci.image.manifest.v1+json") => {
  const data = Buffer.isBuffer(document) ? document : Buffer.from(JSON.stringify(document));
  return fakeRegistry(small, (request, response) => {
    if (!request.url!.includes("/manifests/1")) return false;
    sendBlob(request, response, { mediaType, digest: digestOf(data), data });
    return true;
  });
};
const manifestOf = (change: Record<string, unknown>) => ({
  ...(JSON.parse(small.manifest.data.toString()) as Record<string, unknown>),
  ...change,
});

test("CVE-2021-41190: a document that is an index and a manifest at once is refused", async () => {
  await using registry = await serving(manifestOf({ manifests: [] }));
  await refused(registry, /is an index and a manifest at once/, "INVALID_ARGUMENT");
  const mediaType = "application/vnd.oci.image.index.v1+json";
  await using index = await serving(manifestOf({ mediaType, manifests: [] }), mediaType);
  await refused(index, /is an index and a manifest at once/, "INVALID_ARGUMENT");
});

test("CVE-2023-25153: manifests and configs of any size are not read into memory", async () => {
  const huge = Buffer.alloc(5 * 1024 * 1024, " ");
  await using manifest = await serving(huge);
  await refused(manifest, /more than 4194304 bytes/, "INVALID_ARGUMENT");
  await using config = await serving(
    manifestOf({ config: { ...small.config, data: undefined, size: 2 ** 40 } }),
  );
  await refused(config, /1099511627776 bytes, a manifest or config may have 4194304/, "INVALID_ARGUMENT");
});

test("malformed manifests are refused by field and value", async () => {
  const { mediaType, digest, size } = small.layers[0]!;
  const cases: [unknown, RegExp, string?][] = [
    [Buffer.from("{"), /manifest: not JSON/],
    [[], /manifest: \[\]: must be an object/],
    [manifestOf({ schemaVersion: 1 }), /manifest\.schemaVersion: 1/, "UNIMPLEMENTED"],
    [manifestOf({ mediaType: "text/plain" }), /manifest\.mediaType: "text\/plain"/, "UNIMPLEMENTED"],
    [manifestOf({ layers: {} }), /manifest\.layers: \{\}: must be a list/],
    [manifestOf({ layers: [{ mediaType, digest, size: -1 }] }), /manifest\.layers\[0\]\.size: -1/],
    [manifestOf({ layers: [{ mediaType, digest, size: "1" }] }), /manifest\.layers\[0\]\.size: "1"/],
    [
      manifestOf({ layers: [{ mediaType, digest: "md5:0", size }] }),
      /manifest\.layers\[0\]\.digest: "md5:0"/,
    ],
    [
      manifestOf({ layers: [{ mediaType, digest: "sha256:../../etc/passwd", size }] }),
      /manifest\.layers\[0\]\.digest: "sha256:\.\.\//,
    ],
    [
      manifestOf({ layers: [{ mediaType: `${mediaType}+encrypted`, digest, size }] }),
      /manifest\.layers\[0\]\.mediaType: ".*\+encrypted"/,
      "UNIMPLEMENTED",
    ],
    [
      manifestOf({ config: { mediaType: "application/vnd.oci.empty.v1+json", digest, size } }),
      /manifest\.config\.mediaType: .*not a container image/,
      "UNIMPLEMENTED",
    ],
    [manifestOf({ layers: [] }), /config\.rootfs\.diff_ids: 1 entries for 0 layers/],
  ];
  for (const [document, message, code] of cases) {
    await using registry = await serving(document);
    await refused(registry, message, code ?? "INVALID_ARGUMENT");
  }
});

test("server errors are tried again a few times, then told", async () => {
  let failures = 2;
  await using flaky = await fakeRegistry(small, (_request, response) => {
    if (failures-- <= 0) return false;
    response.writeHead(503).end();
    return true;
  });
  await inStore(async (images) => {
    assert.equal((await images.pull({ reference: flaky.reference })).id, small.config.digest);
  }, quick);
  await using down = await fakeRegistry(small, (_request, response) => {
    response.writeHead(500).end(JSON.stringify({ errors: [{ code: "UNKNOWN", message: "disk on fire" }] }));
    return true;
  });
  await refused(down, /500: UNKNOWN: disk on fire/, "UNAVAILABLE");
});

test("a pull that is given up answers at once, leaves nothing, and can be made again", async () => {
  const blob = large.layers[0]!;
  let holding = true;
  await using registry = await fakeRegistry(large, (request, response) => {
    if (!holding || !isBlob(request.url, blob)) return false;
    response.writeHead(200, { "content-length": blob.size });
    response.write(blob.data.subarray(0, 1_000_000));
    return true;
  });
  await inStore(async (images, dir) => {
    const controller = new AbortController();
    const pull = images.pull({ reference: registry.reference, signal: controller.signal });
    pull.catch(() => {});
    while (!registry.requests.some((one) => one.line.includes(blob.digest))) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    controller.abort();
    await assert.rejects(pull, { code: "CANCELLED", message: /^pull image / });
    await assert.rejects(images.pull({ reference: registry.reference, signal: AbortSignal.timeout(50) }), {
      code: "DEADLINE_EXCEEDED",
    });
    assert.deepEqual(images.list(), []);
    holding = false;
    const image = await images.pull({ reference: registry.reference });
    assert.equal(image.id, large.config.digest);
    await images.remove(image.id);
    const left = filesOf(dir).filter((name) => /ingest\/|snapshots\/\d/.test(name));
    assert.deepEqual(left, []);
  });
});

test("of two pulls of one image one may give up and the other gets it", async () => {
  const blob = large.layers[0]!;
  let release = () => {};
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  await using registry = await fakeRegistry(large, (request, response) => {
    if (!isBlob(request.url, blob)) return false;
    void released.then(() => sendBlob(request, response, blob));
    return true;
  });
  await inStore(async (images) => {
    const controller = new AbortController();
    const first = images.pull({ reference: registry.reference, signal: controller.signal });
    first.catch(() => {});
    while (!registry.requests.some((one) => one.line.includes(blob.digest))) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    const second = images.pull({ reference: registry.reference });
    // The second has joined once it has asked for the manifest.
    while (registry.requests.filter((one) => one.line.includes("/manifests/1")).length < 3) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
    controller.abort();
    await assert.rejects(first, { code: "CANCELLED" });
    release();
    assert.equal((await second).id, large.config.digest);
    assert.equal(registry.requests.filter((one) => one.line.includes(blob.digest)).length, 1);
  });
});
