import * as assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import { needs, requirement } from "../support/needs";

const root = path.resolve(__dirname, "../../..");
const vmm = (...names: readonly string[]) => names.map((name) => `native/vmm/${name}.cc`);

/** Builds a C++ test program under the sanitizers, runs it, and expects TAP without a failure. */
function sanitized(name: string, sources: readonly string[], flags = "-fsanitize=address,undefined"): void {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-vmm-"));
  try {
    const program = path.join(dir, name);
    execFileSync(
      "g++",
      [
        ...["-std=c++17", "-O1", "-g", flags, "-fno-sanitize-recover=all"],
        ...["-Inative", "-o", program, `test/native/cpp/${name}.cc`, ...sources],
      ],
      { cwd: root, stdio: "pipe" },
    );
    const tap = execFileSync(program, [], { encoding: "utf8" });
    assert.doesNotMatch(tap, /^(not ok|Bail out)/m, tap);
    assert.match(tap, /^1\.\.\d+$/m);
  } finally {
    fs.rmSync(dir, { recursive: true });
  }
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

test(
  "toy guests on KVM: ports, memory-mapped I/O, kicks, eventfds and interrupts, under the sanitizers",
  needs(requirement(kvm(), "needs /dev/kvm")),
  () => sanitized("kvm-test", vmm("bus", "event_loop", "kvm", "memory", "thread", "vcpu")),
);

test("guest memory, buses and the event loop, under the sanitizers", () =>
  sanitized("vmm-test", vmm("bus", "event_loop", "memory", "thread")));

test("kernel files, boot images and boot tables, hostile ones too, under the sanitizers", () =>
  sanitized("image-test", vmm("acpi", "aml", "boot", "boot_image", "kernel", "kvm", "lz4", "memory")));

test("the event loop races for nothing: ThreadSanitizer", () =>
  sanitized("vmm-test", vmm("bus", "event_loop", "memory", "thread"), "-fsanitize=thread"));
