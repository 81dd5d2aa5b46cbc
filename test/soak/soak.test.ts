import * as assert from "node:assert/strict";
import { test } from "node:test";
import { needs } from "../support/needs";
import { peers } from "../support/peers";
import { soak } from "./soak";

// `npm run soak` does the same with 500 and 50.
const small = { count: 30, atOnce: 8, every: 10, say: () => {} };

test("pods come and go and leave nothing", needs(peers.cni()), async () => {
  const { leaks } = await soak(small);
  assert.deepEqual(leaks, []);
});

test("pods come and go while the daemon is killed, and leave nothing", needs(peers.cni()), async () => {
  const { leaks } = await soak({ ...small, kill: "daemon" });
  assert.deepEqual(leaks, []);
});

test("pods come and go while the shim server is killed, and leave nothing", needs(peers.cni()), async () => {
  const { leaks } = await soak({ ...small, kill: "server" });
  assert.deepEqual(leaks, []);
});
