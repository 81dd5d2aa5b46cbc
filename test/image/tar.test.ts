import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { pack } from "tar-stream";
import { TarReader } from "../../src/image/tar";
import { tar } from "../support/tar";

async function* inPieces(data: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < data.length; at += size) yield data.subarray(at, at + size);
}

interface Read {
  readonly name: string;
  readonly type: string;
  readonly data: string;
  readonly mtime: bigint;
  readonly link: string;
}

async function readAll(data: Buffer, size = 512): Promise<Read[]> {
  const reader = new TarReader(inPieces(data, size));
  const entries: Read[] = [];
  for (let header = await reader.next(); header !== undefined; header = await reader.next()) {
    const parts: Buffer[] = [];
    for (let part = await reader.read(97); part !== undefined; part = await reader.read(97)) parts.push(part);
    const { name, type, mtime, link } = header;
    entries.push({ name, type, mtime, link, data: Buffer.concat(parts).toString("latin1") });
  }
  await reader.drain();
  return entries;
}

const name = fc
  .stringMatching(/^[a-zA-Z0-9._-]{1,60}(\/[a-zA-Z0-9._ -]{1,90}){0,3}$/)
  .filter((text) => !text.endsWith("/"));

test("reads what tar-stream writes, in whatever pieces it comes", async () => {
  // tar-stream writes times as 32-bit integers.
  const seconds = fc.nat(2 ** 31 - 1);
  const entry = fc.record({ name, content: fc.uint8Array({ maxLength: 2000 }), seconds });
  await fc.assert(
    fc.asyncProperty(
      fc.array(entry, { maxLength: 6 }),
      fc.integer({ min: 1, max: 1500 }),
      async (given, size) => {
        const writer = pack();
        for (const { name, content, seconds } of given) {
          writer.entry({ name, mtime: new Date(seconds * 1000) }, Buffer.from(content));
        }
        writer.finalize();
        const chunks: Buffer[] = [];
        for await (const chunk of writer) chunks.push(chunk as Buffer);
        const expected = given.map(({ name, content, seconds }) => ({
          name,
          type: "file",
          link: "",
          mtime: BigInt(seconds) * 1_000_000_000n,
          data: Buffer.from(content).toString("latin1"),
        }));
        assert.deepEqual(await readAll(Buffer.concat(chunks), size), expected);
      },
    ),
    { numRuns: 60 },
  );
});

test("any bytes end in entries or in an error, and never in more content than there is", async () => {
  const good = tar([
    { path: "a", data: "x".repeat(700), xattrs: { "user.a": "b" } },
    { path: "l", type: "symlink", link: "y".repeat(200) },
  ]);
  const mutations = fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 });
  await fc.assert(
    fc.asyncProperty(mutations, fc.nat(good.length), async (changes, length) => {
      const data = Buffer.from(good.subarray(0, length));
      for (const [at, byte] of changes) if (at < data.length) data[at] = byte;
      try {
        const entries = await readAll(data);
        assert.ok(entries.reduce((sum, entry) => sum + entry.data.length, 0) <= data.length);
      } catch (error) {
        assert.match((error as { code: string }).code, /^(INVALID_ARGUMENT|UNIMPLEMENTED)$/);
      }
    }),
    { numRuns: 300 },
  );
});

test("big-endian numbers, global headers, fractions and times before 1970", async () => {
  const archive = tar([
    { path: "g", data: "", pax: { mtime: "-1.5" } },
    { path: "h", data: "", pax: { mtime: "0.000000001" } },
  ]);
  // The first pax header becomes a global one for both.
  archive.write("g", 156);
  let sum = 8 * 0x20;
  for (let i = 0; i < 512; i++) if (i < 148 || i >= 156) sum += archive[i]!;
  archive.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  const times = (await readAll(archive)).map((entry) => entry.mtime);
  assert.deepEqual(times, [-1_500_000_000n, 1n]);

  const binary = tar([{ path: "b", data: "12345" }]);
  binary.fill(0, 124, 136);
  binary[124] = 0x80;
  binary[135] = 5;
  binary.fill(0xff, 136, 148); // mtime -1
  binary.write("        ", 148);
  const total = binary.subarray(0, 512).reduce((a, b) => a + b, 0);
  binary.write(`${total.toString(8).padStart(6, "0")}\0 `, 148);
  const [entry] = await readAll(binary);
  assert.equal(entry!.data, "12345");
  assert.equal(entry!.mtime, -1_000_000_000n);
});
