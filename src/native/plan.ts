import { invalid } from "../base/errors";

/**
 * Writes launch plans. The format, and what every op does, is described once: in native/core/plan.h. The
 * numbers here mirror it (test/native/plan.test.ts compares them).
 */
export const OPEN = {
  tree: 1,
  overlay: 2,
  namespace: 3,
  file: 4,
  fd: 5,
  device: 6,
  filesystem: 7,
} as const;

export const OP = {
  setns: 16,
  unshare: 17,
  enterBase: 18,
  successor: 19,
  loopbackUp: 20,
  hostname: 21,
  domainname: 22,
  setsid: 23,
  attachRoot: 32,
  newRoot: 33,
  baseTree: 34,
  mountNew: 35,
  mountTree: 36,
  setAttr: 37,
  propagate: 38,
  mkdir: 39,
  symlink: 40,
  mknod: 41,
  writeFile: 42,
  mask: 43,
  readonly: 44,
  pivot: 45,
  copyUp: 46,
  chroot: 47,
  sysctl: 64,
  console: 65,
  stdio: 66,
  rlimit: 67,
  umask: 68,
  pdeathsig: 69,
  noNewPrivs: 70,
  seccomp: 71,
  bounding: 72,
  groups: 73,
  ids: 74,
  cwd: 75,
  caps: 76,
  oomScoreAdj: 77,
  keyring: 78,
  chownStdio: 79,
  dumpable: 80,
  sync: 96,
  gate: 97,
  lookup: 98,
  exec: 99,
  pause: 100,
} as const;

export const NO_SLOT = 0xffffffff;
const MAGIC = 0x504f5349;
const VERSION = 1;
const HEADER_SIZE = 32;
const OPEN_SIZE = 32;
const OP_SIZE = 40;
const MAX_SLOTS = 256;
const KEEP_OOM = -0x80000000;
const OOM_BEST_EFFORT = 1;

/** Index of an fd that the stub opened. */
export type Slot = number;
/** Offset of a string, blob or list in the plan; 0 is none. Relative to `data` until `finish`. */
export type Ref = number & { readonly __ref: unique symbol };

export const NONE = 0 as Ref;

export interface OpenFields {
  readonly path?: string;
  readonly flags?: number;
  readonly a?: number;
  readonly b?: number;
  readonly list?: readonly string[];
  readonly data?: string;
}

export interface OpFields {
  readonly subject?: string;
  readonly a?: number;
  readonly b?: number;
  readonly c?: number;
  readonly d?: number;
  readonly x?: bigint;
  readonly y?: bigint;
}

export interface PlanHeader {
  /** CLONE_NEW* bits for clone3. */
  readonly cloneFlags: number;
  readonly oomScoreAdj?: number | undefined;
  /** Leave the score where it is if it may not be lowered. */
  readonly oomBestEffort?: boolean;
}

/** Collects opens, ops and their data, then lays them out as one buffer. */
export class PlanWriter {
  readonly #opens: { kind: number; slot: number; path: Ref; list: Ref; data: Ref; fields: OpenFields }[] = [];
  readonly #ops: { op: number; subject: Ref; fields: OpFields }[] = [];
  readonly #chunks: Uint8Array[] = [];
  readonly #strings = new Map<string, Ref>();
  /** Lists hold offsets themselves, so they are rebased in `finish`. */
  readonly #lists: { at: number; refs: Ref[] }[] = [];
  #dataSize = 8; // offset 0 is "none", and blobs stay 8-aligned
  #slots = 0;

  open(kind: number, fields: OpenFields): Slot {
    const slot = this.slot();
    this.#opens.push({
      kind,
      slot,
      path: this.string(fields.path ?? ""),
      list: fields.list ? this.list(fields.list) : NONE,
      data: fields.data === undefined ? NONE : this.string(fields.data),
      fields,
    });
    return slot;
  }

  /** A slot that an op fills (kOpBaseTree). */
  slot(): Slot {
    if (this.#slots >= MAX_SLOTS)
      throw invalid("mounts", this.#slots, `more than ${MAX_SLOTS} descriptors needed`);
    return this.#slots++;
  }

  op(op: number, fields: OpFields = {}): void {
    this.#ops.push({ op, subject: this.string(fields.subject ?? ""), fields });
  }

  string(text: string): Ref {
    const known = this.#strings.get(text);
    if (known !== undefined) return known;
    if (text.includes("\0")) throw invalid("string", text, "contains a NUL byte");
    const ref = this.#append(Buffer.from(`${text}\0`));
    this.#strings.set(text, ref);
    return ref;
  }

  blob(bytes: Uint8Array): Ref {
    return this.#append(bytes);
  }

  list(items: readonly string[]): Ref {
    const refs = items.map((item) => this.string(item));
    const at = this.#append(new Uint8Array(4 + 4 * refs.length));
    this.#lists.push({ at, refs });
    return at;
  }

  finish(header: PlanHeader): Uint8Array {
    const base = HEADER_SIZE + OPEN_SIZE * this.#opens.length + OP_SIZE * this.#ops.length;
    const start = (base + 7) & ~7;
    const out = Buffer.alloc(start + this.#dataSize);
    const rebase = (ref: number): number => (ref === 0 ? 0 : ref + start);
    out.writeUInt32LE(MAGIC, 0);
    out.writeUInt32LE(VERSION, 4);
    out.writeUInt32LE(out.length, 8);
    out.writeUInt32LE(this.#opens.length, 12);
    out.writeUInt32LE(this.#ops.length, 16);
    out.writeUInt32LE(header.cloneFlags >>> 0, 20);
    out.writeInt32LE(header.oomScoreAdj ?? KEEP_OOM, 24);
    out.writeUInt32LE(header.oomBestEffort ? OOM_BEST_EFFORT : 0, 28);
    let at = HEADER_SIZE;
    for (const { kind, slot, path, list, data, fields } of this.#opens) {
      const words = [
        kind,
        slot,
        rebase(path),
        fields.flags ?? 0,
        fields.a ?? 0,
        fields.b ?? 0,
        rebase(list),
        rebase(data),
      ];
      for (const [i, word] of words.entries()) out.writeUInt32LE(word >>> 0, at + 4 * i);
      at += OPEN_SIZE;
    }
    for (const { op, subject, fields } of this.#ops) {
      const refs = refOperands[op] ?? "";
      const word = (name: "a" | "b" | "c" | "d"): number =>
        refs.includes(name) ? rebase(fields[name] ?? 0) : (fields[name] ?? 0) >>> 0;
      const words = [op, rebase(subject), word("a"), word("b"), word("c"), word("d")];
      for (const [i, value] of words.entries()) out.writeUInt32LE(value, at + 4 * i);
      out.writeBigUInt64LE(BigInt.asUintN(64, fields.x ?? 0n), at + 24);
      out.writeBigUInt64LE(BigInt.asUintN(64, fields.y ?? 0n), at + 32);
      at += OP_SIZE;
    }
    let offset = start + 8;
    for (const chunk of this.#chunks) {
      out.set(chunk, offset);
      offset += (chunk.length + 7) & ~7;
    }
    for (const { at: listAt, refs } of this.#lists) {
      out.writeUInt32LE(refs.length, start + listAt);
      for (const [i, ref] of refs.entries()) out.writeUInt32LE(rebase(ref), start + listAt + 4 + 4 * i);
    }
    return out;
  }

  #append(bytes: Uint8Array): Ref {
    const at = this.#dataSize as Ref;
    this.#chunks.push(bytes);
    this.#dataSize += (bytes.length + 7) & ~7;
    return at;
  }
}

/** Which of a, b, c, d of an op are offsets into the data, and so move with it. */
const refOperands: Readonly<Record<number, string>> = {
  [OP.newRoot]: "d",
  [OP.mountNew]: "abcd",
  [OP.mountTree]: "c",
  [OP.setAttr]: "c",
  [OP.propagate]: "c",
  [OP.mkdir]: "c",
  [OP.symlink]: "ac",
  [OP.mknod]: "c",
  [OP.writeFile]: "ac",
  [OP.mask]: "c",
  [OP.readonly]: "c",
  [OP.copyUp]: "c",
  [OP.chroot]: "c",
  [OP.sysctl]: "ac",
  [OP.seccomp]: "a",
  [OP.groups]: "a",
  [OP.cwd]: "c",
  [OP.caps]: "ab",
  [OP.lookup]: "ab",
  [OP.exec]: "ab",
  [OP.pause]: "a",
};
