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

/** Delay of the daemon's event loop since the last call, from its verbose Status; milliseconds. */
export async function loopDelay({ cri }: CriContender): Promise<{ p50: number; p99: number; max: number }> {
  const { info } = await cri.Status({ verbose: true });
  const delay = JSON.parse(info?.["eventLoopDelay"] ?? "{}") as Record<string, number>;
  const value = (name: string) => (delay[name] ?? Number.NaN) / 1e6;
  return { p50: value("p50"), p99: value("p99"), max: value("max") };
}
