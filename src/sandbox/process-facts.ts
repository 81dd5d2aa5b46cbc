import * as fs from "node:fs";

/** What only /proc tells of a container's processes. */
export interface ProcessFacts {
  readonly processes: number;
  readonly descriptors: number;
  readonly sockets: number;
  /** Soft RLIMIT_NOFILE of the first; undefined: unlimited, or nobody is there. */
  readonly openFilesLimit?: number | undefined;
}

/** At a time; each takes a thread of libuv's pool, which others need as well. */
const AT_ONCE = 2;

/** Of host pids; those that end meanwhile are passed over. */
export async function processFacts(pids: readonly number[]): Promise<ProcessFacts> {
  const open: string[] = [];
  for (let at = 0; at < pids.length; at += AT_ONCE)
    for (const found of await Promise.all(pids.slice(at, at + AT_ONCE).map(descriptorsOf)))
      open.push(...found);
  const [first] = pids;
  return {
    processes: pids.length,
    descriptors: open.length,
    sockets: open.filter((target) => target.startsWith("socket:")).length,
    openFilesLimit: first === undefined ? undefined : parseOpenFiles(await read(`/proc/${first}/limits`)),
  };
}

/** What each descriptor leads to. */
async function descriptorsOf(pid: number): Promise<string[]> {
  const dir = `/proc/${pid}/fd`;
  try {
    const names = await fs.promises.readdir(dir);
    return await Promise.all(names.map((name) => fs.promises.readlink(`${dir}/${name}`).catch(() => "")));
  } catch {
    return [];
  }
}

/** `Max open files   1024   4096   files`: soft, then hard. */
export function parseOpenFiles(limits: string): number | undefined {
  const soft = /^Max open files\s+(\d+)/m.exec(limits)?.[1];
  return soft === undefined ? undefined : Number(soft);
}

const read = (file: string): Promise<string> => fs.promises.readFile(file, "utf8").catch(() => "");
