import assert from "node:assert/strict";
import * as path from "node:path";
import { test } from "node:test";
import protobuf from "protobufjs";
import { type Double, image, podId, withDouble } from "./double";

/**
 * Nothing that a caller asked for is silently ignored. Walks every field of the two config messages, sets it
 * alone, and demands that the request is refused naming the field, or that what reaches the rooms differs.
 * A field that is added to the protocol and forgotten in the conversion fails here.
 */
const root = new protobuf.Root();
root.loadSync(path.join(__dirname, "../../../proto/cri/runtime.proto"), { keepCase: true });

/** Documented in src/cri/convert: no meaning on Linux, or another's business. */
const ignored = [
  /^config\.windows\b/,
  /^config\.image\.(annotations|runtime_handler|image_ref)$/,
  // kubelet writes the pod's cgroup itself; the shim reads these from the config's bytes.
  /^config\.linux\.(overhead|resources)\b/,
  // Whom a pause process would run as: there is none.
  /^config\.linux\.security_context\.(run_as_user\.value|readonly_rootfs|supplemental_groups|supplemental_groups_policy)$/,
  /^config\.linux\.security_context\.seccomp\.profile_type$/,
  /^config\.linux\.security_context\.apparmor\.profile_type$/,
  // Mode NODE is the only one there is yet; its fields are refused.
  /^config\.linux\.security_context\.namespace_options\.userns_options\.mode$/,
];

type Json = Record<string, unknown>;
interface Leaf {
  readonly path: string;
  readonly keys: readonly (string | number)[];
  readonly value: unknown;
}

function* leaves(type: protobuf.Type, at: string, keys: readonly (string | number)[]): Generator<Leaf> {
  for (const field of type.fieldsArray) {
    field.resolve();
    const path = `${at}.${field.name}`;
    const under = [...keys, field.name];
    if (field.map) yield { path, keys: under, value: { key: "value" } };
    else if (field.resolvedType instanceof protobuf.Type) {
      const index = field.repeated ? [0] : [];
      yield* leaves(field.resolvedType, field.repeated ? `${path}[0]` : path, [...under, ...index]);
    } else yield { path, keys: under, value: field.repeated ? [sample(field)] : sample(field) };
  }
}

function sample(field: protobuf.Field): unknown {
  if (field.resolvedType instanceof protobuf.Enum) return 1;
  if (field.type === "string") return "sample";
  if (field.type === "bytes") return Buffer.from("sample");
  return field.type === "bool" ? true : 7;
}

function withLeaf(base: Json, { keys, value }: Leaf): Json {
  const copy = structuredClone(base);
  let at = copy as Record<string | number, unknown>;
  keys.slice(0, -1).forEach((key, index) => {
    at[key] ??= typeof keys[index + 1] === "number" ? [] : {};
    at = at[key] as typeof at;
  });
  at[keys.at(-1)!] = value;
  return copy;
}

async function check(double: Double, method: string, requestName: string, configName: string, base: Json) {
  const request = root.lookupType(`runtime.v1.${requestName}`);
  const send = async (message: Json) => {
    double.calls.length = 0;
    await double.cri.raw(method, request.encode(request.fromObject(message)).finish());
    return JSON.stringify(double.calls.at(-1)!.args);
  };
  // The bytes of the config always differ: what counts is what was read from them.
  const withoutBytes = (text: string) => text.replace(/"configBytes":\{[^}]*\}/, "");
  const plain = withoutBytes(await send(base));
  let seen = 0;
  for (const leaf of leaves(root.lookupType(`runtime.v1.${configName}`), "config", ["config"])) {
    seen++;
    if (ignored.some((pattern) => pattern.test(leaf.path))) continue;
    try {
      assert.notEqual(withoutBytes(await send(withLeaf(base, leaf))), plain, `${leaf.path} is lost`);
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      const { code, details } = error as { code: number; details: string };
      assert.ok(code === 3 || code === 12, `${leaf.path}: ${code} ${details}`);
      assert.ok(namesField(details, leaf.path), `"${details}" does not name ${leaf.path}`);
    }
  }
  return seen;
}

/** The refusal names the leaf or a message that it belongs to, after kubelet's sentinel if there is one. */
function namesField(details: string, path: string): boolean {
  const named = details.replace(/^ImageVolumeMountFailed: /, "").split(": ")[0]!;
  return (
    named.split(".").length > 1 &&
    `${path}.`.replace(/\[\d\]\./g, ".").startsWith(`${named.replace(/\[\d\]/g, "")}.`)
  );
}

test("every field of PodSandboxConfig is carried, refused by name, or documented as ignored", async (t) => {
  const base = { config: { metadata: { name: "p", uid: "u", namespace: "n" } } };
  const seen = await check(
    await withDouble(t),
    "RunPodSandbox",
    "RunPodSandboxRequest",
    "PodSandboxConfig",
    base,
  );
  assert.ok(seen > 60, `only ${seen} fields`);
});

test("every field of ContainerConfig is carried, refused by name, or documented as ignored", async (t) => {
  const base = {
    pod_sandbox_id: podId,
    sandbox_config: { metadata: { name: "p", uid: "u", namespace: "n" } },
    config: {
      metadata: { name: "c" },
      image: { image: image.id },
      mounts: [{ container_path: "/c", host_path: "/h" }],
      devices: [{ container_path: "/dev/c", host_path: "/dev/h" }],
      envs: [{ key: "NAME" }],
    },
  };
  const seen = await check(
    await withDouble(t),
    "CreateContainer",
    "CreateContainerRequest",
    "ContainerConfig",
    base,
  );
  assert.ok(seen > 70, `only ${seen} fields`);
});
