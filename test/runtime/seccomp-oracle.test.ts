import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { describe, it } from "node:test";
import fc from "fast-check";
import type { Seccomp, SeccompArg, SeccompRule } from "../../src/oci/runtime-spec";
import { defaultSeccomp } from "../../src/runtime/default-seccomp";
import { compileSeccomp } from "../../src/runtime/seccomp";
import {
  MULTIPLEXED,
  type SyscallArch,
  syscallNames,
  syscallNumber,
  X32_BIT,
} from "../../src/runtime/syscalls";
import { interpret, type SeccompData } from "./classic-bpf";
import { compileC, lacksHeader } from "./compile-c";

/**
 * libseccomp compiles the same profile, and both programs run over the same calls. Left out are the places
 * where ours differs on purpose: ENOSYS above the highest named number (runc's rule, which libseccomp does
 * not know), conditions on i386's multiplexed calls, and rules for one call that contradict each other,
 * which libseccomp refuses.
 */
const skip = lacksHeader("seccomp.h");
const target = { arch: "x86_64", kernel: "6.1" } as const;

const ARCHES: readonly { word: string; arch: SyscallArch; token: number; scmp: number; base: number }[] = [
  { word: "SCMP_ARCH_X86_64", arch: "x86_64", token: 0xc000003e, scmp: 0xc000003e, base: 0 },
  { word: "SCMP_ARCH_X86", arch: "x86", token: 0x40000003, scmp: 0x40000003, base: 0 },
  { word: "SCMP_ARCH_X32", arch: "x32", token: 0xc000003e, scmp: 0x4000003e, base: X32_BIT },
];
const FOREIGN = 0x40000028; // ARM: in no filter for x86_64

const ACTIONS: Readonly<Record<string, number>> = {
  SCMP_ACT_KILL_PROCESS: 0x80000000,
  SCMP_ACT_KILL: 0,
  SCMP_ACT_TRAP: 0x30000,
  SCMP_ACT_ERRNO: 0x50000,
  SCMP_ACT_TRACE: 0x7ff00000,
  SCMP_ACT_LOG: 0x7ffc0000,
  SCMP_ACT_ALLOW: 0x7fff0000,
};
const COMPARISONS = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"].map((op) => `SCMP_CMP_${op}`);

const actionOf = (word: string, errnoRet: number | undefined): number =>
  word === "SCMP_ACT_ERRNO" || word === "SCMP_ACT_TRACE" ? ACTIONS[word]! + (errnoRet ?? 1) : ACTIONS[word]!;

/** runc's own reading of the profile, as the oracle's input. */
function describeProfile(seccomp: Seccomp): string {
  const hex = (value: number | bigint): string => value.toString(16);
  const defaultAction = actionOf(seccomp.defaultAction, seccomp.defaultErrnoRet);
  const lines = [`filter ${hex(defaultAction)}`];
  for (const word of seccomp.architectures ?? []) {
    const known = ARCHES.find((arch) => arch.word === word);
    if (known && known.arch !== "x86_64") lines.push(`arch ${hex(known.scmp)}`);
  }
  for (const rule of seccomp.syscalls ?? []) {
    const action = actionOf(rule.action, rule.errnoRet);
    if (action === defaultAction) continue;
    const one = (arg: SeccompArg): string =>
      `${arg.index} ${COMPARISONS.indexOf(arg.op) + 1} ${hex(arg.value)} ${hex(arg.valueTwo ?? 0)}`;
    const args = rule.args ?? [];
    const repeated = new Set(args.map(({ index }) => index)).size < args.length;
    for (const name of rule.names) {
      for (const conditions of repeated ? args.map(one) : [args.map(one).join(" ")]) {
        lines.push(`rule ${hex(action)} ${name} ${conditions}`);
      }
    }
  }
  return `${lines.join("\n")}\nend\n`;
}

function ask(oracle: string, questions: readonly string[]): readonly string[] {
  const input = questions.join("");
  return execFileSync(oracle, { input, encoding: "utf8", maxBuffer: 64 << 20 })
    .trimEnd()
    .split("\n");
}

/** The highest number that the profile names, per convention: above it ours answers ENOSYS. */
function highestNamed(seccomp: Seccomp): ReadonlyMap<SyscallArch, number> {
  const names = (seccomp.syscalls ?? []).flatMap((rule) => rule.names);
  const highest = (arch: SyscallArch): number =>
    Math.max(-1, ...names.map((name) => syscallNumber(arch, name) ?? -1));
  return new Map(ARCHES.map(({ arch }) => [arch, highest(arch)]));
}

function expected(
  seccomp: Seccomp,
  highestBy: ReadonlyMap<SyscallArch, number>,
  theirs: Uint8Array,
  call: SeccompData,
): number {
  const mild = ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"].includes(seccomp.defaultAction);
  const { arch, base } =
    [...ARCHES].reverse().find((a) => a.token === call.arch && call.nr >= a.base) ?? ARCHES[0]!;
  const present = arch === "x86_64" || seccomp.architectures?.includes(`SCMP_ARCH_${arch.toUpperCase()}`);
  const highest = highestBy.get(arch)!;
  if (!mild && present && call.arch !== FOREIGN && highest >= 0 && call.nr - base > highest) return 0x50026;
  return interpret(theirs, call);
}

function compareAll(seccomp: Seccomp, answer: string, calls: readonly SeccompData[]): void {
  assert.match(answer, /^[0-9a-f]+$/, "libseccomp refused the profile");
  const theirs = Buffer.from(answer, "hex");
  const { program: ours } = compileSeccomp(seccomp, target);
  const highest = highestNamed(seccomp);
  for (const call of calls) {
    const want = expected(seccomp, highest, theirs, call);
    const got = interpret(ours, call);
    if (got === want) continue;
    const text = JSON.stringify(call, (_k, v: unknown) =>
      typeof v === "bigint" ? `0x${v.toString(16)}` : v,
    );
    assert.fail(`${text}: 0x${got.toString(16)}, libseccomp 0x${want.toString(16)}`);
  }
}

/** Names that both know, and whose conditions on i386 are not hidden behind a multiplexer. */
const plainNames = syscallNames().filter(
  (name) => (syscallNumber("x86_64", name) ?? 1000) < 335 && !MULTIPLEXED.has(name),
);

const word = fc.oneof(
  fc.bigInt({ min: 0n, max: 5n }),
  fc.bigInt({ min: 0n, max: 0xffffffffffffffffn }),
  fc.constantFrom(0x7fffffffn, 0x80000000n, 0xffffffffn, 0x100000000n, 0x100000001n, 0xffffffffffffffffn),
);
const argument = fc.record({
  index: fc.integer({ min: 0, max: 5 }),
  op: fc.constantFrom(...COMPARISONS),
  value: word,
  valueTwo: word,
});
const action = fc.record(
  {
    action: fc.constantFrom(...Object.keys(ACTIONS)),
    errnoRet: fc.integer({ min: 0, max: 4094 }),
  },
  { requiredKeys: ["action"] },
);
const carriesErrno = (name: string): boolean => name === "SCMP_ACT_ERRNO" || name === "SCMP_ACT_TRACE";

const call = fc.record({
  name: fc.oneof(fc.constantFrom(...plainNames), fc.constantFrom(...plainNames.slice(0, 8))),
  what: action,
  alternatives: fc.array(
    fc.uniqueArray(argument, { minLength: 1, maxLength: 3, selector: ({ index }) => index }),
    { maxLength: 1 },
  ),
});

const profile = fc
  .record({
    what: action,
    architectures: fc.subarray(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]),
    calls: fc.uniqueArray(call, { maxLength: 40, selector: ({ name }) => name }),
  })
  .map(({ what, architectures, calls }): Seccomp => {
    const rules = calls.flatMap(({ name, what: { action, errnoRet }, alternatives }): SeccompRule[] => {
      const base = {
        names: [name],
        action,
        ...(errnoRet !== undefined && carriesErrno(action) ? { errnoRet } : {}),
      };
      return alternatives.length === 0 ? [base] : alternatives.map((args) => ({ ...base, args }));
    });
    const defaultErrno =
      what.errnoRet !== undefined && carriesErrno(what.action) ? { defaultErrnoRet: what.errnoRet } : {};
    return { defaultAction: what.action, ...defaultErrno, architectures, syscalls: rules };
  });

/** Calls at and around everything that `seccomp` mentions. */
function interestingCalls(seccomp: Seccomp, random: () => number): SeccompData[] {
  const calls: SeccompData[] = [{ nr: 1, arch: FOREIGN, args: [] }];
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  for (const rule of seccomp.syscalls ?? []) {
    const values = (rule.args ?? []).flatMap(({ value, valueTwo }) => [BigInt(value), BigInt(valueTwo ?? 0)]);
    const near = [0n, ...values.flatMap((v) => [v, v + 1n, v - 1n, v ^ (1n << 32n), v ^ (1n << 63n)])];
    for (const { arch, token, base } of ARCHES) {
      const number = syscallNumber(arch, rule.names[0]!);
      if (number === undefined) continue;
      const width = arch === "x86" ? 32 : 64; // the kernel widens i386's registers with zeroes
      for (let round = 0; round < 6; round++) {
        const args = Array.from({ length: 6 }, () => BigInt.asUintN(width, pick(near)));
        const nr = base + number + (round === 0 ? 1 : 0);
        calls.push({ nr, arch: token, args });
      }
    }
  }
  for (const { token, base } of ARCHES) {
    calls.push({ nr: base, arch: token, args: [] }, { nr: base + 700, arch: token, args: [] });
  }
  return calls;
}

describe("seccomp against libseccomp", { skip }, () => {
  const oracle = skip ? "" : compileC("seccomp-oracle", "seccomp");

  it("knows the same numbers", () => {
    const tokens: readonly [SyscallArch, number, number][] = [
      ["x86_64", 0xc000003e, 0],
      ["x86", 0x40000003, 0],
      ["x32", 0x4000003e, X32_BIT],
      ["aarch64", 0xc00000b7, 0],
      ["arm", 0x40000028, 0],
    ];
    const names = syscallNames();
    const asked = names.flatMap((name) => tokens.map(([arch, token, base]) => ({ name, arch, token, base })));
    const answers = ask(
      oracle,
      asked.map(({ name, token }) => `resolve ${token.toString(16)} ${name}\n`),
    ).map(Number);
    const known = new Set(asked.filter((_, i) => answers[i] !== -1).map(({ name }) => name));
    assert.ok(known.size > 400);
    for (const [i, { name, arch, base }] of asked.entries()) {
      // Negative: no such call there, or one that a multiplexer makes.
      if (!known.has(name) || (arch === "x86" && MULTIPLEXED.has(name))) continue;
      // An alias that libseccomp gives the number's other name for.
      if (name === "sync_file_range2" && arch === "arm") continue;
      const theirs = answers[i]! < 0 ? undefined : answers[i]! - base;
      assert.equal(syscallNumber(arch, name), theirs, `${name} on ${arch}`);
    }
  });

  it("gives the verdicts of libseccomp for random profiles", () => {
    const profiles = fc.sample(profile, { numRuns: 300, seed: Date.now() });
    const answers = ask(oracle, profiles.map(describeProfile));
    assert.equal(answers.length, profiles.length);
    for (const [i, seccomp] of profiles.entries()) {
      try {
        compareAll(seccomp, answers[i]!, interestingCalls(seccomp, Math.random));
      } catch (error) {
        const text = JSON.stringify(seccomp, (_k, v: unknown) =>
          typeof v === "bigint" ? `0x${v.toString(16)}` : v,
        );
        throw new Error(`${(error as Error).message} in ${text}`);
      }
    }
  });

  for (const capabilities of [[], ["CAP_SYS_ADMIN"], ["CAP_SYS_PTRACE", "CAP_SYS_TIME", "CAP_SYS_CHROOT"]]) {
    it(`gives the verdicts of libseccomp for the default profile with [${capabilities}]`, () => {
      const seccomp = defaultSeccomp(capabilities, target);
      const [answer] = ask(oracle, [describeProfile(seccomp)]);
      const named = (seccomp.syscalls ?? []).flatMap(({ names }) => names);
      const answers = ask(
        oracle,
        named.map((name) => `resolve c000003e ${name}\n`),
      );
      const young = new Set(named.filter((_, i) => answers[i] === "-1"));
      const calls: SeccompData[] = [];
      for (const { arch, token, base } of ARCHES) {
        const tooYoung = new Set([...young].map((name) => syscallNumber(arch, name)));
        for (let nr = 0; nr < 1100; nr++) {
          if (tooYoung.has(nr) || (arch === "x86" && (nr === 102 || nr === 117))) continue;
          for (const arg of [0n, 8n, 16n, 37n, 38n, 39n, 40n, 41n, 0x10000000n, 0x20008n, 0xffffffffn]) {
            calls.push({ nr: base + nr, arch: token, args: [arg] });
          }
        }
      }
      compareAll(seccomp, answer!, calls);
    });
  }
});
