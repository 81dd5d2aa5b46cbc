import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { choosePlatform, formatPlatform, rankPlatform } from "../../src/image/platform";
import { formatReference, parseReference, repoTag } from "../../src/image/reference";

const digest = `sha256:${"0123456789abcdef".repeat(4)}`;

test("names are read as docker reads them", () => {
  const cases: [string, string, string, string | undefined, string | undefined][] = [
    ["busybox", "docker.io", "library/busybox", "latest", undefined],
    ["busybox:1.36", "docker.io", "library/busybox", "1.36", undefined],
    ["user/app", "docker.io", "user/app", "latest", undefined],
    ["docker.io/busybox", "docker.io", "library/busybox", "latest", undefined],
    ["index.docker.io/busybox", "docker.io", "library/busybox", "latest", undefined],
    ["localhost/app", "localhost", "app", "latest", undefined],
    ["localhost:5000/app:v1", "localhost:5000", "app", "v1", undefined],
    ["registry.k8s.io/a/b/c:v1", "registry.k8s.io", "a/b/c", "v1", undefined],
    ["[::1]:5000/app", "[::1]:5000", "app", "latest", undefined],
    ["UPPER/app", "UPPER", "app", "latest", undefined],
    ["127.0.0.1:80/a__b/c-d.e", "127.0.0.1:80", "a__b/c-d.e", "latest", undefined],
    [`busybox@${digest}`, "docker.io", "library/busybox", undefined, digest],
    [`example.com/a:v1@${digest}`, "example.com", "a", "v1", digest],
  ];
  for (const [text, host, repository, tag, wanted] of cases) {
    const name = `${host}/${repository}`;
    assert.deepEqual(parseReference(text), { host, repository, name, tag, digest: wanted }, text);
  }
  assert.equal(repoTag(parseReference("a:1")), "docker.io/library/a:1");
  assert.equal(repoTag(parseReference(`a:1@${digest}`)), undefined);
});

test("malformed names are refused with the name and the reason", () => {
  const cases: [string, RegExp][] = [
    ["", /is empty/],
    ["Busybox", /"library\/Busybox" must be lower case/],
    ["a b", /malformed/],
    ["a:", /tag ""/],
    ["a:b c", /tag "b c"/],
    [`a:${"t".repeat(129)}`, /tag/],
    ["a@sha256:1234", /digest "sha256:1234"/],
    [`a@sha512:${"0".repeat(128)}`, /digest/],
    [`a@${digest.toUpperCase()}`, /digest/],
    ["a@", /digest ""/],
    ["/a", /malformed/],
    ["a//b", /malformed/],
    ["a/", /malformed/],
    ["../a", /malformed/],
    ["a/../b", /malformed/],
    ["-a.com/x", /host "-a\.com"/],
    ["a.com:port/x", /host "a\.com:port"/],
    ["http://a.com/x", /malformed/],
    ["a.com/x?y=z", /malformed/],
    ["a.com/x\n", /malformed/],
    ["a___b", /malformed/],
    ["é", /malformed/],
    [digest.slice(7), /would be an image id/],
    [`a.com/${"x/".repeat(140)}x`, /longer than 255/],
  ];
  for (const [text, message] of cases) {
    assert.throws(() => parseReference(text), { code: "INVALID_ARGUMENT", message }, JSON.stringify(text));
  }
});

const word = fc.stringMatching(/^[a-z0-9]{1,8}$/);
const component = fc
  .tuple(word, fc.array(fc.tuple(fc.constantFrom(".", "_", "__", "-", "---"), word), { maxLength: 2 }))
  .map(([first, rest]) => first + rest.map((part) => part.join("")).join(""));
const host = fc.constantFrom(
  "docker.io",
  "localhost",
  "example.com",
  "a-b.example:5000",
  "10.0.0.1:443",
  "[fd00::1]:80",
);
const tag = fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}$/);
const hash = fc.stringMatching(/^[0-9a-f]{64}$/).map((hex) => `sha256:${hex}`);

test("what is formatted parses to the same reference", () => {
  const parts = fc.record({
    host,
    path: fc.array(component, { minLength: 2, maxLength: 4 }),
    tag: fc.option(tag, { nil: undefined }),
    digest: fc.option(hash, { nil: undefined }),
  });
  fc.assert(
    fc.property(parts, (given) => {
      const named = given.tag ?? (given.digest === undefined ? "latest" : undefined);
      const repository = given.path.join("/");
      const name = `${given.host}/${repository}`;
      const reference = { host: given.host, repository, name, tag: named, digest: given.digest };
      assert.deepEqual(parseReference(formatReference(reference)), reference);
    }),
  );
});

test("any text is either refused or safe to put into a URL and a path", () => {
  const text = fc.oneof(fc.string({ unit: "binary" }), fc.stringMatching(/^[a-zA-Z0-9:/@._[\]-]{0,40}$/));
  fc.assert(
    fc.property(text, (given) => {
      let reference: ReturnType<typeof parseReference>;
      try {
        reference = parseReference(given);
      } catch (error) {
        assert.equal((error as { code?: string }).code, "INVALID_ARGUMENT");
        return;
      }
      const url = new URL(`https://${reference.host}/v2/${reference.repository}/manifests/${reference.tag}`);
      assert.equal(url.pathname, `/v2/${reference.repository}/manifests/${reference.tag}`);
      assert.equal(url.username + url.password + url.search + url.hash, "");
    }),
    { numRuns: 2000 },
  );
});

test("the platform of a host decides which manifest it runs", () => {
  const entry = (os: string, architecture: string, variant?: string) => ({
    mediaType: "m",
    digest: `${os}/${architecture}/${variant}`,
    size: 1,
    platform: { os, architecture, ...(variant === undefined ? {} : { variant }) },
  });
  const all = [
    entry("unknown", "unknown"),
    entry("windows", "amd64"),
    entry("linux", "arm", "v6"),
    entry("linux", "arm", "v7"),
    entry("linux", "amd64", "v3"),
    entry("linux", "amd64"),
    entry("linux", "arm64"),
    entry("linux", "arm64", "v8"),
  ];
  const chosen = (os: string, architecture: string, variant?: string) =>
    choosePlatform({ os, architecture, ...(variant === undefined ? {} : { variant }) }, all).map(
      (one) => one.digest,
    );
  assert.deepEqual(chosen("linux", "amd64"), ["linux/amd64/undefined"]);
  assert.deepEqual(chosen("linux", "arm64", "v8"), ["linux/arm64/v8", "linux/arm64/undefined"]);
  assert.deepEqual(chosen("linux", "arm", "v7"), ["linux/arm/v7", "linux/arm/v6"]);
  assert.deepEqual(chosen("linux", "arm", "v6"), ["linux/arm/v6"]);
  assert.deepEqual(chosen("linux", "riscv64"), []);
  assert.equal(
    rankPlatform({ os: "linux", architecture: "amd64" }, { os: "linux", architecture: "x86_64" }),
    0,
  );
  assert.equal(formatPlatform({ os: "linux", architecture: "arm64", variant: "v8" }), "linux/arm64/v8");
});
