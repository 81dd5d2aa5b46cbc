import { type IsopodError, invalid, unsupported } from "../base/errors";

/**
 * Checks of JSON values, made for config.json: nothing is allocated while a value is good, and a fault
 * knows the way to its field (`linux.namespaces[2].type`). Members that no check names are refused.
 */
export type Check = (value: unknown) => Fault | undefined;

export interface Fault {
  /** Grows at its front while it is handed up to the root. */
  path: string;
  readonly error: (path: string) => IsopodError;
}

const fault = (error: (path: string) => IsopodError): Fault => ({ path: "", error });
const bad = (value: unknown, why: string): Fault => fault((path) => invalid(path, value, why));

/** The error of the first fault in `value`, whose own name is `name` ("" for a whole document). */
export function firstFault(check: Check, value: unknown, name = ""): IsopodError | undefined {
  const found = check(value);
  if (!found) return undefined;
  const path = name && found.path ? (found.path.startsWith("[") ? "" : ".") + found.path : found.path;
  return found.error(name + path || "config");
}

/** Absent, or what Go writes for a nil slice, map or pointer. */
const absent = (value: unknown): boolean => value === undefined || value === null;

/** Absent, null, 0, "", false, [] or {}, and whatever holds nothing but these: asks for nothing. */
export function isUnset(value: unknown): boolean {
  if (absent(value) || value === "" || value === 0 || value === false) return true;
  if (typeof value !== "object") return false;
  return Object.values(value as object).every(isUnset);
}

export const string: Check = (value) => {
  if (typeof value !== "string") return bad(value, "must be a string");
  return value.includes("\0") ? bad(value, "contains a NUL byte") : undefined;
};

export const boolean: Check = (value) =>
  typeof value === "boolean" ? undefined : bad(value, "must be true or false");

/** A string that `test` accepts; `why` says what it must be. */
export const text =
  (test: (value: string) => boolean, why: string): Check =>
  (value) =>
    string(value) ?? (test(value as string) ? undefined : bad(value, why));

export const absolutePath = text((value) => value.startsWith("/"), "must be an absolute path");

export const oneOf = (...words: readonly string[]): Check => {
  const known = new Set(words);
  return (value) =>
    typeof value === "string" && known.has(value)
      ? undefined
      : bad(value, `must be one of ${words.join(", ")}`);
};

export const integer =
  (min: number, max: number): Check =>
  (value) =>
    typeof value === "number" && Number.isInteger(value) && value >= min && value <= max
      ? undefined
      : bad(value, `must be a whole number from ${min} to ${max}`);

/** A uint64, which JSON.parse may have rounded: 2^64-1 arrives as 2^64. */
export const unsigned64: Check = (value) => {
  if (typeof value === "bigint")
    return value >= 0n && value <= 0xffffffffffffffffn ? undefined : bad(value, "must fit 64 bits, unsigned");
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 2 ** 64
    ? undefined
    : bad(value, "must fit 64 bits, unsigned");
};

/** uid, gid: 2^32-1 is the kernel's "no such id", and reading it as an id would keep root's (CVE-2026-30892). */
export const id = integer(0, 2 ** 32 - 2);

export const array =
  (check: Check): Check =>
  (value) => {
    if (!Array.isArray(value)) return bad(value, "must be a list");
    for (let i = 0; i < value.length; i++) {
      const found = check(value[i]);
      if (found) return within(`[${i}]`, found);
    }
    return undefined;
  };

/** Any names, values checked. */
export const map =
  (check: Check, name: Check = string): Check =>
  (value) => {
    if (!isRecord(value)) return bad(value, "must be an object");
    for (const [key, member] of Object.entries(value)) {
      const found = name(key) ?? check(member);
      if (found) return within(key, found);
    }
    return undefined;
  };

/** Exactly these members; `required` ones must be there. */
export const object = (members: Readonly<Record<string, Check>>, required: readonly string[] = []): Check => {
  const checks = new Map(Object.entries(members));
  return (value) => {
    if (!isRecord(value)) return bad(value, "must be an object");
    for (const key of required) {
      if (absent(value[key])) return within(key, bad(value[key], "is required"));
    }
    for (const key in value) {
      const check = checks.get(key);
      const found = check
        ? absent(value[key])
          ? undefined
          : check(value[key])
        : fault((path) => invalid(path, value[key], "unknown member"));
      if (found) return within(key, found);
    }
    return undefined;
  };
};

/** Known to the specification, not built: anything that asks for something is refused by name and value. */
export const refused =
  (why = "not supported"): Check =>
  (value) =>
    isUnset(value) ? undefined : fault((path) => unsupported(path, value, why));

/** As `refused`, but a number below zero is also a way to say "none". */
export const noLimit =
  (why: string): Check =>
  (value) =>
    isUnset(value) || (typeof value === "number" && value < 0)
      ? undefined
      : fault((path) => unsupported(path, value, why));

export const anything: Check = () => undefined;

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function within(key: string, found: Fault): Fault {
  const rest = found.path === "" || found.path.startsWith("[") ? found.path : `.${found.path}`;
  found.path = key + rest;
  return found;
}
