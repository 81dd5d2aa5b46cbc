import * as assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { on, once } from "node:events";
import * as fs from "node:fs";
import * as path from "node:path";
import { describe, test } from "node:test";
import { Worker } from "node:worker_threads";
import { native, OP, OPEN, PlanWriter } from "../../src/native";
import { containerPlan, containers, descriptors } from "./busybox";

const seam = require.resolve("../../src/native");
const KEEP = 0xffffffff;
const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

async function eventually(ready: () => boolean): Promise<boolean> {
  for (let i = 0; i < 500 && !ready(); i++) await pause(10);
  return ready();
}

/** A worker that calls the addon and then stays, saying nothing until the call has ended. */
function calling(call: "launch" | "awaitExit", options: object): Worker {
  return new Worker(
    `const { workerData, parentPort } = require("node:worker_threads");
     const { native } = require(workerData.seam);
     const said = (what) => parentPort.postMessage(what);
     native()[workerData.call](workerData.options).then(() => said("done"), (error) => said(error.message));
     said("called");`,
    { eval: true, workerData: { seam, call, options } },
  );
}

const read = (file: string): string => {
  try {
    return fs.readFileSync(file, "utf8");
  } catch {
    return ""; // the thread or the process has ended meanwhile
  }
};

/** Of this process: those whose stub hangs in an open, or that are zombies. */
const children = (): { pid: number; state: string | undefined }[] =>
  fs
    .readdirSync("/proc/self/task")
    .flatMap((task) => read(`/proc/self/task/${task}/children`).trim().split(" "))
    .filter(Boolean)
    .map((pid) => ({ pid: Number(pid), state: /\) (\S)/.exec(read(`/proc/${pid}/stat`))?.[1] }));

describe("environments", () => {
  const given = containers();

  test("a worker waits for processes as the main thread does, and takes nothing with it", async () => {
    const before = descriptors();
    for (let i = 0; i < 3; i++) {
      const { pid, pidfd } = await given.launch(containerPlan({ rootfs: given.rootfs, args: ["true"] }));
      const worker = calling("awaitExit", { pid, pidfd });
      const ended = once(worker, "exit");
      // Both may come at once: once() would miss the second.
      const messages = on(worker, "message");
      assert.deepEqual((await messages.next()).value, ["called"]);
      assert.deepEqual((await messages.next()).value, ["done"]);
      assert.deepEqual(await ended, [0]);
      assert.equal(fs.existsSync(`/proc/${pid}`), false);
      fs.closeSync(pidfd);
    }
    assert.ok(await eventually(() => descriptors() <= before + 3), "a worker's descriptors are still open");
  });

  test("a worker that ends in the middle of a launch leaves no process", async () => {
    const fifo = path.join(given.dir, "hanging");
    native().makeFifo({ path: fifo, mode: 0o600 });
    const plan = new PlanWriter();
    // Opening a FIFO for reading waits for a writer: the stub stays in its first open.
    plan.open(OPEN.file, { path: fifo, flags: 0, a: KEEP, b: KEEP });
    const argv = plan.list(["/bin/true"]);
    plan.op(OP.exec, { a: argv, b: argv });
    const cgroup = given.cgroup();
    const worker = calling("launch", { plan: plan.finish({ cloneFlags: 0 }), cgroup, until: "exec" });
    await once(worker, "message");
    assert.ok(await eventually(() => children().length === 1 && fs.existsSync(cgroup)));
    await worker.terminate();
    assert.ok(await eventually(() => children().length === 0), "its process is still there");
    assert.ok(await eventually(() => !fs.existsSync(cgroup)), "its cgroup is still there");
  });

  test("an exit that a worker waited for is on record and reaped without it", async () => {
    const record = path.join(given.dir, "orphan");
    const plan = containerPlan({ rootfs: given.rootfs, args: ["sleep", "1000"] });
    const { pid, pidfd } = await given.launch(plan);
    const worker = calling("awaitExit", { pid, pidfd, record });
    await once(worker, "message");
    await worker.terminate();
    native().signal({ pidfd, signal: 9 });
    assert.ok(await eventually(() => fs.existsSync(record) && !fs.existsSync(`/proc/${pid}`)));
    assert.equal(JSON.parse(fs.readFileSync(record, "utf8")).status, 137);
    fs.closeSync(pidfd);
  });

  test("Node lives as long as something is waited for, and no longer", () => {
    const script = `
      const { native } = require(${JSON.stringify(seam)});
      native().spawn({ file: "/bin/sh", args: ["-c", "sleep 0.2; echo later"], env: ["PATH=/bin"], timeoutMs: 9000 })
        .then(({ stdout }) => process.stdout.write(stdout));
      process.on("exit", () => process.stdout.write("end"));
    `;
    const options = { encoding: "utf8", timeout: 20_000 } as const;
    assert.equal(execFileSync(process.execPath, ["-e", script], options), "later\nend");
  });
});
