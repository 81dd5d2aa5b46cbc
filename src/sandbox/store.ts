import * as fs from "node:fs";
import { type Database, open, type RootDatabase } from "lmdb";
import type { ContainerRecord, PodRecord } from "./records";

/**
 * The daemon's records in lmdb. A resolved write is visible to the next daemon even after kill -9; the
 * flush to disk follows by itself and matters for a power failure only, where a pod is gone anyhow. What
 * such a failure must not bring back is awaited with `flushed`.
 */
export interface Store {
  pods(): PodRecord[];
  containers(): ContainerRecord[];
  putPod(record: PodRecord): Promise<void>;
  deletePod(id: string): Promise<void>;
  putContainer(record: ContainerRecord): Promise<void>;
  deleteContainer(id: string): Promise<void>;
  /** The boot under which the records were last in use; undefined for a new store. */
  bootId(): string | undefined;
  setBootId(id: string): Promise<void>;
  flushed(): Promise<void>;
  close(): Promise<void>;
}

export function openStore(dir: string): Store {
  fs.mkdirSync(dir, { recursive: true, mode: 0o700 });
  const options = { separateFlushed: true, overlappingSync: true, eventTurnBatching: false };
  const root: RootDatabase = open({ path: dir, ...options });
  const pods: Database<PodRecord, string> = root.openDB({ name: "pods" });
  const containers: Database<ContainerRecord, string> = root.openDB({ name: "containers" });
  const meta: Database<string, string> = root.openDB({ name: "meta" });
  const all = <T>(db: Database<T, string>): T[] => [...db.getRange().map(({ value }) => value)];
  return {
    pods: () => all(pods),
    containers: () => all(containers),
    putPod: async (record) => void (await pods.put(record.id, record)),
    deletePod: async (id) => void (await pods.remove(id)),
    putContainer: async (record) => void (await containers.put(record.id, record)),
    deleteContainer: async (id) => void (await containers.remove(id)),
    bootId: () => meta.get("bootId"),
    setBootId: async (id) => void (await meta.put("bootId", id)),
    flushed: async () => void (await root.flushed),
    close: () => root.close(),
  };
}

/** Changes with every boot of the kernel. */
export const currentBootId = (): string => fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
