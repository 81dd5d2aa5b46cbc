import * as fs from "node:fs";
import * as path from "node:path";
import { type ErrorCode, IsopodError, messageOf } from "../base/errors";
import { type Native, native, type Spawned } from "../native";
import { type ConfList, isObject, type PluginConf, versionAtLeast } from "./conflist";

/**
 * The CNI execution protocol (specification §2): a plugin is a program that reads its configuration as
 * JSON from stdin, learns what to do from the environment, and answers with JSON on stdout: a result and
 * exit code 0, or `{"code", "msg", "details"}` and another. What it writes to stderr is for people.
 */
export type Command = "ADD" | "DEL" | "STATUS";

export interface Call {
  readonly command: Command;
  readonly list: ConfList;
  readonly plugin: PluginConf;
  readonly prevResult?: unknown;
  /** Only those that the plugin declared as capabilities are passed on. */
  readonly runtimeConfig: Readonly<Record<string, unknown>>;
  readonly containerId: string;
  readonly netns: string;
  readonly ifname: string;
  readonly args: string;
  readonly timeoutMs: number;
}

/** What ought not to reach a plugin: Node's own knobs, which a plugin written for Node would obey. */
const SCRUBBED = /^(CNI_|NODE_OPTIONS=|NODE_EXTRA_CA_CERTS=)/;

/** Runs one plugin to its end: the parsed result of ADD, undefined for the others. */
export async function callPlugin(
  call: Call,
  binDirs: readonly string[],
  spawn: Native["spawn"] = (options) => native().spawn(options),
): Promise<unknown> {
  const file = findPlugin(call.plugin.type, binDirs);
  const done = await spawn({
    file,
    args: [file],
    env: environment(call, binDirs),
    stdin: Buffer.from(JSON.stringify(stdinOf(call))),
    timeoutMs: Math.max(1, Math.round(call.timeoutMs)),
  });
  if (done.timedOut) {
    const text = `plugin "${call.plugin.type}": ${call.command} not done after ${Math.round(call.timeoutMs)} ms`;
    throw new IsopodError("DEADLINE_EXCEEDED", text, { path: file });
  }
  if (done.status !== 0) throw failure(call, file, done);
  return call.command === "ADD" ? parseResult(call, file, done) : undefined;
}

function findPlugin(type: string, binDirs: readonly string[]): string {
  for (const dir of binDirs) {
    const file = path.join(dir, type);
    try {
      fs.accessSync(file, fs.constants.X_OK);
      return file;
    } catch {
      // The next directory may have it.
    }
  }
  const text = `plugin "${type}": no such executable in ${binDirs.join(", ")}`;
  throw new IsopodError("NOT_FOUND", text, { path: type });
}

/** Spec §3, "Deriving the configuration": the plugin's object plus the list's name, version and our parts. */
function stdinOf(call: Call): Record<string, unknown> {
  const { capabilities = {}, runtimeConfig: _ours, prevResult: _last, ...own } = call.plugin;
  const wanted = Object.entries(call.runtimeConfig).filter(([name]) => capabilities[name] === true);
  // DEL knows prevResult since 0.4.0 only.
  const chained = call.command === "ADD" || versionAtLeast(call.list.cniVersion, "0.4.0");
  return {
    ...own,
    name: call.list.name,
    cniVersion: call.list.cniVersion,
    ...(wanted.length > 0 && { runtimeConfig: Object.fromEntries(wanted) }),
    ...(chained && call.prevResult !== undefined && { prevResult: call.prevResult }),
  };
}

function environment(call: Call, binDirs: readonly string[]): string[] {
  const inherited = Object.entries(process.env).map(([name, value]) => `${name}=${value}`);
  const own = [`CNI_COMMAND=${call.command}`, `CNI_PATH=${binDirs.join(":")}`];
  if (call.command !== "STATUS") {
    own.push(`CNI_CONTAINERID=${call.containerId}`, `CNI_NETNS=${call.netns}`);
    own.push(`CNI_IFNAME=${call.ifname}`, `CNI_ARGS=${call.args}`);
  }
  return [...inherited.filter((entry) => !SCRUBBED.test(entry)), ...own];
}

function parseResult(call: Call, file: string, done: Spawned): unknown {
  const parsed = parseJson(done.stdout);
  if (isObject(parsed)) return parsed;
  const shown = done.stdout.toString("utf8").slice(0, 200);
  const text = `plugin "${call.plugin.type}": result is not a JSON object: ${JSON.stringify(shown)}`;
  throw new IsopodError("INTERNAL", text, { path: file });
}

/** Codes of spec §2 that mean something to our callers; 11 is "try again later". */
const CODES: Readonly<Record<number, ErrorCode>> = {
  7: "INVALID_ARGUMENT",
  11: "UNAVAILABLE",
  50: "UNAVAILABLE",
};

function failure(call: Call, file: string, done: Spawned): IsopodError {
  const parsed = parseJson(done.stdout);
  const told = isObject(parsed) && typeof parsed["msg"] === "string" ? parsed : undefined;
  const code = Number(told?.["code"] ?? 0);
  const parts = told ? [told["msg"], told["details"]] : [done.stderr.toString("utf8").trim()];
  const why = parts.filter((part) => typeof part === "string" && part !== "").join(": ");
  const exit = `exit code ${done.status}${code === 0 ? "" : `, error ${code}`}`;
  const text = `plugin "${call.plugin.type}": ${call.command}: ${why || "no message"} (${exit})`;
  return new IsopodError(CODES[code] ?? "UNKNOWN", text, { step: call.command, path: file });
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString("utf8"));
  } catch (error) {
    return messageOf(error);
  }
}
