import { type SpawnOptions, spawn } from "node:child_process";
import { patience } from "./testbed";

/** The environment for programs that tests run: what would slow down or change every Node child is left out. */
export function cleanEnv(extra: Readonly<Record<string, string>> = {}): Record<string, string> {
  const env: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env)) {
    if (value !== undefined && name !== "NODE_OPTIONS" && name !== "NODE_EXTRA_CA_CERTS") env[name] = value;
  }
  // node --test marks its children; a node that inherits the mark reports to the wrong parent.
  delete env["NODE_TEST_CONTEXT"];
  return { ...env, ...extra };
}

export interface CommandOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly stdin?: string | Uint8Array;
  /** Milliseconds until SIGKILL, more in the testbed; default 60 s. */
  readonly timeoutMs?: number;
  /** Exit codes that are no failure; default 0 only. */
  readonly accept?: readonly number[];
}

export interface CommandResult {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end; throws with its output if it fails. */
export function command(
  file: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const settings: SpawnOptions = { env: cleanEnv(options.env), stdio: ["pipe", "pipe", "pipe"] };
  if (options.cwd !== undefined) settings.cwd = options.cwd;
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, settings);
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout!.on("data", (chunk: Buffer) => out.push(chunk));
    child.stderr!.on("data", (chunk: Buffer) => err.push(chunk));
    child.stdin!.on("error", () => {});
    child.stdin!.end(options.stdin ?? "");
    const timer = setTimeout(() => child.kill("SIGKILL"), (options.timeoutMs ?? 60_000) * patience);
    child.on("error", reject);
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      const status = code ?? 128;
      const result = { status, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() };
      if ((options.accept ?? [0]).includes(status) && signal === null) resolve(result);
      else {
        const how = signal === null ? `exit ${status}` : `killed by ${signal}`;
        reject(new Error(`${file} ${args.join(" ")}: ${how}\n${result.stderr}${result.stdout}`));
      }
    });
  });
}
