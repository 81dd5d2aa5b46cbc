import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { IsopodError } from "../../src/base/errors";
import type { Seccomp, SeccompArg, SeccompRule } from "../../src/oci/runtime-spec";
import { defaultSeccomp } from "../../src/runtime/default-seccomp";
import { compileSeccomp } from "../../src/runtime/seccomp";
import { type SyscallArch, syscallNames, syscallNumber, X32_BIT } from "../../src/runtime/syscalls";
import { interpret } from "./classic-bpf";

const x86 = { arch: "x86_64", kernel: "6.1" } as const;
const arm = { arch: "aarch64", kernel: "6.1" } as const;

const ALLOW = 0x7fff0000;
const KILL_THREAD = 0;
const errno = (number: number): number => 0x50000 + number;
const ENOSYS = errno(38);
const EPERM = errno(1);

const TOKENS: Readonly<Record<SyscallArch, number>> = {
  x86_64: 0xc000003e,
  x86: 0x40000003,
  x32: 0xc000003e,
  aarch64: 0xc00000b7,
  arm: 0x40000028,
};

/** The verdict of `seccomp` on a call by its name. */
function verdict(seccomp: Seccomp, arch: SyscallArch, name: string, ...args: readonly bigint[]): number {
  const { program } = compileSeccomp(seccomp, arch === "aarch64" || arch === "arm" ? arm : x86);
  const nr = syscallNumber(arch, name)! + (arch === "x32" ? X32_BIT : 0);
  return interpret(program, { nr, arch: TOKENS[arch], args });
}

const allowing = (...syscalls: readonly SeccompRule[]): Seccomp => ({
  defaultAction: "SCMP_ACT_ERRNO",
  architectures: ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
  syscalls,
});

const allow = (name: string, ...args: readonly SeccompArg[]): SeccompRule => ({
  names: [name],
  action: "SCMP_ACT_ALLOW",
  args,
});

const refusal = (code: string, message: RegExp) => (error: unknown) => {
  assert.ok(IsopodError.is(error));
  assert.equal(error.code, code);
  assert.match(error.message, message);
  return true;
};

describe("seccomp", () => {
  it("returns every action's value", () => {
    const values = {
      SCMP_ACT_KILL: 0,
      SCMP_ACT_KILL_THREAD: 0,
      SCMP_ACT_KILL_PROCESS: 0x80000000,
      SCMP_ACT_TRAP: 0x30000,
      SCMP_ACT_ERRNO: 0x50007,
      SCMP_ACT_TRACE: 0x7ff00007,
      SCMP_ACT_LOG: 0x7ffc0000,
      SCMP_ACT_ALLOW: ALLOW,
    };
    for (const [action, value] of Object.entries(values)) {
      const errnoRet = action.endsWith("ERRNO") || action.endsWith("TRACE") ? { errnoRet: 7 } : {};
      const profile = {
        defaultAction: "SCMP_ACT_ERRNO",
        syscalls: [{ names: ["read"], action, ...errnoRet }],
      };
      assert.equal(verdict(profile, "x86_64", "read"), value, action);
    }
  });

  it("takes EPERM for an error number that is not given, and an explicit 0 for 0", () => {
    const rule = (errnoRet?: number): Seccomp => ({
      defaultAction: "SCMP_ACT_ALLOW",
      syscalls: [
        { names: ["read"], action: "SCMP_ACT_ERRNO", ...(errnoRet === undefined ? {} : { errnoRet }) },
      ],
    });
    assert.equal(verdict(rule(), "x86_64", "read"), EPERM);
    assert.equal(verdict(rule(0), "x86_64", "read"), errno(0));
    const profile = { ...allowing(allow("read"), allow("write")), defaultErrnoRet: 13 };
    assert.equal(verdict(profile, "x86_64", "read"), ALLOW);
    assert.equal(verdict({ ...profile, syscalls: [allow("futex_wait")] }, "x86_64", "read"), errno(13));
  });

  it("kills the thread of a convention that the profile does not have", () => {
    const profile = { ...allowing(allow("read")), architectures: ["SCMP_ARCH_X86_64"] };
    assert.equal(verdict(profile, "x86_64", "read"), ALLOW);
    assert.equal(verdict(profile, "x86", "read"), KILL_THREAD);
    assert.equal(verdict(profile, "x32", "read"), KILL_THREAD);
    assert.equal(verdict(profile, "aarch64", "read"), ALLOW); // native there
    assert.equal(verdict(profile, "arm", "read"), KILL_THREAD);
  });

  it("accepts architectures that this machine cannot run", () => {
    const profile = { ...allowing(allow("read")), architectures: ["SCMP_ARCH_S390X", "SCMP_ARCH_ARM"] };
    assert.equal(verdict(profile, "x86_64", "read"), ALLOW);
    assert.equal(verdict(profile, "arm", "read"), ALLOW);
  });

  it("answers ENOSYS above the highest number that the profile names", () => {
    const profile = allowing(allow("statx"), allow("faccessat2"));
    for (const arch of ["x86_64", "x86", "x32"] as const) {
      assert.equal(verdict(profile, arch, "faccessat2"), ALLOW);
      assert.equal(verdict(profile, arch, "openat2"), EPERM);
      assert.equal(verdict(profile, arch, "process_madvise"), ENOSYS);
    }
    const logging = { ...profile, defaultAction: "SCMP_ACT_LOG" };
    assert.equal(verdict(logging, "x86_64", "process_madvise"), 0x7ffc0000);
    const nothing = { defaultAction: "SCMP_ACT_ERRNO" };
    assert.equal(verdict(nothing, "x86_64", "process_madvise"), EPERM);
  });

  it("lets a rule without conditions take the place of those with, in any order", () => {
    const trap: SeccompRule = {
      names: ["close"],
      action: "SCMP_ACT_TRAP",
      args: [{ index: 0, value: 1, op: "SCMP_CMP_EQ" }],
    };
    for (const rules of [
      [trap, allow("close")],
      [allow("close"), trap],
    ]) {
      assert.equal(verdict(allowing(...rules), "x86_64", "close", 1n), ALLOW);
    }
  });

  it("makes alternatives of two conditions on one argument", () => {
    const profile = allowing(
      allow("close", { index: 0, value: 1, op: "SCMP_CMP_EQ" }, { index: 0, value: 2, op: "SCMP_CMP_EQ" }),
      allow("dup", { index: 0, value: 1, op: "SCMP_CMP_EQ" }, { index: 1, value: 2, op: "SCMP_CMP_EQ" }),
    );
    assert.equal(verdict(profile, "x86_64", "close", 1n), ALLOW);
    assert.equal(verdict(profile, "x86_64", "close", 2n), ALLOW);
    assert.equal(verdict(profile, "x86_64", "close", 3n), EPERM);
    assert.equal(verdict(profile, "x86_64", "dup", 1n, 2n), ALLOW);
    assert.equal(verdict(profile, "x86_64", "dup", 1n, 3n), EPERM);
  });

  it("holds on i386's multiplexed way in as well", () => {
    const refuseSockets: Seccomp = {
      defaultAction: "SCMP_ACT_ALLOW",
      architectures: ["SCMP_ARCH_X86"],
      syscalls: [
        {
          names: ["socket"],
          action: "SCMP_ACT_ERRNO",
          args: [{ index: 0, value: 38, op: "SCMP_CMP_EQ" }],
        },
        { names: ["shmget"], action: "SCMP_ACT_ERRNO" },
      ],
    };
    assert.equal(verdict(refuseSockets, "x86", "socket", 2n), ALLOW);
    assert.equal(verdict(refuseSockets, "x86", "socket", 38n), EPERM);
    // The family is in memory: any socket is refused.
    assert.equal(verdict(refuseSockets, "x86", "socketcall", 1n), EPERM);
    assert.equal(verdict(refuseSockets, "x86", "socketcall", 2n), ALLOW);
    assert.equal(verdict(refuseSockets, "x86", "ipc", 23n), EPERM);
    assert.equal(verdict(refuseSockets, "x86", "ipc", 0x10017n), EPERM, "version 1 of shmget");
    const allowOne = allowing(allow("socket", { index: 0, value: 2, op: "SCMP_CMP_EQ" }), allow("bind"));
    assert.equal(verdict(allowOne, "x86", "socketcall", 1n), EPERM);
    assert.equal(verdict(allowOne, "x86", "socketcall", 2n), ALLOW);
  });

  it("reports names that are no system call, and only those", () => {
    const profile = allowing({
      names: ["read", "frobnicate", "arm_fadvise64_64", "semop", "constructor"],
      action: "SCMP_ACT_ALLOW",
    });
    assert.deepEqual(compileSeccomp(profile, x86).skipped, ["frobnicate", "constructor"]);
    assert.deepEqual(compileSeccomp(defaultSeccomp([], x86), x86).skipped, []);
    assert.deepEqual(compileSeccomp(defaultSeccomp([], arm), arm).skipped, []);
  });

  it("turns flags into bits", () => {
    const flags = (...words: string[]): number =>
      compileSeccomp({ ...allowing(), flags: words.map((w) => `SECCOMP_FILTER_FLAG_${w}`) }, x86).flags;
    assert.equal(flags(), 0);
    assert.equal(flags("TSYNC"), 1);
    assert.equal(flags("LOG", "SPEC_ALLOW"), 6);
    // Says how notifications are received: there are none, and the kernel refuses it then.
    assert.equal(flags("WAIT_KILLABLE_RECV"), 0);
  });

  it("refuses what it cannot do, by name", () => {
    const refuse = (profile: Partial<Seccomp>, code: string, message: RegExp): void =>
      assert.throws(() => compileSeccomp({ ...allowing(), ...profile }, x86), refusal(code, message));
    const args = (arg: Partial<SeccompArg>): Partial<Seccomp> => ({
      syscalls: [allow("read", { index: 0, value: 0, op: "SCMP_CMP_EQ", ...arg })],
    });
    refuse(
      { defaultAction: "SCMP_ACT_NOTIFY" },
      "UNIMPLEMENTED",
      /linux\.seccomp\.defaultAction: "SCMP_ACT_NOTIFY"/,
    );
    refuse({ listenerPath: "/run/x" }, "UNIMPLEMENTED", /linux\.seccomp\.listenerPath: "\/run\/x"/);
    refuse({ listenerMetadata: "x" }, "UNIMPLEMENTED", /listenerMetadata/);
    refuse(
      { syscalls: [allow("read"), { names: ["read"], action: "SCMP_ACT_NOTIFY" }] },
      "UNIMPLEMENTED",
      /syscalls\[1\]\.action: "SCMP_ACT_NOTIFY"/,
    );
    refuse(
      { defaultAction: "ALLOW" },
      "INVALID_ARGUMENT",
      /defaultAction: "ALLOW": not one of SCMP_ACT_KILL,/,
    );
    refuse({ architectures: ["x86"] }, "INVALID_ARGUMENT", /architectures\[0\]: "x86"/);
    refuse({ flags: ["NEW_LISTENER"] }, "INVALID_ARGUMENT", /flags\[0\]: "NEW_LISTENER"/);
    refuse({ defaultErrnoRet: 4096 }, "INVALID_ARGUMENT", /defaultErrnoRet: 4096/);
    refuse({ defaultAction: "SCMP_ACT_ALLOW", defaultErrnoRet: 2 }, "INVALID_ARGUMENT", /defaultErrnoRet: 2/);
    refuse(
      { syscalls: [{ names: [], action: "SCMP_ACT_ALLOW" }] },
      "INVALID_ARGUMENT",
      /syscalls\[0\]\.names/,
    );
    refuse(args({ index: 6 }), "INVALID_ARGUMENT", /syscalls\[0\]\.args\[0\]\.index: 6/);
    refuse(args({ op: "SCMP_CMP_XX" }), "INVALID_ARGUMENT", /args\[0\]\.op: "SCMP_CMP_XX"/);
    refuse(args({ value: -1 }), "INVALID_ARGUMENT", /args\[0\]\.value: -1/);
    refuse(args({ value: 2 ** 64 }), "INVALID_ARGUMENT", /args\[0\]\.value: 18446744073709552000/);
    refuse(args({ value: 1n << 64n }), "INVALID_ARGUMENT", /args\[0\]\.value/);
  });

  it("bridges jumps that a conditional one cannot span", () => {
    const names = syscallNames().filter((name) => (syscallNumber("x86_64", name) ?? 1000) < 200);
    const rules = names.map((name, i): SeccompRule => {
      const args = [0, 1, 2].map((index) => ({ index, value: (BigInt(i) << 33n) + 5n, op: "SCMP_CMP_EQ" }));
      return { names: [name], action: "SCMP_ACT_ERRNO", errnoRet: i, args };
    });
    const profile = { defaultAction: "SCMP_ACT_ALLOW", syscalls: rules };
    assert.ok(compileSeccomp(profile, x86).program.length / 8 > 2000);
    for (const [i, name] of names.entries()) {
      const value = (BigInt(i) << 33n) + 5n;
      assert.equal(verdict(profile, "x86_64", name, value, value, value), errno(i), name);
      assert.equal(verdict(profile, "x86_64", name, value, value, value + 1n), ALLOW, name);
    }
    const tooLong = { ...profile, syscalls: [...rules, ...rules] };
    assert.throws(() => compileSeccomp(tooLong, x86), refusal("INVALID_ARGUMENT", /of 4096 instructions/));
  });

  it("compiles a profile once for equal contents", () => {
    const again = (value: number | bigint): Uint8Array =>
      compileSeccomp(allowing(allow("read", { index: 0, value, op: "SCMP_CMP_EQ" })), x86).program;
    assert.equal(again(77), again(77));
    assert.notEqual(again(77), again(78));
    assert.deepEqual(again(77), again(77n));
  });
});

describe("default seccomp profile", () => {
  it("keeps AF_ALG and AF_VSOCK shut, whatever the upper half of the argument says", () => {
    const profile = defaultSeccomp([], x86);
    for (let family = 0n; family < 64n; family++) {
      const want = family === 38n || family === 40n ? EPERM : ALLOW;
      for (const upper of [0n, 1n << 32n, 0xffffffffn << 32n]) {
        assert.equal(verdict(profile, "x86_64", "socket", upper | family), want, `${family}`);
      }
    }
  });

  it("lets nobody make namespaces without CAP_SYS_ADMIN", () => {
    const without = defaultSeccomp(["CAP_CHOWN"], x86);
    const CLONE_NEWUSER = 0x10000000n;
    const CLONE_THREAD = 0x00010000n;
    assert.equal(verdict(without, "x86_64", "clone", CLONE_NEWUSER | CLONE_THREAD), EPERM);
    assert.equal(verdict(without, "x86_64", "clone", CLONE_THREAD), ALLOW);
    assert.equal(verdict(without, "x86_64", "clone3", 0n), ENOSYS);
    for (const name of ["unshare", "setns", "mount", "bpf"])
      assert.equal(verdict(without, "x86_64", name), EPERM);
    const admin = defaultSeccomp(["CAP_SYS_ADMIN"], x86);
    for (const name of ["clone", "clone3", "unshare", "setns", "mount", "bpf"]) {
      assert.equal(verdict(admin, "x86_64", name, CLONE_NEWUSER), ALLOW);
    }
  });

  it("refuses io_uring, keyrings and userfaultfd to everybody", () => {
    const profile = defaultSeccomp(["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"], x86);
    for (const arch of ["x86_64", "x86", "x32"] as const) {
      for (const name of ["io_uring_setup", "keyctl", "add_key", "userfaultfd", "kexec_load", "pivot_root"]) {
        assert.equal(verdict(profile, arch, name), EPERM, `${name} on ${arch}`);
      }
    }
  });
});

/** What a profile means, read word by word: the model that the compiler is held against. */
function model(seccomp: Seccomp, name: string, args: readonly bigint[], narrow: boolean): number {
  const width = narrow ? 32 : 64;
  const values: Readonly<Record<string, number>> = {
    SCMP_ACT_KILL_PROCESS: 0x80000000,
    SCMP_ACT_TRAP: 0x30000,
    SCMP_ACT_ERRNO: EPERM,
    SCMP_ACT_ALLOW: ALLOW,
  };
  const holds = ({ index, op, value, valueTwo }: SeccompArg): boolean => {
    const a = BigInt.asUintN(width, args[index] ?? 0n);
    const b = BigInt.asUintN(width, BigInt(value));
    if (op === "SCMP_CMP_NE") return a !== b;
    if (op === "SCMP_CMP_LT") return a < b;
    if (op === "SCMP_CMP_LE") return a <= b;
    if (op === "SCMP_CMP_EQ") return a === b;
    if (op === "SCMP_CMP_GE") return a >= b;
    if (op === "SCMP_CMP_GT") return a > b;
    return (a & b) === (BigInt.asUintN(width, BigInt(valueTwo ?? 0)) & b);
  };
  const rules = (seccomp.syscalls ?? []).filter(
    (rule) => rule.names.includes(name) && rule.action !== seccomp.defaultAction,
  );
  const always = rules.find((rule) => !rule.args?.length);
  const met = always ?? rules.find((rule) => rule.args!.every(holds));
  return values[met?.action ?? seccomp.defaultAction]!;
}

describe("seccomp properties", () => {
  const names = ["read", "write", "lseek", "openat2"];
  const word = fc.oneof(
    fc.bigInt({ min: 0n, max: 3n }),
    fc.constantFrom(0x7fffffffn, 0xffffffffn, 0x100000000n, 0x100000001n, 0xffffffff00000001n),
    fc.bigInt({ min: 0n, max: 0xffffffffffffffffn }),
  );
  const condition = fc.record({
    index: fc.integer({ min: 0, max: 2 }),
    op: fc.constantFrom(...["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"].map((op) => `SCMP_CMP_${op}`)),
    // A mask of 0 would make a rule without conditions of one: tested above.
    value: word.map((value) => value | 1n),
    valueTwo: word,
  });
  const action = fc.constantFrom(
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_ALLOW",
  );
  const rule = fc.record({
    names: fc.subarray(names, { minLength: 1 }),
    action,
    args: fc.uniqueArray(condition, { maxLength: 3, selector: ({ index }) => index }),
  });
  const profile = fc.record({
    defaultAction: action,
    architectures: fc.constant(["SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
    syscalls: fc.array(rule, { maxLength: 12 }),
  });

  it("decides as the model does, contradictions included", () => {
    fc.assert(
      fc.property(
        profile,
        fc.array(fc.array(word, { minLength: 3, maxLength: 3 }), { maxLength: 20 }),
        (p, calls) => {
          for (const arch of ["x86_64", "x86", "x32"] as const) {
            for (const name of names) {
              const highest = Math.max(
                ...p.syscalls.flatMap((r) => r.names).map((n) => syscallNumber(arch, n)!),
              );
              const young = syscallNumber(arch, name)! > highest && highest >= 0;
              for (const args of calls) {
                const given = arch === "x86" ? args.map((a) => BigInt.asUintN(32, a)) : args;
                const want =
                  young && p.defaultAction !== "SCMP_ACT_ALLOW"
                    ? ENOSYS
                    : model(p, name, given, arch !== "x86_64");
                assert.equal(verdict(p, arch, name, ...given), want, `${name} on ${arch} (${given})`);
              }
            }
          }
        },
      ),
      { numRuns: 300 },
    );
  });

  it("answers any call of any architecture, and fails no read or jump", () => {
    const { program } = compileSeccomp(defaultSeccomp([], x86), x86);
    const call = fc.record({
      nr: fc.oneof(fc.integer({ min: 0, max: 0xffffffff }), fc.integer({ min: 0, max: 600 })),
      arch: fc.oneof(fc.constantFrom(...Object.values(TOKENS)), fc.integer({ min: 0, max: 0xffffffff })),
      args: fc.array(word, { minLength: 6, maxLength: 6 }),
    });
    fc.assert(
      fc.property(call, (data) => {
        assert.ok([ALLOW, EPERM, ENOSYS, KILL_THREAD].includes(interpret(program, data)));
      }),
      { numRuns: 2000 },
    );
  });
});
