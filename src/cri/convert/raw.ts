import { Reader } from "protobufjs/minimal";
import { runtime } from "../../gen/cri";

/** RunPodSandbox with its `config` as it came over the wire. */
export interface RunPodMessage {
  readonly message: runtime.v1.RunPodSandboxRequest;
  readonly configBytes: Uint8Array;
}

const CONFIG_FIELD = 1;
const LENGTH_DELIMITED = 2;

/**
 * Keeps the bytes of `config` (R9): fields that a newer kubelet sends and we do not know reach the shim
 * untouched. A sender may split a message over several occurrences of its field; decoders merge them, and
 * concatenated encodings are by definition of the wire format the encoding of the merged message.
 */
export function decodeRunPod(bytes: Uint8Array): RunPodMessage {
  const message = runtime.v1.RunPodSandboxRequest.decode(bytes);
  const parts: Uint8Array[] = [];
  const reader = Reader.create(bytes);
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag >>> 3 === CONFIG_FIELD && (tag & 7) === LENGTH_DELIMITED) parts.push(reader.bytes());
    else reader.skipType(tag & 7);
  }
  return { message, configBytes: parts.length === 1 ? parts[0]! : Buffer.concat(parts) };
}
