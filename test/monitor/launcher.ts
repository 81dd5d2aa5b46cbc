import { spawn } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { connect } from "../../src/ttrpc";
import { patience } from "../support/testbed";

export const ROOT = path.resolve(__dirname, "../../..");
export const MONITOR = path.join(ROOT, "build/Release/containerd-shim-isopod-v2");

export interface Ran {
  readonly status: number | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

export interface RunOptions {
  readonly stdin?: Uint8Array;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/** Runs a program until its output ends, which is later than its exit if something inherited it. */
export function run(file: string, args: readonly string[], options: RunOptions = {}): Promise<Ran> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      cwd: options.cwd,
      env: { ...process.env, ...options.env },
      stdio: ["pipe", "pipe", "pipe"],
    });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => out.push(chunk));
    child.stderr.on("data", (chunk: Buffer) => err.push(chunk));
    child.on("error", reject);
    child.on("close", (status) =>
      resolve({ status, stdout: Buffer.concat(out), stderr: Buffer.concat(err).toString() }),
    );
    child.stdin.on("error", () => {});
    child.stdin.end(options.stdin ?? Buffer.alloc(0));
  });
}

/** A directory with a copy of the monitor beside a fixture server, and a state of its own. */
export class Launcher {
  readonly dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-mon-"));
  readonly monitor = path.join(this.dir, "containerd-shim-isopod-v2");
  readonly log = path.join(this.dir, "log.jsonl");
  readonly socketDir = path.join(this.dir, "s");
  readonly env: Record<string, string> = { FIXTURE_LOG: this.log };

  constructor() {
    fs.copyFileSync(MONITOR, this.monitor);
    fs.chmodSync(this.monitor, 0o755);
    const fixture = path.join(__dirname, "fixture-server.js");
    fs.writeFileSync(path.join(this.dir, "shim-server.js"), `require(${JSON.stringify(fixture)});\n`);
  }

  bundle(id: string, config?: object): string {
    const bundle = path.join(this.dir, "bundles", id);
    fs.mkdirSync(bundle, { recursive: true });
    if (config) fs.writeFileSync(path.join(bundle, "config.json"), JSON.stringify(config));
    return bundle;
  }

  args(id: string, ...rest: string[]): string[] {
    return [
      "-namespace",
      "test",
      "-address",
      path.join(this.dir, "c.sock"),
      "-publish-binary",
      "/bin/true",
      "-id",
      id,
      ...rest,
    ];
  }

  start(id: string, options: { stdin?: Uint8Array; config?: object; env?: Record<string, string> } = {}) {
    return run(this.monitor, this.args(id, "start"), {
      cwd: this.bundle(id, options.config),
      env: { ...this.env, ...options.env },
      ...(options.stdin && { stdin: options.stdin }),
    });
  }

  /** What the fixture servers noted, oldest first. */
  notes(): Record<string, unknown>[] {
    if (!fs.existsSync(this.log)) return [];
    return fs
      .readFileSync(this.log, "utf8")
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  starts(): Record<string, unknown>[] {
    return this.notes().filter((note) => "started" in note);
  }

  /** Asks a server for its pid. */
  async serverPid(address: string): Promise<number> {
    const client = await connect(address);
    const { shimPid } = (await client.call("containerd.task.v3.Task", "Connect", {})) as { shimPid: number };
    client.close();
    return shimPid;
  }

  async call(address: string, method: string, request: object = {}): Promise<object> {
    const client = await connect(address);
    try {
      return await client.call("containerd.task.v3.Task", method, request);
    } finally {
      client.close();
    }
  }

  /** Ends every server and monitor that was started here. */
  async close(): Promise<void> {
    for (const { started, parent } of this.starts()) {
      for (const pid of [parent, started] as number[]) if (this.isOurs(pid)) process.kill(pid, "SIGKILL");
    }
    await eventually("processes end", () =>
      this.starts().every(
        ({ started, parent }) => !this.isOurs(Number(started)) && !this.isOurs(Number(parent)),
      ),
    );
    fs.rmSync(this.dir, { recursive: true, force: true });
  }

  /** Pids are reused: only what still runs our monitor or our server counts. */
  isOurs(pid: number): boolean {
    try {
      return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(this.dir);
    } catch {
      return false;
    }
  }
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits until `check` holds; a test that waits in vain fails with `what`. */
export async function eventually(what: string, check: () => boolean | Promise<boolean>): Promise<void> {
  for (let waited = 0; waited < 15_000 * patience; waited += 20) {
    if (await check()) return;
    await sleep(20);
  }
  throw new Error(`${what}: not within 15 s`);
}
