import { isIP } from "node:net";
import { IsopodError, invalid } from "../base/errors";

/**
 * Network configurations as the CNI specification 1.1 §1 defines them. A file holds a list
 * (`{cniVersion, name, plugins: […]}`) or, in the form before 0.3, one plugin, which is a list of one.
 */
export interface ConfList {
  readonly name: string;
  readonly cniVersion: string;
  readonly plugins: readonly PluginConf[];
}

/** A plugin's own object, untouched but for the two members that we read. */
export interface PluginConf {
  readonly type: string;
  readonly capabilities?: Readonly<Record<string, boolean>>;
  readonly [member: string]: unknown;
}

/** Oldest first; a configuration that names none means the first. */
const CNI_VERSIONS = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] as const;

/** The spec's rule for network names: they become file and device names of plugins. */
const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

/** Parses one file; errors name the file, the field and the value. */
export function parseConfList(file: string, text: string): ConfList {
  const fail = (field: string, value: unknown, why: string) => {
    const cause = invalid(field, value, why);
    return new IsopodError("INVALID_ARGUMENT", `${file}: ${cause.message}`, { path: file, cause });
  };
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new IsopodError("INVALID_ARGUMENT", `${file}: not JSON: ${(error as Error).message}`, {
      path: file,
      cause: error,
    });
  }
  if (!isObject(json)) throw fail("configuration", json, "must be an object");
  const isList = "plugins" in json || file.endsWith(".conflist");
  const plugins = isList ? json["plugins"] : [json];
  if (!Array.isArray(plugins) || plugins.length === 0)
    throw fail("plugins", plugins, "must be a list with at least one plugin");
  const name = json["name"];
  if (typeof name !== "string" || !NAME.test(name)) throw fail("name", name, `must match ${NAME.source}`);
  return {
    name,
    cniVersion: negotiate(json, fail),
    plugins: plugins.map((plugin, index) => parsePlugin(plugin, isList ? `plugins[${index}].` : "", fail)),
  };
}

type Fail = (field: string, value: unknown, why: string) => IsopodError;

function parsePlugin(plugin: unknown, prefix: string, fail: Fail): PluginConf {
  if (!isObject(plugin)) throw fail(prefix.slice(0, -1), plugin, "must be an object");
  const type = plugin["type"];
  // It is joined to a directory and executed as root.
  if (typeof type !== "string" || type === "" || type.includes("/") || type === "." || type === "..")
    throw fail(`${prefix}type`, type, "must be the file name of a plugin");
  const capabilities = plugin["capabilities"];
  if (capabilities !== undefined) {
    if (!isObject(capabilities)) throw fail(`${prefix}capabilities`, capabilities, "must be an object");
    for (const [name, declared] of Object.entries(capabilities))
      if (typeof declared !== "boolean")
        throw fail(`${prefix}capabilities.${name}`, declared, "must be true or false");
  }
  return plugin as PluginConf;
}

/** The newest version that both the file and we know (`cniVersions`, spec 1.1, beside `cniVersion`). */
function negotiate(json: Record<string, unknown>, fail: Fail): string {
  const version = json["cniVersion"] ?? CNI_VERSIONS[0];
  const further = json["cniVersions"] ?? [];
  if (typeof version !== "string") throw fail("cniVersion", version, "must be a string");
  if (!Array.isArray(further)) throw fail("cniVersions", further, "must be a list");
  const offered = [version, ...further];
  const chosen = CNI_VERSIONS.filter((known) => offered.includes(known)).at(-1);
  if (chosen === undefined) {
    const range = `${CNI_VERSIONS[0]} to ${CNI_VERSIONS.at(-1)}`;
    throw fail("cniVersion", version, `not supported, known are ${range}`);
  }
  return chosen;
}

/** True if `version` is at least `floor`; both are known ones. */
export function versionAtLeast(version: string, floor: (typeof CNI_VERSIONS)[number]): boolean {
  return CNI_VERSIONS.indexOf(version as typeof floor) >= CNI_VERSIONS.indexOf(floor);
}

/** The addresses of the pod's interface in an ADD result of any version, in the plugins' order. */
export function addressesOf(result: unknown, ifname: string): string[] {
  if (!isObject(result)) throw invalid("result", result, "must be an object");
  const cidrs = Array.isArray(result["ips"])
    ? result["ips"].filter((ip) => belongsTo(ip, result["interfaces"], ifname)).map((ip) => ip?.address)
    : [result["ip4"], result["ip6"]].filter(isObject).map((ip) => ip["ip"]);
  return cidrs.map((cidr) => {
    const address = typeof cidr === "string" ? cidr.split("/")[0]! : "";
    if (isIP(address) === 0) throw invalid("result.ips[].address", cidr, "not an IP address");
    return address;
  });
}

/** An address without `interface` is the pod's; with one, that must be eth0 *inside* the sandbox. */
function belongsTo(ip: unknown, interfaces: unknown, ifname: string): boolean {
  if (!isObject(ip)) throw invalid("result.ips[]", ip, "must be an object");
  if (ip["interface"] === undefined || ip["interface"] === null) return true;
  const owner: unknown = Array.isArray(interfaces) ? interfaces[Number(ip["interface"])] : undefined;
  return isObject(owner) && owner["name"] === ifname && Boolean(owner["sandbox"]);
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
