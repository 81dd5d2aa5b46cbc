import * as fs from "node:fs";
import * as net from "node:net";
import * as path from "node:path";
import { IsopodError } from "../base/errors";

/** The agent's control stream goes to this port; those of stdio to ports from the next one on. */
export const CONTROL_PORT = 1024;
const LAST_PORT = 0x7fffffff;

/**
 * How the host listens to its guest: the VMM's vsock, whose streams are descriptors, or unix sockets, for an
 * agent that runs on the host.
 */
export interface PortTransport<Stream> {
  /** Calls `accept` with every stream that the guest opens to `port`, until the returned function is called. */
  listen(port: number, accept: (stream: Stream) => void): Promise<() => void>;
  /** Closes a stream that nobody asked for. */
  discard(stream: Stream): void;
}

export interface Expected<Stream> {
  readonly port: number;
  /** The stream, once the guest has opened it; rejects if `close` comes first. */
  readonly stream: Promise<Stream>;
  /** Stops listening. A stream that has come already is its receiver's. Idempotent. */
  close(): void;
}

/** Ports of the host, each for the one stream that the guest is told to open to it; a second is cut off. */
export class Ports<Stream> {
  readonly #transport: PortTransport<Stream>;
  readonly #used = new Set<number>();
  #next = CONTROL_PORT + 1;

  constructor(transport: PortTransport<Stream>) {
    this.#transport = transport;
  }

  /** `port` absent: one that is free. */
  async expect(port = this.#free()): Promise<Expected<Stream>> {
    if (this.#used.has(port)) throw new IsopodError("ALREADY_EXISTS", `port ${port}: in use`);
    this.#used.add(port);
    let settle!: (stream: Stream) => void;
    let fail!: (error: IsopodError) => void;
    const stream = new Promise<Stream>((resolve, reject) => {
      settle = resolve;
      fail = reject;
    });
    // Whoever closes it early need not wait for it as well.
    stream.catch(() => {});
    let stop = (): void => {};
    let open = true;
    const close = (): void => {
      if (!open) return;
      open = false;
      this.#used.delete(port);
      stop();
      fail(new IsopodError("CANCELLED", `port ${port}: the guest did not connect`));
    };
    const accept = (came: Stream): void => {
      if (!open) {
        this.#transport.discard(came);
        return;
      }
      settle(came);
      close();
    };
    try {
      stop = await this.#transport.listen(port, accept);
    } catch (error) {
      this.#used.delete(port);
      throw error;
    }
    if (!open) stop();
    return { port, stream, close };
  }

  #free(): number {
    for (;;) {
      const port = this.#next;
      this.#next = port === LAST_PORT ? CONTROL_PORT + 1 : port + 1;
      if (!this.#used.has(port)) return port;
    }
  }
}

/** Unix sockets `<directory>/<port>`. */
export function unixPorts(directory: string): PortTransport<net.Socket> {
  return {
    listen: (port, accept) =>
      new Promise((resolve, reject) => {
        const file = path.join(directory, String(port));
        const server = net.createServer({ allowHalfOpen: true }, accept);
        server.once("error", reject);
        server.listen(file, () =>
          resolve(() => {
            server.close();
            fs.rmSync(file, { force: true });
          }),
        );
      }),
    discard: (socket) => void socket.destroy(),
  };
}
