/**
 * Kernels of a few instructions, with all that a loader looks at: an ELF file with one segment at 16 MiB
 * and a PVH note. Any KVM runs them, also one that cannot boot Linux.
 */
const BASE = 0x1000000;
const CODE = 0x1000;

/** 32-bit protected mode; EBX is start_info. */
export const toys = {
  /** Says "hi" on the serial port if start_info has its magic, then powers off. */
  hello: bytes(`
    81 3b 78 c5 6e 33     cmpl $0x336ec578, (%ebx)
    75 fe                 jne .
    66 ba f8 03           mov $0x3f8, %dx
    b0 68 ee              mov $'h', %al; out %al, (%dx)
    b0 69 ee              mov $'i', %al; out %al, (%dx)
    b0 0a ee              mov $'\\n', %al; out %al, (%dx)
    66 ba 00 06           mov $0x600, %dx
    b0 34 ee              mov $0x34, %al; out %al, (%dx)
    f4 eb fd              hlt; jmp .-1`),
  /** Pulls the keyboard controller's reset line. */
  reset: bytes(`
    b0 fe e6 64           mov $0xfe, %al; out %al, $0x64
    f4 eb fd              hlt; jmp .-1`),
  /** Loops for ever. */
  loop: bytes(`
    eb fe                 jmp .`),
  /** An exception without a handler. */
  fault: bytes(`
    0f 0b                 ud2`),
  /** Writes to the serial port for ever. */
  flood: bytes(`
    66 ba f8 03           mov $0x3f8, %dx
    b0 78 ee              mov $'x', %al; out %al, (%dx)
    eb fb                 jmp .-3`),
};

/** The pairs of hexadecimal digits before two blanks or the end, line by line. */
function bytes(listing: string): Buffer {
  const lines = listing.split("\n").map((line) => line.trim().split("  ")[0]!);
  return Buffer.from(lines.join("").replaceAll(" ", ""), "hex");
}

export function toyKernel(code: Buffer, options: { pvh?: boolean } = {}): Buffer {
  const file = Buffer.alloc(CODE + 0x1000);
  file.write("\x7fELF\x02\x01\x01", "latin1");
  file.writeUInt16LE(2, 16);
  file.writeUInt16LE(62, 18); // EM_X86_64
  file.writeUInt32LE(1, 20);
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(64, 52);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(2, 56);
  const program = (
    at: number,
    type: number,
    offset: number,
    address: number,
    size: number,
    memory: number,
  ) => {
    file.writeUInt32LE(type, at);
    for (const [index, value] of [offset, address, address, size, memory].entries())
      file.writeBigUInt64LE(BigInt(value), at + 8 + index * 8);
  };
  program(64, 1, CODE, BASE, 0x1000, 0x4000);
  program(120, 4, 0x200, 0, 24, 0);
  file.writeUInt32LE(4, 0x200);
  file.writeUInt32LE(8, 0x204);
  file.writeUInt32LE(options.pvh === false ? 17 : 18, 0x208);
  file.write("Xen\0", 0x20c, "latin1");
  file.writeBigUInt64LE(BigInt(BASE), 0x210);
  code.copy(file, CODE);
  return file;
}
