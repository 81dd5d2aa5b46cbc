import { IsopodError } from "../base/errors";
import type { RegistryAuth } from "./types";

/**
 * Registry authentication (distribution-spec and Docker's token specification). A request that needs it is
 * answered 401 with `WWW-Authenticate`: Basic wants the credentials themselves, Bearer a token from the
 * server that `realm` names, by GET with Basic, or for an identity token by POST as OAuth 2 refresh.
 */
export interface Challenge {
  /** Lower case. */
  readonly scheme: string;
  readonly parameters: Readonly<Record<string, string>>;
}

/** What a kubelet's AuthConfig comes down to for one host. Never logged. */
export type Credentials =
  | { readonly kind: "none" }
  | { readonly kind: "password"; readonly username: string; readonly password: string }
  | { readonly kind: "identity"; readonly token: string }
  | { readonly kind: "bearer"; readonly token: string };

/** RFC 9110 §11.6.1: a list of challenges, each a scheme and a list of parameters; commas divide both. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: { scheme: string; parameters: Record<string, string> }[] = [];
  const token = /[!#$%&'*+.^_`|~0-9A-Za-z-]+/y;
  const value = /\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([!#$%&'*+.^_`|~0-9A-Za-z:/?-]+))/y;
  for (let at = 0; at < header.length; ) {
    token.lastIndex = at;
    const name = token.exec(header)?.[0];
    if (name === undefined) {
      at++; // blanks and commas
      continue;
    }
    value.lastIndex = at + name.length;
    const given = value.exec(header);
    const current = challenges.at(-1);
    if (given !== null && current !== undefined) {
      current.parameters[name.toLowerCase()] = given[1]?.replace(/\\(.)/g, "$1") ?? given[2] ?? "";
      at = value.lastIndex;
    } else {
      challenges.push({
        scheme: name.toLowerCase(),
        parameters: Object.create(null) as Record<string, string>,
      });
      at += name.length;
    }
  }
  return challenges;
}

/** Credentials that name another server are ignored, as containerd does: kubelet tries several. */
export function credentialsFor(host: string, auth: RegistryAuth | undefined): Credentials {
  if (auth === undefined) return { kind: "none" };
  if (auth.serverAddress && !sameServer(host, auth.serverAddress)) return { kind: "none" };
  if (auth.username) return { kind: "password", username: auth.username, password: auth.password ?? "" };
  if (auth.auth) return fromBase64(auth.auth);
  if (auth.identityToken) return { kind: "identity", token: auth.identityToken };
  if (auth.registryToken) return { kind: "bearer", token: auth.registryToken };
  return { kind: "none" };
}

function fromBase64(text: string): Credentials {
  const decoded = Buffer.from(text, "base64").toString("utf8").replace(/\0+$/, "");
  const colon = decoded.indexOf(":");
  if (colon <= 0) {
    // The value is a secret: it is not shown.
    throw new IsopodError("INVALID_ARGUMENT", "auth.auth: must be base64 of user:password", {
      path: "auth.auth",
    });
  }
  return { kind: "password", username: decoded.slice(0, colon), password: decoded.slice(colon + 1) };
}

const dockerHub = new Set(["docker.io", "index.docker.io", "registry-1.docker.io"]);

function sameServer(host: string, address: string): boolean {
  const name = address
    .replace(/^https?:\/\//i, "")
    .replace(/\/.*$/s, "")
    .toLowerCase();
  return name === host.toLowerCase() || (dockerHub.has(name) && dockerHub.has(host));
}

export const basicHeader = (username: string, password: string): string =>
  `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
