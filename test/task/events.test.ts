import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import { type Log, silentLog } from "../../src/base/log";
import { serveEvents } from "../../src/task/events";
import { type Any, connect, packAny, timestampOf } from "../../src/ttrpc";

const SERVICE = "containerd.services.events.ttrpc.v1.Events";

test("of shims' events OOM kills are heard; others are taken, and what is malformed harms nobody", async (t) => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-events-"));
  const socket = path.join(dir, "e.sock");
  const warnings: string[] = [];
  const heard: string[] = [];
  const log: Log = { ...silentLog, warn: (message) => void warnings.push(message) };
  const server = await serveEvents(socket, log, (id) => heard.push(id));
  const client = await connect(socket);
  t.after(async () => {
    client.close();
    await server.close();
    fs.rmSync(dir, { recursive: true });
  });
  const forward = (topic: string, event?: Any) =>
    client.call(SERVICE, "Forward", {
      envelope: { topic, namespace: "k8s.io", timestamp: timestampOf(1n), ...(event && { event }) },
    });
  await forward("/tasks/start", packAny("containerd.events.TaskStart", { containerId: "c1", pid: 5 }));
  assert.deepEqual(heard, []);
  await forward("/tasks/oom", packAny("containerd.events.TaskOOM", { containerId: "c2" }));
  assert.deepEqual(heard, ["c2"]);
  await forward("/tasks/oom", { type_url: "containerd.events.TaskOOM", value: Buffer.from([0x0a, 0xff]) });
  assert.deepEqual(heard, ["c2"]);
  assert.deepEqual(warnings, ["decoding TaskOOM"]);
  assert.equal(fs.statSync(socket).mode & 0o777, 0o600);
});
