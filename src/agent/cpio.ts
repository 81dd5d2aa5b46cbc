/**
 * cpio "newc" archives, the form in which a kernel takes its initramfs (Documentation/driver-api/
 * early-userspace/buffer-format.rst): per entry a header of 6 magic characters and 13 fields of 8 hex
 * digits, the name with its NUL, the data, each padded to 4 bytes; last an entry TRAILER!!!. A directory
 * comes before what lies in it.
 */
export interface CpioEntry {
  /** Relative, without "./". */
  readonly name: string;
  /** Type and permissions, as st_mode. */
  readonly mode: number;
  /** Content of a file, target of a link. */
  readonly data?: Uint8Array;
  /** Number of a device node. */
  readonly device?: { readonly major: number; readonly minor: number };
}

const TRAILER = "TRAILER!!!";

export function cpio(entries: readonly CpioEntry[]): Buffer {
  const parts = entries.flatMap((entry, index) => encode(entry, index + 1));
  return Buffer.concat([...parts, ...encode({ name: TRAILER, mode: 0 }, 0)]);
}

function encode({ name, mode, data = new Uint8Array(), device }: CpioEntry, inode: number): Uint8Array[] {
  const path = Buffer.from(`${name}\0`);
  // inode, mode, uid, gid, links, mtime, size, device's (major, minor), node's (major, minor), name's size, check
  const number = [0, 0, device?.major ?? 0, device?.minor ?? 0];
  const fields = [inode, mode, 0, 0, 1, 0, data.length, ...number, path.length, 0];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}`;
  return [padded(Buffer.concat([Buffer.from(header), path])), padded(data)];
}

function padded(data: Uint8Array): Uint8Array {
  const rest = data.length % 4;
  return rest === 0 ? data : Buffer.concat([data, Buffer.alloc(4 - rest)]);
}
