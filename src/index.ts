/**
 * isopod as a library: containers launched inside the calling process. Nothing happens at import; the addon
 * loads on first use. See docs/library.md.
 */
export { type ErrorCode, IsopodError } from "./base/errors";
export type { ExitStatus } from "./native";
export type { Mount } from "./oci/mount";
export type { Process as ProcessSpec, Spec } from "./oci/runtime-spec";
export {
  type CgroupStats,
  ContainerHandle as Container,
  check,
  type ExecOptions,
  type Finding,
  type HostReport,
  ProcessHandle as Process,
  type ProcessState,
  type RunOptions,
  run,
  type StreamOptions,
} from "./runtime";
