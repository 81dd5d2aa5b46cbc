import * as fs from "node:fs";
import * as path from "node:path";
import { IsopodError, invalid, messageOf } from "../../base/errors";
import type { Schema } from "./fields";
import { merge, nearestOf, readTable } from "./read";
import { type Config, handlerKeys, schema } from "./schema";

export type { Config } from "./schema";

const DEFAULT_FILE = "/etc/isopod/config.toml";

/** What the command line may override. */
export interface Overrides {
  readonly root?: string | undefined;
  readonly state?: string | undefined;
  readonly listen?: string | undefined;
  readonly log?: { readonly level: string } | undefined;
}

/** smol-toml describes itself to TypeScript as a module only, so a CommonJS program imports it late. */
const toml = () => import("smol-toml");

/**
 * The configuration in force: defaults, then `file`, then `conf.d/*.toml` beside it by name, then the
 * command line. A file that is named must exist, the default one need not. INVALID_ARGUMENT lists every
 * problem of every file, one a line.
 */
export async function loadConfig(file: string | undefined, overrides: Overrides = {}): Promise<Config> {
  const problems: string[] = [];
  let merged = defaultsOf(schema);
  const layer = (where: string, given: unknown) => {
    const { value, problems: found } = readTable(schema, given);
    problems.push(...found.map((problem) => `${where}: ${problem.message}`));
    merged = merge(merged, value as Record<string, unknown>);
  };
  for (const source of filesOf(file)) {
    const given = await parseFile(source, problems);
    if (given !== undefined) layer(source, given);
  }
  const given = Object.entries(overrides).filter(([, value]) => value !== undefined);
  layer("command line", Object.fromEntries(given));
  const config = merged as unknown as Config;
  if (problems.length === 0) problems.push(...crossChecks(config));
  if (problems.length > 0) throw new IsopodError("INVALID_ARGUMENT", problems.join("\n"));
  return config;
}

function filesOf(file: string | undefined): string[] {
  const main = path.resolve(file ?? DEFAULT_FILE);
  const directory = path.join(path.dirname(main), "conf.d");
  const exists = fs.existsSync(main);
  if (!exists && file !== undefined) throw invalid("--config", file, "no such file");
  const drops = fs.existsSync(directory) ? fs.readdirSync(directory).sort() : [];
  const toml = drops.filter((name) => name.endsWith(".toml")).map((name) => path.join(directory, name));
  return exists ? [main, ...toml] : toml;
}

async function parseFile(file: string, problems: string[]): Promise<unknown> {
  const { parse, TomlError } = await toml();
  try {
    return parse(fs.readFileSync(file, "utf8"));
  } catch (error) {
    const place = error instanceof TomlError ? `:${error.line}:${error.column}` : "";
    problems.push(`${file}${place}: ${messageOf(error).split("\n")[0]}`);
    return undefined;
  }
}

type Tree = Record<string, unknown>;

function defaultsOf(part: Schema): Tree {
  const defaults: Tree = {};
  for (const [key, node] of Object.entries(part)) {
    if (node.kind === "table") defaults[key] = defaultsOf(node.keys);
    else if (node.kind !== "later") defaults[key] = structuredClone(node.default);
  }
  return defaults;
}

/** What no single key shows. Handlers are completed here, since the names are the user's. */
function crossChecks(config: Config): string[] {
  const problems: IsopodError[] = [];
  const handlers = config.handlers as Record<string, Config["handlers"][string]>;
  for (const [name, given] of Object.entries(handlers)) {
    const handler = merge(defaultsOf(handlerKeys), given) as typeof given;
    if (handler.runtime_type === "") {
      problems.push(invalid(`handlers.${name}.runtime_type`, "", "must be given"));
    }
    handlers[name] = handler;
  }
  if (!Object.hasOwn(handlers, config.default_handler)) {
    const nearest = nearestOf(config.default_handler, Object.keys(handlers));
    const hint = nearest ? `, did you mean "${nearest}"?` : "";
    problems.push(invalid("default_handler", config.default_handler, `no such handler${hint}`));
  }
  if (inside(config.state, config.root) || inside(config.root, config.state)) {
    problems.push(invalid("state", config.state, `must lie apart from root, "${config.root}"`));
  }
  return problems.map(({ message }) => message);
}

const inside = (inner: string, outer: string): boolean => inner === outer || inner.startsWith(`${outer}/`);

/** The default file, each key with its meaning. */
export function defaultFile(): string {
  const lines: string[] = [];
  writeTable(schema, "", lines);
  return `${lines.join("\n").trim()}\n`;
}

function writeTable(part: Schema, at: string, lines: string[]): void {
  for (const [key, node] of Object.entries(part)) {
    if (node.kind === "value") lines.push(`# ${node.doc}`, `${key} = ${inline(node.default)}`);
  }
  for (const [key, node] of Object.entries(part)) {
    const name = at === "" ? key : `${at}.${key}`;
    if (node.kind === "table") {
      lines.push("", `# ${node.doc}`, `[${name}]`);
      writeTable(node.keys, name, lines);
    } else if (node.kind === "named") {
      lines.push("", `# ${node.doc}`);
      for (const [entry, value] of Object.entries(node.default)) {
        lines.push(`[${name}.${entry}]`);
        writeEntry(node.keys, value as Tree, lines);
      }
    }
  }
}

function writeEntry(keys: Schema, entry: Tree, lines: string[]): void {
  for (const [key, value] of Object.entries(entry)) {
    const node = keys[key];
    if (node?.kind === "value") lines.push(`# ${node.doc}`, `${key} = ${inline(value)}`);
  }
}

/** Strings, numbers and lists are written in TOML as in JSON. */
function inline(value: unknown): string {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return JSON.stringify(value);
  const pairs = Object.entries(value).map(([name, inner]) => `${name} = ${inline(inner)}`);
  return pairs.length === 0 ? "{}" : `{ ${pairs.join(", ")} }`;
}

/** The configuration in force as a file. */
export async function dumpFile(config: Config): Promise<string> {
  return (await toml()).stringify(config);
}
