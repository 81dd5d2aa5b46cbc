import * as os from "node:os";
import { invalid } from "../base/errors";

/** glibc's view: 34 is the first that is free for programs; the kernel's last is 64. */
const RTMIN = 34;
const RTMAX = 64;

const NAMES: Readonly<Record<string, number>> = {
  ...os.constants.signals,
  SIGPOLL: os.constants.signals.SIGIO,
  SIGCLD: os.constants.signals.SIGCHLD,
  RTMIN,
  RTMAX,
};

/** `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `RTMAX-2`: as images and CRI write stop signals. */
export function signalNumber(text: string, field: string): number {
  const upper = text.toUpperCase();
  if (/^\d+$/.test(upper)) return checked(Number(upper), text, field);
  const bare = upper.startsWith("SIG") ? upper.slice(3) : upper;
  const realtime = /^(RTMIN|RTMAX)(?:([+-]\d+)|PLUS(\d+)|MINUS(\d+))?$/.exec(bare);
  if (realtime) {
    const offset = Number(realtime[2] ?? realtime[3] ?? 0) - Number(realtime[4] ?? 0);
    const number = NAMES[realtime[1]!]! + offset;
    if (number < RTMIN) throw invalid(field, text, "no such signal");
    return checked(number, text, field);
  }
  const number = NAMES[`SIG${bare}`];
  if (number === undefined) throw invalid(field, text, "no such signal");
  return number;
}

function checked(number: number, text: string, field: string): number {
  if (number < 1 || number > RTMAX) throw invalid(field, text, "no such signal");
  return number;
}
