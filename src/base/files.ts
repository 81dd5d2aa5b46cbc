import * as fs from "node:fs";
import * as path from "node:path";

let counter = 0;

/**
 * Replaces `file` in one step: a reader sees the old or the new content, never half of it. No fsync: for
 * state on tmpfs, which does not outlive a boot.
 */
export function writeFileAtomic(file: string, data: string | Uint8Array, mode = 0o600): void {
  const temporary = path.join(path.dirname(file), `.${path.basename(file)}.${process.pid}.${counter++}`);
  try {
    fs.writeFileSync(temporary, data, { mode });
    fs.renameSync(temporary, file);
  } catch (error) {
    fs.rmSync(temporary, { force: true });
    throw error;
  }
}

/**
 * Removes a directory of files, on tmpfs, where a system call each is less than the way to another thread. True
 * if it is gone, or never was; false if it is not, since something else was in it.
 */
export function removeFlatDirectory(dir: string): boolean {
  try {
    for (const name of fs.readdirSync(dir)) fs.unlinkSync(path.join(dir, name));
    fs.rmdirSync(dir);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOENT";
  }
}

/** The content of `file`, or undefined if there is none. */
export function readFileIfPresent(file: string): string | undefined {
  try {
    return fs.readFileSync(file, "utf8");
  } catch (error) {
    // ENODEV: a file of a cgroup that went between the open and the read.
    if (["ENOENT", "ENODEV"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
}
