import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import type { ContainerConfig, PodConfig, SecurityContext } from "../../src/sandbox";
import { seccompOf } from "../../src/sandbox/seccomp";
import { signalNumber } from "../../src/sandbox/signals";
import { validateContainer, validatePod } from "../../src/sandbox/validate";
import { containerConfig, podConfig } from "./doubles";

const pod = (changes: Partial<PodConfig>) => () => validatePod(podConfig(changes), "cgroupfs");
const container =
  (changes: Partial<ContainerConfig>, of: Partial<PodConfig> = {}) =>
  () =>
    validateContainer(containerConfig(changes), podConfig(of));
const security = (changes: Partial<SecurityContext>, of: Partial<PodConfig> = {}) =>
  container({ security: { ...containerConfig().security, ...changes } }, of);
const metadata = podConfig().metadata;
const onHost = { network: "node", pid: "container", ipc: "node" } as const;

test("pods that are refused, by field and value", () => {
  assert.throws(pod({ metadata: { ...metadata, name: "" } }), /metadata\.name: "": required/);
  assert.throws(pod({ metadata: { ...metadata, uid: "a;b" } }), /metadata\.uid: "a;b": must not contain/);
  assert.throws(pod({ hostname: "x", namespaces: onHost }), /hostname: "x": a pod on the host's network/);
  assert.throws(pod({ hostname: "x".repeat(65) }), /longer than 64/);
  assert.throws(pod({ logDirectory: "logs" }), /log_directory: "logs": must be absolute/);
  assert.throws(
    pod({ namespaces: { ...onHost, network: "container" } }),
    /namespace_options\.network: "container"/,
  );
  assert.throws(pod({ namespaces: { ...onHost, ipc: "target" } }), /namespace_options\.ipc: "target"/);
  assert.throws(pod({ namespaces: { ...onHost, pid: "target" } }), /namespace_options\.pid: "target"/);
  const userns = pod({ namespaces: { ...podConfig().namespaces, userns: { mode: 0 } } });
  assert.throws(userns, { code: "UNIMPLEMENTED", message: /userns_options: \{"mode":0\}/ });
});

test("cgroup parents: absolute, without dots, no slice", () => {
  pod({ cgroupParent: "/kubepods/pod1" })();
  assert.throws(pod({ cgroupParent: "kubepods" }), /cgroup_parent: "kubepods": must be an absolute/);
  assert.throws(pod({ cgroupParent: "/a/../b" }), /must not contain \. or \.\./);
  assert.throws(pod({ cgroupParent: "/kubepods.slice" }), {
    code: "INVALID_ARGUMENT",
    message: /systemd slice/,
  });
});

test("with the systemd driver a cgroup parent is a slice, as itself or as kubelet writes its path", () => {
  const parent = (cgroupParent: string) => () => validatePod(podConfig({ cgroupParent }), "systemd");
  for (const good of ["", "kubepods.slice", "/kubepods.slice/kubepods-pod1.slice", "/test.slice"])
    parent(good)();
  assert.throws(
    parent("/kubepods/pod1"),
    /cgroup_parent: "\/kubepods\/pod1": must be a slice.*driver is systemd/,
  );
  assert.throws(
    parent("/a.slice/kubepods-pod1.slice"),
    /systemd has kubepods-pod1\.slice at \/kubepods\.slice/,
  );
  assert.throws(parent("/a.slice/../b.slice"), /systemd has b\.slice at/);
  assert.throws(parent("a--b.slice"), /empty part/);
});

test("sysctls must be the pod's own", () => {
  const set = (name: string, value = "1", namespaces = podConfig().namespaces) =>
    pod({ sysctls: { [name]: value }, namespaces, hostname: "" });
  for (const name of [
    "net.ipv4.ip_forward",
    "kernel.shm_rmid_forced",
    "fs.mqueue.msg_max",
    "net/ipv4/ip_forward",
  ])
    set(name)();
  assert.throws(set("vm.swappiness"), /linux\.sysctls\["vm\.swappiness"\]: "1": not confined to a namespace/);
  assert.throws(set("net.ipv4.ip_forward", " "), /not a value/);
  assert.throws(set("../x"), /not the name of a sysctl/);
  assert.throws(set("net.ipv4.ip_forward", "1", onHost), /the pod uses its network/);
  assert.throws(set("kernel.sem", "1", onHost), /the pod uses its ipc namespace/);
});

test("containers that are refused, by field and value", () => {
  assert.throws(container({ metadata: { name: "", attempt: 0 } }), /metadata\.name/);
  assert.throws(security({ privileged: true }), /privileged: true: the pod itself is not/);
  security({ privileged: true }, { privileged: true })();
  assert.throws(
    security({ namespaces: onHost }),
    /namespace_options\.network: "node": differs from the pod's/,
  );
  const shared = { network: "pod", pid: "pod", ipc: "pod" } as const;
  assert.throws(security({ namespaces: shared }), /namespace_options\.pid: "pod": the pod has no shared/);
  assert.throws(container({ envs: [["A=B", "c"]] }), /envs\.key: "A=B"/);
  assert.throws(container({ logPath: "../../etc/x" }), /log_path: "\.\.\/\.\.\/etc\/x"/);
  assert.throws(container({ logPath: "/etc/x" }), /must stay below/);
});

test("seccomp: default, none, or a file that must be there and be one", (t) => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-seccomp-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  const base = containerConfig().security;
  const filter = { defaultAction: "SCMP_ACT_ALLOW" };
  const of = (type: "runtimeDefault" | "unconfined" | "localhost", localhostRef = "", privileged = false) =>
    seccompOf({ ...base, privileged, seccomp: { type, localhostRef } }, () => filter);
  assert.equal(
    seccompOf(base, () => filter),
    undefined,
  );
  assert.equal(of("runtimeDefault"), filter);
  assert.equal(of("unconfined"), undefined);
  assert.equal(of("runtimeDefault", "", true), undefined);
  const file = path.join(dir, "profile.json");
  fs.writeFileSync(file, JSON.stringify({ defaultAction: "SCMP_ACT_LOG" }));
  assert.deepEqual(of("localhost", file), { defaultAction: "SCMP_ACT_LOG" });
  fs.writeFileSync(file, "{");
  assert.throws(() => of("localhost", file), /localhost_ref: ".*profile\.json": not JSON/);
  assert.throws(() => of("localhost", `${file}.absent`), /ENOENT/);
  assert.throws(() => of("localhost", "profile.json"), /must be an absolute path/);
  assert.throws(() => of("localhost", dir), /localhost_ref/);
  assert.throws(() => of("unconfined", file), /only for a Localhost profile/);
});

test("signals by name, number and distance from the realtime ones", () => {
  const number = (text: string) => signalNumber(text, "stop_signal");
  for (const [text, expected] of Object.entries({
    SIGTERM: 15,
    term: 15,
    "9": 9,
    SIGRTMIN: 34,
    "SIGRTMIN+3": 37,
    SIGRTMINPLUS15: 49,
    "RTMAX-2": 62,
    SIGRTMAXMINUS14: 50,
    SIGRTMAX: 64,
    SIGCLD: 17,
  }))
    assert.equal(number(text), expected, text);
  for (const text of ["SIGNOT", "0", "65", "SIGRTMIN+31", "SIGRTMAX-31", "", "toString"])
    assert.throws(() => number(text), /stop_signal: /, text);
});
