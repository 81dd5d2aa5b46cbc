import * as assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, describe, test } from "node:test";
import { native } from "../../src/native";
import { busyboxRoot, containerPlan, temporary } from "./busybox";

describe("launch", () => {
  let dir: string;
  let rootfs: string;
  let base: number;
  let remove: () => Promise<void>;

  before(async () => {
    ({ dir, remove } = await temporary());
    rootfs = busyboxRoot(dir);
    base = await native().baseNamespace();
  });
  after(async () => {
    fs.closeSync(base);
    await remove();
  });

  /** Runs a container to its end with its output in a file. */
  async function run(
    args: readonly string[],
    options: object = {},
  ): Promise<{ status: number; output: string }> {
    const stdout = path.join(dir, `out-${Math.random().toString(36).slice(2)}`);
    fs.writeFileSync(stdout, "");
    const { pid, pidfd } = await native().launch({
      plan: containerPlan({ rootfs, stdout, args, ...options }),
      fds: [base],
      until: "exec",
    });
    try {
      const { status } = await native().awaitExit({ pid, pidfd });
      return { status, output: fs.readFileSync(stdout, "utf8") };
    } finally {
      fs.closeSync(pidfd);
    }
  }

  test("a container runs on its own root, with its own pid namespace", async () => {
    const { status, output } = await run(["sh", "-c", "echo $$; ls /; ls /proc/1/fd; exit 7"]);
    assert.equal(status, 7);
    assert.equal(output.split("\n")[0], "1");
    assert.match(output, /\bbin\ndev\netc\nproc\nsys\ntmp\n/);
  });

  test("a missing program is refused by name", async () => {
    await assert.rejects(run(["no-such-program"]), {
      message: 'exec: "no-such-program": executable file not found in $PATH',
      step: "exec",
      errno: "ENOENT",
    });
  });
});
