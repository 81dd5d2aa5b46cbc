import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { IsopodError } from "../../src/base/errors";
import { containerd } from "../../src/gen/shim";
import { parseStarted, ShimBinaries } from "../../src/task/binary";

const started = (text: string | Uint8Array) => parseStarted(Buffer.from(text as string), "/shim");

test("the answer of start is read in each of its three forms", () => {
  assert.deepEqual(started("unix:///run/s/abc\n"), { version: 2, address: "unix:///run/s/abc" });
  assert.deepEqual(started('{"version":3,"address":"unix:///run/s/abc","protocol":"ttrpc"}'), {
    version: 3,
    address: "unix:///run/s/abc",
  });
  const result = { version: 3, address: "unix:///run/s/abc", protocol: "ttrpc" };
  const bytes = containerd.runtime.bootstrap.v1.BootstrapResult.encode(result).finish();
  assert.deepEqual(started(bytes), { version: 3, address: "unix:///run/s/abc" });
});

test("an answer that is no address is an error that names the binary", () => {
  for (const text of [
    "",
    "{",
    "(node:12) ExperimentalWarning: x",
    '{"version":3,"address":"unix:///a","protocol":"grpc"}',
    "vsock://3:1",
  ]) {
    assert.throws(
      () => started(text),
      (error) => IsopodError.is(error) && error.message.includes("/shim"),
      text,
    );
  }
});

test("whatever start prints, reading it ends in an address or an IsopodError", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
      try {
        assert.ok(started(bytes).address.length > 0);
      } catch (error) {
        assert.ok(IsopodError.is(error), String(error));
      }
    }),
    { numRuns: 2000 },
  );
});

test("a runtime type that no binary runs is refused, with where it was looked for", () => {
  const binaries = new ShimBinaries({ address: "/x/shim.sock", namespace: "k8s.io" }, ["/nowhere"]);
  const find = (runtimeType: string) => binaries.find({ name: "h", runtimeType });
  assert.throws(() => find("io.containerd.absent.v9"), /containerd-shim-absent-v9 in \/nowhere/);
  assert.throws(() => find("nodots"), /handlers\.h\.runtime_type: "nodots"/);
  assert.equal(binaries.find({ name: "h", runtimeType: "x", path: "/opt/shim" }).file, "/opt/shim");
});
