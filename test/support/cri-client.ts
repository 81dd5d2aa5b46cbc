import * as grpc from "@grpc/grpc-js";
import { runtime } from "../../src/gen/cri";
import services from "../../src/gen/cri.services.json";

/**
 * A CRI client as kubelet is one: gRPC over the daemon's unix socket, 16 MiB messages, one method per unary
 * RPC of both services: `await cri.RunPodSandbox({ config })`. A failed call rejects with a ServiceError:
 * `code` is the number of `grpc.status`, `details` the text.
 */
type V1 = typeof runtime.v1;
type Message = { encode(message: never): unknown; decode(bytes: Uint8Array): unknown };
type NameOf<Key> = Key extends `${infer Name}Request` ? Name : never;
type MethodName = Exclude<
  { [Key in keyof V1]: `${NameOf<Key>}Response` extends keyof V1 ? NameOf<Key> : never }[keyof V1],
  `Stream${string}` | never
>;
type RequestOf<Name extends MethodName> = V1[`${Name}Request` & keyof V1] extends infer M extends Message
  ? Parameters<M["encode"]>[0]
  : never;
type ResponseOf<Name extends MethodName> = V1[`${Name}Response` & keyof V1] extends infer M extends Message
  ? ReturnType<M["decode"]>
  : never;

export interface CallOptions {
  /** Deadline of the call; none by default. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

export type CriClient = {
  readonly [Name in MethodName]: (
    request?: RequestOf<Name>,
    options?: CallOptions,
  ) => Promise<ResponseOf<Name>>;
} & {
  /** Sends bytes as they are, for malformed and future requests. */
  raw(method: string, bytes: Uint8Array): Promise<Buffer>;
  /** A server-streaming RPC, its messages collected. */
  stream(method: string, request: unknown): Promise<unknown[]>;
  close(): void;
};

const LIMIT = 16 * 1024 * 1024;

interface Shape {
  readonly path: string;
  readonly request: string;
  readonly response: string;
}

const shapes = new Map<string, Shape>();
for (const [service, methods] of Object.entries(services)) {
  for (const [name, shape] of Object.entries(methods)) {
    shapes.set(name, { path: `/${service}/${name}`, request: shape.request, response: shape.response });
  }
}

export function criClient(socket: string): CriClient {
  const client = new grpc.Client(`unix://${socket}`, grpc.credentials.createInsecure(), {
    "grpc.max_receive_message_length": LIMIT,
    "grpc.max_send_message_length": LIMIT,
    "grpc.default_authority": "localhost",
    // A daemon that is being restarted must be found again at once.
    "grpc.initial_reconnect_backoff_ms": 20,
    "grpc.min_reconnect_backoff_ms": 20,
    "grpc.max_reconnect_backoff_ms": 100,
  });
  const methods: Record<string, unknown> = {
    raw: (method: string, bytes: Uint8Array) => unary(client, shapeOf(method).path, Buffer.from(bytes), {}),
    stream: (method: string, request: unknown) => collect(client, shapeOf(method), request),
    close: () => client.close(),
  };
  for (const [name, shape] of shapes) {
    methods[name] = async (request: object = {}, options: CallOptions = {}) =>
      codecOf(shape.response).decode(await unary(client, shape.path, encode(shape, request), options));
  }
  return methods as unknown as CriClient;
}

function shapeOf(method: string): Shape {
  const shape = shapes.get(method);
  if (!shape) throw new Error(`no such method: ${method}`);
  return shape;
}

type Codec = { encode(message: unknown): { finish(): Uint8Array }; decode(bytes: Uint8Array): unknown };

const codecOf = (type: string): Codec =>
  (runtime.v1 as unknown as Record<string, Codec>)[type.slice("runtime.v1.".length)]!;

const encode = (shape: Shape, request: unknown): Buffer =>
  Buffer.from(codecOf(shape.request).encode(request).finish());

const same = (bytes: Buffer): Buffer => bytes;

function unary(client: grpc.Client, path: string, bytes: Buffer, options: CallOptions): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const deadline = options.timeoutMs === undefined ? {} : { deadline: Date.now() + options.timeoutMs };
    const call = client.makeUnaryRequest(path, same, same, bytes, deadline, (error, response) => {
      if (error) reject(error);
      else resolve(response!);
    });
    options.signal?.addEventListener("abort", () => call.cancel(), { once: true });
  });
}

function collect(client: grpc.Client, shape: Shape, request: unknown): Promise<unknown[]> {
  return new Promise((resolve, reject) => {
    const messages: unknown[] = [];
    const call = client.makeServerStreamRequest(shape.path, same, same, encode(shape, request));
    call.on("data", (bytes: Buffer) => messages.push(codecOf(shape.response).decode(bytes)));
    call.on("error", reject);
    call.on("end", () => resolve(messages));
  });
}
