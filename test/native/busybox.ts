import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { after, before } from "node:test";
import { type Launched, NO_SLOT, native, OP, OPEN, PlanWriter, type Slot } from "../../src/native";

/** Plans for the launch tests: the OCI compiler is not needed to drive the stub. */
export const CLONE = {
  newns: 0x00020000,
  newcgroup: 0x02000000,
  newuts: 0x04000000,
  newipc: 0x08000000,
  newuser: 0x10000000,
  newpid: 0x20000000,
  newnet: 0x40000000,
} as const;
export const ALL_NAMESPACES = CLONE.newuts | CLONE.newipc | CLONE.newpid | CLONE.newnet;

export const MS = {
  rec: 0x4000,
  unbindable: 1 << 17,
  private: 1 << 18,
  slave: 1 << 19,
  shared: 1 << 20,
} as const;
export const ATTR = { rdonly: 1n, nosuid: 2n, nodev: 4n, noexec: 8n } as const;
const O_RDWR = 2;
const O_APPEND = 0o2000;
const S_IFCHR = 0o020000;

/** A directory of the test's own below the temporary directory; `remove` undoes it, mounts included. */
export async function temporary(): Promise<{ dir: string; remove: () => Promise<void> }> {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-native-"));
  return {
    dir,
    remove: async () => {
      await native().unmount({ path: dir });
      await native().removeTree({ path: dir });
    },
  };
}

/** A root filesystem of one static busybox. */
export function busyboxRoot(dir: string): string {
  const root = path.join(dir, "rootfs");
  for (const name of ["bin", "dev", "proc", "sys", "tmp", "etc"])
    fs.mkdirSync(path.join(root, name), { recursive: true });
  fs.copyFileSync("/bin/busybox", path.join(root, "bin/busybox"));
  for (const name of [
    "sh",
    "cat",
    "ls",
    "true",
    "false",
    "sleep",
    "id",
    "echo",
    "mount",
    "stat",
    "env",
    "test",
  ])
    fs.symlinkSync("busybox", path.join(root, "bin", name));
  return root;
}

export interface PlanOptions {
  readonly rootfs: string;
  /** Index of the base namespace among the launch's fds. */
  readonly base?: number;
  readonly stdout?: string;
  readonly stderr?: string;
  readonly gate?: string;
  readonly args: readonly string[];
  readonly env?: readonly string[];
  readonly cloneFlags?: number;
  /** Further ops: in the tree before the pivot, and after identity before the exec. */
  readonly tree?: (writer: PlanWriter) => void;
  readonly process?: (writer: PlanWriter) => void;
  readonly opens?: (writer: PlanWriter) => void;
  /** Opens the root instead of a clone of `rootfs`. */
  readonly rootOpen?: (writer: PlanWriter) => Slot;
  /** False: the plan has a console. */
  readonly stdio?: boolean;
  readonly fault?: number;
}

/** A container as the OCI compiler would write it: base, root, proc, dev, sys, pivot, stdio, caps, exec. */
export function containerPlan(options: PlanOptions): Uint8Array {
  const writer = new PlanWriter();
  const base = writer.open(OPEN.fd, { a: options.base ?? 0 });
  const root = options.rootOpen?.(writer) ?? writer.open(OPEN.tree, { path: options.rootfs });
  const nullDevice = writer.open(OPEN.tree, { path: "/dev/null" });
  const stdout = openOutput(writer, options.stdout);
  const stderr = openOutput(writer, options.stderr ?? options.stdout);
  const gate = options.gate
    ? writer.open(OPEN.file, { path: options.gate, flags: O_RDWR, a: 0xffffffff, b: 0xffffffff })
    : undefined;
  options.opens?.(writer);
  writer.op(OP.setsid);
  writer.op(OP.enterBase, { a: base });
  writer.op(OP.attachRoot, { subject: options.rootfs, a: root, b: MS.private | MS.rec });
  mountNew(writer, "proc", "proc", "/proc");
  mountNew(writer, "tmpfs", "tmpfs", "/dev", ["mode=755", "size=65536k"]);
  const string = (text: string) => writer.string(text);
  for (const [name, minor] of [
    ["null", 3],
    ["zero", 5],
  ] as const)
    writer.op(OP.mknod, { c: string(`/dev/${name}`), a: S_IFCHR | 0o666, b: (1 << 20) | minor });
  writer.op(OP.mkdir, { c: string("/dev/pts"), a: 0o755 });
  mountNew(writer, "devpts", "devpts", "/dev/pts", ["newinstance", "ptmxmode=0666", "mode=0620"]);
  writer.op(OP.symlink, { c: string("/dev/ptmx"), a: string("pts/ptmx") });
  mountNew(writer, "sysfs", "sysfs", "/sys", [], ATTR.nosuid | ATTR.nodev | ATTR.noexec | ATTR.rdonly);
  options.tree?.(writer);
  for (const file of ["/proc/timer_list", "/proc/keys", "/proc/acpi", "/sys/firmware"])
    writer.op(OP.mask, { c: string(file), a: nullDevice });
  for (const file of ["/proc/sys", "/proc/bus"]) writer.op(OP.readonly, { c: string(file) });
  writer.op(OP.pivot);
  if (options.stdio !== false) writer.op(OP.stdio, { a: NO_SLOT, b: stdout, c: stderr });
  options.process?.(writer);
  const argv = writer.list(options.args);
  const env = writer.list(options.env ?? ["PATH=/bin"]);
  writer.op(OP.lookup, { a: argv, b: env });
  if (gate !== undefined) writer.op(OP.gate, { a: gate });
  writer.op(OP.exec, { a: argv, b: env });
  const plan = writer.finish({
    cloneFlags: options.cloneFlags ?? ALL_NAMESPACES,
    oomScoreAdj: 0,
    oomBestEffort: true,
  });
  return options.fault === undefined ? plan : withFault(plan, options.fault);
}

export function mountNew(
  writer: PlanWriter,
  type: string,
  source: string,
  target: string,
  options: readonly string[] = [],
  attributes = 0n,
): void {
  writer.op(OP.mountNew, {
    subject: type,
    a: writer.string(type),
    b: writer.string(source),
    c: writer.string(target),
    d: options.length > 0 ? writer.list(options) : 0,
    x: attributes,
  });
}

function openOutput(writer: PlanWriter, file: string | undefined): Slot {
  if (file === undefined) return NO_SLOT;
  return writer.open(OPEN.file, { path: file, flags: O_RDWR | O_APPEND, a: 0xffffffff, b: 0xffffffff });
}

/** Header flags of plan.h: 1 + the step to fail, opens first, in the upper half. */
export function withFault(plan: Uint8Array, step: number): Uint8Array {
  const copy = Buffer.from(plan);
  copy.writeUInt32LE((copy.readUInt32LE(28) | ((step + 1) << 16)) >>> 0, 28);
  return copy;
}

export interface Finished {
  readonly status: number;
  readonly output: string;
}

/** What the tests of a file share: a root filesystem, the empty base, and ways to run a container. */
export interface Containers {
  readonly dir: string;
  readonly rootfs: string;
  readonly base: number;
  /** A cgroup of the test's own that does not exist yet, removed after the tests. */
  cgroup(): string;
  /** Another root filesystem, to be spoilt. */
  freshRoot(): string;
  /** Lines of mountinfo that speak of the test's own directory: others run beside it. */
  mounts(): readonly string[];
  launch(
    plan: Uint8Array,
    options?: { cgroup?: string; until?: "ready" | "exec"; fds?: number[]; initImage?: number },
  ): Promise<Launched>;
  /** Runs a shell script as a container to its end; its output goes to a file. */
  run(
    script: string,
    options?: Partial<PlanOptions> & { cgroup?: string; fds?: number[] },
  ): Promise<Finished>;
}

/** Registers hooks in the enclosing suite or file. */
export function containers(): Containers {
  let made: { dir: string; remove: () => Promise<void> };
  let rootfs = "";
  let base = -1;
  let counter = 0;
  const parent = path.join(
    native().features().cgroupRoot,
    `isopod-test-${process.pid}-${Date.now().toString(36)}`,
  );
  before(async () => {
    made = await temporary();
    rootfs = busyboxRoot(made.dir);
    base = await native().baseNamespace();
    fs.mkdirSync(parent);
  });
  after(async () => {
    fs.closeSync(base);
    await native().cgroupDestroy({ path: parent, timeoutMs: 5000 });
    await made.remove();
  });
  const self: Containers = {
    get dir() {
      return made.dir;
    },
    get rootfs() {
      return rootfs;
    },
    get base() {
      return base;
    },
    cgroup: () => path.join(parent, `c${counter++}`),
    mounts: () =>
      fs
        .readFileSync("/proc/self/mountinfo", "utf8")
        .split("\n")
        .filter((line) => line.includes(path.basename(made.dir))),
    freshRoot: () => busyboxRoot(path.join(made.dir, `root${counter++}`)),
    launch: (plan, options = {}) =>
      native().launch({ plan, until: "exec", ...options, fds: [base, ...(options.fds ?? [])] }),
    run: async (script, { cgroup, fds, ...options } = {}) => {
      const stdout = path.join(made.dir, `out${counter++}`);
      fs.writeFileSync(stdout, "");
      const args = ["sh", "-c", script];
      const plan = containerPlan({ rootfs, stdout, args, ...options });
      const { pid, pidfd } = await self.launch(plan, { ...(cgroup && { cgroup }), ...(fds && { fds }) });
      try {
        const { status } = await native().awaitExit({ pid, pidfd });
        return { status, output: fs.readFileSync(stdout, "utf8") };
      } finally {
        fs.closeSync(pidfd);
      }
    },
  };
  return self;
}

/** A 64-bit operand as a blob, for Caps. */
export function u64(writer: PlanWriter, value: bigint): number {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return writer.blob(bytes);
}

/** Value of a line `name:\tvalue` of /proc/PID/status. */
export function statusField(text: string, name: string): string {
  return new RegExp(`^${name}:\\s*(.*)$`, "m").exec(text)?.[1] ?? "";
}

/** How many descriptors this process has open. */
export const descriptors = (): number => fs.readdirSync("/proc/self/fd").length;
