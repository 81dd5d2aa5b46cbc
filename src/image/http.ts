import type { Agent, Dispatcher } from "undici";
import { type ErrorCode, errnoOf, IsopodError, messageOf } from "../base/errors";

/**
 * HTTP for registries: redirects by hand, so that an Authorization header never reaches another origin;
 * limits on what is read into memory; a connection on which nothing comes for five minutes is given up,
 * however long the whole takes.
 */
export interface Response {
  readonly method: string;
  readonly url: string;
  readonly status: number;
  header(name: string): string | undefined;
  /** All of it; more than `limit` bytes are an error. */
  body(limit: number): Promise<Buffer>;
  chunks(): AsyncIterable<Uint8Array>;
  discard(): Promise<void>;
}

export interface SendOptions {
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string | undefined;
  readonly signal: AbortSignal;
}

export interface HttpOptions {
  /** Without a byte. */
  readonly stallMs?: number;
  readonly connectMs?: number;
  /** Before the first repetition; doubles. */
  readonly pauseMs?: number;
}

const MAX_REDIRECTS = 10;
const MAX_ATTEMPTS = 3;
const unreachable = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ETIMEDOUT",
  "UND_ERR_CONNECT_TIMEOUT",
]);

export class HttpClient {
  readonly #agent: Agent;
  readonly #request: (url: string, options: RequestOptions) => Promise<Dispatcher.ResponseData<unknown>>;
  readonly #pauseMs: number;

  private constructor(undici: typeof import("undici"), options: HttpOptions) {
    const stall = options.stallMs ?? 5 * 60_000;
    this.#agent = new undici.Agent({
      connect: { timeout: options.connectMs ?? 30_000 },
      headersTimeout: stall,
      bodyTimeout: stall,
    });
    this.#request = (url, request) =>
      undici.request(url, { ...request, dispatcher: this.#agent } as Parameters<typeof undici.request>[1]);
    this.#pauseMs = options.pauseMs ?? 250;
  }

  /** Loads undici (67 ms, 19 MiB) at the first pull only. */
  static async open(options: HttpOptions = {}): Promise<HttpClient> {
    return new HttpClient(await import("undici"), options);
  }

  /** Any status is an answer; rejects if there is none. Server errors are tried again a few times. */
  async send(method: "GET" | "HEAD" | "POST", url: string, options: SendOptions): Promise<Response> {
    for (let attempt = 1; ; attempt++) {
      const response = await this.#follow(method, url, options);
      const transient = response.status === 429 || response.status >= 500;
      if (!transient || attempt >= MAX_ATTEMPTS) return response;
      await response.discard();
      await this.pause(attempt, options.signal);
    }
  }

  async pause(attempt: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    await new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, this.#pauseMs * 2 ** (attempt - 1));
      signal.addEventListener("abort", done);
    });
    signal.throwIfAborted();
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  async #follow(method: "GET" | "HEAD" | "POST", first: string, options: SendOptions): Promise<Response> {
    let url = new URL(first);
    let headers: Record<string, string> = {
      "user-agent": "isopod",
      // A layer's digest is that of the bytes as stored.
      "accept-encoding": "identity",
      ...options.headers,
    };
    for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
      const response = await this.#once(method, url.href, { ...options, headers });
      const location = response.header("location");
      if (![301, 302, 303, 307, 308].includes(response.status) || location === undefined) return response;
      await response.discard();
      const next = target(url, location);
      if (next.origin !== url.origin) {
        const { authorization: _, ...rest } = headers;
        headers = rest;
        // A body that is posted is a secret too.
        if (options.body !== undefined) throw refused(url, next, "would carry credentials to another host");
      }
      url = next;
    }
    throw new IsopodError("UNAVAILABLE", `${method} ${shown(first)}: more than ${MAX_REDIRECTS} redirects`);
  }

  async #once(method: "GET" | "HEAD" | "POST", url: string, options: SendOptions): Promise<Response> {
    const { headers, body, signal } = options;
    try {
      const request = { method, headers, signal, ...(body === undefined ? {} : { body }) };
      return answer(method, url, await this.#request(url, request), signal);
    } catch (error) {
      throw unanswered(method, url, error, signal);
    }
  }
}

interface RequestOptions {
  readonly method: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
  readonly body?: string;
}

function target(from: URL, location: string): URL {
  let next: URL;
  try {
    next = new URL(location, from);
  } catch {
    throw new IsopodError("UNAVAILABLE", `${shown(from.href)}: redirects to "${location}": not a URL`);
  }
  if (next.protocol !== "https:" && !(next.protocol === "http:" && from.protocol === "http:")) {
    throw refused(from, next, "must stay https");
  }
  next.username = next.password = "";
  return next;
}

const refused = (from: URL, to: URL, why: string): IsopodError =>
  new IsopodError("PERMISSION_DENIED", `redirect from ${from.origin} to ${to.origin}: ${why}`);

/** Without the query: signed URLs are credentials. */
const shown = (url: string): string => url.replace(/\?.*$/s, "");

function answer(
  method: string,
  url: string,
  { statusCode, headers, body }: Dispatcher.ResponseData<unknown>,
  signal: AbortSignal,
): Response {
  async function* chunks(): AsyncGenerator<Uint8Array> {
    try {
      for await (const chunk of body) yield chunk as Uint8Array;
    } catch (error) {
      throw unanswered(method, url, error, signal);
    }
  }
  return {
    method,
    url,
    status: statusCode,
    header(name) {
      const value = headers[name];
      return Array.isArray(value) ? value.join(", ") : value;
    },
    async body(limit) {
      const parts: Uint8Array[] = [];
      let size = 0;
      for await (const chunk of chunks()) {
        size += chunk.byteLength;
        if (size > limit) {
          body.destroy();
          throw new IsopodError("INVALID_ARGUMENT", `${method} ${shown(url)}: more than ${limit} bytes`);
        }
        parts.push(chunk);
      }
      return Buffer.concat(parts);
    },
    chunks,
    discard: () => body.dump({ limit: 64 * 1024 }).catch(() => {}),
  };
}

/**
 * No answer, or one that broke off. "RegistryUnavailable" at the start of an error of code UNKNOWN is what a
 * kubelet knows as its own kind of failure.
 */
function unanswered(method: string, url: string, error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted) return signal.reason;
  if (IsopodError.is(error)) return error;
  const errno = errnoOf(error);
  const text = `${method} ${shown(url)}: ${reason(error, errno)}`;
  const details = { step: "request", errno: errno || undefined, path: shown(url), cause: error };
  if (unreachable.has(errno)) return new IsopodError("UNKNOWN", `RegistryUnavailable: ${text}`, details);
  return new IsopodError("UNAVAILABLE", text, details);
}

function reason(error: unknown, errno: string): string {
  if (errno === "ECONNREFUSED") return "connection refused";
  if (errno === "UND_ERR_BODY_TIMEOUT" || errno === "UND_ERR_HEADERS_TIMEOUT") return "no data came, stalled";
  return messageOf(error) || errno;
}

const codes: Readonly<Record<number, ErrorCode>> = {
  401: "UNAUTHENTICATED",
  403: "PERMISSION_DENIED",
  404: "NOT_FOUND",
  429: "RESOURCE_EXHAUSTED",
};

const phrases: Readonly<Record<number, string>> = {
  400: "bad request",
  401: "unauthorized",
  403: "forbidden",
  404: "not found",
  429: "too many requests",
};

/** An error from an answer that is not what was asked for, with what the registry itself says about it. */
export async function failed(response: Response): Promise<IsopodError> {
  const { method, url, status } = response;
  const said = await response
    .body(64 * 1024)
    .then(registryErrors)
    .catch(() => "");
  const phrase = phrases[status] === undefined ? `${status}` : `${status} ${phrases[status]}`;
  const text = `${method} ${shown(url)}: ${phrase}${said === "" ? "" : `: ${said}`}`;
  const code = codes[status] ?? (status >= 500 ? "UNAVAILABLE" : "UNKNOWN");
  return new IsopodError(code, text, { step: "request", path: shown(url) });
}

/** {"errors":[{"code","message"}]}; else the text itself, if it is short. */
function registryErrors(body: Buffer): string {
  const text = body.toString("utf8");
  try {
    const { errors } = JSON.parse(text) as { errors?: { code?: string; message?: string }[] };
    if (Array.isArray(errors)) {
      return errors
        .map(({ code, message }) => [code, message].filter(Boolean).join(": "))
        .join(", ")
        .slice(0, 1000);
    }
  } catch {
    // not JSON
  }
  return text.length < 200 && !text.includes("<") ? text.trim() : "";
}
