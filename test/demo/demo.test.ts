import assert from "node:assert/strict";
import * as path from "node:path";
import { test } from "node:test";
import { command } from "../support/command";
import { needs } from "../support/needs";
import { peers } from "../support/peers";

test("the demo shows a pod's whole life and leaves nothing", needs(peers.cni()), async () => {
  const { stdout } = await command(process.execPath, [path.join(__dirname, "main.js")]);
  assert.match(stdout, /RunPodSandbox\n.*address 198\.1[89]\.\d+\.\d+/);
  assert.match(stdout, /stdout F hello from hello, pid 1/);
  assert.match(stdout, /stderr F and a word on stderr/);
  assert.match(stdout, /1 root +httpd/);
  assert.match(stdout, /a page from the pod\n.*ContainerStats/);
  assert.match(stdout, / 0 left\n/);
});
