import { importImages, startDaemon } from "../../support/daemon";
import type { Host } from "../../support/host";
import type { CriContender } from "./contender";

/** `isopod serve` with the image already imported. */
export async function startIsopod(host: Host, archive: string): Promise<CriContender> {
  const daemon = await startDaemon({
    host,
    cni: true,
    prepare: async (prepared) => void (await importImages(prepared, archive)),
  });
  return {
    name: "isopod",
    cri: daemon.cri,
    pid: daemon.pid,
    shims: () => [...daemon.servers(), ...daemon.monitors()],
    stop: () => daemon.end(),
  };
}

/** Nanoseconds by which the daemon's timers came late. */
export interface LoopDelay {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

/** Of the daemon's event loop since the last call, as its verbose Status says. */
export async function loopDelay({ cri }: CriContender): Promise<LoopDelay> {
  const { info } = await cri.Status({ verbose: true });
  return JSON.parse(info?.["eventLoopDelay"] ?? '{"p50":0,"p99":0,"max":0}') as LoopDelay;
}
