import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { IsopodError } from "../../src/base/errors";
import { connected } from "./fixture";

/** Namespaces of its own: names, sysctls, mounts and links are no one else's. */
const UNSHARE = ["unshare", "--net", "--uts", "--mount"];
const code = (wanted: string) => (error: unknown) => IsopodError.is(error) && error.code === wanted;
const MAC = "02:00:00:00:00:01";

/** Runs a command in the agent's namespaces. */
const inside = (pid: number, ...words: string[]): string =>
  execFileSync("nsenter", ["-t", String(pid), "-n", "-u", "-m", "--", ...words], { encoding: "utf8" });

async function withLink() {
  const made = await connected(UNSHARE);
  const pid = made.child.pid!;
  const link = (...words: string[]): string => inside(pid, "ip", "link", ...words);
  link("add", "v0", "address", MAC, "type", "veth", "peer", "name", "v1", "address", "02:00:00:00:00:02");
  link("set", "v1", "up");
  return { made, pid };
}

test("configure: hostname, sysctls by both separators, files replaced in one step", async () => {
  await using made = await connected(UNSHARE);
  const { agent, child, directory } = made;
  await agent.configure({
    hostname: "guest",
    sysctls: { "net.ipv4.ip_forward": "1", "net/ipv4/ip_default_ttl": "33" },
    files: { hosts: "127.0.0.1 localhost\n", "resolv.conf": "nameserver 10.0.0.1\n" },
  });
  assert.equal(inside(child.pid!, "hostname").trim(), "guest");
  const sysctl = (name: string) => inside(child.pid!, "cat", `/proc/sys/net/ipv4/${name}`).trim();
  assert.equal(sysctl("ip_forward"), "1");
  assert.equal(sysctl("ip_default_ttl"), "33");
  assert.equal(agent.guest.filesDir, path.join(directory, "files"));
  const file = (name: string) => fs.readFileSync(path.join(agent.guest.filesDir, name), "utf8");
  assert.equal(file("hosts"), "127.0.0.1 localhost\n");
  await agent.configure({ files: { hosts: "::1 localhost\n" } });
  assert.equal(file("hosts"), "::1 localhost\n");
  assert.deepEqual(fs.readdirSync(agent.guest.filesDir).sort(), ["hosts", "resolv.conf"]);

  for (const name of ["../x", "", ".x", "a/b"])
    await assert.rejects(agent.configure({ files: { [name]: "x" } }), code("INVALID_ARGUMENT"), name);
  for (const name of ["../kernel/hostname", "/proc/sys/x", "net/../../x"])
    await assert.rejects(agent.configure({ sysctls: { [name]: "1" } }), code("INVALID_ARGUMENT"), name);
  await assert.rejects(
    agent.configure({ sysctls: { "net.ipv4.nothing": "1" } }),
    /setting sysctl "net.ipv4.nothing": no such file/,
  );
});

test("network: addresses, mtu, name, routes with scope and onlink, neighbours", async () => {
  const { made, pid } = await withLink();
  await using _ = made;
  const network = {
    interfaces: [{ mac: MAC, name: "eth0", mtu: 1400, addresses: ["10.1.2.3/24", "fd00::3/64"] }],
    routes: [
      { mac: MAC, destination: "169.254.1.1/32", scope: 253 },
      { mac: MAC, destination: "0.0.0.0/0", gateway: "169.254.1.1", onlink: true, metric: 7 },
      { mac: MAC, destination: "10.9.0.0/16", gateway: "10.1.2.1", source: "10.1.2.3", mtu: 1300 },
      { mac: MAC, destination: "::/0", gateway: "fd00::1" },
    ],
    neighbors: [{ mac: MAC, address: "169.254.1.1", linkAddress: "ee:ee:ee:ee:ee:ee" }],
  };
  await made.agent.network(network);
  await made.agent.network(network); // again: the same
  const ip = (...words: string[]) => inside(pid, "ip", ...words);
  assert.match(ip("link", "show", "eth0"), /[<,]UP[,>].* mtu 1400 /);
  assert.match(ip("link", "show", "lo"), /[<,]UP[,>]/);
  assert.match(ip("addr", "show", "eth0"), /inet 10\.1\.2\.3\/24 [\s\S]*inet6 fd00::3\/64/);
  const routes = ip("route");
  assert.match(routes, /^169\.254\.1\.1 dev eth0 .*scope link/m);
  assert.match(routes, /^default via 169\.254\.1\.1 dev eth0 .*metric 7 onlink/m);
  assert.match(routes, /^10\.9\.0\.0\/16 via 10\.1\.2\.1 dev eth0 .*src 10\.1\.2\.3 mtu 1300/m);
  assert.match(ip("-6", "route"), /^default via fd00::1 dev eth0/m);
  assert.match(ip("neigh"), /^169\.254\.1\.1 dev eth0 lladdr ee:ee:ee:ee:ee:ee PERMANENT/m);
});

test("network: what is no address, no interface or out of reach is refused, by name", async () => {
  const { made } = await withLink();
  await using _ = made;
  const link = (more: object) => made.agent.network({ interfaces: [{ mac: MAC, ...more }] });
  const route = (more: object) =>
    made.agent.network({ routes: [{ mac: MAC, destination: "10.0.0.0/8", ...more }] });
  const bad = code("INVALID_ARGUMENT");
  await assert.rejects(link({ mac: "02:00:00:00:00:0g" }), bad);
  await assert.rejects(link({ mac: "" }), bad);
  await assert.rejects(link({ mac: "02:00:00:00:00: 1" }), bad);
  await assert.rejects(link({ mac: "02:00:00:00:00:99" }), code("NOT_FOUND"));
  await assert.rejects(link({ name: "much-too-long-a-name" }), bad);
  for (const address of [
    "10.0.0.1",
    "10.0.0.1/33",
    "10.0.0/8",
    "fd00::/129",
    "x/8",
    "10.0.0.1/",
    "10.0.0.1/+8",
  ])
    await assert.rejects(link({ addresses: [address] }), bad, address);
  await assert.rejects(route({ gateway: "x" }), bad);
  await assert.rejects(route({ source: "x" }), bad);
  await assert.rejects(route({ scope: 256 }), bad);
  await assert.rejects(
    route({ gateway: "10.200.0.1" }),
    /adding route "10\.0\.0\.0\/8": network is unreachable/,
  );
});

test("mounts: a tmpfs comes and goes, its target is made; a disk that is not there is waited for", async () => {
  await using made = await connected(UNSHARE);
  const { agent, child, directory } = made;
  const target = path.join(directory, "deep/er/target");
  assert.deepEqual(
    await agent.mount({ type: "tmpfs", source: "t", target, options: ["size=1m", "ro", "nosuid"] }),
    {
      path: "",
      major: 0,
      minor: 0,
    },
  );
  const mounts = () => inside(child.pid!, "cat", "/proc/self/mountinfo");
  assert.match(mounts(), new RegExp(`${target} ro,nosuid.* - tmpfs t .*size=1024k`));
  await agent.unmount(target);
  assert.doesNotMatch(mounts(), new RegExp(target));
  await agent.unmount(target);

  await assert.rejects(agent.mount({ type: "", source: "x", target }), code("INVALID_ARGUMENT"));
  await assert.rejects(agent.mount({ type: "tmpfs", source: "x", target: "rel" }), code("INVALID_ARGUMENT"));
  await assert.rejects(
    agent.mount({ type: "nofs", source: "x", target }),
    /mounting "x" at ".*": no such device/,
  );
  await assert.rejects(agent.unmount("/"), code("INVALID_ARGUMENT"));
  const absent = { type: "block", source: "serial-of-none" };
  await assert.rejects(agent.mount({ ...absent, timeoutMs: 100 }), code("NOT_FOUND"));
  await assert.rejects(agent.mount({ ...absent, source: "" }), code("INVALID_ARGUMENT"));
});

test("entropy is taken, too little or too much of it is not; the clock does not go before 1970", async () => {
  await using made = await connected(UNSHARE);
  await made.agent.reseed(Buffer.alloc(64, 7));
  for (const size of [0, 31, 4097])
    await assert.rejects(made.agent.reseed(Buffer.alloc(size)), code("INVALID_ARGUMENT"), String(size));
  for (const time of [0n, -1n])
    await assert.rejects(made.agent.setClock(time), code("INVALID_ARGUMENT"), String(time));
});

test("a call that waits delays no other", async () => {
  await using made = await connected(UNSHARE);
  const waiting = made.agent.mount({ type: "block", source: "none", timeoutMs: 300 });
  const order: string[] = [];
  const first = waiting.catch(() => order.push("mount"));
  await made.agent.configure({ hostname: "quick" });
  order.push("configure");
  await first;
  assert.deepEqual(order, ["configure", "mount"]);
});
