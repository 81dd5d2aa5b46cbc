import assert from "node:assert/strict";

/** What seccomp hands to a filter. */
export interface SeccompData {
  readonly nr: number;
  readonly arch: number;
  readonly args: readonly bigint[];
}

function serialize({ nr, arch, args }: SeccompData): Buffer {
  const data = Buffer.alloc(64);
  data.writeUInt32LE(nr >>> 0, 0);
  data.writeUInt32LE(arch >>> 0, 4);
  for (let i = 0; i < 6; i++) data.writeBigUInt64LE(args[i] ?? 0n, 16 + 8 * i);
  return data;
}

/**
 * Runs a classic BPF program over `input` and returns its verdict. Only what a seccomp filter may contain;
 * anything else, a jump out of the program or a read out of bounds fails the test.
 */
export function interpret(program: Uint8Array, input: SeccompData): number {
  const code = Buffer.from(program.buffer, program.byteOffset, program.byteLength);
  const data = serialize(input);
  let a = 0;
  for (let pc = 0; pc < code.length / 8; pc++) {
    const at = 8 * pc;
    const k = code.readUInt32LE(at + 4);
    const jump = (taken: boolean): number => code.readUInt8(at + (taken ? 2 : 3));
    switch (code.readUInt16LE(at)) {
      case 0x20: // ld [k]
        a = data.readUInt32LE(k);
        break;
      case 0x54: // and #k
        a = (a & k) >>> 0;
        break;
      case 0x05: // ja
        pc += k;
        break;
      case 0x15:
        pc += jump(a === k);
        break;
      case 0x25:
        pc += jump(a > k);
        break;
      case 0x35:
        pc += jump(a >= k);
        break;
      case 0x45:
        pc += jump((a & k) !== 0);
        break;
      case 0x06:
        return k;
      default:
        assert.fail(`instruction ${pc}: unknown code 0x${code.readUInt16LE(at).toString(16)}`);
    }
  }
  assert.fail("ran off the end of the program");
}
