import { spawn } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { cleanEnv } from "../support/command";
import { repository } from "../support/peers";
import { type Flavour, flavours, type Lacking, neverRun, type Outcome, readLines } from "./plan";

/**
 * The part of `npm test` that follows the machine's own run: boots each needed flavour of the testbed once
 * with all the test files that were waiting for it.
 *
 *   node dist/test/testbed/batch.js DIR [FILE…]
 *
 * DIR holds `lacking` (test/support/capabilities.ts) and `report` (scripts/test-report.mjs) of that run and
 * gets one report for each flavour; FILEs go to the plain machine in any case. Fails if a test failed, and
 * if one ran in neither place.
 */
async function main([dir, ...always]: string[]): Promise<boolean> {
  if (dir === undefined) throw new Error("usage: batch.js DIR [FILE…]");
  const read = (name: string) =>
    fs.existsSync(path.join(dir, name)) ? fs.readFileSync(path.join(dir, name), "utf8") : "";
  const batches = flavours(readLines<Lacking>(read("lacking")), always);
  const there: Outcome[] = [];
  let passed = true;
  for (const [flavour, files] of Object.entries(batches) as [Flavour, string[]][]) {
    if (files.length === 0) continue;
    const begin = Date.now();
    const status = await boot(flavour, files, path.join(dir, flavour));
    const outcomes = readLines<Outcome>(read(`${flavour}/report`));
    const count = (outcome: string) => outcomes.filter((test) => test.outcome === outcome).length;
    console.log(
      `# testbed (${flavour}): ${files.length} files, pass ${count("pass")}, fail ${count("fail")}, ` +
        `skipped ${count("skip")}, ${Math.round((Date.now() - begin) / 1000)} s, exit ${status}`,
    );
    if (status !== 0) passed = false;
    there.push(...outcomes);
  }
  const missed = neverRun(readLines<Outcome>(read("report")), there);
  for (const test of missed) console.log(`# ran neither here nor in the testbed: ${test}`);
  return passed && missed.length === 0;
}

/** Seconds for one boot: both and the rest of `npm test` have to fit into the 90 minutes that CI gives. */
const limit = 2100;

function boot(flavour: Flavour, files: readonly string[], results: string): Promise<number> {
  const args = [
    path.join(repository, "dist/test/testbed/main.js"),
    ...["--timeout", String(limit), "--results", results],
    ...(flavour === "systemd" ? ["--systemd"] : []),
    ...["--", "sh", "test/testbed/suite.sh", ...files],
  ];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { cwd: repository, env: cleanEnv(), stdio: "inherit" });
    child.on("error", reject);
    child.on("close", (code) => resolve(code ?? 1));
  });
}

main(process.argv.slice(2)).then(
  (passed) => process.exit(passed ? 0 : 1),
  (error: Error) => {
    console.error(`testbed: ${error.message}`);
    process.exit(1);
  },
);
