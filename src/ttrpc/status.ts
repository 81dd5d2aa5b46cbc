import { type ErrorCode, IsopodError, messageOf } from "../base/errors";

/** ttrpc carries google.rpc codes; their words are containerd's errdefs, which are IsopodError's codes. */
const numbers: Readonly<Record<ErrorCode, number>> = {
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
};
const words = new Map(Object.entries(numbers).map(([word, number]) => [number, word as ErrorCode]));

export interface Status {
  readonly code: number;
  readonly message: string;
}

/** Any thrown value as a status: an IsopodError by its code, all else as UNKNOWN. */
export function statusOf(error: unknown): Status {
  const code = IsopodError.is(error) ? numbers[error.code] : numbers.UNKNOWN;
  return { code, message: messageOf(error) };
}

/** As it is decoded. */
export interface ReceivedStatus {
  readonly code?: number | null;
  readonly message?: string | null;
  readonly details?: readonly { type_url?: string | null; value?: Uint8Array | null }[] | null;
}

/** The error that a status stands for; a code outside the list is UNKNOWN. */
export function errorOf(status: ReceivedStatus): IsopodError {
  return new IsopodError(words.get(status.code ?? 2) ?? "UNKNOWN", status.message ?? "");
}
