import { IsopodError } from "../base/errors";
import * as gen from "../gen/agent";
import { errorOf, type Protocol, type ReceivedStatus } from "../ttrpc";

/** What the agent speaks: proto/agent/agent.proto. */
export const protocol: Protocol = {
  services: require("../gen/agent.services.json") as Protocol["services"],
  messages: gen,
};
export const SERVICE = "isopod.agent.v1.Agent";
export const PROTOCOL_VERSION = 1;

const FAILURE = "isopod.agent.v1.Failure";
/** Longer texts are of no use to anybody, and the guest may be hostile. */
const MAX_TEXT = 2048;

/** A text that came from the guest, fit for logs and messages: bounded, without control characters. */
export function plain(text: string | null | undefined): string {
  const printable = (text ?? "").slice(0, MAX_TEXT).replace(/[\u0000-\u001f\u007f-\u009f]/g, " ");
  return printable.trim();
}

/** The error of a failed call, with what the guest's launch core says of it. */
export function failureOf(status: ReceivedStatus): IsopodError {
  const { code } = errorOf(status);
  const packed = status.details?.find(({ type_url }) => type_url === FAILURE)?.value;
  const failure = packed ? decode(packed) : undefined;
  return new IsopodError(code, plain(status.message), {
    step: plain(failure?.step) || undefined,
    errno: plain(failure?.errno) || undefined,
    path: plain(failure?.path) || undefined,
  });
}

function decode(bytes: Uint8Array): gen.isopod.agent.v1.Failure | undefined {
  try {
    return gen.isopod.agent.v1.Failure.decode(bytes);
  } catch {
    return undefined;
  }
}
