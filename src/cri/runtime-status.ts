import type { runtime } from "../gen/cri";
import type { CgroupDriver } from "../sandbox";

export interface HandlerFeatures {
  readonly name: string;
  readonly recursiveReadOnlyMounts: boolean;
  readonly userNamespaces: boolean;
}

export interface StatusOptions {
  /** Of isopod. */
  readonly version: string;
  readonly handlers: readonly HandlerFeatures[];
  readonly defaultHandler: string;
  /** Default cgroupfs. */
  readonly cgroupDriver?: CgroupDriver;
  /** Verbose status: name → JSON. */
  readonly info: () => Readonly<Record<string, string>>;
}

/** Reasons why not; undefined if ready. */
export interface Readiness {
  readonly runtime: string | undefined;
  readonly network: string | undefined;
}

/** kubelet asks every 5 s: RuntimeReady false makes the node NotReady, NetworkReady false bars pod networks. */
export function statusOf(
  notReady: Readiness,
  options: StatusOptions,
  verbose: boolean,
): runtime.v1.IStatusResponse {
  return {
    status: {
      conditions: [
        condition("RuntimeReady", "RuntimeNotReady", notReady.runtime),
        condition(
          "NetworkReady",
          "NetworkPluginNotReady",
          notReady.network && `Network plugin returns error: ${notReady.network}`,
        ),
      ],
    },
    info: verbose ? { ...options.info() } : {},
    runtimeHandlers: runtimeHandlers(options),
    features: { supplementalGroupsPolicy: true, userNamespacesHostNetwork: false, mountOptions: false },
  };
}

const condition = (
  type: string,
  reason: string,
  message: string | undefined,
): runtime.v1.IRuntimeCondition =>
  message === undefined
    ? { type, status: true, reason: "", message: "" }
    : { type, status: false, reason, message };

/** Names are unique and sorted; the default handler is there twice, the second time as "". */
function runtimeHandlers({ handlers, defaultHandler }: StatusOptions): runtime.v1.IRuntimeHandler[] {
  const byDefault = handlers.filter(({ name }) => name === defaultHandler);
  return [...byDefault.map((handler) => ({ ...handler, name: "" })), ...handlers]
    .map(({ name, recursiveReadOnlyMounts, userNamespaces }) => ({
      name,
      features: { recursiveReadOnlyMounts, userNamespaces },
    }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}
