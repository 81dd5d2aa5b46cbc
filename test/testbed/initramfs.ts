import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { repository } from "../support/peers";
import type { Options } from "./arguments";
import { cpio, directory, type Entry, file } from "./cpio";
import { type Kernel, readModules } from "./kernel";
import type { Wanted } from "./modules";

/**
 * What the host's root and disk need, and what nothing loads on demand since its users look for a device
 * first. From here they load in a tenth of the time that modprobe takes over 9p.
 */
const wanted: readonly Wanted[] = [
  { name: "virtio_pci" },
  { name: "virtio_console" },
  { name: "9pnet_virtio" },
  { name: "9p" },
  { name: "overlay" },
  { name: "virtio_blk" },
  // ext4 asks for it by an alias that only modprobe understands; zram likewise for its compressor.
  { name: "crc32c_generic", optional: true },
  { name: "lzo_rle", optional: true },
  { name: "ext4" },
  { name: "zram" },
  { name: "virtio_rng", optional: true },
  { name: "tun" },
  { name: "fuse" },
  { name: "loop" },
  { name: "kvm_amd" },
  { name: "vhost_vsock" },
  { name: "vsock_loopback" },
];

const busybox = "/bin/busybox";
const guest = path.join(repository, "test/testbed/guest");

/** The whole first file system: programs, modules and the job, about 10 MB; made anew for each run. */
export function initramfs(
  options: Options,
  from: Kernel,
  job: { directory: string; env: Environment },
): Buffer {
  if (!fs.existsSync(busybox)) throw new Error(`no ${busybox}: install busybox-static`);
  const modules = readModules(from, wanted);
  const scripts = fs.readdirSync(guest).filter((name) => name !== "init");
  const entries: Entry[] = [
    ...["bin", "dev", "proc", "sys", "modules", "job"].map(directory),
    file("bin/busybox", fs.readFileSync(busybox), true),
    file("init", fs.readFileSync(path.join(guest, "init")), true),
    file("modules/order", modules.map(({ name }) => `${name}\n`).join("")),
    ...modules.map(({ name, data }) => file(`modules/${name}`, data)),
    ...scripts.map((name) =>
      file(`job/${name}`, fs.readFileSync(path.join(guest, name)), path.extname(name) === ""),
    ),
    file("job/settings", settings(options, from, job)),
    file("job/job", jobScript(options, job), true),
  ];
  return cpio(entries);
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Variables for the guest's shell scripts; empty means no. */
function settings(options: Options, from: Kernel, job: { directory: string; env: Environment }): string {
  const values = {
    directory: job.directory,
    cache: path.join(job.env["XDG_CACHE_HOME"] ?? path.join(os.homedir(), ".cache"), "isopod-peers"),
    modules: from.modules,
    disk: options.disk > 0 ? "vda" : "",
    systemd: options.systemd ? "yes" : "",
    shell: options.shell ? "yes" : "",
  };
  return Object.entries(values)
    .map(([name, value]) => `${name}=${quoted(value)}\n`)
    .join("");
}

/** They mean something on the host only, or make each Node of the guest start slowly. */
const left = new Set([
  "NODE_OPTIONS",
  "NODE_EXTRA_CA_CERTS",
  "NODE_TEST_CONTEXT",
  "TMPDIR",
  "PWD",
  "OLDPWD",
  "SHLVL",
  "XDG_RUNTIME_DIR",
  "DBUS_SESSION_BUS_ADDRESS",
  "SSH_AUTH_SOCK",
  "_",
]);

/** The command as a shell script: the environment given, the host's own directory, then the command itself. */
export function jobScript(
  options: Pick<Options, "command" | "env" | "shell">,
  job: { readonly directory: string; readonly env: Environment },
): string {
  const inherited = Object.entries(job.env).filter(
    ([name, value]) => value !== undefined && /^[A-Za-z_]\w*$/.test(name) && !left.has(name),
  );
  const env = {
    ...Object.fromEntries(inherited),
    ISOPOD_TESTBED: "1",
    ISOPOD_RESULTS: "/run/isopod-testbed/results",
    ...options.env,
  };
  const command = options.command.length > 0 ? options.command : ["bash", "-l"];
  return [
    "#!/bin/sh",
    ...Object.entries(env).map(([name, value]) => `export ${name}=${quoted(value!)}`),
    `cd ${quoted(job.directory)} || exit 125`,
    `exec ${command.map(quoted).join(" ")}`,
    "",
  ].join("\n");
}

/** One word for a POSIX shell, whatever it holds. */
export function quoted(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}
