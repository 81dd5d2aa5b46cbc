import { randomBytes } from "node:crypto";
import { IsopodError, invalid, notFound } from "../base/errors";
import type { ContainerMetadata, PodMetadata } from "./types";

export const newId = (): string => randomBytes(32).toString("hex");

export const podName = (m: PodMetadata): string => `${m.name}_${m.namespace}_${m.uid}_${m.attempt}`;
/** Unique within its pod, whose id therefore is a part. */
export const containerName = (podId: string, m: ContainerMetadata): string =>
  `${m.name}_${podId}_${m.attempt}`;

/** Objects by id or by a unique prefix of it. */
export class Index<T> implements Iterable<T> {
  readonly #kind: string;
  readonly #byId = new Map<string, T>();

  constructor(kind: string) {
    this.#kind = kind;
  }

  set(id: string, value: T): void {
    this.#byId.set(id, value);
  }

  delete(id: string): void {
    this.#byId.delete(id);
  }

  has(id: string): boolean {
    return this.#byId.has(id);
  }

  /** NOT_FOUND; INVALID_ARGUMENT if `prefix` fits several. */
  get(prefix: string): T {
    const found = this.find(prefix);
    if (found === undefined) throw notFound(this.#kind, prefix);
    return found;
  }

  find(prefix: string): T | undefined {
    const exact = this.#byId.get(prefix);
    if (exact !== undefined || prefix === "") return exact;
    let found: T | undefined;
    for (const [id, value] of this.#byId) {
      if (!id.startsWith(prefix)) continue;
      if (found !== undefined)
        throw invalid(`${this.#kind} id`, prefix, "ambiguous: more than one begins so");
      found = value;
    }
    return found;
  }

  [Symbol.iterator](): Iterator<T> {
    return this.#byId.values();
  }
}

/**
 * What became of a finished request: `usable` still stands for a repeated one; `stale` exists, if only as
 * something to be removed, and keeps its name.
 */
export type Outcome = "usable" | "stale" | "gone";

interface Holder<R> {
  readonly id: string;
  readonly request: R;
  readonly work: Promise<string>;
  done: boolean;
}

/**
 * Names that are unique (pod attempts, container attempts), each with the request that took it. kubelet
 * repeats a request whose deadline has passed, and the work goes on without its caller: an equal request
 * joins it, or gets what it made. Any other claim to the name fails and names the holder.
 */
export class Names<R> {
  readonly #kind: string;
  readonly #same: (a: R, b: R) => boolean;
  readonly #outcome: (id: string) => Outcome;
  readonly #held = new Map<string, Holder<R>>();

  constructor(kind: string, same: (a: R, b: R) => boolean, outcome: (id: string) => Outcome) {
    this.#kind = kind;
    this.#same = same;
    this.#outcome = outcome;
  }

  /** Runs `make` under `name`, or joins. If it fails and left nothing, the name is free again. */
  claim(name: string, id: string, request: R, make: () => Promise<unknown>): Promise<string> {
    const held = this.#held.get(name);
    if (held !== undefined) {
      const joinable =
        this.#same(held.request, request) && (!held.done || this.#outcome(held.id) === "usable");
      return joinable ? held.work : Promise.reject(this.#taken(name, held.id));
    }
    const work = make().then(() => id);
    const holder: Holder<R> = { id, request, work, done: false };
    this.#held.set(name, holder);
    const ended = () => {
      holder.done = true;
      if (this.#outcome(id) === "gone") this.release(name, id);
    };
    work.then(ended, ended);
    return work;
  }

  /** Takes a name for what exists already. */
  hold(name: string, id: string, request: R): void {
    this.#held.set(name, { id, request, work: Promise.resolve(id), done: true });
  }

  /** Only `id` itself can give its name back. */
  release(name: string, id: string): void {
    if (this.#held.get(name)?.id === id) this.#held.delete(name);
  }

  #taken(name: string, id: string): IsopodError {
    const text = `${this.#kind} name "${name}": is reserved for ${id}`;
    return new IsopodError("ALREADY_EXISTS", text, { path: name });
  }
}
