import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import * as path from "node:path";
import { type TestContext, test } from "node:test";
import { IsopodError } from "../../src/base/errors";
import { native, type UnitProperty } from "../../src/native";
import { capability } from "../support/capabilities";
import { needs } from "../support/needs";

const systemd = needs(capability("systemd"));
const timeoutMs = 20_000;
const MANAGER = "org.freedesktop.systemd1.Manager";

const show = (unit: string, property: string): string =>
  execFileSync("systemctl", ["show", "--value", "--property", property, ...(unit ? [unit] : [])], {
    encoding: "utf8",
  }).trim();

/** A scope around a sleeping process, made by systemd's own tool; gone after the test. */
async function scope(t: TestContext): Promise<string> {
  const name = `isopod-test-${process.pid}-${Math.random().toString(36).slice(2)}.scope`;
  const child = spawn("systemd-run", ["--scope", "--quiet", "--unit", name, "sleep", "1000"], {
    stdio: "ignore",
  });
  t.after(() => {
    child.kill("SIGKILL");
  });
  while (show(name, "ActiveState") !== "active") await new Promise((resolve) => setTimeout(resolve, 20));
  return name;
}

const set = (name: string, ...properties: UnitProperty[]) =>
  native().unitSet({ name, properties, timeoutMs });

test("systemd says its version", systemd, async () => {
  const version = await native().unitRead({ interface: MANAGER, property: "Version", timeoutMs });
  assert.equal(version, show("", "Version"));
});

test("a unit's properties are read by its name, whatever characters it has", systemd, async (t) => {
  const name = await scope(t);
  const read = (property: string) =>
    native().unitRead({ name, interface: "org.freedesktop.systemd1.Unit", property, timeoutMs });
  assert.equal(await read("Id"), name);
  assert.equal(await read("ActiveState"), "active");
  await assert.rejects(read("Job"), { step: "read unit" });
});

test("values of every kind of signature reach systemd", systemd, async (t) => {
  const name = await scope(t);
  await set(
    name,
    { name: "TasksMax", signature: "t", value: 77n },
    { name: "MemoryMax", signature: "t", value: 2n ** 64n - 1n },
    { name: "MemoryHigh", signature: "t", value: 1 << 20 },
    { name: "MemoryAccounting", signature: "b", value: true },
    { name: "Description", signature: "s", value: "dö" },
    { name: "AllowedCPUs", signature: "ay", value: new Uint8Array([1]) },
    {
      name: "DeviceAllow",
      signature: "a(ss)",
      value: [
        ["/dev/null", "rw"],
        ["char-pts", "rwm"],
      ],
    },
    { name: "IPAddressAllow", signature: "a(iayu)", value: [[2, new Uint8Array([127, 0, 0, 1]), 32]] },
  );
  assert.equal(show(name, "TasksMax"), "77");
  assert.equal(show(name, "MemoryMax"), "infinity");
  assert.equal(show(name, "MemoryHigh"), `${1 << 20}`);
  assert.equal(show(name, "Description"), "dö");
  assert.equal(show(name, "AllowedCPUs"), "0");
  assert.match(show(name, "DeviceAllow"), /\/dev\/null rw/);
  assert.match(show(name, "IPAddressAllow"), /127\.0\.0\.1/);
});

test("what systemd refuses is told with its words and the unit", systemd, async (t) => {
  const name = await scope(t);
  const fails = async (property: UnitProperty): Promise<IsopodError> => {
    const error: unknown = await set(name, property).then(
      () => assert.fail("was accepted"),
      (reason: unknown) => reason,
    );
    assert.ok(IsopodError.is(error));
    return error;
  };
  const unknown = await fails({ name: "NoSuchThing", signature: "s", value: "" });
  assert.equal(unknown.code, "INVALID_ARGUMENT");
  assert.match(unknown.message, new RegExp(`^changing unit "${name}": .*NoSuchThing`));
  await assert.rejects(set("isopod-none.scope"), { code: "NOT_FOUND", path: "isopod-none.scope" });
});

test("stopping ends a unit's processes and forgets it; an absent one is fine", systemd, async (t) => {
  const name = await scope(t);
  await native().unitStop({ name, timeoutMs });
  assert.equal(show(name, "LoadState"), "not-found");
  await native().unitStop({ name, timeoutMs });
});

test("many calls are under way at once", systemd, async (t) => {
  const names = await Promise.all(Array.from({ length: 8 }, () => scope(t)));
  const value = (index: number) => 100n + BigInt(index);
  await Promise.all(
    names.map((name, index) => set(name, { name: "TasksMax", signature: "t", value: value(index) })),
  );
  assert.deepEqual(
    names.map((name) => show(name, "TasksMax")),
    names.map((_, index) => `${value(index)}`),
  );
  await Promise.all(names.map((name) => native().unitStop({ name, timeoutMs })));
});

test("systemd that executes itself anew loses the connection, not the next call", systemd, async () => {
  const version = () => native().unitRead({ interface: MANAGER, property: "Version", timeoutMs });
  const before = await version();
  execFileSync("systemctl", ["daemon-reexec"]);
  assert.equal(await version(), before);
});

test("from another pid namespace nothing is asked: systemd would take our pids for others", systemd, () => {
  const script = `require(${JSON.stringify(path.resolve(__dirname, "../../src/native"))}).native()
    .unitRead({ interface: "${MANAGER}", property: "Version", timeoutMs: 5000 })
    .then(console.log, (error) => console.log(error.code, error.message))`;
  const args = ["--pid", "--fork", "--mount-proc", process.execPath, "-e", script];
  const said = execFileSync("unshare", args, { encoding: "utf8" });
  assert.match(said, /^FAILED_PRECONDITION connecting to systemd .*: it is not PID 1 here/);
});

test("a value that is not of its signature's type never gets to systemd", async () => {
  const wrong: UnitProperty[] = [
    { name: "A", signature: "", value: "" },
    { name: "A", signature: "ss", value: "" },
    { name: "A", signature: "a", value: [] },
    { name: "A", signature: "()", value: [] },
    { name: "A", signature: "v", value: "" },
    { name: "A", signature: "h", value: 0 },
    { name: "A", signature: `${"a".repeat(20)}s`, value: [] },
    { name: "A", signature: "s", value: 1 },
    { name: "A", signature: "s", value: "nul\0" },
    { name: "A", signature: "b", value: 1 },
    { name: "A", signature: "y", value: 256 },
    { name: "A", signature: "u", value: -1 },
    { name: "A", signature: "i", value: 2 ** 31 },
    { name: "A", signature: "t", value: -1n },
    { name: "A", signature: "t", value: 2n ** 64n },
    { name: "A", signature: "x", value: 2n ** 63n },
    { name: "A", signature: "u", value: 0.5 },
    { name: "A", signature: "u", value: "1" },
    { name: "A", signature: "as", value: "text" },
    { name: "A", signature: "as", value: ["text", 1] },
    { name: "A", signature: "(ss)", value: ["one"] },
    { name: "A", signature: "(ss)", value: ["one", "two", "three"] },
    { name: "A", signature: "ay", value: [1, 2] },
  ];
  for (const property of wrong)
    assert.throws(() => set("isopod-none.scope", property), { code: "INVALID_ARGUMENT", path: "A" });
});
