import { IsopodError, unsupported } from "../base/errors";
import { basicHeader, type Challenge, type Credentials } from "./auth";
import { failed, type HttpClient } from "./http";
import { MAX_DOCUMENT, object, parseJson } from "./manifest";

/** Answers a registry's challenges for one repository. */
export class TokenSource {
  readonly #http: HttpClient;
  readonly #origin: string;
  readonly #scope: string;
  readonly #credentials: Credentials;

  constructor(http: HttpClient, origin: string, scope: string, credentials: Credentials) {
    this.#http = http;
    this.#origin = origin;
    this.#scope = scope;
    this.#credentials = credentials;
  }

  /** The Authorization header; "" if there is nothing to answer with. */
  async header(challenges: readonly Challenge[], signal: AbortSignal): Promise<string> {
    const credentials = this.#credentials;
    if (credentials.kind === "bearer") return `Bearer ${credentials.token}`;
    const bearer = challenges.find((challenge) => challenge.scheme === "bearer");
    if (bearer !== undefined) return `Bearer ${await this.#token(bearer, signal)}`;
    const basic = challenges.some((challenge) => challenge.scheme === "basic");
    if (!basic) throw unsupported("www-authenticate", challenges[0]?.scheme);
    return credentials.kind === "password" ? basicHeader(credentials.username, credentials.password) : "";
  }

  async #token({ parameters }: Challenge, signal: AbortSignal): Promise<string> {
    const realm = this.#realm(parameters["realm"] ?? "");
    const credentials = this.#credentials;
    const query = new URLSearchParams();
    if (parameters["service"] !== undefined) query.set("service", parameters["service"]);
    query.set("scope", parameters["scope"] ?? this.#scope);
    const headers: Record<string, string> = {};
    let body: string | undefined;
    if (credentials.kind === "identity") {
      query.set("grant_type", "refresh_token");
      query.set("client_id", "isopod");
      query.set("refresh_token", credentials.token);
      headers["content-type"] = "application/x-www-form-urlencoded";
      body = query.toString();
    } else {
      for (const [name, value] of query) realm.searchParams.set(name, value);
      if (credentials.kind === "password") {
        headers["authorization"] = basicHeader(credentials.username, credentials.password);
      }
    }
    const method = body === undefined ? "GET" : "POST";
    const response = await this.#http.send(method, realm.href, { headers, body, signal });
    if (response.status !== 200) throw await failed(response);
    const answer = object("token", parseJson("token", await response.body(MAX_DOCUMENT)));
    const token = answer["token"] ?? answer["access_token"];
    // It becomes a header: no line breaks, no blanks.
    if (typeof token !== "string" || !/^[\x21-\x7e]+$/.test(token)) {
      throw new IsopodError("UNAUTHENTICATED", `${method} ${realm.origin}: the answer holds no token`);
    }
    return token;
  }

  /** Credentials for an https registry never travel in the clear. */
  #realm(text: string): URL {
    let realm: URL;
    try {
      realm = new URL(text);
    } catch {
      throw new IsopodError("UNAUTHENTICATED", `www-authenticate: realm "${text}" is not a URL`);
    }
    const clear = realm.protocol === "http:" && this.#origin.startsWith("http:");
    if (realm.protocol !== "https:" && !clear) {
      throw new IsopodError("UNAUTHENTICATED", `www-authenticate: realm "${text}": must be https`);
    }
    return realm;
  }
}
