import * as os from "node:os";
import { type Options, parseArguments, UsageError, usage } from "./arguments";
import { failed, run } from "./run";

/** `npm run testbed -- …`: see docs/testbed.md. */
async function main(): Promise<number> {
  let options: Options;
  try {
    const host = { memory: os.totalmem() / 1024 / 1024, env: process.env };
    options = parseArguments(process.argv.slice(2), host);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(`testbed: ${error.message}\n${usage}`);
    return failed.boot;
  }
  const terminal = options.shell && process.stdin.isTTY;
  const machine = run(options, {
    stdout: process.stdout,
    stderr: process.stderr,
    ...(options.shell ? { stdin: process.stdin } : {}),
  });
  for (const [signal, code] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ] as const) {
    process.on(signal, () => machine.end(code));
  }
  // npm, when killed outright, leaves its script behind; the terminal's signals reach both.
  const parent = process.ppid;
  const orphaned = setInterval(() => process.ppid !== parent && machine.end(129), 500);
  orphaned.unref();
  if (terminal) process.stdin.setRawMode(true);
  try {
    return await machine.status;
  } finally {
    if (terminal) process.stdin.setRawMode(false);
  }
}

main().then(
  (status) => process.exit(status),
  (error: Error) => {
    console.error(`testbed: ${error.message}`);
    process.exit(failed.boot);
  },
);
