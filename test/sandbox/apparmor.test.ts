import assert from "node:assert/strict";
import { test } from "node:test";
import { precondition } from "../../src/base/errors";
import { type Log, silentLog } from "../../src/base/log";
import type { SecurityProfile } from "../../src/sandbox";
import { type ApparmorHost, apparmorOf, parseProfiles } from "../../src/sandbox/apparmor";
import { APPARMOR_DEFAULT } from "../../src/sandbox/apparmor-policy";
import { containerConfig } from "./doubles";

interface FakeHost extends ApparmorHost {
  readonly names: Set<string>;
  loads: number;
}

function fakeHost(changes: Partial<FakeHost> = {}): FakeHost {
  const names = new Set(["mine"]);
  const host: FakeHost = {
    enabled: true,
    names,
    loads: 0,
    loaded: () => names,
    load: async (policy) => {
      host.loads++;
      names.add(/profile (\S+)/.exec(policy)![1]!);
    },
    ...changes,
  };
  return host;
}

const ask = (host: ApparmorHost, apparmor?: SecurityProfile, privileged = false, log: Log = silentLog) =>
  apparmorOf(log, host).profileOf({ ...containerConfig().security, privileged, apparmor });

const of = (type: SecurityProfile["type"], localhostRef = ""): SecurityProfile => ({ type, localhostRef });

test("which profile a request means", async () => {
  const host = fakeHost();
  assert.equal(await ask(host), APPARMOR_DEFAULT, "none asked for");
  assert.equal(await ask(host, of("runtimeDefault")), APPARMOR_DEFAULT);
  assert.equal(await ask(host, of("unconfined")), "unconfined");
  assert.equal(await ask(host, of("localhost", "mine")), "mine");
  assert.equal(await ask(host, of("localhost", "localhost/mine")), "mine");
  assert.equal(await ask(host, undefined, true), "unconfined", "privileged");
  assert.equal(await ask(host, of("localhost", "mine"), true), "mine", "privileged, but named");
});

test("a profile that is not loaded is refused by name; where one cannot look, the stub will tell", async () => {
  await assert.rejects(ask(fakeHost(), of("localhost", "other")), {
    code: "FAILED_PRECONDITION",
    message: /apparmor\.localhost_ref: "other": no such profile is loaded/,
  });
  assert.equal(await ask(fakeHost({ loaded: () => undefined }), of("localhost", "other")), "other");
});

test("a host without AppArmor: the default is nothing, a profile by name a promise that cannot be kept", async () => {
  const off = fakeHost({ enabled: false });
  for (const profile of [undefined, of("runtimeDefault"), of("unconfined")])
    assert.equal(await ask(off, profile), undefined);
  await assert.rejects(ask(off, of("localhost", "mine")), {
    code: "UNIMPLEMENTED",
    message: 'security_context.apparmor: "mine": AppArmor is not enabled on this host',
  });
  assert.equal(off.loads, 0);
});

test("the default profile is loaded once, by all who want it at the same time, and again when it was removed", async () => {
  const host = fakeHost();
  host.names.add(APPARMOR_DEFAULT);
  const apparmor = apparmorOf(silentLog, host);
  const { security } = containerConfig();
  await Promise.all([apparmor.profileOf(security), apparmor.profileOf(security)]);
  await apparmor.profileOf(security);
  assert.equal(host.loads, 1, "an older version's is replaced, once");
  host.names.delete(APPARMOR_DEFAULT);
  await apparmor.profileOf(security);
  assert.equal(host.loads, 2);
});

test("a default that cannot be loaded fails who asked for it, and is one warning to the others", async () => {
  const host = fakeHost({ load: () => Promise.reject(precondition("no parser")) });
  const warnings: unknown[] = [];
  const log: Log = { ...silentLog, warn: (_message, fields) => void warnings.push(fields) };
  const apparmor = apparmorOf(log, host);
  const { security } = containerConfig();
  for (let i = 0; i < 3; i++) assert.equal(await apparmor.profileOf(security), undefined);
  assert.deepEqual(warnings, [{ error: "no parser" }]);
  await assert.rejects(apparmor.profileOf({ ...security, apparmor: of("runtimeDefault") }), /no parser/);
});

test("names of loaded profiles, blanks and all", () => {
  const text = "isopod-default (enforce)\n/usr/bin/man (complain)\nmy profile (1) (kill)\n";
  assert.deepEqual([...parseProfiles(text)], ["isopod-default", "/usr/bin/man", "my profile (1)"]);
  assert.deepEqual([...parseProfiles("")], []);
});
