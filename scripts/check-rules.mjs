// Checks that every security and robustness rule of docs/conformance.md is held by a test, and that the test
// is one that notices: test/mutants/<id>.patch (or <id>-<what>.patch) takes the rule's guard out, and a build
// with it must fail the tests whose titles start with `<id>: `.
//
//   --titles-only   only that each rule has titles and patches that apply, and that no title or patch is
//                   without a rule: seconds, part of npm test
//   --ids R5,R8     only these rules
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
process.chdir(root);
const { values: options } = parseArgs({
  options: { "titles-only": { type: "boolean" }, ids: { type: "string" } },
});

const ID = String.raw`(?:R\d+|CVE-\d{4}-\d+)`;
const TITLE = new RegExp(String.raw`["'\`](${ID}): `, "g");
const ROW = new RegExp(String.raw`^\| (${ID}) \|`);
const PATCH = new RegExp(String.raw`^(${ID})(?:-[a-z0-9-]+)?\.patch$`);

const environment = { ...process.env, NODE_ENV: "test" };
for (const name of ["NODE_OPTIONS", "NODE_EXTRA_CA_CERTS", "NODE_TEST_CONTEXT"]) delete environment[name];

/** Map of lists: id → what was found for it. */
function group(pairs) {
  const found = new Map();
  for (const [id, item] of pairs) found.set(id, [...(found.get(id) ?? []), item]);
  return found;
}

const rules = fs
  .readFileSync("docs/conformance.md", "utf8")
  .split("\n")
  .flatMap((line) => ROW.exec(line)?.[1] ?? []);
const testFiles = fs
  .readdirSync("test", { recursive: true })
  .filter((name) => name.endsWith(".test.ts"))
  .map((name) => path.join("test", name));
const titles = group(
  testFiles.flatMap((file) => {
    const ids = [...fs.readFileSync(file, "utf8").matchAll(TITLE)].map((match) => match[1]);
    return [...new Set(ids)].map((id) => [id, file]);
  }),
);
const patches = group(
  fs.readdirSync("test/mutants").flatMap((name) => {
    const id = PATCH.exec(name)?.[1];
    return id ? [[id, path.join("test/mutants", name)]] : [];
  }),
);

const failures = [];
const fail = (id, why) => {
  failures.push(`${id}: ${why}`);
  console.log(`${id.padEnd(16)} FAILED  ${why}`);
};

function applies(patch, directory) {
  return spawnSync("git", ["apply", "--check", path.resolve(patch)], { cwd: directory, encoding: "utf8" });
}

function checkNames(ids) {
  for (const id of ids) {
    if (!titles.has(id)) fail(id, "no test's title starts with it");
    if (!patches.has(id)) fail(id, "no mutant in test/mutants");
    for (const patch of patches.get(id) ?? []) {
      const { status, stderr } = applies(patch, root);
      if (status !== 0) fail(id, `${patch} does not apply: ${stderr.trim().split("\n")[0]}`);
    }
  }
  for (const id of new Set([...titles.keys(), ...patches.keys()])) {
    if (!rules.includes(id)) fail(id, "has tests or mutants, but no row in docs/conformance.md");
  }
}

/** The checkout and what is built of it, with its times: a build there compiles only what a patch touches. */
function scratchCopy() {
  const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-rules-"));
  fs.cpSync(root, scratch, {
    recursive: true,
    preserveTimestamps: true,
    verbatimSymlinks: true,
    filter: (source) => ![".git", "node_modules"].includes(path.relative(root, source)),
  });
  fs.symlinkSync(fs.realpathSync("node_modules"), path.join(scratch, "node_modules"));
  return scratch;
}

/** What the files of a patch are built into. */
function partsOf(patch) {
  const files = fs.readFileSync(patch, "utf8").matchAll(/^\+\+\+ b\/(\w+)\//gm);
  return [...files].flatMap(([, top]) => (top === "native" ? ["native"] : ["ts", "bundle"]));
}

/** Parts that are built with a mutant that was taken out again. */
let outdated = [];

function build(scratch, parts = []) {
  return spawnSync(process.execPath, ["scripts/build.mjs", ...new Set([...parts, ...outdated])], {
    cwd: scratch,
    env: environment,
    encoding: "utf8",
  });
}

/** Runs the id's tests: how many ran (were not skipped), and whether all passed. */
function runTests(scratch, id) {
  const files = titles.get(id).map((file) => path.join("dist", file.replace(/\.ts$/, ".js")));
  const { status, stdout } = spawnSync(
    process.execPath,
    ["--test", "--test-reporter=tap", "--test-timeout=180000", `--test-name-pattern=^${id}:`, ...files],
    { cwd: scratch, env: environment, encoding: "utf8", maxBuffer: 64 << 20 },
  );
  const results = stdout
    .split("\n")
    .filter((line) => / - CVE-| - R\d/.test(line) && line.includes(`- ${id}: `));
  const ran = results.filter((line) => /^\s*(not )?ok /.test(line) && !line.includes("# SKIP")).length;
  return { ran, passed: status === 0, output: stdout };
}

function checkMutant(scratch, id, patch) {
  // The copy's own patch: the checkout may have moved on.
  const git = (...args) =>
    spawnSync("git", ["apply", ...args, path.join(scratch, patch)], { cwd: scratch, encoding: "utf8" });
  const applied = git();
  if (applied.status !== 0) return fail(id, `${patch} does not apply: ${applied.stderr}`);
  try {
    const parts = partsOf(patch);
    const { status, stdout, stderr } = build(scratch, parts);
    outdated = parts;
    if (status !== 0) return fail(id, `${patch} does not build:\n${stdout}${stderr}`);
    const begin = Date.now();
    if (runTests(scratch, id).passed) return fail(id, `the tests pass with ${patch}`);
    console.log(`${id.padEnd(16)} ok      ${path.basename(patch)} noticed in ${Date.now() - begin} ms`);
  } finally {
    git("--reverse");
  }
}

function checkMutants(ids) {
  const scratch = scratchCopy();
  const remove = () => fs.rmSync(scratch, { recursive: true, force: true });
  process.on("exit", remove);
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));
  const { status, stdout, stderr } = build(scratch);
  if (status !== 0) return fail("build", `${stdout}${stderr}`);
  // First as it is: a test that fails anyway notices nothing.
  const sound = ids.filter((id) => {
    const { ran, passed, output } = runTests(scratch, id);
    if (!passed) fail(id, `its tests fail without a mutant:\n${output}`);
    else if (ran === 0) fail(id, "its tests are skipped here");
    return passed && ran > 0;
  });
  const mutants = sound.flatMap((id) => patches.get(id).map((patch) => ({ id, patch })));
  const isNative = ({ patch }) => Number(partsOf(patch).includes("native"));
  mutants.sort((a, b) => isNative(a) - isNative(b)); // so that each half is built for itself
  for (const { id, patch } of mutants) checkMutant(scratch, id, patch);
}

const wanted = options.ids?.split(",") ?? rules;
for (const id of wanted) if (!rules.includes(id)) fail(id, "no such rule in docs/conformance.md");
if (rules.length === 0) fail("rules", "docs/conformance.md has none");
checkNames(wanted.filter((id) => rules.includes(id)));
if (!options["titles-only"]) {
  checkMutants(wanted.filter((id) => titles.has(id) && patches.has(id) && rules.includes(id)));
}
console.log(`${wanted.length} rules, ${failures.length} failures`);
process.exitCode = failures.length > 0 ? 1 : 0;
