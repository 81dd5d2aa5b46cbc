// Checks that every security and robustness rule of docs/conformance.md is held by a test, and that the test
// is one that notices: test/mutants/<id>.patch (or <id>-<what>.patch) takes the rule's guard out, and a build
// with it must fail the tests whose titles start with `<id>: `.
//
// A patch that says `where: testbed` before its first hunk is noticed only there (docs/testbed.md): its tests
// run in one boot for each time.
//
//   --titles-only   only that each rule has titles and patches that apply, and that no title or patch is
//                   without a rule: seconds, part of npm test
//   --ids R5,R8     only these rules
import { execFile, spawnSync } from "node:child_process";
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
/** test/native/NAME.test.ts runs each C++ case of test/native/cpp/NAME as a test of that title. */
function sourcesOf(file) {
  const cases = path.join("test/native/cpp", path.basename(file, ".test.ts"));
  if (path.dirname(file) !== "test/native" || !fs.existsSync(cases)) return [file];
  return [file, ...fs.readdirSync(cases).map((name) => path.join(cases, name))];
}
const titles = group(
  testFiles.flatMap((file) => {
    const texts = sourcesOf(file).map((source) => fs.readFileSync(source, "utf8"));
    const ids = texts.flatMap((text) => [...text.matchAll(TITLE)].map((match) => match[1]));
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

/** Not spawnSync: a signal must be able to end this script and clear away its copy. */
function run(file, args, cwd) {
  return new Promise((resolve) => {
    const options = { cwd, env: environment, encoding: "utf8", maxBuffer: 64 << 20 };
    execFile(file, args, options, (error, stdout, stderr) =>
      resolve({ status: error ? (error.code ?? 1) : 0, stdout, stderr }),
    );
  });
}

async function checkNames(ids) {
  for (const id of ids) {
    if (!titles.has(id)) fail(id, "no test's title starts with it");
    if (!patches.has(id)) fail(id, "no mutant in test/mutants");
    for (const patch of patches.get(id) ?? []) {
      const { status, stderr } = await run("git", ["apply", "--check", patch], root);
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
  const entries = fs.readdirSync(root).filter((name) => ![".git", "node_modules"].includes(name));
  // To the nanosecond, and of directories as well: the build compares both.
  spawnSync("cp", ["-a", ...entries, scratch]);
  fs.symlinkSync(fs.realpathSync("node_modules"), path.join(scratch, "node_modules"));
  // The makefiles have the way from here to the real node_modules; from the copy it is another one.
  const elsewhere = fs.lstatSync("node_modules").isSymbolicLink();
  if (elsewhere) fs.rmSync(path.join(scratch, "build/Makefile"), { force: true });
  return scratch;
}

const filesOf = (patch) =>
  [...fs.readFileSync(patch, "utf8").matchAll(/^\+\+\+ b\/(.*)$/gm)].map((match) => match[1]);

/** Does it take controllers or rights to notice it that this machine may not have? */
const inTestbed = (patch) => /^where: testbed$/m.test(fs.readFileSync(patch, "utf8").split("diff --git")[0]);

/** What the files of a patch are built into. */
const partsOf = (patch) =>
  filesOf(patch).flatMap((file) => (file.startsWith("native/") ? ["native"] : ["ts", "bundle"]));

/** Directories keep their times: for a newer one the native build would be configured anew. */
async function apply(scratch, patch, ...options) {
  const directories = filesOf(patch).map((file) => path.join(scratch, path.dirname(file)));
  const before = directories.map((directory) => fs.statSync(directory));
  // The copy's own patch: the checkout may have moved on.
  const applied = await run("git", ["apply", ...options, patch], scratch);
  for (const [i, { atime, mtime }] of before.entries()) fs.utimesSync(directories[i], atime, mtime);
  return applied;
}

/** Parts that are built with a mutant that was taken out again. */
let outdated = [];

function build(scratch, parts = []) {
  const wanted = new Set([...parts, ...outdated]);
  return run(process.execPath, ["scripts/build.mjs", ...wanted], scratch);
}

/** Of each test file that ran without a mutant: milliseconds. The quick ones are asked first. */
const took = new Map();

/** Runs the id's tests, file by file up to the first that fails: how many ran (were not skipped). */
async function runTests(scratch, id) {
  const how = ["--test", "--test-reporter=tap", `--test-name-pattern=^${id}:`];
  const files = [...titles.get(id)].sort((a, b) => (took.get(id + a) ?? 0) - (took.get(id + b) ?? 0));
  let ran = 0;
  for (const file of files) {
    const begin = Date.now();
    const compiled = path.join("dist", file.replace(/\.ts$/, ".js"));
    // A mutant may make a test hang, which is to be noticed before long.
    const known = took.get(id + file);
    const limit = known === undefined ? 300_000 : Math.max(60_000, 3 * known);
    const args = [...how, `--test-timeout=${limit}`, compiled];
    const { status, stdout } = await run(process.execPath, args, scratch);
    if (status !== 0) return { ran, passed: false, output: stdout };
    took.set(id + file, known ?? Date.now() - begin);
    const results = stdout.split("\n").filter((line) => line.includes(` - ${id}: `));
    ran += results.filter((line) => /^\s*ok /.test(line) && !line.includes("# SKIP")).length;
  }
  return { ran, passed: true, output: "" };
}

/** All at once, those files that have tests for it. */
async function runTestbed(scratch, id) {
  const files = titles
    .get(id)
    .filter((file) => fs.readFileSync(file, "utf8").includes("capability("))
    .map((file) => path.join("dist", file.replace(/\.ts$/, ".js")));
  const tests = ["--test", "--test-reporter=tap", `--test-name-pattern=^${id}:`, "--test-timeout=120000"];
  const machine = ["run", "-s", "testbed", "--", "--timeout", "900"];
  const { status, stdout, stderr } = await run("npm", [...machine, "node", ...tests, ...files], scratch);
  // The runner's own failures are no test's.
  if (!stdout.includes("# pass ")) throw new Error(`the testbed did not run the tests:\n${stdout}${stderr}`);
  return { passed: status === 0, output: stdout };
}

async function checkMutant(scratch, id, patch) {
  const applied = await apply(scratch, patch);
  if (applied.status !== 0) return fail(id, `${patch} does not apply: ${applied.stderr}`);
  try {
    const parts = partsOf(patch);
    const { status, stdout, stderr } = await build(scratch, parts);
    outdated = parts;
    if (status !== 0) return fail(id, `${patch} does not build:\n${stdout}${stderr}`);
    const begin = Date.now();
    const { passed } = await (inTestbed(patch) ? runTestbed : runTests)(scratch, id);
    if (passed) return fail(id, `the tests pass with ${patch}`);
    console.log(`${id.padEnd(16)} ok      ${path.basename(patch)} noticed in ${Date.now() - begin} ms`);
  } finally {
    await apply(scratch, patch, "--reverse");
  }
}

async function soundInTestbed(scratch, id) {
  const { passed, output } = await runTestbed(scratch, id);
  if (!passed) fail(id, `its tests fail in the testbed without a mutant:\n${output}`);
  return passed;
}

async function checkMutants(ids) {
  const scratch = scratchCopy();
  const remove = () => fs.rmSync(scratch, { recursive: true, force: true });
  process.on("exit", remove);
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));
  const { status, stdout, stderr } = await build(scratch);
  if (status !== 0) return fail("build", `${stdout}${stderr}`);
  // First as it is: a test that fails anyway notices nothing.
  const sound = [];
  for (const id of ids) {
    const { ran, passed, output } = await runTests(scratch, id);
    if (!passed) fail(id, `its tests fail without a mutant:\n${output}`);
    else if (ran === 0) fail(id, "its tests are skipped here");
    else if (patches.get(id).some(inTestbed) && !(await soundInTestbed(scratch, id))) continue;
    else sound.push(id);
  }
  const mutants = sound.flatMap((id) => patches.get(id).map((patch) => ({ id, patch })));
  const isNative = ({ patch }) => Number(partsOf(patch).includes("native"));
  mutants.sort((a, b) => isNative(a) - isNative(b)); // so that each half is built for itself
  for (const { id, patch } of mutants) await checkMutant(scratch, id, patch);
}

const wanted = options.ids?.split(",") ?? rules;
for (const id of wanted) if (!rules.includes(id)) fail(id, "no such rule in docs/conformance.md");
if (rules.length === 0) fail("rules", "docs/conformance.md has none");
await checkNames(wanted.filter((id) => rules.includes(id)));
if (!options["titles-only"]) {
  await checkMutants(wanted.filter((id) => titles.has(id) && patches.has(id) && rules.includes(id)));
}
console.log(`${wanted.length} rules, ${failures.length} failures`);
process.exitCode = failures.length > 0 ? 1 : 0;
