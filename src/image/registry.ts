import { IsopodError } from "../base/errors";
import type { Descriptor } from "../oci/image-spec";
import { type Credentials, parseChallenges } from "./auth";
import { digestOf } from "./content-store";
import { failed, type HttpClient, type Response } from "./http";
import type { Document, ImageSource } from "./install";
import { acceptedManifests, isIndexType, isManifestType, MAX_DOCUMENT } from "./manifest";
import { TokenSource } from "./token";

/**
 * One repository of a registry, by the OCI distribution API:
 *
 *   HEAD, GET /v2/<repository>/manifests/<tag or digest>     GET /v2/<repository>/blobs/<digest>
 *
 * Authorization is found out by asking: the first 401 says how.
 */
export class Repository implements ImageSource {
  readonly #http: HttpClient;
  readonly #base: string;
  readonly #tokens: TokenSource;
  #authorization: Promise<string> | undefined;

  constructor(http: HttpClient, origin: string, repository: string, credentials: Credentials) {
    this.#http = http;
    this.#base = `${origin}/v2/${repository}`;
    this.#tokens = new TokenSource(http, origin, `repository:${repository}:pull`, credentials);
  }

  /**
   * The manifest or index behind a tag or digest. `stored` is asked for a digest that the registry names,
   * so that what is here already is not fetched again; the registry is asked in any case.
   */
  async manifest(
    target: string,
    stored: (digest: string) => Promise<Buffer | undefined>,
    signal: AbortSignal,
  ): Promise<Document> {
    const url = `${this.#base}/manifests/${target}`;
    const headers = { accept: acceptedManifests };
    const head = await this.#send("HEAD", url, headers, signal);
    await head.discard();
    // Not every registry answers HEAD, and 401 or 404 are told better by the body of a GET.
    const named = head.status === 200 ? head.header("docker-content-digest") : undefined;
    const known = named === undefined ? undefined : await stored(named);
    if (known !== undefined && named !== undefined) {
      return { mediaType: mediaTypeOf(head), digest: named, data: known };
    }
    const response = await this.#ok(await this.#send("GET", url, headers, signal));
    const data = await response.body(MAX_DOCUMENT);
    const digest = digestOf(data);
    const promised = target.startsWith("sha256:") ? target : response.header("docker-content-digest");
    if (promised?.startsWith("sha256:") && promised !== digest) {
      throw new IsopodError("DATA_LOSS", `GET ${url}: content has the digest ${digest}, not ${promised}`, {
        path: promised,
      });
    }
    return { mediaType: mediaTypeOf(response), digest, data };
  }

  async document(descriptor: Descriptor, signal: AbortSignal): Promise<Buffer> {
    // Manifests of an index live at another place than configs, which are blobs.
    const manifest = acceptedManifests.includes(descriptor.mediaType);
    const url = `${this.#base}/${manifest ? "manifests" : "blobs"}/${descriptor.digest}`;
    const headers: Record<string, string> = manifest ? { accept: acceptedManifests } : {};
    const response = await this.#ok(await this.#send("GET", url, headers, signal));
    return response.body(Math.min(descriptor.size + 1, MAX_DOCUMENT));
  }

  layer(descriptor: Descriptor): { chunks(signal: AbortSignal): AsyncIterable<Uint8Array> } {
    return { chunks: (signal) => this.#blob(descriptor, signal) };
  }

  /** Goes on from where a transfer broke off; gives up after so many attempts that brought nothing. */
  async *#blob({ digest, size }: Descriptor, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const url = `${this.#base}/blobs/${digest}`;
    const maxFruitless = 4;
    let offset = 0;
    for (let fruitless = 0; offset < size || size === 0; ) {
      const before = offset;
      let failure: unknown;
      try {
        for await (const chunk of await this.#from(url, offset, signal)) {
          offset += chunk.byteLength;
          yield chunk;
        }
        // A connection closed early ends as a whole one does where no length was announced.
        if (offset >= size) return;
        failure = new IsopodError("UNAVAILABLE", `GET ${url}: ended after ${offset} of ${size} bytes`);
      } catch (error) {
        if (signal.aborted || (IsopodError.is(error) && error.code !== "UNAVAILABLE")) throw error;
        failure = error;
      }
      fruitless = offset > before ? 1 : fruitless + 1;
      if (fruitless >= maxFruitless) throw failure;
      await this.#http.pause(fruitless, signal);
    }
  }

  async #from(url: string, offset: number, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>> {
    const headers: Record<string, string> = offset === 0 ? {} : { range: `bytes=${offset}-` };
    const response = await this.#ok(await this.#send("GET", url, headers, signal));
    if (offset === 0) return response.chunks();
    // A server may ignore the range; one that answers another range is not to be trusted.
    if (response.status === 200) return skip(response.chunks(), offset);
    const range = response.header("content-range") ?? "";
    if (response.status === 206 && range.startsWith(`bytes ${offset}-`)) return response.chunks();
    await response.discard();
    throw new IsopodError("DATA_LOSS", `GET ${url}: asked for bytes from ${offset}, got "${range}"`);
  }

  async #send(
    method: "GET" | "HEAD",
    url: string,
    headers: Record<string, string>,
    signal: AbortSignal,
  ): Promise<Response> {
    const used = this.#authorization;
    const authorized = async (): Promise<Record<string, string>> =>
      this.#authorization === undefined ? headers : { ...headers, authorization: await this.#authorization };
    const response = await this.#http.send(method, url, { headers: await authorized(), signal });
    if (response.status !== 401) return response;
    const challenges = parseChallenges(response.header("www-authenticate") ?? "");
    if (challenges.length === 0) return response;
    // Of many requests at a time one gets the token, also when it has expired. A second 401 is the answer.
    if (this.#authorization === used) this.#authorization = this.#tokens.header(challenges, signal);
    const header = await this.#authorization!.catch((error: unknown) => {
      this.#authorization = undefined;
      throw error;
    });
    if (header === "") return response;
    await response.discard();
    return this.#http.send(method, url, { headers: await authorized(), signal });
  }

  async #ok(response: Response): Promise<Response> {
    if (response.status >= 200 && response.status < 300) return response;
    throw await failed(response);
  }
}

/** Some servers call everything application/octet-stream: then the document itself tells. */
function mediaTypeOf(response: Response): string | undefined {
  const type = response.header("content-type")?.replace(/\s*;.*/s, "");
  return type !== undefined && (isIndexType(type) || isManifestType(type)) ? type : undefined;
}

async function* skip(chunks: AsyncIterable<Uint8Array>, bytes: number): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) {
    if (bytes >= chunk.byteLength) {
      bytes -= chunk.byteLength;
    } else {
      yield bytes > 0 ? chunk.subarray(bytes) : chunk;
      bytes = 0;
    }
  }
}
