import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { parseArgs } from "node:util";
import { writeNetwork } from "../../support/cni";
import { command } from "../../support/command";
import type { CriClient } from "../../support/cri-client";
import { destroyCgroup, type Host, privateHost } from "../../support/host";
import { busyboxImage, compileStatic, pauseImage, writeDockerArchive } from "../../support/images";
import { type Need, present } from "../../support/needs";
import { type Containerd, peers, repository } from "../../support/peers";
import { endPod, exec, type PodPlan, type RunningPod, startPod } from "../../support/pod-plan";
import { processesNaming } from "../../support/processes";
import { compare, figures, machine, ms } from "../figures";
import { startContainerd } from "./containerd";
import { type CriContender, overheadKiB } from "./contender";
import { type LoopDelay, loopDelay, startIsopod } from "./isopod";

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
    await removeCgroups().catch((error: unknown) => console.error(error));
    fs.rmSync(dir, { recursive: true, force: true });
  }
}

/** The pods' parent in every hierarchy: what pods left there dies. */
async function removeCgroups(): Promise<void> {
  await destroyCgroup(cgroupParent);
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
  const calls = new Map(all.map(({ name }) => [name, new Map<string, number[]>()]));
  const delays: LoopDelay[] = [];
  for (let round = -2; round < n; round++) {
    for (const contender of all) {
      const { name } = contender;
      const cri = round < 0 ? contender.cri : timedCalls(contender.cri, calls.get(name)!);
      const plan: PodPlan = { name: `${network}-${round + 2}`, network, image, cgroupParent };
      const into = (kind: keyof typeof kinds) => (round < 0 ? [] : samples[kind][name]!);
      if (name === "isopod") await loopDelay(contender);
      const pod = await timed(into("start"), startPod(cri, plan));
      await timed(into("exec"), exec(cri, pod, ["/bin/true"]));
      await timed(into("end"), endPod(cri, pod));
      if (name === "isopod" && round >= 0) delays.push(await loopDelay(contender));
    }
  }
  for (const [kind, title] of Object.entries(kinds)) {
    console.log(`${compare(`${title}, ${network} network`, samples[kind as keyof typeof kinds])}\n`);
  }
  for (const [name, times] of calls) {
    const medians = [...times].map(([call, values]) => `${call} ${ms(figures(values).p50)}`);
    console.log(`  ${name}: ${medians.join(", ")} ms`);
  }
  printLoopDelays(delays);
}

/** A client that notes what each call took. */
function timedCalls(cri: CriClient, times: Map<string, number[]>): CriClient {
  return new Proxy(cri, {
    get(target, name: string) {
      const call = target[name as keyof CriClient] as (...args: unknown[]) => Promise<unknown>;
      return (...args: unknown[]) => {
        if (!times.has(name)) times.set(name, []);
        return timed(times.get(name)!, call(...args));
      };
    },
  });
}

function printLoopDelays(delays: readonly LoopDelay[]): void {
  if (delays.length === 0) return;
  const p99 = figures(delays.map((delay) => delay.p99));
  const max = figures(delays.map((delay) => delay.max));
  console.log(
    `  isopod's event loop delay in the life of a pod: p99 ${ms(p99.p50)} (p90 of pods ${ms(p99.p90)}),` +
      ` longest ${ms(max.p50)} (${ms(max.p90)}) ms\n`,
  );
}

/** Pods started per second with eight requests under way at any time. */
async function throughput(all: readonly CriContender[], count = 48, atOnce = 8, runs = 3): Promise<void> {
  const rates: Record<string, number[]> = {};
  const delays: LoopDelay[] = [];
  for (let run = 0; run < runs; run++) {
    for (const contender of all) {
      const { name, cri } = contender;
      const pods: RunningPod[] = [];
      let next = 0;
      const worker = async () => {
        while (next < count) {
          const plan: PodPlan = { name: `many-${run}-${next++}`, network: "host", image, cgroupParent };
          pods.push(await startPod(cri, plan));
        }
      };
      if (name === "isopod") await loopDelay(contender);
      const begin = process.hrtime.bigint();
      await Promise.all(Array.from({ length: atOnce }, worker));
      const seconds = Number(process.hrtime.bigint() - begin) / 1e9;
      if (name === "isopod") delays.push(await loopDelay(contender));
      rates[name] = [...(rates[name] ?? []), count / seconds];
      for (const pod of pods) await endPod(cri, pod);
    }
  }
  for (const [name, values] of Object.entries(rates)) {
    console.log(`${name}: ${figures(values).p50.toFixed(1)} pods started per second, ${atOnce} at once`);
  }
  printLoopDelays(delays);
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
