import * as zlib from "node:zlib";
import { IsopodError, messageOf } from "../base/errors";
import { native } from "../native";

/**
 * Inflates a layer. The format is told by its first bytes, not by its media type: the content is verified
 * by diff_id, and registries hold mislabelled layers.
 */
export type Compression = "gzip" | "zstd" | "none";

const CHUNK = 1024 * 1024;

export function compressionOf(head: Uint8Array): Compression {
  if (head.length >= 2 && head[0] === 0x1f && head[1] === 0x8b) return "gzip";
  if (head.length < 4) return "none";
  const magic = Buffer.from(head.buffer, head.byteOffset, 4).readUInt32LE();
  // A zstd frame, or a skippable one before it.
  return magic === 0xfd2fb528 || magic >>> 4 === 0x184d2a5 ? "zstd" : "none";
}

export async function* inflate(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const input = chunks[Symbol.asyncIterator]();
  let head: Buffer = Buffer.alloc(0);
  while (head.length < 4) {
    const next = await input.next();
    if (next.done) break;
    head = head.length === 0 ? next.value : Buffer.concat([head, next.value]);
  }
  const all = prepend(head, input);
  const compression = compressionOf(head);
  if (compression === "none") yield* all;
  else yield* compression === "gzip" ? gunzip(all) : unzstd(all);
}

async function* prepend(head: Buffer, rest: AsyncIterator<Buffer>): AsyncGenerator<Buffer> {
  if (head.length > 0) yield head;
  for (let next = await rest.next(); !next.done; next = await rest.next()) yield next.value;
}

/** zlib inflates on a pool thread while this one hashes and parses. */
async function* gunzip(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const stream = zlib.createGunzip({ chunkSize: CHUNK });
  const feed = async () => {
    for await (const chunk of chunks) {
      if (stream.destroyed && !stream.readableEnded) return;
      // Behind the stream's end there may be padding; it is consumed since the digest covers it.
      if (stream.readableEnded) continue;
      if (!stream.write(chunk)) await drained(stream);
    }
    stream.end();
  };
  // An error of the source is the cause; what zlib then says of its missing rest is not.
  let cause: unknown;
  const fed = feed().catch((error: unknown) => {
    cause = error;
    stream.destroy(error as Error);
  });
  try {
    for await (const chunk of stream) yield chunk as Buffer;
  } catch (error) {
    if (cause !== undefined) throw cause;
    throw corrupt("gzip", messageOf(error));
  } finally {
    stream.destroy();
  }
  await fed;
}

function drained(stream: zlib.Gunzip): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      stream.off("drain", done);
      stream.off("close", done);
      resolve();
    };
    stream.on("drain", done);
    stream.on("close", done);
  });
}

/** By libzstd in the addon on every Node: node:zlib has zstd from 22.15 only. */
async function* unzstd(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const addon = native();
  const zstd = addon.zstdOpen();
  let complete = true;
  try {
    for await (const chunk of chunks) {
      for (let input = chunk; ; ) {
        const output = Buffer.allocUnsafeSlow(CHUNK);
        const progress = addon.zstdInflate({ zstd, input, output });
        input = input.subarray(progress.consumed);
        complete = progress.complete;
        if (progress.produced > 0) yield output.subarray(0, progress.produced);
        // A full buffer may have left some inside.
        if (input.length === 0 && progress.produced < CHUNK) break;
      }
    }
    if (!complete) throw corrupt("zstd", "unexpected end of data");
  } finally {
    addon.zstdClose({ zstd });
  }
}

function corrupt(format: string, why: string): IsopodError {
  return new IsopodError("INVALID_ARGUMENT", `${format} stream: ${why}`, { step: "inflate" });
}
