/**
 * The one error class of isopod. Its codes are the words of containerd's errdefs, so that a shim answers
 * ttrpc and the daemon answers gRPC from the same value (mapped in `ttrpc/status.ts` and `cri/status.ts`).
 *
 * Text: lower case, no full stop, "doing: object: why", in words an operator can act on.
 */
export type ErrorCode =
  | "CANCELLED"
  | "UNKNOWN"
  | "INVALID_ARGUMENT"
  | "DEADLINE_EXCEEDED"
  | "NOT_FOUND"
  | "ALREADY_EXISTS"
  | "PERMISSION_DENIED"
  | "RESOURCE_EXHAUSTED"
  | "FAILED_PRECONDITION"
  | "ABORTED"
  | "OUT_OF_RANGE"
  | "UNIMPLEMENTED"
  | "INTERNAL"
  | "UNAVAILABLE"
  | "DATA_LOSS"
  | "UNAUTHENTICATED";

export interface ErrorDetails {
  /** What was being done, e.g. `mount`, `pull layer`. */
  readonly step?: string | undefined;
  /** Errno name, e.g. `EPERM`. */
  readonly errno?: string | undefined;
  /** The object: a path, a digest, a field. */
  readonly path?: string | undefined;
  readonly cause?: unknown;
  /** What failed while undoing the failed operation. */
  readonly cleanupErrors?: readonly unknown[] | undefined;
}

const brand = Symbol.for("isopod.error");

export class IsopodError extends Error {
  readonly code: ErrorCode;
  readonly step: string | undefined;
  readonly errno: string | undefined;
  readonly path: string | undefined;
  cleanupErrors: readonly unknown[] | undefined;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = "IsopodError";
    this.code = code;
    this.step = details.step;
    this.errno = details.errno;
    this.path = details.path;
    this.cleanupErrors = details.cleanupErrors;
    Object.defineProperty(this, brand, { value: true });
  }

  /** True also for errors of another copy of this package in the same process. */
  static is(value: unknown): value is IsopodError {
    return typeof value === "object" && value !== null && brand in value;
  }
}

export const invalid = (field: string, value: unknown, why: string): IsopodError =>
  new IsopodError("INVALID_ARGUMENT", `${field}: ${show(value)}: ${why}`, { path: field });

/** A field that isopod knows and cannot honour yet: refused, never ignored. */
export const unsupported = (field: string, value: unknown, why = "not supported"): IsopodError =>
  new IsopodError("UNIMPLEMENTED", `${field}: ${show(value)}: ${why}`, { path: field });

export const notFound = (kind: string, id: string): IsopodError =>
  new IsopodError("NOT_FOUND", `${kind} "${id}": not found`, { path: id });

export const precondition = (message: string): IsopodError => new IsopodError("FAILED_PRECONDITION", message);

/** The value of `error` as text for logs and for messages that wrap it. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Errno name of a Node system error or an IsopodError, "" if it has none. */
export function errnoOf(error: unknown): string {
  if (IsopodError.is(error)) return error.errno ?? "";
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === "string" ? code : "";
}

function show(value: unknown): string {
  const text = JSON.stringify(value, (_key, v: unknown) => (typeof v === "bigint" ? v.toString() : v));
  if (text === undefined) return String(value);
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}
