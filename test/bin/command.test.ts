import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { type TestContext, test } from "node:test";
import { type CommandOptions, command } from "../support/command";

const root = path.resolve(__dirname, "../../..");
const isopod = (args: readonly string[], options: CommandOptions = {}) =>
  command(path.join(root, "bin/isopod"), args, { accept: [0, 1, 2], ...options });

function folder(t: TestContext): string {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-command-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  return dir;
}

/** A launcher in a tree of its own, whose node and bundle say how they were called. */
function launcher(
  t: TestContext,
  versions: { recorded?: string; path?: string },
): { run: () => Promise<string> } {
  const dir = folder(t);
  const node = (name: string, version: string) => {
    fs.mkdirSync(path.join(dir, name));
    const script = `#!/bin/sh\n[ "$1" = --version ] && echo v${version} && exit\necho "${name} $* [$NODE_OPTIONS$NODE_EXTRA_CA_CERTS]"\n`;
    fs.writeFileSync(path.join(dir, name, "node"), script, { mode: 0o755 });
  };
  fs.mkdirSync(path.join(dir, "bin"));
  fs.mkdirSync(path.join(dir, "dist"));
  fs.copyFileSync(path.join(root, "bin/isopod"), path.join(dir, "bin/isopod"));
  fs.writeFileSync(path.join(dir, "dist/isopod.js"), "");
  fs.symlinkSync("bin/isopod", path.join(dir, "link"));
  if (versions.recorded) {
    node("recorded", versions.recorded);
    fs.writeFileSync(path.join(dir, "dist/node-path"), `${dir}/recorded/node\n`);
  }
  if (versions.path) node("path", versions.path);
  const env = { PATH: `${dir}/path:/bin`, NODE_OPTIONS: "--x", NODE_EXTRA_CA_CERTS: "/y" };
  const run = async () => {
    const done = await command(path.join(dir, "link"), ["a", "b c"], { env, accept: [0, 1] });
    return (done.stdout + done.stderr).replaceAll(dir, "");
  };
  return { run };
}

test("R1: the recorded node comes first, then PATH, and node's options are scrubbed", async (t) => {
  const both = launcher(t, { recorded: "20.1.0", path: "24.0.0" });
  assert.equal(await both.run(), "recorded --max-semi-space-size=2 /dist/isopod.js a b c []\n");
  const second = launcher(t, { path: "24.0.0" });
  assert.equal(await second.run(), "path --max-semi-space-size=2 /dist/isopod.js a b c []\n");
});

test("R1: a node of the wrong major is passed over, and named if there is no other", async (t) => {
  const old = launcher(t, { recorded: "18.20.0", path: "24.0.0" });
  assert.equal(await old.run(), "path --max-semi-space-size=2 /dist/isopod.js a b c []\n");
  if (fs.existsSync("/usr/bin/node")) return;
  const none = launcher(t, { recorded: "18.20.0", path: "9.1.0" });
  assert.match(await none.run(), /no usable node: .*"\/recorded\/node": major 18; "\/path\/node": major 9/);
});

test("version, help, and words that are no commands", async () => {
  const { version } = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")) as {
    version: string;
  };
  assert.equal((await isopod(["version"])).stdout, `isopod ${version}\n`);
  assert.equal((await isopod(["--help"])).status, 0);
  const wrong = await isopod(["config", "dmp"]);
  assert.equal(wrong.status, 2);
  assert.match(wrong.stderr, /unknown command 'dmp'/);
});

test("config: default is valid, check names mistakes and exits 2, dump shows what is in force", async (t) => {
  const file = path.join(folder(t), "config.toml");
  fs.writeFileSync(file, (await isopod(["config", "default"])).stdout);
  assert.equal((await isopod(["config", "check", "--config", file])).status, 0);
  fs.appendFileSync(file, '\n[cni]\nconf_dri = "/x"\n'.replace("[cni]\n", ""));
  const bad = await isopod(["config", "check", "--config", file]);
  assert.equal(bad.status, 2);
  assert.match(bad.stderr, /handlers\.isopod\.conf_dri: "\/x": unknown key/);
  fs.writeFileSync(file, 'root = "/elsewhere"');
  assert.match((await isopod(["config", "dump", "--config", file])).stdout, /^root = "\/elsewhere"$/m);
});

test("check: what this host can run, as text and as JSON, each fault with its cure", async (t) => {
  const file = path.join(folder(t), "config.toml");
  fs.writeFileSync(file, '[cni]\nconf_dir = "/nonexistent"');
  const { stdout, status } = await isopod(["check", "--json", "--config", file]);
  const report = JSON.parse(stdout) as {
    ok: boolean;
    findings: { name: string; level: string; cure?: string }[];
  };
  assert.equal(status, report.ok ? 0 : 1);
  for (const { level, cure, name } of report.findings) if (level !== "ok") assert.ok(cure, name);
  assert.equal(report.findings.find(({ name }) => name === "shim")?.level, "ok");
  assert.equal(report.findings.find(({ name }) => name === "cni")?.level, "warning");
  const text = await isopod(["check", "--config", file]);
  assert.match(text.stdout, /no network configuration in \/nonexistent/);
});

test("serve: refuses a wrong configuration before it touches anything", async (t) => {
  const dir = folder(t);
  const bad = await isopod([
    "serve",
    "--state",
    path.join(dir, "s".repeat(70)),
    "--root",
    path.join(dir, "r"),
  ]);
  assert.equal(bad.status, 2);
  assert.match(bad.stderr, /^isopod: command line: state: ".*": is longer than 60 bytes/);
  assert.deepEqual(fs.readdirSync(dir), []);
});
