import * as crypto from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { IsopodError, invalid, notFound, unsupported } from "../base/errors";
import { compressionOf } from "./inflate";
import { type SeekableChunks, TarReader } from "./tar";

/** Files by name in a directory or a tar, read where they lie. */
export interface Archive {
  has(name: string): boolean;
  /** The whole file; one of more than `limit` bytes is refused. */
  read(name: string, limit: number): Promise<Buffer>;
  head(name: string, bytes: number): Promise<Buffer>;
  slice(name: string): { file: string; offset: number; size: number };
  /** sha256 of its content. */
  digest(name: string): Promise<string>;
  close(): void;
}

interface Slice {
  readonly file: string;
  readonly offset: number;
  readonly size: number;
}

const MAX_FILES = 100_000;

/** NOT_FOUND if there is no such file; INVALID_ARGUMENT if it is neither a directory nor a tar. */
export async function openArchive(file: string): Promise<Archive> {
  if (!path.isAbsolute(file)) throw invalid("path", file, "must be absolute");
  const stat = await fs.promises.stat(file).catch(() => {
    throw notFound("archive", file);
  });
  if (stat.isDirectory()) return archive((name) => directorySlice(file, name));
  if (!stat.isFile()) throw invalid("path", file, "must be a directory or a tar archive");
  const slices = await indexTar(file);
  return archive((name) => slices.get(name));
}

function directorySlice(directory: string, name: string): Slice | undefined {
  const file = path.join(directory, name);
  const stat = fs.statSync(file, { throwIfNoEntry: false });
  return stat?.isFile() ? { file, offset: 0, size: stat.size } : undefined;
}

function archive(find: (name: string) => Slice | undefined): Archive {
  const slice = (name: string): Slice => {
    const found = find(name);
    if (found === undefined) throw notFound("archive member", name);
    return found;
  };
  const bytes = async ({ file, offset }: Slice, size: number): Promise<Buffer> => {
    const handle = await fs.promises.open(file, "r");
    try {
      const buffer = Buffer.alloc(size);
      const { bytesRead } = await handle.read(buffer, 0, size, offset);
      return buffer.subarray(0, bytesRead);
    } finally {
      await handle.close();
    }
  };
  return {
    has: (name) => find(name) !== undefined,
    async read(name, limit) {
      const found = slice(name);
      if (found.size > limit) {
        throw new IsopodError("INVALID_ARGUMENT", `${name}: ${found.size} bytes, at most ${limit} are read`, {
          path: name,
        });
      }
      return bytes(found, found.size);
    },
    head: (name, size) => bytes(slice(name), Math.min(size, slice(name).size)),
    slice,
    async digest(name) {
      const { file, offset, size } = slice(name);
      const hash = crypto.createHash("sha256");
      if (size > 0) {
        const stream = fs.createReadStream(file, { start: offset, end: offset + size - 1 });
        for await (const chunk of stream) hash.update(chunk as Buffer);
      }
      return `sha256:${hash.digest("hex")}`;
    },
    close() {},
  };
}

/** Names → places. Links among the members (older `docker save` has them for equal layers) are followed. */
async function indexTar(file: string): Promise<Map<string, Slice>> {
  const chunks = new FileChunks(file);
  const files = new Map<string, Slice>();
  const links = new Map<string, string>();
  try {
    const head = await chunks.peek();
    if (compressionOf(head) !== "none") {
      throw unsupported("path", file, `a ${compressionOf(head)}-compressed archive: decompress it first`);
    }
    const tar = new TarReader(chunks);
    for (let entry = await tar.next(); entry !== undefined; entry = await tar.next()) {
      if (files.size + links.size > MAX_FILES) throw invalid("path", file, `more than ${MAX_FILES} members`);
      const name = path.posix.normalize(entry.name);
      if (entry.type === "file") {
        files.set(name, { file, offset: tar.position, size: entry.size });
      } else if (entry.type === "symlink") {
        links.set(name, path.posix.join(path.posix.dirname(name), entry.link));
      } else if (entry.type === "hardlink") {
        links.set(name, path.posix.normalize(entry.link));
      }
    }
  } finally {
    chunks.close();
  }
  for (const name of links.keys()) {
    let target: string | undefined = name;
    for (let hops = 0; hops < 10 && target !== undefined && !files.has(target); hops++) {
      target = links.get(target);
    }
    const found = target === undefined ? undefined : files.get(target);
    if (found !== undefined) files.set(name, found);
  }
  return files;
}

/** Only headers are read, 4 KiB at a time: content is passed over. */
class FileChunks implements SeekableChunks {
  readonly #fd: number;
  #offset = 0;

  constructor(file: string) {
    this.#fd = fs.openSync(file, "r");
  }

  async peek(): Promise<Buffer> {
    const head = Buffer.alloc(4);
    const size = fs.readSync(this.#fd, head, 0, head.length, 0);
    return head.subarray(0, size);
  }

  async next(): Promise<IteratorResult<Buffer>> {
    const chunk = Buffer.allocUnsafe(4096);
    const size = await new Promise<number>((resolve, reject) => {
      fs.read(this.#fd, chunk, 0, chunk.length, this.#offset, (error, got) => {
        if (error) reject(error);
        else resolve(got);
      });
    });
    this.#offset += size;
    return size === 0 ? { done: true, value: undefined } : { done: false, value: chunk.subarray(0, size) };
  }

  skip(bytes: number): void {
    this.#offset += bytes;
  }

  close(): void {
    fs.closeSync(this.#fd);
  }
}
