import * as assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { encodeFrame, type Frame, FrameParser, HEADER_SIZE, MAX_DATA } from "../../src/ttrpc/frame";

interface Oversize {
  streamId: number;
  type: number;
  length: number;
}

function collect(): { frames: Frame[]; oversize: Oversize[]; parser: FrameParser } {
  const frames: Frame[] = [];
  const oversize: Oversize[] = [];
  const parser = new FrameParser({
    frame: (frame) => frames.push({ ...frame, data: Buffer.from(frame.data) }),
    oversize: (header) => oversize.push(header),
  });
  return { frames, oversize, parser };
}

/** Feeds `bytes` in pieces whose lengths are taken from `cuts`, round and round. */
function feed(parser: FrameParser, bytes: Buffer, cuts: readonly number[]): void {
  let at = 0;
  for (let i = 0; at < bytes.length; i++) {
    const size = cuts.length === 0 ? bytes.length : cuts[i % cuts.length]!;
    parser.push(bytes.subarray(at, at + size));
    at += size;
  }
}

const frame = fc.record({
  streamId: fc.nat(0xffffffff),
  type: fc.nat(255),
  flags: fc.nat(255),
  data: fc.uint8Array({ maxLength: 300 }),
});
const cuts = fc.array(fc.integer({ min: 1, max: 64 }), { minLength: 1, maxLength: 8 });

test("frames come out as they went in, whatever pieces the stream arrives in", () => {
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 12 }), cuts, (sent, pieces) => {
      const { frames, oversize, parser } = collect();
      const bytes = Buffer.concat(sent.map((f) => encodeFrame(f.streamId, f.type, f.flags, f.data)));
      feed(parser, bytes, pieces);
      assert.deepEqual(
        frames,
        sent.map((f) => ({ ...f, data: Buffer.from(f.data) })),
      );
      assert.deepEqual(oversize, []);
    }),
  );
});

test("arbitrary bytes never throw and are never held beyond one frame", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 4096 }), cuts, (bytes, pieces) => {
      const { frames, parser } = collect();
      feed(parser, Buffer.from(bytes), pieces);
      const delivered = frames.reduce((sum, { data }) => sum + HEADER_SIZE + data.length, 0);
      assert.ok(delivered <= bytes.length);
    }),
    { numRuns: 500 },
  );
});

test("an oversize frame is announced once and drained; the next frame is whole", () => {
  const { frames, oversize, parser } = collect();
  const header = Buffer.alloc(HEADER_SIZE);
  header.writeUInt32BE(MAX_DATA + 1, 0);
  header.writeUInt32BE(7, 4);
  header[8] = 1;
  parser.push(header);
  const piece = Buffer.alloc(1 << 20, 0xff);
  for (let i = 0; i < 4; i++) parser.push(piece);
  parser.push(Buffer.concat([Buffer.from([0xff]), encodeFrame(9, 2, 0, Buffer.from("after"))]));
  assert.deepEqual(oversize, [{ streamId: 7, type: 1, length: MAX_DATA + 1 }]);
  assert.deepEqual(frames, [{ streamId: 9, type: 2, flags: 0, data: Buffer.from("after") }]);
});

test("a frame of exactly 4 MiB passes, an empty one too", () => {
  const { frames, oversize, parser } = collect();
  const data = Buffer.alloc(MAX_DATA, 1);
  feed(parser, Buffer.concat([encodeFrame(1, 1, 0, data), encodeFrame(3, 1, 5, Buffer.alloc(0))]), [100_000]);
  assert.equal(oversize.length, 0);
  assert.equal(frames[0]?.data.equals(data), true);
  assert.deepEqual(frames[1], { streamId: 3, type: 1, flags: 5, data: Buffer.alloc(0) });
});
