import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { leasedAddresses } from "../support/cni";
import { type Daemon, importImages, startDaemon } from "../support/daemon";
import { cgroup2Mount, onHost, privateHost } from "../support/host";
import { busyboxImage, writeDockerArchive } from "../support/images";
import { inventory, leaks } from "../support/leaks";
import { present } from "../support/needs";
import { peers } from "../support/peers";
import { containerConfig, exec, type PodPlan, podConfig } from "../support/pod-plan";
import { killAll, until } from "../support/processes";
import { Story } from "./story";

/**
 * What `npm start` shows: isopod from nothing to a running pod and back to nothing. It all happens in a
 * mount and a network namespace of its own, so this machine sees no bridge, no rule, no mount; the files lie
 * in one temporary folder. Exit code 0 means that all worked and nothing was left.
 */
const image = "localhost/hello:1";
const script =
  'echo "hello from $(hostname), pid $$"; echo "and a word on stderr" >&2; exec httpd -f -p 80 -h /www';

async function main(): Promise<void> {
  const story = new Story();
  const files = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-demo-"));
  try {
    const { binDir } = await story.step("fetch the CNI plugins", async () => present(peers.cni()));
    story.say(`from the cache: ${binDir}`);
    await using host = await story.step("make a host of our own", () => privateHost());
    story.say("a mount and a network namespace: this machine sees nothing of what follows");
    const archive = path.join(files, "hello.tar");
    await story.step("assemble an image", async () => assemble(archive));
    story.say(`${image}: busybox and a web page, two layers, ${kib(fs.statSync(archive).size)}`);
    await using daemon = await startDaemon({ host, cni: true, start: false });
    const [imported] = await story.step("import it", () => importImages(daemon, archive));
    story.say(`${imported!.id.slice(0, 19)}…: digests verified, layers unpacked into overlay snapshots`);
    const scope = {
      pid: host.pid,
      cgroups: [path.join(cgroup2Mount() ?? "/sys/fs/cgroup", daemon.cgroupParent)],
      // What lies below these, not they themselves: the daemon keeps its folders.
      dirs: ["bundles", "pods", "s"]
        .map((name) => path.join(daemon.state, name))
        .concat(path.join(daemon.dir, "netns"), path.join(daemon.root, "images")),
      watched: () => ({}),
    };
    await story.step("isopod serve", () => daemon.start());
    story.say(`unix://${daemon.socket}`);
    const before = await inventory(scope);
    await pod(story, daemon, path.join(files, "logs"));
    await story.step("stop isopod and its shim server", () => end(daemon));
    await daemon.network!.remove();
    // What is gone, such as the daemon itself, is gone rightly.
    const found = await leaks(before, scope, { onlyMore: true });
    const left = [...found, ...leasedAddresses(daemon.network!)];
    story.say(`looked for mounts, links, rules, cgroups, processes, files, leases: ${left.length} left`);
    for (const line of left) story.say(line);
    if (left.length > 0) process.exitCode = 1;
  } catch (error) {
    story.failed(error);
    process.exitCode = 1;
  } finally {
    fs.rmSync(files, { recursive: true, force: true });
  }
  story.end();
}

function assemble(archive: string): void {
  const page = [{ path: "www/" }, { path: "www/index.html", data: "a page from the pod\n" }];
  const built = busyboxImage({ Cmd: ["sh", "-c", script], StopSignal: "SIGTERM" }, page);
  writeDockerArchive(archive, [{ tags: [image], image: built }]);
}

/** The life of a pod, call by call. */
async function pod(story: Story, daemon: Daemon, logDirectory: string): Promise<void> {
  const { cri, cgroupParent } = daemon;
  const plan: PodPlan = { name: "hello", network: "bridge", image, cgroupParent, logDirectory };
  fs.mkdirSync(logDirectory);
  const version = await story.step("Version", () => cri.Version({}));
  story.say(`${version.runtimeName} ${version.runtimeVersion}, CRI ${version.runtimeApiVersion}`);

  const config = podConfig(plan);
  const { podSandboxId } = await story.step("RunPodSandbox", () => cri.RunPodSandbox({ config }));
  const { status } = await cri.PodSandboxStatus({ podSandboxId });
  const address = status?.network?.ip ?? "";
  story.say(`pod ${podSandboxId.slice(0, 12)}, address ${address}`);
  const { containerId } = await story.step("CreateContainer", () =>
    cri.CreateContainer({ podSandboxId, config: containerConfig(plan), sandboxConfig: config }),
  );
  await story.step("StartContainer", () => cri.StartContainer({ containerId }));

  const log = path.join(logDirectory, "main.log");
  await story.step("its log", () => until(() => lines(log).length >= 2, "two lines in the container's log"));
  for (const line of lines(log)) story.say(line);
  const running = { plan, podId: podSandboxId, containerId };
  const output = await story.step("ExecSync ps", () => exec(cri, running, ["ps"]));
  for (const line of output.trimEnd().split("\n")) story.say(line);
  const fetch = () => onHost(daemon.host, "busybox", ["wget", "-qO-", `http://${address}/`]);
  const page = await story.step("fetch a page from the pod", fetch);
  story.say(page.stdout.trim());
  const { stats } = await story.step("ContainerStats", () => cri.ContainerStats({ containerId }));
  const cpu = Number(stats?.cpu?.usageCoreNanoSeconds?.value ?? 0);
  const memory = stats?.memory?.workingSetBytes?.value;
  story.say(
    `cpu ${(cpu / 1e6).toFixed(1)} ms, memory ${memory ? kib(Number(memory)) : "not counted on this host"}`,
  );

  await story.step("StopContainer", () => cri.StopContainer({ containerId }));
  await story.step("RemoveContainer", () => cri.RemoveContainer({ containerId }));
  await story.step("StopPodSandbox", () => cri.StopPodSandbox({ podSandboxId }));
  await story.step("RemovePodSandbox", () => cri.RemovePodSandbox({ podSandboxId }));
}

/** The shim server stays for ten minutes in case another daemon comes; here none does. */
async function end(daemon: Daemon): Promise<void> {
  await daemon.stop();
  const servers = [...daemon.servers(), ...daemon.monitors()];
  for (const pid of servers) process.kill(pid, "SIGTERM");
  const gone = () => [...daemon.servers(), ...daemon.monitors()].length === 0;
  await until(gone, "the shim server and its monitor ended at SIGTERM", 5000).catch(
    async (error: unknown) => {
      await killAll(servers);
      throw error;
    },
  );
}

const lines = (file: string): string[] =>
  fs.existsSync(file)
    ? fs
        .readFileSync(file, "utf8")
        .trimEnd()
        .split("\n")
        .filter((line) => line !== "")
    : [];

const kib = (bytes: number): string => `${Math.round(bytes / 1024)} KiB`;

void main();
