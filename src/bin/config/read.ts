import { IsopodError, invalid, messageOf } from "../../base/errors";
import { isTable, type Node, refuseLater, type Schema } from "./fields";

/** Checks what one file says. Collects every problem: whoever mends a file wants to mend it once. */
export function readTable(schema: Schema, given: unknown): { value: object; problems: IsopodError[] } {
  const problems: IsopodError[] = [];
  const value = visit(schema, "", given, problems);
  return { value, problems };
}

type Tree = Record<string, unknown>;

function visit(schema: Schema, at: string, given: unknown, problems: IsopodError[]): Tree {
  const read: Tree = {};
  attempt(problems, () => {
    if (!isTable(given)) throw invalid(at, given, "must be a table");
    for (const [key, value] of Object.entries(given)) {
      const field = at === "" ? key : `${at}.${key}`;
      const node = Object.hasOwn(schema, key) ? schema[key] : undefined;
      if (node === undefined) problems.push(unknownKey(schema, field, key, value));
      else
        attempt(problems, () => {
          read[key] = visitNode(node, field, value, problems);
        });
    }
  });
  return read;
}

function visitNode(node: Node, field: string, given: unknown, problems: IsopodError[]): unknown {
  switch (node.kind) {
    case "value":
      return node.read(field, given);
    case "table":
      return visit(node.keys, field, given, problems);
    case "later":
      return refuseLater(field, given);
    case "named": {
      if (!isTable(given)) throw invalid(field, given, "must be a table");
      const named: Tree = {};
      for (const [name, value] of Object.entries(given)) {
        attempt(problems, () => checkName(field, name));
        named[name] = visit(node.keys, `${field}.${name}`, value, problems);
      }
      return named;
    }
  }
}

/** A handler is named in RuntimeClass objects, so it is a DNS label. */
function checkName(field: string, name: string): void {
  if (!/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(name)) {
    throw invalid(field, name, "a name has at most 63 lower-case letters, digits and inner hyphens");
  }
}

function attempt(problems: IsopodError[], read: () => void): void {
  try {
    read();
  } catch (error) {
    problems.push(
      IsopodError.is(error) ? error : new IsopodError("INTERNAL", messageOf(error), { cause: error }),
    );
  }
}

function unknownKey(schema: Schema, field: string, key: string, value: unknown): IsopodError {
  const nearest = nearestOf(key, Object.keys(schema));
  const parent = field.slice(0, field.length - key.length);
  return invalid(field, value, `unknown key${nearest ? `, did you mean "${parent}${nearest}"?` : ""}`);
}

/** The known word that a typing mistake away from `word`, if there is one. */
export function nearestOf(word: string, known: readonly string[]): string | undefined {
  const ranked = known
    .map((candidate) => ({ candidate, edits: edits(word, candidate) }))
    .sort((a, b) => a.edits - b.edits);
  const best = ranked[0];
  return best && best.edits <= Math.max(2, Math.floor(word.length / 3)) ? best.candidate : undefined;
}

/** Levenshtein's distance, row by row. */
function edits(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replace = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replace, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}

/** Tables are merged key by key; any other value replaces the one before. */
export function merge(under: Tree, over: Tree): Tree {
  const merged: Tree = { ...under };
  for (const [key, value] of Object.entries(over)) {
    const below = merged[key];
    merged[key] = isTable(below) && isTable(value) ? merge(below, value) : value;
  }
  return merged;
}
