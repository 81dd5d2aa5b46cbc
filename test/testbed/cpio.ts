/**
 * cpio "newc" archives, the form in which the kernel takes its initramfs (Documentation/driver-api/
 * early-userspace/buffer-format.rst): per entry a header of 6 magic characters and 13 fields of 8 hex
 * digits, the name with its NUL, the data, each padded to 4 bytes; last an entry TRAILER!!!. A directory
 * has to come before what lies in it.
 */
export interface Entry {
  /** Relative, without "./". */
  readonly name: string;
  /** Type and permissions, as st_mode. */
  readonly mode: number;
  readonly data?: Uint8Array;
}

export const directory = (name: string): Entry => ({ name, mode: 0o040755 });
export const file = (name: string, data: Uint8Array | string, executable = false): Entry => ({
  name,
  mode: executable ? 0o100755 : 0o100644,
  data: typeof data === "string" ? Buffer.from(data) : data,
});

export function cpio(entries: readonly Entry[]): Buffer {
  const parts = entries.flatMap((entry, index) => encode(entry, index + 1));
  return Buffer.concat([...parts, ...encode({ name: "TRAILER!!!", mode: 0 }, 0)]);
}

function encode({ name, mode, data = new Uint8Array() }: Entry, inode: number): Uint8Array[] {
  const path = Buffer.from(`${name}\0`);
  // inode, mode, uid, gid, links, mtime, size, device and special device (major, minor), name size, checksum
  const fields = [inode, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, path.length, 0];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}`;
  return [padded(Buffer.concat([Buffer.from(header), path])), padded(data)];
}

function padded(data: Uint8Array): Uint8Array {
  const rest = data.length % 4;
  return rest === 0 ? data : Buffer.concat([data, Buffer.alloc(4 - rest)]);
}
