import * as assert from "node:assert/strict";
import { once } from "node:events";
import * as fs from "node:fs";
import * as net from "node:net";
import * as os from "node:os";
import * as path from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import { IsopodError, notFound } from "../../src/base/errors";
import { ttrpc } from "../../src/gen/shim";
import { type Call, type Client, connect, Server, statusOf } from "../../src/ttrpc";
import {
  encodeFrame,
  FLAG,
  type Frame,
  FrameParser,
  HEADER_SIZE,
  MAX_DATA,
  TYPE,
} from "../../src/ttrpc/frame";

const TASK = "containerd.task.v3.Task";
const STREAMING = "containerd.services.streaming.v1.Streaming";
const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-ttrpc-"));
const socketPath = path.join(dir, "s");
const seen: Call[] = [];
let release: () => void = () => {};
const held = new Promise<void>((resolve) => {
  release = resolve;
});

const server = new Server({
  services: {
    [TASK]: {
      State: (request: { id: string }, call: Call) => {
        seen.push(call);
        return { id: request.id, pid: 7 };
      },
      Wait: async () => {
        await held;
        return { exitStatus: 3 };
      },
      Kill: () => {
        throw notFound("task", "x");
      },
      Pids: (_request: object, call: Call) =>
        new Promise((_resolve, reject) => {
          call.signal.addEventListener("abort", () => reject(call.signal.reason as Error));
        }),
      Stats: () => ({ stats: { type_url: "x", value: Buffer.alloc(MAX_DATA) } }),
    },
    [STREAMING]: {
      Stream: async (stream: AsyncIterable<{ type_url: string }> & { send(message: object): void }) => {
        for await (const { type_url } of stream) {
          if (type_url === "fail") throw new IsopodError("DATA_LOSS", "asked for");
          stream.send({ type_url: `${type_url}!`, value: Buffer.from(type_url) });
        }
        return undefined;
      },
    },
  },
});
const ready = server.listen({ path: socketPath });

after(async () => {
  await server.close();
  fs.rmSync(dir, { recursive: true });
});

async function client(): Promise<Client> {
  await ready;
  return connect(`unix://${socketPath}`);
}

interface Raw {
  socket: net.Socket;
  send(...frame: Parameters<typeof encodeFrame>): void;
  next(): Promise<Frame>;
}

/** A connection that speaks frames by hand. */
async function raw(): Promise<Raw> {
  await ready;
  const socket = net.connect(socketPath);
  await once(socket, "connect");
  const frames: Frame[] = [];
  let wake = (): void => {};
  const parser = new FrameParser({
    frame: (frame) => {
      frames.push(frame);
      wake();
    },
    oversize: () => assert.fail("oversize answer"),
  });
  socket.on("data", (chunk: Buffer) => parser.push(chunk));
  return {
    socket,
    send: (...frame) => void socket.write(encodeFrame(...frame)),
    next: async () => {
      while (frames.length === 0) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      return frames.shift()!;
    },
  };
}

function request(service: string, method: string, payload: Uint8Array = Buffer.alloc(0)): Uint8Array {
  return ttrpc.Request.encode({ service, method, payload }).finish();
}

async function codeOf(peer: Raw): Promise<[number, number]> {
  const { streamId, type, data } = await peer.next();
  assert.equal(type, TYPE.response);
  return [streamId, ttrpc.Response.decode(data).status?.code ?? 0];
}

test("a call that waits delays no other, and its answer comes when it comes", async () => {
  const c = await client();
  const waiting = c.call(TASK, "Wait", { id: "a" });
  const states = await Promise.all(
    Array.from({ length: 50 }, (_, i) => c.call(TASK, "State", { id: `s${i}` })),
  );
  assert.deepEqual(
    states.map((s) => (s as { id: string }).id),
    Array.from({ length: 50 }, (_, i) => `s${i}`),
  );
  release();
  assert.equal(((await waiting) as { exitStatus: number }).exitStatus, 3);
  c.close();
});

test("metadata arrives as lower-case lists", async () => {
  const c = await client();
  await c.call(TASK, "State", { id: "m" }, { metadata: { "Containerd-Namespace-Ttrpc": "k8s.io" } });
  assert.deepEqual(seen.at(-1)?.metadata.get("containerd-namespace-ttrpc"), ["k8s.io"]);
  c.close();
});

test("errors keep their code; unknown service and method are 12", async () => {
  const c = await client();
  await assert.rejects(c.call(TASK, "Kill", {}), { code: "NOT_FOUND", message: 'task "x": not found' });
  await assert.rejects(c.call(TASK, "Update", {}), { code: "UNIMPLEMENTED" });
  await assert.rejects(c.call("containerd.task.v2.Task", "State", {}), { code: "UNIMPLEMENTED" });
  for (const code of ["CANCELLED", "UNAUTHENTICATED", "DATA_LOSS"] as const) {
    const status = statusOf(new IsopodError(code, "why"));
    assert.equal(status.message, "why");
  }
  assert.equal(statusOf(new Error("plain")).code, 2);
  c.close();
});

test("a deadline passes at both ends, and a late answer hurts nobody", async () => {
  const c = await client();
  await assert.rejects(c.call(TASK, "Pids", {}, { timeoutMs: 30 }), { code: "DEADLINE_EXCEEDED" });
  assert.equal(((await c.call(TASK, "State", { id: "z" })) as { pid: number }).pid, 7);
  c.close();
});

test("calls in flight fail when the connection ends, and the server's handlers are told", async () => {
  const c = await client();
  const pending = c.call(TASK, "Pids", {});
  await c.call(TASK, "State", {});
  c.close();
  await assert.rejects(pending, { code: "UNAVAILABLE", message: "ttrpc: connection closed" });
  await c.closed;
  await assert.rejects(c.call(TASK, "State", {}), { code: "UNAVAILABLE" });
});

test("an answer or a request beyond 4 MiB is refused, the connection lives", async () => {
  const c = await client();
  await assert.rejects(c.call(TASK, "Stats", {}), { code: "RESOURCE_EXHAUSTED" });
  await assert.rejects(c.call(TASK, "State", { id: "x".repeat(MAX_DATA) }), { code: "RESOURCE_EXHAUSTED" });
  await c.call(TASK, "State", {});
  c.close();
});

test("an oversize request is drained and answered with 8", async () => {
  const peer = await raw();
  const header = Buffer.alloc(HEADER_SIZE);
  header.writeUInt32BE(MAX_DATA + 5, 0);
  header.writeUInt32BE(1, 4);
  header[8] = TYPE.request;
  peer.socket.write(header);
  peer.socket.write(Buffer.alloc(MAX_DATA + 5));
  assert.deepEqual(await codeOf(peer), [1, 8]);
  peer.send(3, TYPE.request, 0, request(TASK, "State"));
  assert.deepEqual(await codeOf(peer), [3, 0]);
  peer.socket.destroy();
});

test("bad ids, bad requests and stray data are answered with 3, unknown types not at all", async () => {
  const peer = await raw();
  peer.send(1, TYPE.request, 0, Buffer.from([0xff, 0xff]));
  assert.deepEqual(await codeOf(peer), [1, 3]);
  peer.send(3, TYPE.request, 0, request(TASK, "State", Buffer.from([0x0a, 0x7f, 0x01])));
  assert.deepEqual(await codeOf(peer), [3, 3]);
  peer.send(4, TYPE.request, 0, request(TASK, "State"));
  assert.deepEqual(await codeOf(peer), [4, 3], "even id");
  peer.send(3, TYPE.request, 0, request(TASK, "State"));
  assert.deepEqual(await codeOf(peer), [3, 3], "id used before");
  peer.send(9, TYPE.data, 0, Buffer.alloc(0));
  assert.deepEqual(await codeOf(peer), [9, 3], "data without a stream");
  peer.send(11, 77, 0, Buffer.alloc(0));
  peer.send(13, TYPE.request, 0, request(TASK, "State"));
  assert.deepEqual(await codeOf(peer), [13, 0]);
  peer.socket.destroy();
});

test("bidirectional streams carry messages, their end, and their failure", async () => {
  const c = await client();
  const echo = c.stream(STREAMING, "Stream") as unknown as AsyncIterable<{ type_url: string }> & {
    send(message: object): void;
    end(): void;
  };
  echo.send({ type_url: "a", value: Buffer.alloc(0) });
  echo.send({ type_url: "b", value: Buffer.alloc(0) });
  echo.end();
  const got: string[] = [];
  for await (const { type_url } of echo) got.push(type_url);
  assert.deepEqual(got, ["a!", "b!"]);

  const failing = c.stream(STREAMING, "Stream") as unknown as typeof echo;
  failing.send({ type_url: "fail", value: Buffer.alloc(0) });
  await assert.rejects(
    async () => {
      for await (const _ of failing) assert.fail("no message expected");
    },
    { code: "DATA_LOSS", message: "asked for" },
  );
  c.close();
});

test("a stream ends with Data remote-closed|no-data on the wire", async () => {
  const peer = await raw();
  peer.send(1, TYPE.request, FLAG.remoteOpen, request(STREAMING, "Stream"));
  peer.send(1, TYPE.data, FLAG.remoteClosed | FLAG.noData, Buffer.alloc(0));
  const { type, flags, data } = await peer.next();
  assert.deepEqual([type, flags, data.length], [TYPE.data, FLAG.remoteClosed | FLAG.noData, 0]);
  peer.send(1, TYPE.data, 0, Buffer.alloc(0));
  assert.deepEqual(await codeOf(peer), [1, 3], "data after the end");
  peer.socket.destroy();
});

test("garbage ends at most its own connection", async () => {
  const good = await client();
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 2000 }), async (bytes) => {
      const peer = await raw();
      peer.socket.on("error", () => {});
      peer.socket.end(bytes);
      await once(peer.socket.resume(), "close");
      assert.equal(((await good.call(TASK, "State", { id: "ok" })) as { id: string }).id, "ok");
    }),
    { numRuns: 60 },
  );
  good.close();
});
