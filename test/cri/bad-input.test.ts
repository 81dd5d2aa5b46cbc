import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { runtime } from "../../src/gen/cri";
import { native } from "../../src/native";
import type { Daemon } from "../support/daemon";
import { image, layer } from "../support/images";
import {
  containerConfig,
  create,
  exited,
  inventoryOf,
  leaksOf,
  podConfig,
  removePod,
  run,
  runPod,
  startPodDaemon,
} from "../support/pods";

/** What only the host or other pods can tell to be wrong: refused with reason and cure, changing nothing. */
const { NamespaceMode } = runtime.v1;
const long = (value: number | string) => runtime.v1.Int64Value.create({ value: value as never }).value;
type Expected = readonly [code: number, ...words: RegExp[]];
const [UNKNOWN, INVALID, NOT_FOUND, FAILED_PRECONDITION, UNIMPLEMENTED] = [2, 3, 5, 9, 12];

let daemon: Daemon;
before(async () => {
  const empty = image([layer([{ path: "bin/", type: "directory" }])]);
  daemon = await startPodDaemon({ images: [{ name: "localhost/empty:1", image: empty }] });
  await removePod(daemon, (await run(daemon, ["true"])).podId);
});
after(() => daemon?.end());

const refused = ([code, ...words]: Expected) => {
  return (error: { code: number; details: string }) => {
    assert.equal(error.code, code, error.details);
    for (const word of words) assert.match(error.details, word);
    return true;
  };
};

const linux = (config: runtime.v1.ILinuxPodSandboxConfig): runtime.v1.IPodSandboxConfig => ({
  linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } }, ...config },
});

const pods: [name: string, config: runtime.v1.IPodSandboxConfig, expected: Expected][] = [
  [
    "a relative cgroup parent",
    linux({ cgroupParent: "kubepods/x" }),
    [INVALID, /cgroup_parent: "kubepods\/x"/],
  ],
  [
    "a cgroup parent that climbs",
    linux({ cgroupParent: "/a/../../b" }),
    [INVALID, /cgroup_parent: "\/a\/\.\.\/\.\.\/b"/],
  ],
  [
    "a slice under cgroupfs",
    linux({ cgroupParent: "kubepods.slice" }),
    [INVALID, /cgroup_parent: "kubepods\.slice"/],
  ],
  ["a relative log directory", { logDirectory: "logs" }, [INVALID, /log_directory: "logs"/]],
  [
    "a sysctl of the host's network",
    linux({ sysctls: { "net.core.somaxconn": "1" } }),
    [INVALID, /net\.core\.somaxconn/],
  ],
  [
    "a sysctl that is not namespaced",
    linux({ sysctls: { "vm.swappiness": "1" } }),
    [INVALID, /vm\.swappiness/],
  ],
  ["a hostname on the host's network", { hostname: "other" }, [INVALID, /hostname: "other"/]],
];

for (const [name, config, expected] of pods) {
  test(`RunPodSandbox refuses ${name}`, async () => {
    const empty = await inventoryOf(daemon);
    await assert.rejects(daemon.cri.RunPodSandbox({ config: podConfig(daemon, config) }), refused(expected));
    assert.deepEqual(await leaksOf(daemon, empty), []);
  });
}

test("RunPodSandbox refuses an unknown handler, and one whose shim is not installed", async () => {
  const empty = await inventoryOf(daemon);
  const config = podConfig(daemon);
  await assert.rejects(
    daemon.cri.RunPodSandbox({ config, runtimeHandler: "isopd" }),
    refused([INVALID, /runtime_handler: "isopd"/]),
  );
  assert.deepEqual((await daemon.cri.ListPodSandbox({})).items, []);
  // The same request with the right handler is not held up by the one that failed.
  await removePod(
    daemon,
    (await daemon.cri.RunPodSandbox({ config, runtimeHandler: "isopod" })).podSandboxId,
  );
  assert.deepEqual(await leaksOf(daemon, empty), []);
});

type Refusal = [name: string, config: runtime.v1.IContainerConfig, expected: Expected];
const resources = (given: runtime.v1.ILinuxContainerResources): runtime.v1.IContainerConfig => ({
  linux: { resources: given },
});
const security = (given: runtime.v1.ILinuxContainerSecurityContext): runtime.v1.IContainerConfig => ({
  linux: { securityContext: given },
});

const containers: Refusal[] = [
  [
    "a missing image",
    { image: { image: "localhost/none:1" } },
    [NOT_FOUND, /localhost\/none:1/, /not found/],
  ],
  ["no command", { command: [], image: { image: "localhost/empty:1" } }, [INVALID, /no command specified/]],
  [
    "an absent mount source",
    { mounts: [{ containerPath: "/c", hostPath: "/nonexistent/x" }] },
    [FAILED_PRECONDITION, /opening "\/nonexistent\/x": no such file/],
  ],
  [
    "an absent device",
    { devices: [{ containerPath: "/dev/c", hostPath: "/dev/nonexistent" }] },
    [INVALID, /devices\[0\]\.host_path: "\/dev\/nonexistent"/],
  ],
  [
    "a swap limit that counts a memory limit which is not there",
    resources({ memorySwapLimitInBytes: long(5_000_000) }),
    [INVALID, /memory\.swap: 5000000: .*needs memory\.limit/],
  ],
  [
    "a swap limit below the memory limit that it counts",
    resources({ memoryLimitInBytes: long(64 << 20), memorySwapLimitInBytes: long(5_000_000) }),
    [INVALID, /memory\.swap: 5000000: .*below/],
  ],
  ["a cpuset that is none", resources({ cpusetCpus: "first" }), [INVALID, /cpu\.cpus: "first"/]],
  [
    "a size that no page has",
    resources({ hugepageLimits: [{ pageSize: "many", limit: long(4096) }] }),
    [INVALID, /hugepageLimits.*"many"/],
  ],
  [
    "a unified limit that leaves the cgroup",
    resources({ unified: { "../memory.high": "5" } }),
    [INVALID, /unified.*memory\.high/],
  ],
  [
    "a unified limit of a controller that there is not",
    resources({ unified: { "frobnication.max": "5" } }),
    [FAILED_PRECONDITION, /frobnication/],
  ],
  [
    "a capability that there is not",
    security({ capabilities: { addCapabilities: ["FLY"] } }),
    [INVALID, /FLY/],
  ],
  ["a user that the image lacks", security({ runAsUsername: "ghost" }), [INVALID, /ghost/]],
  ["privilege in a pod that has none", security({ privileged: true }), [INVALID, /privileged: true/]],
  [
    "a seccomp file that is absent",
    security({ seccomp: { profileType: 2, localhostRef: "/nonexistent.json" } }),
    [INVALID, /localhost_ref: "\/nonexistent\.json"/],
  ],
  [
    "an AppArmor profile",
    security({ apparmor: { profileType: 2, localhostRef: "absent" } }),
    [native().features().apparmor ? FAILED_PRECONDITION : UNIMPLEMENTED, /apparmor.*"absent"/],
  ],
  [
    "a pid namespace of a container that is not there",
    security({
      namespaceOptions: { network: NamespaceMode.NODE, pid: NamespaceMode.TARGET, targetId: "nobody" },
    }),
    [NOT_FOUND, /nobody/],
  ],
  [
    "a log path that leaves the pod's directory",
    { logPath: "../x.log" },
    [INVALID, /log_path: "\.\.\/x\.log"/],
  ],
];

for (const [name, config, expected] of containers) {
  test(`CreateContainer refuses ${name}`, async () => {
    const [podId, pod] = await runPod(daemon);
    const empty = await inventoryOf(daemon);
    await assert.rejects(create(daemon, podId, pod, containerConfig(["true"], config)), refused(expected));
    assert.deepEqual((await daemon.cri.ListContainers({})).containers, []);
    assert.deepEqual(await leaksOf(daemon, empty), []);
    assert.deepEqual(fs.readdirSync(pod.logDirectory!), []);
    await removePod(daemon, podId);
  });
}

test("0 and empty are unset; what kubelet asks of every container needs no controller", async () => {
  const { id, podId } = await run(daemon, ["true"], {
    container: resources({
      cpuQuota: long(0),
      cpuPeriod: long(100_000),
      memoryLimitInBytes: long(0),
      memorySwapLimitInBytes: long(-1),
      cpuShares: long(512),
      hugepageLimits: [{ pageSize: "2MB", limit: long(0) }],
      unified: { "memory.oom.group": "1" },
    }),
  });
  assert.equal((await exited(daemon, id)).exitCode ?? 0, 0);
  await removePod(daemon, podId);
});

test("a program that is not there fails StartContainer or CreateContainer, is told, and leaves nothing", async () => {
  const [podId, pod] = await runPod(daemon);
  const empty = await inventoryOf(daemon);
  await assert.rejects(
    (async () => {
      const id = await create(daemon, podId, pod, containerConfig(["/no/such/program"]));
      try {
        await daemon.cri.StartContainer({ containerId: id });
      } finally {
        const { status } = await daemon.cri.ContainerStatus({ containerId: id });
        assert.equal(status!.state, runtime.v1.ContainerState.CONTAINER_EXITED);
        assert.equal(status!.reason, "StartError");
        assert.equal(status!.exitCode, 128);
        assert.match(status!.message!, /no such file/i);
        await daemon.cri.RemoveContainer({ containerId: id });
      }
    })(),
    /\/no\/such\/program.*no such file/i,
  );
  assert.deepEqual(await leaksOf(daemon, empty), []);
  await removePod(daemon, podId);
});

test("an image that cannot be resolved is named, and kubelet's word for it comes first", async () => {
  const { cri } = daemon;
  await assert.rejects(
    cri.PullImage({ image: { image: "localhost/UPPER" } }),
    refused([INVALID, /localhost\/UPPER/]),
  );
  await assert.rejects(
    cri.PullImage({ image: { image: "127.0.0.1:1/x:1" } }),
    refused([UNKNOWN, /^RegistryUnavailable: /, /127\.0\.0\.1:1/]),
  );
  await cri.RemoveImage({ image: { image: "localhost/none:1" } });
  assert.equal((await cri.ImageStatus({ image: { image: "localhost/none:1" } })).image ?? null, null);
  assert.equal(fs.existsSync(path.join(daemon.root, "images")), true);
});
