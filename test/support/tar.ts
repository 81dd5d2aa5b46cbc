/**
 * Writes tar archives byte for byte as told, also ones that no well-behaved writer makes: names with `..`,
 * absolute links, binary xattrs, lying sizes. ustar headers; what does not fit goes into a pax header
 * ("LEN KEY=VALUE\n", the values being raw bytes) before the entry.
 */
export interface TarEntry {
  readonly path: string;
  /** Default: "symlink" or "hardlink" need it given; a path ending in "/" is a directory; else a file. */
  readonly type?: "file" | "directory" | "symlink" | "hardlink" | "char" | "block" | "fifo";
  /** Default 0644, directories and programs 0755 as the caller says. */
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  /** Seconds since 1970, fractions allowed; default 1_700_000_000. */
  readonly mtime?: number;
  readonly data?: string | Uint8Array;
  /** Target of a symlink or hardlink. */
  readonly link?: string;
  readonly major?: number;
  readonly minor?: number;
  readonly xattrs?: Readonly<Record<string, string | Uint8Array>>;
  /** Further pax records, e.g. GNU.sparse.* */
  readonly pax?: Readonly<Record<string, string | Uint8Array>>;
  /** Size written into the header in place of the data's own. */
  readonly claimedSize?: number;
}

const BLOCK = 512;
const types = { file: "0", hardlink: "1", symlink: "2", char: "3", block: "4", directory: "5", fifo: "6" };

export function tar(entries: readonly TarEntry[]): Buffer {
  const parts = entries.flatMap(encode);
  return Buffer.concat([...parts, Buffer.alloc(2 * BLOCK)]);
}

function encode(entry: TarEntry): Buffer[] {
  const type = entry.type ?? (entry.path.endsWith("/") ? "directory" : "file");
  const data = Buffer.from(entry.data ?? "");
  const link = entry.link ?? "";
  const mtime = entry.mtime ?? 1_700_000_000;
  const size = entry.claimedSize ?? data.length;
  const records: [string, string | Uint8Array][] = [];
  if (Buffer.byteLength(entry.path) > 100) records.push(["path", entry.path]);
  if (Buffer.byteLength(link) > 100) records.push(["linkpath", link]);
  if (!Number.isInteger(mtime)) records.push(["mtime", mtime.toFixed(9)]);
  if (size > 0o77777777777) records.push(["size", String(size)]);
  for (const [name, value] of Object.entries(entry.xattrs ?? {}))
    records.push([`SCHILY.xattr.${name}`, value]);
  records.push(...Object.entries(entry.pax ?? {}));

  const head = header({
    name: entry.path,
    link,
    type: types[type],
    mode: entry.mode ?? (type === "directory" ? 0o755 : 0o644),
    uid: entry.uid ?? 0,
    gid: entry.gid ?? 0,
    size,
    mtime: Math.floor(mtime),
    major: entry.major ?? 0,
    minor: entry.minor ?? 0,
  });
  const body = [head, ...padded(data)];
  if (records.length === 0) return body;
  const pax = Buffer.concat(records.map(([key, value]) => paxRecord(key, Buffer.from(value))));
  const plain = { link: "", mode: 0o644, uid: 0, gid: 0, mtime: 0, major: 0, minor: 0 };
  return [header({ ...plain, name: "PaxHeader", type: "x", size: pax.length }), ...padded(pax), ...body];
}

/** The length counts itself. */
function paxRecord(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from("\n")]);
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

function padded(data: Buffer): Buffer[] {
  const rest = (BLOCK - (data.length % BLOCK)) % BLOCK;
  return data.length === 0 ? [] : [data, Buffer.alloc(rest)];
}

interface Header {
  readonly name: string;
  readonly link: string;
  readonly type: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly mtime: number;
  readonly major: number;
  readonly minor: number;
}

function header(of: Header): Buffer {
  const block = Buffer.alloc(BLOCK);
  const text = (offset: number, length: number, value: string) =>
    Buffer.from(value).copy(block, offset, 0, length);
  const octal = (offset: number, length: number, value: number) =>
    block.write(
      `${Math.min(value, 8 ** (length - 1) - 1)
        .toString(8)
        .padStart(length - 1, "0")}\0`,
      offset,
    );
  text(0, 100, of.name);
  octal(100, 8, of.mode);
  octal(108, 8, of.uid);
  octal(116, 8, of.gid);
  octal(124, 12, of.size);
  octal(136, 12, of.mtime);
  block.write("        ", 148);
  block.write(of.type, 156);
  text(157, 100, of.link);
  block.write("ustar\x0000", 257, "latin1");
  octal(329, 8, of.major);
  octal(337, 8, of.minor);
  let sum = 0;
  for (const byte of block) sum += byte;
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}
