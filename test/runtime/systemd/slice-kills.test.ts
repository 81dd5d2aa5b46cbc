import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { after, describe, test } from "node:test";
import * as fc from "fast-check";
import { SliceKills } from "../../../src/runtime/systemd/slice-kills";

const top = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-kills-"));
after(() => fs.rmSync(top, { recursive: true }));

let count = 0;

/** A slice on paper: directories whose memory.events count as the kernel's do, a scope's kills above it, too. */
class Slice {
  readonly dir = fs.mkdtempSync(path.join(top, "s-"));
  readonly kills = new Map<string, number>();
  total: number;
  constructor(before = 0) {
    this.total = before;
    this.#write(this.dir, before);
  }
  scope(): string {
    const dir = path.join(this.dir, `${count++}.scope`);
    fs.mkdirSync(dir);
    this.kills.set(dir, 0);
    this.#write(dir, 0);
    return dir;
  }
  kill(scope: string, times = 1): void {
    this.kills.set(scope, this.kills.get(scope)! + times);
    this.#write(scope, this.kills.get(scope)!);
    this.total += times;
    this.#write(this.dir, this.total);
  }
  remove(scope: string): void {
    fs.rmSync(scope, { recursive: true });
  }
  #write(dir: string, kills: number): void {
    fs.writeFileSync(path.join(dir, "memory.events"), `low 0\nhigh 0\nmax 9\noom 1\noom_kill ${kills}\n`);
  }
}

describe("OOM kills of a slice", () => {
  test("a scope that can be read is read", () => {
    const slice = new Slice(5);
    const scope = slice.scope();
    const kills = new SliceKills();
    kills.enter(scope);
    slice.kill(scope, 2);
    assert.equal(kills.leave(scope, 1), 2);
  });

  test("what was killed in a scope that has gone is found above it", () => {
    const slice = new Slice(5);
    const [victim, other] = [slice.scope(), slice.scope()];
    const kills = new SliceKills();
    for (const scope of [victim, other]) kills.enter(scope);
    slice.kill(other);
    slice.kill(victim);
    slice.remove(victim);
    assert.equal(kills.leave(victim, 0), 1);
    slice.remove(other);
    assert.equal(kills.leave(other, 0), 1);
  });

  test("a later server counts from what it finds", () => {
    const slice = new Slice();
    const [a, b] = [slice.scope(), slice.scope()];
    slice.kill(a, 3);
    slice.kill(b, 4);
    const kills = new SliceKills();
    for (const scope of [a, b]) kills.enter(scope);
    slice.kill(b);
    slice.remove(b);
    assert.equal(kills.leave(b, 0), 5);
    assert.equal(kills.leave(a, 0), 3);
  });

  test("without the memory controller, or once the slice has gone, what was seen is all", () => {
    const slice = new Slice();
    const scope = slice.scope();
    const kills = new SliceKills();
    kills.enter(scope);
    fs.rmSync(slice.dir, { recursive: true });
    assert.equal(kills.leave(scope, 2), 2);
    assert.equal(kills.leave(scope, 2), 2);
  });

  test("whoever is looked at in time or not: every kill is told once, and of whom it was", () => {
    const step = fc.record({ scope: fc.nat(4), act: fc.constantFrom("kill", "end", "vanish") });
    fc.assert(
      fc.property(fc.nat(3), fc.array(step, { maxLength: 30 }), (before, steps) => {
        const slice = new Slice(before);
        const kills = new SliceKills();
        const living = Array.from({ length: 5 }, () => slice.scope());
        for (const scope of living) kills.enter(scope);
        for (const { scope: index, act } of steps) {
          const scope = living[index]!;
          if (act === "kill") {
            slice.kill(scope);
            continue;
          }
          if (act === "vanish") slice.remove(scope);
          assert.equal(kills.leave(scope, 0), slice.kills.get(scope));
          // Another one takes its place.
          living[index] = slice.scope();
          kills.enter(living[index]!);
        }
      }),
      { numRuns: 50 },
    );
  });
});
