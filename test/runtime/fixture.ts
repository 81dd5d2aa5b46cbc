import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import type { Readable } from "node:stream";
import { after } from "node:test";
import { native } from "../../src/native";
import type { Mount } from "../../src/oci/mount";
import type { Spec } from "../../src/oci/runtime-spec";
import { type ContainerHandle, containerRuntime, type RunOptions, run } from "../../src/runtime";
import type { ContainerOptions, FdStore, RuntimeOptions } from "../../src/runtime/types";

/** What containers of these tests are made of: one busybox root, an own cgroup, folders that go at the end. */
export const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-runtime-"));
export const cgroupParent = `/isopod-test-${process.pid}`;
export const rootfs = path.join(scratch, "rootfs");
const APPLETS =
  "sh true false cat echo id ls mkdir sleep stat ps kill mount umount grep hostname env head tail wc printf test touch readlink sync dd tr sort chown mknod cut nc ip sysctl stty tty seq";
makeRoot();

after(async () => {
  await native().cgroupDestroy({
    path: path.join(native().features().cgroupRoot, cgroupParent),
    timeoutMs: 5_000,
  });
  fs.rmSync(scratch, { recursive: true, force: true });
});

function makeRoot(): void {
  for (const name of ["bin", "etc", "tmp", "root"])
    fs.mkdirSync(path.join(rootfs, name), { recursive: true });
  fs.copyFileSync("/usr/bin/busybox", path.join(rootfs, "bin/busybox"));
  for (const name of APPLETS.split(" ")) fs.symlinkSync("busybox", path.join(rootfs, "bin", name));
  fs.writeFileSync(path.join(rootfs, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
}

let bundles = 0;

/** A directory with a config.json whose root is the shared one and whose cgroup is below ours. */
export function bundleOf(spec: Spec): { bundle: string; spec: Spec; id: string } {
  const id = `t${process.pid}-${bundles++}`;
  const bundle = path.join(scratch, id);
  fs.mkdirSync(bundle);
  const whole: Spec = {
    ...spec,
    root: { ...spec.root, path: spec.root?.path === "rootfs" ? rootfs : spec.root!.path },
    linux: { cgroupsPath: `${cgroupParent}/${id}`, ...spec.linux },
  };
  fs.writeFileSync(path.join(bundle, "config.json"), JSON.stringify(whole));
  return { bundle, spec: whole, id };
}

export async function textOf(stream: Readable | null): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream ?? []) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}

/** Reads a stream from now on: `until` a text has come, or to its `end`. */
export function watched(stream: Readable | null): {
  until(text: string): Promise<void>;
  end: Promise<string>;
} {
  let seen = "";
  let look = (): void => {};
  const end = new Promise<string>((resolve) => stream!.on("end", () => resolve(seen)));
  stream!.on("data", (chunk: Buffer) => {
    seen += chunk.toString();
    look();
  });
  const until = (text: string): Promise<void> =>
    new Promise((resolve, reject) => {
      look = () => seen.includes(text) && resolve();
      look();
      void end.then(() => reject(new Error(`ended without "${text}": ${seen}`)));
    });
  return { until, end };
}

export interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the spec's program to its end by the library. */
export async function ran(spec: Spec, more: Partial<RunOptions> = {}): Promise<Ran> {
  const { bundle, id } = bundleOf(spec);
  const container = await run({ bundle, id, warn: () => {}, ...more });
  const [stdout, stderr, exit] = await Promise.all([
    textOf(container.stdout),
    textOf(container.stderr),
    container.wait(),
  ]);
  await container.delete();
  return { status: exit.status, stdout, stderr };
}

/** Starts the spec's program by the library; the caller ends it. */
export function started(spec: Spec, more: Partial<RunOptions> = {}): Promise<ContainerHandle> {
  const { bundle, id } = bundleOf(spec);
  return run({ bundle, id, warn: () => {}, ...more });
}

/** A runtime with a state directory of its own. */
export function runtimeOf(options: Partial<RuntimeOptions> = {}) {
  const stateDir = fs.mkdtempSync(path.join(scratch, "state-"));
  return { runtime: containerRuntime({ stateDir, dieWithParent: true, ...options }), stateDir };
}

/** Container options with FIFOs that a test reads. */
export function containerOptions(
  spec: Spec,
  more: { rootfs?: readonly Mount[]; stdin?: boolean } = {},
): ContainerOptions & { fifo(name: string): string } {
  const { bundle, spec: whole, id } = bundleOf(spec);
  const fifo = (name: string): string => path.join(bundle, name);
  for (const name of ["stdin", "stdout", "stderr"]) native().makeFifo({ path: fifo(name), mode: 0o600 });
  return {
    id,
    bundle,
    spec: whole,
    rootfs: more.rootfs ?? [],
    stdio: { ...(more.stdin && { stdin: fifo("stdin") }), stdout: fifo("stdout"), stderr: fifo("stderr") },
    fifo,
  };
}

/** Reads a FIFO to its end, by the native pump. */
export function collect(fifo: string): Promise<string> {
  const fd = fs.openSync(fifo, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  const pump = native().pumpCollect({ fd, limit: 1 << 20 });
  return native()
    .pumpEnd({ pump })
    .then((bytes) => bytes.toString());
}

/** Keeps fds over a runtime's end as the monitor would: duplicates by name. */
export class KeptFds implements FdStore {
  readonly fds = new Map<string, number>();
  readonly tasks = new Map<string, { pid: number; record: string }>();
  put(name: string, fd: number): void {
    this.fds.set(name, native().duplicate({ fd }));
  }
  drop(name: string): void {
    for (const [key, fd] of [...this.fds])
      if (key === name || (name.endsWith("/") && key.startsWith(name))) {
        fs.closeSync(fd);
        this.fds.delete(key);
      }
  }
  task(id: string, pid: number, record: string): void {
    this.tasks.set(id, { pid, record });
  }
  /** For the next runtime; ours no more. */
  handOver(): Record<string, number> {
    const all = Object.fromEntries(this.fds);
    this.fds.clear();
    return all;
  }
}

/** Open descriptors of this process by what they are. */
export const openFds = (): string[] =>
  fs
    .readdirSync("/proc/self/fd")
    .map((fd) => {
      try {
        return fs.readlinkSync(`/proc/self/fd/${fd}`);
      } catch {
        return "";
      }
    })
    .filter((target) => target !== "" && !target.startsWith("/proc/"))
    .sort();

/** Lines of the host's mount table that name anything of ours; other tests, side by side, have theirs. */
export const ownMounts = (): string[] =>
  fs
    .readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => line.includes(scratch));

/** Until `check` no longer throws: what other threads of this process still hold goes in its own time. */
export async function eventually(check: () => void): Promise<void> {
  for (let tries = 0; ; tries++) {
    try {
      check();
      return;
    } catch (error) {
      if (tries === 100) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
