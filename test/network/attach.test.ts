import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import { silentLog } from "../../src/base/log";
import { native } from "../../src/native";
import { openNetwork, type PodNetwork } from "../../src/network";
import { leasedAddresses, writeNetwork } from "../support/cni";
import { command } from "../support/command";
import { type Host, onHost, privateHost } from "../support/host";
import { needs, present } from "../support/needs";
import { peers } from "../support/peers";

const cni = peers.cni();
const iptables = peers.iptables();

/** The real plugins, each behind a script that runs it in the network namespace of `host`. */
function wrapPlugins(dir: string, host: Host): string {
  const { binDir } = present(cni);
  const wrapped = path.join(dir, "bin");
  fs.mkdirSync(wrapped);
  const script = (name: string, line: string) =>
    fs.writeFileSync(path.join(wrapped, name), `#!/bin/sh\nexport PATH=${wrapped}:$PATH\n${line}\n`, {
      mode: 0o755,
    });
  for (const name of fs.readdirSync(binDir))
    script(name, `exec nsenter -t ${host.pid} -n -- ${path.join(binDir, name)} "$@"`);
  if (iptables.missing === undefined)
    for (const name of ["iptables", "ip6tables"])
      script(name, `export XTABLES_LIBDIR=${iptables.extensions}\nexec ${iptables.iptables} ${name} "$@"`);
  return wrapped;
}

interface Bench {
  readonly host: Host;
  readonly dir: string;
  readonly netnsDir: string;
  readonly lease: () => string[];
  readonly prefix: string;
  readonly network: ReturnType<typeof openNetwork>;
  readonly rules: () => Promise<string>;
}

async function withNetwork(portmap: boolean, work: (bench: Bench) => Promise<void>): Promise<void> {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-net-"));
  const netnsDir = path.join(dir, "netns");
  const host = await privateHost();
  try {
    const written = writeNetwork(dir, { portmap, host });
    const binDirs = [wrapPlugins(dir, host)];
    const network = openNetwork({ confDir: written.confDir, binDirs, netnsDir, log: silentLog });
    try {
      await work({
        host,
        dir,
        netnsDir,
        lease: () => leasedAddresses(written),
        prefix: written.prefix,
        network,
        rules: async () =>
          (await onHost(host, path.join(dir, "bin", "iptables"), ["-t", "nat", "-S"])).stdout,
      });
    } finally {
      network.close();
    }
  } finally {
    await host.end();
    for (const pin of fs.existsSync(netnsDir) ? fs.readdirSync(netnsDir) : [])
      await native().netnsDelete({ path: path.join(netnsDir, pin) });
    await native().unmount({ path: netnsDir });
    fs.rmSync(dir, { recursive: true, force: true });
  }
}

let count = 0;

function podIn(network: Bench["network"], changes: Partial<PodNetwork> = {}): PodNetwork {
  const id = String(++count).padStart(64, "a");
  return {
    id,
    name: "web",
    namespace: "default",
    uid: "u-1",
    netns: network.namespacePath(id),
    annotations: {},
    portMappings: [],
    ...changes,
  };
}

const inPod = (pod: PodNetwork, file: string, args: readonly string[]) =>
  command("nsenter", [`--net=${pod.netns}`, "--", file, ...args]);

test("bridge and host-local: an address that works, lo up, and nothing left after DEL", needs(cni), () =>
  withNetwork(false, async ({ network, lease, prefix, host, netnsDir }) => {
    const pod = podIn(network);
    await network.createNamespace(pod.netns);
    const attachment = await network.add(pod, network.configuration());
    const [address] = attachment.ips;
    assert.match(address ?? "", new RegExp(`^${prefix.replaceAll(".", "\\.")}\\.\\d+$`));
    assert.deepEqual(lease(), [address]);
    const shown = (await inPod(pod, "ip", ["-o", "addr"])).stdout;
    assert.match(shown, /lo\s+inet 127\.0\.0\.1/);
    assert.match(shown, new RegExp(`eth0\\s+inet ${address}/24`));
    // Through the bridge, from the pod to its gateway.
    const pings = 'const s=require("net").connect(9,process.argv[1]);s.on("error",e=>console.log(e.code))';
    const reached = await inPod(pod, process.execPath, ["-e", pings, `${prefix}.1`]);
    assert.equal(reached.stdout.trim(), "ECONNREFUSED");
    await network.del(pod, JSON.parse(JSON.stringify(attachment)) as typeof attachment);
    assert.deepEqual(lease(), []);
    assert.doesNotMatch((await onHost(host, "ip", ["-o", "link"])).stdout, /veth/);
    await network.deleteNamespace(pod.netns);
    await network.deleteNamespace(pod.netns);
    assert.deepEqual(fs.readdirSync(netnsDir), []);
  }),
);

test("DEL gives the address back when the namespace is gone, and again without harm", needs(cni), () =>
  withNetwork(false, async ({ network, lease }) => {
    const pod = podIn(network);
    await network.createNamespace(pod.netns);
    const attachment = await network.add(pod, network.configuration());
    await network.deleteNamespace(pod.netns);
    assert.equal(lease().length, 1);
    for (let i = 0; i < 2; i++) await network.del({ ...pod, netns: "" }, attachment);
    assert.deepEqual(lease(), []);
  }),
);

test("an ADD that a later plugin fails gives back what the earlier ones took", needs(cni), () =>
  withNetwork(false, async ({ network, lease, host, dir }) => {
    const file = path.join(dir, "cni", "10-test.conflist");
    const list = JSON.parse(fs.readFileSync(file, "utf8")) as { plugins: object[] };
    const broken = {
      ...list,
      plugins: [...list.plugins, { type: "tuning", sysctl: { "net.ipv4.no_such": "1" } }],
    };
    const pod = podIn(network);
    await network.createNamespace(pod.netns);
    await assert.rejects(network.add(pod, broken), /plugin "tuning": ADD: .*no_such/);
    assert.deepEqual(lease(), []);
    assert.doesNotMatch((await onHost(host, "ip", ["-o", "link"])).stdout, /veth/);
    await network.deleteNamespace(pod.netns);
  }),
);

test("pods get addresses side by side", needs(cni), () =>
  withNetwork(false, async ({ network, lease }) => {
    const pods = Array.from({ length: 4 }, () => podIn(network));
    const attachments = await Promise.all(
      pods.map(async (pod) => {
        await network.createNamespace(pod.netns);
        return network.add(pod, network.configuration());
      }),
    );
    assert.equal(new Set(attachments.flatMap(({ ips }) => ips)).size, 4);
    await Promise.all(
      pods.map(async (pod, i) => {
        await network.del(pod, attachments[i]!);
        await network.deleteNamespace(pod.netns);
      }),
    );
    assert.deepEqual(lease(), []);
  }),
);

test("portmap: a host port leads to the pod, and its rules go with it", needs(cni, iptables), () =>
  withNetwork(true, async ({ network, prefix, host, rules }) => {
    const portMappings = [{ protocol: "tcp", hostPort: 8080, containerPort: 80, hostIp: "" }] as const;
    const pod = podIn(network, { portMappings });
    await network.createNamespace(pod.netns);
    const attachment = await network.add(pod, network.configuration());
    assert.match(await rules(), /--dport 8080 .*DNAT --to-destination \S+:80/);
    const serve =
      'require("net").createServer(s=>{s.end("from the pod");s.on("close",()=>process.exit())}).listen(80)';
    const ended = inPod(pod, process.execPath, ["-e", serve]).catch(() => undefined);
    const ask =
      'const n=require("net");const t=()=>n.connect(8080,process.argv[1])' +
      '.on("error",()=>setTimeout(t,50)).on("data",d=>{console.log(String(d));process.exit()});t()';
    const heard = await onHost(host, process.execPath, ["-e", ask, `${prefix}.1`]);
    assert.equal(heard.stdout.trim(), "from the pod");
    await network.del(pod, attachment);
    assert.doesNotMatch(await rules(), /8080/);
    await network.deleteNamespace(pod.netns);
    await ended;
  }),
);

test("R7: a namespace is pinned where other mount namespaces see it, never named by a pid", needs(), () =>
  withNetwork(false, async ({ network, netnsDir }) => {
    const pod = podIn(network);
    assert.equal(path.dirname(pod.netns), netnsDir);
    // A mount namespace made before the pin: it sees the pin only if the directory is shared.
    await network.createNamespace(network.namespacePath("first"));
    const watcher = await command("unshare", [
      "-m",
      "--propagation",
      "slave",
      "sh",
      "-c",
      `sleep 60 >/dev/null 2>&1 & echo $!`,
    ]);
    const pid = Number(watcher.stdout.trim());
    try {
      await network.createNamespace(pod.netns);
      assert.match(fs.readFileSync(`/proc/${pid}/mountinfo`, "utf8"), new RegExp(` ${pod.netns} .* - nsfs `));
    } finally {
      process.kill(pid, "SIGKILL");
    }
    await network.deleteNamespace(network.namespacePath("first"));
    await network.deleteNamespace(pod.netns);
  }),
);
