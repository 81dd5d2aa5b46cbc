import { invalid, precondition, unsupported } from "../base/errors";
import type { NamespaceType, Process, Resources, Spec } from "../oci/runtime-spec";
import {
  absolutePath,
  array,
  boolean,
  type Check,
  firstFault,
  id,
  integer,
  map,
  noLimit,
  object,
  oneOf,
  refused,
  string,
  text,
  unsigned64,
} from "./schema";

/**
 * A config.json is checked whole before anything is done: every member of the OCI runtime specification 1.3
 * is either honoured or refused here by its name and value; members that it does not know are refused too.
 * What only the kernel can tell (does a mount's source exist?) comes from the stub.
 */
export function checkSpec(spec: unknown): asserts spec is Spec {
  if (sealed.has(spec as object)) return;
  const error = firstFault(specification, spec) ?? inconsistency(spec as Spec);
  if (error) throw error;
}

/** Specs that were checked and that nobody can change any more. */
const sealed = new WeakSet<object>();

/** Checks a spec and freezes all of it: no launch of it is checked again. */
export function sealSpec(spec: unknown): Spec {
  checkSpec(spec);
  freeze(spec);
  sealed.add(spec);
  return spec;
}

export const isSealed = (spec: object): boolean => sealed.has(spec);

function freeze(value: unknown): void {
  if (typeof value !== "object" || value === null) return;
  Object.freeze(value);
  for (const member of Object.values(value)) freeze(member);
}

/** The `process` of an exec. */
export function checkProcess(process: unknown): asserts process is Process {
  const error = firstFault(processOf, process, "process");
  if (error) throw error;
}

/** The resources of an update; `name` is what they are called in the text of a refusal. */
export function checkResources(value: unknown, name: string): asserts value is Resources {
  const error = firstFault(resources, value, name);
  if (error) throw error;
}

/** Ids become file and cgroup names: nothing that a path could read otherwise. */
export function checkId(field: string, value: string): void {
  if (typeof value !== "string" || !/^[A-Za-z0-9_+.-]{1,128}$/.test(value) || value === "." || value === "..")
    throw invalid(
      field,
      value,
      "must be 1 to 128 letters, digits or any of _ + . -, and not a directory's name",
    );
}

const environment = text((value) => value.indexOf("=") > 0, "must be NAME=VALUE");
const capabilitySet = array(text((value) => /^CAP_[A-Z_]+$/.test(value), "must be a CAP_ name"));

const processOf = object(
  {
    terminal: boolean,
    consoleSize: object({ height: integer(0, 65535), width: integer(0, 65535) }),
    user: object({
      uid: id,
      gid: id,
      umask: integer(0, 0o777),
      additionalGids: array(id),
      username: refused("is for Windows"),
    }),
    args: array(string),
    commandLine: refused("is for Windows"),
    env: array(environment),
    cwd: absolutePath,
    capabilities: object({
      bounding: capabilitySet,
      effective: capabilitySet,
      inheritable: capabilitySet,
      permitted: capabilitySet,
      ambient: capabilitySet,
    }),
    rlimits: array(object({ type: string, hard: unsigned64, soft: unsigned64 }, ["type", "hard", "soft"])),
    noNewPrivileges: boolean,
    apparmorProfile: text((value) => !/[\0\n]/.test(value), "must be one line"),
    oomScoreAdj: integer(-1000, 1000),
    scheduler: refused(),
    selinuxLabel: refused(),
    ioPriority: refused(),
    execCPUAffinity: refused(),
  },
  ["args", "cwd"],
);

const deviceType = oneOf("a", "b", "c");
const deviceNumber = integer(-1, 2 ** 32 - 1);

const MAX = Number.MAX_SAFE_INTEGER;
/** Bytes; -1: no limit. What v1 calls unlimited, 2^63 - 4096, is above what JSON's numbers hold exactly. */
const bytes = integer(-1, 2 ** 63);
const count = integer(0, MAX);
const cpuList = text((value) => /^[0-9,-]*$/.test(value), "must be a list such as 0-3,7");
const NO_V2 = "has no counterpart in cgroup v2: leave it unset";
const device = { major: integer(0, 4095), minor: integer(0, 1048575) };
const rates = array(object({ ...device, rate: count }, ["major", "minor", "rate"]));
const ioWeight: Check = (value) => (value === 0 ? undefined : integer(10, 1000)(value));

const resources = object({
  devices: array(
    object(
      {
        allow: boolean,
        type: deviceType,
        major: deviceNumber,
        minor: deviceNumber,
        access: text((value) => /^[rwm]{0,3}$/.test(value), "must be made of r, w and m"),
      },
      ["allow"],
    ),
  ),
  memory: object({
    limit: bytes,
    reservation: bytes,
    swap: bytes,
    kernel: noLimit(NO_V2),
    kernelTCP: noLimit(NO_V2),
    swappiness: refused(NO_V2),
    disableOOMKiller: refused(NO_V2),
    // The only way that v2 knows.
    useHierarchy: boolean,
    checkBeforeUpdate: boolean,
  }),
  cpu: object({
    shares: count,
    quota: integer(-MAX, MAX),
    burst: count,
    period: count,
    realtimeRuntime: noLimit(NO_V2),
    realtimePeriod: noLimit(NO_V2),
    cpus: cpuList,
    mems: cpuList,
    idle: integer(0, 1),
  }),
  pids: object({ limit: integer(-MAX, MAX) }),
  blockIO: object({
    weight: ioWeight,
    leafWeight: refused(NO_V2),
    weightDevice: array(
      object({ ...device, weight: ioWeight, leafWeight: refused(NO_V2) }, ["major", "minor"]),
    ),
    throttleReadBpsDevice: rates,
    throttleWriteBpsDevice: rates,
    throttleReadIOPSDevice: rates,
    throttleWriteIOPSDevice: rates,
  }),
  hugepageLimits: array(
    object(
      {
        pageSize: text((value) => /^[1-9]\d*[KMG]B$/.test(value), "must be a size such as 2MB or 1GB"),
        limit: integer(0, 2 ** 64),
      },
      ["pageSize", "limit"],
    ),
  ),
  network: refused(NO_V2),
  rdma: map(object({ hcaHandles: integer(0, 2 ** 32 - 1), hcaObjects: integer(0, 2 ** 32 - 1) })),
  unified: map(string),
});

const mapping = refused("user namespaces are not built yet");

const linux = object({
  uidMappings: mapping,
  gidMappings: mapping,
  sysctl: map(string),
  resources,
  cgroupsPath: string,
  namespaces: array(
    object(
      {
        type: oneOf("pid", "network", "ipc", "uts", "mount", "cgroup", "user", "time"),
        path: text((value) => value === "" || value.startsWith("/"), "must be an absolute path"),
      },
      ["type"],
    ),
  ),
  devices: array(
    object(
      {
        path: absolutePath,
        type: oneOf("c", "u", "b", "p"),
        major: integer(0, 4095),
        minor: integer(0, 1048575),
        fileMode: integer(0, 0o177777),
        uid: id,
        gid: id,
      },
      ["path", "type"],
    ),
  ),
  netDevices: refused(),
  seccomp: object(
    {
      defaultAction: string,
      defaultErrnoRet: integer(0, 4095),
      architectures: array(string),
      flags: array(string),
      listenerPath: refused("seccomp notification is not supported"),
      listenerMetadata: refused("seccomp notification is not supported"),
      syscalls: array(
        object(
          {
            names: array(string),
            action: string,
            errnoRet: integer(0, 4095),
            args: array(
              object({ index: integer(0, 5), value: unsigned64, valueTwo: unsigned64, op: string }, [
                "index",
                "value",
                "op",
              ]),
            ),
          },
          ["names", "action"],
        ),
      ),
    },
    ["defaultAction"],
  ),
  rootfsPropagation: oneOf(
    "",
    ...["shared", "slave", "private", "unbindable"].flatMap((word) => [word, `r${word}`]),
  ),
  maskedPaths: array(absolutePath),
  readonlyPaths: array(absolutePath),
  mountLabel: refused(),
  intelRdt: refused(),
  memoryPolicy: refused(),
  personality: refused(),
  timeOffsets: refused("time namespaces are not built yet"),
});

const hooks = refused("hooks are not built yet");

const specification = object(
  {
    ociVersion: text((value) => /^1\.\d+\.\d+/.test(value), "must be a version 1 of the specification"),
    process: processOf,
    root: object({ path: text((value) => value !== "", "must not be empty"), readonly: boolean }, ["path"]),
    hostname: string,
    domainname: string,
    mounts: array(
      object(
        {
          destination: absolutePath,
          type: string,
          source: string,
          options: array(string),
          uidMappings: refused("idmapped mounts are not built yet"),
          gidMappings: refused("idmapped mounts are not built yet"),
        },
        ["destination"],
      ),
    ),
    hooks,
    annotations: map(string),
    linux,
    solaris: refused("is for another system"),
    windows: refused("is for another system"),
    vm: refused("is for virtual machines"),
    zos: refused("is for another system"),
    freebsd: refused("is for another system"),
  },
  ["ociVersion", "process", "root"],
);

/** What no single member shows. */
function inconsistency(spec: Spec): Error | undefined {
  const seen = new Set<NamespaceType>();
  for (const [i, { type, path }] of (spec.linux?.namespaces ?? []).entries()) {
    const field = `linux.namespaces[${i}].type`;
    if (seen.has(type)) return invalid(field, type, "named twice");
    if (type === "user" || type === "time") return unsupported(field, path || type, "not built yet");
    seen.add(type);
  }
  if (!seen.has("mount"))
    return unsupported("linux.namespaces", [...seen], "a container needs a mount namespace");
  if (spec.hostname && !seen.has("uts"))
    return invalid("hostname", spec.hostname, "needs a uts namespace in linux.namespaces");
  if (spec.domainname && !seen.has("uts"))
    return invalid("domainname", spec.domainname, "needs a uts namespace in linux.namespaces");
  if ((spec.process?.args ?? []).length === 0)
    return invalid("process.args", spec.process?.args, "must name a program");
  const size = spec.process?.consoleSize;
  if (size && !spec.process?.terminal && (size.height > 0 || size.width > 0))
    return precondition("process.consoleSize: needs process.terminal");
  return undefined;
}
