import * as net from "node:net";
import { IsopodError, messageOf } from "../base/errors";
import { ttrpc } from "../gen/shim";
import { type Method, methodsOf } from "./codec";
import { encodeFrame, FLAG, type Frame, FrameParser, MAX_DATA, TYPE } from "./frame";
import { Inbox } from "./inbox";
import { statusOf } from "./status";

/** What a handler knows of its call besides the request. */
export interface Call {
  readonly service: string;
  readonly method: string;
  readonly metadata: ReadonlyMap<string, readonly string[]>;
  /** Aborted when the caller's deadline passes or its connection ends; the handler may go on regardless. */
  readonly signal: AbortSignal;
}

// Handlers are written against the generated types of their own method; the table cannot name them all.
// biome-ignore lint/suspicious/noExplicitAny: see above
export type UnaryHandler = (request: any, call: Call) => object | Promise<object>;
// biome-ignore lint/suspicious/noExplicitAny: see above
export type StreamHandler = (stream: ServerStream<any, any>, call: Call) => Promise<object | undefined>;

/** A streaming call: iterate to receive; `send` to answer. Client-streaming handlers return the response. */
export interface ServerStream<Request, Response> extends AsyncIterable<Request> {
  send(message: Response): void;
}

/** Method name → handler. Methods that are not listed are answered with UNIMPLEMENTED. */
export type Implementation = Readonly<Record<string, UnaryHandler | StreamHandler>>;

export interface ServerOptions {
  /** Full service name → implementation. */
  readonly services: Readonly<Record<string, Implementation>>;
  /** Called with the number of connections whenever it changes. */
  readonly onConnections?: (count: number) => void;
}

/** Calls in flight on one connection; more are refused with RESOURCE_EXHAUSTED. */
const MAX_CALLS = 16_384;
/** A client that does not read its answers is cut off at this many unsent bytes. */
const MAX_UNSENT = 32 << 20;

/**
 * Serves requests concurrently and answers in any order: a call that waits never delays another. What one
 * connection sends can end that connection only.
 */
export class Server {
  readonly #methods = new Map<string, ReadonlyMap<string, Bound>>();
  readonly #connections = new Set<Connection>();
  readonly #listener: net.Server;
  readonly #onConnections: (count: number) => void;

  constructor(options: ServerOptions) {
    this.#onConnections = options.onConnections ?? (() => {});
    for (const [service, implementation] of Object.entries(options.services)) {
      this.#methods.set(service, bind(service, implementation));
    }
    this.#listener = net.createServer((socket) => this.#accept(socket));
  }

  get connections(): number {
    return this.#connections.size;
  }

  /** Listens on a path, or on a bound and listening descriptor (taken). */
  listen(where: { path: string } | { fd: number }): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#listener.once("error", reject);
      this.#listener.listen(where, () => {
        this.#listener.off("error", reject);
        resolve();
      });
    });
  }

  /** Accepts no more, cuts all connections. Idempotent. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#listener.close(() => resolve()));
    for (const connection of this.#connections) connection.destroy();
    await closed;
  }

  #accept(socket: net.Socket): void {
    const connection = new Connection(socket, this.#methods, () => {
      this.#connections.delete(connection);
      this.#onConnections(this.#connections.size);
    });
    this.#connections.add(connection);
    this.#onConnections(this.#connections.size);
  }
}

interface Bound {
  readonly method: Method;
  readonly handler: UnaryHandler | StreamHandler;
}

function bind(service: string, implementation: Implementation): ReadonlyMap<string, Bound> {
  const methods = methodsOf(service);
  return new Map(
    Object.entries(implementation).map(([name, handler]) => {
      const method = methods.get(name);
      if (method === undefined) throw new IsopodError("INTERNAL", `service "${service}" has no "${name}"`);
      return [name, { method, handler }];
    }),
  );
}

const empty = Buffer.alloc(0);
const streaming = ({ method }: Bound): boolean => method.clientStream || method.serverStream;

class Connection {
  readonly #socket: net.Socket;
  readonly #services: ReadonlyMap<string, ReadonlyMap<string, Bound>>;
  readonly #calls = new Map<number, ActiveCall>();
  #lastId = 0;

  constructor(
    socket: net.Socket,
    services: ReadonlyMap<string, ReadonlyMap<string, Bound>>,
    closed: () => void,
  ) {
    this.#socket = socket;
    this.#services = services;
    const parser = new FrameParser({
      frame: (frame) => this.#frame(frame),
      oversize: ({ streamId, type, length }) => this.#oversize(streamId, type, length),
    });
    socket.on("data", (chunk: Buffer) => parser.push(chunk));
    socket.on("error", () => {}); // "close" follows, and a broken client is nobody else's concern
    socket.on("close", () => {
      for (const call of this.#calls.values()) call.end("connection closed");
      this.#calls.clear();
      closed();
    });
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #frame(frame: Frame): void {
    if (frame.type === TYPE.request) this.#request(frame);
    else if (frame.type === TYPE.data) this.#data(frame);
    // Others are ignored without a reply, as the reference implementation does.
  }

  #request({ streamId, flags, data }: Frame): void {
    const refusal = this.#refuseId(streamId);
    if (refusal !== undefined) {
      this.#fail(streamId, refusal);
      return;
    }
    this.#lastId = streamId;
    let request: ttrpc.Request;
    let bound: Bound;
    let message: object;
    try {
      request = decode("request", ttrpc.Request, data) as ttrpc.Request;
      bound = this.#lookup(request.service, request.method);
      message = bound.method.clientStream
        ? request
        : decode(`request of ${request.method}`, bound.method.request, request.payload);
    } catch (error) {
      this.#fail(streamId, error);
      return;
    }
    const call = new ActiveCall(request);
    this.#calls.set(streamId, call);
    if (streaming(bound)) void this.#stream(streamId, flags, bound, call, message);
    else void this.#unary(streamId, bound, call, message);
  }

  #refuseId(streamId: number): IsopodError | undefined {
    if (streamId % 2 === 0) {
      return new IsopodError("INVALID_ARGUMENT", `stream id ${streamId}: must be odd for client streams`);
    }
    if (streamId <= this.#lastId) {
      return new IsopodError(
        "INVALID_ARGUMENT",
        `stream id ${streamId}: must be greater than ${this.#lastId}, the last one`,
      );
    }
    if (this.#calls.size >= MAX_CALLS) {
      return new IsopodError("RESOURCE_EXHAUSTED", `connection: more than ${MAX_CALLS} calls in flight`);
    }
    return undefined;
  }

  #lookup(service: string, method: string): Bound {
    const methods = this.#services.get(service);
    if (methods === undefined) throw new IsopodError("UNIMPLEMENTED", `service ${service}`);
    const bound = methods.get(method);
    if (bound === undefined) throw new IsopodError("UNIMPLEMENTED", `method ${service}/${method}`);
    return bound;
  }

  async #unary(
    streamId: number,
    { method, handler }: Bound,
    call: ActiveCall,
    message: object,
  ): Promise<void> {
    try {
      const response = await (handler as UnaryHandler)(message, call);
      this.#respond(streamId, method.response.encode(response).finish());
    } catch (error) {
      this.#fail(streamId, error);
    } finally {
      this.#forget(streamId, call);
    }
  }

  async #stream(
    streamId: number,
    flags: number,
    { method, handler }: Bound,
    call: ActiveCall,
    message: object,
  ): Promise<void> {
    const inbox = new Inbox<object>();
    call.inbox = inbox;
    call.requestType = method.request;
    if (!method.clientStream) inbox.push(message);
    if ((flags & FLAG.remoteOpen) === 0) inbox.end();
    const stream: ServerStream<object, object> = {
      [Symbol.asyncIterator]: () => inbox[Symbol.asyncIterator](),
      send: (answer) => this.#write(streamId, TYPE.data, 0, method.response.encode(answer).finish()),
    };
    try {
      const response = await (handler as StreamHandler)(stream, call);
      if (method.serverStream) this.#write(streamId, TYPE.data, FLAG.remoteClosed | FLAG.noData, empty);
      else this.#respond(streamId, method.response.encode(response ?? {}).finish());
    } catch (error) {
      this.#fail(streamId, error);
    } finally {
      this.#forget(streamId, call);
    }
  }

  #data({ streamId, flags, data }: Frame): void {
    const call = this.#calls.get(streamId);
    const inbox = call?.inbox;
    if (call === undefined || inbox === undefined || inbox.ended) {
      const why = `stream id ${streamId}: data on a stream that is not open`;
      this.#fail(streamId, new IsopodError("INVALID_ARGUMENT", why));
      return;
    }
    try {
      if ((flags & FLAG.noData) === 0) inbox.push(decode("data", call.requestType!, data));
      if ((flags & FLAG.remoteClosed) !== 0) inbox.end();
    } catch (error) {
      inbox.fail(error);
    }
  }

  #oversize(streamId: number, type: number, length: number): void {
    const error = new IsopodError("RESOURCE_EXHAUSTED", `message of ${length} bytes: more than ${MAX_DATA}`);
    if (type === TYPE.request) {
      const refusal = this.#refuseId(streamId);
      if (refusal === undefined) this.#lastId = streamId;
      this.#fail(streamId, refusal ?? error);
    } else if (type === TYPE.data) {
      const inbox = this.#calls.get(streamId)?.inbox;
      if (inbox === undefined) this.#fail(streamId, error);
      else inbox.fail(error);
    }
  }

  #respond(streamId: number, payload: Uint8Array): void {
    const data = ttrpc.Response.encode({ payload }).finish();
    if (data.length > MAX_DATA) {
      throw new IsopodError("RESOURCE_EXHAUSTED", `response of ${data.length} bytes: more than ${MAX_DATA}`);
    }
    this.#write(streamId, TYPE.response, 0, data);
  }

  #fail(streamId: number, error: unknown): void {
    this.#write(streamId, TYPE.response, 0, ttrpc.Response.encode({ status: statusOf(error) }).finish());
  }

  #write(streamId: number, type: number, flags: number, data: Uint8Array): void {
    if (this.#socket.destroyed) return;
    this.#socket.write(encodeFrame(streamId, type, flags, data));
    if (this.#socket.writableLength > MAX_UNSENT) this.#socket.destroy();
  }

  #forget(streamId: number, call: ActiveCall): void {
    call.end("call finished");
    this.#calls.delete(streamId);
  }
}

function decode(what: string, type: { decode(bytes: Uint8Array): object }, bytes: Uint8Array): object {
  try {
    return type.decode(bytes);
  } catch (error) {
    throw new IsopodError("INVALID_ARGUMENT", `decoding ${what}: ${messageOf(error)}`, { cause: error });
  }
}

/** One call under way. Its abort signal costs a timer only when a deadline came and somebody looks. */
class ActiveCall implements Call {
  readonly service: string;
  readonly method: string;
  inbox: Inbox<object> | undefined;
  requestType: { decode(bytes: Uint8Array): object } | undefined;
  readonly #request: ttrpc.Request;
  readonly #expires: number;
  #abort: AbortController | undefined;
  #timer: NodeJS.Timeout | undefined;
  #ended: string | undefined;

  constructor(request: ttrpc.Request) {
    this.#request = request;
    this.service = request.service;
    this.method = request.method;
    const timeout = Number(request.timeoutNano);
    this.#expires = timeout > 0 ? Date.now() + timeout / 1e6 : 0;
  }

  get metadata(): ReadonlyMap<string, readonly string[]> {
    const found = new Map<string, string[]>();
    for (const { key, value } of this.#request.metadata) {
      const name = (key ?? "").toLowerCase();
      found.set(name, [...(found.get(name) ?? []), value ?? ""]);
    }
    return found;
  }

  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController();
      if (this.#ended !== undefined) this.#abort.abort(new IsopodError("CANCELLED", this.#ended));
      else if (this.#expires > 0) this.#arm(this.#abort);
    }
    return this.#abort.signal;
  }

  end(why: string): void {
    this.#ended ??= why;
    clearTimeout(this.#timer);
    this.inbox?.fail(new IsopodError("CANCELLED", why));
    if (why === "connection closed") this.#abort?.abort(new IsopodError("CANCELLED", why));
  }

  #arm(abort: AbortController): void {
    const passed = new IsopodError("DEADLINE_EXCEEDED", `${this.service}/${this.method}: deadline passed`);
    // setTimeout counts in 31 bits; a deadline beyond 24 days is none.
    const left = Math.max(0, this.#expires - Date.now());
    if (left < 2 ** 31) this.#timer = setTimeout(() => abort.abort(passed), left);
  }
}
