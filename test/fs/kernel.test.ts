import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { before, test } from "node:test";
import { type CommandResult, cleanEnv, command } from "../support/command";
import { type Need, needs, requirement } from "../support/needs";
import { checkout, compiled, inTemporary, server } from "./programs";

/** Linux's own FUSE client stands for the guest (bridge.cc): what it makes of real programs, the server serves. */
const fuse: Need<object> = requirement(fs.existsSync("/dev/fuse"), "needs /dev/fuse");

/** A tree served at `mnt`, in a mount namespace of its own. */
interface Served {
  readonly tree: string;
  readonly mnt: string;
  /** The jailed server, as this pid namespace counts. */
  readonly server: number;
  run(script: string, options?: { user?: number }): Promise<CommandResult>;
}

async function served(
  options: readonly string[],
  body: (at: Served) => Promise<void>,
  prepare = "true",
): Promise<void> {
  await inTemporary(async (dir) => {
    const bridge = await compiled(dir, "bridge");
    const [tree, mnt] = ["tree", "mnt"].map((name) => path.join(dir, name)) as [string, string];
    fs.mkdirSync(tree, { mode: 0o755 });
    fs.mkdirSync(mnt);
    // The tree is a mount of its own, and shared: what is mounted in it later reaches the server.
    const script = `mount --bind "$1" "$1" && mount --make-shared "$1" && ${prepare} && shift && exec "$@"`;
    const words = [script, "sh", tree, bridge, server, tree, mnt, ...options];
    const child = spawn("unshare", ["--mount", "--propagation", "private", "sh", "-c", ...words], {
      env: cleanEnv(),
      stdio: ["ignore", "pipe", "inherit"],
    });
    const ended = new Promise((resolve) => child.on("exit", resolve));
    const enter = ["--target", String(child.pid), "--mount", "--", "sh", "-ec"];
    const run = (text: string, { user = 0 } = {}) =>
      command("nsenter", [
        ...(user ? ["-S", String(user), "-G", String(user)] : []),
        ...enter,
        `cd "${mnt}"; ${text}`,
      ]);
    try {
      const parent = await ready(child);
      await run("ls"); // what serves has set itself up
      const [jailed] = fs.readFileSync(`/proc/${parent}/task/${parent}/children`, "utf8").split(" ");
      await body({ tree, mnt, server: Number(jailed), run });
      await run(`cd /; umount "${mnt}"`);
      await ended;
    } finally {
      child.kill("SIGKILL");
      await ended;
    }
  });
}

function ready(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    let said = "";
    child.stdout!.on("data", (chunk: Buffer) => {
      said += chunk.toString();
      const pid = /^ready (\d+)$/m.exec(said)?.[1];
      if (pid !== undefined) resolve(Number(pid));
    });
    child.on("exit", () => reject(new Error(`the bridge ended: ${said}`)));
  });
}

let posix = "";
before(() => {
  fs.mkdirSync(path.join(checkout, "build/test"), { recursive: true });
});

test("what POSIX promises holds on the host's file system and through the server", needs(fuse), async () => {
  await served([], async ({ tree, run }) => {
    posix = await compiled(path.join(checkout, "build/test"), "posix");
    const plain = path.join(tree, "plain");
    const through = path.join(tree, "through");
    for (const dir of [plain, through]) fs.mkdirSync(dir);
    const host = await command(posix, [], { cwd: plain, accept: [0, 1] });
    assert.doesNotMatch(host.stdout, /^not ok/m, host.stdout);
    const guest = await run(`cd through; exec "${posix}"`).catch((error: Error) => ({
      stdout: error.message,
    }));
    assert.doesNotMatch(guest.stdout, /^not ok/m, guest.stdout);
    assert.match(guest.stdout, /^1\.\.\d+$/m);
  });
});

test("real programs: copies, archives, searches and checksums, several at once", needs(fuse), async () => {
  await served(["--threads", "4"], async ({ tree, run }) => {
    const source = path.join(checkout, "src");
    const copy = async (name: string) => {
      await run(`cp -a "${source}" ${name}; diff -r "${source}" ${name}`);
      await run(`tar -cf ${name}.tar ${name}; mkdir ${name}.out; tar -xf ${name}.tar -C ${name}.out`);
      await run(`diff -r ${name} ${name}.out/${name}; find ${name}.out -type f -exec rm {} +`);
    };
    await Promise.all(["a", "b", "c"].map(copy));
    await run("dd if=/dev/urandom of=big bs=1M count=64 status=none");
    const [guest, host] = [await run("sha256sum big"), await command("sha256sum", ["big"], { cwd: tree })];
    assert.equal(guest.stdout, host.stdout);
    await run("sync -f big; cp big copy; cmp big copy; rm -r a b c big");
    assert.deepEqual(
      fs.readdirSync(tree).filter((name) => name === "big" || name === "a"),
      [],
    );
  });
});

test(
  "what the host changes is seen: a configMap's links are swapped under a reader",
  needs(fuse),
  async () => {
    await served([], async ({ tree, run }) => {
      for (const version of ["1", "2"]) {
        fs.mkdirSync(path.join(tree, `..v${version}`));
        fs.writeFileSync(path.join(tree, `..v${version}`, "key"), version);
      }
      fs.symlinkSync("..v1", path.join(tree, "..data"));
      fs.symlinkSync("..data/key", path.join(tree, "key"));
      assert.equal((await run("cat key")).stdout, "1");
      fs.symlinkSync("..v2", path.join(tree, "..new"));
      fs.renameSync(path.join(tree, "..new"), path.join(tree, "..data"));
      // Names are believed for a second.
      await run("for i in $(seq 50); do [ $(cat key) = 2 ] && exit 0; sleep 0.1; done; exit 1");
    });
  },
);

test("mounts below the tree are served, also one that comes later", needs(fuse), async () => {
  const prepare = 'mkdir "$1/early" "$1/late" && mount -t tmpfs early "$1/early" && touch "$1/early/f"';
  await served(
    [],
    async ({ tree, run }) => {
      assert.equal((await run("ls early")).stdout, "f\n");
      await run(`mount -t tmpfs -o ro late "${tree}/late"`);
      await run("for i in $(seq 50); do touch late/g 2>/dev/null || exit 0; sleep 0.1; done; exit 1");
      await assert.rejects(run("touch late/h"), /Read-only file system/);
    },
    prepare,
  );
});

test(
  "the server is jailed: seven capabilities, a filter, its tree and nothing else",
  needs(fuse),
  async () => {
    await served([], async ({ server: pid, tree }) => {
      const kept = [0, 1, 3, 4, 6, 7, 27].reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n);
      const threads = fs.readdirSync(`/proc/${pid}/task`);
      assert.ok(threads.length >= 3);
      for (const thread of threads) {
        const status = fs.readFileSync(`/proc/${pid}/task/${thread}/status`, "utf8");
        const field = (name: string) => new RegExp(`^${name}:\\s*(\\S+)`, "m").exec(status)?.[1];
        for (const set of ["CapPrm", "CapEff", "CapBnd"]) assert.equal(BigInt(`0x${field(set)}`), kept, set);
        assert.equal(field("CapInh"), "0000000000000000");
        assert.equal(field("CapAmb"), "0000000000000000");
        assert.equal(field("NoNewPrivs"), "1");
        assert.equal(field("Seccomp"), "2");
      }
      for (const name of ["mnt", "net", "ipc", "uts", "pid"])
        assert.notEqual(
          fs.readlinkSync(`/proc/${pid}/ns/${name}`),
          fs.readlinkSync(`/proc/self/ns/${name}`),
          name,
        );
      const mounts = fs.readFileSync(`/proc/${pid}/mountinfo`, "utf8").trim().split("\n");
      assert.deepEqual(
        mounts.map((line) => line.split(" ")[4]),
        ["/"],
        mounts.join("\n"),
      );
      fs.writeFileSync(path.join(tree, "mark"), "");
      assert.deepEqual(fs.readdirSync(`/proc/${pid}/root`), ["mark"]);
    });
  },
);
