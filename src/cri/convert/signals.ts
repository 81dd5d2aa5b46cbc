import { runtime } from "../../gen/cri";
import { choice } from "./fields";

const { Signal } = runtime.v1;

/** `SIGNAL_SIGRTMINPLUS3` → `SIGRTMIN+3`; `SIGNAL_RUNTIME_DEFAULT` → "". */
const names: Record<number, string> = { [Signal.SIGNAL_RUNTIME_DEFAULT]: "" };
const numbers = new Map<string, number>();

for (const [key, value] of Object.entries(Signal)) {
  if (typeof value !== "number" || !key.startsWith("SIGNAL_SIG")) continue;
  const name = key.slice("SIGNAL_".length).replace("PLUS", "+").replace("MINUS", "-");
  names[value] = name;
  numbers.set(name, value);
}

export const readSignal = (field: string, value: number | null | undefined): string =>
  choice(field, value, names);

/** Signals that the enum does not know (a bare number from an image) are shown as the default. */
export const writeSignal = (name: string): number => numbers.get(name) ?? Signal.SIGNAL_RUNTIME_DEFAULT;
