// The programs that tests and benches run against, fetched into a cache folder and never installed: on a
// user's machine an installed containerd would start a service or evict Docker.
//
//   node scripts/peers.mjs [NAME…]     fetches what is missing, prints {"NAME": {…paths} | {"missing": why}}
//
// Debian packages come by `apt-get download` + `dpkg -x` through a sources list and package lists of our own
// (the machine's lists stay as they are, and its release does not matter); Go programs are built from the
// go.mod files below test/tools/. Each peer is made once, under a lock, and renamed into place when whole.
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { fileURLToPath } from "node:url";

const repository = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const cache = path.join(process.env["XDG_CACHE_HOME"] ?? path.join(os.homedir(), ".cache"), "isopod-peers");
const triplet = { x64: "x86_64-linux-gnu", arm64: "aarch64-linux-gnu" }[process.arch];
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
const fallbackMirror = "http://deb.debian.org/debian";

/**
 * suite, packages: what is unpacked; files: what the caller gets, relative to the unpacked tree. `patch`
 * names programs whose libraries are taken from the tree; with `libc` also the dynamic loader, for a suite
 * newer than the machine. go: folder below test/tools and the files that its `tool` lines build. kernel:
 * the metapackage whose newest kernel is unpacked, with its modules indexed.
 */
const peers = {
  patchelf: { suite: "bookworm", packages: ["patchelf"], files: { patchelf: "usr/bin/patchelf" } },
  registry: {
    suite: "bookworm",
    packages: ["docker-registry"],
    files: { registry: "usr/bin/docker-registry" },
  },
  skopeo: {
    suite: "bookworm",
    packages: ["skopeo", "libgpgme11", "libassuan0", "libgpg-error0", "libdevmapper1.02.1"],
    patch: ["usr/bin/skopeo"],
    files: { skopeo: "usr/bin/skopeo" },
  },
  umoci: { suite: "bookworm", packages: ["umoci"], files: { umoci: "usr/bin/umoci" } },
  cni: { suite: "bookworm", packages: ["containernetworking-plugins"], files: { binDir: "usr/lib/cni" } },
  // portmap speaks to the kernel through it.
  iptables: {
    suite: "bookworm",
    packages: [
      "iptables",
      "libxtables12",
      "libnftnl11",
      "libip4tc2",
      "libip6tc2",
      "libmnl0",
      "libnetfilter-conntrack3",
      "libnfnetlink0",
    ],
    patch: ["usr/sbin/xtables-nft-multi"],
    files: { iptables: "usr/sbin/xtables-nft-multi", extensions: `usr/lib/${triplet}/xtables` },
  },
  runc: {
    suite: "bookworm",
    packages: ["runc", "libseccomp2"],
    patch: ["usr/sbin/runc"],
    files: { runc: "usr/sbin/runc" },
  },
  containerd: {
    suite: "bookworm",
    packages: ["containerd"],
    files: {
      containerd: "usr/bin/containerd",
      ctr: "usr/bin/ctr",
      shim: "usr/bin/containerd-shim-runc-v2",
    },
  },
  crun: {
    suite: "forky",
    packages: [
      "crun",
      "libc6",
      "libseccomp2",
      "libcap2",
      "libsystemd0",
      "libyajl2",
      "libjson-c5",
      "libblake3-0",
    ],
    patch: ["usr/bin/crun"],
    libc: true,
    files: { crun: "usr/bin/crun" },
  },
  "containerd-2.4": {
    go: "containerd",
    files: { containerd: "containerd", ctr: "ctr", shim: "containerd-shim-runc-v2" },
  },
  "runc-1.5": {
    go: "runc",
    build: ["-tags", "seccomp"],
    needs: { "libseccomp-dev": "/usr/include/seccomp.h" },
    files: { runc: "runc" },
  },
  crictl: { go: "crictl", files: { crictl: "crictl" } },
  // For the testbed; the cloud flavour has no 9p.
  "kernel-bookworm": { suite: "bookworm", kernel: "linux-image-amd64", files: { tree: "." } },
  "kernel-trixie": { suite: "trixie", kernel: "linux-image-amd64", files: { tree: "." } },
  "kernel-forky": { suite: "forky", kernel: "linux-image-amd64", files: { tree: "." } },
  // For guests: small, and with PVH. What `isopod-vm` boots where nothing else is configured.
  "kernel-cloud": { suite: "bookworm", kernel: "linux-image-cloud-amd64", files: { tree: "." } },
};

/** A peer that cannot be had here, with the reason: reported, not thrown. */
class Missing extends Error {}

function run(file, args, options = {}) {
  const env = { ...process.env, LC_ALL: "C", DEBIAN_FRONTEND: "noninteractive", ...options.env };
  const done = spawnSync(file, args, { encoding: "utf8", maxBuffer: 1 << 26, ...options, env });
  if (done.error?.code === "ENOENT") throw new Missing(`no ${file} on this machine`);
  if (done.status !== 0) {
    const why = (done.stderr || done.stdout || String(done.error ?? `signal ${done.signal}`)).trim();
    throw new Missing(`${path.basename(file)} ${args.at(-1)}: ${why.split("\n").slice(-3).join("; ")}`);
  }
  return done.stdout;
}

/** The mirror this machine already uses, so that a proxy or a local mirror serves the peers as well. */
function mirror() {
  const format = "$(REPO_URI) $(COMPONENT)";
  const targets = run("apt-get", [
    "indextargets",
    "--format",
    format,
    "Created-By: Packages",
    "Origin: Debian",
  ]);
  const lines = targets.split("\n").filter((line) => line.endsWith(" main") && !line.includes("security"));
  return lines[0]?.split(" ")[0] ?? fallbackMirror;
}

function aptOptions(suite) {
  const dir = path.join(cache, "apt", suite);
  for (const sub of ["lists/partial", "cache/archives/partial"]) {
    fs.mkdirSync(path.join(dir, sub), { recursive: true });
  }
  const list = path.join(dir, "sources.list");
  const signed = fs.existsSync(keyring) ? `[signed-by=${keyring}] ` : "";
  if (!fs.existsSync(list)) fs.writeFileSync(list, `deb ${signed}${mirror()} ${suite} main\n`);
  const settings = {
    "Dir::Etc::sourcelist": list,
    "Dir::Etc::sourceparts": "-",
    "Dir::State::Lists": path.join(dir, "lists"),
    "Dir::Cache": path.join(dir, "cache"),
    "APT::Sandbox::User": "root",
    "Acquire::Languages": "none",
    "Acquire::Retries": "3",
  };
  return ["-q", ...Object.entries(settings).flatMap(([key, value]) => ["-o", `${key}=${value}`])];
}

function unpackDebian(peer, tree) {
  const options = aptOptions(peer.suite);
  const debs = path.join(tree, "debs");
  fs.mkdirSync(debs, { recursive: true });
  const download = () => {
    const packages = peer.kernel ? kernelPackages(peer.kernel, options) : peer.packages;
    run("apt-get", [...options, "download", ...packages], { cwd: debs });
  };
  try {
    download();
  } catch {
    // No lists yet, or lists that name a version the mirror has replaced.
    run("apt-get", [...options, "update"]);
    download();
  }
  for (const deb of fs.readdirSync(debs)) run("dpkg", ["-x", path.join(debs, deb), tree]);
  fs.rmSync(debs, { recursive: true });
}

/** The metapackage names an image package, which since forky is itself but a list of image and modules. */
function kernelPackages(metapackage, options) {
  const depends = (name) =>
    run("apt-cache", [...options, "depends", "--important", name])
      .split("\n")
      .flatMap((line) => /^ *Depends: (linux-(?:image|binary|modules)-\d\S*)$/.exec(line)?.[1] ?? []);
  const [image] = depends(metapackage);
  if (!image) throw new Missing(`${metapackage} depends on no image`);
  return [image, ...depends(image)];
}

/** depmod's files, which the packages leave to their installation. */
function indexModules(tree) {
  const dir = ["usr/lib/modules", "lib/modules"].map((name) => path.join(tree, name)).find(fs.existsSync);
  if (!dir) throw new Missing("the kernel packages hold no modules");
  for (const version of fs.readdirSync(dir)) run("depmod", ["-b", path.resolve(dir, "../.."), version]);
}

/** Makes programs find the libraries of their own tree wherever the tree lies; `final` is that place. */
function patchLibraries(peer, tree, final) {
  const { patchelf } = obtain("patchelf");
  const folders = ["usr/lib", "lib"].map((dir) => path.join(final, dir, triplet)).join(":");
  for (const name of peer.patch) {
    const program = path.join(tree, name);
    const options = ["--force-rpath", "--set-rpath", folders];
    if (peer.libc) {
      const loader = path.basename(run(patchelf, ["--print-interpreter", program]).trim());
      options.unshift("--set-interpreter", path.join(final, "usr/lib", triplet, loader));
    }
    run(patchelf, [...options, program]);
  }
}

function buildGo(peer, tree) {
  for (const [name, file] of Object.entries(peer.needs ?? {})) {
    if (!fs.existsSync(file)) throw new Missing(`needs the Debian package ${name}`);
  }
  fs.mkdirSync(tree, { recursive: true });
  const args = ["build", "-p=2", "-trimpath", "-buildvcs=false", ...(peer.build ?? []), "-o", tree, "tool"];
  const env = { GOFLAGS: "-mod=readonly", CGO_ENABLED: peer.needs ? "1" : "0", GOWORK: "off" };
  run("go", args, { cwd: path.join(repository, "test/tools", peer.go), env });
}

/** What a change of makes the cached peer stale. */
function recipe(peer) {
  const pins = peer.go ? fs.readFileSync(path.join(repository, "test/tools", peer.go, "go.mod"), "utf8") : "";
  return JSON.stringify([peer, pins]);
}

function isCurrent(name) {
  const stamp = path.join(cache, name, ".recipe");
  return fs.existsSync(stamp) && fs.readFileSync(stamp, "utf8") === recipe(peers[name]);
}

/** Paths of a peer, made first if it is not there. */
function obtain(name) {
  const peer = peers[name];
  const final = path.join(cache, name);
  if (!isCurrent(name)) {
    if (!triplet) throw new Missing(`no peers for ${process.arch}`);
    const tree = `${final}.partial`;
    fs.rmSync(tree, { recursive: true, force: true });
    process.stderr.write(`fetching ${name}\n`);
    if (peer.go) buildGo(peer, tree);
    else unpackDebian(peer, tree);
    if (peer.patch) patchLibraries(peer, tree, final);
    if (peer.kernel) indexModules(tree);
    fs.writeFileSync(path.join(tree, ".recipe"), recipe(peer));
    fs.rmSync(final, { recursive: true, force: true });
    fs.renameSync(tree, final);
  }
  return Object.fromEntries(Object.entries(peer.files).map(([key, file]) => [key, path.join(final, file)]));
}

function result(name) {
  try {
    return obtain(name);
  } catch (error) {
    if (error instanceof Missing) return { missing: `${name}: ${error.message}` };
    throw error;
  }
}

const args = process.argv.slice(2);
const locked = args[0] === "--locked";
const names = args.filter((arg) => arg !== "--locked");
if (names.length === 0) names.push(...Object.keys(peers));
const unknown = names.find((name) => !peers[name]);
if (unknown) {
  console.error(`unknown peer ${unknown}: one of ${Object.keys(peers).join(", ")}`);
  process.exit(2);
}
if (locked || names.every(isCurrent)) {
  console.log(JSON.stringify(Object.fromEntries(names.map((name) => [name, result(name)]))));
} else {
  // flock(1) rather than a file that a killed process would leave behind.
  fs.mkdirSync(cache, { recursive: true });
  const self = fileURLToPath(import.meta.url);
  const env = { ...process.env };
  for (const name of ["NODE_OPTIONS", "NODE_EXTRA_CA_CERTS"]) delete env[name];
  const command = [path.join(cache, "lock"), process.execPath, self, "--locked", ...names];
  const { status } = spawnSync("flock", command, { stdio: ["ignore", "inherit", "inherit"], env });
  process.exit(status ?? 1);
}
