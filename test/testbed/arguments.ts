/** What `npm run testbed -- [OPTION…] [--] CMD…` was asked for. */
export interface Options {
  readonly command: readonly string[];
  /** MiB. */
  readonly memory: number;
  readonly cpus: number;
  /** PID 1 is systemd. */
  readonly systemd: boolean;
  /** MiB of ext4 on /var/lib; 0: none. */
  readonly disk: number;
  /** Time is counted in instructions: one CPU, one thread, the same run again and again. */
  readonly icount: boolean;
  /** A Debian suite. */
  readonly kernel: string;
  /** Seconds for everything, boot included. */
  readonly timeout: number;
  /** An interactive shell, with the command (or none) as what it runs. */
  readonly shell: boolean;
  readonly env: Readonly<Record<string, string>>;
  /** Host folder that gets what the command wrote to $ISOPOD_RESULTS. */
  readonly results?: string;
  /** Show the guest's console while it runs. */
  readonly console: boolean;
}

export const suites = ["bookworm", "trixie", "forky"] as const;

export const usage = `usage: npm run testbed -- [OPTION…] [--] COMMAND…
  --memory SIZE     RAM (6G, at most half of the host's)     --cpus N        (2)
  --disk SIZE       ext4 on /var/lib (4G; 0: none)           --systemd       PID 1 is systemd
  --kernel SUITE    ${suites.join(" | ")} (bookworm: Linux 6.1)   --icount        deterministic time, one CPU
  --timeout SECONDS for everything (1800)                    --shell         interactive
  --env NAME[=VALUE]  in the command's environment           --console       show the guest's console
  --results DIR     copy what the command leaves in $ISOPOD_RESULTS to DIR`;

export class UsageError extends Error {}

type Changeable = { -readonly [Key in keyof Options]: Options[Key] } & { env: Record<string, string> };

/** Options up to the first argument that is none; the rest is the command, untouched. */
export function parseArguments(
  args: readonly string[],
  host: { readonly memory: number; readonly env: Readonly<Record<string, string | undefined>> },
): Options {
  const options: Changeable = {
    command: [],
    memory: Math.min(6144, Math.floor(host.memory / 2)),
    cpus: 2,
    systemd: false,
    disk: 4096,
    icount: false,
    kernel: "bookworm",
    timeout: 1800,
    shell: false,
    env: {},
    console: false,
  };
  const rest = [...args];
  const valued: Record<string, (value: string, name: string) => void> = {
    "--memory": (value, name) => (options.memory = atLeast(128, size(value, name), name)),
    "--cpus": (value, name) => (options.cpus = atLeast(1, count(value, name), name)),
    "--disk": (value, name) => (options.disk = size(value, name)),
    "--kernel": (value, name) => (options.kernel = oneOf(suites, value, name)),
    "--timeout": (value, name) => (options.timeout = atLeast(1, count(value, name), name)),
    "--results": (value) => (options.results = value),
    "--env": (value, name) => Object.assign(options.env, variable(value, name, host.env)),
  };
  const flags: Record<string, () => void> = {
    "--systemd": () => (options.systemd = true),
    "--icount": () => (options.icount = true),
    "--shell": () => (options.shell = true),
    "--console": () => (options.console = true),
  };
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    if (word === "--") break;
    if (!word.startsWith("-")) {
      rest.unshift(word);
      break;
    }
    const [name, inline] = split(word);
    if (flags[name] && inline === undefined) flags[name]();
    else if (valued[name]) {
      const value = inline ?? rest.shift();
      if (value === undefined) throw new UsageError(`${name}: no value`);
      valued[name](value, name);
    } else throw new UsageError(`unknown option ${word}`);
  }
  options.command = rest;
  if (rest.length === 0 && !options.shell) throw new UsageError("no command");
  // With counted instructions QEMU runs all CPUs in one thread, in turns that are not reproducible.
  if (options.icount) options.cpus = 1;
  return options;
}

function split(word: string): [string, string | undefined] {
  const at = word.indexOf("=");
  return at < 0 ? [word, undefined] : [word.slice(0, at), word.slice(at + 1)];
}

function count(value: string, name: string): number {
  if (!/^\d{1,9}$/.test(value)) throw new UsageError(`${name}: ${value} is no number`);
  return Number(value);
}

/** MiB of "512", "512M" or "4G". */
function size(value: string, name: string): number {
  const match = /^(\d{1,7})([MG]?)$/.exec(value);
  if (!match) throw new UsageError(`${name}: ${value} is no size: 512M or 4G`);
  return Number(match[1]) * (match[2] === "G" ? 1024 : 1);
}

function atLeast(least: number, value: number, name: string): number {
  if (value < least) throw new UsageError(`${name}: ${value} is less than ${least}`);
  return value;
}

function oneOf(all: readonly string[], value: string, name: string): string {
  if (!all.includes(value)) throw new UsageError(`${name}: ${value} is none of ${all.join(", ")}`);
  return value;
}

function variable(text: string, name: string, from: Readonly<Record<string, string | undefined>>) {
  const [variableName, value = from[variableName]] = split(text);
  if (!/^[A-Za-z_]\w*$/.test(variableName))
    throw new UsageError(`${name}: ${variableName} names no variable`);
  if (value === undefined) throw new UsageError(`${name}: ${variableName} is not set`);
  return { [variableName]: value };
}
