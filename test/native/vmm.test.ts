import * as assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { needs, requirement } from "../support/needs";

const root = path.resolve(__dirname, "../../..");

/** Builds a C++ test program under the sanitizers, runs it, and expects TAP without a failure. */
function sanitized(name: string): void {
  const out = path.join(root, "build/sanitized");
  fs.mkdirSync(out, { recursive: true });
  // Test files run side by side and build the same objects.
  const make = ["make", "-s", "-j2", "-f", "test/native/cpp/Makefile", name];
  execFileSync("flock", [path.join(out, "lock"), ...make], { cwd: root, stdio: "pipe" });
  const tap = execFileSync(path.join(out, name), [], { encoding: "utf8" });
  assert.doesNotMatch(tap, /^(not ok|Bail out)/m, tap);
  assert.match(tap, /^1\.\.\d+$/m);
}

/** Opens it: a device node alone says little. */
function kvm(): boolean {
  try {
    fs.closeSync(fs.openSync("/dev/kvm", "r+"));
    return true;
  } catch {
    return false;
  }
}
const needsKvm = needs(requirement(kvm(), "needs /dev/kvm"));

test("guest memory, buses and the event loop, under AddressSanitizer and UBSan", () => sanitized("vmm-test"));

test("the event loop races for nothing: ThreadSanitizer", () => sanitized("vmm-test-threads"));

test("kernel files, boot images and boot tables, hostile ones too, under the sanitizers", () =>
  sanitized("image-test"));

test(
  "toy guests: ports, memory-mapped I/O, kicks, eventfds, interrupts, under the sanitizers",
  needsKvm,
  () => sanitized("kvm-test"),
);

test("machines end and are taken down in any state, under AddressSanitizer and UBSan", needsKvm, () =>
  sanitized("machine-test"),
);

test("machines end and are taken down in any state: ThreadSanitizer", needsKvm, () =>
  sanitized("machine-test-threads"),
);
