/**
 * An assembler for classic BPF as seccomp runs it: 64-bit instructions {code u16, jt u8, jf u8, k u32} on
 * one 32-bit accumulator, reading struct seccomp_data {int nr; u32 arch; u64 instruction_pointer; u64 args[6]}.
 *
 * All jumps go forward, and a conditional one spans at most 255 instructions. So the program is written
 * from its end to its beginning: every target exists before the jump that needs it, and one that has drifted
 * out of reach is bridged by a copy (of a return) or by an unconditional jump, whose span is 32 bits wide.
 */
const LD_W_ABS = 0x20;
const ALU_AND_K = 0x54;
const JMP_JA = 0x05;
const RET_K = 0x06;

export const JEQ = 0x15;
export const JGT = 0x25;
export const JGE = 0x35;

export const OFFSET_NR = 0;
export const OFFSET_ARCH = 4;
/** Little-endian, as every architecture isopod runs on: the low word comes first. */
export const offsetOfArg = (index: number): number => 16 + 8 * index;

const MAX_SPAN = 255;

/** An instruction, counted from the program's end. */
export interface Label {
  readonly at: number;
  /** Set for a return: its value. */
  readonly returns?: number;
}

export class BpfAssembler {
  readonly #code: number[] = [];
  readonly #k: number[] = [];
  readonly #returns = new Map<number, Label>();

  get length(): number {
    return this.#code.length;
  }

  ret(value: number): Label {
    const known = this.#returns.get(value);
    // Half a span leaves room for what is written before the jump itself.
    if (known && this.length - known.at < MAX_SPAN / 2) return known;
    return this.#freshReturn(value);
  }

  /** The accumulator := the word at `offset` of seccomp_data; goes on with what was written last. */
  load(offset: number): Label {
    return this.#emit(LD_W_ABS, 0, 0, offset);
  }

  and(mask: number): Label {
    return this.#emit(ALU_AND_K, 0, 0, mask);
  }

  branch(code: number, k: number, yes: Label, no: Label): Label {
    if (yes.at === no.at) return this.goto(yes);
    // One less than the span: bridging `yes` may put an instruction between.
    if (this.length - no.at > MAX_SPAN) no = this.#bridge(no);
    if (this.length - yes.at > MAX_SPAN + 1) yes = this.#bridge(yes);
    return this.#emit(code, this.length - yes.at - 1, this.length - no.at - 1, k);
  }

  /** The program, beginning at what was written last. */
  finish(): Uint8Array {
    const out = Buffer.alloc(8 * this.length);
    for (let at = this.length - 1, offset = 0; at >= 0; at--, offset += 8) {
      out.writeUInt32LE(this.#code[at]!, offset);
      out.writeUInt32LE(this.#k[at]!, offset + 4);
    }
    return out;
  }

  /** So that what is written next goes on at `to`. */
  goto(to: Label): Label {
    return to.at === this.length - 1 ? to : this.#bridge(to);
  }

  #bridge(to: Label): Label {
    if (to.returns !== undefined) return this.#freshReturn(to.returns);
    return this.#emit(JMP_JA, 0, 0, this.length - to.at - 1);
  }

  #freshReturn(value: number): Label {
    const label = { at: this.#emit(RET_K, 0, 0, value).at, returns: value };
    this.#returns.set(value, label);
    return label;
  }

  #emit(code: number, jt: number, jf: number, k: number): Label {
    this.#code.push((code | (jt << 16) | (jf << 24)) >>> 0);
    this.#k.push(k >>> 0);
    return { at: this.length - 1 };
  }
}
