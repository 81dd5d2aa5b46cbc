import type { CriClient } from "../../support/cri-client";
import { privateDirty } from "../../support/leaks";

/** A CRI server under test, with the image already imported. */
export interface CriContender {
  readonly name: string;
  readonly cri: CriClient;
  readonly pid: number;
  /** Processes of its shims now; no containers, no pause processes: these are the pod's, whoever runs it. */
  shims(): number[];
  stop(): Promise<void>;
}

/** KiB of Private_Dirty of the daemon and its shims. */
export function overheadKiB(contender: CriContender): number {
  return [contender.pid, ...contender.shims()].reduce((sum, pid) => sum + privateDirty(pid), 0);
}
