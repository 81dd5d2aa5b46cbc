import { IsopodError, messageOf } from "../base/errors";
import { credentialsFor } from "./auth";
import { defaultHosts } from "./hosts";
import { HttpClient, type HttpOptions } from "./http";
import { install } from "./install";
import type { ImageRecord } from "./records";
import { formatReference, parseReference, type Reference, repoTag } from "./reference";
import { Repository } from "./registry";
import type { Store } from "./store";
import type { PullOptions } from "./types";
import { unlessAborted } from "./waiting";

/**
 * Pulls one image. The registry is asked in any case: whether to pull at all is the caller's policy. A
 * caller that gives up gets its answer at once; what it had begun is cleared away behind it.
 */
export async function pullImage(
  store: Store,
  options: PullOptions,
  httpOptions: HttpOptions,
): Promise<ImageRecord> {
  const reference = parseReference(options.reference);
  const own = options.signal;
  const signal = own === undefined ? store.closing : AbortSignal.any([own, store.closing]);
  try {
    signal.throwIfAborted();
    return await unlessAborted(store.track(work(store, reference, options, signal, httpOptions)), signal);
  } catch (error) {
    throw worded(reference, signal.aborted ? signal.reason : error);
  }
}

async function work(
  store: Store,
  reference: Reference,
  options: PullOptions,
  signal: AbortSignal,
  httpOptions: HttpOptions,
): Promise<ImageRecord> {
  const credentials = credentialsFor(reference.host, options.auth);
  const http = await HttpClient.open(httpOptions);
  try {
    // One host for now: mirrors come with hosts.toml.
    const { origin } = defaultHosts(reference.host)[0]!;
    const repository = new Repository(http, origin, reference.repository, credentials);
    const { content } = store;
    const stored = async (digest: string) => (content.has(digest) ? content.read(digest) : undefined);
    const document = await repository.manifest(reference.digest ?? reference.tag!, stored, signal);
    const tag = repoTag(reference);
    return await install(store, {
      source: repository,
      document,
      tags: tag === undefined ? [] : [tag],
      repoDigests: [`${reference.name}@${document.digest}`],
      signal,
    });
  } finally {
    await http.close();
  }
}

/** The word that a kubelet looks for stays in front. */
function worded(reference: Reference, error: unknown): unknown {
  const known = IsopodError.is(error) ? error : undefined;
  const timedOut = (error as { name?: string } | undefined)?.name === "TimeoutError";
  const aborted = (error as { name?: string } | undefined)?.name === "AbortError";
  const code = known?.code ?? (timedOut ? "DEADLINE_EXCEEDED" : aborted ? "CANCELLED" : "UNKNOWN");
  const [, sentinel = "", text] = /^(RegistryUnavailable: )?(.*)$/s.exec(messageOf(error))!;
  return new IsopodError(code, `${sentinel}pull image "${formatReference(reference)}": ${text}`, {
    step: known?.step ?? "pull image",
    errno: known?.errno,
    path: formatReference(reference),
    cause: error,
    cleanupErrors: known?.cleanupErrors,
  });
}
