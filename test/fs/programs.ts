import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { command } from "../support/command";

export const checkout = path.resolve(__dirname, "../../..");
export const server = path.join(checkout, "build/Release/isopod-fs");

/** Compiles a C++ program of this folder; `extra` are further arguments. */
export async function compiled(dir: string, name: string, extra: readonly string[] = []): Promise<string> {
  const program = path.join(dir, name);
  const warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"];
  await command(
    "g++",
    ["-std=c++17", "-g", "-O1", ...warnings, "-Inative", "-o", program, `test/fs/${name}.cc`, ...extra],
    { cwd: checkout, timeoutMs: 300_000 },
  );
  return program;
}

export async function inTemporary(body: (dir: string) => Promise<void>): Promise<void> {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-fs-"));
  try {
    await body(dir);
  } finally {
    fs.rmSync(dir, { recursive: true, force: true });
  }
}
