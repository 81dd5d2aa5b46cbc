import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { containerd, google, runtimeoptions } from "../../src/gen/shim";
import { native } from "../../src/native";
import type { Process, Resources, Spec } from "../../src/oci/runtime-spec";
import { type Client, connect, Server } from "../../src/ttrpc";
import { eventually, MONITOR, run } from "../monitor/launcher";

export const TASK = "containerd.task.v3.Task";
export const SANDBOX = "containerd.runtime.sandbox.v1.Sandbox";

export interface SeenEvent {
  readonly topic: string;
  readonly type: string;
  readonly event: Record<string, unknown>;
}

/**
 * A driver of real shims: a state directory, an events receiver, bundles with a busybox root, and a cgroup
 * of its own. Starts the built monitor with the bundled server.
 */
export class Driver {
  readonly dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-shim-"));
  readonly address = path.join(this.dir, "c.sock");
  readonly socketDir = path.join(this.dir, "s");
  readonly cgroupParent = `/isopod-shim-${process.pid}-${path.basename(this.dir).slice(-6)}`;
  readonly events: SeenEvent[] = [];
  readonly #rootfs = path.join(this.dir, "rootfs");
  readonly #sink: Server;
  readonly #addresses = new Set<string>();
  readonly #fifos: number[] = [];

  private constructor() {
    this.#sink = new Server({
      services: {
        "containerd.services.events.ttrpc.v1.Events": {
          Forward: ({ envelope }: { envelope: containerd.types.Envelope.$Shape }) => {
            this.events.push(decoded(envelope));
            return {};
          },
        },
      },
    });
    fs.mkdirSync(path.join(this.#rootfs, "bin"), { recursive: true });
    for (const name of ["etc", "proc", "dev", "tmp"]) fs.mkdirSync(path.join(this.#rootfs, name));
    fs.copyFileSync("/usr/bin/busybox", path.join(this.#rootfs, "bin/busybox"));
    for (const name of ["sh", "cat", "sleep", "echo", "stty", "true"]) {
      fs.symlinkSync("busybox", path.join(this.#rootfs, "bin", name));
    }
  }

  static async open(): Promise<Driver> {
    const driver = new Driver();
    await driver.#sink.listen({ path: `${driver.address}.ttrpc` });
    return driver;
  }

  get cgroup(): string {
    return path.join(native().features().cgroupRoot, this.cgroupParent);
  }

  async start(id: string, group: "pod" | "node" = "pod"): Promise<string> {
    const bundle = this.bundle(id);
    const stdin = google.protobuf.Any.encode({
      type_url: "runtimeoptions.v1.Options",
      value: runtimeoptions.v1.Options.encode({ configBody: Buffer.from(`group = "${group}"`) }).finish(),
    }).finish();
    const { status, stdout, stderr } = await this.#shim(id, bundle, ["start"], stdin);
    if (status !== 0) throw new Error(stderr);
    this.#addresses.add(stdout.toString());
    return stdout.toString();
  }

  async delete(id: string): Promise<containerd.task.v3.DeleteResponse.$Shape> {
    const bundle = this.bundle(id);
    const { status, stdout, stderr } = await this.#shim(id, bundle, ["-bundle", bundle, "delete"]);
    if (status !== 0) throw new Error(stderr);
    return containerd.task.v3.DeleteResponse.decode(stdout);
  }

  #shim(id: string, cwd: string, rest: string[], stdin?: Uint8Array) {
    const flags = ["-namespace", "test", "-address", this.address, "-publish-binary", "/bin/true", "-id", id];
    return run(MONITOR, [...flags, ...rest], {
      cwd,
      env: { TTRPC_ADDRESS: `${this.address}.ttrpc` },
      ...(stdin && { stdin }),
    });
  }

  bundle(id: string): string {
    const bundle = path.join(this.dir, "b", id);
    fs.mkdirSync(bundle, { recursive: true });
    return bundle;
  }

  connect(address: string): Promise<Client> {
    return connect(address);
  }

  /** Writes a bundle whose process runs `script`; what else is needed comes in `more`. */
  spec(
    id: string,
    script: string,
    more: { terminal?: boolean; sandbox?: string; pid?: "host"; resources?: Resources } = {},
  ): string {
    const namespaces = ["mount", "ipc", "uts", ...(more.pid === "host" ? [] : ["pid"])];
    const spec: Spec = {
      ociVersion: "1.2.0",
      process: processSpec(script, more.terminal),
      root: { path: this.#rootfs },
      mounts: [
        { destination: "/proc", type: "proc", source: "proc" },
        { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
        {
          destination: "/dev/pts",
          type: "devpts",
          source: "devpts",
          options: ["newinstance", "ptmxmode=0666"],
        },
      ],
      ...(more.sandbox && { annotations: { "io.kubernetes.cri.sandbox-id": more.sandbox } }),
      linux: {
        cgroupsPath: `${this.cgroupParent}/${id}`,
        namespaces: namespaces.map((type) => ({ type: type as "pid" })),
        ...(more.resources && { resources: more.resources }),
      },
    };
    const bundle = this.bundle(id);
    fs.writeFileSync(path.join(bundle, "config.json"), JSON.stringify(spec));
    return bundle;
  }

  /** A FIFO that the test reads to its end; the reading end is open before anybody writes. */
  fifo(id: string, name: string): { path: string; text: Promise<string>; sofar(): string } {
    const file = path.join(this.bundle(id), name);
    native().makeFifo({ path: file, mode: 0o600 });
    const fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
    this.#fifos.push(fd);
    let text = "";
    const ended = (async () => {
      const buffer = Buffer.alloc(65_536);
      let seen = false;
      for (;;) {
        try {
          const size = fs.readSync(fd, buffer);
          if (size > 0) {
            seen = true;
            text += buffer.toString("utf8", 0, size);
            continue;
          }
          if (seen) return text; // nothing and no writer: the end
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== "EAGAIN") return text;
          seen = true;
        }
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    })();
    return { path: file, text: ended, sofar: () => text };
  }

  topics(id: string): string[] {
    return this.events
      .filter(({ event }) => event["containerId"] === id)
      .map(({ topic, event }) => {
        const exec = (event["execId"] as string | undefined) ?? (event["id"] as string | undefined) ?? "";
        return exec === "" || exec === id ? topic.slice(7) : `${topic.slice(7)} ${exec}`;
      });
  }

  /** Server and monitor behind an address; undefined if nobody answers there. */
  async processes(address: string): Promise<{ server: number; monitor: number } | undefined> {
    try {
      const client = await connect(address);
      const { shimPid } = (await client.call(TASK, "Connect", { id: "" })) as { shimPid: number };
      client.close();
      return { server: shimPid, monitor: parentOf(shimPid) };
    } catch {
      return undefined;
    }
  }

  async close(): Promise<void> {
    await native().cgroupDestroy({ path: this.cgroup, timeoutMs: 5_000 });
    for (const pid of ourProcesses(this.dir)) process.kill(pid, "SIGKILL");
    await eventually("the shim's processes end", () => ourProcesses(this.dir).length === 0);
    for (const fd of this.#fifos) fs.closeSync(fd);
    await this.#sink.close();
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}

export function processSpec(script: string, terminal = false): Process {
  return {
    terminal,
    args: ["/bin/sh", "-c", script],
    env: ["PATH=/bin", "TERM=dumb"],
    cwd: "/",
    user: { uid: 0, gid: 0 },
  };
}

export const execSpec = (script: string, terminal = false): google.protobuf.Any.$Properties => ({
  type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process",
  value: Buffer.from(JSON.stringify(processSpec(script, terminal))),
});

export const parentOf = (pid: number): number =>
  Number(fs.readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ")[1]);

/** Monitors and servers that name `dir` on their command line. */
export function ourProcesses(dir: string): number[] {
  return fs
    .readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => {
      try {
        return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(dir);
      } catch {
        return false;
      }
    })
    .map(Number);
}

function decoded({ topic, event }: containerd.types.Envelope.$Shape): SeenEvent {
  const type = (event?.type_url ?? "").replace("containerd.events.", "");
  const events = containerd.events as unknown as Record<string, { decode(bytes: Uint8Array): object }>;
  return { topic: topic ?? "", type, event: { ...events[type]!.decode(event!.value!) } };
}
