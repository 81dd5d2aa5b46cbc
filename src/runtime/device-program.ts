import { invalid } from "../base/errors";
import type { DeviceRule } from "../oci/runtime-spec";

/**
 * Compiles `linux.resources.devices` into an eBPF program of type BPF_PROG_TYPE_CGROUP_DEVICE. The kernel
 * runs it when a task of the cgroup opens or makes a device node, on
 * struct bpf_cgroup_dev_ctx {u32 access_type; u32 major; u32 minor} with access_type = access << 16 | type, and returns
 * EPERM to the task for 0.
 *
 * In the specification the last rule that matches wins; a program tries rules one by one, so they are
 * emitted from the last to the first. Each access bit is decided for itself: opening read-write needs
 * both bits, be they granted by one rule or by two, and is refused if either was denied. What no rule
 * decides is denied.
 */
const TYPE_BLOCK = 1;
const TYPE_CHAR = 2;
const ACCESS: Readonly<Record<string, number>> = { m: 1, r: 2, w: 4 };
const ALL_ACCESS = 7;

/** Linux' dev_t: 12 bits of major, 20 of minor. */
const MAX_MAJOR = 0xfff;
const MAX_MINOR = 0xfffff;

/** A runtime owes these to every container (its /dev could not work otherwise), whatever the rules say. */
const ALWAYS: readonly DeviceRule[] = [
  { allow: true, type: "c", access: "m" },
  { allow: true, type: "b", access: "m" },
  { allow: true, type: "c", major: 1, minor: 3 }, // null
  { allow: true, type: "c", major: 1, minor: 5 }, // zero
  { allow: true, type: "c", major: 1, minor: 7 }, // full
  { allow: true, type: "c", major: 1, minor: 8 }, // random
  { allow: true, type: "c", major: 1, minor: 9 }, // urandom
  { allow: true, type: "c", major: 5, minor: 0 }, // tty
  { allow: true, type: "c", major: 5, minor: 1 }, // console
  { allow: true, type: "c", major: 5, minor: 2 }, // ptmx
  { allow: true, type: "c", major: 136 }, // pts/*
  { allow: true, type: "c", major: 10, minor: 200 }, // net/tun
];

/** eBPF opcodes: class, size or operation, source. */
const LDX_W = 0x61;
const MOV64_IMM = 0xb7;
const AND32_IMM = 0x54;
const RSH32_IMM = 0x74;
const MOV32_REG = 0xbc;
const JNE32_IMM = 0x56;
const JSET32_IMM = 0x46;
const JA = 0x05;
const EXIT = 0x95;

const RESULT = 0;
const CONTEXT = 1;
const TYPE = 2;
/** Access bits asked for and not yet granted. */
const ASKED = 3;
const MAJOR = 4;
const MINOR = 5;

type Instruction = readonly [code: number, dst: number, src: number, offset: number, imm: number];

interface Rule {
  readonly allow: boolean;
  readonly type: number | undefined;
  readonly major: number | undefined;
  readonly minor: number | undefined;
  readonly access: number;
}

/** struct bpf_insn[]. Throws INVALID_ARGUMENT naming the rule's field and value. */
export function compileDeviceProgram(rules: readonly DeviceRule[]): Uint8Array {
  const code: Instruction[] = [
    [LDX_W, TYPE, CONTEXT, 0, 0],
    [MOV32_REG, ASKED, TYPE, 0, 0],
    [AND32_IMM, TYPE, 0, 0, 0xffff],
    [RSH32_IMM, ASKED, 0, 0, 16],
    [LDX_W, MAJOR, CONTEXT, 4, 0],
    [LDX_W, MINOR, CONTEXT, 8, 0],
  ];
  const read = [...rules.map(readRule), ...ALWAYS.map(readRule)].reverse();
  const last = read.findIndex(decidesAll);
  for (const rule of last < 0 ? read : read.slice(0, last)) code.push(...emitRule(rule));
  code.push(...emitReturn(last >= 0 && read[last]!.allow));
  return encode(code);
}

/** Nothing after (before, in the specification's order) such a rule is ever asked. */
function decidesAll({ type, major, minor, access }: Rule): boolean {
  return type === undefined && major === undefined && minor === undefined && access === ALL_ACCESS;
}

function emitRule({ allow, type, major, minor, access }: Rule): Instruction[] {
  // An allowing rule takes its bits off and ends the program when none is left, a denying one ends it.
  const verdict: Instruction[] = allow
    ? [[AND32_IMM, ASKED, 0, 0, ~access & ALL_ACCESS], [JNE32_IMM, ASKED, 0, 2, 0], ...emitReturn(true)]
    : [[JSET32_IMM, ASKED, 0, 1, access], [JA, 0, 0, 2, 0], ...emitReturn(false)];
  const body: Instruction[] = [...verdict];
  for (const [register, value] of [
    [MINOR, minor],
    [MAJOR, major],
    [TYPE, type],
  ] as const) {
    if (value !== undefined) body.unshift([JNE32_IMM, register, 0, body.length, value]);
  }
  return body;
}

function emitReturn(allow: boolean): Instruction[] {
  return [
    [MOV64_IMM, RESULT, 0, 0, allow ? 1 : 0],
    [EXIT, 0, 0, 0, 0],
  ];
}

function readRule(rule: DeviceRule, index: number): Rule {
  const at = `linux.resources.devices[${index}]`;
  return {
    allow: rule.allow,
    // null is what Go writes for an absent pointer.
    type: readType(rule.type ?? undefined, `${at}.type`),
    major: readNumber(rule.major ?? undefined, MAX_MAJOR, `${at}.major`),
    minor: readNumber(rule.minor ?? undefined, MAX_MINOR, `${at}.minor`),
    access: readAccess(rule.access ?? undefined, `${at}.access`),
  };
}

function readType(type: string | undefined, at: string): number | undefined {
  if (type === undefined || type === "" || type === "a") return undefined;
  if (type === "b") return TYPE_BLOCK;
  if (type === "c") return TYPE_CHAR;
  throw invalid(at, type, "not a, b or c");
}

function readNumber(value: number | undefined, max: number, at: string): number | undefined {
  if (value === undefined || value === -1) return undefined;
  if (Number.isInteger(value) && value >= 0 && value <= max) return value;
  throw invalid(at, value, `not -1 (any) or an integer from 0 to ${max}`);
}

function readAccess(access: string | undefined, at: string): number {
  if (access === undefined || access === "") return ALL_ACCESS;
  let bits = 0;
  for (const letter of access) {
    const bit = ACCESS[letter];
    if (bit === undefined) throw invalid(at, access, "not made of r, w and m");
    bits |= bit;
  }
  return bits;
}

function encode(code: readonly Instruction[]): Uint8Array {
  const out = Buffer.alloc(8 * code.length);
  for (const [index, [opcode, dst, src, offset, imm]] of code.entries()) {
    out.writeUInt8(opcode, 8 * index);
    out.writeUInt8(dst | (src << 4), 8 * index + 1);
    out.writeInt16LE(offset, 8 * index + 2);
    out.writeInt32LE(imm, 8 * index + 4);
  }
  return out;
}
