import * as path from "node:path";
import { invalid, unsupported } from "../../base/errors";

/**
 * The building blocks of a configuration schema. A schema is one value from which everything else follows:
 * the TypeScript type (`ConfigOf`), the commented default file, and every check.
 */
export interface Value<T> {
  readonly kind: "value";
  readonly doc: string;
  readonly default: T;
  /** The value if it is good; throws INVALID_ARGUMENT naming `field`. */
  readonly read: (field: string, value: unknown) => T;
}

/** A fixed set of keys. */
export interface Table<Keys extends Schema> {
  readonly kind: "table";
  readonly doc: string;
  readonly keys: Keys;
}

/** Tables by a name that the user chooses. */
export interface Named<Keys extends Schema> {
  readonly kind: "named";
  readonly doc: string;
  readonly keys: Keys;
  readonly default: Readonly<Record<string, ConfigOf<Keys>>>;
}

/** A key that has its place and is not built: refused by name, so that nobody believes it has an effect. */
export interface Later {
  readonly kind: "later";
}

// biome-ignore lint/suspicious/noExplicitAny: a schema holds values of any type.
export type Node = Value<any> | Table<any> | Named<any> | Later;
export type Schema = Readonly<Record<string, Node>>;

type KeysOf<S extends Schema> = { [K in keyof S]: S[K] extends Later ? never : K }[keyof S];
type TypeOf<N> =
  N extends Value<infer T>
    ? T
    : N extends Table<infer Keys>
      ? ConfigOf<Keys>
      : N extends Named<infer Keys>
        ? Readonly<Record<string, ConfigOf<Keys>>>
        : never;
export type ConfigOf<S extends Schema> = { readonly [K in KeysOf<S>]: TypeOf<S[K]> };

export const table = <Keys extends Schema>(doc: string, keys: Keys): Table<Keys> => ({
  kind: "table",
  doc,
  keys,
});

export const later: Later = { kind: "later" };

export const refuseLater = (field: string, value: unknown): never => {
  throw unsupported(field, value, "not supported yet");
};

const value = <T>(doc: string, fallback: T, read: Value<T>["read"]): Value<T> => ({
  kind: "value",
  doc,
  default: fallback,
  read,
});

function string(field: string, given: unknown): string {
  if (typeof given !== "string") throw invalid(field, given, "must be a string");
  if (given.includes("\0")) throw invalid(field, given, "contains a NUL byte");
  return given;
}

export const text = (
  doc: string,
  fallback: string,
  rule?: { readonly pattern: RegExp; readonly why: string },
): Value<string> =>
  value(doc, fallback, (field, given) => {
    const read = string(field, given);
    if (rule && !rule.pattern.test(read)) throw invalid(field, given, rule.why);
    return read;
  });

export const choice = <const T extends string>(doc: string, words: readonly T[]): Value<T> =>
  value(doc, words[0]!, (field, given) => {
    const word = words.find((known) => known === given);
    if (word === undefined) throw invalid(field, given, `must be ${words.map((w) => `"${w}"`).join(" or ")}`);
    return word;
  });

export const exactly = (doc: string, number: number): Value<number> =>
  value(doc, number, (field, given) => {
    if (given !== number) throw invalid(field, given, `must be ${number}`);
    return number;
  });

export const absolute = (doc: string, fallback: string, maxBytes?: number): Value<string> =>
  value(doc, fallback, (field, given) => readPath(field, given, maxBytes));

/** As `absolute`, or "". */
export const optionalPath = (doc: string): Value<string> =>
  value(doc, "", (field, given) => (given === "" ? "" : readPath(field, given)));

export const paths = (doc: string, fallback: readonly string[]): Value<readonly string[]> =>
  value(doc, fallback, (field, given) => {
    if (!Array.isArray(given)) throw invalid(field, given, "must be a list of paths");
    return given.map((entry, index) => readPath(`${field}[${index}]`, entry));
  });

function readPath(field: string, given: unknown, maxBytes?: number): string {
  const read = string(field, given);
  if (!path.isAbsolute(read)) throw invalid(field, given, "must be an absolute path");
  if (path.normalize(read) !== read || (read.length > 1 && read.endsWith("/"))) {
    throw invalid(field, given, `must be written plainly, as "${path.resolve(read)}"`);
  }
  if (maxBytes !== undefined && Buffer.byteLength(read) > maxBytes) {
    throw invalid(field, given, `is longer than ${maxBytes} bytes, and sockets below it would not fit`);
  }
  return read;
}

/** sockaddr_un holds 108 bytes, the last a NUL. */
const MAX_SOCKET = 107;

export const unixSocket = (doc: string, fallback: string): Value<string> =>
  value(doc, fallback, (field, given) => {
    const read = string(field, given);
    const socket = /^unix:\/\/(\/.*)$/.exec(read)?.[1];
    if (socket === undefined) throw invalid(field, given, 'must be "unix://" and an absolute path');
    if (Buffer.byteLength(socket) > MAX_SOCKET) {
      throw invalid(field, given, `the path is longer than ${MAX_SOCKET} bytes`);
    }
    return read;
  });

/** A table that somebody else gives its meaning. */
export const opaque = (doc: string): Value<Readonly<Record<string, unknown>>> =>
  value(doc, {}, (field, given) => {
    if (!isTable(given)) throw invalid(field, given, "must be a table");
    return given;
  });

export function isTable(given: unknown): given is Record<string, unknown> {
  return typeof given === "object" && given !== null && !Array.isArray(given) && !(given instanceof Date);
}
