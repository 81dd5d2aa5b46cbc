import { execFileSync, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { after } from "node:test";

const sources = path.resolve(__dirname, "../../../test/runtime/oracle");

/** Why `header` cannot be included here, or false: for a test's `skip`. */
export function lacksHeader(header: string): string | false {
  const { status } = spawnSync("gcc", ["-E", "-x", "c", "-"], { input: `#include <${header}>\n` });
  return status === 0 ? false : `needs gcc and <${header}>`;
}

/** Builds test/runtime/oracle/<name>.c; the program is removed when the test file ends. */
export function compileC(name: string, ...libraries: readonly string[]): string {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), `${name}-`));
  after(() => fs.rmSync(directory, { recursive: true, force: true }));
  const program = path.join(directory, name);
  const source = path.join(sources, `${name}.c`);
  execFileSync("gcc", ["-O1", "-Wall", "-Werror", "-o", program, source, ...libraries.map((l) => `-l${l}`)]);
  return program;
}
