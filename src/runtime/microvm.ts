import * as fs from "node:fs";
import * as net from "node:net";
import * as os from "node:os";
import * as path from "node:path";
import type { Duplex, Readable } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { errnoOf, IsopodError, invalid, messageOf } from "../base/errors";
import { type Scope, undoOnFailure } from "../base/scope";
import { native, type VmEnd } from "../native";
import { bootImage } from "./boot-image";

export interface MicroVmDisk {
  /** Path of a file or block device. */
  readonly path: string;
  /** What the guest finds it by (/sys/block/<disk>/serial); at most 20 bytes. */
  readonly serial: string;
  /** Default: false. */
  readonly readOnly?: boolean;
}

export interface MicroVmOptions {
  /** A distribution's vmlinuz, a vmlinux, or a boot image; it needs CONFIG_PVH. */
  readonly kernel: string;
  /** An initramfs, best uncompressed. It must not change while the machine runs. */
  readonly initrd?: string;
  /** MiB, at least 64. Default: 256. */
  readonly memory?: number;
  /** Default: 1. */
  readonly vcpus?: number;
  /** Kernel arguments after our own (`MicroVm.arguments`), so that they win. */
  readonly arguments?: string;
  /** `pipe`: the serial port, with all that the kernel says, is `console`. Default: `null`. */
  readonly console?: "pipe" | "null";
  readonly disks?: readonly MicroVmDisk[];
  /** Where kernels laid out for booting are kept. Default: /var/cache/isopod/kernels. */
  readonly imageDirectory?: string;
}

export interface ConnectOptions {
  /** For how long a refusal is asked again, in ms: the guest may not listen yet. Default: 0. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/**
 * A virtual machine inside this process: no other program runs it, and it ends with the process. Its vCPUs
 * and devices have threads of their own. Keeps Node's loop alive until it ends.
 */
export class MicroVm {
  /**
   * Kernel arguments of every machine: end on panic, no legacy hardware to look for, no crypto self-tests
   * (more than half of the time to boot).
   */
  static readonly arguments =
    "panic=-1 reboot=k cryptomgr.notests pci=off tsc=reliable no_timer_check random.trust_cpu=on " +
    "rcupdate.rcu_expedited=1 swiotlb=noforce";

  /** What the guest writes to its serial port; what is not read in time is dropped. */
  readonly console: Readable | null;
  readonly #vm: number;
  readonly #end: Promise<VmEnd>;

  private constructor(vm: number, console: Readable | null) {
    this.#vm = vm;
    this.console = console;
    this.#end = native()
      .vmWait({ vm })
      .then(async (end) => {
        await native().vmClose({ vm });
        return end;
      });
    this.#end.catch(() => undefined);
  }

  /**
   * Starts a machine. FAILED_PRECONDITION without a KVM, INVALID_ARGUMENT for a kernel or initramfs that
   * cannot be booted or too little memory for them; nothing is left then.
   */
  static boot(options: MicroVmOptions): Promise<MicroVm> {
    const { memory = 256, vcpus = 1, console = "null", disks = [] } = options;
    if (!Number.isSafeInteger(memory) || memory < 64) throw invalid("memory", memory, "64 MiB or more");
    if (!Number.isSafeInteger(vcpus) || vcpus < 1) throw invalid("vcpus", vcpus, "1 or more");
    const opened: number[] = [];
    const open = (file: string, flags: number): number => {
      opened.push(openFile(file, flags));
      return opened.at(-1)!;
    };
    return undoOnFailure((scope) => start(scope)).finally(() => {
      for (const fd of opened) fs.closeSync(fd);
    });

    async function start(scope: Scope): Promise<MicroVm> {
      const kernel = open(await bootImage(options.kernel, options.imageDirectory), READ);
      const initrd = options.initrd === undefined ? {} : { initrd: open(options.initrd, READ) };
      const pipe = console === "pipe" ? makePipe() : undefined;
      const output = pipe && new net.Socket({ fd: pipe.read, readable: true, writable: false });
      scope.defer("console", () => output?.destroy());
      const vm = await native().vmCreate({
        memory: memory * 1024 * 1024,
        vcpus,
        kernel,
        ...initrd,
        commandLine: commandLine(options),
        ...(pipe ? { console: pipe.write } : {}),
      });
      scope.defer("virtual machine", () => native().vmClose({ vm }));
      for (const { path: file, serial, readOnly = false } of disks) {
        const disk = open(file, readOnly ? READ : fs.constants.O_RDWR);
        await native().vmAddDisk({ vm, file: disk, serial, readOnly });
      }
      await native().vmStart({ vm });
      return new MicroVm(vm, output ?? null);
    }
  }

  /** Resolves when the machine is over and all that it had is freed. */
  wait(): Promise<VmEnd> {
    return this.#end;
  }

  /** Ends it at once, as pulling the plug does. */
  stop(): Promise<VmEnd> {
    native().vmStop({ vm: this.#vm });
    return this.#end;
  }

  /** A stream to a vsock port of the guest. Half-closed by `end()`, either way. UNAVAILABLE, CANCELLED. */
  async connect(port: number, options: ConnectOptions = {}): Promise<Duplex> {
    const deadline = Date.now() + (options.timeoutMs ?? 0);
    for (;;) {
      options.signal?.throwIfAborted();
      try {
        return socket(await native().vmConnect({ vm: this.#vm, port }));
      } catch (error) {
        const over = IsopodError.is(error) && error.code === "UNAVAILABLE";
        if (over || !RETRIED.includes(errnoOf(error)) || Date.now() >= deadline) throw error;
      }
      await delay(RETRY_MS, undefined, options.signal ? { signal: options.signal } : {});
    }
  }

  /**
   * Streams that the guest opens to `port` of the host (CID 2), from now until the machine's end or until
   * the iteration is left. Up to 64 wait to be iterated over.
   */
  listen(port: number): AsyncGenerator<Duplex, void, undefined> {
    native().vmListen({ vm: this.#vm, port });
    return this.#accept(port);
  }

  async *#accept(port: number): AsyncGenerator<Duplex, void, undefined> {
    try {
      for (;;) {
        let fd: number;
        try {
          fd = await native().vmAccept({ vm: this.#vm, port });
        } catch (error) {
          if (IsopodError.is(error) && error.code === "UNAVAILABLE") return;
          throw error;
        }
        yield socket(fd);
      }
    } finally {
      native().vmUnlisten({ vm: this.#vm, port });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** Nobody listens (yet), or no driver (yet). */
const RETRIED = ["ECONNREFUSED", "ENOTCONN", "ETIMEDOUT", "ECONNRESET"];
const RETRY_MS = 20;
const READ = fs.constants.O_RDONLY;

function commandLine(options: MicroVmOptions): string {
  // Without a console only what the kernel says in a panic: it is what `serial` of the end shows.
  const output = options.console === "pipe" ? "console=ttyS0" : "quiet loglevel=1 earlyprintk=ttyS0,keep";
  return [MicroVm.arguments, output, options.arguments ?? ""].join(" ").trim();
}

function openFile(file: string, flags: number): number {
  try {
    return fs.openSync(file, flags | fs.constants.O_NOCTTY);
  } catch (error) {
    const code = errnoOf(error) === "ENOENT" ? "NOT_FOUND" : "INVALID_ARGUMENT";
    throw new IsopodError(code, `opening "${file}": ${messageOf(error)}`, { path: file, cause: error });
  }
}

/** A pipe by way of a FIFO, since Node makes none; both ends non-blocking. */
function makePipe(): { read: number; write: number } {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-vm-"));
  const file = path.join(directory, "console");
  try {
    native().makeFifo({ path: file, mode: 0o600 });
    const read = fs.openSync(file, READ | fs.constants.O_NONBLOCK);
    return { read, write: fs.openSync(file, fs.constants.O_WRONLY | fs.constants.O_NONBLOCK) };
  } finally {
    fs.rmSync(directory, { recursive: true });
  }
}

function socket(fd: number): Duplex {
  return new net.Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
}
