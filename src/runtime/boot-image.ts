import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { IsopodError, messageOf } from "../base/errors";
import { native } from "../native";

/** Where boot images are kept; each is as large as the kernel in memory, some 50 MB. */
export const bootImageDirectory = "/var/cache/isopod/kernels";
/** Of native/vmm/boot_image.h. */
const VERSION = 1;
const MAGIC = "isopodBI";

/**
 * The boot image of a kernel file, made first if it is not there. `kernel` is a vmlinuz or vmlinux, or a
 * boot image itself. A kernel that was replaced has another one: the name tells size and time of the file.
 */
export async function bootImage(kernel: string, directory = bootImageDirectory): Promise<string> {
  let status: fs.Stats;
  try {
    status = await fs.promises.stat(kernel);
    if (await isBootImage(kernel)) return kernel;
  } catch (error) {
    throw new IsopodError("NOT_FOUND", `reading kernel "${kernel}": ${messageOf(error)}`, {
      step: "kernel",
      path: kernel,
      cause: error,
    });
  }
  const identity = JSON.stringify([path.resolve(kernel), status.size, status.mtimeMs, status.ino, VERSION]);
  const name = `${createHash("sha256").update(identity).digest("hex").slice(0, 32)}.boot`;
  const image = path.join(directory, name);
  if (!fs.existsSync(image)) {
    await fs.promises.mkdir(directory, { recursive: true, mode: 0o755 });
    await native().vmImage({ kernel, image });
  }
  return image;
}

async function isBootImage(file: string): Promise<boolean> {
  const handle = await fs.promises.open(file, "r");
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(MAGIC.length), 0, MAGIC.length, 0);
    return buffer.toString("latin1", 0, bytesRead) === MAGIC;
  } finally {
    await handle.close();
  }
}
