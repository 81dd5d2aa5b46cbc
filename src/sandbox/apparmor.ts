import * as fs from "node:fs";
import { IsopodError, messageOf, precondition, unsupported } from "../base/errors";
import { readFileIfPresent } from "../base/files";
import type { Log } from "../base/log";
import { native } from "../native";
import { APPARMOR_DEFAULT, defaultApparmorPolicy } from "./apparmor-policy";
import type { SecurityContext } from "./types";

/**
 * Which AppArmor profile a container runs under. AppArmor confines a program by the profile that the kernel
 * switches to at its exec; profiles are loaded into the kernel by name, ours by ourselves, a Localhost one by
 * the administrator. The stub names it to the kernel (native/init/process.cc); that it exists is checked here
 * as well, because CreateContainer has to fail with a text that tells what to do.
 */
export interface Apparmor {
  /** Name for the OCI spec; undefined: none is set. */
  profileOf(security: SecurityContext): Promise<string | undefined>;
}

/** What the answer depends on besides the request; real by default. */
export interface ApparmorHost {
  readonly enabled: boolean;
  /** Names of loaded profiles; undefined where securityfs is not to be seen. */
  loaded(): ReadonlySet<string> | undefined;
  /** Replaces profiles by what `policy` says. */
  load(policy: string): Promise<void>;
}

const FIELD = "security_context.apparmor";
/** Also /etc/apparmor.d's way: `name (mode)` a line, one for every profile of this policy namespace. */
const PROFILES = "/sys/kernel/security/apparmor/profiles";
const PARSERS = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"];
const PARSE_MS = 30_000;

export function apparmorOf(log: Log, host: ApparmorHost = realHost()): Apparmor {
  const byDefault = defaultProfile(host);
  let warned = false;
  /** Nobody asked for it: a host that cannot load it runs as a host without AppArmor does. */
  const unasked = async (): Promise<string | undefined> => {
    try {
      return await byDefault();
    } catch (error) {
      if (!warned)
        log.warn("containers run without the default AppArmor profile", { error: messageOf(error) });
      warned = true;
      return undefined;
    }
  };
  return {
    profileOf: async ({ apparmor, privileged }) => {
      const type = apparmor?.type;
      if (!host.enabled) {
        // Without AppArmor the runtime's default is what the host confines with: nothing. A profile by name
        // is a promise that cannot be kept.
        if (type === "localhost")
          throw unsupported(FIELD, apparmor?.localhostRef, "AppArmor is not enabled on this host");
        return undefined;
      }
      if (type === "unconfined") return "unconfined";
      if (type === "runtimeDefault") return byDefault();
      if (type === "localhost") return named(host, apparmor!.localhostRef);
      return privileged ? "unconfined" : unasked();
    },
  };
}

/** kubelet's old form puts `localhost/` before the name, and clients do so in the new field as well. */
function named(host: ApparmorHost, reference: string): string {
  const name = reference.replace(/^localhost\//, "");
  if (host.loaded()?.has(name) === false)
    throw new IsopodError(
      "FAILED_PRECONDITION",
      `${FIELD}.localhost_ref: "${name}": no such profile is loaded: load it with apparmor_parser`,
      { path: name },
    );
  return name;
}

/**
 * Loads ours at its first use, whatever is loaded under its name: that may be an older version's. Afterwards
 * only if somebody has removed it.
 */
function defaultProfile(host: ApparmorHost): () => Promise<string> {
  let loading: Promise<void> | undefined;
  return async () => {
    if (loading !== undefined) {
      await loading;
      if (host.loaded()?.has(APPARMOR_DEFAULT) === false) loading = undefined;
    }
    loading ??= host.load(defaultApparmorPolicy());
    try {
      await loading;
    } catch (error) {
      loading = undefined;
      throw error;
    }
    return APPARMOR_DEFAULT;
  };
}

function realHost(): ApparmorHost {
  return {
    enabled: native().features().apparmor,
    loaded: () => {
      const text = readFileIfPresent(PROFILES);
      return text === undefined ? undefined : parseProfiles(text);
    },
    load,
  };
}

/** Names may hold blanks; the mode comes last, in parentheses. */
export function parseProfiles(text: string): Set<string> {
  return new Set(
    text
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => line.replace(/ \([a-z]+\)$/, "")),
  );
}

/** The program that loads profiles; undefined if it is not installed. */
export const apparmorParser = (): string | undefined => PARSERS.find((candidate) => fs.existsSync(candidate));

/** docs/decisions/0006: the host's own parser, which knows its kernel, compiles and loads. */
async function load(policy: string): Promise<void> {
  const file = apparmorParser();
  if (file === undefined)
    throw precondition(
      `loading AppArmor profile "${APPARMOR_DEFAULT}": ${PARSERS[0]}: not found: install the package apparmor`,
    );
  const args = ["--replace", "--skip-cache", "--quiet"];
  const done = await native().spawn({
    file,
    args,
    env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"],
    cwd: "/",
    stdin: Buffer.from(policy),
    timeoutMs: PARSE_MS,
  });
  if (done.status === 0) return;
  const why = done.timedOut ? "no end in time" : done.stderr.toString().trim() || `exit code ${done.status}`;
  throw new IsopodError(
    "FAILED_PRECONDITION",
    `loading AppArmor profile "${APPARMOR_DEFAULT}": ${file}: ${why}`,
    {
      path: file,
    },
  );
}
