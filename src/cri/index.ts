import * as fs from "node:fs";
import * as net from "node:net";
import * as grpc from "@grpc/grpc-js";
import { IsopodError, messageOf } from "../base/errors";
import type { Log } from "../base/log";
import { imageService } from "./image-service";
import { type RuntimeRooms, runtimeService } from "./runtime-service";
import type { StatusOptions } from "./runtime-status";
import { makeServer } from "./server";

export type { RuntimeRooms } from "./runtime-service";
export type { HandlerFeatures, StatusOptions } from "./runtime-status";

export interface CriOptions extends StatusOptions {
  /** Absolute path of the socket; one that no process listens on any more is replaced. */
  readonly socket: string;
  readonly log: Log;
}

export interface Cri {
  /** From now on calls are answered; until then, and after `close`, they are UNAVAILABLE. */
  open(rooms: RuntimeRooms): void;
  /** Takes no new call, waits for those in flight (at most `graceMs`), removes the socket. Idempotent. */
  close(graceMs: number): Promise<void>;
}

/** Owner and group, as for every other runtime: an administrator may give a group access. */
const SOCKET_MODE = 0o660;

/**
 * Serves runtime.v1 RuntimeService and ImageService on a unix socket. It listens at once, so that clients
 * which start together with us wait for an answer and do not fail to connect, and answers UNAVAILABLE until
 * `open`: never a list that recovery has not completed.
 */
export async function serveCri(options: CriOptions): Promise<Cri> {
  const { socket, log } = options;
  let rooms: RuntimeRooms | undefined;
  let closing: Promise<void> | undefined;
  const opened = (): RuntimeRooms => rooms!;
  const server = makeServer({
    services: {
      "runtime.v1.RuntimeService": runtimeService(opened, options),
      "runtime.v1.ImageService": imageService(() => opened().images),
    },
    unavailable: () => {
      if (closing) return "server is shutting down";
      return rooms ? undefined : "server is not initialized yet";
    },
    log,
  });
  await removeStale(socket);
  await listen(server, socket);
  fs.chmodSync(socket, SOCKET_MODE);
  return {
    open: (opening) => {
      rooms = opening;
    },
    close: (graceMs) => {
      closing ??= shutDown(server, graceMs);
      return closing;
    },
  };
}

function listen(server: grpc.Server, socket: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`unix://${socket}`, grpc.ServerCredentials.createInsecure(), (error) => {
      if (!error) return resolve();
      reject(
        new IsopodError("UNAVAILABLE", `listening on "${socket}": ${messageOf(error)}`, { path: socket }),
      );
    });
  });
}

/** A daemon that was killed leaves its socket behind; one that answers belongs to somebody. */
async function removeStale(socket: string): Promise<void> {
  const found = fs.lstatSync(socket, { throwIfNoEntry: false });
  if (!found) return;
  if (!found.isSocket()) throw occupied(socket, "it exists and is not a socket");
  if (await answers(socket)) throw occupied(socket, "another process listens there");
  fs.unlinkSync(socket);
}

const occupied = (socket: string, why: string): IsopodError =>
  new IsopodError("ALREADY_EXISTS", `listening on "${socket}": ${why}`, { path: socket });

function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = net.connect(socket);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", () => resolve(false));
  });
}

function shutDown(server: grpc.Server, graceMs: number): Promise<void> {
  return new Promise((resolve) => {
    const finish = () => {
      clearTimeout(timer);
      server.forceShutdown();
      resolve();
    };
    const timer = setTimeout(finish, graceMs);
    server.tryShutdown(finish);
  });
}
