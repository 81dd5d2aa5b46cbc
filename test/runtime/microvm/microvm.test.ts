import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { after, test } from "node:test";
import { IsopodError } from "../../../src/base/errors";
import { native } from "../../../src/native";
import { bootImage, MicroVm, type MicroVmOptions } from "../../../src/runtime";
import { type Need, needs } from "../../support/needs";
import { toyKernel, toys } from "./toy-kernel";

const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-microvm-"));
after(() => fs.rmSync(scratch, { recursive: true }));

function kvm(): Need<object> {
  try {
    native().vmProbe();
    return {};
  } catch (error) {
    return { missing: (error as Error).message };
  }
}
const needsKvm = needs(kvm());

function write(name: string, content: Uint8Array): string {
  const file = path.join(scratch, name);
  fs.writeFileSync(file, content);
  return file;
}

function boot(code: Buffer, options: Partial<MicroVmOptions> = {}): Promise<MicroVm> {
  const kernel = write(`kernel-${code.toString("hex").slice(0, 20)}`, toyKernel(code));
  return MicroVm.boot({ kernel, memory: 64, imageDirectory: path.join(scratch, "images"), ...options });
}

/** What a machine must not leave. */
function leftovers(): { threads: string[]; descriptors: number } {
  const threads = fs
    .readdirSync("/proc/self/task")
    .map((task) => fs.readFileSync(`/proc/self/task/${task}/comm`, "utf8").trim())
    .filter((name) => name === "vmm" || name.startsWith("vcpu"));
  const descriptors = fs
    .readdirSync("/proc/self/fd")
    .map((fd) => {
      try {
        return fs.readlinkSync(`/proc/self/fd/${fd}`);
      } catch {
        return "";
      }
    })
    .filter((target) => /kvm|\.boot|isopod-microvm/.test(target)).length;
  return { threads, descriptors };
}

function assertNothingLeft(): void {
  assert.deepEqual(leftovers(), { threads: [], descriptors: 0 });
}

async function refusal(promise: () => Promise<unknown>): Promise<IsopodError> {
  try {
    await promise();
  } catch (error) {
    assert.ok(IsopodError.is(error), String(error));
    assertNothingLeft();
    return error;
  }
  throw new Error("it was not refused");
}

test("a kernel says something, powers off, and nothing of it is left", needsKvm, async () => {
  const vm = await boot(toys.hello, { console: "pipe" });
  let said = "";
  vm.console!.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const end = await vm.wait();
  assert.equal(end.reason, "poweroff", end.detail);
  assert.equal(end.serial.toString(), "hi\n");
  if (!vm.console!.readableEnded) await new Promise((resolve) => vm.console!.once("end", resolve));
  assert.equal(said, "hi\n");
  assertNothingLeft();
});

test("a reset and a triple fault are the end, each by its name", needsKvm, async () => {
  assert.equal((await (await boot(toys.reset)).wait()).reason, "reset");
  const end = await (await boot(toys.fault)).wait();
  assert.equal(end.reason, "shutdown");
  assert.match(end.detail, /triple fault; vcpu 0 rip 0x/);
  assertNothingLeft();
});

test("a guest that loops is stopped, once or more often, and can be asked afterwards", needsKvm, async () => {
  const vm = await boot(toys.loop, { vcpus: 2 });
  assert.deepEqual(leftovers().threads.sort(), ["vcpu 0", "vcpu 1", "vmm"]);
  const ends = await Promise.all([vm.stop(), vm.stop(), vm.wait()]);
  assert.deepEqual(
    ends.map(({ reason }) => reason),
    ["stopped", "stopped", "stopped"],
  );
  assert.equal((await vm.stop()).reason, "stopped");
  await assert.rejects(vm.connect(1, { timeoutMs: 60_000 }), { code: "UNAVAILABLE" });
  assertNothingLeft();
});

test("ten machines at once come and go", needsKvm, async () => {
  const vms = await Promise.all(Array.from({ length: 10 }, () => boot(toys.loop)));
  await Promise.all(vms.map((vm) => vm.stop()));
  assertNothingLeft();
});

test("of a guest that floods its serial port the last 64 KiB are kept", needsKvm, async () => {
  const vm = await boot(toys.flood, { console: "pipe" });
  await new Promise((resolve) => vm.console!.once("readable", resolve));
  const { serial } = await vm.stop();
  assert.ok(serial.length > 0 && serial.length <= 64 * 1024);
  assert.match(serial.toString(), /^x+$/);
  vm.console!.destroy();
  assertNothingLeft();
});

test("a guest without a vsock driver cannot be connected to", needsKvm, async () => {
  const vm = await boot(toys.loop);
  await assert.rejects(vm.connect(1024), { errno: "ENOTCONN" });
  await assert.rejects(vm.connect(1024, { timeoutMs: 100 }), { errno: "ENOTCONN" });
  const aborted = AbortSignal.abort(new Error("changed my mind"));
  await assert.rejects(vm.connect(1024, { signal: aborted }), /changed my mind/);
  const streams = vm.listen(5000);
  const next = streams.next();
  assert.throws(() => vm.listen(5000), { errno: "EADDRINUSE" });
  await vm.stop();
  assert.equal((await next).done, true);
  assertNothingLeft();
});

test("the VMM's own memory beyond the guest's is at most 5 MiB", needsKvm, async () => {
  await (await boot(toys.hello)).wait();
  // Private and not the guest's: heap, stacks, KVM's shared pages. Guest memory is one mapping of 64 MiB.
  const own = (): number => {
    let kilobytes = 0;
    let guest = false;
    for (const line of fs.readFileSync("/proc/self/smaps", "utf8").split("\n")) {
      const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
      if (range) {
        const size = Number.parseInt(range[2]!, 16) - Number.parseInt(range[1]!, 16);
        guest = size >= 15 << 20 && !line.includes("[heap]") && / 00:00 0 *$/.test(line);
      }
      const pages = /^(?:Private_Clean|Private_Dirty|Shared_Clean|Shared_Dirty): +(\d+) kB/.exec(line);
      if (pages && !guest) kilobytes += Number(pages[1]);
    }
    return kilobytes;
  };
  const before = own();
  const vms = await Promise.all(Array.from({ length: 8 }, () => boot(toys.loop)));
  const each = (own() - before) / vms.length;
  await Promise.all(vms.map((vm) => vm.stop()));
  console.log(`# ${Math.round(each)} kB each`);
  assert.ok(each <= 5 * 1024, `${each} kB`);
});

test("bad input is refused with reason and cure, and leaves nothing", async () => {
  const images = path.join(scratch, "refused");
  const tried = (content: Uint8Array) =>
    refusal(() => MicroVm.boot({ kernel: write("bad", content), memory: 64, imageDirectory: images }));
  const good = toyKernel(toys.loop);
  const bad = path.join(scratch, "bad");

  const pvh = await tried(toyKernel(toys.loop, { pvh: false }));
  assert.equal(pvh.code, "INVALID_ARGUMENT");
  assert.equal(
    pvh.message,
    `reading kernel "${bad}": no PVH entry point: use a kernel built with CONFIG_PVH, as Debian's are`,
  );
  assert.match((await tried(good.subarray(0, 0x1100))).message, /damaged/);
  assert.match((await tried(Buffer.from("#!/bin/sh\n"))).message, /neither a bzImage nor an ELF file/);
  assert.deepEqual(fs.readdirSync(images), [], "no image of a kernel that was refused");

  const missing = await refusal(() => MicroVm.boot({ kernel: path.join(scratch, "nowhere") }));
  assert.equal(missing.code, "NOT_FOUND");
  assert.throws(() => MicroVm.boot({ kernel: bad, memory: 63 }), { code: "INVALID_ARGUMENT" });
  assert.throws(() => MicroVm.boot({ kernel: bad, vcpus: 0 }), { code: "INVALID_ARGUMENT" });
});

test("what only the machine can judge is refused as well", needsKvm, async () => {
  const tried = (options: Partial<MicroVmOptions>) => refusal(() => boot(toys.loop, options));
  assert.match((await tried({ vcpus: 65 })).message, /vcpus.*65: 1 to \d+/);
  assert.match((await tried({ arguments: "x".repeat(2048) })).message, /command line.*2047/);
  assert.match((await tried({ initrd: write("empty", Buffer.alloc(0)) })).message, /initramfs.*empty/);
  assert.match((await tried({ initrd: scratch })).message, /initramfs/);
  const large = path.join(scratch, "large");
  fs.writeFileSync(large, "");
  fs.truncateSync(large, 60 << 20);
  const room = await tried({ initrd: large });
  assert.equal(room.code, "INVALID_ARGUMENT");
  assert.match(room.message, /need at least \d+ MiB of memory, the machine has 64 MiB/);
  assert.match(
    (await tried({ disks: [{ path: "/dev/null", serial: "a" }] })).message,
    /null|disk|file|device/i,
  );

  const kernel = write("whole", toyKernel(toys.loop));
  const image = await bootImage(kernel, path.join(scratch, "damaged"));
  fs.chmodSync(image, 0o600);
  fs.truncateSync(image, fs.statSync(image).size - 4096);
  const damaged = await refusal(() => MicroVm.boot({ kernel: image, memory: 64 }));
  assert.match(damaged.message, /boot image.*damaged: make it again from the kernel/);
});
