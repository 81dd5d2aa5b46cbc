import * as fs from "node:fs";
import * as path from "node:path";
import { errnoOf, messageOf } from "../base/errors";
import { native } from "../native";
import { check, type Finding, type HostReport } from "../runtime";
import { apparmorParser } from "../sandbox";
import type { Config } from "./config";
import { programDirs } from "./installation";
import { systemdVersion } from "./systemd";

/** What the library's check says of the host, and what the daemon needs besides. */
export async function report(config: Config): Promise<HostReport> {
  const host = check();
  const findings = [...host.findings];
  if (host.kernel !== "") findings.push(await systemdFinding(config), await shimFinding());
  if (host.kernel !== "" && native().features().apparmor) findings.push(apparmorFinding());
  findings.push(overlayFinding(), networkFinding(config), pluginFinding(config));
  return { ...host, findings, ok: findings.every(({ level }) => level !== "error") };
}

/** Which cgroup drivers there are, and whether the one that is configured is among them. */
async function systemdFinding({ cgroup: { driver } }: Config): Promise<Finding> {
  const name = "cgroup-driver";
  // sd_booted(3): without this directory it is installed at most.
  const booted = fs.existsSync("/run/systemd/system");
  const advice =
    driver === "systemd"
      ? { level: "error" as const, cure: 'set [cgroup] driver = "cgroupfs", or boot with systemd' }
      : { level: "ok" as const };
  if (!booted) return { name, ...advice, detail: `${driver}; systemd is not PID 1 here` };
  try {
    const version = await systemdVersion();
    if (driver === "systemd") return { name, level: "ok", detail: `systemd ${version}` };
    return {
      name,
      level: "warning",
      detail: `cgroupfs, beside systemd ${version}, which takes the hierarchy for its own`,
      cure: 'set [cgroup] driver = "systemd", here and for kubelet',
    };
  } catch (error) {
    const detail = `${driver}; systemd is PID 1, but: ${messageOf(error)}`;
    return { name, ...advice, detail, cure: "apt-get install libsystemd0" };
  }
}

/** The shim looks for its bundle and for node itself (R1): it is asked, so that the answer is the real one. */
async function shimFinding(): Promise<Finding> {
  const name = "shim";
  const file = shimBinary();
  const cure = "run `npm run build`";
  if (file === undefined)
    return { name, level: "error", detail: "containerd-shim-isopod-v2 is missing", cure };
  try {
    const env = Object.entries(process.env).map(([key, value]) => `${key}=${value ?? ""}`);
    const ran = await native().spawn({
      file,
      args: ["-info"],
      env,
      stdin: new Uint8Array(),
      timeoutMs: 10_000,
    });
    if (ran.status === 0) return { name, level: "ok", detail: file };
    return { name, level: "error", detail: `${file}: ${ran.stderr.toString().trim()}`, cure };
  } catch (error) {
    return { name, level: "error", detail: `${file}: ${messageOf(error)}`, cure };
  }
}

const shimBinary = (): string | undefined =>
  programDirs()
    .map((directory) => path.join(directory, "containerd-shim-isopod-v2"))
    .find((file) => fs.existsSync(file));

/** Only where the kernel has it: a host without AppArmor lacks nothing. */
function apparmorFinding(): Finding {
  const parser = apparmorParser();
  return parser !== undefined
    ? { name: "apparmor", level: "ok", detail: parser }
    : {
        name: "apparmor",
        level: "warning",
        detail: "no apparmor_parser: containers run without the default profile",
        cure: "apt-get install apparmor",
      };
}

function overlayFinding(): Finding {
  const known = /\boverlay$/m.test(fs.readFileSync("/proc/filesystems", "utf8"));
  return known
    ? { name: "overlay", level: "ok", detail: "known to the kernel" }
    : {
        name: "overlay",
        level: "error",
        detail: "the kernel has no overlay file system: images cannot be mounted",
        cure: "modprobe overlay",
      };
}

/** Without a network only pods on the host's network run. */
function networkFinding({ cni }: Config): Finding {
  const name = "cni";
  try {
    const [first] = fs
      .readdirSync(cni.conf_dir)
      .filter((file) => /\.(conf|conflist|json)$/.test(file))
      .sort();
    if (first !== undefined) return { name, level: "ok", detail: path.join(cni.conf_dir, first) };
  } catch (error) {
    if (errnoOf(error) !== "ENOENT") return { name, level: "warning", detail: messageOf(error) };
  }
  return {
    name,
    level: "warning",
    detail: `no network configuration in ${cni.conf_dir}: only pods on the host's network run`,
    cure: "install your cluster's network add-on, or write a .conflist there",
  };
}

function pluginFinding({ cni }: Config): Finding {
  const found = cni.bin_dirs.find((directory) => fs.existsSync(path.join(directory, "host-local")));
  return found
    ? { name: "cni-plugins", level: "ok", detail: found }
    : {
        name: "cni-plugins",
        level: "warning",
        detail: `no reference plugins in ${cni.bin_dirs.join(" or ")}`,
        cure: "apt-get install containernetworking-plugins",
      };
}

/** One line a finding, the cure below it. */
export function reportText({ ok, kernel, arch, findings }: HostReport): string {
  const mark = { ok: "ok     ", warning: "warning", error: "ERROR  " };
  const lines = findings.flatMap(({ name, level, detail, cure }) => [
    `${mark[level]} ${name}: ${detail}`,
    ...(cure === undefined ? [] : [`        cure: ${cure}`]),
  ]);
  const verdict = ok ? "this host can run containers" : "this host cannot run containers";
  return [...lines, `${verdict} (Linux ${kernel || "?"}, ${arch})`].join("\n");
}
