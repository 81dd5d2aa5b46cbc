import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as net from "node:net";
import * as os from "node:os";
import * as path from "node:path";
import { after, test } from "node:test";
import { Agent, Ports, unixPorts } from "../../src/agent";
import { IsopodError } from "../../src/base/errors";
import { isopod } from "../../src/gen/agent";
import { ttrpc } from "../../src/gen/shim";
import { encodeFrame, FrameParser, TYPE } from "../../src/ttrpc/frame";

/** The guest's side of the control stream, in the hands of whoever has taken over its kernel. */
const v1 = isopod.agent.v1;
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-hostile-"));
after(() => fs.rmSync(scratch, { recursive: true, force: true }));
const code = (wanted: string) => (error: unknown) => IsopodError.is(error) && error.code === wanted;

type Answer = (method: string) => { payload?: Uint8Array; status?: object; raw?: Buffer };
let count = 0;

/** Connects a client to a guest that answers as it is told; Hello first. */
async function guest(answer: Answer): Promise<{ agent: Promise<Agent>; end(): void }> {
  const file = path.join(scratch, String(count++));
  const server = net.createServer((socket) => {
    const parser = new FrameParser({
      frame: ({ streamId, data }) => {
        const said = answer(ttrpc.Request.decode(data).method);
        const response = ttrpc.Response.encode({
          payload: said.payload ?? new Uint8Array(),
          ...(said.status && { status: said.status }),
        });
        socket.write(said.raw ?? encodeFrame(streamId, TYPE.response, 0, response.finish()));
      },
      oversize: () => {},
    });
    socket.on("data", (chunk: Buffer) => parser.push(chunk));
    socket.on("error", () => {});
  });
  await new Promise<void>((resolve) => server.listen(file, resolve));
  const socket = net.connect(file);
  const agent = Agent.connect(socket, { timeoutMs: 5_000 });
  agent.catch(() => {});
  const end = (): void => {
    socket.destroy();
    server.close();
  };
  return { agent, end };
}

const honest = {
  version: "0.1.0",
  protocol: 1,
  kernel: "6.1.0",
  arch: "x86_64",
  cgroupRoot: "/sys/fs/cgroup",
  controllers: ["memory"],
  features: { cgroupKill: true },
  filesDir: "/run/isopod/files",
};
const hello = (more: object = {}): Uint8Array => v1.HelloResponse.encode({ ...honest, ...more }).finish();

/** A guest that says hello as it should and then `then`. */
const afterHello = (then: Answer) =>
  guest((method) => (method === "Hello" ? { payload: hello() } : then(method)));

test("what a guest says of itself is taken only if plans and paths can be made of it", async () => {
  const lies: object[] = [
    { protocol: 2 },
    { arch: "riscv64" },
    { arch: "" },
    { cgroupRoot: "/sys/../etc" },
    { cgroupRoot: "relative" },
    { cgroupRoot: "/a/" },
    { filesDir: "" },
    { filesDir: "/run/..\n" },
  ];
  for (const lie of lies) {
    const { agent, end } = await guest(() => ({ payload: hello(lie) }));
    await assert.rejects(agent, code("FAILED_PRECONDITION"), JSON.stringify(lie));
    end();
  }
  const many = Array.from({ length: 5000 }, () => "x".repeat(5000));
  const { agent, end } = await guest(() => ({
    payload: hello({ controllers: many.slice(0, 200), kernel: `\u001b[2J${"y".repeat(9999)}` }),
  }));
  const { guest: said } = await agent;
  assert.equal(said.controllers.length, 64);
  assert.equal(said.controllers[0]!.length, 64);
  assert.match(said.kernel, /^\[2Jy+$/);
  assert.ok(said.kernel.length <= 64);
  end();
});

test("an error's texts are bounded and without control characters, its details may be anything", async () => {
  const details = [{ type_url: "isopod.agent.v1.Failure", value: Buffer.from([0xff, 0xff]) }];
  const status = { code: 99, message: `line\n\u001b]0;title\u0007${"z".repeat(1 << 20)}`, details };
  const { agent, end } = await afterHello(() => ({ status }));
  await assert.rejects((await agent).start("x"), (error: unknown) => {
    assert.ok(IsopodError.is(error));
    assert.equal(error.code, "UNKNOWN");
    assert.ok(error.message.length <= 2048);
    assert.doesNotMatch(error.message, /[\u0000-\u001f]/);
    assert.equal(error.step, undefined);
    return true;
  });
  end();
});

test("an error keeps step, errno and path", async () => {
  const value = v1.Failure.encode({ step: "mount", errno: "EPERM", path: "/proc" }).finish();
  const status = { code: 7, message: "no", details: [{ type_url: "isopod.agent.v1.Failure", value }] };
  const { agent, end } = await afterHello(() => ({ status }));
  await assert.rejects((await agent).start("x"), (error: unknown) => {
    assert.ok(IsopodError.is(error));
    assert.deepEqual(
      [error.code, error.step, error.errno, error.path],
      ["PERMISSION_DENIED", "mount", "EPERM", "/proc"],
    );
    return true;
  });
  end();
});

test("an answer that is none fails its call; answers to nobody, and garbage, harm nobody", async () => {
  const first = await afterHello(() => ({ payload: Buffer.from([0x0a, 0x7f]) }));
  await assert.rejects((await first.agent).pids("x"), code("INTERNAL"));
  first.end();
  const second = await afterHello((method) =>
    method === "Pause" ? { raw: encodeFrame(0x7fffffff, 9, 255, Buffer.alloc(5)) } : {},
  );
  const agent = await second.agent;
  const lost = assert.rejects(agent.pause("x"), code("UNAVAILABLE"));
  await agent.resume("x");
  second.end();
  await lost;
});

test("numbers stay in their range, and nothing comes that was not asked for", async () => {
  const answers: Record<string, Uint8Array> = {
    Wait: v1.ExitResponse.encode({ status: 0xffffffff }).finish(),
    Stats: v1.StatsResponse.encode({
      files: [
        { name: "cpu.stat", content: Buffer.from("usage_usec 1\n") },
        { name: "__proto__", content: Buffer.from("x") },
      ],
    }).finish(),
  };
  const { agent, end } = await afterHello((method) => ({ payload: answers[method]! }));
  assert.equal((await (await agent).wait({ id: "x" })).status, 255);
  assert.deepEqual([...(await (await agent).stats("x", ["cpu.stat"]))], [["cpu.stat", "usage_usec 1\n"]]);
  end();
});

test("a port takes the one stream it is for; another is cut off, none is an error", async () => {
  const ports = new Ports(unixPorts(scratch));
  const first = await ports.expect();
  const second = await ports.expect();
  assert.notEqual(first.port, second.port);
  await assert.rejects(ports.expect(second.port), code("ALREADY_EXISTS"));
  const connect = (port: number): net.Socket => net.connect(path.join(scratch, String(port)));
  const guests = [connect(first.port), connect(first.port)];
  const closed = guests.map(
    (socket) =>
      new Promise<number>((resolve) =>
        socket
          .on("error", () => {})
          .resume()
          .on("close", () => resolve(1)),
      ),
  );
  const stream = await first.stream;
  // The other one: refused by the socket's absence, or cut off when it had been in the backlog.
  await Promise.race(closed);
  stream.destroy();
  await Promise.all(closed);
  second.close();
  await assert.rejects(second.stream, code("CANCELLED"));
  assert.equal(fs.existsSync(path.join(scratch, String(second.port))), false);
  const third = await ports.expect(second.port);
  third.close();
});
