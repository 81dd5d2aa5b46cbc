import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { podConfig } from "./doubles";
import { logText, openSite, podRequest, shell, until } from "./real";

const onHost = { network: "node", pid: "container", ipc: "pod" } as const;

test("a container on the host's network: output, exit code, exec, stats, nothing left", async (t) => {
  const site = await openSite(t);
  const { pods } = site.daemon;
  const began = performance.now();
  const pod = await pods.run(podRequest(site, { namespaces: onHost, hostname: "" }));
  const ran = performance.now();
  const config = shell("echo hello; echo oops >&2; while [ ! -e /go ]; do sleep 0.05; done; exit 7");
  const host = { ...config, security: { ...config.security, namespaces: onHost } };
  const container = await pods.create(pod, host, podConfig());
  const created = performance.now();
  await pods.start(container);
  const started = performance.now();
  t.diagnostic(
    `run ${(ran - began).toFixed(1)} create ${(created - ran).toFixed(1)} start ${(started - created).toFixed(1)} ms`,
  );
  const exec = await pods.execSync(container, ["/bin/sh", "-c", "echo out; echo err >&2; id -u; exit 3"], 10);
  assert.deepEqual([exec.stdout.toString(), exec.stderr.toString(), exec.exitCode], ["out\n0\n", "err\n", 3]);
  const stats = await pods.stats(container);
  assert.ok((stats.cpuUsageNs ?? 0n) > 0n);
  await pods.execSync(container, ["/bin/touch", "/go"], 10);
  await until("exited", () => pods.getContainer(container).state === "exited");
  const view = pods.getContainer(container);
  assert.deepEqual([view.exitCode, view.reason], [7, "Error"]);
  assert.deepEqual(logText(path.join(site.logs, "main/0.log")).sort(), ["hello", "oops"]);
  await pods.remove(pod);
  assert.deepEqual(fs.readdirSync(path.join(site.state, "pods")), []);
  assert.deepEqual(fs.readdirSync(path.join(site.state, "bundles")), []);
  assert.deepEqual(site.daemon.images.snapshotKeys(), []);
});
