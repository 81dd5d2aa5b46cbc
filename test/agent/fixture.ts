import { type ChildProcess, spawn } from "node:child_process";
import * as fs from "node:fs";
import type * as net from "node:net";
import * as os from "node:os";
import * as path from "node:path";
import { after } from "node:test";
import { Agent, CONTROL_PORT, type GuestExit, type GuestStdio, Ports, unixPorts } from "../../src/agent";
import { native } from "../../src/native";
import { busyboxRoot } from "../native/busybox";
import { cleanEnv } from "../support/command";
import { execPlan, type GuestPlanOptions, guestPlan } from "./plans";

/** The agent itself, on this host: streams are unix sockets, its containers are real ones. */
export const program = path.resolve(__dirname, "../../../build/Release/isopod-agent");
export const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-agent-"));
export const cgroupParent = `/isopod-agent-test-${process.pid}`;
export const rootfs = busyboxRoot(scratch);
for (const name of [
  "head",
  "stty",
  "kill",
  "wc",
  "dd",
  "hostname",
  "cut",
  "tr",
  "seq",
  "ps",
  "readlink",
  "date",
])
  fs.symlinkSync("busybox", path.join(rootfs, "bin", name));

const running = new Set<ChildProcess>();

after(async () => {
  for (const child of running) child.kill("SIGKILL");
  const cgroup = path.join(native().features().cgroupRoot, cgroupParent);
  await native().cgroupDestroy({ path: cgroup, timeoutMs: 5_000 });
  fs.rmSync(scratch, { recursive: true, force: true });
});

let count = 0;
export const freshId = (): string => `c${process.pid}-${count++}`;

export interface HostedAgent {
  readonly child: ChildProcess;
  readonly directory: string;
  readonly ports: Ports<net.Socket>;
  /** The control stream, with nobody on it yet. */
  readonly control: net.Socket;
  /** Resolves with its exit code or signal. */
  readonly ended: Promise<number | NodeJS.Signals>;
}

/** Starts the agent and takes its control stream. `wrapper`: what runs it, e.g. unshare. */
export async function hosted(
  wrapper: readonly string[] = [],
  more: readonly string[] = [],
): Promise<HostedAgent> {
  const directory = fs.mkdtempSync(path.join(scratch, "a-"));
  const ports = new Ports(unixPorts(directory));
  const expected = await ports.expect(CONTROL_PORT);
  const words = [program, "--unix", directory, "--files", path.join(directory, "files"), ...more];
  const [file, ...args] = [...wrapper, ...words];
  const child = spawn(file!, args, { env: cleanEnv(), stdio: ["ignore", "inherit", "inherit"] });
  running.add(child);
  const ended = new Promise<number | NodeJS.Signals>((resolve) =>
    child.once("exit", (code, signal) => {
      running.delete(child);
      expected.close();
      resolve(code ?? signal!);
    }),
  );
  return { child, directory, ports, control: await expected.stream, ended };
}

export interface ConnectedAgent extends HostedAgent, AsyncDisposable {
  readonly agent: Agent;
}

export async function connected(
  wrapper: readonly string[] = [],
  more: readonly string[] = [],
): Promise<ConnectedAgent> {
  const made = await hosted(wrapper, more);
  const agent = await Agent.connect(made.control);
  const end = async (): Promise<void> => {
    agent.close();
    await made.ended;
  };
  return { ...made, agent, [Symbol.asyncDispose]: end };
}

/** Streams of one process by name, each with the text that came on it. */
export interface Streams {
  readonly stdio: GuestStdio;
  stream(name: "stdin" | "stdout" | "stderr"): Promise<net.Socket>;
  /** All that comes on it, to its end. */
  text(name: "stdout" | "stderr"): Promise<string>;
}

export async function streams(
  { ports }: HostedAgent,
  names: readonly ("stdin" | "stdout" | "stderr")[],
  terminal = false,
): Promise<Streams> {
  const expected = new Map(
    await Promise.all(names.map(async (name) => [name, await ports.expect()] as const)),
  );
  const stdio: GuestStdio = {
    ...Object.fromEntries([...expected].map(([name, { port }]) => [name, port])),
    terminal,
  };
  const stream = (name: "stdin" | "stdout" | "stderr"): Promise<net.Socket> => expected.get(name)!.stream;
  return { stdio, stream, text: async (name) => textOf(await stream(name)) };
}

export async function textOf(socket: net.Socket): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}

/** Reads until `text` has come; returns all that came. */
export async function until(socket: net.Socket, text: string): Promise<string> {
  let seen = "";
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    seen += (chunk as Buffer).toString();
    if (seen.includes(text)) return seen;
  }
  throw new Error(`ended without "${text}": ${seen}`);
}

export interface Finished extends GuestExit {
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a shell script as a container to its end, and deletes it. */
export async function run(
  to: ConnectedAgent,
  script: string,
  more: Partial<GuestPlanOptions> = {},
): Promise<Finished> {
  const id = await create(to, ["sh", "-c", script], { names: ["stdout", "stderr"], ...more });
  const output = Promise.all([id.streams.text("stdout"), id.streams.text("stderr")]);
  await to.agent.start(id.id);
  const exit = await to.agent.wait({ id: id.id });
  const [stdout, stderr] = await output;
  await to.agent.delete({ id: id.id });
  return { ...exit, stdout, stderr };
}

/** Creates a container; the caller starts it. */
export async function create(
  to: ConnectedAgent,
  args: readonly string[],
  options: Partial<GuestPlanOptions> & {
    names?: readonly ("stdin" | "stdout" | "stderr")[];
    join?: string;
  } = {},
): Promise<{ id: string; pid: number; streams: Streams }> {
  const { names = [], join, ...plan } = options;
  const id = freshId();
  const made = await streams(to, names, plan.terminal);
  const pid = await to.agent.createContainer({
    id,
    plan: guestPlan({ rootfs, args, ...plan }),
    cgroup: `${cgroupParent}/${id}`,
    stdio: made.stdio,
    ...(join !== undefined && { join: [join] }),
  });
  return { id, pid, streams: made };
}

/** Runs a program in a container; the caller waits for it. */
export async function exec(
  to: ConnectedAgent,
  id: string,
  args: readonly string[],
  names: readonly ("stdin" | "stdout" | "stderr")[] = [],
  terminal = false,
): Promise<{ execId: string; pid: number; streams: Streams }> {
  const execId = `e${count++}`;
  const made = await streams(to, names, terminal);
  const pid = await to.agent.exec({
    id,
    execId,
    plan: execPlan({ args, terminal, cgroup: path.join(to.agent.guest.cgroupRoot, cgroupParent, id) }),
    stdio: made.stdio,
  });
  return { execId, pid, streams: made };
}

/** The children that a process has not reaped, living ones among them. */
export const childrenOf = (parent: number): number[] =>
  fs
    .readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8");
        return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1] === String(parent);
      } catch {
        return false;
      }
    });
