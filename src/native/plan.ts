import { invalid } from "../base/errors";

/**
 * Writes launch plans. The format, and what every op does, is described once: in native/core/plan.h. The
 * numbers here mirror it (test/native/seam.test.ts compares them).
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
  apparmor: 81,
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
  readonly path?: string | Ref;
  readonly flags?: number;
  readonly a?: number;
  readonly b?: number;
  readonly list?: readonly string[];
  readonly data?: string;
}

export interface OpFields {
  readonly subject?: string | Ref;
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

interface Entry {
  readonly code: number;
  /** The open's slot, or the op's subject. */
  readonly first: number;
  readonly path: Ref;
  readonly list: Ref;
  readonly data: Ref;
  readonly fields: OpenFields & OpFields;
}

const FIRST_CAPACITY = 8192;

/** Collects opens, ops and their data, then lays them out as one buffer. */
export class PlanWriter {
  readonly #opens: Entry[] = [];
  readonly #ops: { readonly op: number; readonly subject: Ref; readonly fields: OpFields }[] = [];
  readonly #strings = new Map<string, Ref>();
  /** Lists hold offsets themselves, so they are rebased in `finish`. */
  readonly #lists: { readonly at: number; readonly refs: readonly Ref[] }[] = [];
  #data = Buffer.alloc(FIRST_CAPACITY);
  #dataSize = 8; // offset 0 is "none", and blobs stay 8-aligned
  #slots = 0;
  readonly #variables = new Map<string, { readonly ref: Ref; readonly size: number }>();
  #start = 0;

  open(kind: number, fields: OpenFields): Slot {
    const slot = this.slot();
    this.#opens.push({
      code: kind,
      first: slot,
      path: this.string(fields.path ?? ""),
      list: fields.list ? this.list(fields.list) : NONE,
      data: fields.data === undefined ? NONE : this.string(fields.data),
      fields: fields as OpenFields & OpFields,
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

  string(text: string | Ref): Ref {
    if (typeof text === "number") return text;
    const known = this.#strings.get(text);
    if (known !== undefined) return known;
    if (text.includes("\0")) throw invalid("string", text, "contains a NUL byte");
    const ref = this.#reserve(Buffer.byteLength(text) + 1);
    this.#data.write(text, ref);
    this.#strings.set(text, ref);
    return ref;
  }

  /**
   * A string that is shared with no equal one: in a plan like this one another of the same size may stand in its
   * place (`variables`).
   */
  variable(name: string, text: string): Ref {
    if (text.includes("\0")) throw invalid("string", text, "contains a NUL byte");
    const size = Buffer.byteLength(text);
    const ref = this.#reserve(size + 1);
    this.#data.write(text, ref);
    this.#variables.set(name, { ref, size });
    return ref;
  }

  /** Where the variable strings stand in the plan that `finish` returned. */
  variables(): ReadonlyMap<string, { readonly at: number; readonly size: number }> {
    const start = this.#start;
    return new Map([...this.#variables].map(([name, { ref, size }]) => [name, { at: ref + start, size }]));
  }

  blob(bytes: Uint8Array): Ref {
    const ref = this.#reserve(bytes.length);
    this.#data.set(bytes, ref);
    return ref;
  }

  list(items: readonly string[]): Ref {
    const refs = items.map((item) => this.string(item));
    const at = this.#reserve(4 + 4 * refs.length);
    this.#lists.push({ at, refs });
    return at;
  }

  finish(header: PlanHeader): Uint8Array {
    const base = HEADER_SIZE + OPEN_SIZE * this.#opens.length + OP_SIZE * this.#ops.length;
    const start = (base + 7) & ~7;
    this.#start = start;
    // The last bytes are 0: whatever string starts inside the plan ends inside it.
    const out = new Uint8Array(start + this.#dataSize + 8);
    out.set(this.#data.subarray(0, this.#dataSize), start);
    // Both machines that isopod runs on are little-endian, as the format is.
    const words = new Uint32Array(out.buffer);
    const doubles = new BigUint64Array(out.buffer, 0, out.length >> 3);
    const rebase = (ref: number): number => (ref === 0 ? 0 : ref + start);
    words.set([MAGIC, VERSION, out.length, this.#opens.length, this.#ops.length, header.cloneFlags]);
    words[6] = header.oomScoreAdj ?? KEEP_OOM;
    words[7] = header.oomBestEffort ? OOM_BEST_EFFORT : 0;
    let at = HEADER_SIZE / 4;
    for (const { code, first, path, list, data, fields } of this.#opens) {
      words[at] = code;
      words[at + 1] = first;
      words[at + 2] = rebase(path);
      words[at + 3] = fields.flags ?? 0;
      words[at + 4] = fields.a ?? 0;
      words[at + 5] = fields.b ?? 0;
      words[at + 6] = rebase(list);
      words[at + 7] = rebase(data);
      at += OPEN_SIZE / 4;
    }
    for (const { op, subject, fields } of this.#ops) {
      const refs = refOperands[op] ?? "";
      words[at] = op;
      words[at + 1] = rebase(subject);
      words[at + 2] = refs.includes("a") ? rebase(fields.a ?? 0) : (fields.a ?? 0);
      words[at + 3] = refs.includes("b") ? rebase(fields.b ?? 0) : (fields.b ?? 0);
      words[at + 4] = refs.includes("c") ? rebase(fields.c ?? 0) : (fields.c ?? 0);
      words[at + 5] = refs.includes("d") ? rebase(fields.d ?? 0) : (fields.d ?? 0);
      if (fields.x) doubles[(at + 6) >> 1] = fields.x;
      if (fields.y) doubles[(at + 8) >> 1] = fields.y;
      at += OP_SIZE / 4;
    }
    for (const { at: listAt, refs } of this.#lists) {
      const first = (start + listAt) / 4;
      words[first] = refs.length;
      for (let i = 0; i < refs.length; i++) words[first + 1 + i] = rebase(refs[i]!);
    }
    return out;
  }

  /** Zeroed room in the data, 8-aligned. */
  #reserve(size: number): Ref {
    const at = this.#dataSize as Ref;
    this.#dataSize += (size + 7) & ~7;
    if (this.#dataSize > this.#data.length) {
      const grown = Buffer.alloc(Math.max(2 * this.#data.length, this.#dataSize));
      grown.set(this.#data);
      this.#data = grown;
    }
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
