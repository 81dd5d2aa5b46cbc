import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { parseArgs } from "node:util";
import { command } from "../../support/command";
import { peers } from "../../support/peers";
import { compare, figures, machine, ms } from "../figures";
import { type Bundle, renew, writeBundle } from "./bundle";
import { CommandLine, type Contender, harnessSource, type Launch } from "./contender";
import { Library } from "./library";

/**
 * bench:launch: the same bundle by isopod in this process and by runc and crun from the C harness, one after
 * the other in every round, so that whatever else the machine does meets all of them alike. Each round's
 * config.json is new to everybody, as a pod's is; a second table runs one that does not change, whose parsed
 * spec and plan isopod keeps. With --limits
 * only the launch, of a container with limits: a machine whose cgroup2 has the controllers, such as the testbed.
 */
async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      n: { type: "string", default: "40" },
      mounts: { type: "string", default: "4000" },
      only: { type: "string" },
      limits: { type: "boolean", default: false },
    },
  });
  const rounds = Number(values.n);
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-bench-"));
  const harness = path.join(dir, "harness");
  await command("gcc", ["-O2", "-o", harness, harnessSource()]);
  const cgroup = `/isopod-bench-${process.pid}`;
  const launched = writeBundle(path.join(dir, "true"), ["/bin/true"], `${cgroup}-true`, values.limits);
  const contenders = await everybody(dir, harness, values.only);
  const tool = new CommandLine("tool", harness, "/bin/true", path.join(dir, "tool"));
  try {
    console.log(machine());
    if (values.limits) console.log("with limits of memory, swap, pids, cpu weight and quota");
    console.log(`config.json sha256 ${launched.sha256.slice(0, 16)}, ${rounds} interleaved rounds\n`);
    await launches("create+start+wait+delete", contenders, launched, rounds, { fresh: true, tool });
    if (values.limits) return;
    await launches("the same, an unchanged bundle", contenders, launched, rounds);
    await execs(contenders, path.join(dir, "sleep"), cgroup, rounds);
    const many = path.join(dir, "mounts");
    fs.mkdirSync(many);
    await tool.ask(`mounts ${values.mounts} ${many}`);
    await launches(`the same, ${values.mounts} host mounts`, contenders, launched, rounds, { fresh: true });
    const isopod = contenders.find(({ name }) => name === "isopod");
    if (isopod) await alone(`${values.mounts} host mounts`, isopod, launched, rounds);
    await tool.ask(`unmount ${many}`);
    if (isopod) await alone("no further mounts", isopod, launched, rounds);
  } finally {
    for (const contender of [...contenders, tool]) await contender.close();
    fs.rmSync(dir, { recursive: true, force: true });
  }
}

/** Ours first: the others' ratios are to it. */
async function everybody(dir: string, harness: string, only: string | undefined): Promise<Contender[]> {
  const contenders: Contender[] = [new Library()];
  const runc = peers.runc();
  const crun = peers.crun();
  for (const [name, peer] of [
    ["runc 1.1.5", runc.missing === undefined ? runc.runc : runc],
    ["crun 1.28", crun.missing === undefined ? crun.crun : crun],
  ] as const) {
    if (typeof peer !== "string") console.log(`${name}: not here: ${peer.missing}`);
    else contenders.push(new CommandLine(name, harness, peer, path.join(dir, name.split(" ")[0]!)));
  }
  return only === undefined ? contenders : contenders.filter(({ name }) => name.includes(only));
}

const WARM_UP = 50;

async function launches(
  title: string,
  contenders: readonly Contender[],
  bundle: Bundle,
  rounds: number,
  { fresh, tool }: { fresh?: boolean; tool?: CommandLine } = {},
): Promise<void> {
  const samples = new Map<string, Launch[]>(contenders.map(({ name }) => [name, []]));
  const spawns: number[] = [];
  // A shim server has launched before, and V8 has compiled it; the peers are new processes every time.
  for (const contender of contenders) {
    for (let i = 0; i < (contender.name === "isopod" ? WARM_UP : 1); i++) {
      if (fresh) renew(bundle, -i);
      await contender.launch(bundle.dir);
    }
  }
  for (let round = 0; round < rounds; round++) {
    for (const contender of contenders) {
      if (fresh) renew(bundle, round);
      // One monitor a launch: what the loop does between our launches, waiting, would dilute it.
      samples.get(contender.name)!.push(await contender.launch(bundle.dir));
    }
    if (tool !== undefined) spawns.push((await tool.ask("spawn /bin/true"))[0]!);
  }
  const totals = [...samples].map(([name, all]) => [name, all.map((one) => one.total)] as const);
  console.log(`${compare(title, Object.fromEntries(totals))}\n`);
  for (const [name, all] of samples) {
    const parts = Object.keys(all[0]?.parts ?? {});
    const medians = parts.map((part) => `${part} ${ms(figures(all.map((one) => one.parts[part]!)).p50)}`);
    console.log(`  ${name}: ${medians.join(", ")} ms`);
  }
  if (spawns.length > 0) console.log(`  an empty spawn costs ${ms(figures(spawns).p50)} ms`);
  console.log("");
}

/**
 * isopod with nobody in between: what thousands of host mounts cost itself, without the caches that its
 * peers leave behind when their copies of the mount table go. With the event loop's delay.
 */
async function alone(title: string, isopod: Contender, bundle: Bundle, rounds: number): Promise<void> {
  const totals: number[] = [];
  const delays: number[] = [];
  for (let round = 0; round < rounds; round++) totals.push((await isopod.launch(bundle.dir)).total);
  for (let round = 0; round < rounds; round++) {
    const delay = monitorEventLoopDelay({ resolution: 1 });
    delay.enable();
    await isopod.launch(bundle.dir);
    delay.disable();
    delays.push(Math.max(0, delay.max - 1e6));
  }
  const { p10, p50, p90 } = figures(totals);
  const blocked = figures(delays);
  console.log(`isopod alone, ${title}: p10 ${ms(p10)}, p50 ${ms(p50)}, p90 ${ms(p90)} ms`);
  console.log(
    `  event loop delay, the longest of each launch: p50 ${ms(blocked.p50)}, p90 ${ms(blocked.p90)} ms\n`,
  );
}

async function execs(
  contenders: readonly Contender[],
  dir: string,
  cgroup: string,
  rounds: number,
): Promise<void> {
  const samples: Record<string, number[]> = {};
  const up: Contender[] = [];
  try {
    for (const contender of contenders) {
      const name = contender.name.split(" ")[0]!;
      await contender.up(writeBundle(path.join(dir, name), ["/bin/sleep", "1000"], `${cgroup}-${name}`).dir);
      up.push(contender);
      samples[contender.name] = [];
      for (let i = 0; i < (contender.name === "isopod" ? WARM_UP : 1); i++) await contender.exec();
    }
    for (let round = 0; round < rounds; round++) {
      for (const contender of contenders) samples[contender.name]!.push(await contender.exec());
    }
  } finally {
    for (const contender of up) await contender.down();
  }
  console.log(`${compare("exec /bin/true", samples)}\n`);
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
