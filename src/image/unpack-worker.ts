import * as crypto from "node:crypto";
import * as fs from "node:fs";
import { parentPort } from "node:worker_threads";
import { errnoOf, IsopodError, messageOf } from "../base/errors";
import { native, type UnpackEntry } from "../native";
import { inflate } from "./inflate";
import { type TarHeader, TarReader } from "./tar";
import type { FromWorker, PlainError, ToWorker, UnpackJob, UnpackResult } from "./unpack-job";

/**
 * A worker thread that turns compressed layers into overlay directories in one pass:
 *
 *   chunks → sha256, copy to a file → inflate → sha256 → archive entries → batches for the addon
 *
 * The addon writes a batch on a pool thread while this one hashes and parses the next.
 */
const BATCH_ENTRIES = 256;
const BATCH_BYTES = 1024 * 1024;
const READ = 256 * 1024;

const port = parentPort!;
const send = (message: FromWorker) => port.postMessage(message);

/** Messages of the running job. */
interface Inbox {
  readonly chunks: Uint8Array[];
  ended: boolean;
  aborted: boolean;
  parents: readonly string[] | undefined;
  /** Called and forgotten at each message. */
  waiters: (() => void)[];
}
const newInbox = (): Inbox => ({ chunks: [], ended: false, aborted: false, parents: undefined, waiters: [] });
let inbox = newInbox();

function wake(from: Inbox): void {
  const waiters = from.waiters;
  from.waiters = [];
  for (const waiter of waiters) waiter();
}

port.on("message", (message: ToWorker) => {
  switch (message.type) {
    case "job":
      inbox = newInbox();
      void run(message.job, inbox);
      return;
    case "chunk":
      inbox.chunks.push(message.data);
      break;
    case "end":
      inbox.ended = true;
      break;
    case "abort":
      inbox.aborted = true;
      break;
    case "parents":
      inbox.parents = message.parents;
  }
  wake(inbox);
});

async function run(job: UnpackJob, from: Inbox): Promise<void> {
  try {
    send({ type: "done", result: await unpack(job, from) });
  } catch (error) {
    send({ type: "failed", error: plain(error) });
  }
}

function plain(error: unknown): PlainError {
  const known = IsopodError.is(error) ? error : undefined;
  const full = errnoOf(error) === "ENOSPC" || errnoOf(error) === "EDQUOT";
  return {
    code: known?.code ?? (full ? "RESOURCE_EXHAUSTED" : "INTERNAL"),
    message: messageOf(error),
    step: known?.step,
    errno: errnoOf(error) || undefined,
    path: known?.path,
  };
}

async function untilMessage(from: Inbox, ready: () => boolean): Promise<void> {
  while (!ready()) {
    if (from.aborted) throw new IsopodError("CANCELLED", "cancelled", { step: "unpack" });
    await new Promise<void>((resolve) => from.waiters.push(resolve));
  }
  if (from.aborted) throw new IsopodError("CANCELLED", "cancelled", { step: "unpack" });
}

async function* portChunks(from: Inbox): AsyncGenerator<Buffer> {
  for (;;) {
    await untilMessage(from, () => from.chunks.length > 0 || from.ended);
    const chunk = from.chunks.shift();
    if (chunk === undefined) return;
    yield Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    send({ type: "credit", bytes: chunk.byteLength });
  }
}

async function* fileChunks(
  source: { file: string; offset: number; size: number },
  from: Inbox,
): AsyncGenerator<Buffer> {
  const fd = fs.openSync(source.file, "r");
  try {
    for (let done = 0; done < source.size; ) {
      await untilMessage(from, () => true);
      const chunk = Buffer.allocUnsafeSlow(Math.min(READ, source.size - done));
      const got = fs.readSync(fd, chunk, 0, chunk.length, source.offset + done);
      if (got === 0) return;
      done += got;
      yield chunk.subarray(0, got);
      // Lets messages in: an abort must not wait for a whole layer.
      await new Promise(setImmediate);
    }
  } finally {
    fs.closeSync(fd);
  }
}

/** Passes chunks on and knows their number and digest. */
class Meter {
  readonly #hash = crypto.createHash("sha256");
  readonly #see: (bytes: number) => void;
  bytes = 0;

  constructor(see: (bytes: number) => void) {
    this.#see = see;
  }

  async *through(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of chunks) {
      this.bytes += chunk.length;
      this.#see(this.bytes);
      this.#hash.update(chunk);
      yield chunk;
    }
  }

  digest(): string {
    return `sha256:${this.#hash.digest("hex")}`;
  }
}

async function* copied(chunks: AsyncIterable<Buffer>, fd: number): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    for (let done = 0; done < chunk.length; ) done += fs.writeSync(fd, chunk, done);
    yield chunk;
  }
}

async function unpack(job: UnpackJob, from: Inbox): Promise<UnpackResult> {
  const addon = native();
  const packed = new Meter((bytes) => {
    if (bytes > job.size) throw broken(`is longer than the ${job.size} bytes its descriptor says`);
  });
  const { limits } = job;
  const unpacked = new Meter((bytes) => {
    if (bytes > limits.bytes) throw tooLarge(`unpacks to more than ${limits.bytes} bytes`);
    if (bytes > limits.ratioFrom && bytes > packed.bytes * limits.ratio) {
      throw tooLarge(`${packed.bytes} bytes unpack to ${bytes}, more than ${limits.ratio} times as much`);
    }
  });
  const handle = addon.unpackOpen({ root: job.root });
  const writer = new Writer(handle, from);
  let open = true;
  let copy: number | undefined;
  try {
    if (job.copyTo !== undefined) copy = fs.openSync(job.copyTo, "wx", 0o600);
    let chunks = packed.through(job.source === "port" ? portChunks(from) : fileChunks(job.source, from));
    if (copy !== undefined) chunks = copied(chunks, copy);
    const archive = unpacked.through(inflate(chunks));
    await apply(job, new TarReader(archive), writer);
    // zlib may leave bytes behind the stream's end unread, and the digest covers them.
    for await (const _ of chunks);
    verify(job, packed, unpacked);
    if (copy !== undefined) fs.fsyncSync(copy);
    await writer.parents();
    open = false;
    return await addon.unpackClose({ unpack: handle });
  } catch (error) {
    // Ends the source, which may be waiting for a message, and a batch that waits for the layers below.
    from.aborted = true;
    wake(from);
    throw error;
  } finally {
    await writer.idle();
    if (open) await addon.unpackClose({ unpack: handle, discard: true });
    if (copy !== undefined) fs.closeSync(copy);
  }
}

function verify(job: UnpackJob, packed: Meter, unpacked: Meter): void {
  if (packed.bytes !== job.size) {
    throw broken(`has ${packed.bytes} bytes, its descriptor says ${job.size}`);
  }
  const digest = packed.digest();
  if (digest !== job.digest) throw broken(`its content has the digest ${digest}`);
  const diffId = unpacked.digest();
  if (diffId !== job.diffId) throw broken(`its diff_id is ${diffId}, the config says ${job.diffId}`);
}

function broken(why: string): IsopodError {
  return new IsopodError("DATA_LOSS", why, { step: "verify" });
}

function tooLarge(why: string): IsopodError {
  return new IsopodError("RESOURCE_EXHAUSTED", why, { step: "unpack" });
}

async function apply(job: UnpackJob, tar: TarReader, writer: Writer): Promise<void> {
  let count = 0;
  for (let header = await tar.next(); header !== undefined; header = await tar.next()) {
    if (++count > job.limits.entries) throw tooLarge(`has more than ${job.limits.entries} entries`);
    if (header.size <= BATCH_BYTES) {
      await writer.entry(header, header.size === 0 ? undefined : await whole(tar, header.size));
      continue;
    }
    await writer.entry(header, undefined);
    for (let chunk = await tar.read(BATCH_BYTES); chunk !== undefined; chunk = await tar.read(BATCH_BYTES)) {
      await writer.data(chunk);
    }
  }
  await writer.flush();
  await tar.drain();
}

async function whole(tar: TarReader, size: number): Promise<Buffer> {
  const first = (await tar.read(size))!;
  if (first.length === size) return first;
  const parts = [first];
  for (let chunk = await tar.read(size); chunk !== undefined; chunk = await tar.read(size)) parts.push(chunk);
  return Buffer.concat(parts, size);
}

/** Gathers entries into batches; keeps one call to the addon in flight. */
class Writer {
  readonly #unpack: number;
  readonly #from: Inbox;
  #entries: UnpackEntry[] = [];
  #bytes = 0;
  #flight: Promise<void> = Promise.resolve();

  constructor(unpack: number, from: Inbox) {
    this.#unpack = unpack;
    this.#from = from;
  }

  async entry(header: TarHeader, data: Buffer | undefined): Promise<void> {
    this.#entries.push({
      type: header.type,
      path: header.name,
      mode: header.mode,
      uid: header.uid,
      gid: header.gid,
      mtime: header.mtime,
      ...(header.link === "" ? {} : { link: header.link }),
      ...(header.type === "char" || header.type === "block"
        ? { major: header.major, minor: header.minor }
        : {}),
      ...(header.xattrs === undefined ? {} : { xattrs: header.xattrs }),
      ...(data === undefined ? {} : { data }),
    });
    this.#bytes += data?.length ?? 0;
    if (this.#entries.length >= BATCH_ENTRIES || this.#bytes >= BATCH_BYTES) await this.#submit();
  }

  async data(data: Buffer): Promise<void> {
    await this.#submit();
    await this.#flight;
    this.#start(native().unpackData({ unpack: this.#unpack, data }));
  }

  async flush(): Promise<void> {
    await this.#submit();
    await this.#flight;
  }

  /** No call to the addon is in flight any more, however it ended. */
  async idle(): Promise<void> {
    await this.#flight.catch(() => {});
  }

  async #submit(): Promise<void> {
    if (this.#entries.length === 0) return;
    const entries = this.#entries;
    this.#entries = [];
    this.#bytes = 0;
    await this.#flight;
    this.#start(this.#apply(entries));
  }

  #start(call: Promise<void>): void {
    this.#flight = call;
    // Whoever awaits it next gets the error; until then it is not unhandled.
    call.catch(() => {});
  }

  async #apply(entries: UnpackEntry[]): Promise<void> {
    for (let rest = entries; rest.length > 0; ) {
      const count = await native().unpackEntries({ unpack: this.#unpack, entries: rest });
      rest = rest.slice(count);
      if (rest.length > 0) await this.parents();
    }
  }

  /** Waits for the layers below and names them to the addon. */
  async parents(): Promise<void> {
    await untilMessage(this.#from, () => this.#from.parents !== undefined);
    native().unpackParents({ unpack: this.#unpack, parents: this.#from.parents! });
  }
}
