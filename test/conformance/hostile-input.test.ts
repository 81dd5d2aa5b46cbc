import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { IsopodError } from "../../src/base/errors";
import { parseChallenges } from "../../src/image/auth";
import { media, parseConfig, parseManifest } from "../../src/image/manifest";
import { parseReference } from "../../src/image/reference";
import { parseConfList } from "../../src/network/conflist";
import { compileContainer } from "../../src/runtime/compile";
import { defaultSeccomp } from "../../src/runtime/default-seccomp";
import { checkSpec } from "../../src/runtime/validate";
import { parseGroup, parsePasswd } from "../../src/sandbox/accounts";
import { specOf, target } from "../runtime/specs";

/**
 * What comes from outside is either taken or refused by an IsopodError that says why. Any other exception
 * means that something looked at the input before it was checked.
 */
function takesOrRefuses(parse: () => unknown): void {
  try {
    parse();
  } catch (error) {
    if (!IsopodError.is(error)) throw error;
    assert.notEqual(error.message, "");
  }
}

type Json = unknown;

/** Every place in a document, as a list of keys. */
function places(value: Json, at: readonly string[] = []): (readonly string[])[] {
  if (typeof value !== "object" || value === null) return [at];
  return [at, ...Object.entries(value).flatMap(([key, member]) => places(member, [...at, key]))];
}

/** A copy with the value at `at` replaced; undefined takes it out. */
function replaced(value: Json, at: readonly string[], by: Json): Json {
  const [key, ...rest] = at;
  if (key === undefined) return by;
  const copy = Array.isArray(value) ? [...(value as Json[])] : { ...(value as Record<string, Json>) };
  const members = copy as Record<string, Json>;
  members[key] = replaced(members[key], rest, by);
  if (members[key] === undefined && !Array.isArray(copy)) delete members[key];
  return copy;
}

/** Documents that differ from a valid one in a few places. */
function mutants(valid: Json): fc.Arbitrary<Json> {
  const odd = fc.oneof(
    fc.jsonValue({ maxDepth: 2 }),
    fc.constantFrom<Json>(undefined, null, -1, 1.5, 2 ** 53, "", "/", "\0", "../..", "__proto__", [null], {}),
  );
  const change = fc.tuple(fc.constantFrom(...places(valid)), odd);
  return fc.array(change, { minLength: 1, maxLength: 3 }).map((changes) =>
    changes.reduce<Json>((document, [at, by]) => {
      try {
        return replaced(document, at, by);
      } catch {
        return document; // an earlier change took that place away
      }
    }, valid),
  );
}

/** Texts near a valid one: cut, doubled, spliced. */
function torn(valid: string): fc.Arbitrary<string> {
  const cut = fc.integer({ min: 0, max: valid.length });
  return fc.oneof(
    fc.string({ unit: "binary", maxLength: 200 }),
    fc
      .tuple(cut, cut, fc.string({ maxLength: 8 }))
      .map(([from, to, middle]) => valid.slice(0, from) + middle + valid.slice(to)),
  );
}

const digest = `sha256:${"a".repeat(64)}`;

describe("hostile input", () => {
  it("is taken or refused as a runtime spec, and what is taken compiles or is refused", () => {
    const spec = specOf(["/bin/true"]);
    const seccomp = defaultSeccomp([], target);
    const small = { ...seccomp, syscalls: seccomp.syscalls!.slice(1) };
    const valid = {
      ...spec,
      linux: { ...spec.linux, seccomp: small, sysctl: { "net.ipv4.ip_forward": "1" } },
    };
    fc.assert(
      fc.property(mutants(valid), (document) =>
        takesOrRefuses(() => {
          checkSpec(document);
          const { plan } = compileContainer({
            id: "c1",
            spec: document,
            bundle: "/bundle",
            rootfs: [],
            stdio: { stdin: "/io/in", stdout: "/io/out", stderr: "/io/err" },
            gate: "/state/c1.gate",
            base: undefined,
            target,
            dieWithParent: false,
            warn: () => {},
          });
          assert.ok(plan.length > 0);
        }),
      ),
      { numRuns: 3000 },
    );
  });

  it("is taken or refused as a manifest, an index and an image's config", () => {
    const layer = { mediaType: media.ociLayer, digest, size: 3 };
    const manifest = { schemaVersion: 2, config: { ...layer, mediaType: media.ociConfig }, layers: [layer] };
    const platform = { os: "linux", architecture: "amd64", variant: "v1" };
    const index = { schemaVersion: 2, manifests: [{ ...layer, mediaType: media.ociManifest, platform }] };
    const config = {
      architecture: "amd64",
      os: "linux",
      config: {
        Env: ["A=1"],
        Cmd: ["/bin/sh"],
        User: "0:0",
        WorkingDir: "/",
        Volumes: { "/x": {} },
        Labels: {},
      },
      rootfs: { type: "layers", diff_ids: [digest] },
      history: [{ created_by: "x", empty_layer: true }],
    };
    for (const [valid, parse] of [
      [manifest, (data: Buffer) => parseManifest(data, media.ociManifest)],
      [index, (data: Buffer) => parseManifest(data, media.ociIndex)],
      [config, parseConfig],
    ] as const) {
      fc.assert(
        fc.property(mutants(valid), (document) =>
          takesOrRefuses(() => parse(Buffer.from(JSON.stringify(document) ?? ""))),
        ),
        { numRuns: 1000 },
      );
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) =>
          takesOrRefuses(() => parse(Buffer.from(bytes))),
        ),
      );
    }
  });

  it("is taken or refused as a CNI configuration", () => {
    const valid = {
      cniVersion: "1.0.0",
      name: "net",
      plugins: [{ type: "bridge", ipam: { type: "host-local" }, capabilities: { portMappings: true } }],
    };
    fc.assert(
      fc.property(mutants(valid), (document) =>
        takesOrRefuses(() => parseConfList("10-net.conflist", JSON.stringify(document) ?? "")),
      ),
      { numRuns: 1000 },
    );
    fc.assert(
      fc.property(torn(JSON.stringify(valid)), (text) =>
        takesOrRefuses(() => parseConfList("10-net.conf", text)),
      ),
    );
  });

  it("is taken or refused as an image reference; what is taken names the same image again", () => {
    const valid = `registry.example:5000/a/b-c__d:tag@${digest}`;
    fc.assert(
      fc.property(torn(valid), (text) =>
        takesOrRefuses(() => {
          const { name, tag, digest: pinned } = parseReference(text);
          const again = parseReference(`${name}${tag ? `:${tag}` : ""}${pinned ? `@${pinned}` : ""}`);
          assert.deepEqual([again.name, again.tag, again.digest], [name, tag, pinned]);
        }),
      ),
      { numRuns: 3000 },
    );
  });

  it("is taken or refused as an authentication challenge, a passwd and a group file", () => {
    const challenge =
      'Bearer realm="https://a.example/token",service="a",scope="repository:x:pull", Basic realm="r"';
    const parsers: readonly (readonly [string, (text: string) => unknown])[] = [
      [challenge, parseChallenges],
      ["root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/srv:\n", parsePasswd],
      ["root:x:0:\nmedia:x:77:www,root\n", parseGroup],
    ];
    for (const [valid, parse] of parsers) {
      fc.assert(
        fc.property(torn(valid), (text) => takesOrRefuses(() => parse(text))),
        { numRuns: 1000 },
      );
    }
  });
});
