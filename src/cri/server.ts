import * as grpc from "@grpc/grpc-js";
import { IsopodError, messageOf } from "../base/errors";
import type { Log } from "../base/log";
import { runtime } from "../gen/cri";
import services from "../gen/cri.services.json";
import { decodeRunPod } from "./convert/raw";
import { failureOf } from "./status";

/**
 * gRPC around plain functions. A handler takes the decoded request and returns (a promise of) the response;
 * everything else is here: framing limits, decoding, readiness, error mapping, the log line of each call.
 *
 * A caller's deadline ends the caller's wait and not the handler: half a RunPodSandbox is worth nothing, and
 * kubelet asks for the same pod again. `call.signal` is for the few that should stop (a pull).
 */
export interface Call {
  readonly method: string;
  /** Aborted when the client cancelled or its deadline passed; the reason is an IsopodError that says which. */
  readonly signal: AbortSignal;
}

export type Handler<Request, Response> = (request: Request, call: Call) => Promise<Response> | Response;

// biome-ignore lint/suspicious/noExplicitAny: each service's own type says what each method takes and gives.
export type Handlers = Readonly<Record<string, Handler<any, unknown>>>;

/** Both of kubelet's and crictl's limits; a list of some 10,000 containers. */
export const MAX_MESSAGE = 16 * 1024 * 1024;

export interface ServerOptions {
  /** Methods by service, `runtime.v1.RuntimeService`; what a service lacks answers UNIMPLEMENTED. */
  readonly services: Readonly<Record<string, Handlers>>;
  /** Why nothing can be answered yet (or any more); undefined once it can. */
  readonly unavailable: () => string | undefined;
  readonly log: Log;
}

type Codec = {
  encode(message: unknown): { finish(): Uint8Array };
  decode(bytes: Uint8Array): unknown;
};

interface MethodShape {
  readonly request: string;
  readonly response: string;
  readonly serverStream: boolean;
}

/** A request that cannot be decoded is the client's error and must reach the handler as such. */
class Malformed {
  readonly cause: unknown;
  constructor(cause: unknown) {
    this.cause = cause;
  }
}

export function makeServer(options: ServerOptions): grpc.Server {
  const server = new grpc.Server({
    "grpc.max_receive_message_length": MAX_MESSAGE,
    "grpc.max_send_message_length": MAX_MESSAGE,
    "grpc.enable_channelz": 0,
  });
  for (const [service, methods] of Object.entries(services)) {
    const handlers = options.services[service] ?? {};
    for (const [name, shape] of Object.entries(methods as Record<string, MethodShape>)) {
      const handler = handlers[name] ?? notBuilt(name);
      server.register(
        `/${service}/${name}`,
        shape.serverStream ? refuseStream(name) : unary(name, handler, options),
        encoder(shape),
        decoder(name, shape),
        shape.serverStream ? "serverStream" : "unary",
      );
    }
  }
  return server;
}

const codecOf = (type: string): Codec =>
  (runtime.v1 as unknown as Record<string, Codec>)[type.slice("runtime.v1.".length)]!;

const encoder = (shape: MethodShape) => (message: unknown) =>
  codecOf(shape.response).encode(message).finish() as Buffer;

function decoder(name: string, shape: MethodShape): (bytes: Buffer) => unknown {
  const codec = codecOf(shape.request);
  const decode = name === "RunPodSandbox" ? decodeRunPod : (bytes: Buffer) => codec.decode(bytes);
  return (bytes) => {
    try {
      return decode(bytes);
    } catch (error) {
      return new Malformed(error);
    }
  };
}

const unimplemented = (name: string): IsopodError =>
  new IsopodError("UNIMPLEMENTED", `${name}: not supported yet`);

const notBuilt = (name: string) => (): never => {
  throw unimplemented(name);
};

const refuseStream = (name: string): grpc.handleServerStreamingCall<unknown, unknown> => {
  return (call) => {
    call.emit("error", failureOf(unimplemented(name)));
  };
};

function unary(
  method: string,
  handler: Handler<unknown, unknown>,
  { unavailable, log }: ServerOptions,
): grpc.handleUnaryCall<unknown, unknown> {
  const level = levelOf(method);
  return async (call, reply) => {
    const began = performance.now();
    const ms = () => Math.round((performance.now() - began) * 100) / 100;
    try {
      const reason = unavailable();
      if (reason !== undefined) throw new IsopodError("UNAVAILABLE", reason);
      if (call.request instanceof Malformed) throw malformed(method, call.request.cause);
      const response = await handler(call.request, { method, signal: signalOf(call) });
      log[level](method, { op: method, ms: ms() });
      reply(null, response);
    } catch (error) {
      const failure = failureOf(error);
      const { code, details } = failure;
      const stack = IsopodError.is(error) ? undefined : (error as Error).stack;
      const cleanup = IsopodError.is(error) ? error.cleanupErrors?.map(messageOf) : undefined;
      // Whoever starts with us asks again and again until we are ready.
      const severity = code === grpc.status.UNAVAILABLE ? "debug" : "warn";
      log[severity](details, { op: method, ms: ms(), code: grpc.status[code], stack, cleanup });
      reply(failure);
    }
  };
}

const malformed = (method: string, cause: unknown): IsopodError =>
  new IsopodError("INVALID_ARGUMENT", `decoding ${method}: request: ${messageOf(cause)}`, { cause });

/** What kubelet asks every second is of interest only when looking for something. */
const levelOf = (method: string): "debug" | "info" =>
  /^(Version|Status|RuntimeConfig|ExecSync|ImageFsInfo|List.*|.*Status|.*Stats)$/.test(method)
    ? "debug"
    : "info";

function signalOf(call: grpc.ServerUnaryCall<unknown, unknown>): AbortSignal {
  const controller = new AbortController();
  call.on("cancelled", () => {
    const late = Number(call.getDeadline()) <= Date.now();
    controller.abort(
      late
        ? new IsopodError("DEADLINE_EXCEEDED", "the caller's deadline has passed")
        : new IsopodError("CANCELLED", "the caller has gone"),
    );
  });
  return controller.signal;
}
