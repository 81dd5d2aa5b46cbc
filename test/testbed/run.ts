import { type ChildProcess, spawn } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import type { Duplex, Readable, Writable } from "node:stream";
import { cleanEnv } from "../support/command";
import type { Options } from "./arguments";
import { ext4Disk, namelessFile } from "./files";
import { initramfs } from "./initramfs";
import { kernel } from "./kernel";
import { qemuArguments } from "./machine";

/** How a run without an exit status of its command ends. */
export const failed = { boot: 125, timeout: 124 } as const;

export interface Streams {
  readonly stdout: Writable;
  readonly stderr: Writable;
  /** Keyboard of an interactive shell. */
  readonly stdin?: Readable;
}

export interface Run {
  /** Of the command; of `failed` where the guest never told it. */
  readonly status: Promise<number>;
  /** Ends the machine, whatever it is doing; `status` then has this number. */
  end(status: number): void;
}

/** Seconds that a kernel may take to its first words over the status port; emulation on a busy machine is slow. */
const bootDeadline = 180;
/** A panic alone takes some forty. */
const consoleLines = 60;
const ports = ["status", "stdout", "stderr", "results", "stdin"] as const;
const cache = path.join(process.env["XDG_CACHE_HOME"] ?? path.join(os.homedir(), ".cache"), "isopod-testbed");

/** Boots a machine, runs the command in the calling process's directory and ends the machine. */
export function run(options: Options, streams: Streams): Run {
  const chosen = kernel(options.kernel);
  const archive = initramfs(options, chosen, { directory: process.cwd(), env: process.env });
  const machine = start(options, chosen.image, archive);
  const [, , , status, stdout, stderr, results, stdin] = machine.stdio as unknown as Duplex[];
  const screen = new Screen(machine, options.console ? streams.stderr : undefined);

  let ending: number | undefined;
  let ready = false;
  let seconds = 0;
  const end = (code: number) => {
    ending ??= code;
    machine.kill("SIGKILL");
  };
  const giveUp = (why: string, code: number) => {
    if (ending !== undefined) return;
    streams.stderr.write(`testbed: ${why}; the last lines of its console:\n${screen.last()}\n`);
    end(code);
  };
  const clock = setInterval(() => {
    seconds++;
    if (seconds >= options.timeout) giveUp(`not done within ${options.timeout} s`, failed.timeout);
    else if (!ready && seconds >= bootDeadline) giveUp(`not up within ${bootDeadline} s`, failed.boot);
  }, 1000);

  stdout!.pipe(streams.stdout, { end: false });
  stderr!.pipe(streams.stderr, { end: false });
  streams.stdin?.pipe(stdin!);
  const unpacked = unpackResults(results!, options.results);
  lines(status!, (line) => {
    if (line === "ready") ready = true;
    const code = /^exit (\d+)$/.exec(line)?.[1];
    // Everything it wrote is in our sockets by now: a write to a port returns when QEMU has passed it on.
    if (code !== undefined) end(Number(code));
  });

  const ended = new Promise<number>((resolve, reject) => {
    machine.on("error", (error) => reject(new Error(`starting QEMU: ${error.message}`)));
    machine.on("close", (code, signal) => {
      giveUp(
        ready ? "it ended before the command did" : `it did not boot (QEMU: ${signal ?? code})`,
        failed.boot,
      );
      resolve(ending!);
    });
  });
  const finish = async () => {
    try {
      const code = await ended;
      await unpacked;
      return code;
    } finally {
      clearInterval(clock);
    }
  };
  return { status: finish(), end };
}

/** QEMU as a child that dies with this process, however that ends. */
function start(options: Options, image: string, archive: Buffer): ChildProcess {
  fs.mkdirSync(cache, { recursive: true });
  const files: number[] = [];
  try {
    const initrd = namelessFile(cache);
    files.push(initrd);
    fs.writeSync(initrd, archive);
    if (options.disk > 0) files.push(ext4Disk(cache, options.disk));
    // 0-2 the standard streams, then a socket pair for each port, then the files.
    const first = 3 + ports.length;
    const args = qemuArguments(options, image, {
      ports: Object.fromEntries(ports.map((name, index) => [name, 3 + index])),
      initramfs: first,
      ...(options.disk > 0 ? { disk: first + 1 } : {}),
    });
    // The signal is asked for after the fork: a parent that died before that is noticed by its number.
    const guarded = `[ "$PPID" = ${process.pid} ] && exec "$@"`;
    return spawn(
      "setpriv",
      ["--pdeathsig", "KILL", "sh", "-c", guarded, "sh", "qemu-system-x86_64", ...args],
      {
        env: cleanEnv(),
        stdio: ["ignore", "pipe", "pipe", ...ports.map(() => "pipe" as const), ...files],
        // Its own process group: an interrupt at the terminal is ours to handle.
        detached: true,
      },
    );
  } finally {
    for (const fd of files) fs.closeSync(fd);
  }
}

/** What the console and QEMU itself said. */
class Screen {
  private text = "";

  constructor(machine: ChildProcess, shown?: Writable) {
    for (const stream of [machine.stdout!, machine.stderr!]) {
      stream.on("data", (chunk: Buffer) => {
        shown?.write(chunk);
        this.text = (this.text + chunk.toString("latin1")).slice(-65536);
      });
    }
  }

  last(): string {
    const printable = this.text.replace(/\x1b\[[\d;?]*[A-Za-z]|\x1bc|\r/g, "");
    return printable
      .trimEnd()
      .split("\n")
      .slice(-consoleLines)
      .map((line) => `  | ${line}`)
      .join("\n");
  }
}

function lines(stream: Readable, each: (line: string) => void): void {
  let rest = "";
  stream.on("data", (chunk: Buffer) => {
    const parts = (rest + chunk.toString()).split("\n");
    rest = parts.pop()!;
    parts.forEach(each);
  });
}

/** The guest sends a tar archive or nothing at all. */
async function unpackResults(archive: Readable, into: string | undefined): Promise<void> {
  if (into === undefined) {
    archive.resume();
    return;
  }
  fs.mkdirSync(into, { recursive: true });
  const chunks: Buffer[] = [];
  for await (const chunk of archive) chunks.push(chunk as Buffer);
  if (chunks.length === 0) return;
  const tar = spawn("tar", ["-x", "--no-same-owner", "-C", into], { stdio: ["pipe", "inherit", "inherit"] });
  const ended = new Promise<number | null>((resolve) => tar.on("close", resolve));
  tar.stdin.end(Buffer.concat(chunks));
  if ((await ended) !== 0) throw new Error(`unpacking the results into ${into}: tar failed`);
}
