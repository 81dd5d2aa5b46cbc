import { spawn } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { cleanEnv, command } from "./command";
import { until } from "./processes";

/**
 * A host of one's own: a mount and a network namespace in which a test's daemon lives as on a machine by
 * itself. Bridges, rules and mounts that it makes or forgets are seen there and nowhere else, and whatever
 * is left ends with the last process in them.
 */
export interface Host extends AsyncDisposable {
  /** Keeps the namespaces: /proc/<pid>/ns/{mnt,net}, /proc/<pid>/mountinfo. */
  readonly pid: number;
  /** What to put before a command so that it runs in here; nsenter(1) becomes the command, pid and all. */
  readonly enter: readonly string[];
  /** Ends the keeper; namespaces with living processes live on. */
  end(): Promise<void>;
}

export interface HostOptions {
  /** Bind the cgroup2 mount over /sys/fs/cgroup, as if the host were unified: crun runs on no other. */
  readonly unified?: boolean;
  /** Stay in the caller's network namespace; default false. */
  readonly shareNetwork?: boolean;
}

export async function privateHost(options: HostOptions = {}): Promise<Host> {
  const steps = ["mount --make-rprivate /"];
  const cgroup2 = cgroup2Mount();
  if (options.unified && cgroup2 !== "/sys/fs/cgroup") {
    if (cgroup2 === undefined) throw new Error("this machine has no cgroup2 mount");
    steps.push(`mount --bind ${cgroup2} /sys/fs/cgroup`);
  }
  if (!options.shareNetwork) steps.push("ip link set lo up");
  const script = `${steps.join(" && ")} && echo ready && exec setpriv --pdeathsig KILL sleep infinity`;
  const namespaces = options.shareNetwork ? ["--mount"] : ["--mount", "--net"];
  // Shared with the parent only in name: the first step cuts propagation both ways.
  const keeper = spawn("unshare", [...namespaces, "--propagation", "unchanged", "sh", "-c", script], {
    env: cleanEnv(),
    stdio: ["ignore", "pipe", "pipe"],
  });
  await new Promise<void>((resolve, reject) => {
    let said = "";
    const read = (chunk: Buffer) => {
      said += chunk.toString();
      if (said.includes("ready")) resolve();
    };
    keeper.stdout.on("data", read);
    keeper.stderr.on("data", read);
    keeper.on("error", reject);
    keeper.on("exit", () => reject(new Error(`making a private host: ${said}`)));
  });
  const pid = keeper.pid!;
  const end = async () => {
    if (keeper.exitCode !== null || keeper.signalCode !== null) return;
    const ended = new Promise((resolve) => keeper.on("exit", resolve));
    keeper.kill("SIGKILL");
    await ended;
  };
  const enter = ["nsenter", "-t", String(pid), "-m", ...(options.shareNetwork ? [] : ["-n"]), "--"];
  return { pid, enter, end, [Symbol.asyncDispose]: end };
}

/** Runs a command in the host to its end. */
export function onHost(host: Host, file: string, args: readonly string[]) {
  const [enter, ...rest] = host.enter;
  return command(enter!, [...rest, file, ...args]);
}

/** Kills what lives in a cgroup2 tree of ours and removes it; an absent one is fine. */
export async function destroyCgroup(name: string): Promise<void> {
  const top = path.join(cgroup2Mount() ?? "/nonexistent", name);
  if (!fs.existsSync(top)) return;
  fs.writeFileSync(path.join(top, "cgroup.kill"), "1");
  const populated = () => fs.readFileSync(path.join(top, "cgroup.events"), "utf8").includes("populated 1");
  await until(() => !populated(), `${top} is empty`);
  const below = (fs.readdirSync(top, { recursive: true, withFileTypes: true }) as fs.Dirent[])
    .filter((entry) => entry.isDirectory())
    .map((entry) => path.join(entry.parentPath, entry.name));
  for (const dir of [...below.sort().reverse(), top]) fs.rmdirSync(dir);
}

/** Where cgroup2 is mounted here, mounts that others cover left out. */
export function cgroup2Mount(): string | undefined {
  for (const line of fs.readFileSync("/proc/self/mountinfo", "utf8").split("\n")) {
    const fields = line.split(" ");
    if (fields[fields.indexOf("-") + 1] !== "cgroup2") continue;
    if (fs.existsSync(`${fields[4]}/cgroup.controllers`)) return fields[4];
  }
  return undefined;
}
