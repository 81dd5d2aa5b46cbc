import assert from "node:assert/strict";
import { test } from "node:test";
import { podFiles } from "../../src/oci/podfiles";

const host = { hostname: "node1", hosts: "127.0.0.1 localhost\n", resolvConf: "nameserver 10.0.0.2\n" };

test("a pod without DNS settings has the host's", () => {
  assert.deepEqual(podFiles({ hostname: "web", host }), {
    hostname: "web\n",
    hosts: host.hosts,
    "resolv.conf": host.resolvConf,
  });
});

test("DNS settings become one line each, name servers one line a server", () => {
  const dns = { servers: ["10.96.0.10", "10.96.0.11"], searches: ["a.svc", "svc"], options: ["ndots:5"] };
  assert.equal(
    podFiles({ hostname: "web", dns, host })["resolv.conf"],
    "search a.svc svc\nnameserver 10.96.0.10\nnameserver 10.96.0.11\noptions ndots:5\n",
  );
});

test("empty DNS settings are an empty file, not the host's", () => {
  assert.equal(podFiles({ hostname: "", dns: { servers: null }, host })["resolv.conf"], "");
  assert.equal(podFiles({ hostname: "", dns: {}, host }).hostname, "node1\n");
});
