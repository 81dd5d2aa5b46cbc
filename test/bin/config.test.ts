import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { type TestContext, test } from "node:test";
import { defaultFile, dumpFile, loadConfig } from "../../src/bin/config";
import { nearestOf } from "../../src/bin/config/read";

/** A folder with config.toml and, by name, what lies in conf.d. */
function folder(t: TestContext, main: string, drops: Record<string, string> = {}): string {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-config-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  const file = path.join(dir, "config.toml");
  fs.writeFileSync(file, main);
  fs.mkdirSync(path.join(dir, "conf.d"));
  for (const [name, content] of Object.entries(drops)) {
    fs.writeFileSync(path.join(dir, "conf.d", name), content);
  }
  return file;
}

test("the default file says what the defaults are", async (t) => {
  const fromFile = await loadConfig(folder(t, defaultFile()));
  const empty = await loadConfig(folder(t, ""));
  assert.deepEqual(fromFile, empty);
  assert.equal(empty.listen, "unix:///run/isopod/isopod.sock");
  assert.deepEqual(empty.handlers["isopod"], {
    runtime_type: "io.containerd.isopod.v2",
    path: "",
    options: { group: "node" },
  });
});

test("a dump is a file that gives the same configuration again", async (t) => {
  const config = await loadConfig(
    folder(
      t,
      '[handlers.runc]\nruntime_type = "io.containerd.runc.v2"\n[handlers.runc.options]\nSystemdCgroup = false\n',
    ),
  );
  assert.deepEqual(await loadConfig(folder(t, await dumpFile(config))), config);
});

test("defaults, file, conf.d by name, command line: the later wins, tables are merged", async (t) => {
  const file = folder(t, 'root = "/a"\nstate = "/s1"\n[cni]\nconf_dir = "/c1"\nbin_dirs = ["/b1", "/b2"]', {
    "10-a.toml": '[cni]\nconf_dir = "/c2"\nbin_dirs = ["/b3"]',
    "20-b.toml": '[cni]\nconf_dir = "/c3"',
    "30-ignored.conf": "not toml",
  });
  const config = await loadConfig(file, { state: "/s2" });
  assert.equal(config.root, "/a");
  assert.equal(config.state, "/s2");
  assert.deepEqual(config.cni, { conf_dir: "/c3", bin_dirs: ["/b3"], netns_dir: "/run/netns" });
});

const cases: [toml: string, problem: RegExp][] = [
  ['rooot = "/x"', /rooot: "\/x": unknown key, did you mean "root"\?/],
  ['[cni]\nconfdir = "/x"', /cni\.confdir: "\/x": unknown key, did you mean "cni\.conf_dir"\?/],
  [
    '[handlers.isopod]\nruntimetype = "x"',
    /handlers\.isopod\.runtimetype: "x": unknown key, did you mean "handlers\.isopod\.runtime_type"\?/,
  ],
  ["completely = 1", /completely: 1: unknown key$/],
  ["version = 2", /version: 2: must be 1/],
  ["root = 5", /root: 5: must be a string/],
  ['root = "var"', /root: "var": must be an absolute path/],
  ['root = "/var/../x"', /root: "\/var\/\.\.\/x": must be written plainly, as "\/x"/],
  [`state = "/${"s".repeat(60)}"`, /state: "\/s+": is longer than 60 bytes/],
  ['state = "/var/lib/isopod/run"', /state: "\/var\/lib\/isopod\/run": must lie apart from root/],
  ['listen = "tcp://1.2.3.4:5"', /listen: "tcp:\/\/1\.2\.3\.4:5": must be "unix:\/\/" and an absolute path/],
  [`listen = "unix:///${"l".repeat(107)}"`, /listen: .* longer than 107 bytes/],
  ['default_handler = "isopd"', /default_handler: "isopd": no such handler, did you mean "isopod"\?/],
  ['[cgroup]\ndriver = "cgroup2"', /cgroup\.driver: "cgroup2": must be "cgroupfs" or "systemd"/],
  ['[log]\nlevel = "loud"', /log\.level: "loud": must be "info" or "debug" or "warn" or "error"/],
  ['[registry]\nconfig_dirs = ["/x"]', /registry: \{"config_dirs":\["\/x"\]\}: not supported yet/],
  ["[streaming]\nport = 1", /streaming: \{"port":1\}: not supported yet/],
  ['[cni]\nbin_dirs = ["/a", "b"]', /cni\.bin_dirs\[1\]: "b": must be an absolute path/],
  ['[handlers.UP]\nruntime_type = "io.containerd.x.v2"', /handlers: "UP": a name has/],
  ['[handlers.x]\nruntime_type = "runc"', /handlers\.x\.runtime_type: "runc": must be written like/],
  ["[handlers.x]", /handlers\.x\.runtime_type: "": must be given/],
  ["cni = 1", /cni: 1: must be a table/],
  ['root = "/a"\nroot = "/b"', /config\.toml:2:\d+: /],
];

for (const [toml, problem] of cases) {
  test(`refused: ${toml.replaceAll("\n", " ").slice(0, 60)}`, async (t) => {
    const file = folder(t, toml);
    await assert.rejects(loadConfig(file), (error: Error & { code?: string }) => {
      assert.equal(error.code, "INVALID_ARGUMENT");
      assert.match(error.message, problem);
      assert.equal(error.message.split("\n").length, 1);
      return true;
    });
  });
}

test("every problem of every file is told at once, with its file", async (t) => {
  const file = folder(t, 'root = 1\nstaet = "/x"', { "10-a.toml": "[cni]\nconf_dir = 2" });
  await assert.rejects(loadConfig(file, { listen: "nowhere" }), (error: Error) => {
    const dir = path.dirname(file);
    assert.deepEqual(
      error.message.split("\n").map((line) => line.split(": ").slice(0, 2)),
      [
        [file, "root"],
        [file, "staet"],
        [`${dir}/conf.d/10-a.toml`, "cni.conf_dir"],
        ["command line", "listen"],
      ],
    );
    return true;
  });
});

test("a file that is named must exist", async () => {
  await assert.rejects(loadConfig("/nonexistent/config.toml"), /--config: .*: no such file/);
});

test("the nearest word is one that a slip of the finger explains", () => {
  assert.equal(nearestOf("lisen", ["listen", "root"]), "listen");
  assert.equal(nearestOf("abcdef", ["listen", "root"]), undefined);
});
