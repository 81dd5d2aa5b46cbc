// node docs/examples/run-bundle.js BUNDLE: runs a bundle's container, and a program beside its own.
const { run } = require("isopod");

async function main() {
  const container = await run(process.argv[2]);
  container.stdout.pipe(process.stdout);
  const exec = await container.exec(["hostname"]);
  exec.stdout.pipe(process.stdout);
  console.log(`exec ended with ${(await exec.wait()).status}`);
  await container.kill("SIGKILL");
  console.log(`container ended with ${(await container.wait()).status}`);
  await container.delete();
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
