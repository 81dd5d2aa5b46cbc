import type { TaskStats } from "../task";
import type { ProcessFacts } from "./process-facts";

export type { ProcessFacts } from "./process-facts";

/**
 * Pods and containers as CRI means them, free of gRPC and protobuf: `cri` converts to and from these. Names
 * follow CRI; 0 and "" mean unset there and are undefined here.
 *
 * Every id may be cut short to a prefix that only one object has: INVALID_ARGUMENT if several have it. An
 * object that is not there is NOT_FOUND, except to what stops, removes and lists.
 */
export interface Pods {
  /** The id of the new pod, or of the one that an equal request has made. */
  run(request: RunPod): Promise<string>;
  stop(id: string): Promise<void>;
  remove(id: string): Promise<void>;
  get(id: string): PodView;
  list(filter: PodFilter): readonly PodView[];

  create(podId: string, config: ContainerConfig): Promise<string>;
  start(id: string): Promise<void>;
  stopContainer(id: string, timeoutSeconds: number): Promise<void>;
  removeContainer(id: string): Promise<void>;
  getContainer(id: string): ContainerView;
  listContainers(filter: ContainerFilter): readonly ContainerView[];
  /** The fields that are set, all or none of them. */
  updateContainer(id: string, resources: ContainerResources): Promise<void>;
  updatePod(id: string, changes: Pick<PodConfig, "overhead" | "resources">): Promise<void>;
  execSync(id: string, command: readonly string[], timeoutSeconds: number): Promise<ExecResult>;
  reopenLog(id: string): Promise<void>;
  stats(id: string): Promise<ContainerStatsView>;
  listStats(filter: ContainerFilter): Promise<readonly ContainerStatsView[]>;
  podStats(id: string): Promise<PodStatsView>;
  listPodStats(filter: PodFilter): Promise<readonly PodStatsView[]>;
  podMetrics(): Promise<readonly PodMetricsView[]>;
  /** Why the runtime cannot run pods now; undefined if it can. */
  runtimeNotReady(): string | undefined;
  /** Lets go of everything; pods live on. */
  close(): Promise<void>;
}

export interface PodMetadata {
  readonly name: string;
  readonly uid: string;
  readonly namespace: string;
  readonly attempt: number;
}

export type NamespaceMode = "pod" | "container" | "node" | "target";

export interface NamespaceOptions {
  readonly network: NamespaceMode;
  readonly pid: NamespaceMode;
  readonly ipc: NamespaceMode;
  readonly targetId?: string | undefined;
  /** Anything but the host's user namespace is refused until built. */
  readonly userns?: unknown;
}

export interface PodConfig {
  readonly metadata: PodMetadata;
  readonly hostname: string;
  readonly logDirectory: string;
  readonly dns?:
    | { servers: readonly string[]; searches: readonly string[]; options: readonly string[] }
    | undefined;
  readonly portMappings: readonly {
    protocol: "tcp" | "udp" | "sctp";
    hostPort: number;
    containerPort: number;
    hostIp: string;
  }[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly cgroupParent: string;
  readonly sysctls: Readonly<Record<string, string>>;
  readonly privileged: boolean;
  readonly namespaces: NamespaceOptions;
  /** What kubelet has written to the pod's cgroup, and the part of it that is for the sandbox itself. */
  readonly resources?: ContainerResources | undefined;
  readonly overhead?: ContainerResources | undefined;
}

export interface RunPod {
  readonly config: PodConfig;
  /** runtime.v1.PodSandboxConfig as received; also what makes two requests the same (R9). */
  readonly configBytes: Uint8Array;
  /** "" is the default handler. */
  readonly handler: string;
}

export interface ContainerMetadata {
  readonly name: string;
  readonly attempt: number;
}

export interface ContainerMount {
  readonly containerPath: string;
  readonly hostPath: string;
  readonly readonly: boolean;
  readonly selinuxRelabel: boolean;
  readonly propagation: "private" | "hostToContainer" | "bidirectional";
  readonly recursiveReadOnly: boolean;
}

export interface SecurityProfile {
  readonly type: "runtimeDefault" | "unconfined" | "localhost";
  readonly localhostRef: string;
}

export interface SecurityContext {
  readonly addCapabilities: readonly string[];
  readonly dropCapabilities: readonly string[];
  readonly addAmbientCapabilities: readonly string[];
  readonly privileged: boolean;
  readonly namespaces: NamespaceOptions;
  readonly runAsUser?: number | undefined;
  readonly runAsUsername: string;
  readonly runAsGroup?: number | undefined;
  readonly readonlyRootfs: boolean;
  readonly supplementalGroups: readonly number[];
  readonly supplementalGroupsPolicy: "merge" | "strict";
  readonly noNewPrivs: boolean;
  readonly maskedPaths: readonly string[];
  readonly readonlyPaths: readonly string[];
  readonly seccomp?: SecurityProfile | undefined;
  readonly apparmor?: SecurityProfile | undefined;
}

export interface ContainerConfig {
  readonly metadata: ContainerMetadata;
  /** What CreateContainer names: an id or reference. */
  readonly image: string;
  readonly userSpecifiedImage: string;
  readonly command: readonly string[];
  readonly args: readonly string[];
  readonly workingDir: string;
  readonly envs: readonly (readonly [string, string])[];
  readonly mounts: readonly ContainerMount[];
  readonly devices: readonly { containerPath: string; hostPath: string; permissions: string }[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Relative to the pod's log directory; "" discards output. */
  readonly logPath: string;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  readonly tty: boolean;
  readonly resources: ContainerResources;
  readonly oomScoreAdj: number;
  readonly security: SecurityContext;
  /** Signal name or "" (image's, else SIGTERM). */
  readonly stopSignal: string;
}

/** 0 and "" are unset, -1 is no limit. */
export interface ContainerResources {
  /** Microseconds, as the quota, which is CPU time per period. */
  readonly cpuPeriod: number;
  readonly cpuQuota: number;
  readonly cpuShares: number;
  /** Bytes. */
  readonly memoryLimit: number;
  /** Bytes of memory and swap together. */
  readonly memorySwapLimit: number;
  readonly cpusetCpus: string;
  readonly cpusetMems: string;
  /** Here 0 is a limit. */
  readonly hugepageLimits: readonly { pageSize: string; limit: number }[];
  readonly unified: Readonly<Record<string, string>>;
}

export interface PodFilter {
  readonly id?: string | undefined;
  readonly ready?: boolean | undefined;
  readonly labels?: Readonly<Record<string, string>>;
}

export interface ContainerFilter {
  readonly id?: string | undefined;
  readonly podId?: string | undefined;
  readonly state?: ContainerState | undefined;
  readonly labels?: Readonly<Record<string, string>>;
}

export interface PodView {
  readonly id: string;
  readonly config: PodConfig;
  readonly handler: string;
  readonly ready: boolean;
  readonly createdAt: bigint;
  readonly ips: readonly string[];
  readonly pid: number;
  readonly netns: string;
}

export type ContainerState = "created" | "running" | "exited" | "unknown";

export interface ContainerView {
  readonly id: string;
  readonly podId: string;
  readonly config: ContainerConfig;
  readonly imageId: string;
  readonly imageRef: string;
  readonly state: ContainerState;
  readonly createdAt: bigint;
  /** 0 until then. */
  readonly startedAt: bigint;
  readonly finishedAt: bigint;
  readonly exitCode: number;
  readonly reason: string;
  readonly message: string;
  /** Absolute; "" if output is discarded. */
  readonly logPath: string;
  readonly user: { uid: number; gid: number; supplementalGroups: readonly number[] };
  readonly stopSignal: string;
  readonly pid: number;
  /** For verbose status. */
  readonly spec: unknown;
}

export interface ExecResult {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  readonly exitCode: number;
}

export interface ContainerStatsView {
  readonly container: ContainerView;
  /** Nanoseconds since 1970 of the reading. */
  readonly timestamp: bigint;
  /** Only of a container that runs. */
  readonly usage?: Usage | undefined;
  readonly writableLayer?:
    | { timestamp: bigint; mountpoint: string; bytes: bigint; inodes: bigint }
    | undefined;
}

/** A reading of a cgroup, and what is reckoned from it. */
export interface Usage extends TaskStats {
  /** Unset until two samples exist. */
  readonly nanoCores?: bigint | undefined;
  /** Bytes that are not given back easily, and those left below the limit (0: there is none). */
  readonly workingSet?: bigint | undefined;
  readonly available?: bigint | undefined;
}

export interface PodStatsView {
  readonly pod: PodView;
  readonly timestamp: bigint;
  /** Of the whole pod, while it is ready. */
  readonly usage?: Usage | undefined;
  /** Without loopback; undefined on the host's network. */
  readonly interfaces?: readonly InterfaceStats[] | undefined;
  readonly defaultInterface?: InterfaceStats | undefined;
  readonly containers: readonly ContainerStatsView[];
}

/** Statistics, and what is too dear to read with each of them. */
export interface PodMetricsView extends PodStatsView {
  /** That containers' writable layers are on. */
  readonly filesystem: FilesystemSize | undefined;
  /** Of each container, in their order; undefined unless it runs. */
  readonly facts: readonly (ProcessFacts | undefined)[];
}

export interface FilesystemSize {
  readonly bytes: bigint;
  readonly inodes: bigint;
  readonly inodesFree: bigint;
}

export interface InterfaceStats {
  readonly name: string;
  readonly received: Traffic;
  readonly sent: Traffic;
}

export interface Traffic {
  readonly bytes: bigint;
  readonly packets: bigint;
  readonly errors: bigint;
  readonly dropped: bigint;
}
