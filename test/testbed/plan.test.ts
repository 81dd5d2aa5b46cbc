import assert from "node:assert/strict";
import { test } from "node:test";
import { flavours, neverRun, type Outcome } from "./plan";

test("a file goes to one machine, the one with systemd if any of its tests needs that", () => {
  const lacking = [
    { file: "b.js", capability: "cgroup2:memory" },
    { file: "a.js", capability: "cgroup2:memory" },
    { file: "a.js", capability: "systemd" },
    { file: "b.js", capability: "swap" },
    { file: "dist/floor/b.js", capability: "swap" },
  ];
  assert.deepEqual(flavours(lacking, ["c.js", "b.js", "a.js"]), {
    plain: ["b.js", "c.js"],
    systemd: ["a.js"],
  });
  assert.deepEqual(flavours([], []), { plain: [], systemd: [] });
});

test("a test that was skipped for the testbed has to run there", () => {
  const skipped = (name: string, reason: string): Outcome => ({ file: "a", name, outcome: "skip", reason });
  const here = [
    skipped("passes", "in the testbed: swap"),
    skipped("fails", "in the testbed: swap; no skopeo"),
    skipped("skips", "in the testbed: swap"),
    skipped("is lost", "in the testbed: swap"),
    skipped("has no peer", "no skopeo"),
    { file: "a", name: "ran", outcome: "pass" } as const,
  ];
  const there = [
    { file: "a", name: "passes", outcome: "pass" },
    { file: "a", name: "fails", outcome: "fail" },
    { file: "a", name: "skips", outcome: "skip", reason: "no skopeo" },
    { file: "b", name: "is lost", outcome: "pass" },
  ] as const;
  assert.deepEqual(neverRun(here, there), [
    "a: skips (no skopeo)",
    "a: is lost (not among the tests that ran there)",
  ]);
});
