import type { TestNetwork } from "../../support/cni";
import type { Host } from "../../support/host";
import type { CriContender } from "./contender";

export interface IsopodOptions {
  /** Short: sockets lie below. */
  readonly dir: string;
  readonly host: Host;
  readonly network: TestNetwork;
  /** `docker save` tar with the image, imported before the daemon starts. */
  readonly archive: string;
}

export async function startIsopod(_options: IsopodOptions): Promise<CriContender> {
  throw new Error("later");
}
