import type { Duplex } from "node:stream";
import Long from "long";
import { IsopodError } from "../base/errors";
import type { isopod } from "../gen/agent";
import type { CgroupWrite } from "../native";
import { Client } from "../ttrpc";
import { failureOf, PROTOCOL_VERSION, plain, protocol, SERVICE } from "./protocol";
import type {
  Guest,
  GuestContainerOptions,
  GuestDevice,
  GuestExecOptions,
  GuestExit,
  GuestMountOptions,
  GuestNetwork,
  GuestProcessId,
} from "./types";

/** A guest that does not answer in this time is hung. Launching reads the container's files. */
const QUICK_MS = 10_000;
const LAUNCH_MS = 60_000;
const HELLO_MS = 10_000;
/** Long polls: until the answer, or the end of the connection. */
const FOREVER = 0;
const MAX_NAMES = 64;
const MAX_NAME = 64;

/**
 * The guest's agent, over the control stream that it opened. Calls are concurrent; when the stream ends, all
 * of them fail with UNAVAILABLE. The guest may be hostile: whatever it answers is bounded and checked here.
 */
export class Agent {
  readonly guest: Guest;
  /** Resolves at the end of the control stream, for whatever reason: the guest is gone then. */
  readonly closed: Promise<void>;
  readonly #client: Client;

  private constructor(client: Client, guest: Guest) {
    this.#client = client;
    this.closed = client.closed;
    this.guest = guest;
  }

  /** Takes the stream. Rejects if nobody, or somebody else, is at its other end. */
  static async connect(stream: Duplex, options: { timeoutMs?: number } = {}): Promise<Agent> {
    const client = new Client(stream, { protocol, errorOf: failureOf });
    // Streams of stdio are half-open at times; this one never is.
    stream.once("end", () => client.close());
    try {
      const request: isopod.agent.v1.HelloRequest.$Properties = { protocol: PROTOCOL_VERSION };
      const timeoutMs = options.timeoutMs ?? HELLO_MS;
      const hello = await client.call(SERVICE, "Hello", request, { timeoutMs });
      return new Agent(client, guestOf(hello as isopod.agent.v1.HelloResponse));
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /** Ends the stream, and with it the guest. Idempotent. */
  close(): void {
    this.#client.close();
  }

  async configure(options: {
    hostname?: string;
    sysctls?: Readonly<Record<string, string>>;
    files?: Readonly<Record<string, string>>;
  }): Promise<void> {
    const request: isopod.agent.v1.ConfigureRequest.$Properties = {
      hostname: options.hostname ?? "",
      sysctls: { ...options.sysctls },
      files: Object.entries(options.files ?? {}).map(([name, content]) => ({
        name,
        content: Buffer.from(content),
      })),
    };
    await this.#call("Configure", request);
  }

  async mount(options: GuestMountOptions): Promise<GuestDevice> {
    const { timeoutMs = 0 } = options;
    const request: isopod.agent.v1.MountRequest.$Properties = {
      type: options.type,
      source: options.source,
      target: options.target ?? "",
      options: [...(options.options ?? [])],
      filesystem: options.filesystem ?? "",
      timeoutMs,
    };
    const response = await this.#call<isopod.agent.v1.MountResponse>("Mount", request, QUICK_MS + timeoutMs);
    return { path: plain(response.device), major: response.major, minor: response.minor };
  }

  async unmount(target: string): Promise<void> {
    const request: isopod.agent.v1.UnmountRequest.$Properties = { target };
    await this.#call("Unmount", request);
  }

  async network(options: GuestNetwork): Promise<void> {
    const request: isopod.agent.v1.NetworkRequest.$Properties = {
      interfaces: (options.interfaces ?? []).map((link) => ({
        ...link,
        addresses: [...(link.addresses ?? [])],
      })),
      routes: (options.routes ?? []).map((route) => ({ ...route })),
      neighbors: (options.neighbors ?? []).map((neighbor) => ({ ...neighbor })),
    };
    await this.#call("Network", request);
  }

  async setClock(nanoseconds: bigint): Promise<void> {
    const request: isopod.agent.v1.SetClockRequest.$Properties = { unixNanoseconds: int64(nanoseconds) };
    await this.#call("SetClock", request);
  }

  /** 32 to 4096 bytes of the host's randomness. */
  async reseed(entropy: Uint8Array): Promise<void> {
    const request: isopod.agent.v1.ReseedRequest.$Properties = { entropy };
    await this.#call("Reseed", request);
  }

  /** Ends every container, then the guest. */
  async shutdown(): Promise<void> {
    await this.#call("Shutdown", {}, LAUNCH_MS);
  }

  /** Resolves with its pid in the guest once it waits at its gate. */
  async createContainer(options: GuestContainerOptions): Promise<number> {
    const request: isopod.agent.v1.CreateContainerRequest.$Properties = {
      id: options.id,
      plan: options.plan,
      cgroup: options.cgroup,
      cgroupWrites: (options.cgroupWrites ?? []).map((write) => ({ ...write })),
      deviceProgram: options.deviceProgram ?? new Uint8Array(0),
      stdio: { ...options.stdio },
      join: [...(options.join ?? [])],
    };
    return (await this.#call<isopod.agent.v1.ProcessResponse>("CreateContainer", request, LAUNCH_MS)).pid;
  }

  /** Rejects with the stub's error if the exec fails. */
  async start(id: string): Promise<void> {
    await this.#call("Start", { id }, LAUNCH_MS);
  }

  /** Resolves with its pid in the guest once its exec has succeeded. */
  async exec(options: GuestExecOptions): Promise<number> {
    const request: isopod.agent.v1.ExecRequest.$Properties = {
      id: options.id,
      execId: options.execId,
      plan: options.plan,
      stdio: { ...options.stdio },
    };
    return (await this.#call<isopod.agent.v1.ProcessResponse>("Exec", request, LAUNCH_MS)).pid;
  }

  /** `all`: everything in the container's cgroup, also when its first process has ended. */
  async signal(process: GuestProcessId, signal: number, options: { all?: boolean } = {}): Promise<void> {
    const request: isopod.agent.v1.SignalRequest.$Properties = {
      ...process,
      signal,
      all: options.all ?? false,
    };
    await this.#call("Signal", request);
  }

  /** Resolves at the end; by then its output has been sent, unless a child of it still holds it. */
  async wait(process: GuestProcessId): Promise<GuestExit> {
    return exitOf(await this.#call<isopod.agent.v1.ExitResponse>("Wait", { ...process }, FOREVER));
  }

  async resize(process: GuestProcessId, size: { rows: number; columns: number }): Promise<void> {
    await this.#call("Resize", { ...process, ...size });
  }

  async closeStdin(process: GuestProcessId): Promise<void> {
    await this.#call("CloseStdin", { ...process });
  }

  async pause(id: string): Promise<void> {
    await this.#call("Pause", { id });
  }

  async resume(id: string): Promise<void> {
    await this.#call("Resume", { id });
  }

  /** All or none, in this order. */
  async update(id: string, writes: readonly CgroupWrite[]): Promise<void> {
    const request: isopod.agent.v1.UpdateRequest.$Properties = {
      id,
      writes: writes.map((write) => ({ ...write })),
    };
    await this.#call("Update", request);
  }

  /** The contents of these files of the container's cgroup; those that are not there are left out. */
  async stats(id: string, files: readonly string[]): Promise<ReadonlyMap<string, string>> {
    const request: isopod.agent.v1.StatsRequest.$Properties = { id, files: [...files] };
    const response = await this.#call<isopod.agent.v1.StatsResponse>("Stats", request);
    const asked = new Set(files);
    return new Map(
      response.files
        .filter(({ name }) => asked.has(name ?? ""))
        .map(({ name, content }) => [name!, Buffer.from(content ?? []).toString("latin1")]),
    );
  }

  async pids(id: string): Promise<readonly { pid: number; execId?: string }[]> {
    const response = await this.#call<isopod.agent.v1.PidsResponse>("Pids", { id });
    return response.processes.map(({ pid, execId }) =>
      execId ? { pid: pid ?? 0, execId: plain(execId) } : { pid: pid ?? 0 },
    );
  }

  /** FAILED_PRECONDITION while it runs. */
  async delete(process: GuestProcessId): Promise<GuestExit> {
    return exitOf(await this.#call<isopod.agent.v1.ExitResponse>("Delete", { ...process }, LAUNCH_MS));
  }

  /** Resolves when more than `seen` processes were killed for want of memory: their number. */
  async waitOom(id: string, seen: bigint): Promise<bigint> {
    const request: isopod.agent.v1.WaitOomRequest.$Properties = { id, seen: int64(seen) };
    const response = await this.#call<isopod.agent.v1.OomResponse>("WaitOom", request, FOREVER);
    return BigInt(String(response.oomKills));
  }

  #call<Response extends object>(method: string, request: object, timeoutMs = QUICK_MS): Promise<Response> {
    return this.#client.call(SERVICE, method, request, { timeoutMs }) as Promise<Response>;
  }
}

const int64 = (value: bigint): Long => Long.fromString(value.toString());

function exitOf(response: isopod.agent.v1.ExitResponse): GuestExit {
  return {
    status: Math.min(response.status, 255),
    exitedAt: BigInt(String(response.exitedAt)),
    oomKills: BigInt(String(response.oomKills)),
  };
}

function guestOf(hello: isopod.agent.v1.HelloResponse): Guest {
  const refuse = (what: string, value: unknown): IsopodError =>
    new IsopodError("FAILED_PRECONDITION", `the guest's agent: ${what} "${plain(String(value))}"`);
  if (hello.protocol !== PROTOCOL_VERSION) throw refuse("speaks protocol", hello.protocol);
  if (hello.arch !== "x86_64" && hello.arch !== "aarch64") throw refuse("runs on", hello.arch);
  const directory = /^(\/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$/;
  if (hello.cgroupRoot !== "" && !directory.test(hello.cgroupRoot))
    throw refuse("names as its cgroup root", hello.cgroupRoot);
  if (!directory.test(hello.filesDir)) throw refuse("names as its directory", hello.filesDir);
  const names = (list: readonly string[]): string[] =>
    list.slice(0, MAX_NAMES).map((name) => plain(name).slice(0, MAX_NAME));
  return {
    version: plain(hello.version).slice(0, MAX_NAME),
    kernel: plain(hello.kernel).slice(0, MAX_NAME),
    arch: hello.arch,
    cgroupRoot: hello.cgroupRoot,
    controllers: names(hello.controllers),
    features: Object.fromEntries(Object.entries(hello.features).slice(0, MAX_NAMES)),
    effectiveCapabilities: BigInt.asUintN(64, BigInt(String(hello.effectiveCapabilities))),
    apparmor: hello.apparmor,
    selinux: hello.selinux,
    oomScoreAdj: hello.oomScoreAdj,
    filesDir: hello.filesDir,
  };
}
