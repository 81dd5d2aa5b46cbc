// Lists the compiled tests, one a line. Tests that launch processes appear twice: as they are, and through
// a file that first forces the host's features down to the oldest kernel that isopod supports.
//
//   --quick      without what takes more than a few seconds, without the second appearance
//   --launching  only the launch suite, once: for another kernel
//
// Tests that boot machines are never listed: they run by themselves.
import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
process.chdir(root);
const quick = process.argv.includes("--quick");
/** Rooms whose tests depend on what the kernel offers. */
const launching = ["native", "core", "init", "runtime"];
const floor = "dist/floor";
/** Those of them that launch: what the testbed repeats on another kernel. */
const launchSuite = [
  ...["cve", "environment", "fault", "host", "launch", "pump", "rules", "spawn"].map(
    (name) => `native/${name}`,
  ),
  ...["container", "device-program", "honoured", "library", "recover", "sandbox", "seccomp-kernel"].map(
    (name) => `runtime/${name}`,
  ),
].map((name) => `${name}.test.js`);
const booting = ["testbed/boot.test.js"];
/** What takes longest: first in line, so that nothing long is left to run alone; left out of the quick run. */
const slow = [
  "soak/soak",
  "sandbox/real",
  "cri/trouble",
  "image/unpack",
  "shim/crash",
  "cri/restart",
  "cri/serve",
  "demo/demo",
].map((name) => `${name}.test.js`);

const compiled = fs
  .readdirSync("test", { recursive: true })
  .filter((name) => name.endsWith(".test.ts"))
  .sort()
  .map((name) => name.replace(/\.ts$/, ".js"));
const gone = [...slow, ...launchSuite, ...booting].find((name) => !compiled.includes(name));
if (gone) throw new Error(`scripts/test-files.mjs names ${gone}, which does not exist`);
const others = compiled.filter((name) => !slow.includes(name) && !booting.includes(name));
const files = quick ? others : [...slow, ...others];

if (process.argv.includes("--launching")) {
  for (const name of launchSuite) console.log(path.join("dist/test", name));
  process.exit();
}
fs.rmSync(floor, { recursive: true, force: true });
for (const name of files) console.log(path.join("dist/test", name));
for (const name of quick ? [] : files) {
  if (!launching.includes(name.split(path.sep)[0])) continue;
  const file = path.join(floor, name.replaceAll(path.sep, "-"));
  fs.mkdirSync(floor, { recursive: true });
  const original = path.relative(floor, path.join("dist/test", name));
  fs.writeFileSync(file, `process.env.ISOPOD_FEATURES = "5.15";\nrequire(${JSON.stringify(original)});\n`);
  console.log(file);
}
