import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import type { Duplex } from "node:stream";
import { after, before, test } from "node:test";
import { type CpioEntry, cpio } from "../../../src/agent/cpio";
import { MicroVm, type MicroVmOptions } from "../../../src/runtime";
import { capability } from "../../support/capabilities";
import { cleanEnv } from "../../support/command";
import { needs } from "../../support/needs";
import { repository } from "../../support/peers";
import { kernel, readModules } from "../../testbed/kernel";

/** Debian's kernel as it is, with a first process of our own (guest-init.cc). Needs a KVM that boots Linux. */
const linux = needs(capability("kvm-linux"));
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-microvm-linux-"));
after(() => fs.rmSync(scratch, { recursive: true }));

const MODULES = ["virtio_mmio", "vmw_vsock_virtio_transport", "virtio_blk", "virtio-rng"];
const directory = (name: string): CpioEntry => ({ name, mode: 0o040755 });
const file = (name: string, data: Uint8Array): CpioEntry => ({ name, mode: 0o100755, data });
const CONSOLE: CpioEntry = { name: "dev/console", mode: 0o020600, device: { major: 5, minor: 1 } };
let image = "";
let initrd = "";
let release = "";

before(() => {
  if (linux.skip !== false) return;
  const found = kernel("cloud");
  const modules = readModules(
    found,
    MODULES.map((name) => ({ name })),
  );
  const init = path.join(scratch, "init");
  execFileSync("g++", ["-static", "-O1", "-o", init, "test/runtime/microvm/guest-init.cc"], {
    cwd: repository,
    stdio: "inherit",
  });
  release = found.version;
  image = found.image;
  initrd = path.join(scratch, "initrd");
  const numbered = modules.map(({ name, data }, index) =>
    file(`modules/${String(index).padStart(2, "0")}-${name}`, data),
  );
  fs.writeFileSync(
    initrd,
    cpio([directory("dev"), directory("modules"), CONSOLE, file("init", fs.readFileSync(init)), ...numbered]),
  );
});

function boot(mode: string | undefined, options: Partial<MicroVmOptions> = {}): Promise<MicroVm> {
  return MicroVm.boot({
    kernel: image,
    ...(mode === undefined ? {} : { initrd, arguments: `MODE=${mode}` }),
    imageDirectory: path.join(scratch, "images"),
    ...options,
  });
}

async function text(stream: Duplex): Promise<string> {
  let all = "";
  for await (const chunk of stream) all += String(chunk);
  return all;
}

test("without an initramfs Linux panics, and that is a reset whose reason is told", linux, async () => {
  const end = await (await boot(undefined)).wait();
  assert.equal(end.reason, "reset", end.detail);
  assert.match(end.serial.toString(), /Kernel panic - not syncing: VFS: Unable to mount root fs/);
});

test("the first process powers the machine off; the console shows the kernel's banner", linux, async () => {
  const vm = await boot("off", { console: "pipe" });
  let said = "";
  vm.console!.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const end = await vm.wait();
  assert.equal(end.reason, "poweroff", `${end.detail}\n${end.serial}`);
  assert.match(end.serial.toString(), /Run \/init as init process/);
  assert.match(said, /Linux version 6\./);
});

test("a first process that ends is a panic, and a reset", linux, async () => {
  const end = await (await boot("panic")).wait();
  assert.equal(end.reason, "reset", end.detail);
  assert.match(end.serial.toString(), /Attempted to kill init/);
});

test("disk, entropy, and streams both ways", linux, async () => {
  const disk = path.join(scratch, "disk");
  fs.writeFileSync(disk, Buffer.concat([Buffer.from("from the host"), Buffer.alloc(1 << 20)]));
  fs.truncateSync(disk, 1 << 20);
  const vm = await boot("serve", { memory: 512, disks: [{ path: disk, serial: "test" }] });
  const calls = vm.listen(6000);
  const call = await calls.next();
  if (call.done) {
    const { reason, detail, serial } = await vm.wait();
    assert.fail(`it ended: ${reason} ${detail}\n${serial}`);
  }
  const report = JSON.parse(await text(call.value)) as Record<string, unknown>;
  assert.equal(report["release"], release);
  assert.equal(report["cpus"], 1);
  assert.ok(Number(report["megabytes"]) > 400, String(report["megabytes"]));
  assert.equal(report["disk"], "from the host");
  assert.equal(report["entropy"], true);
  assert.equal(fs.readFileSync(disk).toString("utf8", 512, 532), "written by the guest");

  // Half-closed by us, then by the guest: all that was sent came back.
  const stream = await vm.connect(5000, { timeoutMs: 20_000 });
  const sent = randomBytes(4 << 20);
  const received = createHash("sha256");
  const back = (async () => {
    for await (const chunk of stream) received.update(chunk as Buffer);
  })();
  stream.end(sent);
  await back;
  stream.on("error", () => {}); // the machine's end
  assert.equal(received.digest("hex"), createHash("sha256").update(sent).digest("hex"));

  await assert.rejects(vm.connect(7777), { errno: "ECONNREFUSED" });
  // The guest powers off at this call: before it has answered, or after.
  await vm.connect(5001).then(
    (last) => last.on("error", () => {}).destroy(),
    () => {},
  );
  assert.equal((await vm.wait()).reason, "poweroff");
  assert.equal((await calls.next()).done, true);
});

test("docs/examples/microvm.js boots a kernel and talks to it", linux, () => {
  const modules = path.join(scratch, "node_modules");
  fs.mkdirSync(modules, { recursive: true });
  fs.symlinkSync(repository, path.join(modules, "isopod"));
  const script = path.join(scratch, "microvm.js");
  fs.copyFileSync(path.join(repository, "docs/examples/microvm.js"), script);
  const output = execFileSync(process.execPath, [script, image, initrd], {
    encoding: "utf8",
    env: cleanEnv(),
  });
  const [first, second, third] = output.trim().split("\n");
  assert.equal((JSON.parse(first!) as { release: string }).release, release);
  assert.equal(second, "hello, guest");
  assert.equal(third, "stopped");
});
