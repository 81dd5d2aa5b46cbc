import assert from "node:assert/strict";
import { test } from "node:test";
import { runtime } from "../../src/gen/cri";
import {
  containerId,
  containerView,
  image,
  leastContainer,
  leastPod,
  podId,
  podView,
  ran,
  withDouble,
} from "./double";

const { NamespaceMode, Protocol, Signal } = runtime.v1;
const long = (value: number | string) => runtime.v1.Int64Value.create({ value: value as never }).value;
const metadata = { name: "pod", uid: "uid-1", namespace: "default" };

test("the least pod: everything unset is undefined, empty or the pod's", async (t) => {
  const double = await withDouble(t);
  const { podSandboxId } = await double.cri.RunPodSandbox({ config: { metadata } });
  assert.equal(podSandboxId, podId);
  assert.deepEqual(ran(double).config, leastPod);
  assert.equal(ran(double).handler, "");
});

test("a whole pod arrives unchanged", async (t) => {
  const double = await withDouble(t);
  await double.cri.RunPodSandbox({
    runtimeHandler: "isopod",
    config: {
      metadata: { ...metadata, attempt: 3 },
      hostname: "node-1",
      logDirectory: "/var/log/pods/x",
      dnsConfig: { servers: ["10.0.0.10"], searches: ["a.local"], options: ["ndots:5"] },
      portMappings: [{ protocol: Protocol.SCTP, containerPort: 80, hostPort: 8080, hostIp: "127.0.0.1" }],
      labels: { "io.kubernetes.pod.name": "pod", ünï: "ß" },
      annotations: { a: "b" },
      linux: {
        cgroupParent: "/kubepods/pod1",
        sysctls: { "net.core.somaxconn": "1024" },
        securityContext: {
          privileged: true,
          namespaceOptions: {
            network: NamespaceMode.NODE,
            pid: NamespaceMode.CONTAINER,
            ipc: NamespaceMode.NODE,
          },
        },
      },
    },
  });
  assert.deepEqual(ran(double).config, {
    metadata: { ...metadata, attempt: 3 },
    hostname: "node-1",
    logDirectory: "/var/log/pods/x",
    dns: { servers: ["10.0.0.10"], searches: ["a.local"], options: ["ndots:5"] },
    portMappings: [{ protocol: "sctp", containerPort: 80, hostPort: 8080, hostIp: "127.0.0.1" }],
    labels: { "io.kubernetes.pod.name": "pod", ünï: "ß" },
    annotations: { a: "b" },
    cgroupParent: "/kubepods/pod1",
    sysctls: { "net.core.somaxconn": "1024" },
    privileged: true,
    namespaces: { network: "node", pid: "container", ipc: "node", targetId: undefined },
  });
  assert.equal(ran(double).handler, "isopod");
});

test("R9: the config's bytes are handed on as received, unknown and split fields included", async (t) => {
  const double = await withDouble(t);
  const known = runtime.v1.PodSandboxConfig.encode({ metadata }).finish();
  // Field 1000, length-delimited, "new": what a kubelet of the future may send.
  const unknown = Buffer.from([0xc2, 0x3e, 3, ...Buffer.from("new")]);
  const field1 = (bytes: Uint8Array) => Buffer.concat([Buffer.from([0x0a, bytes.length]), bytes]);
  const whole = Buffer.concat([known, unknown]);
  await double.cri.raw("RunPodSandbox", field1(whole));
  assert.deepEqual(Buffer.from(ran(double).configBytes), whole);
  await double.cri.raw("RunPodSandbox", Buffer.concat([field1(known), field1(unknown)]));
  assert.deepEqual(Buffer.from(ran(double).configBytes), whole);
  assert.deepEqual(ran(double).config.metadata, { ...metadata, attempt: 0 });
});

test("a whole container arrives unchanged, numbers beyond 2^32 and user 0 included", async (t) => {
  const double = await withDouble(t);
  const { containerId: id } = await double.cri.CreateContainer({
    podSandboxId: podId,
    sandboxConfig: { metadata },
    config: {
      metadata: { name: "ctr", attempt: 2 },
      image: { image: image.id, userSpecifiedImage: "probe:v1" },
      command: ["/probe"],
      args: ["--x", ""],
      workingDir: "/w",
      envs: [{ key: "A", value: Buffer.from("ü=1") }],
      mounts: [
        {
          containerPath: "/c",
          hostPath: "/h",
          readonly: true,
          selinuxRelabel: true,
          propagation: runtime.v1.MountPropagation.PROPAGATION_HOST_TO_CONTAINER,
        },
      ],
      devices: [{ containerPath: "/dev/x", hostPath: "/dev/y", permissions: "rw" }],
      labels: { l: "1" },
      annotations: { a: "1" },
      logPath: "ctr/0.log",
      stdin: true,
      stdinOnce: true,
      tty: true,
      stopSignal: Signal.SIGNAL_SIGRTMINPLUS3,
      linux: {
        resources: {
          cpuPeriod: long(100000),
          cpuQuota: long(-1),
          cpuShares: long(2),
          memoryLimitInBytes: long("68719476736"),
          memorySwapLimitInBytes: long(-1),
          oomScoreAdj: long(-997),
          cpusetCpus: "0-1",
          cpusetMems: "0",
          hugepageLimits: [{ pageSize: "2MB", limit: long(0) }],
          unified: { "memory.oom.group": "1" },
        },
        securityContext: {
          capabilities: {
            addCapabilities: ["ALL"],
            dropCapabilities: ["NET_RAW"],
            addAmbientCapabilities: ["CHOWN"],
          },
          privileged: true,
          namespaceOptions: { pid: NamespaceMode.TARGET, targetId: "t" },
          runAsUser: { value: long(0) },
          runAsGroup: { value: long(4294967294) },
          readonlyRootfs: true,
          supplementalGroups: [long(1234)],
          supplementalGroupsPolicy: runtime.v1.SupplementalGroupsPolicy.Strict,
          noNewPrivs: true,
          maskedPaths: ["/proc/kcore"],
          readonlyPaths: ["/proc/sys"],
          seccomp: { profileType: runtime.v1.SecurityProfile.ProfileType.Localhost, localhostRef: "/p.json" },
          apparmorProfile: "unconfined",
        },
      },
    },
  });
  assert.equal(id, containerId);
  const [pod, config] = double.calls.at(-1)!.args;
  assert.equal(pod, podId);
  assert.deepEqual(config, {
    metadata: { name: "ctr", attempt: 2 },
    image: image.id,
    userSpecifiedImage: "probe:v1",
    command: ["/probe"],
    args: ["--x", ""],
    workingDir: "/w",
    envs: [["A", "ü=1"]],
    mounts: [
      {
        containerPath: "/c",
        hostPath: "/h",
        readonly: true,
        selinuxRelabel: true,
        propagation: "hostToContainer",
        recursiveReadOnly: false,
      },
    ],
    devices: [{ containerPath: "/dev/x", hostPath: "/dev/y", permissions: "rw" }],
    labels: { l: "1" },
    annotations: { a: "1" },
    logPath: "ctr/0.log",
    stdin: true,
    stdinOnce: true,
    tty: true,
    resources: {
      cpuPeriod: 100000,
      cpuQuota: -1,
      cpuShares: 2,
      memoryLimit: 68719476736,
      memorySwapLimit: -1,
      cpusetCpus: "0-1",
      cpusetMems: "0",
      hugepageLimits: [{ pageSize: "2MB", limit: 0 }],
      unified: { "memory.oom.group": "1" },
    },
    oomScoreAdj: -997,
    security: {
      addCapabilities: ["ALL"],
      dropCapabilities: ["NET_RAW"],
      addAmbientCapabilities: ["CHOWN"],
      privileged: true,
      namespaces: { network: "pod", pid: "target", ipc: "pod", targetId: "t" },
      runAsUser: 0,
      runAsUsername: "",
      runAsGroup: 4294967294,
      readonlyRootfs: true,
      supplementalGroups: [1234],
      supplementalGroupsPolicy: "strict",
      noNewPrivs: true,
      maskedPaths: ["/proc/kcore"],
      readonlyPaths: ["/proc/sys"],
      seccomp: { type: "localhost", localhostRef: "/p.json" },
      apparmor: { type: "unconfined", localhostRef: "" },
    },
    stopSignal: "SIGRTMIN+3",
  });
});

test("a container without namespace options takes its pod's own", async (t) => {
  const double = await withDouble(t);
  const namespaces = { network: "node", pid: "container", ipc: "pod", targetId: undefined } as const;
  const config = { ...leastPod, namespaces };
  double.pods.get = () => ({ ...podView, config });
  await double.cri.CreateContainer({
    podSandboxId: podId,
    config: { metadata: { name: "ctr" }, image: { image: image.id } },
  });
  assert.deepEqual(double.calls.at(-1)!.args, [
    podId,
    { ...leastContainer, security: { ...leastContainer.security, namespaces } },
  ]);
});

test("pods: nanoseconds keep all their digits, further addresses follow the first", async (t) => {
  const double = await withDouble(t);
  double.pods.get = () => podView;
  double.pods.list = () => [podView, { ...podView, ready: false }];
  const { status, info } = await double.cri.PodSandboxStatus({ podSandboxId: podId, verbose: true });
  assert.equal(status?.createdAt?.toString(), "1764000000000000001");
  assert.equal(status?.network?.ip, "10.1.0.2");
  assert.deepEqual(
    status?.network?.additionalIps?.map(({ ip }) => ip),
    ["fd00::2"],
  );
  assert.equal(status?.runtimeHandler, "isopod");
  assert.equal(JSON.parse(info["info"]!).pid, 42);
  const { items } = await double.cri.ListPodSandbox({
    filter: { id: "a", state: { state: 0 }, labelSelector: { k: "v" } },
  });
  assert.deepEqual(
    items.map(({ state }) => state ?? 0),
    [0, 1],
  );
});

test("filters: absent is any, given members arrive", async (t) => {
  const double = await withDouble(t);
  await double.cri.ListPodSandbox({});
  assert.deepEqual(double.calls.at(-1)!.args[0], { id: undefined, ready: undefined, labels: {} });
  await double.cri.ListPodSandbox({ filter: { state: { state: 1 } } });
  assert.deepEqual(double.calls.at(-1)!.args[0], { id: undefined, ready: false, labels: {} });
  await double.cri.ListContainers({
    filter: { id: "i", podSandboxId: "p", state: { state: 2 }, labelSelector: { k: "v" } },
  });
  assert.deepEqual(double.calls.at(-1)!.args[0], {
    id: "i",
    podId: "p",
    state: "exited",
    labels: { k: "v" },
  });
  await double.cri.ListContainerStats({ filter: { podSandboxId: "p" } });
  assert.deepEqual(double.calls.at(-1)!.args[0], { id: undefined, podId: "p", labels: {} });
});

test("containers: status says what ended it, who it ran as, and a name a person would use", async (t) => {
  const double = await withDouble(t);
  double.pods.getContainer = () => containerView;
  double.images.find = () => image;
  const { status, info } = await double.cri.ContainerStatus({ containerId, verbose: true });
  assert.equal(status?.exitCode, 137);
  assert.equal(status?.reason, "OOMKilled");
  assert.equal(status?.finishedAt?.toString(), "1764000000000000003");
  assert.equal(status?.image?.image, "localhost:5000/probe:v1");
  assert.equal(status?.imageRef, image.repoDigests[0]);
  assert.equal(status?.imageId, image.id);
  assert.equal(status?.user?.linux?.gid?.toString(), "4294967294");
  assert.equal(status?.stopSignal, Signal.SIGNAL_SIGRTMINPLUS3);
  assert.equal(JSON.parse(info["info"]!).runtimeSpec.ociVersion, "1.2.0");
});

test("containers: status works when the image has been removed", async (t) => {
  const double = await withDouble(t);
  double.pods.getContainer = () => containerView;
  const { status } = await double.cri.ContainerStatus({ containerId });
  assert.equal(status?.image?.image, image.id);
});

const cpu = { usage: 1n, user: 1n, system: 0n };
const memory = {
  usage: 100n,
  limit: 100n,
  anon: 20n,
  file: 50n,
  inactiveFile: 40n,
  fileMapped: 1n,
  kernel: 2n,
  pageFaults: 3n,
  majorPageFaults: 4n,
};

test("stats: what was not measured is absent, not 0", async (t) => {
  const double = await withDouble(t);
  const timestamp = 1_764_000_000_000_000_001n;
  double.pods.stats = () =>
    Promise.resolve({ container: containerView, timestamp, usage: { cpu: { ...cpu, usage: 2n ** 60n } } });
  const { stats } = await double.cri.ContainerStats({ containerId });
  assert.equal(stats?.attributes?.id, containerId);
  assert.equal(stats?.cpu?.usageCoreNanoSeconds?.value?.toString(), (2n ** 60n).toString());
  assert.equal(stats?.cpu?.usageNanoCores ?? null, null);
  assert.equal(stats?.memory ?? null, null);
  assert.equal(stats?.writableLayer ?? null, null);
  assert.equal(stats?.swap ?? stats?.io ?? stats?.cpu?.psi ?? null, null);
});

test("stats: memory, swap, pressure, of containers and of the pod with its network", async (t) => {
  const double = await withDouble(t);
  const timestamp = 1_764_000_000_000_000_001n;
  const stall = (total: bigint) => ({ avg10: 1.5, avg60: 0.25, avg300: 0.01, total });
  const pressure = { some: stall(7n), full: stall(3n) };
  const usage = {
    cpu: { ...cpu, pressure: { some: stall(9n) } },
    nanoCores: 5n,
    memory: { ...memory, pressure },
    workingSet: 60n,
    available: 40n,
    swap: { usage: 4n, limit: 10n },
    ioPressure: pressure,
    pids: { current: 3n },
  };
  const container = { container: containerView, timestamp, usage };
  double.pods.listStats = () => Promise.resolve([container]);
  const [stats] = (await double.cri.ListContainerStats({})).stats;
  const value = (wrapped: { value?: unknown } | null | undefined) => String(wrapped?.value);
  assert.equal(value(stats?.memory?.workingSetBytes), "60");
  assert.equal(value(stats?.memory?.availableBytes), "40");
  assert.equal(value(stats?.memory?.rssBytes), "20");
  assert.equal(value(stats?.swap?.swapUsageBytes), "4");
  assert.equal(value(stats?.swap?.swapAvailableBytes), "6");
  assert.equal(stats?.memory?.psi?.Full?.Total?.toString(), "3");
  assert.equal(stats?.memory?.psi?.Some?.Avg10, 1.5);
  assert.equal(stats?.io?.psi?.Some?.Total?.toString(), "7");
  assert.equal(stats?.cpu?.psi?.Full ?? null, null, "cpu has no full on some kernels");
  const traffic = { bytes: 1n, packets: 2n, errors: 3n, dropped: 4n };
  const [eth0, eth1] = ["eth0", "eth1"].map((name) => ({
    name,
    received: traffic,
    sent: { ...traffic, bytes: 9n },
  }));
  const pod = {
    pod: podView,
    timestamp,
    usage,
    interfaces: [eth0!, eth1!],
    defaultInterface: eth0,
    containers: [container],
  };
  double.pods.podStats = () => Promise.resolve(pod);
  const { linux, attributes } = (await double.cri.PodSandboxStats({ podSandboxId: podId })).stats!;
  assert.equal(attributes?.id, podId);
  assert.equal(value(linux?.process?.processCount), "3");
  assert.equal(value(linux?.cpu?.usageNanoCores), "5");
  assert.equal(linux?.network?.defaultInterface?.name, "eth0");
  assert.deepEqual(
    linux?.network?.interfaces?.map(({ name }) => name),
    ["eth1"],
  );
  assert.equal(value(linux?.network?.defaultInterface?.txBytes), "9");
  assert.equal(linux?.containers?.[0]?.attributes?.id, containerId);
});

test("images: uid and username are split, sizes exceed 32 bits, an absent image is no error", async (t) => {
  const double = await withDouble(t);
  const [listed] = (await double.cri.ListImages({})).images;
  assert.equal(listed?.uid?.value?.toString(), "1000");
  assert.equal(listed?.username ?? "", "");
  assert.equal(listed?.size?.toString(), "4000000000");
  assert.equal((await double.cri.ImageStatus({ image: { image: "none" } })).image ?? null, null);
  double.images.find = () => ({ ...image, config: { ...image.config, config: { User: "www:staff" } } });
  const { image: found } = await double.cri.ImageStatus({ image: { image: "x" } });
  assert.equal(found?.username, "www");
  assert.equal(found?.uid ?? null, null);
  assert.deepEqual((await double.cri.PullImage({ image: { image: "x" }, auth: {} })).imageRef, image.id);
  assert.equal((double.calls.at(-1)!.args[0] as { auth: unknown }).auth, undefined);
  const fsInfo = await double.cri.ImageFsInfo({});
  assert.equal(fsInfo.imageFilesystems[0]?.usedBytes?.value?.toString(), "5");
  assert.equal(fsInfo.containerFilesystems.length, 1);
});
