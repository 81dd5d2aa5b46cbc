import * as crypto from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { IsopodError, notFound } from "../base/errors";

/**
 * Blobs by digest below `<root>/content/sha256`. A file has its name there only after its size and digest
 * were verified and its bytes are on disk: tmp, verify, fsync, rename, fsync of the directory. What is on
 * the way lies in `<root>/ingest`, which is emptied when the store opens.
 */
export interface ContentStore {
  has(digest: string): boolean;
  path(digest: string): string;
  /** A small blob, verified again. */
  read(digest: string): Promise<Buffer>;
  /** Verifies `data` and keeps it. */
  put(digest: string, data: Uint8Array): Promise<void>;
  /** A name for a blob on its way; the caller writes it and commits or discards it. */
  ingest(): string;
  /** `file` is verified and synced by who wrote it. */
  commit(file: string, digest: string): Promise<void>;
  discard(file: string): void;
  remove(digest: string): void;
  digests(): string[];
  size(digest: string): number;
}

export const digestOf = (data: Uint8Array): string =>
  `sha256:${crypto.createHash("sha256").update(data).digest("hex")}`;

export function openContentStore(root: string): ContentStore {
  const blobs = path.join(root, "content", "sha256");
  const ingestDir = path.join(root, "ingest");
  fs.rmSync(ingestDir, { recursive: true, force: true });
  fs.mkdirSync(ingestDir, { recursive: true, mode: 0o700 });
  fs.mkdirSync(blobs, { recursive: true, mode: 0o700 });
  const present = new Map(
    fs.readdirSync(blobs).map((hex) => [`sha256:${hex}`, fs.statSync(path.join(blobs, hex)).size]),
  );
  let counter = 0;
  const blobPath = (digest: string) => path.join(blobs, digest.slice("sha256:".length));
  const ingest = () => path.join(ingestDir, String(counter++));

  const store: ContentStore = {
    has: (digest) => present.has(digest),
    path: blobPath,
    async read(digest) {
      if (!present.has(digest)) throw notFound("blob", digest);
      const data = await fs.promises.readFile(blobPath(digest));
      const actual = digestOf(data);
      if (actual !== digest) {
        throw new IsopodError("DATA_LOSS", `read blob ${digest}: its content has the digest ${actual}`, {
          path: digest,
        });
      }
      return data;
    },
    async put(digest, data) {
      const actual = digestOf(data);
      if (actual !== digest) {
        throw new IsopodError("DATA_LOSS", `blob ${digest}: its content has the digest ${actual}`, {
          path: digest,
        });
      }
      if (present.has(digest)) return;
      const file = ingest();
      try {
        const handle = await fs.promises.open(file, "wx", 0o600);
        try {
          await handle.writeFile(data);
          await handle.sync();
        } finally {
          await handle.close();
        }
        await store.commit(file, digest);
      } catch (error) {
        store.discard(file);
        throw error;
      }
    },
    ingest,
    async commit(file, digest) {
      const { size } = await fs.promises.stat(file);
      await fs.promises.rename(file, blobPath(digest));
      present.set(digest, size);
      await syncDirectory(blobs);
    },
    discard: (file) => fs.rmSync(file, { force: true }),
    remove(digest) {
      present.delete(digest);
      fs.rmSync(blobPath(digest), { force: true });
    },
    digests: () => [...present.keys()],
    size: (digest) => present.get(digest) ?? 0,
  };
  return store;
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await fs.promises.open(directory, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
