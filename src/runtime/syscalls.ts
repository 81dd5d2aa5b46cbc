import { SYSCALL_TABLE } from "./syscall-table";

/** A calling convention that seccomp tells apart. x32 shares x86_64's audit number and sets bit 30. */
export type SyscallArch = "x86_64" | "x86" | "x32" | "aarch64" | "arm";

const COLUMNS: readonly SyscallArch[] = ["x86_64", "x86", "x32", "aarch64", "arm"];

/** __X32_SYSCALL_BIT */
export const X32_BIT = 0x40000000;

let table: ReadonlyMap<string, readonly number[]> | undefined;

function calls(): ReadonlyMap<string, readonly number[]> {
  table ??= new Map(Object.entries(SYSCALL_TABLE));
  return table;
}

/** As the kernel sees it in seccomp_data.nr, except that x32's lack their bit 30. */
export function syscallNumber(arch: SyscallArch, name: string): number | undefined {
  const number = calls().get(name)?.[COLUMNS.indexOf(arch)] ?? -1;
  return number < 0 ? undefined : number;
}

/** Every name that is a call of some convention. */
export const syscallNames = (): readonly string[] => [...calls().keys(), ...MULTIPLEXED.keys()];

/** True if any of the five conventions has a call of that name. */
export const isSyscall = (name: string): boolean => calls().has(name) || MULTIPLEXED.has(name);

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
