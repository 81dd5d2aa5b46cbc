import * as fs from "node:fs";
import * as path from "node:path";
import { IsopodError, invalid, messageOf } from "../base/errors";
import type { Seccomp } from "../oci/runtime-spec";
import type { SecurityContext } from "./types";

const MAX_PROFILE = 4 << 20;

/** The filter of a container; undefined is none: no profile asked for, Unconfined, or privileged. */
export function seccompOf(security: SecurityContext, runtimeDefault: () => Seccomp): Seccomp | undefined {
  const { seccomp, privileged } = security;
  if (seccomp === undefined) return undefined;
  const { type, localhostRef } = seccomp;
  if (type !== "localhost" && localhostRef !== "")
    throw invalid("security_context.seccomp.localhost_ref", localhostRef, "only for a Localhost profile");
  if (privileged) return undefined;
  if (type === "unconfined") return undefined;
  return type === "runtimeDefault" ? runtimeDefault() : readProfile(localhostRef);
}

function readProfile(file: string): Seccomp {
  const field = "security_context.seccomp.localhost_ref";
  if (!path.isAbsolute(file)) throw invalid(field, file, "must be an absolute path");
  let text: string;
  try {
    // Non-blocking, so that a FIFO in its place cannot hold us up.
    const fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
    try {
      const stat = fs.fstatSync(fd);
      if (!stat.isFile() || stat.size > MAX_PROFILE) throw invalid(field, file, "not a profile's file");
      text = fs.readFileSync(fd, "utf8");
    } finally {
      fs.closeSync(fd);
    }
  } catch (error) {
    if (IsopodError.is(error)) throw error;
    throw new IsopodError("INVALID_ARGUMENT", `${field}: "${file}": ${messageOf(error)}`, {
      path: file,
      cause: error,
    });
  }
  try {
    return JSON.parse(text) as Seccomp;
  } catch (error) {
    throw invalid(field, file, `not JSON: ${messageOf(error)}`);
  }
}
