import { type ChildProcess, spawn } from "node:child_process";
import * as crypto from "node:crypto";
import * as fs from "node:fs";
import * as http from "node:http";
import type { AddressInfo } from "node:net";
import * as os from "node:os";
import * as path from "node:path";
import { cleanEnv, command } from "./command";
import type { Host } from "./host";
import { present } from "./needs";
import { peers } from "./peers";

/** A running docker-registry on a port of its own, its storage in a temporary folder. */
export interface Registry extends AsyncDisposable {
  /** `127.0.0.1:PORT`, as it stands in image references; speaks plain http. */
  readonly host: string;
  /** What it stores; `docker/registry/v2/…` below. */
  readonly storage: string;
  /** Its log so far. */
  log(): string;
  /** Ends it and removes its storage; idempotent. */
  stop(): Promise<void>;
}

export interface RegistryOptions {
  /** Ask for the credentials below: directly, or for a bearer token from a token server that asks for them. */
  readonly auth?: "basic" | "bearer";
  /** With "bearer": also give tokens to callers without credentials, for pulls. */
  readonly anonymousPull?: boolean;
  /** On whose loopback it listens; default: the caller's. Its token server is the caller's in any case. */
  readonly host?: Host;
}

/** What a registry with `auth` accepts. The colon is part of the password. */
export const credentials = { username: "user", password: "secret:word" };
// bcrypt of the password, as crypt(3) makes it.
const htpasswd = "user:$2y$05$isopodisopodisopodisoukh08f9uDO75cG8NKEpvuCblvc0cDohO\n";

export async function startRegistry(options: RegistryOptions = {}): Promise<Registry> {
  const { registry } = present(peers.registry());
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-registry-"));
  const tokens = options.auth === "bearer" ? await startTokenServer(dir, options) : undefined;
  let child: ChildProcess | undefined;
  let log = "";
  const stop = async () => {
    if (child !== undefined && child.exitCode === null && child.signalCode === null) {
      const ended = new Promise((resolve) => child!.on("exit", resolve));
      child.kill("SIGKILL");
      await ended;
    }
    tokens?.server.close();
    tokens?.server.closeAllConnections();
    fs.rmSync(dir, { recursive: true, force: true });
  };
  try {
    fs.writeFileSync(path.join(dir, "config.json"), JSON.stringify(config(dir, options, tokens)));
    if (options.auth === "basic") fs.writeFileSync(path.join(dir, "htpasswd"), htpasswd);
    const serve = [...(options.host?.enter ?? []), registry, "serve", path.join(dir, "config.json")];
    child = spawn(serve[0]!, serve.slice(1), {
      env: cleanEnv(),
      stdio: ["ignore", "pipe", "pipe"],
    });
    const host = await listening(child, (text) => {
      log += text;
    });
    return { host, storage: path.join(dir, "storage"), log: () => log, stop, [Symbol.asyncDispose]: stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** JSON is YAML. */
function config(dir: string, options: RegistryOptions, tokens: TokenServer | undefined): object {
  const auth = {
    basic: { htpasswd: { realm: "isopod test", path: path.join(dir, "htpasswd") } },
    bearer: {
      token: {
        realm: tokens?.realm,
        service: "isopod-registry",
        issuer: "isopod-test",
        rootcertbundle: tokens?.cert,
      },
    },
  };
  return {
    version: "0.1",
    log: { level: "info" },
    storage: { filesystem: { rootdirectory: path.join(dir, "storage") }, delete: { enabled: true } },
    http: { addr: "127.0.0.1:0", secret: "isopod-test" },
    ...(options.auth === undefined ? {} : { auth: auth[options.auth] }),
  };
}

/** Resolves with the address that the registry logs once it listens. */
function listening(child: ChildProcess, onLog: (text: string) => void): Promise<string> {
  return new Promise((resolve, reject) => {
    let seen = "";
    const read = (chunk: Buffer) => {
      onLog(chunk.toString());
      seen += chunk.toString();
      const address = /listening on (127\.0\.0\.1:\d+)/.exec(seen);
      if (address?.[1] !== undefined) resolve(address[1]);
    };
    child.stdout!.on("data", read);
    child.stderr!.on("data", read);
    child.on("error", reject);
    child.on("exit", (code) => reject(new Error(`docker-registry ended with ${code}:\n${seen}`)));
  });
}

interface TokenServer {
  readonly server: http.Server;
  readonly realm: string;
  readonly cert: string;
}

/**
 * The authorisation service of the registry's token protocol: GET realm?service=…&scope=repository:NAME:pull
 * with basic credentials answers {"token": JWT}, signed by a key whose certificate the registry trusts (x5c).
 */
async function startTokenServer(dir: string, options: RegistryOptions): Promise<TokenServer> {
  const key = path.join(dir, "token.key");
  const cert = path.join(dir, "token.crt");
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  const subject = ["-days", "2", "-subj", "/CN=isopod-test"];
  await command("openssl", ["req", "-x509", ...curve, ...subject, "-keyout", key, "-out", cert]);
  const privateKey = crypto.createPrivateKey(fs.readFileSync(key));
  const der = new crypto.X509Certificate(fs.readFileSync(cert)).raw.toString("base64");
  const basic = Buffer.from(`${credentials.username}:${credentials.password}`).toString("base64");

  const server = http.createServer((request, response) => {
    const url = new URL(request.url ?? "/", "http://localhost");
    const known = request.headers.authorization === `Basic ${basic}`;
    if (!known && (request.headers.authorization !== undefined || !options.anonymousPull)) {
      response.writeHead(401).end(JSON.stringify({ details: "incorrect username or password" }));
      return;
    }
    const access = url.searchParams.getAll("scope").flatMap((scope) => scope.split(" ").map(parseScope));
    const granted = access.map((one) => ({
      ...one,
      actions: one.actions.filter((action) => known || action === "pull"),
    }));
    const claims = { aud: url.searchParams.get("service"), access: granted, sub: known ? "user" : "" };
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify({ token: sign(claims, privateKey, der), expires_in: 300 }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { server, realm: `http://127.0.0.1:${port}/token`, cert };
}

/** `repository:a/b:pull,push` */
function parseScope(scope: string): { type: string; name: string; actions: string[] } {
  const [type = "", ...rest] = scope.split(":");
  const actions = (rest.pop() ?? "").split(",");
  return { type, name: rest.join(":"), actions };
}

function sign(claims: object, key: crypto.KeyObject, der: string): string {
  const now = Math.floor(Date.now() / 1000);
  const times = { iss: "isopod-test", iat: now, nbf: now - 10, exp: now + 300, jti: crypto.randomUUID() };
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${part({ typ: "JWT", alg: "ES256", x5c: [der] })}.${part({ ...times, ...claims })}`;
  const signature = crypto.sign("sha256", Buffer.from(text), { key, dsaEncoding: "ieee-p1363" });
  return `${text}.${signature.toString("base64url")}`;
}
