import Long from "long";
import { invalid, unsupported } from "../../base/errors";

/**
 * Reading protobuf fields. proto3 knows no absence for scalars: 0 and "" are unset. Every reader takes the
 * field's path as kubelet's and crictl's users write it (`config.linux.resources.cpu_quota`), because that
 * path is what a refusal names.
 */

type Maybe<T> = T | null | undefined;

export interface Range {
  readonly min?: number;
  readonly max?: number;
}

/** An int32, int64 or uint64 as a number: 0 if unset. INVALID_ARGUMENT outside the range or beyond 2^53. */
export function integer(field: string, value: Maybe<Long | number>, range: Range = {}): number {
  const number = value === null || value === undefined ? 0 : Number(value.toString());
  const { min = 0, max = Number.MAX_SAFE_INTEGER } = range;
  if (number < min || number > max) {
    throw invalid(field, value?.toString(), `must be between ${min} and ${max}`);
  }
  return number;
}

/** The largest id there is: 2^32 - 1 means "no id" to the kernel. */
const MAX_ID = 0xfffffffe;

export const id = (field: string, value: Maybe<Long>): number => integer(field, value, { max: MAX_ID });

/** A string that becomes a C string: a path, an argument. */
export function cstring(field: string, value: Maybe<string>): string {
  const text = value ?? "";
  if (text.includes("\0")) throw invalid(field, text, "contains a NUL byte");
  return text;
}

export const cstrings = (field: string, values: Maybe<readonly string[]>): string[] =>
  (values ?? []).map((value, index) => cstring(`${field}[${index}]`, value));

export function required(field: string, value: Maybe<string>): string {
  const text = cstring(field, value);
  if (text === "") throw invalid(field, text, "must not be empty");
  return text;
}

/** A message that must be there. */
export function present<T>(field: string, value: Maybe<T>): T {
  if (value === null || value === undefined) throw invalid(field, null, "must be given");
  return value;
}

/** The name of an enum's value; INVALID_ARGUMENT for one that is not among `names`. */
export function choice<T>(field: string, value: Maybe<number>, names: Readonly<Record<number, T>>): T {
  const name = names[value ?? 0];
  if (name === undefined) throw invalid(field, value, "not a value that this field may have");
  return name;
}

/** Refuses by name a field that is not built, unless it is unset. */
export function refuse(field: string, value: unknown, why?: string): void {
  if (!isUnset(value)) throw unsupported(field, value, why);
}

function isUnset(value: unknown): boolean {
  if (value === null || value === undefined || value === "" || value === 0 || value === false) return true;
  if (Array.isArray(value)) return value.length === 0;
  if (Long.isLong(value)) return value.isZero();
  if (typeof value === "object") return Object.values(value).every(isUnset);
  return false;
}

export const int64 = (value: bigint): Long => Long.fromBigInt(value);
export const uint64 = (value: bigint): { value: Long } => ({ value: Long.fromBigInt(value, true) });
