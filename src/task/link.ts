import { IsopodError } from "../base/errors";
import type { Log } from "../base/log";
import { type CallOptions, type Client, connect } from "../ttrpc";

/**
 * The connection to one shim server, shared by all that runs there. When it ends the server may have
 * crashed and be coming back (R3): `start` is run again on behalf of a sandbox that lives there, which finds
 * or restarts the server, and calls that may be repeated are repeated.
 */
export class Link {
  readonly address: string;
  readonly #log: Log;
  /** Sandbox id → runs its `start`, which resolves with the server's address. */
  readonly #revivers = new Map<string, () => Promise<string>>();
  #client: Client | undefined;
  #connecting: Promise<Client> | undefined;
  #closed = false;

  constructor(address: string, log: Log) {
    this.address = address;
    this.#log = log;
  }

  /** Connects, if it is not; no `start` is run. */
  async open(): Promise<this> {
    if (!this.connected) await this.#single(() => connect(this.address));
    return this;
  }

  /** `sandboxId` lives there, until `leave`. */
  join(sandboxId: string, start: () => Promise<string>): void {
    this.#revivers.set(sandboxId, start);
  }

  leave(sandboxId: string): void {
    this.#revivers.delete(sandboxId);
  }

  get connected(): boolean {
    return this.#client?.connected === true;
  }

  /** A call that may have been performed when the connection ended: it is not repeated. */
  async once<T extends object>(
    service: string,
    method: string,
    request: object,
    options?: CallOptions,
  ): Promise<T> {
    const client = await this.#ready();
    return (await client.call(service, method, request, options)) as T;
  }

  /** A call that may be performed twice: repeated on a new connection until it is answered. */
  async repeat<T extends object>(
    service: string,
    method: string,
    request: object,
    options?: CallOptions,
  ): Promise<T> {
    for (;;) {
      const client = await this.#ready();
      try {
        return (await client.call(service, method, request, options)) as T;
      } catch (error) {
        // We let go ourselves: nothing was lost, and nothing must be cleaned up after it.
        if (this.#closed) throw stopping();
        if (client.connected) throw error;
      }
    }
  }

  close(): void {
    this.#closed = true;
    this.#client?.close();
  }

  #ready(): Promise<Client> {
    if (this.#closed) return Promise.reject(stopping());
    if (this.#client?.connected) return Promise.resolve(this.#client);
    return this.#single(() => this.#revive());
  }

  /** Whoever comes while one connects gets the same connection. */
  #single(dial: () => Promise<Client>): Promise<Client> {
    this.#connecting ??= dial()
      .then((client) => {
        this.#client = client;
        return client;
      })
      .finally(() => {
        this.#connecting = undefined;
      });
    return this.#connecting;
  }

  async #revive(): Promise<Client> {
    const [start] = this.#revivers.values();
    if (start === undefined) throw new IsopodError("UNAVAILABLE", `shim at ${this.address}: gone`);
    this.#log.warn("shim connection ended: starting it again", { address: this.address });
    const address = await start();
    if (address !== this.address) {
      throw new IsopodError("UNAVAILABLE", `shim at ${this.address}: replaced by one at ${address}`);
    }
    return connect(address);
  }
}

const stopping = (): IsopodError => new IsopodError("CANCELLED", "the daemon is stopping");

/** True for the errors that mean "the shim does not answer", as opposed to what it answered. */
export function isLost(error: unknown): boolean {
  return IsopodError.is(error) && (error.code === "UNAVAILABLE" || error.code === "CANCELLED");
}
