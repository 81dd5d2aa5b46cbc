import assert from "node:assert/strict";
import { test } from "node:test";
import { parseArguments, UsageError } from "./arguments";

const host = { memory: 32768, env: { LANG: "C" } };
const parse = (...args: string[]) => parseArguments(args, host);

test("the command begins at the first word that is no option, and is left alone", () => {
  assert.deepEqual(parse("node", "-e", "1", "--systemd").command, ["node", "-e", "1", "--systemd"]);
  assert.deepEqual(parse("--systemd", "--", "--cpus").command, ["--cpus"]);
  assert.equal(parse("node", "--systemd").systemd, false);
});

test("defaults", () => {
  assert.deepEqual(parse("true"), {
    command: ["true"],
    memory: 6144,
    cpus: 2,
    systemd: false,
    disk: 4096,
    icount: false,
    kernel: "bookworm",
    timeout: 1800,
    shell: false,
    env: {},
    console: false,
  });
  assert.equal(parseArguments(["true"], { memory: 7000, env: {} }).memory, 3500, "half of a small host");
});

test("options, with their value behind = or in the next word", () => {
  const options = parse(
    ...["--memory=2G", "--cpus", "1", "--disk", "300M", "--kernel=trixie", "--timeout=9", "--results", "out"],
    ...["--env", "A=b=c", "--env", "LANG", "--console", "--systemd", "true"],
  );
  assert.deepEqual(options, {
    command: ["true"],
    memory: 2048,
    cpus: 1,
    systemd: true,
    disk: 300,
    icount: false,
    kernel: "trixie",
    timeout: 9,
    shell: false,
    env: { A: "b=c", LANG: "C" },
    results: "out",
    console: true,
  });
});

test("counted instructions mean one CPU; a shell needs no command", () => {
  assert.equal(parse("--icount", "--cpus", "4", "true").cpus, 1);
  assert.deepEqual(parse("--shell").command, []);
});

for (const [wrong, ...args] of [
  ["no command"],
  ["unknown option --sytemd", "--sytemd", "true"],
  ["unknown option --systemd=no", "--systemd=no", "true"],
  ["--memory: no value", "--memory"],
  ["--memory: 1T is no size: 512M or 4G", "--memory", "1T", "true"],
  ["--memory: 64 is less than 128", "--memory", "64", "true"],
  ["--cpus: 0 is less than 1", "--cpus", "0", "true"],
  ["--timeout: 1.5 is no number", "--timeout", "1.5", "true"],
  ["--kernel: sarge is none of bookworm, trixie, forky", "--kernel", "sarge", "true"],
  ["--env: 1A names no variable", "--env", "1A=b", "true"],
  ["--env: ABSENT is not set", "--env", "ABSENT", "true"],
] as const) {
  test(`refused: ${wrong}`, () => {
    assert.throws(
      () => parse(...args),
      (error) => error instanceof UsageError && error.message === wrong,
    );
  });
}
