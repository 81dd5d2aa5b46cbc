/** What the testbed has to run after the machine's own run, and whether it did; pure. */

/** A line of the file that `needs` appends to: a test file and one thing that it lacks here. */
export interface Lacking {
  readonly file: string;
  readonly capability: string;
}

/** A line of scripts/test-report.mjs. */
export interface Outcome {
  readonly file: string;
  readonly name: string;
  readonly outcome: "pass" | "fail" | "skip";
  readonly reason?: string;
}

export type Flavour = "plain" | "systemd";

export function readLines<T>(text: string): T[] {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as T);
}

/**
 * Test files by the machine they need, each once and sorted. The one with systemd has all that the plain
 * one has, so a file of which a single test needs systemd goes there whole. What scripts/test-files.mjs lists
 * a second time, with features forced down, goes only once.
 */
export function flavours(reported: readonly Lacking[], always: readonly string[]): Record<Flavour, string[]> {
  const lacking = reported.filter((line) => !line.file.startsWith("dist/floor/"));
  const systemd = new Set(lacking.filter((line) => line.capability === "systemd").map((line) => line.file));
  const all = new Set([...lacking.map((line) => line.file), ...always]);
  return {
    plain: [...all].filter((file) => !systemd.has(file)).sort(),
    systemd: [...systemd].sort(),
  };
}

/** Tests that were skipped here for the testbed and neither passed nor failed there, as FILE: NAME (reason). */
export function neverRun(here: readonly Outcome[], there: readonly Outcome[]): string[] {
  const key = (test: Outcome) => `${test.file}: ${test.name}`;
  const ran = new Set(there.filter((test) => test.outcome !== "skip").map(key));
  const why = new Map(there.map((test) => [key(test), test.reason ?? "not there"]));
  const waiting = here.filter((test) => test.outcome === "skip" && test.reason?.includes("in the testbed: "));
  const missed = [...new Set(waiting.map(key))].filter((test) => !ran.has(test));
  return missed.map((test) => `${test} (${why.get(test) ?? "not among the tests that ran there"})`);
}
