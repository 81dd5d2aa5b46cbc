export { bootImage } from "./boot-image";
export { check, type Finding, type HostReport } from "./check";
export { containerRuntime } from "./containers";
export { defaultSeccomp } from "./default-seccomp";
export { ContainerHandle, create, type ExecOptions, ProcessHandle, type RunOptions, run } from "./library";
export { type ConnectOptions, MicroVm, type MicroVmDisk, type MicroVmOptions } from "./microvm";
export type { StreamOptions } from "./streams";
export type * from "./types";
export { checkProcess, checkSpec } from "./validate";
