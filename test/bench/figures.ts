import * as os from "node:os";

/** Samples of one thing in nanoseconds, summed up as the benches print them. */
export interface Figures {
  readonly n: number;
  readonly p10: number;
  readonly p50: number;
  readonly p90: number;
}

export function figures(samples: readonly number[]): Figures {
  if (samples.length === 0) throw new Error("no samples");
  const sorted = [...samples].sort((a, b) => a - b);
  return { n: sorted.length, p10: at(sorted, 0.1), p50: at(sorted, 0.5), p90: at(sorted, 0.9) };
}

/** Linear between the two nearest samples. */
function at(sorted: readonly number[], part: number): number {
  const position = (sorted.length - 1) * part;
  const low = sorted[Math.floor(position)]!;
  const high = sorted[Math.ceil(position)]!;
  return low + (high - low) * (position - Math.floor(position));
}

export const ms = (ns: number): string => (ns / 1e6).toFixed(2);

/** Columns as wide as their widest cell; the first is text, the others numbers. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const line = (row: readonly string[]) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!)))
      .join("  ");
  return rows.map(line).join("\n");
}

/** One row a contender, the first being ours: milliseconds, and how many times our median theirs is. */
export function compare(title: string, contenders: Readonly<Record<string, readonly number[]>>): string {
  const all = Object.entries(contenders).filter(([, samples]) => samples.length > 0);
  if (all.length === 0) return `${title}: nothing measured`;
  const ours = figures(all[0]![1]).p50;
  const rows = all.map(([name, samples], place) => {
    const { n, p10, p50, p90 } = figures(samples);
    return [name, String(n), ms(p10), ms(p50), ms(p90), place === 0 ? "" : `${(p50 / ours).toFixed(1)}x`];
  });
  return table([[title, "n", "p10 ms", "p50 ms", "p90 ms", "ratio"], ...rows]);
}

/** What the machine was like while measuring: figures of a busy machine mean little. */
export function machine(): string {
  const load = os.loadavg()[0]!.toFixed(2);
  return `${os.cpus().length} CPUs, kernel ${os.release()}, node ${process.version}, load ${load}`;
}
