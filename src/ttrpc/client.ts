import * as net from "node:net";
import type { Duplex } from "node:stream";
import { errnoOf, IsopodError, messageOf } from "../base/errors";
import { ttrpc } from "../gen/shim";
import { type Method, methodsOf, type Protocol } from "./codec";
import { encodeFrame, FLAG, type Frame, FrameParser, MAX_DATA, TYPE } from "./frame";
import { Inbox } from "./inbox";
import { errorOf, type ReceivedStatus } from "./status";

/** Request and response types of a service's methods, for `Client.service`. */
export type Api = Record<string, { request: object; response: object }>;

export interface CallOptions {
  /** Sent along, and enforced here: DEADLINE_EXCEEDED. Absent or 0: none. */
  readonly timeoutMs?: number;
  readonly metadata?: Readonly<Record<string, string>>;
}

export interface ClientStream<Request, Response> extends AsyncIterable<Response> {
  send(message: Request): void;
  /** No more will be sent. */
  end(): void;
}

export type ServiceClient<A extends Api> = {
  call<M extends keyof A & string>(
    method: M,
    request: A[M]["request"],
    options?: CallOptions,
  ): Promise<A[M]["response"]>;
  stream<M extends keyof A & string>(
    method: M,
    options?: CallOptions & { first?: A[M]["request"] },
  ): ClientStream<A[M]["request"], A[M]["response"]>;
};

export interface ClientOptions {
  /** What is spoken; by default that of shims. */
  readonly protocol?: Protocol;
  /** Makes an error of a status, for a service that says more in its details. */
  readonly errorOf?: (status: ReceivedStatus) => IsopodError;
}

const CONNECT_MS = 10_000;

/**
 * Connects to a unix socket: a path, `unix://…`, or a name without a slash in the abstract namespace.
 * Rejects with UNAVAILABLE.
 */
export function connect(address: string, options: { timeoutMs?: number } = {}): Promise<Client> {
  const path = socketPath(address);
  return new Promise((resolve, reject) => {
    const socket = net.connect({ path });
    const fail = (why: string, cause?: unknown): void => {
      socket.destroy();
      const details = { errno: errnoOf(cause), path, cause };
      reject(new IsopodError("UNAVAILABLE", `connecting to ${path}: ${why}`, details));
    };
    const timer = setTimeout(() => fail("no answer"), options.timeoutMs ?? CONNECT_MS);
    const failed = (error: Error): void => {
      clearTimeout(timer);
      fail(messageOf(error), error);
    };
    socket.once("error", failed);
    socket.once("connect", () => {
      clearTimeout(timer);
      socket.off("error", failed);
      resolve(new Client(socket));
    });
  });
}

function socketPath(address: string): string {
  const match = /^(?:unix|ttrpc\+unix):\/\/(.*)$/.exec(address);
  const path = match?.[1] ?? address;
  if (match === null && address.includes("://")) {
    throw new IsopodError("INVALID_ARGUMENT", `address "${address}": only unix sockets are supported`);
  }
  return path.startsWith("/") ? path : `\0${path}`;
}

interface Pending {
  readonly method: Method;
  settle(error: IsopodError | undefined, response?: object): void;
  readonly inbox?: Inbox<object>;
}

/** One connection: any number of calls at once, each answered when its answer comes. */
export class Client {
  /** Resolves when the connection has ended, for whatever reason. */
  readonly closed: Promise<void>;
  readonly #socket: Duplex;
  readonly #options: ClientOptions;
  readonly #pending = new Map<number, Pending>();
  readonly #methods = new Map<string, ReadonlyMap<string, Method>>();
  #nextId = 1;

  /** Takes the stream: it is destroyed by `close`. */
  constructor(socket: Duplex, options: ClientOptions = {}) {
    this.#socket = socket;
    this.#options = options;
    const parser = new FrameParser({
      frame: (frame) => this.#frame(frame),
      oversize: ({ streamId, length }) =>
        this.#finish(streamId, new IsopodError("RESOURCE_EXHAUSTED", `answer of ${length} bytes: too large`)),
    });
    socket.on("data", (chunk: Buffer) => parser.push(chunk));
    socket.on("error", () => {});
    this.closed = new Promise((resolve) => {
      socket.once("close", () => {
        for (const streamId of [...this.#pending.keys()]) this.#finish(streamId, lost());
        resolve();
      });
    });
  }

  get connected(): boolean {
    return !this.#socket.destroyed;
  }

  /** Lets the process end although the connection is open. */
  unref(): void {
    if (this.#socket instanceof net.Socket) this.#socket.unref();
  }

  /** Ends the connection; calls in flight fail with UNAVAILABLE. Idempotent. */
  close(): void {
    this.#socket.destroy();
  }

  service<A extends Api>(name: string): ServiceClient<A> {
    return {
      call: (method, request, options) => this.call(name, method, request, options),
      stream: (method, options) => this.stream(name, method, options),
    };
  }

  call(service: string, method: string, request: object, options: CallOptions = {}): Promise<object> {
    return new Promise((resolve, reject) => {
      const described = this.#describe(service, method);
      const payload = described.request.encode(request).finish();
      let timer: NodeJS.Timeout | undefined;
      const streamId = this.#open(service, method, payload, 0, options, {
        method: described,
        settle: (error, response) => {
          clearTimeout(timer);
          if (error !== undefined) reject(error);
          else resolve(response ?? {});
        },
      });
      if (options.timeoutMs) timer = this.#expire(streamId, options.timeoutMs, `${service}/${method}`);
    });
  }

  /** A streaming call. For a method that only the server streams, `first` is its request. */
  stream(
    service: string,
    method: string,
    options: CallOptions & { first?: object } = {},
  ): ClientStream<never, never> {
    const described = this.#describe(service, method);
    const inbox = new Inbox<object>();
    const pending: Pending = {
      method: described,
      inbox,
      settle: (error, response) => {
        if (error !== undefined) inbox.fail(error);
        if (response !== undefined) inbox.push(response);
        inbox.end();
      },
    };
    const first = options.first === undefined ? empty : described.request.encode(options.first).finish();
    const flags = described.clientStream ? FLAG.remoteOpen : FLAG.remoteClosed;
    const streamId = this.#open(service, method, first, flags, options, pending);
    return {
      [Symbol.asyncIterator]: () => inbox[Symbol.asyncIterator]() as AsyncIterator<never>,
      send: (message) => this.#write(streamId, TYPE.data, 0, described.request.encode(message).finish()),
      end: () => this.#write(streamId, TYPE.data, FLAG.remoteClosed | FLAG.noData, empty),
    };
  }

  /** The id is taken and its frame written in one step: servers demand increasing ids. */
  #open(
    service: string,
    method: string,
    payload: Uint8Array,
    flags: number,
    options: CallOptions,
    pending: Pending,
  ): number {
    if (!this.connected) throw lost();
    const streamId = this.#nextId;
    const data = ttrpc.Request.encode({
      service,
      method,
      payload,
      // Nanoseconds of a deadline below 104 days are exact; protobufjs takes numbers for int64.
      timeoutNano: Math.round((options.timeoutMs ?? 0) * 1e6) as never,
      metadata: Object.entries(options.metadata ?? {}).map(([key, value]) => ({ key, value })),
    }).finish();
    if (data.length > MAX_DATA) {
      throw new IsopodError("RESOURCE_EXHAUSTED", `request of ${data.length} bytes: more than ${MAX_DATA}`);
    }
    this.#nextId += 2;
    this.#pending.set(streamId, pending);
    this.#write(streamId, TYPE.request, flags, data);
    return streamId;
  }

  #describe(service: string, method: string): Method {
    let methods = this.#methods.get(service);
    if (methods === undefined) {
      methods = methodsOf(service, this.#options.protocol);
      this.#methods.set(service, methods);
    }
    const found = methods.get(method);
    if (found === undefined) throw new IsopodError("UNIMPLEMENTED", `method ${service}/${method}`);
    return found;
  }

  #expire(streamId: number, ms: number, what: string): NodeJS.Timeout {
    // The stream is forgotten; a late answer finds no pending call and is dropped.
    return setTimeout(
      () => this.#finish(streamId, new IsopodError("DEADLINE_EXCEEDED", `${what}: no answer after ${ms} ms`)),
      ms,
    );
  }

  #frame({ streamId, type, flags, data }: Frame): void {
    const pending = this.#pending.get(streamId);
    if (pending === undefined) return;
    try {
      if (type === TYPE.response) this.#response(streamId, pending, data);
      else if (type === TYPE.data) this.#data(streamId, pending, flags, data);
    } catch (error) {
      const why = `decoding the answer of ${pending.method.name}: ${messageOf(error)}`;
      this.#finish(streamId, new IsopodError("INTERNAL", why, { cause: error }));
    }
  }

  #response(streamId: number, pending: Pending, data: Buffer): void {
    const { status, payload } = ttrpc.Response.decode(data);
    if (status?.code) this.#finish(streamId, (this.#options.errorOf ?? errorOf)(status));
    else this.#finish(streamId, undefined, pending.method.response.decode(payload));
  }

  #data(streamId: number, pending: Pending, flags: number, data: Buffer): void {
    if ((flags & FLAG.noData) === 0) pending.inbox?.push(pending.method.response.decode(data));
    if ((flags & FLAG.remoteClosed) !== 0) this.#finish(streamId, undefined);
  }

  #finish(streamId: number, error: IsopodError | undefined, response?: object): void {
    const pending = this.#pending.get(streamId);
    this.#pending.delete(streamId);
    pending?.settle(error, response);
  }

  #write(streamId: number, type: number, flags: number, data: Uint8Array): void {
    if (!this.connected) return;
    // What is called in one turn goes in one piece, and is begun by the server in one turn.
    if (this.#socket.writableCorked === 0) {
      this.#socket.cork();
      process.nextTick(() => this.#socket.uncork());
    }
    this.#socket.write(encodeFrame(streamId, type, flags, data));
  }
}

const empty = Buffer.alloc(0);
const lost = (): IsopodError => new IsopodError("UNAVAILABLE", "ttrpc: connection closed");
