import * as assert from "node:assert/strict";
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import { leasedAddresses, writeNetwork } from "./cni";
import { command } from "./command";
import { cgroup2Mount, onHost, privateHost } from "./host";
import { differences, inventory, leaks } from "./leaks";
import { needs } from "./needs";
import { peers } from "./peers";

test("a leak of each kind is seen, and its end too", async (t) => {
  await using host = await privateHost();
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-test-"));
  const cgroup = path.join(cgroup2Mount()!, `isopod-leaks-${process.pid}`);
  fs.mkdirSync(cgroup);
  t.after(() => {
    fs.rmSync(dir, { recursive: true, force: true });
    for (const one of [path.join(cgroup, "x"), cgroup]) if (fs.existsSync(one)) fs.rmdirSync(one);
  });
  const [file, ...args] = [...host.enter, "cat"];
  const watched = spawn(file!, args, { stdio: ["pipe", "ignore", "ignore"] });
  t.after(() => watched.kill("SIGKILL"));
  await settled(() => fs.readFileSync(`/proc/${watched.pid}/comm`, "utf8") === "cat\n");
  const scope = { pid: host.pid, cgroups: [cgroup], dirs: [dir], watched: () => ({ cat: watched.pid! }) };
  const before = await inventory(scope);

  await onHost(host, "mount", ["-t", "tmpfs", "leak", "/mnt"]);
  await onHost(host, "ip", ["link", "add", "leak0", "type", "bridge"]);
  await onHost(host, "nft", ["add", "table", "ip", "leak"]);
  fs.mkdirSync(path.join(cgroup, "x"));
  fs.writeFileSync(path.join(dir, "file"), "");
  const [enter, ...rest] = host.enter;
  const process1 = spawn(enter!, [...rest, "sleep", "1000"], { stdio: "ignore" });
  await settled(() => fs.readFileSync(`/proc/${process1.pid}/comm`, "utf8") === "sleep\n");
  const kinds = new Set(differences(before, await inventory(scope)).map((line) => line.split(" ")[1]));
  assert.deepEqual([...kinds].sort(), ["cgroups:", "files:", "links:", "mounts:", "processes:", "rules:"]);

  process1.kill("SIGKILL");
  await onHost(host, "umount", ["/mnt"]);
  await onHost(host, "ip", ["link", "del", "leak0"]);
  await onHost(host, "nft", ["delete", "table", "ip", "leak"]);
  fs.rmdirSync(path.join(cgroup, "x"));
  fs.rmSync(path.join(dir, "file"));
  assert.deepEqual(await leaks(before, scope), []);
});

test("a private host is not seen from outside", async () => {
  await using host = await privateHost({ unified: true });
  await onHost(host, "mount", ["-t", "tmpfs", "inside", "/mnt"]);
  await onHost(host, "ip", ["link", "add", "inside0", "type", "bridge"]);
  assert.ok(!fs.readFileSync("/proc/self/mountinfo", "utf8").includes(" inside "));
  assert.ok(!(await command("ip", ["-o", "link"])).stdout.includes("inside0"));
  const { stdout } = await onHost(host, "stat", ["-f", "-c", "%T", "/sys/fs/cgroup"]);
  assert.match(stdout, /cgroup2/);
});

test("the test network gives and takes back an address", needs(peers.cni()), async (t) => {
  await using host = await privateHost();
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-test-"));
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }));
  const network = writeNetwork(dir, { host });
  const conflist = JSON.parse(fs.readFileSync(path.join(network.confDir, "10-test.conflist"), "utf8"));
  const netns = path.join(dir, "pod");
  fs.writeFileSync(netns, "");
  await onHost(host, "unshare", [`--net=${netns}`, "true"]);
  const cni = async (verb: string) => {
    const env = {
      CNI_COMMAND: verb,
      CNI_CONTAINERID: "pod",
      CNI_NETNS: netns,
      CNI_IFNAME: "eth0",
    };
    const stdin = JSON.stringify({
      cniVersion: conflist.cniVersion,
      name: conflist.name,
      ...conflist.plugins[0],
    });
    const [enter, ...rest] = host.enter;
    const options = { env: { ...env, CNI_PATH: network.binDir }, stdin };
    return (await command(enter!, [...rest, path.join(network.binDir, "bridge")], options)).stdout;
  };
  const result = JSON.parse(await cni("ADD"));
  assert.ok(result.ips[0].address.startsWith(`${network.prefix}.`));
  assert.equal(leasedAddresses(network).length, 1);
  await cni("DEL");
  assert.deepEqual(leasedAddresses(network), []);
  await network.remove();
  assert.ok(!(await onHost(host, "ip", ["-o", "link"])).stdout.includes(network.bridge));
});

async function settled(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 100 && !condition(); i++) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.ok(condition());
}
