import bindings from "bindings";
import { type ErrorCode, IsopodError, messageOf } from "../base/errors";
import type { Native } from "./types";

let loaded: Native | undefined;

/** Loads the addon on first use; nothing happens at import. */
export function native(): Native {
  loaded ??= load();
  return loaded;
}

function load(): Native {
  let addon: Readonly<Record<string, Call>>;
  try {
    addon = bindings("isopod") as Readonly<Record<string, Call>>;
  } catch (error) {
    const remedy =
      "run `npm run build`; it must have been built for this machine and Node's N-API 9 or later";
    throw new IsopodError("UNAVAILABLE", `loading the addon: ${messageOf(error)}: ${remedy}`, {
      cause: error,
    });
  }
  // `bindings` adds the file's path beside the calls.
  const calls = Object.entries(addon).filter(([, call]) => typeof call === "function");
  return Object.fromEntries(calls.map(([name, call]) => [name, checked(call)])) as never;
}

type Call = (options?: object) => unknown;

/** What the addon throws or rejects with carries `code`, `step`, `errno` and `path`; callers see our class. */
function checked(call: Call): Call {
  return (options) => {
    try {
      const result = call(options);
      return result instanceof Promise ? result.catch(rethrow) : result;
    } catch (error) {
      return rethrow(error);
    }
  };
}

function rethrow(error: unknown): never {
  const { code, step, errno, path } = error as Record<string, string | undefined>;
  if (code === undefined) throw error;
  throw new IsopodError(code as ErrorCode, messageOf(error), { step, errno, path });
}
