// node docs/examples/run-image.js ARCHIVE STORE: imports an image and runs a shell command on top of it.
const { mkdtemp, rm } = require("node:fs/promises");
const { importImage, run, snapshotter } = require("isopod");

async function main() {
  const [archive, root] = process.argv.slice(2);
  const store = await snapshotter({ root });
  const [image] = await importImage(archive, { root });
  const { mounts } = await store.prepare({ key: "example", image });
  const bundle = await mkdtemp("/tmp/isopod-example-");
  const spec = {
    ociVersion: "1.1.0",
    root: { path: "rootfs" },
    process: { args: ["/bin/sh", "-c", "echo hello from an image"], cwd: "/", env: image.config.config?.Env ?? [] },
    mounts: [{ destination: "/proc", type: "proc", source: "proc" }],
    linux: { namespaces: ["pid", "mount", "network", "ipc", "uts", "cgroup"].map((type) => ({ type })) },
  };
  const container = await run({ bundle, spec, rootfs: mounts });
  container.stdout.pipe(process.stdout);
  await container.wait();
  await container.delete();
  await store.removeSnapshot("example");
  await store.close();
  await rm(bundle, { recursive: true });
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
