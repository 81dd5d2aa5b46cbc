import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { type TestContext, test } from "node:test";
import type { CgroupDriver } from "../../src/oci/cgroups-path";
import { capability } from "../support/capabilities";
import { command } from "../support/command";
import { type CriClient, criClient } from "../support/cri-client";
import { cgroup2Mount, destroyCgroup } from "../support/host";
import { busyboxImage } from "../support/images";
import { needs } from "../support/needs";
import { endPod, exec, type RunningPod, startPod } from "../support/pod-plan";
import { importImages } from "../support/pods";
import { isAlive, killAll, processesNaming, until } from "../support/processes";

/**
 * packaging/isopod.service under a systemd that is PID 1: start, reload, stop, crash and watchdog, with a pod
 * that lives through all of them. Only the program's place, the configuration and some times differ from what
 * is shipped.
 */
const root = path.resolve(__dirname, "../../..");
const systemd = needs(capability("systemd"));
const IMAGE = "localhost/busybox:1";
const PATIENCE_MS = 30_000;

interface Service {
  readonly name: string;
  readonly dir: string;
  readonly cri: CriClient;
  readonly driver: CgroupDriver;
  readonly cgroupParent: string;
  systemctl(...args: string[]): Promise<string>;
  show(property: string): Promise<string>;
  pid(): Promise<number>;
  /** Once `property` is what `wanted` says. */
  becomes(property: string, wanted: RegExp): Promise<void>;
}

let count = 0;

async function install(t: TestContext, driver: CgroupDriver, lines: string[] = []): Promise<Service> {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isu-"));
  const name = `isopodtest${process.pid}n${count++}`;
  const unit = `/run/systemd/system/${name}.service`;
  const config = path.join(dir, "config.toml");
  await importImages({ root: path.join(dir, "root"), dir }, [{ name: IMAGE, image: busyboxImage() }]);
  for (const folder of ["cni", "logs", "netns"]) fs.mkdirSync(path.join(dir, folder));
  fs.writeFileSync(
    config,
    `root = "${dir}/root"
state = "${dir}/state"
listen = "unix://${dir}/isopod.sock"
[cgroup]
driver = "${driver}"
[cni]
conf_dir = "${dir}/cni"
netns_dir = "${dir}/netns"
`,
  );
  const shipped = fs.readFileSync(path.join(root, "packaging/isopod.service"), "utf8");
  const program = `${path.join(root, "bin/isopod")} serve --config ${config}`;
  fs.writeFileSync(unit, shipped.replace("/usr/local/bin/isopod serve", program));
  fs.mkdirSync(`${unit}.d`);
  const output = `StandardError=append:${dir}/log`;
  fs.writeFileSync(`${unit}.d/test.conf`, ["[Service]", "RestartSec=100ms", output, ...lines, ""].join("\n"));
  const cri = criClient(path.join(dir, "isopod.sock"));
  const systemctl = async (...args: string[]) =>
    (await command("systemctl", args, { timeoutMs: PATIENCE_MS })).stdout.trim();
  const ask = (property: string) => systemctl("show", "--value", "--property", property, `${name}.service`);
  // An emulated systemd that is busy drops a question now and then: asked again, it answers.
  const show = (property: string) => ask(property).catch(() => ask(property));
  const cgroupParent = driver === "systemd" ? `/${name}.slice` : `/${name}`;
  t.after(async () => {
    cri.close();
    await command("systemctl", ["stop", `${name}.service`], { accept: [0, 5], timeoutMs: PATIENCE_MS });
    // A monitor restarts its server: both go at once.
    await killAll(processesNaming(dir));
    await command("systemctl", ["stop", `${name}.slice`], { accept: [0, 5] });
    await destroyCgroup(cgroupParent);
    fs.rmSync(unit);
    fs.rmSync(`${unit}.d`, { recursive: true });
    await systemctl("daemon-reload");
    fs.rmSync(dir, { recursive: true, force: true });
  });
  await systemctl("daemon-reload");
  return {
    name,
    dir,
    cri,
    driver,
    cgroupParent,
    systemctl: (verb = "", ...args) => systemctl(verb, `${name}.service`, ...args),
    show,
    pid: async () => Number(await show("MainPID")),
    becomes: (property, wanted) =>
      until(async () => wanted.test(await show(property)), `${property} is ${wanted}`, PATIENCE_MS),
  };
}

interface Pod extends RunningPod {
  readonly pid: number;
}

async function podIn({ cri, cgroupParent, dir }: Service): Promise<Pod> {
  const plan = {
    name: "survivor",
    network: "host" as const,
    image: IMAGE,
    cgroupParent,
    command: ["sleep", "100000"],
    logDirectory: path.join(dir, "logs"),
  };
  const pod = await startPod(cri, plan);
  const { info } = await cri.ContainerStatus({ containerId: pod.containerId, verbose: true });
  return { ...pod, pid: (JSON.parse(info!["info"]!) as { pid: number }).pid };
}

/** The very same processes, and they can be talked to. */
async function lives({ cri }: Service, pod: Pod): Promise<void> {
  assert.ok(isAlive(pod.pid), "the container's process");
  await until(
    async () => {
      try {
        return (await exec(cri, pod, ["echo", "here"])) === "here\n";
      } catch {
        return false; // until the daemon is back
      }
    },
    "an exec in the container",
    PATIENCE_MS,
  );
  assert.ok(isAlive(pod.pid), "the container's process");
}

for (const driver of ["cgroupfs", "systemd"] as const)
  test(`a pod lives through reload, crash and stop of its daemon (${driver})`, systemd, async (t) => {
    const service = await install(t, driver);
    await service.systemctl("start");
    // Type=notify: started means that calls are answered.
    const { linux } = await service.cri.RuntimeConfig({});
    assert.equal(linux?.cgroupDriver ?? 0, driver === "systemd" ? 0 : 1);
    assert.equal(await service.show("StatusErrno"), "0");
    const pod = await podIn(service);
    const procs = fs.readFileSync(`/proc/${pod.pid}/cgroup`, "utf8");
    assert.ok(procs.includes(service.cgroupParent), procs);

    const first = await service.pid();
    await service.systemctl("reload");
    await service.becomes("ActiveState", /^active$/);
    assert.equal(await service.pid(), first);
    await lives(service, pod);

    process.kill(first, "SIGKILL");
    await service.becomes("NRestarts", /^1$/);
    await service.becomes("ActiveState", /^active$/);
    const second = await service.pid();
    assert.notEqual(second, first);
    await lives(service, pod);

    await service.systemctl("stop");
    assert.equal(await service.show("Result"), "success");
    assert.equal(await service.show("ActiveState"), "inactive");
    assert.ok(!isAlive(second));
    assert.ok(isAlive(pod.pid), "the pod runs without a daemon");
    await service.systemctl("start");
    await lives(service, pod);
    await endPod(service.cri, pod);
    assert.ok(!isAlive(pod.pid));
    const left = path.join(cgroup2Mount()!, service.cgroupParent, driver === "systemd" ? "" : pod.podId);
    if (driver === "cgroupfs") assert.ok(!fs.existsSync(left), left);
    else
      assert.deepEqual(
        fs.readdirSync(left).filter((name) => name.endsWith(".scope")),
        [],
      );
  });

test(
  "a daemon whose event loop hangs is ended by the watchdog and comes back; its pod lives",
  systemd,
  async (t) => {
    const service = await install(t, "systemd", ["WatchdogSec=10s"]);
    await service.systemctl("start");
    const pod = await podIn(service);
    const hung = await service.pid();
    process.kill(hung, "SIGSTOP");
    await service.becomes("NRestarts", /^1$/);
    await service.becomes("ActiveState", /^active$/);
    assert.notEqual(await service.pid(), hung);
    await lives(service, pod);
    await endPod(service.cri, pod);
  },
);

test("with the systemd driver the daemon says at once that systemd cannot be talked to", async (t) => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isu-"));
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }));
  const config = path.join(dir, "config.toml");
  fs.writeFileSync(
    config,
    `root = "${dir}/root"\nstate = "${dir}/state"\nlisten = "unix://${dir}/s"\n[cgroup]\ndriver = "systemd"\n`,
  );
  // Where neither of its sockets is.
  const script = `mount -t tmpfs none /run && exec ${path.join(root, "bin/isopod")} serve --config ${config}`;
  const { stderr } = await command("unshare", ["--mount", "sh", "-c", script], { accept: [1] });
  assert.match(stderr, /cgroup\.driver: \\"systemd\\": connecting to systemd .*private.*: no such file/);
});
