import type { CriClient } from "../../support/cri-client";
import { privateDirty } from "../../support/leaks";
import { processesNaming } from "../../support/processes";

/** A CRI server under test, with the image already imported. */
export interface CriContender {
  readonly name: string;
  readonly cri: CriClient;
  /** The folder below which all its sockets and files lie: its processes name it in their arguments. */
  readonly dir: string;
  readonly pid: number;
  stop(): Promise<void>;
}

/**
 * KiB of Private_Dirty of the daemon and its shims. Containers and pause processes are not counted: they
 * are the pod's, whoever runs it.
 */
export function overheadKiB({ dir, pid }: CriContender): number {
  const shims = processesNaming(dir).filter((shim) => shim !== pid);
  return [pid, ...shims].reduce((sum, each) => sum + privateDirty(each), 0);
}
