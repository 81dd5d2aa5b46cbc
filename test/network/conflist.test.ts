import assert from "node:assert/strict";
import { test } from "node:test";
import { addressesOf, parseConfList } from "../../src/network/conflist";

const bridge = { type: "bridge", bridge: "cni0", capabilities: { portMappings: true } };

test("a conflist is parsed with its plugins untouched", () => {
  const list = parseConfList(
    "10-a.conflist",
    JSON.stringify({ cniVersion: "1.0.0", name: "pods", plugins: [bridge, { type: "portmap" }] }),
  );
  assert.equal(list.name, "pods");
  assert.equal(list.cniVersion, "1.0.0");
  assert.deepEqual(list.plugins, [bridge, { type: "portmap" }]);
});

test("a single plugin is a list of one, its version defaults to the first", () => {
  const list = parseConfList("10-a.conf", JSON.stringify({ name: "pods", ...bridge }));
  assert.equal(list.cniVersion, "0.1.0");
  assert.equal(list.plugins.length, 1);
  assert.equal(list.plugins[0]?.["bridge"], "cni0");
});

test("cniVersions lets the newest common version win", () => {
  const text = JSON.stringify({ cniVersion: "0.4.0", cniVersions: ["1.0.0", "1.1.0", "9.0.0"], name: "n" });
  const list = parseConfList("x.conflist", text.replace("}", `,"plugins":[{"type":"bridge"}]}`));
  assert.equal(list.cniVersion, "1.1.0");
});

const bad: [string, unknown, RegExp][] = [
  ["no object", [], /x\.conflist: configuration: \[\]: must be an object/],
  ["no name", { plugins: [bridge] }, /x\.conflist: name: undefined: must match/],
  ["a path for a name", { name: "../x", plugins: [bridge] }, /name: "\.\.\/x": must match/],
  ["no plugin", { name: "n", plugins: [] }, /plugins: \[\]: must be a list with at least one/],
  ["no list in a conflist", { name: "n", type: "bridge" }, /plugins: undefined: must be a list/],
  ["an unknown version", { name: "n", cniVersion: "2.0.0", plugins: [bridge] }, /cniVersion: "2\.0\.0": not/],
  ["a plugin outside the directories", { name: "n", plugins: [{ type: "../sh" }] }, /plugins\[0\]\.type: /],
  ["no plugin type", { name: "n", plugins: [bridge, {}] }, /plugins\[1\]\.type: undefined/],
  [
    "a capability that is no boolean",
    { name: "n", plugins: [{ type: "a", capabilities: { portMappings: "yes" } }] },
    /plugins\[0\]\.capabilities\.portMappings: "yes": must be true or false/,
  ],
];
for (const [what, json, expected] of bad)
  test(`refused: ${what}`, () => {
    assert.throws(() => parseConfList("x.conflist", JSON.stringify(json)), expected);
  });

test("refused: what is not JSON, with the file's name", () => {
  assert.throws(
    () => parseConfList("/etc/cni/net.d/x.conf", "{"),
    /^IsopodError: \/etc\/cni\/net\.d\/x\.conf: not JSON/,
  );
});

test("addresses are those of eth0 inside the sandbox, in order", () => {
  const result = {
    interfaces: [{ name: "cni0" }, { name: "eth0", sandbox: "/run/netns/a" }, { name: "eth0" }],
    ips: [
      { address: "10.1.0.2/24", interface: 1 },
      { address: "10.9.0.1/24", interface: 0 },
      { address: "10.9.0.2/24", interface: 2 },
      { address: "fd00::2/64" },
    ],
  };
  assert.deepEqual(addressesOf(result, "eth0"), ["10.1.0.2", "fd00::2"]);
});

test("addresses of a 0.2.0 result", () => {
  const result = { ip4: { ip: "10.1.0.2/24" }, ip6: { ip: "fd00::2/64" } };
  assert.deepEqual(addressesOf(result, "eth0"), ["10.1.0.2", "fd00::2"]);
});

test("refused: an address that is none", () => {
  assert.throws(() => addressesOf({ ips: [{ address: "10.1.0/24" }] }, "eth0"), /"10\.1\.0\/24": not an IP/);
});
