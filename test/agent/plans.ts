import { GUEST_FD } from "../../src/agent";
import { NO_SLOT, OP, OPEN, PlanWriter, type Slot } from "../../src/native";
import { ALL_NAMESPACES, CLONE, MS, mountNew } from "../native/busybox";

/** Plans as a microVM's runtime writes them: opens are the guest's, the rest comes by number (GUEST_FD). */
export interface GuestPlanOptions {
  readonly rootfs: string;
  readonly args: readonly string[];
  readonly terminal?: boolean;
  /** A pid namespace of its own by default; `join`: that of GUEST_FD.joined; `guest`: the agent's. */
  readonly pid?: "new" | "join" | "guest";
  readonly tree?: (writer: PlanWriter) => void;
}

const ENV = ["PATH=/bin", "HOME=/root"];

export function guestPlan(options: GuestPlanOptions): Uint8Array {
  const writer = new PlanWriter();
  const base = writer.open(OPEN.fd, { a: GUEST_FD.base });
  const root = writer.open(OPEN.tree, { path: options.rootfs });
  const stdio = openStdio(writer);
  const gate = writer.open(OPEN.fd, { a: GUEST_FD.gate });
  if (options.pid === "join") {
    const pid = writer.open(OPEN.fd, { a: GUEST_FD.joined });
    writer.op(OP.successor, { a: pid, b: NO_SLOT });
  }
  writer.op(OP.setsid);
  writer.op(OP.enterBase, { a: base });
  writer.op(OP.attachRoot, { subject: options.rootfs, a: root, b: MS.private | MS.rec });
  mountNew(writer, "proc", "proc", "/proc");
  mountNew(writer, "tmpfs", "tmpfs", "/dev", ["mode=755", "size=64k"]);
  const node = { c: writer.string("/dev/null"), a: 0o020666, b: (1 << 20) | 3 };
  writer.op(OP.mknod, node);
  writer.op(OP.mkdir, { c: writer.string("/dev/pts"), a: 0o755 });
  mountNew(writer, "devpts", "devpts", "/dev/pts", ["newinstance", "ptmxmode=0666", "mode=0620"]);
  writer.op(OP.symlink, { c: writer.string("/dev/ptmx"), a: writer.string("pts/ptmx") });
  options.tree?.(writer);
  writer.op(OP.pivot);
  writeStdio(writer, stdio, options.terminal);
  writeExec(writer, options.args, gate);
  const cloneFlags = (options.pid ?? "new") === "new" ? ALL_NAMESPACES : ALL_NAMESPACES & ~CLONE.newpid;
  return writer.finish({ cloneFlags, oomScoreAdj: 0, oomBestEffort: true });
}

/** An exec into all of the container's namespaces. `cgroup`: its path in the guest. */
export function execPlan(options: {
  args: readonly string[];
  cgroup: string;
  terminal?: boolean;
}): Uint8Array {
  const writer = new PlanWriter();
  const leader = (): Slot => writer.open(OPEN.fd, { a: GUEST_FD.leader });
  const [others, pid] = [leader(), leader()];
  const cgroup = writer.open(OPEN.file, {
    path: options.cgroup,
    flags: O_PATH,
    a: 0xffffffff,
    b: 0xffffffff,
  });
  const stdio = openStdio(writer);
  writer.op(OP.setns, { a: others, b: CLONE.newipc | CLONE.newuts | CLONE.newnet | CLONE.newns });
  writer.op(OP.successor, { a: pid, b: cgroup });
  writer.op(OP.setsid);
  writeStdio(writer, stdio, options.terminal);
  writeExec(writer, options.args, undefined);
  return writer.finish({ cloneFlags: 0, oomScoreAdj: 0, oomBestEffort: true });
}

const O_PATH = 0o10000000;

function openStdio(writer: PlanWriter): number[] {
  return [GUEST_FD.stdin, GUEST_FD.stdout, GUEST_FD.stderr].map((a) => writer.open(OPEN.fd, { a }));
}

function writeStdio(writer: PlanWriter, [a, b, c]: number[], terminal: boolean | undefined): void {
  if (terminal) writer.op(OP.console, { x: (24n << 16n) | 80n });
  else writer.op(OP.stdio, { a: a!, b: b!, c: c! });
}

function writeExec(writer: PlanWriter, args: readonly string[], gate: number | undefined): void {
  const argv = writer.list(args);
  const env = writer.list(ENV);
  writer.op(OP.lookup, { a: argv, b: env, subject: args[0]! });
  if (gate !== undefined) writer.op(OP.gate, { a: gate });
  writer.op(OP.exec, { a: argv, b: env, subject: args[0]! });
}
