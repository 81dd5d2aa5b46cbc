import { status } from "@grpc/grpc-js";
import { type ErrorCode, IsopodError, messageOf } from "../base/errors";

/** Where errors become gRPC: the one place. */
const codes: Readonly<Record<ErrorCode, status>> = {
  CANCELLED: status.CANCELLED,
  UNKNOWN: status.UNKNOWN,
  INVALID_ARGUMENT: status.INVALID_ARGUMENT,
  DEADLINE_EXCEEDED: status.DEADLINE_EXCEEDED,
  NOT_FOUND: status.NOT_FOUND,
  ALREADY_EXISTS: status.ALREADY_EXISTS,
  PERMISSION_DENIED: status.PERMISSION_DENIED,
  RESOURCE_EXHAUSTED: status.RESOURCE_EXHAUSTED,
  FAILED_PRECONDITION: status.FAILED_PRECONDITION,
  ABORTED: status.ABORTED,
  OUT_OF_RANGE: status.OUT_OF_RANGE,
  UNIMPLEMENTED: status.UNIMPLEMENTED,
  INTERNAL: status.INTERNAL,
  UNAVAILABLE: status.UNAVAILABLE,
  DATA_LOSS: status.DATA_LOSS,
  UNAUTHENTICATED: status.UNAUTHENTICATED,
};

/** Bytes. gRPC carries the text in a header, up to three times as long when percent-encoded; Go allows 16 KiB. */
const MAX_TEXT = 4096;

export interface Failure {
  readonly code: status;
  readonly details: string;
}

/**
 * The text stays as it is: kubelet looks for words at its beginning (`RegistryUnavailable`,
 * `ImageVolumeMountFailed`), which whoever finds the cause has put there. An error that is not ours is a defect
 * of isopod and INTERNAL.
 */
export function failureOf(error: unknown): Failure {
  const code = IsopodError.is(error) ? codes[error.code] : status.INTERNAL;
  return { code, details: clean(messageOf(error)) };
}

/** By way of bytes, since a lone surrogate would make the header's encoder throw. */
function clean(text: string): string {
  const bytes = Buffer.from(text);
  return bytes.length > MAX_TEXT ? `${bytes.subarray(0, MAX_TEXT)}…` : bytes.toString();
}
