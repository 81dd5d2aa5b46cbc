import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { Agent, buildInitramfs, CONTROL_PORT, type CpioEntry, Ports, unixPorts } from "../../src/agent";
import { capability } from "../support/capabilities";
import { cleanEnv } from "../support/command";
import { needs } from "../support/needs";
import { repository } from "../support/peers";
import { kernel } from "../testbed/kernel";
import { type ConnectedAgent, create, exec, program, rootfs, run, scratch, until } from "./fixture";
import { guestPlan } from "./plans";

/**
 * The agent as the first process of a real guest: QEMU's microvm with a distribution's kernel, our initramfs
 * and the host's vsock. Our own monitor has tests of its own; this one's peer is somebody else's.
 */
const PORTS = 64;
const BOOT_MS = 120_000;
const image = "/initramfs/image";

function imageEntries(): CpioEntry[] {
  const entries: CpioEntry[] = [{ name: "image", mode: 0o040755 }];
  for (const name of (fs.readdirSync(rootfs, { recursive: true }) as string[]).sort()) {
    const file = path.join(rootfs, name);
    const stat = fs.lstatSync(file);
    const data = stat.isSymbolicLink()
      ? Buffer.from(fs.readlinkSync(file))
      : stat.isFile()
        ? fs.readFileSync(file)
        : undefined;
    entries.push({ name: `image/${name}`, mode: stat.mode, ...(data && { data }) });
  }
  return entries;
}

interface BootedGuest extends ConnectedAgent {
  readonly console: () => string;
}

async function boot(): Promise<BootedGuest> {
  const directory = fs.mkdtempSync(path.join(scratch, "vm-"));
  const { image: vmlinuz, modules } = kernel("bookworm");
  const initrd = path.join(directory, "initramfs");
  fs.writeFileSync(initrd, buildInitramfs({ agent: program, modules, extra: imageEntries() }));
  const disk = path.join(directory, "disk");
  fs.writeFileSync(disk, "the disk's first bytes\n".padEnd(1 << 20, "\0"));
  const ports = new Ports(unixPorts(directory));
  const expected = await ports.expect(CONTROL_PORT);
  const bridge = await startBridge(directory);
  const child = spawn(
    "qemu-system-x86_64",
    [
      ...["-M", "microvm", "-enable-kvm", "-cpu", "host", "-m", "256", "-smp", "1"],
      ...["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"],
      ...["-global", "virtio-mmio.force-legacy=false"],
      ...["-kernel", vmlinuz, "-initrd", initrd],
      ...["-append", "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests"],
      ...["-device", "virtio-rng-device", "-device", "vhost-vsock-device,guest-cid=77"],
      ...[
        "-drive",
        `id=d,file=${disk},format=raw,if=none`,
        "-device",
        "virtio-blk-device,drive=d,serial=serial-1",
      ],
    ],
    { env: cleanEnv(), stdio: ["ignore", "pipe", "pipe"] },
  );
  let said = "";
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (chunk: Buffer) => {
      said += chunk.toString();
    });
  const ended = new Promise<number | NodeJS.Signals>((resolve) =>
    child.once("exit", (code, signal) => {
      bridge.kill();
      expected.close();
      resolve(code ?? signal!);
    }),
  );
  const timer = setTimeout(() => child.kill("SIGKILL"), BOOT_MS);
  try {
    const control = await expected.stream;
    const agent = await Agent.connect(control, { timeoutMs: BOOT_MS });
    const end = async (): Promise<void> => {
      agent.close();
      child.kill("SIGKILL");
      await ended;
    };
    return {
      child,
      directory,
      ports,
      control,
      ended,
      agent,
      console: () => said,
      [Symbol.asyncDispose]: end,
    };
  } catch (error) {
    child.kill("SIGKILL");
    throw new Error(`booting a guest: ${String(error)}; its console: ${said.slice(-4000)}`);
  } finally {
    clearTimeout(timer);
  }
}

async function startBridge(directory: string): Promise<ChildProcess> {
  const file = path.join(directory, "vsock-bridge");
  execFileSync("gcc", ["-O1", "-pthread", "-o", file, path.join(repository, "test/agent/vsock-bridge.c")]);
  // The testbed's modules load on demand, this one by nobody's.
  execFileSync("modprobe", ["vhost_vsock"]);
  const bridge = spawn(file, [directory, String(PORTS)], {
    env: cleanEnv(),
    stdio: ["ignore", "pipe", "inherit"],
  });
  await new Promise<void>((resolve, reject) => {
    bridge.once("exit", () => reject(new Error("the vsock bridge ended")));
    bridge.stdout.once("data", () => resolve());
  });
  return bridge;
}

test(
  "in a guest: everything that the agent does there, to its power-off",
  needs(capability("kvm-linux")),
  async (t) => {
    await using guest = await boot();
    const { agent } = guest;
    const inside = { rootfs: image };

    await t.test("it says what kernel it runs on, with every controller", () => {
      assert.match(agent.guest.kernel, /^6\.1\./);
      assert.equal(agent.guest.cgroupRoot, "/sys/fs/cgroup");
      for (const name of ["cpu", "memory", "pids", "io"])
        assert.ok(agent.guest.controllers.includes(name), name);
    });

    await t.test("clock and entropy", async () => {
      await agent.setClock(2_000_000_000n * 1_000_000_000n);
      await agent.reseed(randomBytes(64));
      const { stdout } = await run(guest, "date +%s || cat /proc/uptime", inside);
      assert.match(stdout, /^20000000\d\d$/m);
    });

    await t.test("a container with output, exit code and limits that are felt", async () => {
      assert.equal((await run(guest, "exit 7", inside)).status, 7);
      assert.match((await run(guest, "cat /proc/version", inside)).stdout, /Debian 6\.1/);
      const id = "greedy";
      await agent.createContainer({
        id,
        plan: guestPlan({
          rootfs: image,
          args: ["sh", "-c", "x=aaaaaaaa; while :; do x=$x$x; done"],
        }),
        cgroup: "/pod/greedy",
        cgroupWrites: [
          { file: "memory.max", value: String(10 << 20) },
          { file: "pids.max", value: "5" },
        ],
      });
      const stats = await agent.stats(id, ["memory.max", "pids.max"]);
      assert.deepEqual([...stats.values()], [`${10 << 20}\n`, "5\n"]);
      const oom = agent.waitOom(id, 0n);
      await agent.start(id);
      const exit = await agent.wait({ id });
      assert.equal(exit.status, 137);
      assert.ok(exit.oomKills >= 1n);
      assert.ok((await oom) >= 1n);
      await agent.delete({ id });
    });

    await t.test("stdin, a terminal, an exec", async () => {
      const { id, streams } = await create(guest, ["cat"], { ...inside, names: ["stdin", "stdout"] });
      await agent.start(id);
      const sent = Buffer.alloc(1 << 20, "over vsock ");
      (await streams.stream("stdin")).end(sent);
      assert.equal((await streams.text("stdout")) === sent.toString(), true);
      assert.equal((await agent.wait({ id })).status, 0);
      await agent.delete({ id });

      const shell = await create(guest, ["sh"], { ...inside, names: ["stdout"], terminal: true });
      await agent.start(shell.id);
      const terminal = await shell.streams.stream("stdout");
      await agent.resize({ id: shell.id }, { rows: 11, columns: 22 });
      terminal.write("stty size\n");
      await until(terminal, "11 22");
      const done = await exec(guest, shell.id, ["sh", "-c", "echo from exec; exit 3"], ["stdout"]);
      assert.equal(await done.streams.text("stdout"), "from exec\n");
      assert.equal((await agent.wait({ id: shell.id, execId: done.execId })).status, 3);
      terminal.end("exit 4\n");
      assert.equal((await agent.wait({ id: shell.id })).status, 4);
      await agent.delete({ id: shell.id });
    });

    await t.test("a disk by its serial", async () => {
      const device = await agent.mount({ type: "block", source: "serial-1", timeoutMs: 1000 });
      assert.match(device.path, /^\/dev\/vd[a-z]$/);
      assert.ok(device.major > 0);
      await assert.rejects(
        agent.mount({ type: "virtiofs", source: "none", target: "/x" }),
        /mounting "none" at "\/x"/,
      );
    });

    await t.test("shutdown powers it off", async () => {
      await agent.shutdown();
      assert.equal(await guest.ended, 0, guest.console());
      await agent.closed;
      assert.doesNotMatch(guest.console(), /panic|isopod-agent:/i);
    });
  },
);

test("in a guest: the end of the control stream is its end", needs(capability("kvm-linux")), async () => {
  await using guest = await boot();
  await create(guest, ["sleep", "100"], { rootfs: image });
  guest.agent.close();
  assert.equal(await guest.ended, 0, guest.console());
});
