import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import { native } from "../../src/native";

const directory = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-pump-"));
after(() => fs.rmSync(directory, { recursive: true }));

let count = 0;
/** A FIFO with its reading end (for a pump, which takes it) and a writing end. */
function fifo(): { path: string; reader: number; writer: number } {
  const name = path.join(directory, `fifo${count++}`);
  execFileSync("mkfifo", [name]);
  const reader = fs.openSync(name, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  return { path: name, reader, writer: fs.openSync(name, fs.constants.O_WRONLY) };
}

interface Line {
  readonly time: string;
  readonly stream: string;
  readonly tag: string;
  readonly text: Buffer;
}

function parse(log: Buffer): Line[] {
  const lines: Line[] = [];
  for (let at = 0; at < log.length; ) {
    const end = log.indexOf(10, at);
    assert.notEqual(end, -1, "the log ends in the middle of a line");
    const line = log.subarray(at, end);
    const [time, stream, tag] = line.toString("latin1").split(" ", 3) as [string, string, string];
    lines.push({ time, stream, tag, text: line.subarray(time.length + stream.length + tag.length + 3) });
    at = end + 1;
  }
  return lines;
}

/** What a reader of the log sees: the bytes that were written. */
function content(lines: readonly Line[]): Buffer {
  return Buffer.concat(
    lines.flatMap((line) => (line.tag === "F" ? [line.text, Buffer.from("\n")] : [line.text])),
  );
}

async function logged(chunks: readonly Uint8Array[]): Promise<Line[]> {
  const file = path.join(directory, `log${count++}`);
  const log = native().logOpen({ path: file });
  const { reader, writer } = fifo();
  const pump = native().pumpLog({ fd: reader, log, stream: "stdout" });
  for (const chunk of chunks) if (chunk.length > 0) fs.writeSync(writer, chunk);
  fs.closeSync(writer);
  await native().pumpEnd({ pump });
  native().logClose({ log });
  return parse(fs.readFileSync(file));
}

test("R12: lines are stamped, tagged and kept to the byte", async () => {
  const lines = await logged([Buffer.from("one\ntw"), Buffer.from("o\n\nlast")]);
  assert.deepEqual(
    lines.map((line) => [line.stream, line.tag, line.text.toString()]),
    [
      ["stdout", "F", "one"],
      ["stdout", "F", "two"],
      ["stdout", "F", ""],
      ["stdout", "P", "last"],
    ],
  );
  for (const line of lines) assert.match(line.time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$/);
});

test("a long line is cut into parts of 16 KiB", async () => {
  const lines = await logged([Buffer.from(`${"x".repeat(40_000)}\n`)]);
  assert.deepEqual(
    lines.map((line) => [line.tag, line.text.length]),
    [
      ["P", 16384],
      ["P", 16384],
      ["F", 7232],
    ],
  );
});

test("any chunks of any bytes come back as they were written", async () => {
  const piece = fc.oneof(
    fc.uint8Array({ maxLength: 50 }),
    fc.constant(Buffer.from("\n")),
    fc.integer({ min: 16_380, max: 16_390 }).map((n) => Buffer.alloc(n, 97)),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(piece, { maxLength: 3 }), async (chunks) => {
      const lines = await logged(chunks);
      assert.deepEqual(content(lines), Buffer.concat(chunks));
      assert.ok(lines.every((line) => line.text.length <= 16_384 && !line.text.includes(10)));
    }),
    { numRuns: 100 },
  );
});

test("a reopened log gets all that follows, the old one nothing more", async () => {
  const file = path.join(directory, "rotated");
  const log = native().logOpen({ path: file });
  const { reader, writer } = fifo();
  const pump = native().pumpLog({ fd: reader, log, stream: "stderr" });
  const wrote: string[] = [];
  for (let i = 0; i < 200; i++) {
    wrote.push(`line ${i}`);
    fs.writeSync(writer, `line ${i}\n`);
    if (i % 50 === 49) {
      fs.renameSync(file, `${file}.${i}`);
      native().logReopen({ log, path: file });
      const size = fs.statSync(`${file}.${i}`).size;
      await new Promise((resolve) => setTimeout(resolve, 5));
      assert.equal(fs.statSync(`${file}.${i}`).size, size);
    }
  }
  fs.closeSync(writer);
  await native().pumpEnd({ pump });
  native().logClose({ log });
  const all = [49, 99, 149, 199].map((i) => fs.readFileSync(`${file}.${i}`));
  all.push(fs.readFileSync(file));
  assert.deepEqual(
    parse(Buffer.concat(all)).map((line) => line.text.toString()),
    wrote,
  );
});

test("a log that cannot be opened is an error that names it", () => {
  const missing = path.join(directory, "absent/log");
  assert.throws(() => native().logOpen({ path: missing }), { errno: "ENOENT", path: missing });
  fs.symlinkSync("/dev/null", path.join(directory, "link"));
  assert.throws(() => native().logOpen({ path: path.join(directory, "link") }), { errno: "ELOOP" });
});

test("a full disk loses lines, joins none, and never blocks the writer", async () => {
  const mount = path.join(directory, "small");
  fs.mkdirSync(mount);
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", mount]);
  try {
    const file = path.join(mount, "log");
    const log = native().logOpen({ path: file });
    const { reader, writer } = fifo();
    const pump = native().pumpLog({ fd: reader, log, stream: "stdout" });
    for (let i = 0; i < 40; i++) fs.writeSync(writer, `${String(i).padStart(4, "0")}${"y".repeat(8000)}\n`);
    fs.closeSync(writer);
    await native().pumpEnd({ pump });
    native().logClose({ log });
    const whole = fs
      .readFileSync(file, "latin1")
      .split("\n")
      .filter((line) => / F \d{4}y{8000}$/.test(line));
    assert.ok(whole.length >= 5 && whole.length < 40, `${whole.length} whole lines`);
  } finally {
    execFileSync("umount", [mount]);
  }
});

test("no writer yet is not the end; the last writer's close is", async () => {
  const name = path.join(directory, "late");
  execFileSync("mkfifo", [name]);
  const pump = native().pumpCollect({
    fd: fs.openSync(name, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK),
    limit: 100,
  });
  await new Promise((resolve) => setTimeout(resolve, 20));
  const writer = fs.openSync(name, "w");
  fs.writeSync(writer, "here");
  fs.closeSync(writer);
  assert.equal((await native().pumpEnd({ pump })).toString(), "here");
});

test("a collect keeps the first bytes and drains the rest", async () => {
  const { reader, writer } = fifo();
  const pump = native().pumpCollect({ fd: reader, limit: 10 });
  const end = native().pumpEnd({ pump });
  for (let i = 0; i < 50; i++) fs.writeSync(writer, "0123456789abcdef".repeat(64));
  fs.closeSync(writer);
  assert.equal((await end).toString(), "0123456789");
});

test("a stopped pump passes on what was there, though a writer lives", async () => {
  const { reader, writer } = fifo();
  const pump = native().pumpCollect({ fd: reader, limit: 1 << 20 });
  const data = Buffer.alloc(60_000, 7);
  fs.writeSync(writer, data);
  native().pumpStop({ pump });
  assert.deepEqual(await native().pumpEnd({ pump }), data);
  fs.closeSync(writer);
});

test("a copy waits for a slow reader and loses nothing", async () => {
  const source = fifo();
  const target = fifo();
  const copy = native().pumpCopy({ from: source.reader, to: target.writer });
  const data = Buffer.alloc(1 << 16);
  for (let i = 0; i < data.length; i++) data[i] = i & 255;
  // Twice the capacity of the target: the second half must wait in the pump.
  fs.writeSync(source.writer, data);
  await new Promise((resolve) => setTimeout(resolve, 20));
  fs.writeSync(source.writer, data);
  fs.closeSync(source.writer);
  await new Promise((resolve) => setTimeout(resolve, 20));
  const collect = native().pumpCollect({ fd: target.reader, limit: 1 << 20 });
  assert.deepEqual(await native().pumpEnd({ pump: collect }), Buffer.concat([data, data]));
  await native().pumpEnd({ pump: copy });
});

test("a copy whose reader is gone drains, so that the writer never blocks", async () => {
  const source = fifo();
  const target = fifo();
  fs.closeSync(target.reader);
  const copy = native().pumpCopy({ from: source.reader, to: target.writer });
  for (let i = 0; i < 20; i++) fs.writeSync(source.writer, Buffer.alloc(1 << 16));
  fs.closeSync(source.writer);
  await native().pumpEnd({ pump: copy });
});
