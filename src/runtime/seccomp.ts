import { invalid } from "../base/errors";
import type { Seccomp } from "../oci/runtime-spec";
import { BpfAssembler, JEQ, JGE, JGT, type Label, OFFSET_ARCH, OFFSET_NR, offsetOfArg } from "./seccomp-bpf";
import { type Condition, ENOSYS, type Profile, RET, readProfile, type Verdict } from "./seccomp-profile";
import {
  isSyscall,
  MULTIPLEXED,
  type MultiplexedCall,
  type SyscallArch,
  syscallNumber,
  X32_BIT,
} from "./syscalls";

/**
 * Compiles an OCI seccomp profile into the classic BPF program that seccomp(2) takes.
 *
 *     load arch ── x86_64 ── load nr ── below bit 30: tree of x86_64
 *               │                    └─ else: tree of x32, or kill
 *               ├─ i386 ──── load nr ── tree of i386
 *               └─ else ──── kill the thread
 *
 * A tree is a binary search over the ranges of numbers that share a verdict (about 60 for the default
 * profile), so a call costs some eight instructions; a leaf returns an action, or looks at arguments first.
 * Only leaves with conditions read arguments: the kernel (5.11) then keeps the others in its bitmap of calls
 * that are always allowed and does not run the filter for them at all.
 */
export interface SeccompTarget {
  readonly arch: "x86_64" | "aarch64";
  /** As uname says, e.g. `6.1.0-18-amd64`. */
  readonly kernel: string;
}

export interface SeccompProgram {
  /** struct sock_filter[] */
  readonly program: Uint8Array;
  /** For seccomp(2). */
  readonly flags: number;
  /** Names that are no system call of any architecture isopod knows: the rules for them do nothing. */
  readonly skipped: readonly string[];
}

/** One calling convention within an audit architecture. */
interface Section {
  readonly arch: SyscallArch;
  readonly word: string;
  /** Arguments are 32 bits wide. */
  readonly narrow: boolean;
}

/** <linux/audit.h>; the first section is the native one, which every filter has. */
const AUDIT: Readonly<
  Record<SeccompTarget["arch"], readonly { token: number; sections: readonly Section[] }[]>
> = {
  x86_64: [
    {
      token: 0xc000003e,
      sections: [
        { arch: "x86_64", word: "X86_64", narrow: false },
        { arch: "x32", word: "X32", narrow: true },
      ],
    },
    { token: 0x40000003, sections: [{ arch: "x86", word: "X86", narrow: true }] },
  ],
  aarch64: [
    { token: 0xc00000b7, sections: [{ arch: "aarch64", word: "AARCH64", narrow: false }] },
    { token: 0x40000028, sections: [{ arch: "arm", word: "ARM", narrow: true }] },
  ],
};

/** BPF_MAXINSNS */
const MAX_INSTRUCTIONS = 4096;
const MAX_CACHED = 32;

const cache = new Map<string, SeccompProgram>();

/**
 * Throws INVALID_ARGUMENT for a malformed profile, UNIMPLEMENTED for NOTIFY and its listener.
 * Results are cached by the profile's content: callers must not write to them.
 */
export function compileSeccomp(seccomp: Seccomp, target: SeccompTarget): SeccompProgram {
  const key = `${target.arch} ${JSON.stringify(seccomp, (_key, value: unknown) =>
    typeof value === "bigint" ? `\0${value}` : value,
  )}`;
  const compiled = cache.get(key) ?? compile(readProfile(seccomp), target);
  cache.delete(key); // the youngest entry comes last
  cache.set(key, compiled);
  if (cache.size > MAX_CACHED) cache.delete(cache.keys().next().value!);
  return compiled;
}

function compile(profile: Profile, target: SeccompTarget): SeccompProgram {
  const out = new BpfAssembler();
  const audits = AUDIT[target.arch];
  const native = audits[0]!.sections[0]!;
  const wanted = ({ arch, word }: Section): boolean =>
    arch === native.arch || profile.architectures.has(word);
  let start = out.ret(RET.killThread);
  for (const { token, sections } of [...audits].reverse()) {
    if (!sections.some(wanted)) continue;
    const other = start;
    start = emitAudit(out, profile, sections.filter(wanted));
    start = out.branch(JEQ, token, start, other);
  }
  out.load(OFFSET_ARCH);
  if (out.length > MAX_INSTRUCTIONS) {
    throw invalid("linux.seccomp.syscalls", profile.calls.size, `needs ${out.length} of 4096 instructions`);
  }
  return {
    program: out.finish(),
    flags: profile.flags,
    skipped: [...profile.calls.keys()].filter((name) => !isSyscall(name)),
  };
}

/** A tree per calling convention; x32 is told from x86_64 by bit 30 of the number. */
function emitAudit(out: BpfAssembler, profile: Profile, sections: readonly Section[]): Label {
  const [main, second] = sections;
  if (main!.arch !== "x86_64") {
    out.goto(emitTree(out, profile, main!));
    return out.load(OFFSET_NR);
  }
  // -1 is what a tracer sets to have a call skipped: not an x32 call.
  const high = second
    ? emitTree(out, profile, second)
    : out.branch(JEQ, 0xffffffff, out.ret(profile.defaultAction), out.ret(RET.killThread));
  const low = emitTree(out, profile, main!);
  out.branch(JGE, X32_BIT, high, low);
  return out.load(OFFSET_NR);
}

/** From number `from` to the next segment's: an action, or conditions to look at. */
interface Segment {
  readonly from: number;
  readonly leaf: number | Verdict;
}

function emitTree(out: BpfAssembler, profile: Profile, section: Section): Label {
  const segments = segmentsOf(profile, section);
  const emit = (first: number, end: number): Label => {
    if (end - first === 1) return emitLeaf(out, segments[first]!.leaf, profile.defaultAction, section.narrow);
    const middle = (first + end) >>> 1;
    const upper = emit(middle, end);
    const lower = emit(first, middle);
    return out.branch(JGE, segments[middle]!.from, upper, lower);
  };
  return emit(0, segments.length);
}

function segmentsOf(profile: Profile, section: Section): readonly Segment[] {
  const base = section.arch === "x32" ? X32_BIT : 0;
  const verdicts = verdictsOf(profile, section.arch);
  const segments: Segment[] = [];
  const add = (from: number, leaf: number | Verdict): void => {
    if (segments.at(-1)?.leaf !== leaf) segments.push({ from: base + from, leaf });
  };
  let next = 0;
  for (const number of Uint32Array.from(verdicts.keys()).sort()) {
    if (number > next) add(next, profile.defaultAction);
    const verdict = verdicts.get(number)!;
    add(number, verdict.always ?? (verdict.when.length > 0 ? verdict : profile.defaultAction));
    next = number + 1;
  }
  add(next, next > 0 && answersEnosys(profile) ? RET.errno + ENOSYS : profile.defaultAction);
  return segments;
}

/**
 * A call younger than the profile fails with ENOSYS, as runc has it: libraries take EPERM for a final answer
 * and do not fall back to the older call. Younger means above the highest number that the profile names.
 */
function answersEnosys({ defaultAction }: Profile): boolean {
  const kind = (defaultAction & 0xffff0000) >>> 0;
  return kind !== RET.allow && kind !== RET.log && kind !== RET.trace;
}

function verdictsOf(profile: Profile, arch: SyscallArch): ReadonlyMap<number, Verdict> {
  const found = new Map<number, Verdict>();
  const add = (number: number, verdict: Verdict): void => {
    const known = found.get(number);
    found.set(number, known ? inOrder(known, verdict) : verdict);
  };
  for (const [name, verdict] of profile.calls) {
    const number = syscallNumber(arch, name);
    if (number !== undefined) add(number, verdict);
    const multiplexed = arch === "x86" ? MULTIPLEXED.get(name) : undefined;
    if (multiplexed) {
      const when = throughMultiplexer(verdict, multiplexed, profile.defaultAction);
      add(syscallNumber(arch, multiplexed.by)!, { when });
    }
  }
  return found;
}

/** Two names of one call, or several calls behind a multiplexer. */
function inOrder(first: Verdict, second: Verdict): Verdict {
  const always = first.always ?? second.always;
  return { when: [...first.when, ...second.when], ...(always === undefined ? {} : { always }) };
}

/**
 * The arguments of a multiplexed call are out of sight, so a condition on them is taken as met where the
 * rule is stricter than the default, and as not met where it is milder.
 */
function throughMultiplexer(
  verdict: Verdict,
  { by, call }: MultiplexedCall,
  defaultAction: number,
): Verdict["when"] {
  // ipc(2) takes a version in the upper half of its first argument.
  const mask = by === "ipc" ? 0xffffn : 0xffffffffn;
  const conditions: readonly Condition[] = [{ arg: 0, op: "MASKED_EQ", value: BigInt(call), mask }];
  if (verdict.always !== undefined) return [{ conditions, action: verdict.always }];
  return verdict.when
    .filter(({ action }) => (action & 0xffff0000) < (defaultAction & 0xffff0000))
    .map(({ action }) => ({ conditions, action }));
}

function emitLeaf(out: BpfAssembler, leaf: number | Verdict, defaultAction: number, narrow: boolean): Label {
  if (typeof leaf === "number") return out.ret(leaf);
  let next = out.ret(defaultAction);
  for (const { conditions, action } of [...leaf.when].reverse()) {
    let start = out.ret(action);
    for (const condition of [...conditions].reverse())
      start = emitCondition(out, condition, narrow, start, next);
    next = start;
  }
  return next;
}

/** `narrow` calls (of 32-bit conventions) have 32-bit arguments: the kernel looks at nothing else. */
function emitCondition(
  out: BpfAssembler,
  condition: Condition,
  narrow: boolean,
  yes: Label,
  no: Label,
): Label {
  const { arg, op, value, mask } = condition;
  switch (op) {
    case "NE":
      return emitCondition(out, { arg, op: "EQ", value, mask }, narrow, no, yes);
    case "LT":
      return emitCondition(out, { arg, op: "GE", value, mask }, narrow, no, yes);
    case "LE":
      return emitCondition(out, { arg, op: "GT", value, mask }, narrow, no, yes);
  }
  const low = Number(value & 0xffffffffn);
  const high = Number(value >> 32n);
  const code = op === "GT" ? JGT : op === "GE" ? JGE : JEQ;
  const lowMask = Number(mask & 0xffffffffn);
  const highMask = Number(mask >> 32n);
  let start = yes;
  if (lowMask !== 0) start = emitWord(out, offsetOfArg(arg), lowMask, code, low, yes, no);
  if (narrow || highMask === 0) return start;
  const offset = offsetOfArg(arg) + 4;
  if (code === JEQ) return emitWord(out, offset, highMask, JEQ, high, start, no);
  out.branch(JEQ, high, start, no);
  // The upper halves decide alone unless they are equal.
  if (high !== 0xffffffff) out.branch(JGT, high, yes, { at: out.length - 1 });
  return out.load(offset);
}

function emitWord(
  out: BpfAssembler,
  offset: number,
  mask: number,
  code: number,
  value: number,
  yes: Label,
  no: Label,
): Label {
  out.branch(code, value, yes, no);
  if (mask !== 0xffffffff) out.and(mask);
  return out.load(offset);
}
