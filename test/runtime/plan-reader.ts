import { OP, OPEN } from "../../src/native";

/** A launch plan as its ops by name, for assertions on what was compiled. */
export interface ReadOpen {
  readonly kind: string;
  readonly slot: number;
  readonly path: string;
  readonly flags: number;
  readonly a: number;
  readonly b: number;
  readonly list: readonly string[];
  readonly data: string;
}

export interface ReadOp {
  readonly op: string;
  readonly subject: string;
  readonly a: number;
  readonly b: number;
  readonly c: number;
  readonly d: number;
  readonly x: bigint;
  readonly y: bigint;
  /** The operand as a string of the plan, a list of it, or bytes. */
  text(operand: "a" | "b" | "c" | "d"): string;
  list(operand: "a" | "b" | "c" | "d"): readonly string[];
  bytes(operand: "a" | "b", size: number): Buffer;
}

export interface ReadPlan {
  readonly cloneFlags: number;
  readonly oomScoreAdj: number;
  readonly flags: number;
  readonly opens: readonly ReadOpen[];
  readonly ops: readonly ReadOp[];
  /** Names of all ops in order. */
  readonly order: readonly string[];
  find(op: string, subject?: string): ReadOp;
  all(op: string): readonly ReadOp[];
}

const nameOf = (table: Readonly<Record<string, number>>, code: number): string =>
  Object.entries(table).find(([, value]) => value === code)?.[0] ?? `?${code}`;

export function readPlan(bytes: Uint8Array): ReadPlan {
  const plan = Buffer.from(bytes);
  const string = (at: number): string => (at === 0 ? "" : plan.toString("utf8", at, plan.indexOf(0, at)));
  const list = (at: number): string[] =>
    at === 0
      ? []
      : Array.from({ length: plan.readUInt32LE(at) }, (_, i) => string(plan.readUInt32LE(at + 4 + 4 * i)));
  const opens = Array.from({ length: plan.readUInt32LE(12) }, (_, i): ReadOpen => {
    const word = (n: number): number => plan.readUInt32LE(32 + 32 * i + 4 * n);
    return {
      kind: nameOf(OPEN, word(0)),
      slot: word(1),
      path: string(word(2)),
      flags: word(3),
      a: word(4),
      b: word(5),
      list: list(word(6)),
      data: string(word(7)),
    };
  });
  const start = 32 + 32 * opens.length;
  const ops = Array.from({ length: plan.readUInt32LE(16) }, (_, i): ReadOp => {
    const at = start + 40 * i;
    const words = { a: 2, b: 3, c: 4, d: 5 };
    const word = (name: "a" | "b" | "c" | "d"): number => plan.readUInt32LE(at + 4 * words[name]);
    return {
      op: nameOf(OP, plan.readUInt32LE(at)),
      subject: string(plan.readUInt32LE(at + 4)),
      a: word("a"),
      b: word("b"),
      c: word("c"),
      d: word("d"),
      x: plan.readBigUInt64LE(at + 24),
      y: plan.readBigUInt64LE(at + 32),
      text: (operand) => string(word(operand)),
      list: (operand) => list(word(operand)),
      bytes: (operand, size) => plan.subarray(word(operand), word(operand) + size),
    };
  });
  const all = (op: string): ReadOp[] => ops.filter((entry) => entry.op === op);
  return {
    cloneFlags: plan.readUInt32LE(20),
    oomScoreAdj: plan.readInt32LE(24),
    flags: plan.readUInt32LE(28),
    opens,
    ops,
    order: ops.map(({ op }) => op),
    all,
    find: (op, subject) => {
      const found = all(op).find((entry) => subject === undefined || entry.subject === subject);
      if (!found) throw new Error(`no ${op} ${subject ?? ""} in ${ops.map((entry) => entry.op).join(" ")}`);
      return found;
    },
  };
}
