import { SYSCALL_TABLE } from "./syscall-table";

/** A calling convention that seccomp tells apart. x32 shares x86_64's audit number and sets bit 30. */
export type SyscallArch = "x86_64" | "x86" | "x32" | "aarch64" | "arm";

const COLUMNS: readonly SyscallArch[] = ["x86_64", "x86", "x32", "aarch64", "arm"];

/** __X32_SYSCALL_BIT */
export const X32_BIT = 0x40000000;

let tables: ReadonlyMap<SyscallArch, ReadonlyMap<string, number>> | undefined;

function parse(): ReadonlyMap<SyscallArch, ReadonlyMap<string, number>> {
  const found = COLUMNS.map(() => new Map<string, number>());
  for (const line of SYSCALL_TABLE.trim().split("\n")) {
    const [name = "", ...numbers] = line.split(" ");
    for (const [column, number] of numbers.entries()) {
      if (number !== "-") found[column]?.set(name, Number(number));
    }
  }
  return new Map(COLUMNS.map((arch, column) => [arch, found[column]!]));
}

/** Numbers by name, as the kernel sees them in seccomp_data.nr except that x32's lack their bit 30. */
export function syscallNumbers(arch: SyscallArch): ReadonlyMap<string, number> {
  tables ??= parse();
  return tables.get(arch)!;
}

/** True if any of the five conventions has a call of that name. */
export function isSyscall(name: string): boolean {
  return COLUMNS.some((arch) => syscallNumbers(arch).has(name)) || MULTIPLEXED.has(name);
}

export interface MultiplexedCall {
  readonly by: "socketcall" | "ipc";
  readonly call: number;
}

/** <linux/net.h>, from 1 on. */
const SOCKETCALLS =
  "socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown " +
  "setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg";

/** <linux/ipc.h> */
const IPC_CALLS: Readonly<Record<string, number>> = {
  semop: 1,
  semget: 2,
  semctl: 3,
  semtimedop: 4,
  msgsnd: 11,
  msgrcv: 12,
  msgget: 13,
  msgctl: 14,
  shmat: 21,
  shmdt: 22,
  shmget: 23,
  shmctl: 24,
};

/**
 * i386 reaches sockets and System V IPC by calls of their own since Linux 4.3, and ever since by the
 * multiplexers socketcall(2) and ipc(2), whose first argument says which call is meant. A rule that names
 * `socket` must hold on both ways in. socketcall takes its arguments from memory, where seccomp cannot
 * look.
 */
export const MULTIPLEXED: ReadonlyMap<string, MultiplexedCall> = new Map<string, MultiplexedCall>([
  ...SOCKETCALLS.split(" ").map((name, index) => [name, { by: "socketcall", call: index + 1 }] as const),
  ...Object.entries(IPC_CALLS).map(([name, call]) => [name, { by: "ipc", call }] as const),
]);
