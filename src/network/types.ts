/** CNI: one network per pod, whose interface is eth0; plus the pinned namespace it lives in. */
export interface Network {
  /** Why there is no usable network configuration; undefined if there is one. */
  notReady(): string | undefined;
  /** Where the namespace of `id` is pinned: known, and recorded, before it is made. */
  namespacePath(id: string): string;
  /** Makes a namespace with `lo` up and pins it at `path` (R7). */
  createNamespace(path: string): Promise<void>;
  /** Unpins; absent is fine. */
  deleteNamespace(path: string): Promise<void>;
  /** The configuration that an ADD would use now: persisted by the caller before ADD, needed for DEL. */
  configuration(): Attachment["config"];
  add(pod: PodNetwork, config: Attachment["config"]): Promise<Attachment>;
  /**
   * DEL always: also with a namespace that is gone (path ""), and after a failed ADD (no result), when the
   * plugins that can still give back do so and the first failure is thrown at the end.
   */
  del(pod: PodNetwork, attachment: { config: Attachment["config"]; result?: unknown }): Promise<void>;
  close(): void;
}

export interface PodNetwork {
  readonly id: string;
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  /** Path of the pinned namespace; "" once it is gone. */
  readonly netns: string;
  readonly annotations: Readonly<Record<string, string>>;
  readonly portMappings: readonly PortMapping[];
  readonly dns?: { servers: readonly string[]; searches: readonly string[]; options: readonly string[] };
  readonly cgroupParent?: string;
}

export interface PortMapping {
  readonly protocol: "tcp" | "udp" | "sctp";
  readonly hostPort: number;
  readonly containerPort: number;
  readonly hostIp: string;
}

export interface Attachment {
  /** The conflist as it was at ADD, JSON-able. */
  readonly config: unknown;
  /** The last plugin's result, JSON-able. */
  readonly result: unknown;
  /** Addresses of eth0 without prefix length; the first is the pod's. */
  readonly ips: readonly string[];
}
