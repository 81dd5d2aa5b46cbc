import { readFileIfPresent } from "../base/files";
import type { InterfaceStats } from "./types";

/** Those of the network namespace that `pid` is in, but for loopback; undefined if it is gone. */
export function readInterfaces(pid: number): InterfaceStats[] | undefined {
  const text = readFileIfPresent(`/proc/${pid}/net/dev`);
  return text === undefined ? undefined : parseInterfaces(text).filter(({ name }) => name !== "lo");
}

/**
 * proc_pid_net(5), `dev`: two lines of headings, then one for each interface, of which the first eight counters
 * are what was received, the others what was sent: bytes packets errs drop fifo frame compressed multicast.
 */
export function parseInterfaces(text: string): InterfaceStats[] {
  return text
    .split("\n")
    .slice(2)
    .filter((line) => line.includes(":"))
    .map((line) => {
      const colon = line.lastIndexOf(":");
      const counters = line
        .slice(colon + 1)
        .trim()
        .split(/\s+/)
        .map(BigInt);
      const at = (index: number): bigint => counters[index] ?? 0n;
      return {
        name: line.slice(0, colon).trim(),
        received: { bytes: at(0), packets: at(1), errors: at(2), dropped: at(3) },
        sent: { bytes: at(8), packets: at(9), errors: at(10), dropped: at(11) },
      };
    });
}
