// A reporter for node --test: one JSON line for each test {file, name, outcome: pass | fail | skip, reason}.
// `file` is where the test is written, which for a shared suite is not the file that was run.
import * as path from "node:path";

export default async function* report(events) {
  for await (const { type, data } of events) {
    if ((type !== "test:pass" && type !== "test:fail") || data.details?.type === "suite") continue;
    const skipped = data.skip !== undefined && data.skip !== false;
    yield `${JSON.stringify({
      file: data.file === undefined ? "" : path.relative(process.cwd(), data.file),
      name: data.name,
      outcome: skipped ? "skip" : type === "test:pass" ? "pass" : "fail",
      ...(skipped ? { reason: String(data.skip) } : {}),
    })}\n`;
  }
}
