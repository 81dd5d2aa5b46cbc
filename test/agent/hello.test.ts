import assert from "node:assert/strict";
import { once } from "node:events";
import * as fs from "node:fs";
import { test } from "node:test";
import { Agent } from "../../src/agent";
import { IsopodError } from "../../src/base/errors";
import { native } from "../../src/native";
import { Client } from "../../src/ttrpc";
import { connected, hosted } from "./fixture";

const code = (wanted: string) => (error: unknown) => IsopodError.is(error) && error.code === wanted;

test("the agent says what plans for its kernel are compiled for", async () => {
  await using made = await connected();
  const { guest } = made.agent;
  const host = native().features();
  assert.equal(guest.kernel, host.kernel);
  assert.equal(guest.arch, host.arch);
  assert.equal(guest.cgroupRoot, host.cgroupRoot);
  assert.deepEqual(guest.controllers, host.controllers);
  assert.deepEqual(guest.features, host.features);
  assert.equal(guest.effectiveCapabilities, host.effectiveCapabilities);
  assert.equal(guest.oomScoreAdj, Number(fs.readFileSync("/proc/self/oom_score_adj", "utf8")));
  assert.match(guest.version, /^\d+\.\d+\.\d+$/);
});

test("another version of the protocol is refused, by name", async () => {
  const made = await hosted();
  const client = new Client(made.control, {
    protocol: {
      services: require("../../src/gen/agent.services.json"),
      messages: require("../../src/gen/agent"),
    },
  });
  await assert.rejects(
    client.call("isopod.agent.v1.Agent", "Hello", { protocol: 2 }),
    (error: unknown) =>
      code("FAILED_PRECONDITION")(error) && /"protocol" at "2"/.test((error as Error).message),
  );
  client.close();
  await made.ended;
});

test("when the control stream ends the agent ends, and when the agent ends its calls fail", async () => {
  const first = await hosted();
  first.control.destroy();
  assert.equal(await first.ended, 0);

  await using second = await connected();
  const waiting = assert.rejects(second.agent.wait({ id: "none" }), code("NOT_FOUND"));
  await waiting;
  second.child.kill("SIGKILL");
  await second.agent.closed;
  await assert.rejects(second.agent.pids("none"), code("UNAVAILABLE"));
});

test("shutdown is answered, then the agent ends", async () => {
  const made = await connected();
  await made.agent.shutdown();
  assert.equal(await made.ended, 0);
});

test("a guest that says nothing, or nonsense, is given up", async () => {
  const made = await hosted();
  made.child.kill("SIGSTOP");
  await assert.rejects(Agent.connect(made.control, { timeoutMs: 100 }), code("DEADLINE_EXCEEDED"));
  made.child.kill("SIGCONT");
  assert.equal(await made.ended, 0);
});

test("what is no frame, no request, no message or no method is answered so", async () => {
  const made = await hosted();
  const { control } = made;
  const ask = async (stream: number, type: number, data: Buffer): Promise<Buffer> => {
    const header = Buffer.alloc(10);
    header.writeUInt32BE(data.length, 0);
    header.writeUInt32BE(stream, 4);
    header[8] = type;
    control.write(Buffer.concat([header, data]));
    control.resume();
    const [answer] = (await once(control, "data")) as [Buffer];
    return answer;
  };
  const text = (value: string) => Buffer.from(value);
  const request = (service: string, method: string, payload: Buffer) =>
    Buffer.concat([
      Buffer.from([0x0a, service.length]),
      text(service),
      Buffer.from([0x12, method.length]),
      text(method),
      Buffer.from([0x1a, payload.length]),
      payload,
    ]);
  const agent = "isopod.agent.v1.Agent";
  assert.match((await ask(2, 1, Buffer.alloc(0))).toString(), /must be odd/);
  assert.match((await ask(1, 1, Buffer.from([0xff]))).toString(), /malformed/);
  assert.match((await ask(1, 1, Buffer.alloc(0))).toString(), /greater than the last/);
  assert.match((await ask(3, 1, request("x.Y", "Z", Buffer.alloc(0)))).toString(), /x\.Y.*not implemented/);
  assert.match(
    (await ask(5, 1, request(agent, "Z", Buffer.alloc(0)))).toString(),
    /Agent\/Z.*not implemented/,
  );
  // A group, which proto3 has not; a text with a NUL; a length beyond the end.
  for (const [i, payload] of [[0x0b], [0x0a, 1, 0], [0x0a, 9, 65]].entries())
    assert.match(
      (await ask(7 + 2 * i, 1, request(agent, "Start", Buffer.from(payload)))).toString(),
      /malformed/,
    );
  control.destroy();
  await made.ended;
});
