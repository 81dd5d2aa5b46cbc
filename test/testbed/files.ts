import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";

/**
 * Opens a file that has no name, for QEMU to inherit: it is gone with its last descriptor, however that
 * is closed. Taken by the caller.
 */
export function namelessFile(dir: string): number {
  const O_TMPFILE = fs.constants.O_DIRECTORY | 0o20000000;
  try {
    return fs.openSync(dir, O_TMPFILE | fs.constants.O_RDWR, 0o600);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EOPNOTSUPP") throw error;
  }
  // Overlay file systems before Linux 6.1.
  const name = path.join(dir, `.${process.pid}`);
  const fd = fs.openSync(name, "wx+", 0o600);
  fs.unlinkSync(name);
  return fd;
}

/** A sparse ext4 image of `size` MiB. Taken by the caller. */
export function ext4Disk(dir: string, size: number): number {
  const fd = namelessFile(dir);
  fs.ftruncateSync(fd, size * 1024 * 1024);
  // The kernel zeroes inode tables in the background where mke2fs leaves them: none of that in a short life.
  const options = ["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=1,discard"];
  const { status, stderr, error } = spawnSync("mke2fs", [...options, "-N", "65536", "/proc/self/fd/3"], {
    stdio: ["ignore", "ignore", "pipe", fd],
    encoding: "utf8",
  });
  if (status === 0) return fd;
  fs.closeSync(fd);
  throw new Error(`making the testbed's disk: mke2fs: ${error?.message ?? stderr.trim()}`);
}
