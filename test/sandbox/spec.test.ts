import assert from "node:assert/strict";
import { test } from "node:test";
import type { Image } from "../../src/image";
import type { Spec } from "../../src/oci/runtime-spec";
import type { ContainerConfig, ContainerMount, PodConfig, SecurityContext } from "../../src/sandbox";
import { specOf } from "../../src/sandbox/spec";
import { resolveUser } from "../../src/sandbox/user";
import { containerConfig, image, podConfig } from "./doubles";

const MOUNTINFO = `1 0 8:1 / / rw - ext4 /dev/a rw
2 1 0:2 / /shared rw shared:7 - tmpfs tmpfs rw
3 1 0:3 / /slave rw master:7 - tmpfs tmpfs rw
4 2 0:4 / /shared/with\\040space rw - tmpfs tmpfs rw
`;
const ALL_CAPABILITIES = (1n << 41n) - 1n;

interface Changes {
  readonly config?: Partial<ContainerConfig>;
  readonly security?: Partial<SecurityContext>;
  readonly pod?: Partial<PodConfig>;
  readonly netns?: string;
  readonly image?: Image;
  readonly apparmor?: string;
}

function make(changes: Changes = {}): Spec {
  const base = containerConfig(changes.config);
  const config = { ...base, security: { ...base.security, ...changes.security } };
  const used = changes.image ?? image;
  return specOf({
    id: "c1",
    config,
    image: used,
    user: resolveUser(config.security, used),
    pod: {
      id: "p1",
      config: podConfig(changes.pod),
      pid: 77,
      netns: changes.netns ?? "/run/netns/p1",
      cgroupParent: "/kubepods/pod1",
    },
    targetPid: 88,
    seccomp: { defaultAction: "SCMP_ACT_ERRNO" },
    apparmor: changes.apparmor,
    host: { capabilities: ALL_CAPABILITIES, mountinfo: () => MOUNTINFO },
  });
}

const withConfig = (config: Image["config"]["config"]): Image => ({
  ...image,
  config: { ...image.config, config: config! },
});

test("command and args against the image's entrypoint and cmd", () => {
  const args = (command: string[], given: string[]) =>
    make({ config: { command, args: given } }).process?.args;
  assert.deepEqual(args([], []), ["/entry", "one", "two"]);
  assert.deepEqual(args([], ["x"]), ["/entry", "x"]);
  assert.deepEqual(args(["/cmd"], []), ["/cmd"]);
  assert.deepEqual(args(["/cmd"], ["x"]), ["/cmd", "x"]);
  assert.throws(() => make({ image: withConfig({}) }), /no command specified/);
  assert.deepEqual(make({ image: withConfig({ Entrypoint: null, Cmd: ["/only"] }) }).process?.args, [
    "/only",
  ]);
});

test("an AppArmor profile is named in the spec, none is not", () => {
  assert.equal(make({ apparmor: "mine" }).process?.apparmorProfile, "mine");
  assert.equal("apparmorProfile" in make().process!, false);
});

test("environment: defaults, image, config, the last one wins", () => {
  const env = (config: Partial<ContainerConfig>) => make({ config }).process?.env;
  assert.deepEqual(
    env({
      envs: [
        ["B", "config"],
        ["C", "a=b"],
      ],
    }),
    [
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      "HOSTNAME=web",
      "A=image",
      "B=config",
      "C=a=b",
      "HOME=/root",
    ],
  );
  assert.ok(env({ tty: true })?.includes("TERM=xterm"));
  assert.ok(env({ envs: [["HOME", "/mine"]] })?.includes("HOME=/mine"));
});

test("working directory: config, image, root", () => {
  assert.equal(make({ config: { workingDir: "/here" } }).process?.cwd, "/here");
  assert.equal(make().process?.cwd, "/work");
  assert.equal(make({ image: withConfig({ Cmd: ["x"] }) }).process?.cwd, "/");
});

test("namespaces follow the pod", () => {
  const of = (changes: Changes) =>
    Object.fromEntries(
      (make(changes).linux?.namespaces ?? []).map(({ type, path }) => [type, path ?? "new"]),
    );
  assert.deepEqual(of({}), {
    mount: "new",
    network: "/run/netns/p1",
    uts: "/proc/77/ns/uts",
    ipc: "/proc/77/ns/ipc",
    cgroup: "new",
    pid: "new",
  });
  const host = { network: "node", pid: "node", ipc: "node" } as const;
  assert.deepEqual(of({ netns: "", pod: { namespaces: host }, security: { namespaces: host } }), {
    mount: "new",
    cgroup: "new",
  });
  const pid = (mode: "pod" | "target") =>
    of({ security: { namespaces: { network: "pod", ipc: "pod", pid: mode } } })["pid"];
  assert.equal(pid("pod"), "/proc/77/ns/pid");
  assert.equal(pid("target"), "/proc/88/ns/pid");
  assert.equal(of({ security: { privileged: true } })["cgroup"], undefined);
});

test("cgroup and annotations name pod and container", () => {
  const spec = make();
  assert.equal(spec.linux?.cgroupsPath, "/kubepods/pod1/c1");
  assert.deepEqual(spec.annotations, {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.container-name": "main",
    "io.kubernetes.cri.image-name": "app:1",
    "io.kubernetes.cri.sandbox-id": "p1",
    "io.kubernetes.cri.sandbox-name": "web",
    "io.kubernetes.cri.sandbox-namespace": "default",
    "io.kubernetes.cri.sandbox-uid": "u-1",
  });
});

const mount = (changes: Partial<ContainerMount>): ContainerMount => ({
  containerPath: "/data",
  hostPath: "/srv",
  readonly: false,
  selinuxRelabel: false,
  propagation: "private",
  recursiveReadOnly: false,
  ...changes,
});
const mounted = (...mounts: Partial<ContainerMount>[]) => make({ config: { mounts: mounts.map(mount) } });

test("mounts: defaults first, then by depth; a CRI mount takes a default's place", () => {
  const list = (spec: Spec) => spec.mounts?.map(({ destination }) => destination);
  assert.deepEqual(list(mounted({ containerPath: "/a/b/c" }, { containerPath: "/a" })), [
    "/proc",
    "/dev",
    "/sys",
    "/a",
    "/dev/pts",
    "/dev/mqueue",
    "/sys/fs/cgroup",
    "/a/b/c",
  ]);
  assert.deepEqual(list(mounted({ containerPath: "/dev" })), ["/proc", "/sys", "/dev", "/sys/fs/cgroup"]);
  assert.equal(list(mounted({ containerPath: "/sys" }))?.filter((at) => at === "/sys").length, 1);
  assert.deepEqual(list(mounted({ containerPath: "/x/../etc/hosts/" }))?.includes("/etc/hosts"), true);
});

test("mount options: access, propagation, and what a source must lie on for it", () => {
  const options = (changes: Partial<ContainerMount>) =>
    mounted(changes).mounts?.find(({ destination }) => destination === "/data")?.options;
  assert.deepEqual(options({}), ["rbind", "rprivate", "rw"]);
  assert.deepEqual(options({ readonly: true }), ["rbind", "rprivate", "ro"]);
  assert.deepEqual(options({ readonly: true, recursiveReadOnly: true }), ["rbind", "rprivate", "ro", "rro"]);
  const down = { hostPath: "/slave/x", propagation: "hostToContainer" } as const;
  const both = { hostPath: "/shared/x", propagation: "bidirectional" } as const;
  assert.deepEqual(options(down), ["rbind", "rslave", "rw"]);
  assert.deepEqual(options(both), ["rbind", "rshared", "rw"]);
  assert.equal(mounted(down).linux?.rootfsPropagation, "rslave");
  assert.equal(mounted(down, both).linux?.rootfsPropagation, "rshared");
  assert.equal(mounted({}).linux?.rootfsPropagation, undefined);
  assert.throws(
    () => options({ ...both, hostPath: "/slave/x" }),
    /BIDIRECTIONAL.*"\/slave", which is not shared/,
  );
  assert.throws(() => options({ ...both, hostPath: "/shared/with space/x" }), /is on "\/shared\/with space"/);
  assert.throws(() => options({ ...down, hostPath: "/srv" }), /neither shared nor a slave/);
  assert.throws(() => options({ recursiveReadOnly: true }), /^IsopodError: RROUnsupported/);
  assert.throws(() => options({ ...both, readonly: true, recursiveReadOnly: true }), /RROUnsupported/);
  assert.throws(() => options({ hostPath: "" }), /host_path: "": required/);
  assert.throws(() => options({ hostPath: "srv" }), /host_path: "srv": must be absolute/);
  assert.throws(() => options({ containerPath: "" }), /container_path: "": required/);
});

test("privileged: all capabilities we have, all devices, writable kernel trees, no masks, no filter", () => {
  const spec = make({
    security: { privileged: true, maskedPaths: ["/proc/kcore"], readonlyPaths: ["/proc/sys"] },
  });
  assert.equal(spec.process?.capabilities?.bounding?.length, 41);
  assert.deepEqual(spec.linux?.resources?.devices, [{ allow: true, access: "rwm" }]);
  assert.ok(spec.linux?.devices?.some(({ path }) => path === "/dev/null"));
  assert.ok(spec.mounts?.find(({ destination }) => destination === "/sys")?.options?.includes("rw"));
  assert.deepEqual(
    [spec.linux?.maskedPaths, spec.linux?.readonlyPaths, spec.linux?.seccomp],
    [[], [], undefined],
  );
  const plain = make({ security: { maskedPaths: ["/proc/kcore"], readonlyPaths: ["/proc/sys"] } });
  assert.deepEqual([plain.linux?.maskedPaths, plain.linux?.readonlyPaths], [["/proc/kcore"], ["/proc/sys"]]);
  assert.deepEqual(plain.linux?.resources?.devices?.[0], { allow: false, access: "rwm" });
  assert.ok(plain.linux?.seccomp);
});

test("devices: number and type from the host, permissions checked", () => {
  const device = { hostPath: "/dev/full", containerPath: "/dev/mine", permissions: "rw" };
  const spec = make({ config: { devices: [device] } });
  const [made] = spec.linux?.devices ?? [];
  assert.deepEqual([made?.path, made?.type, made?.major, made?.minor], ["/dev/mine", "c", 1, 7]);
  assert.deepEqual(spec.linux?.resources?.devices?.at(-1), {
    allow: true,
    type: "c",
    major: 1,
    minor: 7,
    access: "rw",
  });
  const refused = (changes: object, expected: RegExp) =>
    assert.throws(() => make({ config: { devices: [{ ...device, ...changes }] } }), expected);
  refused({ permissions: "rwx" }, /devices\[0\]\.permissions: "rwx"/);
  refused({ hostPath: "/dev/none" }, /devices\[0\]\.host_path: "\/dev\/none": no such device/);
  refused({ hostPath: "/etc/passwd" }, /must lie below \/dev/);
  refused({ hostPath: "/dev/../etc/passwd" }, /must lie below \/dev/);
});

test("capabilities: ALL first, then single names; ambient ones are in every set", () => {
  const sets = (changes: Partial<SecurityContext>) => make({ security: changes }).process?.capabilities;
  assert.equal(sets({})?.bounding?.length, 14);
  assert.deepEqual(sets({})?.inheritable, []);
  assert.ok(!sets({ dropCapabilities: ["net_raw"] })?.bounding?.includes("CAP_NET_RAW"));
  assert.deepEqual(sets({ dropCapabilities: ["ALL"], addCapabilities: ["NET_ADMIN"] })?.bounding, [
    "CAP_NET_ADMIN",
  ]);
  assert.equal(sets({ addCapabilities: ["ALL"], dropCapabilities: ["CAP_SYS_ADMIN"] })?.bounding?.length, 40);
  const ambient = sets({ dropCapabilities: ["all"], addAmbientCapabilities: ["NET_BIND_SERVICE"] });
  for (const set of Object.values(ambient ?? {})) assert.deepEqual(set, ["CAP_NET_BIND_SERVICE"]);
  assert.throws(() => sets({ addCapabilities: ["FLY"] }), /add_capabilities: "FLY": no such capability/);
});

test("CVE-2022-24769: no inheritable capability unless it is ambient", () => {
  for (const privileged of [false, true])
    assert.deepEqual(make({ security: { privileged } }).process?.capabilities?.inheritable, []);
});

const user = (changes: Partial<SecurityContext>, imageUser = "") => {
  const used = withConfig({ User: imageUser, Cmd: ["x"] });
  const { uid, gid, supplementalGroups, home } = resolveUser(
    { ...containerConfig().security, ...changes },
    used,
  );
  return [uid, gid, supplementalGroups, home];
};

test("users: the request, else the image's, by name or number", () => {
  assert.deepEqual(user({}), [0, 0, [0, 77], "/root"]);
  assert.deepEqual(user({}, "www"), [33, 34, [34, 77], "/srv/www"]);
  assert.deepEqual(user({}, "33:media"), [33, 77, [77], "/srv/www"]);
  assert.deepEqual(user({}, "1002"), [1002, 0, [0], "/"]);
  assert.deepEqual(user({ runAsUser: 33 }, "root"), [33, 34, [34, 77], "/srv/www"]);
  assert.deepEqual(user({ runAsUsername: "www", runAsGroup: 5 }), [33, 5, [5, 77], "/srv/www"]);
  assert.deepEqual(user({ runAsUser: 1000, supplementalGroups: [9, 8] }), [1000, 0, [0, 8, 9], "/"]);
  const strict = { supplementalGroupsPolicy: "strict", supplementalGroups: [9] } as const;
  assert.deepEqual(user({ runAsUser: 33, ...strict }), [33, 34, [9, 34], "/srv/www"]);
});

test("users that are refused: unknown names, a group alone, ids that are none", () => {
  assert.throws(() => user({ runAsUsername: "ghost" }), /run_as_username: "ghost": no such user/);
  assert.throws(() => user({}, "ghost"), /image USER: "ghost": no such user/);
  assert.throws(() => user({}, "33:ghost"), /image USER: "33:ghost": no such group/);
  assert.throws(() => user({ runAsGroup: 5 }), /run_as_group: 5: needs run_as_user/);
  assert.throws(() => user({ runAsUser: -1 }), /run_as_user: -1: not a user id/);
  assert.throws(() => user({ runAsUser: 1, supplementalGroups: [2 ** 32] }), /supplemental_groups/);
});
