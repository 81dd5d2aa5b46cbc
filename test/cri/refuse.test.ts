import assert from "node:assert/strict";
import { test } from "node:test";
import { runtime } from "../../src/gen/cri";
import { image, podId, withDouble } from "./double";

/** A request that is wrong is refused naming the field and its value, and nothing behind the server is called. */
const { NamespaceMode: Mode, SecurityProfile } = runtime.v1;
const long = (value: number | string) => runtime.v1.Int64Value.create({ value: value as never }).value;
const INVALID = 3;
const UNIMPLEMENTED = 12;

type Pod = runtime.v1.IPodSandboxConfig;
type Container = runtime.v1.IContainerConfig;
type Case<T> = readonly [config: T, code: number, field: string, value: string];

const metadata = { name: "p", uid: "u", namespace: "n" };
const podSecurity = (securityContext: runtime.v1.ILinuxSandboxSecurityContext): Pod => ({
  metadata,
  linux: { securityContext },
});

const pods: Case<Pod | undefined>[] = [
  [undefined, INVALID, "config", "null"],
  [{}, INVALID, "config.metadata", "null"],
  [{ metadata: { ...metadata, name: "" } }, INVALID, "config.metadata.name", '""'],
  [{ metadata: { ...metadata, uid: "" } }, INVALID, "config.metadata.uid", '""'],
  [{ metadata, portMappings: [{ protocol: 9 as never }] }, INVALID, "config.port_mappings[0].protocol", "9"],
  [{ metadata, portMappings: [{ hostPort: 65536 }] }, INVALID, "config.port_mappings[0].host_port", "65536"],
  [
    { metadata, portMappings: [{ containerPort: -1 }] },
    INVALID,
    "config.port_mappings[0].container_port",
    "-1",
  ],
  [{ metadata, portMappings: [{ hostIp: "1.2.3" }] }, INVALID, "config.port_mappings[0].host_ip", "1.2.3"],
  [
    podSecurity({ namespaceOptions: { network: Mode.CONTAINER } }),
    INVALID,
    "config.linux.security_context.namespace_options.network",
    "1",
  ],
  [
    podSecurity({ namespaceOptions: { pid: Mode.TARGET, targetId: "x" } }),
    INVALID,
    "config.linux.security_context.namespace_options.pid",
    "TARGET",
  ],
  [
    podSecurity({ namespaceOptions: { ipc: Mode.TARGET } }),
    INVALID,
    "config.linux.security_context.namespace_options.ipc",
    "3",
  ],
  [
    podSecurity({ namespaceOptions: { usernsOptions: { mode: Mode.POD } } }),
    UNIMPLEMENTED,
    "config.linux.security_context.namespace_options.userns_options",
    "POD",
  ],
  [
    podSecurity({ namespaceOptions: { usernsOptions: { mode: Mode.NODE, uids: [{ length: 1 }] } } }),
    INVALID,
    "config.linux.security_context.namespace_options.userns_options.uids",
    "length",
  ],
  [
    podSecurity({ runAsGroup: { value: long(5) } }),
    INVALID,
    "config.linux.security_context.run_as_group",
    "5",
  ],
  [
    podSecurity({ selinuxOptions: { level: "s0" } }),
    UNIMPLEMENTED,
    "config.linux.security_context.selinux_options",
    "s0",
  ],
  [
    podSecurity({ seccomp: { profileType: SecurityProfile.ProfileType.Localhost, localhostRef: "/p" } }),
    UNIMPLEMENTED,
    "config.linux.security_context.seccomp.localhost_ref",
    "/p",
  ],
  [
    podSecurity({ seccomp: { profileType: 7 as never } }),
    INVALID,
    "config.linux.security_context.seccomp.profile_type",
    "7",
  ],
];

const security = (securityContext: runtime.v1.ILinuxContainerSecurityContext): Container => ({
  ...least,
  linux: { securityContext },
});
const resources = (given: runtime.v1.ILinuxContainerResources): Container => ({
  ...least,
  linux: { resources: given },
});
const mount = (given: runtime.v1.IMount): Container => ({
  ...least,
  mounts: [{ containerPath: "/c", hostPath: "/h", ...given }],
});
const least: Container = { metadata: { name: "c" }, image: { image: image.id } };
const sc = "config.linux.security_context";

const containers: Case<Container | undefined>[] = [
  [undefined, INVALID, "config", "null"],
  [{ image: least.image! }, INVALID, "config.metadata", "null"],
  [{ metadata: least.metadata! }, INVALID, "config.image", "null"],
  [{ ...least, image: { image: "" } }, INVALID, "config.image.image", '""'],
  [{ ...least, args: ["ok", "a\0b"] }, INVALID, "config.args[1]", "a\\u0000b"],
  [{ ...least, envs: [{ key: "A=B" }] }, INVALID, "config.envs[0].key", "A=B"],
  [{ ...least, envs: [{ key: "" }] }, INVALID, "config.envs[0].key", '""'],
  [{ ...least, envs: [{ key: "A", value: Buffer.from([0xff]) }] }, INVALID, "config.envs[0].value", "ÿ"],
  [{ ...least, CDIDevices: [{ name: "v/c=d" }] }, UNIMPLEMENTED, "config.CDI_devices", "v/c=d"],
  [
    { ...least, annotations: { "cdi.k8s.io/x": "v/c=d" } },
    UNIMPLEMENTED,
    'config.annotations["cdi.k8s.io/x"]',
    "v/c=d",
  ],
  [{ ...least, stopSignal: 99 as never }, INVALID, "config.stop_signal", "99"],
  [
    { ...least, devices: [{ hostPath: "/d", containerPath: "/d", permissions: "rwx" }] },
    INVALID,
    "config.devices[0].permissions",
    "rwx",
  ],
  [mount({ containerPath: "" }), INVALID, "config.mounts[0].container_path", '""'],
  [mount({ hostPath: "" }), INVALID, "config.mounts[0].host_path", '""'],
  [mount({ propagation: 5 as never }), INVALID, "config.mounts[0].propagation", "5"],
  [mount({ recursiveReadOnly: true }), INVALID, "config.mounts[0].recursive_read_only", "true"],
  [
    mount({ recursiveReadOnly: true, readonly: true, propagation: 2 }),
    INVALID,
    "config.mounts[0].recursive_read_only",
    "true",
  ],
  [mount({ mountOptions: ["nosuid"] }), UNIMPLEMENTED, "config.mounts[0].mount_options", "nosuid"],
  [mount({ uidMappings: [{ length: 5 }] }), UNIMPLEMENTED, "config.mounts[0].uidMappings", "5"],
  [
    mount({ image: { image: "x:1" } }),
    UNIMPLEMENTED,
    "ImageVolumeMountFailed: config.mounts[0].image",
    "x:1",
  ],
  [resources({ oomScoreAdj: long(1001) }), INVALID, "config.linux.resources.oom_score_adj", "1001"],
  [resources({ cpuQuota: long(-2) }), INVALID, "config.linux.resources.cpu_quota", "-2"],
  [
    resources({ memoryLimitInBytes: long("9223372036854775807") }),
    INVALID,
    "config.linux.resources.memory_limit_in_bytes",
    "9223372036854775807",
  ],
  [security({ runAsUser: { value: long(-1) } }), INVALID, `${sc}.run_as_user`, "-1"],
  [security({ runAsUser: { value: long(4294967295) } }), INVALID, `${sc}.run_as_user`, "4294967295"],
  [security({ runAsUser: { value: long(1) }, runAsUsername: "x" }), INVALID, `${sc}.run_as_username`, '"x"'],
  [security({ runAsGroup: { value: long(1) } }), INVALID, `${sc}.run_as_group`, "1"],
  [security({ supplementalGroups: [long(-5)] }), INVALID, `${sc}.supplemental_groups[0]`, "-5"],
  [security({ supplementalGroupsPolicy: 4 as never }), INVALID, `${sc}.supplemental_groups_policy`, "4"],
  [security({ namespaceOptions: { pid: Mode.TARGET } }), INVALID, `${sc}.namespace_options.target_id`, '""'],
  [security({ namespaceOptions: { targetId: "x" } }), INVALID, `${sc}.namespace_options.target_id`, '"x"'],
  [security({ selinuxOptions: { type: "t" } }), UNIMPLEMENTED, `${sc}.selinux_options`, '"t"'],
  [
    security({ seccomp: { profileType: SecurityProfile.ProfileType.Localhost } }),
    INVALID,
    `${sc}.seccomp.localhost_ref`,
    '""',
  ],
  [security({ seccomp: { localhostRef: "/p" } }), INVALID, `${sc}.seccomp.localhost_ref`, "/p"],
  [security({ seccompProfilePath: "nonsense" }), INVALID, `${sc}.seccomp_profile_path`, "nonsense"],
];

const refused =
  (code: number, field: string, value: string) => (error: { code: number; details: string }) => {
    assert.equal(error.code, code, error.details);
    assert.ok(error.details.startsWith(`${field}: `), error.details);
    assert.ok(error.details.includes(value), error.details);
    return true;
  };

test("a bad PodSandboxConfig is refused, naming the field and its value", async (t) => {
  const double = await withDouble(t);
  for (const [config, code, field, value] of pods) {
    await assert.rejects(double.cri.RunPodSandbox(config ? { config } : {}), refused(code, field, value));
  }
  assert.deepEqual(double.calls, []);
});

test("a bad ContainerConfig is refused, naming the field and its value", async (t) => {
  const double = await withDouble(t);
  const request = { podSandboxId: podId, sandboxConfig: { metadata } };
  for (const [config, code, field, value] of containers) {
    await assert.rejects(
      double.cri.CreateContainer(config ? { ...request, config } : request),
      refused(code, field, value),
    );
  }
  assert.deepEqual(double.calls, []);
});

test("other bad requests are refused, naming the field and its value", async (t) => {
  const double = await withDouble(t);
  const { cri } = double;
  await assert.rejects(cri.StopPodSandbox({}), refused(INVALID, "pod_sandbox_id", '""'));
  await assert.rejects(cri.RemoveContainer({}), refused(INVALID, "container_id", '""'));
  await assert.rejects(cri.ExecSync({ containerId: "x" }), refused(INVALID, "cmd[0]", '""'));
  await assert.rejects(
    cri.ExecSync({ containerId: "x", cmd: ["a"], timeout: long(-1) }),
    refused(INVALID, "timeout", "-1"),
  );
  await assert.rejects(
    cri.ListContainers({ filter: { state: { state: 8 as never } } }),
    refused(INVALID, "filter.state", "8"),
  );
  await assert.rejects(cri.PullImage({}), refused(INVALID, "image.image", '""'));
  await assert.rejects(cri.RemoveImage({ image: {} }), refused(INVALID, "image.image", '""'));
  for (const podCidr of ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/8,fd00::/129"]) {
    await assert.rejects(
      cri.UpdateRuntimeConfig({ runtimeConfig: { networkConfig: { podCidr } } }),
      refused(INVALID, "runtime_config.network_config.pod_cidr", podCidr),
    );
  }
  await cri.UpdateRuntimeConfig({ runtimeConfig: { networkConfig: { podCidr: "10.0.0.0/8,fd00::/64" } } });
  assert.deepEqual(double.calls, []);
});

test("bytes that are no message are refused as the client's error", async (t) => {
  const double = await withDouble(t);
  for (const method of ["RunPodSandbox", "CreateContainer", "Version"]) {
    await assert.rejects(double.cri.raw(method, Buffer.from([0x0a, 0xff, 1])), (error: never) => {
      const { code, details } = error as { code: number; details: string };
      assert.equal(code, INVALID);
      assert.match(details, new RegExp(`^decoding ${method}: request: `));
      return true;
    });
  }
  assert.deepEqual(double.calls, []);
});
