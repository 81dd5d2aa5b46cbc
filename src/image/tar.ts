import { IsopodError, unsupported } from "../base/errors";

/**
 * A reader of tar archives, POSIX pax and GNU, written for hostile input and for file names and attribute
 * values that are bytes. (tar-stream decodes pax records as UTF-8, which destroys binary attributes such
 * as security.capability, and passes over malformed ones.)
 *
 *   archive = { header (512 bytes) · content, padded to 512 } · two blocks of zeros · anything
 *
 *   offset 0 name 100 · mode 8 · uid 8 · gid 8 · size 12 · mtime 12 · checksum 8 · type 1 · link 100 ·
 *   magic 8 (257) · uname 32 · gname 32 · major 8 (329) · minor 8 · prefix 155 (345)
 *
 * Numbers are octal text, or with the top bit set big-endian binary. An entry of type x holds pax records
 * "LENGTH KEY=VALUE\n" for the next entry, g for all that follow, L and K a long name or link (GNU).
 * Strings are latin1, one character per byte.
 */
export interface TarHeader {
  readonly type: "file" | "directory" | "symlink" | "hardlink" | "char" | "block" | "fifo";
  readonly name: string;
  readonly link: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Nanoseconds since 1970. */
  readonly mtime: bigint;
  /** Bytes of content; 0 for all but files. */
  readonly size: number;
  readonly major: number;
  readonly minor: number;
  readonly xattrs: Readonly<Record<string, Buffer>> | undefined;
}

/** A source that can pass over bytes without reading them. */
export interface SeekableChunks extends AsyncIterator<Buffer> {
  skip(bytes: number): void;
}

const BLOCK = 512;
const MAX_RECORDS = 1024 * 1024;
const MAX_SIZE = 2 ** 43;
const NONE = 0xffffffff; // (uid_t)-1: "leave it" to chown

const types: Readonly<Record<string, TarHeader["type"]>> = {
  "\0": "file",
  "0": "file",
  "7": "file",
  "1": "hardlink",
  "2": "symlink",
  "3": "char",
  "4": "block",
  "5": "directory",
  "6": "fifo",
};

export class TarReader {
  readonly #input: Input;
  #left = 0;
  #padding = 0;
  #global: Records = new Map();
  /** Offset of the current entry's content in the archive. */
  position = 0;

  constructor(chunks: AsyncIterable<Buffer> | SeekableChunks) {
    this.#input = new Input("skip" in chunks ? chunks : chunks[Symbol.asyncIterator]());
  }

  /** The next entry; undefined at the end. What was not read of the last one's content is skipped. */
  async next(): Promise<TarHeader | undefined> {
    let local: Records = new Map();
    let longName: string | undefined;
    let longLink: string | undefined;
    for (;;) {
      await this.#input.skip(this.#left + this.#padding);
      this.#left = this.#padding = 0;
      const block = await this.#input.block();
      if (block === undefined || block.every((byte) => byte === 0)) return undefined;
      checkSum(block);
      const type = latin1(block, 156, 1);
      switch (type) {
        case "x":
          local = parseRecords(await this.#meta(block));
          break;
        case "g":
          this.#global = new Map([...this.#global, ...parseRecords(await this.#meta(block))]);
          break;
        case "L":
          longName = cString(await this.#meta(block));
          break;
        case "K":
          longLink = cString(await this.#meta(block));
          break;
        default: {
          const header = entry(block, type, new Map([...this.#global, ...local]), longName, longLink);
          this.#left = header.size;
          this.#padding = (BLOCK - (header.size % BLOCK)) % BLOCK;
          this.position = this.#input.position;
          return header;
        }
      }
    }
  }

  /** Up to `max` bytes of the current entry's content; undefined at its end. The buffer is a view. */
  async read(max: number): Promise<Buffer | undefined> {
    if (this.#left === 0) return undefined;
    const chunk = await this.#input.some(Math.min(max, this.#left));
    this.#left -= chunk.length;
    return chunk;
  }

  /** Consumes what follows the archive's end: hashes cover it. */
  async drain(): Promise<void> {
    await this.#input.drain();
  }

  async #meta(block: Buffer): Promise<Buffer> {
    const size = number(block, 124, 12, "size");
    if (size > MAX_RECORDS) throw malformed(`a header of ${size} bytes`);
    const data = await this.#input.exactly(size);
    await this.#input.skip((BLOCK - (size % BLOCK)) % BLOCK);
    return data;
  }
}

type Records = Map<string, Buffer>;

function malformed(why: string): IsopodError {
  return new IsopodError("INVALID_ARGUMENT", `tar archive: ${why}`, { step: "read archive" });
}

function entry(
  block: Buffer,
  code: string,
  records: Records,
  longName: string | undefined,
  longLink: string | undefined,
): TarHeader {
  const text = (key: string) => records.get(key)?.toString("latin1");
  const name = text("path") ?? longName ?? shortName(block);
  for (const key of records.keys()) {
    if (key.startsWith("GNU.sparse.")) throw unsupported(`entry ${show(name)}`, key, "sparse file");
  }
  let type = types[code];
  if (type === undefined) throw unsupported(`entry ${show(name)}: type`, code);
  // Before POSIX a trailing slash was what made a directory.
  if (type === "file" && name.endsWith("/")) type = "directory";
  const size = decimal(records, "size") ?? number(block, 124, 12, "size");
  const device = type === "char" || type === "block";
  return {
    type,
    name,
    link: text("linkpath") ?? longLink ?? cString(block.subarray(157, 257)),
    mode: number(block, 100, 8, "mode") & 0o7777,
    uid: owner("uid", decimal(records, "uid") ?? number(block, 108, 8, "uid")),
    gid: owner("gid", decimal(records, "gid") ?? number(block, 116, 8, "gid")),
    mtime: paxTime(text("mtime")) ?? BigInt(number(block, 136, 12, "mtime")) * 1_000_000_000n,
    size: type === "file" ? size : 0,
    major: device ? number(block, 329, 8, "major") : 0,
    minor: device ? number(block, 337, 8, "minor") : 0,
    xattrs: attributes(records),
  };
}

function shortName(block: Buffer): string {
  const name = cString(block.subarray(0, 100));
  // GNU's magic is "ustar  ": there the prefix holds other things.
  const prefix = latin1(block, 257, 6) === "ustar\0" ? cString(block.subarray(345, 500)) : "";
  return prefix === "" ? name : `${prefix}/${name}`;
}

function attributes(records: Records): Record<string, Buffer> | undefined {
  const prefix = "SCHILY.xattr.";
  let found: Record<string, Buffer> | undefined;
  for (const [key, value] of records) {
    if (!key.startsWith(prefix)) continue;
    found ??= Object.create(null) as Record<string, Buffer>;
    found[key.slice(prefix.length)] = value;
  }
  return found;
}

/** LENGTH counts itself, the blank and the newline. An empty value takes the key away. */
function parseRecords(data: Buffer): Records {
  const records: Records = new Map();
  for (let at = 0; at < data.length; ) {
    const blank = data.indexOf(0x20, at);
    const digits = blank < 0 ? "" : data.toString("latin1", at, blank);
    const length = /^[1-9][0-9]{0,6}$/.test(digits) ? Number(digits) : 0;
    const end = at + length;
    const equals = data.indexOf(0x3d, blank);
    if (length === 0 || end > data.length || data[end - 1] !== 0x0a || equals < 0 || equals >= end) {
      throw malformed("a pax record is malformed");
    }
    const key = data.toString("latin1", blank + 1, equals);
    const value = data.subarray(equals + 1, end - 1);
    if (value.length > 0 || key.startsWith("SCHILY.xattr.")) records.set(key, Buffer.from(value));
    else records.delete(key);
    at = end;
  }
  return records;
}

function decimal(records: Records, key: string): number | undefined {
  const text = records.get(key)?.toString("latin1");
  if (text === undefined) return undefined;
  const value = /^[0-9]{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value <= MAX_SIZE)) throw malformed(`pax ${key} ${show(text)} is not a number`);
  return value;
}

function owner(field: string, value: number): number {
  if (value < 0 || value >= NONE) throw malformed(`${field} ${value} is out of range`);
  return value;
}

function paxTime(text: string | undefined): bigint | undefined {
  if (text === undefined) return undefined;
  const parts = /^(-?)([0-9]{1,12})(?:\.([0-9]*))?$/.exec(text);
  if (parts === null) throw malformed(`pax mtime ${show(text)} is not a time`);
  const fraction = BigInt((parts[3] ?? "").padEnd(9, "0").slice(0, 9));
  const value = BigInt(parts[2]!) * 1_000_000_000n + fraction;
  return parts[1] === "-" ? -value : value;
}

function number(block: Buffer, offset: number, length: number, field: string): number {
  const first = block[offset]!;
  if (first & 0x80) {
    // Two's complement of all bytes but the top bit.
    let value = first & 0x40 ? BigInt(first | 0x80) - 0x100n : BigInt(first & 0x7f);
    for (let i = 1; i < length; i++) value = value * 256n + BigInt(block[offset + i]!);
    if (value > BigInt(MAX_SIZE) || value < -BigInt(MAX_SIZE)) throw malformed(`${field} is out of range`);
    return Number(value);
  }
  const text = latin1(block, offset, length).replace(/^[ \0]+|[ \0].*$/gs, "");
  if (text === "") return 0;
  if (!/^[0-7]+$/.test(text)) throw malformed(`${field} ${show(text)} is not octal`);
  return Number.parseInt(text, 8);
}

function checkSum(block: Buffer): void {
  let sum = 8 * 0x20;
  for (let i = 0; i < BLOCK; i++) if (i < 148 || i >= 156) sum += block[i]!;
  if (sum !== number(block, 148, 8, "checksum")) throw malformed("a header's checksum is wrong");
}

const latin1 = (block: Buffer, offset: number, length: number): string =>
  block.toString("latin1", offset, offset + length);

function cString(data: Buffer): string {
  const end = data.indexOf(0);
  return data.toString("latin1", 0, end < 0 ? data.length : end);
}

const show = (latin1Text: string): string =>
  JSON.stringify(Buffer.from(latin1Text, "latin1").toString("utf8").slice(0, 300));

/** Chunks as a queue of bytes. */
class Input {
  readonly #chunks: AsyncIterator<Buffer> | SeekableChunks;
  #chunk: Buffer = Buffer.alloc(0);
  #ended = false;
  /** Bytes consumed. */
  position = 0;

  constructor(chunks: AsyncIterator<Buffer> | SeekableChunks) {
    this.#chunks = chunks;
  }

  async #fill(): Promise<boolean> {
    while (this.#chunk.length === 0 && !this.#ended) {
      const next = await this.#chunks.next();
      if (next.done) this.#ended = true;
      else this.#chunk = next.value;
    }
    return this.#chunk.length > 0;
  }

  /** At least one byte, at most `max`, as a view. */
  async some(max: number): Promise<Buffer> {
    if (this.#chunk.length === 0 && !(await this.#fill())) throw malformed("is truncated");
    const part = this.#chunk.subarray(0, max);
    this.#chunk = this.#chunk.subarray(part.length);
    this.position += part.length;
    return part;
  }

  async exactly(size: number): Promise<Buffer> {
    if (this.#chunk.length >= size) return this.some(size);
    const result = Buffer.allocUnsafe(size);
    for (let have = 0; have < size; ) {
      const part = await this.some(size - have);
      part.copy(result, have);
      have += part.length;
    }
    return result;
  }

  /** A header; undefined if the input ends here. */
  async block(): Promise<Buffer | undefined> {
    if (this.#chunk.length === 0 && !(await this.#fill())) return undefined;
    return this.exactly(BLOCK);
  }

  async skip(size: number): Promise<void> {
    if ("skip" in this.#chunks && size > this.#chunk.length) {
      this.#chunks.skip(size - this.#chunk.length);
      this.position += size;
      this.#chunk = Buffer.alloc(0);
      return;
    }
    while (size > 0) size -= (await this.some(size)).length;
  }

  async drain(): Promise<void> {
    while (await this.#fill()) {
      this.position += this.#chunk.length;
      this.#chunk = Buffer.alloc(0);
    }
  }
}
