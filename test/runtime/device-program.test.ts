import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { describe, it } from "node:test";
import fc from "fast-check";
import { IsopodError } from "../../src/base/errors";
import type { DeviceRule } from "../../src/oci/runtime-spec";
import { compileDeviceProgram } from "../../src/runtime/device-program";
import { cgroup2Mount } from "../support/host";
import { needs, requirement } from "../support/needs";
import { compileC } from "./compile-c";

interface Attempt {
  readonly type: "b" | "c";
  readonly major: number;
  readonly minor: number;
  /** Letters of rwm. */
  readonly access: string;
}

const BITS: Readonly<Record<string, number>> = { m: 1, r: 2, w: 4 };
const bitsOf = (access: string): number => [...access].reduce((all, letter) => all | BITS[letter]!, 0);

/** Runs an eBPF program of the instructions that device programs are made of. */
function interpret(program: Uint8Array, { type, major, minor, access }: Attempt): boolean {
  const code = Buffer.from(program.buffer, program.byteOffset, program.byteLength);
  const context = [(bitsOf(access) << 16) | (type === "b" ? 1 : 2), major, minor];
  const registers: number[] = Array(11).fill(0);
  for (let pc = 0; pc < code.length / 8; pc++) {
    const at = 8 * pc;
    const registersByte = code.readUInt8(at + 1);
    const dst = registersByte & 15;
    const src = registersByte >> 4;
    const offset = code.readInt16LE(at + 2);
    const imm = code.readInt32LE(at + 4);
    const value = registers[dst]!;
    switch (code.readUInt8(at)) {
      case 0x61: // ldxw
        registers[dst] = context[offset / 4]!;
        break;
      case 0xb7: // mov
        registers[dst] = imm;
        break;
      case 0xbc: // mov32 reg
        registers[dst] = registers[src]! >>> 0;
        break;
      case 0x54: // and32
        registers[dst] = (value & imm) >>> 0;
        break;
      case 0x74: // rsh32
        registers[dst] = value >>> imm;
        break;
      case 0x56: // jne32
        if (value !== imm >>> 0) pc += offset;
        break;
      case 0x46: // jset32
        if ((value & imm) !== 0) pc += offset;
        break;
      case 0x05: // ja
        pc += offset;
        break;
      case 0x95: // exit
        return registers[0] === 1;
      default:
        assert.fail(`instruction ${pc}: unknown code 0x${code.readUInt8(at).toString(16)}`);
    }
  }
  assert.fail("ran off the end of the program");
}

const denyAll: DeviceRule = { allow: false, access: "rwm" };
const open = (major: number, minor: number, access: string): Attempt => ({ type: "c", major, minor, access });
const allowed = (rules: readonly DeviceRule[], attempt: Attempt): boolean =>
  interpret(compileDeviceProgram(rules), attempt);

describe("device program", () => {
  it("denies what no rule allows, and always allows the devices of /dev and mknod", () => {
    for (const rules of [[], [denyAll]]) {
      for (const [major, minor] of [
        [1, 3],
        [1, 5],
        [1, 7],
        [1, 8],
        [1, 9],
        [5, 0],
        [5, 1],
        [5, 2],
        [136, 7],
      ]) {
        assert.ok(allowed(rules, open(major!, minor!, "rw")), `${major}:${minor}`);
      }
      assert.ok(!allowed(rules, open(1, 1, "r")), "mem");
      assert.ok(allowed(rules, open(1, 1, "m")));
      assert.ok(!allowed(rules, { type: "b", major: 8, minor: 0, access: "r" }));
      assert.ok(!allowed(rules, { type: "b", major: 1, minor: 3, access: "r" }), "a block device 1:3");
    }
  });

  it("lets the last matching rule win", () => {
    const kmsg = { allow: true, type: "c", major: 1, minor: 11, access: "rw" };
    assert.ok(allowed([denyAll, kmsg], open(1, 11, "rw")));
    assert.ok(!allowed([kmsg, denyAll], open(1, 11, "r")));
    assert.ok(!allowed([denyAll, kmsg, { ...kmsg, allow: false }], open(1, 11, "r")));
    assert.ok(allowed([{ allow: true }], { type: "b", major: 8, minor: 0, access: "rw" }), "privileged");
  });

  it("decides every access bit by itself", () => {
    const rule = (allow: boolean, access: string): DeviceRule => ({
      allow,
      type: "c",
      major: 1,
      minor: 11,
      access,
    });
    assert.ok(allowed([rule(true, "r"), rule(true, "w")], open(1, 11, "rw")));
    assert.ok(!allowed([rule(true, "r")], open(1, 11, "rw")));
    assert.ok(!allowed([rule(true, "rwm"), rule(false, "w")], open(1, 11, "rw")));
    assert.ok(allowed([rule(true, "rwm"), rule(false, "w")], open(1, 11, "r")));
  });

  it("refuses malformed rules by field and value", () => {
    const refuse = (rule: Partial<DeviceRule>, message: RegExp): void =>
      assert.throws(
        () => compileDeviceProgram([denyAll, { allow: true, ...rule }]),
        (error) => IsopodError.is(error) && error.code === "INVALID_ARGUMENT" && message.test(error.message),
      );
    refuse({ type: "p" }, /linux\.resources\.devices\[1\]\.type: "p"/);
    refuse({ major: 4096 }, /devices\[1\]\.major: 4096/);
    refuse({ minor: -2 }, /devices\[1\]\.minor: -2/);
    refuse({ access: "rx" }, /devices\[1\]\.access: "rx"/);
  });

  it("decides as the model does for random rules", () => {
    const number = fc.constantFrom(-1, 1, 3, 8);
    const access = fc.constantFrom("r", "w", "m", "rw", "rm", "wm", "rwm");
    const rule = fc.record(
      { allow: fc.boolean(), type: fc.constantFrom("a", "b", "c", ""), major: number, minor: number, access },
      { requiredKeys: ["allow"] },
    );
    const attempt = fc.record({
      type: fc.constantFrom("b", "c"),
      major: fc.constantFrom(1, 3, 8, 60),
      minor: fc.constantFrom(1, 8, 60),
      access,
    });
    const any = (value: number | undefined): boolean => value === undefined || value === -1;
    const model = (rules: readonly Partial<DeviceRule>[], asked: Attempt): boolean =>
      [...asked.access].every((letter) => {
        if (letter === "m" || (asked.type === "c" && asked.major === 1 && asked.minor === 8)) return true;
        const last = [...rules].reverse().find((r) => {
          if (r.type && r.type !== "a" && r.type !== asked.type) return false;
          if (!any(r.major) && r.major !== asked.major) return false;
          if (!any(r.minor) && r.minor !== asked.minor) return false;
          return (r.access ?? "rwm").includes(letter);
        });
        return last?.allow ?? false;
      });
    fc.assert(
      fc.property(
        fc.array(rule, { maxLength: 8 }),
        fc.array(attempt, { maxLength: 20 }),
        (rules, attempts) => {
          const program = compileDeviceProgram(rules as DeviceRule[]);
          for (const asked of attempts)
            assert.equal(interpret(program, asked), model(rules, asked), JSON.stringify(asked));
        },
      ),
      { numRuns: 500 },
    );
  });
});

describe(
  "device program in the kernel",
  needs(requirement(cgroup2Mount() !== undefined, "needs cgroup2")),
  () => {
    const EPERM = 1;
    const ENXIO = 6; // passed the filter; no driver behind the number

    it("is what decides over mknod and open", () => {
      const probe = compileC("device-probe");
      const directory = fs.mkdtempSync(path.join(os.tmpdir(), "device-program-"));
      const cgroup = fs.mkdtempSync(path.join(cgroup2Mount()!, "isopod-devices-"));
      const run = (rules: readonly DeviceRule[], lines: readonly string[]): readonly number[] => {
        const file = path.join(directory, "program");
        fs.writeFileSync(file, compileDeviceProgram(rules));
        const { stdout, stderr } = spawnSync(probe, [file, cgroup], {
          input: `${lines.join("\n")}\n`,
          encoding: "utf8",
        });
        assert.equal(stderr, "");
        return stdout.trim().split("\n").map(Number);
      };
      try {
        const container = [denyAll, { allow: true, type: "c", major: 240, minor: 7, access: "r" }];
        assert.deepEqual(
          run(container, [
            "mknod c 240 9",
            "open c 1 3 rw",
            "open c 1 1 r",
            "open c 240 7 r",
            "open c 240 7 rw",
            "open c 240 8 r",
            "open b 7 250 r",
          ]),
          [0, 0, EPERM, ENXIO, EPERM, EPERM, EPERM],
        );
      } finally {
        fs.rmdirSync(cgroup);
        fs.rmSync(directory, { recursive: true });
      }
    });

    it("lets a privileged container open everything", () => {
      const probe = compileC("device-probe");
      const directory = fs.mkdtempSync(path.join(os.tmpdir(), "device-program-"));
      const cgroup = fs.mkdtempSync(path.join(cgroup2Mount()!, "isopod-devices-"));
      try {
        const file = path.join(directory, "program");
        fs.writeFileSync(file, compileDeviceProgram([{ allow: true }]));
        const { stdout } = spawnSync(probe, [file, cgroup], {
          input: "open c 1 11 r\nopen c 240 7 rw\n",
          encoding: "utf8",
        });
        assert.equal(stdout, `0\n${ENXIO}\n`);
      } finally {
        fs.rmdirSync(cgroup);
        fs.rmSync(directory, { recursive: true });
      }
    });
  },
);
