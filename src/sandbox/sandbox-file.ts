import * as fs from "node:fs";
import { IsopodError, messageOf } from "../base/errors";
import { readFileIfPresent, writeFileAtomic } from "../base/files";
import type { SandboxTask, SandboxTaskRecord } from "../task";
import { type Context, sandboxFile } from "./context";

/** The shim's coordinates are a file on tmpfs: they mean something for this boot only. */
export function writeSandboxFile(context: Context, record: SandboxTaskRecord): void {
  const text = JSON.stringify({ ...record, createdAt: record.createdAt.toString() });
  writeFileAtomic(sandboxFile(context, record.id), text);
}

function decode(text: string): SandboxTaskRecord {
  const record = JSON.parse(text) as SandboxTaskRecord & { createdAt: string };
  return { ...record, createdAt: BigInt(record.createdAt) };
}

/** The shim that the sandbox file names; undefined if it is gone. */
export async function reconnect(context: Context, podId: string): Promise<SandboxTask | undefined> {
  const text = readFileIfPresent(sandboxFile(context, podId));
  if (text === undefined) return undefined;
  try {
    return await context.shims.reconnect(decode(text));
  } catch (error) {
    context.log.warn("reconnecting to a sandbox", { sandbox: podId, error: messageOf(error) });
    if (IsopodError.is(error) && error.code === "NOT_FOUND")
      fs.rmSync(sandboxFile(context, podId), { force: true });
    return undefined;
  }
}
