import assert from "node:assert/strict";
import { test } from "node:test";
import { compileContainer } from "../../src/runtime/compile";
import { compileCached } from "../../src/runtime/plan-cache";
import { sealSpec } from "../../src/runtime/validate";
import { processOf, specOf, target } from "./specs";

const warnings: string[] = [];
type Options = Parameters<typeof compileCached>[0];
const optionsOf = (id: string, more: Partial<Options> = {}): Options => ({
  id,
  spec: specOf(["/bin/true"]),
  bundle: "/bundle",
  rootfs: [],
  stdio: { stdout: `/run/x/${id}.stdout`, stderr: `/run/x/${id}.stderr` },
  gate: undefined,
  base: undefined,
  target,
  dieWithParent: true,
  warn: (message) => void warnings.push(message),
  ...more,
});

test("a plan from the cache is, byte for byte, the one that compiling makes", () => {
  const spec = sealSpec(specOf(["/bin/true"], { hostname: "_ses.c1" }));
  const variants: Partial<Options>[] = [
    {},
    { gate: "/run/x/c1.gate" },
    { stdio: {} },
    { stdio: { stdin: "/run/x/c1.in", stdout: "file:///log/one" } },
    { stdio: { stdin: "/run/x/c1.in", stdout: "file:///log/two" } },
    { stdio: { stdout: "/run/x/same", stderr: "/run/x/same" } },
    { bundle: "/other" },
    { dieWithParent: false },
  ];
  for (const round of ["c1", "c2", "longer"]) {
    for (const variant of variants) {
      const options = optionsOf(round, { spec, ...variant });
      assert.deepEqual(
        Buffer.from(compileCached(options).plan),
        Buffer.from(compileContainer(options).plan),
        `${round} ${JSON.stringify(variant)}`,
      );
    }
  }
});

test("a spec that may still change, and a plan that has something to warn of, are compiled each time", () => {
  const open = specOf(["/bin/true"]);
  const first = Buffer.from(compileCached(optionsOf("c1", { spec: open })).plan);
  Object.assign(open.process!, { args: ["/bin/false"] });
  assert.notDeepEqual(Buffer.from(compileCached(optionsOf("c1", { spec: open })).plan), first);

  const process = processOf(["/bin/true"], { capabilities: { bounding: ["CAP_NOBODY_HAS"] } });
  const warns = sealSpec(specOf([], { process }));
  warnings.length = 0;
  for (const id of ["c1", "c2", "c3"]) compileCached(optionsOf(id, { spec: warns }));
  assert.equal(warnings.length, 3);
});

test("a sealed spec cannot be changed", () => {
  const spec = sealSpec(specOf(["/bin/true"]));
  assert.throws(() => (spec.process!.args as string[]).push("x"), TypeError);
  assert.throws(() => sealSpec({ ociVersion: "1.0.2", process: 1 }), { code: "INVALID_ARGUMENT" });
});
