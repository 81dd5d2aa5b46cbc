import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { parseArgs } from "node:util";
import { writeNetwork } from "../../support/cni";
import { command } from "../../support/command";
import { type Host, privateHost } from "../../support/host";
import { busyboxImage, compileStatic, pauseImage, writeDockerArchive } from "../../support/images";
import { type Need, present } from "../../support/needs";
import { type Containerd, peers, repository } from "../../support/peers";
import { endPod, exec, type PodPlan, type RunningPod, startPod } from "../../support/pod-plan";
import { processesNaming } from "../../support/processes";
import { compare, figures, machine } from "../figures";
import { startContainerd } from "./containerd";
import { type CriContender, overheadKiB } from "./contender";
import { loopDelay, startIsopod } from "./isopod";

/**
 * bench:cri: the same CRI requests to our daemon and to a private containerd, one pod here, one pod there,
 * in the same run and in the same private host.
 */
/** One for all contenders: pods of both lie below, none at the same time. */
const cgroupParent = `/isopod-bench-${process.pid}`;
const image = "localhost/bench:1";
const pause = "localhost/pause:1";

type Peer = { version: "1.6" | "2.4"; title: string; containerd: Containerd; runtime: string };

function peerNamed(name: string): Need<Peer> {
  const both = <T>(first: Need<Containerd>, second: Need<T>, make: (c: Containerd, r: T) => Peer) => {
    const missing = [first, second].flatMap((need) => (need.missing === undefined ? [] : [need.missing]));
    return missing.length > 0 ? { missing: missing.join("; ") } : make(present(first), present(second));
  };
  if (name === "1.6") {
    return both(peers.containerd(), peers.runc(), (containerd, { runc }) => {
      return { version: "1.6", title: "containerd 1.6.20", containerd, runtime: runc };
    });
  }
  if (name === "2.4") {
    return both(peers.containerd24(), peers.runc15(), (containerd, { runc }) => {
      return { version: "2.4", title: "containerd 2.4.2", containerd, runtime: runc };
    });
  }
  if (name === "2.4+crun") {
    return both(peers.containerd24(), peers.crun(), (containerd, { crun }) => {
      return { version: "2.4", title: "containerd 2.4.2 + crun", containerd, runtime: crun };
    });
  }
  return { missing: `--peer ${name}: one of 1.6, 2.4, 2.4+crun` };
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      peer: { type: "string", default: "1.6" },
      n: { type: "string", default: "30" },
      idle: { type: "string", default: "20" },
      only: { type: "string" },
    },
  });
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "ibc-"));
  // runc runs on the machine's own hierarchies, crun only where cgroup2 is all there is.
  const unified = values.peer.endsWith("crun");
  await using host = await privateHost({ unified });
  const all: CriContender[] = [];
  try {
    await everybody(all, host, dir, values.peer, values.only);
    console.log(`${machine()}\n`);
    for (const network of ["host", "bridge"] as const) await rounds(all, network, Number(values.n));
    await throughput(all);
    await memory(all, Number(values.idle));
  } finally {
    for (const contender of all) await contender.stop();
    removeCgroups();
    fs.rmSync(dir, { recursive: true, force: true });
  }
}

/** The pods' parent in every hierarchy: pods removed, nobody else's business. */
function removeCgroups(): void {
  for (const name of fs.readdirSync("/sys/fs/cgroup")) {
    const parent = path.join("/sys/fs/cgroup", name, cgroupParent);
    if (fs.existsSync(parent)) fs.rmdirSync(parent);
  }
}

/** Adds each to `all` as soon as it runs, so that it is stopped whatever happens next. */
async function everybody(
  all: CriContender[],
  host: Host,
  dir: string,
  peerName: string,
  only: string | undefined,
): Promise<void> {
  const archive = path.join(dir, "image.tar");
  const pauseArchive = path.join(dir, "pause.tar");
  writeDockerArchive(archive, [{ tags: [image], image: await benchImage() }]);
  writeDockerArchive(pauseArchive, [{ tags: [pause], image: await pauseImage() }]);
  if (only === undefined || "isopod".includes(only)) {
    all.push(await startIsopod(host, archive));
  }
  const peer = peerNamed(peerName);
  if (peer.missing !== undefined) console.log(`no peer: ${peer.missing}`);
  else if (only === undefined || peer.title.includes(only)) {
    const theirs = path.join(dir, "c");
    const network = writeNetwork(theirs, { host });
    const settings = { dir: theirs, host, peer: peer.containerd, version: peer.version, network };
    const runtime = peer.runtime.endsWith("/crun") ? await withoutShares(dir, peer.runtime) : peer.runtime;
    const daemon = await startContainerd({ ...settings, runtime, pauseImage: pause });
    const shims = () => processesNaming(theirs).filter((pid) => pid !== daemon.pid);
    all.push({ name: peer.title, cri: daemon.cri, pid: daemon.pid, shims, stop: daemon.stop });
    await daemon.importImage(archive);
    await daemon.importImage(pauseArchive);
  }
}

/** See without-shares.c. */
async function withoutShares(dir: string, runtime: string): Promise<string> {
  const program = path.join(dir, "crun");
  const source = path.join(repository, "test/bench/cri/without-shares.c");
  await command("gcc", ["-O2", "-static", `-DRUNTIME="${runtime}"`, "-o", program, source]);
  return program;
}

/** busybox, and a program that waits for SIGTERM, so that stopping costs no grace period. */
async function benchImage() {
  const source = `
    #include <signal.h>
    #include <unistd.h>
    static void end(int s) { (void)s; _exit(0); }
    int main(void) { signal(SIGTERM, end); for (;;) pause(); }`;
  return busyboxImage({ Cmd: ["/bin/wait"] }, [
    { path: "bin/wait", mode: 0o755, data: await compileStatic("wait", source) },
  ]);
}

const timed = async <T>(into: number[], work: Promise<T>, begin = process.hrtime.bigint()): Promise<T> => {
  const value = await work;
  into.push(Number(process.hrtime.bigint() - begin));
  return value;
};

async function rounds(all: readonly CriContender[], network: PodPlan["network"], n: number): Promise<void> {
  const kinds = { start: "RunPodSandbox+Create+Start", exec: "ExecSync /bin/true", end: "stop and remove" };
  const samples: Record<keyof typeof kinds, Record<string, number[]>> = { start: {}, exec: {}, end: {} };
  for (const kind of Object.values(samples)) for (const { name } of all) kind[name] = [];
  await resetLoopDelay(all);
  for (let round = -2; round < n; round++) {
    for (const { name, cri } of all) {
      const plan: PodPlan = { name: `${network}-${round + 2}`, network, image, cgroupParent };
      const into = (kind: keyof typeof kinds) => (round < 0 ? [] : samples[kind][name]!);
      const pod = await timed(into("start"), startPod(cri, plan));
      await timed(into("exec"), exec(cri, pod, ["/bin/true"]));
      await timed(into("end"), endPod(cri, pod));
    }
  }
  for (const [kind, title] of Object.entries(kinds)) {
    console.log(`${compare(`${title}, ${network} network`, samples[kind as keyof typeof kinds])}\n`);
  }
  await printLoopDelay(all);
}

const ourselves = (all: readonly CriContender[]) => all.filter(({ name }) => name === "isopod");

async function resetLoopDelay(all: readonly CriContender[]): Promise<void> {
  for (const contender of ourselves(all)) await loopDelay(contender);
}

async function printLoopDelay(all: readonly CriContender[]): Promise<void> {
  for (const contender of ourselves(all)) {
    const { p50, p99, max } = await loopDelay(contender);
    const values = [p50, p99, max].map((value) => value.toFixed(2));
    console.log(`isopod: event loop delay p50 ${values[0]}, p99 ${values[1]}, max ${values[2]} ms\n`);
  }
}

/** Pods started per second with eight requests under way at any time. */
async function throughput(all: readonly CriContender[], count = 48, atOnce = 8, runs = 3): Promise<void> {
  const rates: Record<string, number[]> = {};
  await resetLoopDelay(all);
  for (let run = 0; run < runs; run++) {
    for (const { name, cri } of all) {
      const pods: RunningPod[] = [];
      let next = 0;
      const worker = async () => {
        while (next < count) {
          const plan: PodPlan = { name: `many-${run}-${next++}`, network: "host", image, cgroupParent };
          pods.push(await startPod(cri, plan));
        }
      };
      const begin = process.hrtime.bigint();
      await Promise.all(Array.from({ length: atOnce }, worker));
      const seconds = Number(process.hrtime.bigint() - begin) / 1e9;
      rates[name] = [...(rates[name] ?? []), count / seconds];
      for (const pod of pods) await endPod(cri, pod);
    }
  }
  for (const [name, values] of Object.entries(rates)) {
    console.log(`${name}: ${figures(values).p50.toFixed(1)} pods started per second, ${atOnce} at once`);
  }
  await printLoopDelay(all);
}

/** Private_Dirty of daemon and shims per further idle pod. */
async function memory(all: readonly CriContender[], count: number): Promise<void> {
  for (const contender of all) {
    const pods: RunningPod[] = [];
    const start = async (number: number) => {
      pods.push(
        await startPod(contender.cri, { name: `idle-${number}`, network: "host", image, cgroupParent }),
      );
    };
    await start(0);
    await settle();
    const first = overheadKiB(contender);
    for (let number = 1; number <= count; number++) await start(number);
    await settle();
    const last = overheadKiB(contender);
    const each = ((last - first) / count / 1024).toFixed(3);
    const total = [first, last].map((value) => (value / 1024).toFixed(1)).join(" → ");
    console.log(`${contender.name}: ${each} MiB Private_Dirty per further idle pod (${total} MiB)`);
    for (const pod of pods) await endPod(contender.cri, pod);
  }
}

const settle = () => new Promise((resolve) => setTimeout(resolve, 2000));

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
