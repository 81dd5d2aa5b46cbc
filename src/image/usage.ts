import * as path from "node:path";
import { messageOf } from "../base/errors";
import { now } from "../base/time";
import { native } from "../native";
import type { Store } from "./store";

/**
 * How much disk the store takes. Blobs and layers never change, so their sizes are known without looking;
 * only writable layers are measured, in the background, no more often than every ten seconds.
 */
export interface Usage {
  total(): { mountpoint: string; bytes: bigint; inodes: bigint; timestamp: bigint };
  snapshot(key: string): Measured | undefined;
  close(): Promise<void>;
}

export interface Measured {
  readonly bytes: bigint;
  readonly inodes: bigint;
  /** Nanoseconds since 1970. */
  readonly timestamp: bigint;
}

const REFRESH_MS = 10_000;
export function measureUsage(store: Store): Usage {
  const { records, content, snapshots, log } = store;
  const measured = new Map<string, Measured>();
  let round: Promise<void> | undefined;
  let lastRound = 0;
  let closed = false;

  async function measure(): Promise<void> {
    for (const [key, record] of snapshots.all()) {
      if (closed) return;
      try {
        const { bytes, inodes } = await native().diskUsage({ path: snapshots.fs(record.dir) });
        measured.set(key, { bytes, inodes, timestamp: now() });
      } catch (error) {
        // It may have been removed meanwhile.
        if (snapshots.all().has(key)) log.warn("measuring a snapshot", { key, error: messageOf(error) });
      }
    }
    for (const key of measured.keys()) if (!snapshots.all().has(key)) measured.delete(key);
  }

  function refresh(): void {
    if (closed || round !== undefined || Date.now() - lastRound < REFRESH_MS) return;
    lastRound = Date.now();
    round = measure().finally(() => {
      round = undefined;
    });
  }

  return {
    total() {
      refresh();
      let bytes = 0n;
      let inodes = 0n;
      for (const digest of content.digests()) {
        bytes += BigInt(content.size(digest));
        inodes++;
      }
      for (const layer of records.layers.values()) {
        bytes += BigInt(layer.bytes);
        inodes += BigInt(layer.inodes);
      }
      for (const snapshot of measured.values()) {
        bytes += snapshot.bytes;
        inodes += snapshot.inodes;
      }
      return { mountpoint: path.resolve(store.root), bytes, inodes, timestamp: now() };
    },
    snapshot(key) {
      refresh();
      return measured.get(key);
    },
    async close() {
      closed = true;
      await round;
    },
  };
}
