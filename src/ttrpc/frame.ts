/**
 * The ttrpc frame codec: pure, knows nothing of calls.
 *
 * ```
 *  0        4            8      9       10
 *  ├────────┼────────────┼──────┼───────┼──────────────┤
 *  │ length │ stream id  │ type │ flags │ data[length] │      integers big-endian
 *  └────────┴────────────┴──────┴───────┴──────────────┘
 * ```
 *
 * A connection carries frames of many streams, in both directions, without a handshake. The client opens
 * streams with odd, strictly increasing ids by a Request; the server never opens one.
 *
 *   unary              → Request 0                      ← Response 0
 *   server streaming   → Request remote-closed          ← Data …  Data remote-closed|no-data
 *   client, bidi       → Request remote-open, Data …, Data remote-closed|no-data
 *                                                       ← Response, or Data … as above
 *   a failed call of any form                           ← Response with a status
 *
 * `length` is limited to 4 MiB. A larger frame is drained, not buffered: its stream is answered with
 * RESOURCE_EXHAUSTED and the connection lives on. There is no ping, cancel, reset or flow control.
 */
export const HEADER_SIZE = 10;
export const MAX_DATA = 4 << 20;

export const TYPE = { request: 1, response: 2, data: 3 } as const;

export const FLAG = {
  /** The sender sends no more on this stream. */
  remoteClosed: 1,
  /** More Data of the sender follows its Request. */
  remoteOpen: 2,
  /** The frame carries no message, not even an empty one. */
  noData: 4,
} as const;

export interface Frame {
  readonly streamId: number;
  /** A TYPE, or an unknown number: such frames are ignored. */
  readonly type: number;
  /** Bits of FLAG. */
  readonly flags: number;
  /** May share memory with the chunk it came in. */
  readonly data: Buffer;
}

export interface FrameSink {
  frame(frame: Frame): void;
  /** A frame's header announced more than MAX_DATA; its data is being discarded. */
  oversize(header: { streamId: number; type: number; length: number }): void;
}

export function encodeFrame(streamId: number, type: number, flags: number, data: Uint8Array): Buffer {
  const out = Buffer.allocUnsafe(HEADER_SIZE + data.length);
  out.writeUInt32BE(data.length, 0);
  out.writeUInt32BE(streamId, 4);
  out[8] = type;
  out[9] = flags;
  out.set(data, HEADER_SIZE);
  return out;
}

/** Cuts a byte stream into frames, whatever pieces it comes in. Holds at most one frame. */
export class FrameParser {
  readonly #sink: FrameSink;
  readonly #header = Buffer.alloc(HEADER_SIZE);
  #headerHeld = 0;
  /** What came of the frame's data, uncopied until it is whole. */
  #pieces: Buffer[] = [];
  #held = 0;
  /** Bytes of an oversize frame still to drop. */
  #discard = 0;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  push(chunk: Buffer): void {
    let rest = chunk;
    for (;;) {
      rest = this.#drop(rest);
      if (this.#headerHeld < HEADER_SIZE) {
        const copied = rest.copy(this.#header, this.#headerHeld);
        this.#headerHeld += copied;
        rest = rest.subarray(copied);
        if (this.#headerHeld < HEADER_SIZE) return;
      }
      const length = this.#header.readUInt32BE(0);
      if (length > MAX_DATA) {
        this.#headerHeld = 0;
        this.#discard = length;
        this.#sink.oversize({ streamId: this.#header.readUInt32BE(4), type: this.#header[8]!, length });
        continue;
      }
      const taken = rest.subarray(0, length - this.#held);
      rest = rest.subarray(taken.length);
      this.#held += taken.length;
      if (this.#held < length) {
        if (taken.length > 0) this.#pieces.push(taken);
        return;
      }
      this.#deliver(taken);
    }
  }

  #drop(bytes: Buffer): Buffer {
    const dropped = Math.min(this.#discard, bytes.length);
    this.#discard -= dropped;
    return dropped === 0 ? bytes : bytes.subarray(dropped);
  }

  #deliver(last: Buffer): void {
    const data = this.#pieces.length === 0 ? last : Buffer.concat([...this.#pieces, last], this.#held);
    this.#pieces = [];
    this.#held = 0;
    this.#headerHeld = 0;
    this.#sink.frame({
      streamId: this.#header.readUInt32BE(4),
      type: this.#header[8]!,
      flags: this.#header[9]!,
      data,
    });
  }
}
