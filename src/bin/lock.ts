import * as crypto from "node:crypto";
import * as fs from "node:fs";
import * as net from "node:net";
import { errnoOf, IsopodError, messageOf } from "../base/errors";

/**
 * One daemon per directory. Whoever wants it listens on a unix socket of a name of its own in
 * `<directory>/lock`, and only then asks every other socket there whether it is alive: of two that start
 * together at least one sees the other and withdraws, and what does not answer is a dead process's and can be
 * removed, since no name is used twice. The kernel stops answering when a process ends, however that happens.
 *
 * Not one abstract socket: those can be taken by anybody in the network namespace, a pod on the host's
 * network included.
 */
export async function lockDirectory(field: string, directory: string): Promise<{ release(): void }> {
  const folder = `${directory}/lock`;
  fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
  // Through the folder's fd, since sun_path is too short for every path; libuv unlinks by it, too.
  const fd = fs.openSync(folder, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
  const name = `${process.pid}-${crypto.randomBytes(6).toString("hex")}`;
  const server = net.createServer((socket) => socket.destroy());
  const release = () => server.close(() => fs.closeSync(fd));
  try {
    await listen(server, at(fd, name));
    for (const other of fs.readdirSync(folder)) {
      if (other === name) continue;
      if (await answers(at(fd, other))) {
        throw new IsopodError("FAILED_PRECONDITION", `${field}: "${directory}": in use by another isopod`);
      }
      fs.rmSync(at(fd, other), { force: true });
    }
    return { release };
  } catch (error) {
    release();
    if (IsopodError.is(error)) throw error;
    throw new IsopodError("UNKNOWN", `locking "${directory}": ${messageOf(error)}`, { cause: error });
  }
}

const at = (fd: number, name: string): string => `/proc/self/fd/${fd}/${name}`;

function listen(server: net.Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, () => {
      server.unref();
      resolve();
    });
  });
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const probe = net.connect(path);
    probe.once("error", (error) => {
      if (["ECONNREFUSED", "ENOENT"].includes(errnoOf(error))) resolve(false);
      else reject(error);
    });
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
  });
}
