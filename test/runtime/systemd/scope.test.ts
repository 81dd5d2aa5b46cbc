import assert from "node:assert/strict";
import { describe, test } from "node:test";
import * as fc from "fast-check";
import { parseVariant } from "../../../src/runtime/systemd/gvariant";
import { scopeProperties } from "../../../src/runtime/systemd/scope";

const of = (annotations: Record<string, string>) =>
  scopeProperties({ description: "d", slice: "a.slice", limits: [], annotations });
/** What one annotation adds. */
const added = (name: string, value: string) => of({ [`org.systemd.property.${name}`]: value }).at(-1);

describe("GVariant's text format", () => {
  const cases: [string, string, unknown][] = [
    ["true", "b", true],
    [" 5 ", "i", 5n],
    ["-5", "i", -5n],
    ["uint64 5", "t", 5n],
    ["@t 5", "t", 5n],
    ["byte 5", "y", 5n],
    ["'text'", "s", "text"],
    [`"it's"`, "s", "it's"],
    [String.raw`'a\'\n\u00e4\101'`, "s", "a'\näA"],
    ["b'ab'", "ay", Buffer.from("ab\0")],
    ["['a', 'b']", "as", ["a", "b"]],
    ["@as []", "as", []],
    ["[uint32 1, 2]", "au", [1n, 2n]],
    ["[byte 1, 2]", "ay", Uint8Array.of(1, 2)],
    ["('a', uint64 1, [('b', true)])", "(sta(sb))", ["a", 1n, [["b", true]]]],
    ["objectpath '/a'", "o", "/a"],
  ];
  for (const [text, signature, value] of cases)
    test(text, () => assert.deepEqual(parseVariant(text), { signature, value }));

  for (const text of [
    "",
    "'a",
    "[1, 'a']",
    "[]",
    "[1",
    "(1",
    "1 2",
    "float 1",
    "@s 1",
    "int32 'a'",
    "0x",
    "5.5",
  ])
    test(`refuses ${text || "nothing"}`, () => assert.throws(() => parseVariant(text), /at character \d+$/));

  test("any text comes back", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        const written = `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
        assert.deepEqual(parseVariant(written), { signature: "s", value: text });
      }),
    );
  });

  test("garbage is refused and never hangs", () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[[\]()'"@a-z0-9 ,\\-]{0,30}$/), (text) => {
        try {
          parseVariant(text);
        } catch (error) {
          assert.match(String(error), /at character \d+$/);
        }
      }),
    );
  });
});

describe("a scope", () => {
  test("is delegated to us, accounted for, and forgotten once it ended", () => {
    const properties = new Map(of({}).map(({ name, value }) => [name, value]));
    assert.equal(properties.get("Slice"), "a.slice");
    assert.equal(properties.get("Delegate"), true);
    assert.equal(properties.get("DefaultDependencies"), false);
    assert.equal(properties.get("CollectMode"), "inactive-or-failed");
  });

  test("takes further properties from annotations", () => {
    assert.deepEqual(added("KillMode", "'mixed'"), { name: "KillMode", signature: "s", value: "mixed" });
    assert.deepEqual(added("TimeoutStopUSec", "uint64 5"), {
      name: "TimeoutStopUSec",
      signature: "t",
      value: 5n,
    });
    assert.equal(of({ "other.annotation": "x" }).length, of({}).length);
  });

  test("seconds become what the bus counts in", () => {
    const wanted = { name: "TimeoutStopUSec", signature: "t", value: 5_000_000n };
    assert.deepEqual(added("TimeoutStopSec", "5"), wanted);
  });

  test("refuses what it cannot read, and what is ours to say", () => {
    const path = 'annotations["org.systemd.property.KillMode"]';
    assert.throws(() => added("KillMode", "mixed"), { code: "INVALID_ARGUMENT", path });
    assert.throws(() => added("killmode", "'mixed'"), { code: "INVALID_ARGUMENT" });
    assert.throws(() => added("TimeoutStopSec", "'5'"), { code: "INVALID_ARGUMENT" });
    for (const name of ["Slice", "PIDs", "Delegate"])
      assert.throws(() => added(name, "'x'"), { code: "UNIMPLEMENTED" });
  });
});
