// Lists the compiled tests, one a line. Tests that launch processes appear twice: as they are, and through
// a file that first forces the host's features down to the oldest kernel that isopod supports.
//
//   --quick    without files named *.slow.test.ts, without the second appearance
import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
process.chdir(root);
const quick = process.argv.includes("--quick");
/** Rooms whose tests depend on what the kernel offers. */
const launching = ["native", "core", "init", "runtime"];
const floor = "dist/floor";

const compiled = fs
  .readdirSync("test", { recursive: true })
  .filter((name) => name.endsWith(".test.ts"))
  .sort()
  .map((name) => name.replace(/\.ts$/, ".js"));
const files = compiled.filter((name) => !quick || !name.endsWith(".slow.test.js"));

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
