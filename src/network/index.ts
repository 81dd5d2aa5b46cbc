import * as path from "node:path";
import { IsopodError, messageOf, precondition } from "../base/errors";
import type { Log } from "../base/log";
import { native } from "../native";
import { followConfDir } from "./conf-dir";
import { addressesOf, type ConfList } from "./conflist";
import { type Call, type Command, callPlugin } from "./plugin";
import { ASKED_FOR, cniArgs, runtimeConfigOf } from "./runtime-config";
import type { Network, PodNetwork } from "./types";

export type * from "./types";

export interface NetworkOptions {
  /** Directory of *.conf, *.conflist and *.json; followed as it changes; may be absent. */
  readonly confDir: string;
  /** Where plugins are searched, in this order. */
  readonly binDirs: readonly string[];
  /** Where network namespaces are pinned. */
  readonly netnsDir: string;
  readonly log: Log;
}

/** The one interface that Kubernetes knows in a pod. */
const IFNAME = "eth0";
const ADD_TIMEOUT_MS = 5 * 60_000;
const DEL_TIMEOUT_MS = 60_000;

export function openNetwork(options: NetworkOptions): Network {
  const { binDirs, netnsDir, log } = options;
  const confDir = followConfDir(options.confDir, log);

  const chain = (command: Command, pod: PodNetwork, list: ConfList) => {
    const deadline = Date.now() + (command === "ADD" ? ADD_TIMEOUT_MS : DEL_TIMEOUT_MS);
    const common = {
      command,
      list,
      runtimeConfig: runtimeConfigOf(pod, command === "ADD" ? "strict" : "skip"),
      containerId: pod.id,
      netns: pod.netns,
      ifname: IFNAME,
      args: cniArgs(pod),
    };
    return (rest: Pick<Call, "plugin" | "prevResult">) =>
      callPlugin({ ...common, ...rest, timeoutMs: deadline - Date.now() }, binDirs);
  };

  const del: Network["del"] = async (pod, { config, result }) => {
    const list = config as ConfList;
    const call = chain("DEL", pod, list);
    const failures: unknown[] = [];
    for (const plugin of [...list.plugins].reverse()) {
      try {
        await named(`detaching pod ${pod.id} from`, list, call({ plugin, prevResult: result }));
      } catch (error) {
        // Not past a failure: a port map that still stands must not lead to an address that the next plugin
        // would give to somebody else. Where ADD never finished, the plugin that failed it may well fail
        // DEL for the same reason, and what the others hold would be lost for ever.
        if (result !== undefined) throw error;
        failures.push(error);
      }
    }
    if (failures.length > 0) throw failures[0];
  };

  const add: Network["add"] = async (pod, config) => {
    const list = config as ConfList;
    warnOfUndeclared(pod, list, log);
    const call = chain("ADD", pod, list);
    try {
      let result: unknown;
      for (const plugin of list.plugins)
        result = await named(`attaching pod ${pod.id} to`, list, call({ plugin, prevResult: result }));
      const ips = addressesOf(result, IFNAME);
      if (ips.length === 0)
        throw precondition(`attaching pod ${pod.id} to network "${list.name}": no address for ${IFNAME}`);
      return { config, result, ips };
    } catch (error) {
      // Whatever was attached before the failure; without a result plugins go by the container id.
      await del(pod, { config }).catch((failed: unknown) => {
        log.error("undoing a failed ADD", { pod: pod.id, error: messageOf(failed) });
        if (IsopodError.is(error)) error.cleanupErrors = [failed];
      });
      throw error;
    }
  };

  return {
    notReady: () => confDir.problem,
    namespacePath: (id) => path.join(netnsDir, `isopod-${id}`),
    createNamespace: (pin) => native().netnsCreate({ path: pin }),
    deleteNamespace: (pin) => native().netnsDelete({ path: pin }),
    configuration: () => {
      const list = confDir.current;
      if (list === undefined) throw new IsopodError("UNAVAILABLE", confDir.problem ?? "no network");
      return list;
    },
    add,
    del,
    close: () => confDir.close(),
  };
}

/** Network providers may serve host ports by means of their own, so an undeclared wish is no error. */
function warnOfUndeclared(pod: PodNetwork, list: ConfList, log: Log): void {
  const asked = runtimeConfigOf(pod);
  for (const capability of ASKED_FOR) {
    const declared = list.plugins.some((plugin) => plugin.capabilities?.[capability] === true);
    if (asked[capability] !== undefined && !declared)
      log.warn("no plugin of the network declares this capability", { pod: pod.id, capability });
  }
}

async function named<T>(doing: string, list: ConfList, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    const { code, step, path: file } = IsopodError.is(error) ? error : { code: "UNKNOWN" as const };
    const text = `${doing} network "${list.name}": ${messageOf(error)}`;
    throw new IsopodError(code, text, { step, path: file, cause: error });
  }
}
