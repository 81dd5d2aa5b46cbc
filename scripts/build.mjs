// Builds everything that is stale: protobuf code, the addon with its stub and monitor, TypeScript, bundles.
// `npm run build -- gen native ts bundle` picks parts. Downloads nothing: Node's own headers are local.
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
process.chdir(root);
const bin = (name) => path.join("node_modules", ".bin", name);
const parts = process.argv.slice(2);
const wanted = (part) => parts.length === 0 || parts.includes(part);
const run = (file, args) => execFileSync(file, args, { stdio: "inherit" });

const newest = (files) =>
  Math.max(0, ...files.map((file) => fs.statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0));
const tree = (dir, pattern) =>
  fs
    .readdirSync(dir, { recursive: true })
    .filter((name) => pattern.test(name))
    .map((name) => path.join(dir, name));
const stale = (outputs, inputs) =>
  outputs.some((file) => !fs.existsSync(file)) ||
  newest(inputs) > Math.min(...outputs.map((f) => fs.statSync(f).mtimeMs));

/** Generated modules: protobufjs static code, its types, and the list of services for the servers. */
const modules = {
  cri: "proto/cri",
  shim: "proto/containerd",
  pod: "proto/cri",
  agent: "proto/agent",
};
/** Modules that hold one message and what it is made of: a shim needs no more of CRI than this. */
const only = { pod: "runtime.v1.PodSandboxConfig" };
const extra = {
  cri: [],
  pod: [],
  agent: [],
  shim: [
    "proto/ttrpc/request.proto",
    "proto/cgroups/v2/metrics.proto",
    "proto/cgroups/v1/metrics.proto",
    "proto/google/rpc/status.proto",
  ],
};
const slim = [
  "--no-verify",
  "--no-convert",
  "--no-delimited",
  "--no-typeurl",
  "--no-comments",
  "--no-service",
  "--no-beautify",
  "--force-long",
];

async function generate(name) {
  const sources = [...tree(modules[name], /\.proto$/), ...extra[name]];
  const outputs = ["js", "d.ts", "services.json"].map((ending) => `src/gen/${name}.${ending}`);
  if (!stale(outputs, [...sources, "scripts/build.mjs"])) return;
  console.log(`generating src/gen/${name}`);
  fs.mkdirSync("src/gen", { recursive: true });
  const options = ["-p", "proto", "--root", name];
  const inputs = only[name] === undefined ? sources : [await closure(only[name], sources)];
  run(bin("pbjs"), [
    "-t",
    "static-module",
    "-w",
    "commonjs",
    ...slim,
    ...options,
    "-o",
    outputs[0],
    ...inputs,
  ]);
  // Types come from a commented twin: pbts reads the comments.
  const commented = `src/gen/.${name}.types.js`;
  run(bin("pbjs"), [
    "-t",
    "static-module",
    "-w",
    "commonjs",
    ...slim.filter((f) => f !== "--no-comments"),
    ...options,
    "-o",
    commented,
    ...inputs,
  ]);
  run(bin("pbts"), ["--no-comments", "-o", outputs[1], commented]);
  fs.rmSync(commented);
  fs.writeFileSync(outputs[2], JSON.stringify(only[name] === undefined ? await services(sources) : {}));
}

async function loadProto(sources) {
  const { default: protobuf } = await import("protobufjs");
  const all = new protobuf.Root();
  all.resolvePath = (_origin, target) =>
    target.startsWith("proto/") ? target : fs.existsSync(`proto/${target}`) ? `proto/${target}` : null;
  all.loadSync(sources);
  all.resolveAll();
  return { protobuf, all };
}

/** Writes `message` and every message and enum it refers to as a descriptor that pbjs takes; returns its path. */
async function closure(message, sources) {
  const { protobuf, all } = await loadProto(sources);
  const kept = new Set();
  const keep = (type) => {
    // A nested type comes with the type that it is in.
    while (!(type.parent instanceof protobuf.Root) && type.parent instanceof protobuf.Type)
      type = type.parent;
    if (kept.has(type)) return;
    kept.add(type);
    for (const field of type.fieldsArray ?? []) if (field.resolvedType) keep(field.resolvedType);
    for (const inner of type.nestedArray ?? []) {
      for (const field of inner.fieldsArray ?? []) if (field.resolvedType) keep(field.resolvedType);
    }
  };
  const start = all.lookupType(message);
  keep(start);
  const slimmed = new protobuf.Root();
  const target = slimmed.define(start.parent.fullName.slice(1));
  for (const type of kept) target.add(type);
  const file = `src/gen/.${message}.json`;
  fs.writeFileSync(file, JSON.stringify(slimmed.toJSON()));
  return file;
}

/** {"pkg.Service": {"Method": {"request": "pkg.Type", "response": …, "clientStream": …, "serverStream": …}}} */
async function services(sources) {
  const { protobuf, all } = await loadProto(sources);
  const found = {};
  const visit = (node) => {
    if (node instanceof protobuf.Service) {
      const methods = {};
      for (const method of node.methodsArray) {
        methods[method.name] = {
          request: method.resolvedRequestType.fullName.slice(1),
          response: method.resolvedResponseType.fullName.slice(1),
          clientStream: Boolean(method.requestStream),
          serverStream: Boolean(method.responseStream),
        };
      }
      found[node.fullName.slice(1)] = methods;
    }
    for (const child of node.nestedArray ?? []) visit(child);
  };
  visit(all);
  return found;
}

function buildNative() {
  const nodedir = path.dirname(path.dirname(fs.realpathSync(process.execPath)));
  const makefile = "build/Makefile";
  const gyp = (command) => run(bin("node-gyp"), [command, `--nodedir=${nodedir}`, "--loglevel=warn"]);
  // The directories too: sources are globbed when configuring.
  const rooms = ["init", "core", "vmm", "vmm/virtio", "fs", "addon", "monitor", "agent"].map(
    (room) => `native/${room}`,
  );
  if (stale([makefile], ["binding.gyp", ...rooms])) gyp("configure");
  run("make", ["-s", "-C", "build", "BUILDTYPE=Release", "-j2"]);
}

function buildTypeScript() {
  run(bin("tsc"), ["-p", "tsconfig.json"]);
  fs.mkdirSync("dist/src/gen", { recursive: true });
  for (const file of tree("src/gen", /\.(js|json)$/)) fs.copyFileSync(file, path.join("dist", file));
}

/** The daemon and the shim's server as one file each: a third of the start-up time of many files. */
function bundle() {
  const entries = ["isopod", "shim-server"].filter((name) => fs.existsSync(`dist/src/bin/${name}.js`));
  for (const name of entries) {
    run(bin("esbuild"), [
      `dist/src/bin/${name}.js`,
      "--bundle",
      "--platform=node",
      "--target=node20",
      "--format=cjs",
      "--external:bindings",
      "--external:lmdb",
      "--external:undici",
      "--external:pino",
      "--log-level=warning",
      "--keep-names",
      `--outfile=dist/${name}.js`,
    ]);
  }
  // bin/isopod looks for this node first (rule R1).
  fs.writeFileSync("dist/node-path", `${process.execPath}\n`);
}

if (wanted("gen")) for (const name of Object.keys(modules)) await generate(name);
if (wanted("native")) buildNative();
if (wanted("ts")) buildTypeScript();
if (wanted("bundle")) bundle();
