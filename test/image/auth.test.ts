import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { credentialsFor, parseChallenges } from "../../src/image/auth";
import { defaultHosts } from "../../src/image/hosts";

test("challenges are parsed by RFC 9110, several in one header", () => {
  const parsed = (header: string) =>
    parseChallenges(header).map(({ scheme, parameters }) => [scheme, { ...parameters }]);
  assert.deepEqual(
    parsed(
      'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"',
    ),
    [
      [
        "bearer",
        {
          realm: "https://auth.docker.io/token",
          service: "registry.docker.io",
          scope: "repository:a/b:pull,push",
        },
      ],
    ],
  );
  assert.deepEqual(parsed('Basic realm="a, b=\\"c\\"" , bearer REALM = x'), [
    ["basic", { realm: 'a, b="c"' }],
    ["bearer", { realm: "x" }],
  ]);
  assert.deepEqual(parsed("Negotiate, Basic"), [
    ["negotiate", {}],
    ["basic", {}],
  ]);
  assert.deepEqual(parsed(""), []);
  fc.assert(fc.property(fc.string(), (header) => void parseChallenges(header)));
});

test("an AuthConfig comes down to one kind of credentials", () => {
  const encode = (text: string) => Buffer.from(text).toString("base64");
  const password = { kind: "password", username: "u", password: "p:q" };
  assert.deepEqual(credentialsFor("a.com", undefined), { kind: "none" });
  assert.deepEqual(credentialsFor("a.com", { username: "u", password: "p:q" }), password);
  assert.deepEqual(credentialsFor("a.com", { auth: encode("u:p:q\0\0") }), password);
  assert.deepEqual(credentialsFor("a.com", { identityToken: "t" }), { kind: "identity", token: "t" });
  assert.deepEqual(credentialsFor("a.com", { registryToken: "t" }), { kind: "bearer", token: "t" });
  assert.deepEqual(credentialsFor("a.com", { username: "", auth: "", identityToken: "" }), { kind: "none" });
  for (const serverAddress of ["a.com", "https://a.com", "https://A.com/v1/", "http://a.com/x"]) {
    assert.deepEqual(credentialsFor("a.com", { username: "u", password: "p:q", serverAddress }), password);
  }
  for (const serverAddress of ["b.com", "https://a.com.evil.org", "a.com:444", "evil.org/a.com"]) {
    assert.deepEqual(credentialsFor("a.com", { username: "u", serverAddress }), { kind: "none" });
  }
  const hub = { username: "u", password: "p:q", serverAddress: "https://index.docker.io/v1/" };
  assert.deepEqual(credentialsFor("docker.io", hub), password);
  const bad = encode("no colon");
  assert.throws(
    () => credentialsFor("a.com", { auth: bad }),
    (error: Error) => !error.message.includes(bad),
  );
});

test("only the loopback interface is spoken to in the clear", () => {
  const origin = (host: string) => defaultHosts(host)[0]!.origin;
  assert.equal(origin("docker.io"), "https://registry-1.docker.io");
  assert.equal(origin("localhost:5000"), "http://localhost:5000");
  assert.equal(origin("127.0.0.1"), "http://127.0.0.1");
  assert.equal(origin("[::1]:80"), "http://[::1]:80");
  for (const host of ["localhost.example.com", "127.0.0.1.example.com", "10.0.0.1:5000", "example.com:80"]) {
    assert.equal(origin(host), `https://${host}`);
  }
});
