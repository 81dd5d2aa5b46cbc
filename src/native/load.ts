import bindings from "bindings";
import { IsopodError, messageOf } from "../base/errors";
import type { Native } from "./types";

let loaded: Native | undefined;

/** Loads the addon on first use; nothing happens at import. */
export function native(): Native {
  loaded ??= load();
  return loaded;
}

function load(): Native {
  try {
    return bindings("isopod") as Native;
  } catch (error) {
    const remedy =
      "run `npm run build`; it must have been built for this machine and Node's N-API 9 or later";
    throw new IsopodError("UNAVAILABLE", `loading the addon: ${messageOf(error)}: ${remedy}`, {
      cause: error,
    });
  }
}
