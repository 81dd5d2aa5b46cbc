import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { native } from "../../src/native";
import { command } from "../support/command";
import { needs, requirement } from "../support/needs";

const tun = requirement(fs.existsSync("/dev/net/tun"), "needs /dev/net/tun");
/** struct virtio_net_hdr_v1: nothing to checksum, nothing to segment. */
const HEADER = Buffer.alloc(12);
const POD = { mac: "02:00:00:00:00:05", ip: "10.9.0.5", peer: "10.9.0.1", peerMac: "02:00:00:00:00:01" };

/** A pod's namespace with eth0 as a CNI plugin leaves it, and the node's end of the veth in another. */
async function wired(body: (at: { pod: string; node: string }) => Promise<void>): Promise<void> {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-tap-"));
  const [pod, node] = [path.join(dir, "pod"), path.join(dir, "node")] as [string, string];
  try {
    for (const pin of [pod, node]) await native().netnsCreate({ path: pin });
    const inNode = (text: string) => command("nsenter", [`--net=${node}`, "sh", "-ec", text]);
    const inPod = (text: string) => command("nsenter", [`--net=${pod}`, "sh", "-ec", text]);
    await inNode(
      `ip link add veth0 address ${POD.peerMac} type veth peer name eth0 address ${POD.mac} mtu 1400;
       ip addr add ${POD.peer}/24 dev veth0; ip link set veth0 up`,
    );
    // ip(8) moves a link to where a process is; this one must have arrived there first.
    await inNode(
      `nsenter --net=${pod} sleep 30 & keeper=$!;
       until [ "$(readlink /proc/$keeper/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done;
       ip link set eth0 netns $keeper; kill $keeper`,
    );
    await inPod(
      `ip addr add ${POD.ip}/24 dev eth0; ip addr add fd09::5/64 dev eth0 nodad; ip link set eth0 up;
       ip route add default via ${POD.peer}; ip route add 192.0.2.0/24 via 198.51.100.1 dev eth0 onlink metric 7;
       ip neigh add ${POD.peer} lladdr ${POD.peerMac} dev eth0 nud permanent`,
    );
    await body({ pod, node });
  } finally {
    for (const pin of [pod, node]) await native().netnsDelete({ path: pin });
    // Its directory was made a shared mount.
    await native().unmount({ path: dir });
    fs.rmSync(dir, { recursive: true });
  }
}

/** Frames that arrive at the tap, until one fits. */
async function frame(tap: number, fits: (data: Buffer) => boolean): Promise<Buffer> {
  const buffer = Buffer.alloc(65_562);
  for (let i = 0; i < 500; i++) {
    try {
      const data = buffer.subarray(HEADER.length, fs.readSync(tap, buffer));
      if (fits(data)) return Buffer.from(data);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
      await sleep(10);
    }
  }
  throw new Error("no such frame arrived at the tap");
}

const bytesOf = (mac: string) => Buffer.from(mac.replaceAll(":", ""), "hex");
const ip = (address: string) => Buffer.from(address.split(".").map(Number));

test(
  "a tap takes over what CNI made: addresses are told, frames go both ways past the namespace",
  needs(tun),
  async () => {
    await wired(async ({ pod, node }) => {
      const link = await native().tapAttach({ netns: pod, link: "eth0" });
      try {
        assert.equal(link.mac, POD.mac);
        assert.equal(link.mtu, 1400);
        assert.deepEqual([...link.addresses].sort(), [`${POD.ip}/24`, "fd09::5/64"]);
        assert.deepEqual(link.routes, [
          { destination: "0.0.0.0/0", gateway: POD.peer, metric: 0, scope: 0, onlink: false },
          { destination: "192.0.2.0/24", gateway: "198.51.100.1", metric: 7, scope: 0, onlink: true },
        ]);
        assert.deepEqual(link.neighbours, [{ address: POD.peer, mac: POD.peerMac }]);

        // The node asks who has the pod's address. Only the tap hears it: the namespace would answer itself.
        const ping = command("nsenter", [`--net=${node}`, "busybox", "ping", "-c", "1", "-W", "5", POD.ip], {
          accept: [0, 1],
        });
        const asked = await frame(link.tap, (data) => data.readUInt16BE(12) === 0x0806 && data[21] === 1);
        assert.deepEqual(asked.subarray(38, 42), ip(POD.ip));
        const answer = Buffer.concat([
          ...[
            bytesOf(POD.peerMac),
            bytesOf(POD.mac),
            Buffer.from("080600010800060400 02".replace(" ", ""), "hex"),
          ],
          ...[bytesOf(POD.mac), ip(POD.ip), bytesOf(POD.peerMac), ip(POD.peer)],
        ]);
        fs.writeSync(link.tap, Buffer.concat([HEADER, answer]));
        const echo = await frame(link.tap, (data) => data.readUInt16BE(12) === 0x0800 && data[23] === 1);
        assert.deepEqual(echo.subarray(30, 34), ip(POD.ip));
        const known = await command("nsenter", [`--net=${node}`, "ip", "neigh", "show", POD.ip]);
        assert.match(known.stdout, new RegExp(POD.mac));
        await ping;

        await native().tapDetach({ netns: pod, link: "eth0" });
        const left = await command("nsenter", [
          `--net=${pod}`,
          "sh",
          "-c",
          "ip -o link; tc qdisc show dev eth0",
        ]);
        assert.doesNotMatch(left.stdout, /isopod-tap|ingress/);
        await command("nsenter", [`--net=${node}`, "busybox", "ping", "-c", "1", "-W", "5", POD.ip]);
        await native().tapDetach({ netns: pod, link: "eth0" });
      } finally {
        fs.closeSync(link.tap);
      }
    });
  },
);

test(
  "an interface that is not there, or that no guest could take over, is refused and nothing is left",
  needs(tun),
  async () => {
    await wired(async ({ pod }) => {
      await assert.rejects(native().tapAttach({ netns: pod, link: "eth9" }), {
        errno: "ENODEV",
        path: "eth9",
      });
      await assert.rejects(native().tapAttach({ netns: pod, link: "lo" }), /not an Ethernet interface/);
      await assert.rejects(native().tapAttach({ netns: `${pod}x`, link: "eth0" }), { errno: "ENOENT" });
      const held = await native().tapAttach({ netns: pod, link: "eth0" });
      await assert.rejects(native().tapAttach({ netns: pod, link: "eth0" }), { errno: "EBUSY" });
      fs.closeSync(held.tap);
      // A guest that is gone leaves the qdisc: it goes with the next detach.
      await native().tapDetach({ netns: pod, link: "eth0" });
      const left = await command("nsenter", [
        `--net=${pod}`,
        "sh",
        "-c",
        "ip -o link; tc qdisc show dev eth0",
      ]);
      assert.doesNotMatch(left.stdout, /isopod-tap|ingress/);
    });
  },
);
