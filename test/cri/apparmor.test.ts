import assert from "node:assert/strict";
import * as fs from "node:fs";
import { after, before, test } from "node:test";
import { runtime } from "../../src/gen/cri";
import { capability } from "../support/capabilities";
import { command } from "../support/command";
import type { Daemon } from "../support/daemon";
import { needs } from "../support/needs";
import {
  containerConfig,
  create,
  execute,
  exited,
  inventoryOf,
  leaksOf,
  logged,
  logLines,
  removePod,
  run,
  runPod,
  shell,
  startPodDaemon,
} from "../support/pods";

/** Profiles as a pod names them, on a kernel that enforces them. */
type Security = runtime.v1.ILinuxContainerSecurityContext;
const { ProfileType } = runtime.v1.SecurityProfile;
const FAILED_PRECONDITION = 9;
const PROFILES = "/sys/kernel/security/apparmor/profiles";
const MINE = `isopod-test-${process.pid}`;
/** Whoever runs under it may do everything but write to a file. */
const policy = (flags: string) => `profile ${MINE} flags=(attach_disconnected${flags}) {
  capability, network, signal, umount, mount, ptrace, unix,
  /{,**} rix,
  /dev/** w, /proc/** w,
  deny /root/** w,
}`;

const apparmor = needs(capability("apparmor"));
let daemon: Daemon;
before(async () => {
  if (apparmor.skip) return;
  daemon = await startPodDaemon();
});
after(async () => {
  await daemon?.end();
  if (!apparmor.skip) await parser("--remove").catch(() => {});
});

const parser = (...args: string[]) =>
  command("apparmor_parser", [...args, "--skip-cache", "--quiet"], { stdin: policy("") });
const loaded = () => fs.readFileSync(PROFILES, "utf8");
const confined = (securityContext: Security) => ({ linux: { securityContext } });
const localhost = (localhostRef: string): Security => ({
  apparmor: { profileType: ProfileType.Localhost, localhostRef },
});
const SHOW = "cat /proc/self/attr/current";

/** What a container's first process and an exec in it run under. */
async function profilesOf(security: Security): Promise<string[]> {
  const { id, podId, log } = await run(daemon, shell(`${SHOW}; echo shown; exec sleep 1000`), {
    container: confined(security),
  });
  await logged(log, "shown");
  const { stdout } = await execute(daemon, id, SHOW);
  await removePod(daemon, podId);
  return [logLines(log)[0]!.text, stdout.trim()];
}

const both = (profile: string) => [profile, profile];

test(
  "the default profile is loaded when it is first needed, and holds in init and exec",
  apparmor,
  async () => {
    assert.deepEqual(await profilesOf({}), both("isopod-default (enforce)"));
    assert.match(loaded(), /^isopod-default \(enforce\)$/m);
    const asked = { apparmor: { profileType: ProfileType.RuntimeDefault } };
    assert.deepEqual(await profilesOf(asked), both("isopod-default (enforce)"));
    assert.deepEqual(
      await profilesOf({ apparmorProfile: "runtime/default" }),
      both("isopod-default (enforce)"),
    );
  },
);

test("Unconfined is unconfined", apparmor, async () => {
  const unconfined = { apparmor: { profileType: ProfileType.Unconfined } };
  assert.deepEqual(await profilesOf(unconfined), both("unconfined"));
  assert.deepEqual(await profilesOf({ apparmorProfile: "unconfined" }), both("unconfined"));
});

test(
  "a Localhost profile holds in init and exec, with no_new_privs and for another user as well",
  apparmor,
  async () => {
    await parser("--replace");
    const expected = both(`${MINE} (enforce)`);
    assert.deepEqual(await profilesOf(localhost(MINE)), expected);
    assert.deepEqual(await profilesOf({ apparmorProfile: `localhost/${MINE}` }), expected);
    const nobody = { value: 65534 as never };
    const seccomp = { profileType: ProfileType.RuntimeDefault };
    assert.deepEqual(
      await profilesOf({ ...localhost(MINE), noNewPrivs: true, runAsUser: nobody, seccomp }),
      expected,
    );
    // The new field counts where both are given.
    assert.deepEqual(await profilesOf({ ...localhost(MINE), apparmorProfile: "unconfined" }), expected);
    const { id, podId } = await run(daemon, shell("touch /root/x"), { container: confined(localhost(MINE)) });
    assert.notEqual((await exited(daemon, id)).exitCode, 0, "what it forbids is forbidden");
    await removePod(daemon, podId);
  },
);

test(
  "a profile that is not loaded fails CreateContainer, is named, and leaves nothing",
  apparmor,
  async () => {
    await removePod(daemon, (await run(daemon, ["true"])).podId);
    const [podId, pod] = await runPod(daemon);
    const empty = await inventoryOf(daemon);
    await assert.rejects(
      create(daemon, podId, pod, containerConfig(["true"], confined(localhost("nobody-has-loaded-this")))),
      (error: { code: number; details: string }) => {
        assert.equal(error.code, FAILED_PRECONDITION);
        assert.match(error.details, /apparmor.*"nobody-has-loaded-this": no such profile is loaded/);
        return true;
      },
    );
    assert.deepEqual((await daemon.cri.ListContainers({})).containers, []);
    assert.deepEqual(await leaksOf(daemon, empty), []);
    await removePod(daemon, podId);
  },
);

test("the default profile is loaded again when somebody has removed it", apparmor, async () => {
  await command("sh", ["-c", "printf isopod-default > /sys/kernel/security/apparmor/.remove"]);
  assert.doesNotMatch(loaded(), /^isopod-default/m);
  assert.deepEqual(await profilesOf({}), both("isopod-default (enforce)"));
});

test(
  "the default profile: the host's kernel is out of reach, the container's own settings are not",
  apparmor,
  async () => {
    // No path is masked or read-only here, and no seccomp filter stands before: what fails, the profile forbids.
    const capabilities = { addCapabilities: ["SYS_ADMIN"] };
    const { id, podId } = await run(daemon, ["sleep", "1000"], { container: confined({ capabilities }) });
    const fails = async (script: string) =>
      assert.notEqual((await execute(daemon, id, script)).exitCode, 0, script);
    const works = async (script: string) => {
      const { exitCode, stderr } = await execute(daemon, id, script);
      assert.equal(exitCode, 0, `${script}: ${stderr}`);
    };
    await fails("mkdir -p /m && mount -t tmpfs none /m");
    await fails("echo h > /proc/sysrq-trigger");
    await fails("echo core > /proc/sys/kernel/core_pattern");
    await fails("echo 1 > /proc/sys/vm/drop_caches");
    await fails("echo 0 > /proc/sys/fs/mount-max");
    await fails("echo x > /sys/power/state");
    await fails("cat /sys/kernel/security/apparmor/profiles");
    await works("cat /proc/sys/kernel/core_pattern /proc/meminfo /proc/self/status > /dev/null");
    await works("cat /proc/sys/kernel/shmmax > /root/v && cat /root/v > /proc/sys/kernel/shmmax");
    await works("echo x > /x && mv /x /y && rm /y && ls -l /sys/class > /dev/null");
    await works("sleep 100 & kill $!");
    await removePod(daemon, podId);
  },
);

test("a privileged container is unconfined unless a profile is named", apparmor, async () => {
  await parser("--replace");
  const namespaceOptions = {
    network: runtime.v1.NamespaceMode.NODE,
    pid: runtime.v1.NamespaceMode.CONTAINER,
  };
  const [podId, pod] = await runPod(daemon, {
    linux: { cgroupParent: daemon.cgroupParent, securityContext: { privileged: true, namespaceOptions } },
  });
  for (const [named, expected] of [
    [{}, "unconfined"],
    [localhost(MINE), `${MINE} (enforce)`],
  ] as const) {
    const id = await create(
      daemon,
      podId,
      pod,
      containerConfig(["sleep", "1000"], confined({ ...named, privileged: true })),
    );
    await daemon.cri.StartContainer({ containerId: id });
    assert.equal((await execute(daemon, id, SHOW)).stdout.trim(), expected);
  }
  await removePod(daemon, podId);
});
