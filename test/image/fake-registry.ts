import * as http from "node:http";
import type { AddressInfo } from "node:net";
import type { BuiltImage } from "../support/images";

/**
 * A server for what a well-behaved registry cannot be made to do: cut transfers, lie, redirect, stall. It
 * serves one image as `app`, and each test overrides what it needs.
 */
export interface FakeRegistry extends AsyncDisposable {
  readonly host: string;
  readonly reference: string;
  /** `METHOD path`, with the Authorization header if there was one. */
  readonly requests: { line: string; authorization: string | undefined; range: string | undefined }[];
}

/** Returns true if it has answered. */
export type Handler = (request: http.IncomingMessage, response: http.ServerResponse) => boolean;

export async function fakeRegistry(
  built: BuiltImage | undefined,
  handler: Handler = () => false,
): Promise<FakeRegistry> {
  const requests: FakeRegistry["requests"] = [];
  const blobs = built === undefined ? [] : [...built.layers, built.config, built.manifest];
  const server = http.createServer((request, response) => {
    const { authorization, range } = request.headers;
    requests.push({ line: `${request.method} ${request.url}`, authorization, range });
    if (handler(request, response)) return;
    const name = /\/(?:manifests|blobs)\/([^/?]+)/.exec(request.url ?? "")?.[1];
    const blob = blobs.find((one) => one.digest === name) ?? (name === "1" ? built?.manifest : undefined);
    if (blob === undefined) {
      response.writeHead(404).end(JSON.stringify({ errors: [{ code: "NAME_UNKNOWN" }] }));
      return;
    }
    sendBlob(request, response, blob);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    host,
    reference: `${host}/app:1`,
    requests,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

export function sendBlob(
  request: http.IncomingMessage,
  response: http.ServerResponse,
  blob: { mediaType: string; digest: string; data: Buffer },
): void {
  const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
  const data = blob.data.subarray(from);
  const headers = {
    "content-type": blob.mediaType,
    "docker-content-digest": blob.digest,
    "content-length": data.length,
    ...(from > 0 ? { "content-range": `bytes ${from}-${blob.data.length - 1}/${blob.data.length}` } : {}),
  };
  response.writeHead(from > 0 ? 206 : 200, headers);
  if (request.method === "HEAD") response.end();
  else response.end(data);
}
