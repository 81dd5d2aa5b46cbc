import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";

const root = path.resolve(__dirname, "../../..");
const documents = [
  "README.md",
  ...fs
    .readdirSync(path.join(root, "docs"), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".md"))
    .map((name) => path.join("docs", name)),
];

/** Files of this repository that a document names in backticks or links, e.g. `src/cri/index.ts`. */
function pathsIn(text: string): string[] {
  const named = [...text.matchAll(/`((?:src|native|proto|test|docs|scripts|packaging)\/[\w./-]*\w)`/g)];
  return named.map((match) => match[1]!);
}

for (const document of documents) {
  test(`every file that ${document} names exists`, () => {
    const text = fs.readFileSync(path.join(root, document), "utf8");
    for (const name of pathsIn(text)) {
      assert.ok(fs.existsSync(path.join(root, name)), `${document} names ${name}`);
    }
  });
}

test("docs/architecture.md walks one RunPodSandbox through the rooms by file name", () => {
  const named = new Set(pathsIn(fs.readFileSync(path.join(root, "docs/architecture.md"), "utf8")));
  for (const room of ["cri", "sandbox", "network", "task", "shim", "runtime", "native"]) {
    assert.ok(
      [...named].some((name) => name.startsWith(`src/${room}/`)),
      `no file of src/${room} is named`,
    );
  }
  for (const room of ["monitor", "core", "init"]) {
    assert.ok(
      [...named].some((name) => name.startsWith(`native/${room}/`)),
      `no file of native/${room} is named`,
    );
  }
});
