import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, test } from "node:test";
import { busyboxRoot } from "../native/busybox";
import { needs, requirement } from "../support/needs";
import { until } from "../support/processes";
import { childrenOf, connected, run } from "./fixture";

/**
 * The agent as the first process of a pid namespace, with a mount and a cgroup namespace of its own: what it
 * does there is what it does in a guest, but for the kernel's modules.
 */
const UNSHARE = [
  ...["unshare", "--pid", "--mount", "--cgroup", "--uts", "--fork", "--kill-child"],
  // As a kernel leaves it to its first process: nothing of the host's cgroup mounts.
  ...["sh", "-c", 'umount -l /sys && exec "$@"', "sh"],
];

/** The agent's new root shows the filesystem that was "/" as /initramfs: the image has to be on it. */
const onRoot = fs.mkdtempSync(path.join(path.resolve(__dirname, "../../../build"), "agent-test-"));
const image = path.join("/initramfs", busyboxRoot(onRoot));
fs.symlinkSync("busybox", path.join(onRoot, "rootfs/bin/readlink"));
const sameFilesystem = requirement(
  fs.statSync(onRoot).dev === fs.statSync("/").dev,
  "the checkout is not on the root filesystem",
);
after(() => fs.rmSync(onRoot, { recursive: true, force: true }));

test(
  "as pid 1: mounts what a guest needs, in a root that containers can leave",
  needs(sameFilesystem),
  async () => {
    await using made = await connected(UNSHARE, ["--init"]);
    const pid = await agentPid(made.child.pid!);
    const mounts = fs
      .readFileSync(`/proc/${pid}/mountinfo`, "utf8")
      .split("\n")
      .filter(Boolean)
      .map((line) => `${line.split(" ")[4]} ${line.slice(line.indexOf(" - ") + 3).split(" ")[0]}`);
    for (const wanted of [
      "/ tmpfs",
      "/proc proc",
      "/sys sysfs",
      "/sys/fs/cgroup cgroup2",
      "/dev devtmpfs",
      "/dev/pts devpts",
      "/dev/shm tmpfs",
      "/run tmpfs",
    ])
      assert.ok(mounts.includes(wanted), `${wanted} among ${mounts.join(", ")}`);
    assert.equal(made.agent.guest.cgroupRoot, "/sys/fs/cgroup");

    const done = await run(made, "echo $$; ls /; exit 5", { rootfs: image });
    assert.equal(done.status, 5);
    assert.deepEqual(done.stdout.trim().split("\n").sort(), [
      ...["1", ...fs.readdirSync(path.join(onRoot, "rootfs"))].sort(),
    ]);
  },
);

test("as pid 1: reaps what falls to it", needs(sameFilesystem), async () => {
  await using made = await connected(UNSHARE, ["--init"]);
  const pid = await agentPid(made.child.pid!);
  // Without a pid namespace of their own their children fall to the agent when they end.
  const exits = Array.from({ length: 5 }, (_, i) =>
    run(made, `sleep 100 & exit ${i}`, { rootfs: image, pid: "guest" }),
  );
  assert.deepEqual(
    (await Promise.all(exits)).map(({ status }) => status),
    [0, 1, 2, 3, 4],
  );
  await until(() => childrenOf(pid).length === 0, "no child is left");
});

test("as pid 1: shutdown ends the guest, and so does the end of the control stream", async () => {
  const first = await connected(UNSHARE, ["--init"]);
  await first.agent.shutdown();
  // reboot(2): "the init process of the namespace is killed" by SIGINT for a power-off.
  const powered = await first.ended;
  assert.ok(
    powered === "SIGINT" || powered === 130 || powered === 137 || powered === "SIGKILL",
    String(powered),
  );

  const second = await connected(UNSHARE, ["--init"]);
  const pid = await agentPid(second.child.pid!);
  second.agent.close();
  await second.ended;
  assert.equal(fs.existsSync(`/proc/${pid}`), false);
});

/** unshare --fork: the agent is its child. */
async function agentPid(unshare: number): Promise<number> {
  await until(() => childrenOf(unshare).length === 1, "unshare has a child");
  return childrenOf(unshare)[0]!;
}
