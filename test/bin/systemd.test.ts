import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { type TestContext, test } from "node:test";
import { startDaemon } from "../support/daemon";
import { compileStatic } from "../support/images";
import { until } from "../support/processes";

/** systemd's side of sd_notify, which Node cannot play: prints every datagram that it receives. */
const LISTENER = `
  #include <stdio.h>
  #include <string.h>
  #include <sys/socket.h>
  #include <sys/un.h>
  #include <unistd.h>
  int main(int count, char **words) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, words[count - 1], sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0) return 1;
    for (;;) {
      char text[4096];
      ssize_t size = read(fd, text, sizeof text);
      if (size < 0) return 1;
      write(1, text, size);
      write(1, "\\n", 1);
    }
  }`;

async function listener(t: TestContext): Promise<{ socket: string; heard: () => string }> {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "isopod-notify-"));
  const program = path.join(dir, "listener");
  fs.writeFileSync(program, await compileStatic("notify-listener", LISTENER), { mode: 0o755 });
  const socket = path.join(dir, "notify");
  const child: ChildProcess = spawn(program, [socket], { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  child.stdout!.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  t.after(() => {
    child.kill("SIGKILL");
    fs.rmSync(dir, { recursive: true });
  });
  await until(() => fs.existsSync(socket), "the listener listens");
  return { socket, heard: () => text };
}

test("serve tells systemd that it is ready, that it lives, and that it stops", async (t) => {
  const { socket, heard } = await listener(t);
  const daemon = await startDaemon({ env: { NOTIFY_SOCKET: socket, WATCHDOG_USEC: "100000" } });
  t.after(() => daemon.end());
  await until(() => heard().includes("WATCHDOG=1"), "the watchdog is fed");
  assert.match(heard(), new RegExp(`^READY=1\nMAINPID=${daemon.pid}\n`));
  assert.doesNotMatch(heard(), /STOPPING/);
  await daemon.stop();
  assert.match(heard(), /\nSTOPPING=1\n$/);
  assert.equal(fs.existsSync(daemon.socket), false);
});

test("a watchdog that is meant for another process is not fed", async (t) => {
  const { socket, heard } = await listener(t);
  const env = { NOTIFY_SOCKET: socket, WATCHDOG_USEC: "20000", WATCHDOG_PID: "1" };
  const daemon = await startDaemon({ env });
  t.after(() => daemon.end());
  // Many periods long.
  await new Promise((resolve) => setTimeout(resolve, 200));
  await daemon.stop();
  assert.match(heard(), /^READY=1\nMAINPID=\d+\nSTOPPING=1\n$/);
});

test("SIGHUP reads the configuration again, and systemd is told when that is done", async (t) => {
  const { socket, heard } = await listener(t);
  const daemon = await startDaemon({ env: { NOTIFY_SOCKET: socket } });
  t.after(() => daemon.end());
  const config = path.join(daemon.dir, "config.toml");
  const text = fs.readFileSync(config, "utf8");
  const debugLines = () => daemon.log().match(/"level":"debug"/g)?.length ?? 0;
  let reloads = 0;
  const reload = async (content: string, said: RegExp) => {
    fs.writeFileSync(config, content);
    process.kill(daemon.pid, "SIGHUP");
    reloads++;
    await until(() => said.test(daemon.log()), `the log says ${said}`);
    const told = () => heard().match(/RELOADING=1\nMONOTONIC_USEC=\d+\nREADY=1\n/g)?.length ?? 0;
    await until(() => told() === reloads, "systemd is told");
  };
  await daemon.cri.ListContainers({});
  assert.equal(debugLines(), 0);
  await reload(`${text}\n[log]\nlevel = "debug"\n`, /configuration read again/);
  await daemon.cri.ListContainers({});
  await until(() => debugLines() > 0, "a list is logged now");
  await reload(`${text}\nnonsense = 1\n`, /nonsense.*nothing is changed/);
  await reload(text.replace("/netns", "/elsewhere"), /"keys":\["cni"\].*restart isopod for it/);
  await daemon.cri.Version({});
});
