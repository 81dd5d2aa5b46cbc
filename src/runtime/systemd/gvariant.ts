import type { UnitValue } from "../../native";

/**
 * GVariant's text format (docs.gtk.org, "GVariant Text Format"), as much as unit properties take: annotations
 * `org.systemd.property.NAME` are written in it, for runc and crun as well.
 *
 *   true   5   uint64 5   @t 5   'text'   "text"   b'bytes'   ['a', 'b']   ('a', uint64 1)   @as []
 *
 * A number without a type is an int32.
 */
export interface Variant {
  readonly signature: string;
  readonly value: UnitValue;
}

const TYPES: Readonly<Record<string, string>> = {
  boolean: "b",
  byte: "y",
  int16: "n",
  uint16: "q",
  int32: "i",
  uint32: "u",
  int64: "x",
  uint64: "t",
  string: "s",
  objectpath: "o",
  signature: "g",
};
const INTEGERS = "ynqiuxt";

/** Throws an Error that says what is wrong, and where. */
export function parseVariant(text: string): Variant {
  const parser = new Parser(text);
  const variant = parser.value(undefined);
  parser.end();
  return variant;
}

class Parser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  value(type: string | undefined): Variant {
    this.#match(/\s*/y);
    const annotated = this.#match(/@([a-z(){}]+)\s/y) ?? undefined;
    if (annotated) return this.value(this.#agreed(type, annotated[1]!));
    const keyword = this.#match(/([a-z]+[0-9]*)\s+(?=\S)/y);
    if (keyword) {
      const known = TYPES[keyword[1]!];
      if (known === undefined) this.#fail(`"${keyword[1]}" is no type`);
      return this.value(this.#agreed(type, known));
    }
    const next = this.#text[this.#at];
    if (next === "[") return this.#array(type);
    if (next === "(") return this.#tuple(type);
    if (this.#text.startsWith("b'", this.#at) || this.#text.startsWith('b"', this.#at)) {
      this.#at++;
      // The text format ends byte strings with a NUL.
      return this.#typed(type, "ay", Buffer.from(`${this.#string()}\0`, "latin1"));
    }
    if (next === "'" || next === '"') return this.#words(type);
    const word = this.#match(/[+-]?[0-9a-zA-Z.]+/y)?.[0] ?? this.#fail("expected a value");
    if (word === "true" || word === "false") return this.#typed(type, "b", word === "true");
    if (!/^[+-]?\d+$/.test(word)) this.#fail(`"${word}" is no value`);
    return this.#integer(type ?? "i", BigInt(word));
  }

  end(): void {
    this.#match(/\s*/y);
    if (this.#at < this.#text.length) this.#fail("more follows");
  }

  #integer(type: string, value: bigint): Variant {
    if (!INTEGERS.includes(type) || type.length !== 1) this.#fail(`a number is not of type ${type}`);
    return { signature: type, value };
  }

  #words(type: string | undefined): Variant {
    if (type !== undefined && !["s", "o", "g"].includes(type)) this.#fail(`text is not of type ${type}`);
    return { signature: type ?? "s", value: this.#string() };
  }

  #array(type: string | undefined): Variant {
    if (type !== undefined && !type.startsWith("a")) this.#fail(`an array is not of type ${type}`);
    let element = type?.slice(1);
    const items: UnitValue[] = [];
    this.#at++;
    while (!this.#match(/\s*\]/y)) {
      if (items.length > 0 && !this.#match(/\s*,/y)) this.#fail("expected , or ]");
      const item = this.value(element);
      element ??= item.signature;
      items.push(item.value);
    }
    if (element === undefined) return this.#fail("an empty array needs its type: @as []");
    const bytes = element === "y" ? Uint8Array.from(items, Number) : items;
    return { signature: `a${element}`, value: bytes };
  }

  #tuple(type: string | undefined): Variant {
    const items: Variant[] = [];
    this.#at++;
    while (!this.#match(/\s*\)/y)) {
      if (items.length > 0 && !this.#match(/\s*,/y)) this.#fail("expected , or )");
      items.push(this.value(undefined));
    }
    const signature = `(${items.map((item) => item.signature).join("")})`;
    return this.#typed(
      type,
      signature,
      items.map((item) => item.value),
    );
  }

  #string(): string {
    const quote = this.#text[this.#at++];
    let out = "";
    for (;;) {
      const next = this.#text[this.#at++];
      if (next === undefined) return this.#fail("the text has no end");
      if (next === quote) return out;
      out += next === "\\" ? this.#escape() : next;
    }
  }

  #escape(): string {
    const code = this.#match(/u([0-9a-fA-F]{4})/y) ?? this.#match(/U([0-9a-fA-F]{8})/y);
    if (code) return String.fromCodePoint(Number.parseInt(code[1]!, 16));
    const octal = this.#match(/[0-7]{1,3}/y);
    if (octal) return String.fromCharCode(Number.parseInt(octal[0], 8));
    const next = this.#text[this.#at++] ?? this.#fail("the text has no end");
    return ESCAPES[next] ?? next;
  }

  #typed(wanted: string | undefined, signature: string, value: UnitValue): Variant {
    return { signature: this.#agreed(wanted, signature), value };
  }

  #agreed(wanted: string | undefined, found: string): string {
    if (wanted !== undefined && wanted !== found) this.#fail(`${found} is not ${wanted}`);
    return found;
  }

  #match(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text);
    if (!found) return undefined;
    this.#at = pattern.lastIndex;
    return found;
  }

  #fail(why: string): never {
    throw new Error(`${why}, at character ${this.#at + 1}`);
  }
}

const ESCAPES: Readonly<Record<string, string>> = {
  a: "\x07",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
  v: "\v",
};
