import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { after, describe, it } from "node:test";
import type { Seccomp } from "../../src/oci/runtime-spec";
import { defaultSeccomp } from "../../src/runtime/default-seccomp";
import { compileSeccomp, type SeccompTarget } from "../../src/runtime/seccomp";
import { type SyscallArch, syscallNumber } from "../../src/runtime/syscalls";
import { compileC } from "./compile-c";

/** Filters that the kernel has checked and installed, and what it then does with real calls. */
const native: SyscallArch = process.arch === "arm64" ? "aarch64" : "x86_64";
const target: SeccompTarget = { arch: native === "aarch64" ? "aarch64" : "x86_64", kernel: os.release() };

const EPERM = "ret -1";
const ENOSYS = "ret -38";
const EAFNOSUPPORT = "ret -97";
const SIGSYS = "signal 31";

describe("seccomp in the kernel", () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "seccomp-"));
  after(() => fs.rmSync(directory, { recursive: true }));
  const probe = compileC("seccomp-probe");

  /** Each call in a process of its own below the filter: what became of it. */
  function outcomes(seccomp: Seccomp, calls: readonly (readonly [string, ...bigint[]])[], arch = native) {
    const { program, flags } = compileSeccomp(seccomp, target);
    const file = path.join(directory, "filter");
    fs.writeFileSync(file, program);
    const convention = arch === "x86" ? 32 : 64;
    const lines = calls.map(([name, ...args]) =>
      [convention, ...[syscallNumber(arch, name)!, ...args].map((word) => word.toString(16))].join(" "),
    );
    const { stdout, stderr } = spawnSync(probe, [file, String(flags)], {
      input: `${lines.join("\n")}\n`,
      encoding: "utf8",
    });
    assert.equal(stderr, "");
    return stdout.trimEnd().split("\n");
  }

  it("takes every action", () => {
    const rule = (name: string, action: string, errnoRet?: number) => ({
      names: [name],
      action: `SCMP_ACT_${action}`,
      ...(errnoRet === undefined ? {} : { errnoRet }),
    });
    const profile: Seccomp = {
      defaultAction: "SCMP_ACT_ALLOW",
      flags: [
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
      ],
      syscalls: [
        rule("getppid", "ERRNO", 7),
        rule("getuid", "KILL_PROCESS"),
        rule("getgid", "KILL"),
        rule("geteuid", "TRAP"),
        rule("getegid", "TRACE", 3),
        rule("sync", "LOG"),
      ],
    };
    const calls = (["getppid", "getuid", "getgid", "geteuid", "getegid", "umask"] as const).map(
      (name) => [name, 0o22n] as const,
    );
    // TRACE without a tracer is ENOSYS.
    assert.deepEqual(outcomes(profile, calls), ["ret -7", SIGSYS, SIGSYS, SIGSYS, ENOSYS, "ret 18"]);
  });

  it("installs the default profile, and it means what it says", () => {
    const calls = [
      ["socket", 1n, 1n, 0n],
      ["socket", 38n, 5n, 0n],
      ["socket", (1n << 32n) | 38n, 5n, 0n],
      ["socket", 60n, 1n, 0n],
      ["personality", 0xffffffffn],
      ["personality", 0x40000n],
      ["unshare", 0x10000000n],
      ["clone3", 0n, 0n],
      ["io_uring_setup", 1n, 0n],
      ["mount", 0n, 0n, 0n, 0n, 0n],
    ] as const;
    const found = outcomes(defaultSeccomp([], target), calls);
    assert.match(found[0]!, /^ret \d+$/, "a unix socket");
    assert.deepEqual(found.slice(1, 4), [EPERM, EPERM, EAFNOSUPPORT]);
    assert.match(found[4]!, /^ret \d+$/, "asking for the personality");
    assert.deepEqual(found.slice(5), [EPERM, EPERM, ENOSYS, EPERM, EPERM]);
  });

  it("compares 64-bit arguments", () => {
    const compare = (op: string, value: bigint, valueTwo = 0n): Seccomp => ({
      defaultAction: "SCMP_ACT_ALLOW",
      syscalls: [
        {
          names: ["getppid"],
          action: "SCMP_ACT_ERRNO",
          errnoRet: 9,
          args: [{ index: 0, op: `SCMP_CMP_${op}`, value, valueTwo }],
        },
      ],
    });
    const edge = 0x1_0000_0002n;
    const around = [0n, 2n, 3n, edge - 1n, edge, edge + 1n, 0x2_0000_0000n];
    const met = (op: string, value: bigint, valueTwo?: bigint): readonly bigint[] => {
      const answers = outcomes(
        compare(op, value, valueTwo),
        around.map((arg) => ["getppid", arg] as const),
      );
      return around.filter((_, i) => answers[i] === "ret -9");
    };
    assert.deepEqual(met("EQ", edge), [edge]);
    assert.deepEqual(
      met("NE", edge),
      around.filter((arg) => arg !== edge),
    );
    assert.deepEqual(
      met("LT", edge),
      around.filter((arg) => arg < edge),
    );
    assert.deepEqual(
      met("LE", edge),
      around.filter((arg) => arg <= edge),
    );
    assert.deepEqual(
      met("GT", edge),
      around.filter((arg) => arg > edge),
    );
    assert.deepEqual(
      met("GE", edge),
      around.filter((arg) => arg >= edge),
    );
    assert.deepEqual(met("MASKED_EQ", 0x1_0000_0001n, 0x1_0000_0000n), [edge]);
  });

  const i386 =
    native === "x86_64" &&
    outcomes({ defaultAction: "SCMP_ACT_ALLOW", architectures: ["SCMP_ARCH_X86"] }, [["getpid"]], "x86")[0]!;
  const lacks = i386 && /^ret [1-9]/.test(i386) ? false : "needs a kernel that runs i386 calls";

  it("filters i386 calls by their own numbers", { skip: lacks }, () => {
    const profile: Seccomp = {
      defaultAction: "SCMP_ACT_ALLOW",
      architectures: ["SCMP_ARCH_X86"],
      syscalls: [{ names: ["getppid", "socket"], action: "SCMP_ACT_ERRNO" }],
    };
    const [ppid, pid, socketcall] = outcomes(
      profile,
      [["getppid"], ["getpid"], ["socketcall", 1n, 0n]],
      "x86",
    );
    assert.equal(ppid, EPERM);
    assert.match(pid!, /^ret [1-9]/);
    assert.equal(socketcall, EPERM);
    assert.deepEqual(outcomes({ defaultAction: "SCMP_ACT_ALLOW" }, [["getpid"]], "x86"), [SIGSYS]);
  });
});
