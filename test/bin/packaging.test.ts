import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import { loadConfig } from "../../src/bin/config";
import { command } from "../support/command";
import { needs, requirement } from "../support/needs";

const root = path.resolve(__dirname, "../../..");
const read = (name: string) => fs.readFileSync(path.join(root, "packaging", name), "utf8");

const found = ["/usr/bin/systemd-analyze", "/bin/systemd-analyze"].find((file) => fs.existsSync(file));
const analyze = requirement(found !== undefined, "needs systemd-analyze");

test("systemd accepts the unit", needs(analyze), async (t) => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-unit-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  const unit = path.join(dir, "isopod.service");
  // Where this program is, so that the verdict does not depend on an installation.
  const here = read("isopod.service").replace("/usr/local/bin/isopod", path.join(root, "bin/isopod"));
  fs.writeFileSync(unit, here);
  const { stderr } = await command(found!, ["verify", "--man=no", unit], { accept: [0, 1] });
  assert.equal(
    stderr
      .split("\n")
      .filter((line) => line.includes("isopod.service"))
      .join("\n"),
    "",
  );
});

test("the unit leaves pods alone and gives a stopping daemon the time that it takes", () => {
  const unit = read("isopod.service");
  for (const line of [
    "Type=notify",
    "KillMode=process",
    "Delegate=yes",
    "Restart=always",
    "ExecReload=/bin/kill -HUP $MAINPID",
    "OOMScoreAdjust=-999",
  ]) {
    assert.ok(unit.includes(`\n${line}\n`), line);
  }
  const grace = Number(
    /GRACE_MS = ([\d_]+)/
      .exec(fs.readFileSync(path.join(root, "src/bin/serve.ts"), "utf8"))![1]!
      .replace("_", ""),
  );
  assert.ok(Number(/TimeoutStopSec=(\d+)/.exec(unit)![1]) * 1000 > grace);
});

test("the examples name the socket and the handler that are the defaults", async (t) => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-default-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  const file = path.join(dir, "empty.toml");
  fs.writeFileSync(file, "");
  const config = await loadConfig(file);
  assert.ok(read("crictl.yaml").includes(`runtime-endpoint: ${config.listen}\n`));
  assert.ok(read("crictl.yaml").includes(`image-endpoint: ${config.listen}\n`));
  assert.ok(read("runtimeclass.yaml").includes(`\nhandler: ${config.default_handler}\n`));
});
