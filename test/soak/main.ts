import { parseArgs } from "node:util";
import { soak, total } from "./soak";

/** npm run soak [-- --count 500 --at-once 50 --kill daemon|server --every 20] */
async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      count: { type: "string", default: "500" },
      "at-once": { type: "string", default: "50" },
      kill: { type: "string" },
      every: { type: "string", default: "20" },
    },
  });
  const count = Number(values.count);
  const atOnce = Number(values["at-once"]);
  const kills =
    values.kill === undefined ? ([undefined, "daemon", "server"] as const) : [chosen(values.kill)];
  for (const kill of kills) {
    const title =
      kill === undefined ? "nobody is killed" : `the ${kill} is killed every ${values.every} pods`;
    console.log(`${count} pods one after another, ${atOnce} at once; ${title}`);
    const options = { count, atOnce, say: (text: string) => console.log(`  ${text}`) };
    // Killed processes begin anew: their memory says nothing.
    const result = await soak(
      kill === undefined
        ? { ...options, memoryEvery: Math.min(100, Math.ceil(count / 5)) }
        : { ...options, kill, every: Number(values.every) },
    );
    if (result.memory.length > 1) {
      const [first, last] = [total(result.memory[0]!), total(result.memory.at(-1)!)];
      const grown = last - first;
      console.log(
        `  memory ${first.toFixed(1)} → ${last.toFixed(1)} MiB (${grown.toFixed(1)}; 3 are allowed)`,
      );
      if (grown > 3) process.exitCode = 1;
    }
    for (const line of result.leaks) console.log(`  ${line}`);
    console.log(`  ${result.leaks.length === 0 ? "nothing left" : `${result.leaks.length} differences`}`);
    if (result.leaks.length > 0) process.exitCode = 1;
  }
}

function chosen(kill: string): "daemon" | "server" {
  if (kill !== "daemon" && kill !== "server") throw new Error(`--kill ${kill}: daemon or server`);
  return kill;
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
