import assert from "node:assert/strict";
import * as path from "node:path";
import { test } from "node:test";
import { capability } from "../support/capabilities";
import { command } from "../support/command";
import { needs } from "../support/needs";
import { peers } from "../support/peers";

for (const driver of ["cgroupfs", "systemd"])
  test(
    `npm start on a machine of systemd's (${driver})`,
    needs(capability("systemd"), peers.cni()),
    async () => {
      // With its set-up, which finds all in place.
      const { stdout } = await command("bash", [path.resolve(__dirname, "../../../scripts/start")], {
        env: { ISOPOD_TEST_CGROUP_DRIVER: driver },
      });
      assert.match(stdout, /stdout F hello from hello, pid 1/);
      assert.match(stdout, /1 root +httpd/);
      assert.match(stdout, /a page from the pod\n.*ContainerStats/);
      assert.match(stdout, / 0 left\n/);
    },
  );
