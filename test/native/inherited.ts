// Run by cve.test.ts with a descriptor (3) that is not close-on-exec: prints what a waiting stub has open.
import * as fs from "node:fs";
import * as path from "node:path";
import { native, OP, OPEN, PlanWriter } from "../../src/native";
import { temporary } from "./busybox";

async function main(): Promise<void> {
  const { dir, remove } = await temporary();
  const gate = path.join(dir, "gate");
  native().makeFifo({ path: gate, mode: 0o600 });
  const plan = new PlanWriter();
  const slot = plan.open(OPEN.file, { path: gate, flags: 2, a: 0xffffffff, b: 0xffffffff });
  plan.op(OP.gate, { a: slot });
  const argv = plan.list(["/bin/true"]);
  plan.op(OP.exec, { a: argv, b: argv });
  const stub = await native().launch({ plan: plan.finish({ cloneFlags: 0 }), until: "ready" });
  const fds = fs.readdirSync(`/proc/${stub.pid}/fd`);
  console.log(JSON.stringify(fds.map((fd) => fs.readlinkSync(`/proc/${stub.pid}/fd/${fd}`))));
  native().signal({ pidfd: stub.pidfd, signal: 9 });
  await native().awaitExit({ pid: stub.pid, pidfd: stub.pidfd });
  await remove();
}

void main();
