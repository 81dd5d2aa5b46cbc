import * as fs from "node:fs";
import * as path from "node:path";
import { IsopodError, invalid, messageOf } from "../base/errors";
import { containerd, google, runtimeoptions } from "../gen/shim";
import { native, type Spawned } from "../native";
import { nanosecondsOf } from "../ttrpc";
import type { Exit, Handler } from "./types";

/**
 * A shim's binary and its verbs (shimv2 calls them by argv, standard input and standard output).
 *
 * What goes in and comes out of `start` changed over the years: containerd 2.3 writes BootstrapParams and
 * reads BootstrapResult; before, an Any of the handler's options went in and a plain address, or JSON, came
 * out. Shims of the old kind do not know `-info`, so that is asked once per binary.
 */
export interface ShimBinary {
  readonly file: string;
  start(options: StartOptions): Promise<Started>;
  /** Kills and frees what the shim holds of `id`, and nothing else. */
  delete(options: { id: string; bundle: string }): Promise<Exit>;
}

export interface StartOptions {
  readonly id: string;
  readonly bundle: string;
}

export interface Started {
  /** `unix://…` */
  readonly address: string;
  /** Of the Task API; 3: containers of a sandbox need no `start` of their own. */
  readonly version: number;
}

export interface Endpoints {
  /** Given to shims as `-address`; its directory holds their sockets. */
  readonly address: string;
  readonly namespace: string;
}

const START_MS = 10_000;
const DELETE_MS = 10_000;
const INFO_MS = 5_000;

/** Reads `-info` of binaries at most once per file and modification time. */
export class ShimBinaries {
  readonly #endpoints: Endpoints;
  readonly #searchDirs: readonly string[];
  readonly #modern = new Map<string, Promise<boolean>>();

  constructor(endpoints: Endpoints, searchDirs: readonly string[]) {
    this.#endpoints = endpoints;
    this.#searchDirs = searchDirs;
  }

  find(handler: Handler): ShimBinary {
    const file = handler.path ?? this.#search(handler);
    return {
      file,
      start: (options) => this.#start(file, handler, options),
      delete: (options) => this.#delete(file, options),
    };
  }

  /** `io.containerd.isopod.v2` is run by `containerd-shim-isopod-v2`. */
  #search({ name, runtimeType }: Handler): string {
    const [kind, version] = runtimeType.split(".").slice(-2);
    if (!kind || !version) throw invalid(`handlers.${name}.runtime_type`, runtimeType, "not a runtime type");
    const binary = `containerd-shim-${kind}-${version}`;
    const searched = [...this.#searchDirs, ...(process.env["PATH"] ?? "").split(":").filter(path.isAbsolute)];
    for (const directory of searched) {
      const file = path.join(directory, binary);
      if (fs.existsSync(file)) return file;
    }
    throw new IsopodError("NOT_FOUND", `handler "${name}": no ${binary} in ${searched.join(", ")}`, {
      path: binary,
    });
  }

  async #start(file: string, handler: Handler, { id, bundle }: StartOptions): Promise<Started> {
    const stdin = (await this.#isModern(file)) ? this.#params(id, handler) : legacyInput(handler);
    const done = await this.#run(file, this.#arguments(id, ["start"]), bundle, START_MS, stdin);
    if (done.status !== 0) throw failed(`starting the shim of "${id}"`, file, done);
    return parseStarted(done.stdout, file);
  }

  async #delete(file: string, { id, bundle }: { id: string; bundle: string }): Promise<Exit> {
    const cwd = fs.existsSync(bundle) ? bundle : path.dirname(this.#endpoints.address);
    const done = await this.#run(file, this.#arguments(id, ["-bundle", bundle, "delete"]), cwd, DELETE_MS);
    if (done.status !== 0) throw failed(`deleting "${id}"`, file, done);
    const { exitStatus, exitedAt } = containerd.task.v2.DeleteResponse.decode(done.stdout);
    return { status: exitStatus, exitedAt: nanosecondsOf(exitedAt) ?? 0n };
  }

  #arguments(id: string, rest: readonly string[]): string[] {
    const { address, namespace } = this.#endpoints;
    return [
      "-namespace",
      namespace,
      "-address",
      address,
      "-publish-binary",
      process.execPath,
      "-id",
      id,
      ...rest,
    ];
  }

  /** BootstrapParams: id and namespace again, where events go, and the options as an extension. */
  #params(id: string, handler: Handler): Uint8Array {
    const { address, namespace } = this.#endpoints;
    const extensions = handler.options === undefined ? [] : [{ value: optionsAny(handler.options) }];
    return containerd.runtime.bootstrap.v1.BootstrapParams.encode({
      instanceId: id,
      namespace,
      containerdTtrpcAddress: `${address}.ttrpc`,
      containerdGrpcAddress: address,
      containerdBinary: process.execPath,
      extensions,
    }).finish();
  }

  async #isModern(file: string): Promise<boolean> {
    const key = `${file} ${fs.statSync(file).mtimeMs}`;
    let known = this.#modern.get(key);
    if (known === undefined) {
      known = this.#run(file, ["-info"], "/", INFO_MS).then((done) => done.status === 0);
      known.catch(() => this.#modern.delete(key));
      this.#modern.set(key, known);
    }
    return known;
  }

  #run(
    file: string,
    args: readonly string[],
    cwd: string,
    timeoutMs: number,
    stdin?: Uint8Array,
  ): Promise<Spawned> {
    const { address, namespace } = this.#endpoints;
    // Not our whole environment: a shim lives longer than we do, and NODE_OPTIONS are meant for us.
    const env = [
      `PATH=${process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin"}`,
      `TTRPC_ADDRESS=${address}.ttrpc`,
      `GRPC_ADDRESS=${address}`,
      `NAMESPACE=${namespace}`,
      "MAX_SHIM_VERSION=3",
      ...["ISOPOD_FEATURES", "ISOPOD_LOG_LEVEL"].flatMap((name) => {
        const value = process.env[name];
        return value === undefined ? [] : [`${name}=${value}`];
      }),
    ];
    return native().spawn({ file, args, env, cwd, timeoutMs, ...(stdin && { stdin }) });
  }
}

function optionsAny(toml: string): { type_url: string; value: Uint8Array } {
  const body = runtimeoptions.v1.Options.encode({ configBody: Buffer.from(toml) }).finish();
  return { type_url: "runtimeoptions.v1.Options", value: body };
}

function legacyInput({ options }: Handler): Uint8Array {
  if (options === undefined) return new Uint8Array();
  return google.protobuf.Any.encode(optionsAny(options)).finish();
}

/** Protobuf first (its first byte is a tag, never a printable address), then JSON, then plain text. */
export function parseStarted(stdout: Buffer, file: string): Started {
  const refuse = (why: string): IsopodError =>
    new IsopodError("INTERNAL", `answer of ${file} to start: ${why}`, { path: file });
  const text = stdout.toString("utf8").trim();
  if (text === "") throw refuse("empty");
  let answer: { version?: number; address?: string; protocol?: string };
  if (stdout[0]! < 0x20) {
    answer = decodeResult(stdout, refuse);
  } else if (text.startsWith("{")) {
    try {
      answer = JSON.parse(text) as typeof answer;
    } catch (error) {
      throw refuse(messageOf(error));
    }
  } else {
    answer = { version: 2, address: text, protocol: "ttrpc" };
  }
  const { version = 2, address = "", protocol = "ttrpc" } = answer;
  if (protocol !== "ttrpc") throw refuse(`protocol "${protocol}": only ttrpc is spoken`);
  if (!/^(unix:\/\/)?\/?[^\n:]+$/.test(address))
    throw refuse(`address ${JSON.stringify(address)}: not a unix socket`);
  return { address, version };
}

function decodeResult(stdout: Buffer, refuse: (why: string) => IsopodError) {
  try {
    return containerd.runtime.bootstrap.v1.BootstrapResult.decode(stdout);
  } catch (error) {
    throw refuse(messageOf(error));
  }
}

function failed(what: string, file: string, done: Spawned): IsopodError {
  const output = [done.stderr, done.stdout]
    .map((bytes) => bytes.toString("utf8").trim())
    .find((text) => text !== "");
  const why = done.timedOut ? "no answer in time" : (output ?? `exit code ${done.status}`);
  return new IsopodError(done.timedOut ? "DEADLINE_EXCEEDED" : "UNKNOWN", `${what}: ${file}: ${why}`, {
    path: file,
  });
}
