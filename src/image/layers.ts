import * as crypto from "node:crypto";
import { setMaxListeners } from "node:events";
import { IsopodError, messageOf } from "../base/errors";
import type { Descriptor } from "../oci/image-spec";
import type { ContentStore } from "./content-store";
import type { Lease } from "./leases";
import type { LayerRecord, Records } from "./records";
import type { Snapshotter } from "./snapshotter";
import type { UnpackJob, UnpackLimits } from "./unpack-job";
import type { UnpackPool } from "./unpack-pool";
import { newSlots, type Slots, unlessAborted } from "./waiting";

/**
 * Unpacked layers by chain id, each made once however many pulls want it at the same time.
 *
 * All layers of an image go at once, three at a time. A layer needs those below it only where it says less
 * than everything (an undeclared directory, a hard link to a file below): then it waits, holding its
 * worker. So a layer starts only after the one below it has started: every running job's parent is running
 * or complete, and the lowest of them always gets on.
 */
export interface LayerInput {
  readonly descriptor: Descriptor;
  readonly diffId: string;
  /** Where the compressed layer is: a file, or chunks to fetch. */
  readonly source: LayerSource;
}

export type LayerSource =
  | { readonly file: string; readonly offset: number; readonly size: number }
  | { chunks(signal: AbortSignal): AsyncIterable<Uint8Array> };

export interface Layers {
  /** Resolves with the records of all layers, lowest first, some of them not yet written to `records`. */
  ensure(inputs: readonly LayerInput[], lease: Lease, signal: AbortSignal): Promise<LayerRecord[]>;
  /** Layers made and not yet recorded, that no lease names: theirs is the collector's. */
  takeUnleased(chains: ReadonlySet<string>): LayerRecord[];
  /** Forgets those that are recorded now. */
  recorded(layers: readonly LayerRecord[]): void;
  /** Resolves when nothing is under way. */
  settle(): Promise<void>;
}

const PARALLEL = 3;

interface Flight {
  readonly started: Promise<void>;
  readonly done: Promise<LayerRecord>;
  readonly controller: AbortController;
  waiters: number;
}

export interface LayersOptions {
  readonly records: Records;
  readonly content: ContentStore;
  readonly snapshots: Snapshotter;
  readonly pool: UnpackPool;
  readonly limits: UnpackLimits;
}

/** ChainID(L0) = DiffID(L0); ChainID(L0|…|Ln) = sha256(ChainID(L0|…|Ln-1) + " " + DiffID(Ln)). */
function chainIds(diffIds: readonly string[]): string[] {
  const chain: string[] = [];
  for (const diffId of diffIds) {
    const below = chain.at(-1);
    const text = `${below} ${diffId}`;
    chain.push(
      below === undefined ? diffId : `sha256:${crypto.createHash("sha256").update(text).digest("hex")}`,
    );
  }
  return chain;
}

export function openLayers(options: LayersOptions): Layers {
  const { records, content, snapshots, pool } = options;
  const flights = new Map<string, Flight>();
  /** Made, not yet recorded. */
  const ready = new Map<string, LayerRecord>();
  /** Digest → the download that will bring it into the content store. */
  const downloads = new Map<string, Promise<unknown>>();

  const known = (chainId: string) => records.layers.get(chainId) ?? ready.get(chainId);

  async function make(input: LayerInput, place: Place, signal: AbortSignal, started: () => void) {
    await place.below?.started;
    const { digest, size } = input.descriptor;
    // The same blob in another chain, or twice in this one: fetched once.
    while (!content.has(digest) && downloads.has(digest)) {
      await downloads.get(digest)!.catch(() => {});
    }
    signal.throwIfAborted();
    const stored = content.has(digest);
    const copyTo = stored ? undefined : content.ingest();
    const { dir, fs } = snapshots.newDirectory();
    const source = stored ? { file: content.path(digest), offset: 0, size } : input.source;
    const below = place.chain.slice(0, place.index);
    const parents = (place.below?.done ?? Promise.resolve()).then(() =>
      snapshots.lower(below.map((id) => known(id)!)),
    );
    const job: UnpackJob = {
      source: "file" in source ? source : "port",
      size,
      digest,
      diffId: input.diffId,
      ...(copyTo === undefined ? {} : { copyTo }),
      root: fs,
      limits: options.limits,
    };
    const chunks = "file" in source ? {} : { chunks: () => source.chunks(signal) };
    const work = pool.run(job, { signal, started, parents, ...chunks }).then(async (result) => {
      if (copyTo !== undefined) await content.commit(copyTo, digest);
      return result;
    });
    if (!stored) downloads.set(digest, work);
    try {
      const result = await work;
      const record = {
        chainId: place.chain[place.index]!,
        parent: below.at(-1) ?? "",
        dir,
        opaque: result.opaque,
        bytes: result.bytes,
        inodes: result.inodes,
      };
      ready.set(record.chainId, record);
      return record;
    } catch (error) {
      parents.catch(() => {});
      if (copyTo !== undefined) content.discard(copyTo);
      await snapshots.discard(dir);
      throw signal.aborted ? error : named(digest, error);
    } finally {
      if (downloads.get(digest) === work) downloads.delete(digest);
    }
  }

  function launch(input: LayerInput, place: Place, slots: Slots): Flight {
    const chainId = place.chain[place.index]!;
    const controller = new AbortController();
    let started = () => {};
    const hasStarted = new Promise<void>((resolve) => {
      started = resolve;
    });
    const done = slots.run(() => make(input, place, controller.signal, started));
    const flight: Flight = { started: hasStarted, done, controller, waiters: 0 };
    flights.set(chainId, flight);
    const over = () => {
      started();
      if (flights.get(chainId) === flight) flights.delete(chainId);
    };
    done.then(over, over);
    return flight;
  }

  async function ensure(
    inputs: readonly LayerInput[],
    lease: Lease,
    signal: AbortSignal,
  ): Promise<LayerRecord[]> {
    const chain = chainIds(inputs.map((input) => input.diffId));
    for (const id of chain) lease.chains.add(id);
    for (const input of inputs) lease.digests.add(input.descriptor.digest);
    const slots = newSlots(PARALLEL);
    const group = new AbortController();
    const either = AbortSignal.any([signal, group.signal]);
    setMaxListeners(0, either); // one for each layer
    const own: Promise<unknown>[] = [];
    const results: Promise<LayerRecord>[] = [];

    const obtain = async (index: number): Promise<LayerRecord> => {
      for (let attempt = 0; ; attempt++) {
        // Somebody else's attempt failed, perhaps for reasons of his own, and so did those below it.
        if (attempt > 0 && index > 0) await results[index - 1];
        const chainId = chain[index]!;
        const made = known(chainId);
        if (made !== undefined) return made;
        let flight = flights.get(chainId);
        const joined = flight !== undefined;
        if (flight === undefined) {
          const belowId = chain[index - 1];
          const below = belowId === undefined || known(belowId) ? undefined : flights.get(belowId);
          flight = launch(inputs[index]!, { chain, index, below }, slots);
          own.push(flight.done);
        }
        flight.waiters++;
        try {
          return await unlessAborted(flight.done, either);
        } catch (error) {
          if (!joined || either.aborted || attempt > 0) throw error;
        } finally {
          if (--flight.waiters === 0) flight.controller.abort(either.reason);
        }
      }
    };

    for (let index = 0; index < inputs.length; index++) {
      const result = obtain(index);
      result.catch(() => {});
      results.push(result);
    }
    try {
      return await Promise.all(results);
    } catch (error) {
      group.abort(error);
      // A caller that gave up gets its answer now; otherwise what was begun is cleared away first.
      if (!signal.aborted) await Promise.allSettled(own);
      throw error;
    }
  }

  return {
    ensure,
    takeUnleased(chains) {
      const taken = [...ready.values()].filter((layer) => !chains.has(layer.chainId));
      for (const layer of taken) ready.delete(layer.chainId);
      return taken;
    },
    recorded(layers) {
      for (const layer of layers) ready.delete(layer.chainId);
    },
    async settle() {
      await Promise.allSettled([...flights.values()].map((flight) => flight.done));
    },
  };
}

interface Place {
  readonly chain: readonly string[];
  readonly index: number;
  /** The layer below, if it is being made. */
  readonly below: Flight | undefined;
}

function named(digest: string, error: unknown): IsopodError {
  const known = IsopodError.is(error) ? error : undefined;
  return new IsopodError(known?.code ?? "INTERNAL", `layer ${digest}: ${messageOf(error)}`, {
    step: known?.step ?? "unpack",
    errno: known?.errno,
    path: known?.path ?? digest,
    cause: error,
  });
}
