// node docs/examples/microvm.js VMLINUZ INITRD: boots a guest that calls port 6000 of its host and echoes what
// comes to its own port 5000 (as test/runtime/microvm/guest-init.cc does), talks to it, and pulls the plug.
const { MicroVm } = require("isopod");
const { text } = require("node:stream/consumers");

async function main() {
  const [kernel, initrd] = process.argv.slice(2);
  const vm = await MicroVm.boot({ kernel, initrd, memory: 256, arguments: "MODE=serve" });
  // The guest says when it is up: no polling.
  for await (const stream of vm.listen(6000)) {
    process.stdout.write(await text(stream));
    break;
  }
  const echo = await vm.connect(5000, { timeoutMs: 10_000 });
  echo.end("hello, guest");
  console.log(await text(echo));
  console.log((await vm.stop()).reason);
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
