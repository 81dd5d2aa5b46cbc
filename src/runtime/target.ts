import type { HostFeatures } from "../native";

/**
 * All that plan compilation knows of the machine: given explicitly, so that compiling is a pure function and
 * can be done for another kernel (a guest, or the floor by ISOPOD_FEATURES=5.15).
 */
export interface Target extends HostFeatures {
  /** oom_score_adj of the launching process: what may be lowered further only with CAP_SYS_RESOURCE. */
  readonly oomScoreAdj: number;
}
