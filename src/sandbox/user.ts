import { invalid } from "../base/errors";
import type { Image } from "../image";
import { type Account, type Group, idOf, parseGroup, parsePasswd } from "./accounts";
import type { SecurityContext } from "./types";

export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  /** With the primary gid, ascending. */
  readonly supplementalGroups: readonly number[];
  readonly home: string;
}

/**
 * Who a container runs as. The request wins over the image's USER; names are looked up in the image's own
 * files, as they were at unpack, so nothing that runs in the container can change the answer.
 */
export function resolveUser(security: SecurityContext, image: Image): ResolvedUser {
  const accounts = parsePasswd(image.passwd);
  const groups = parseGroup(image.group);
  const { uid, gid, account } = requested(security, accounts) ?? ofImage(image, accounts, groups);
  const primary = security.runAsGroup ?? gid;
  const home = account?.home || "/";
  // It becomes HOME=…: a line break would forge further lines wherever the environment is written out.
  if (/[\n\0]/.test(home)) throw invalid("passwd home directory", home, "must not contain a line break");
  return {
    uid,
    gid: primary,
    supplementalGroups: supplementalGroups(security, primary, account, groups),
    home,
  };
}

interface Found {
  readonly uid: number;
  readonly gid: number;
  readonly account: Account | undefined;
}

function requested(security: SecurityContext, accounts: readonly Account[]): Found | undefined {
  const { runAsUser, runAsUsername, runAsGroup } = security;
  if (runAsUser !== undefined) {
    if (idOf(String(runAsUser)) === undefined) throw invalid("run_as_user", runAsUser, "not a user id");
    return byUid(runAsUser, accounts);
  }
  if (runAsUsername !== "") return byName(runAsUsername, accounts, "run_as_username");
  if (runAsGroup !== undefined)
    throw invalid("run_as_group", runAsGroup, "needs run_as_user or run_as_username");
  return undefined;
}

/** `user`, `user:group`, each a name or a number (OCI image spec, config.User). */
function ofImage(image: Image, accounts: readonly Account[], groups: readonly Group[]): Found {
  const text = image.config.config?.User ?? "";
  if (text === "") return byUid(0, accounts);
  const [userPart = "", groupPart] = text.split(":");
  const uid = idOf(userPart);
  const found = uid === undefined ? byName(userPart, accounts, "image USER") : byUid(uid, accounts);
  if (groupPart === undefined || groupPart === "") return found;
  const gid = idOf(groupPart) ?? groups.find((group) => group.name === groupPart)?.gid;
  if (gid === undefined) throw invalid("image USER", text, "no such group in the image's /etc/group");
  return { ...found, gid };
}

function byUid(uid: number, accounts: readonly Account[]): Found {
  const account = accounts.find((entry) => entry.uid === uid);
  return { uid, gid: account?.gid ?? 0, account };
}

function byName(name: string, accounts: readonly Account[], field: string): Found {
  const account = accounts.find((entry) => entry.name === name);
  if (account === undefined) throw invalid(field, name, "no such user in the image's /etc/passwd");
  return { uid: account.uid, gid: account.gid, account };
}

/** Merge adds the image's own memberships of that user; Strict takes the request's list alone. */
function supplementalGroups(
  security: SecurityContext,
  primary: number,
  account: Account | undefined,
  groups: readonly Group[],
): number[] {
  const own =
    security.supplementalGroupsPolicy === "merge" && account !== undefined
      ? groups.filter((group) => group.members.includes(account.name)).map((group) => group.gid)
      : [];
  for (const gid of security.supplementalGroups)
    if (idOf(String(gid)) === undefined) throw invalid("supplemental_groups", gid, "not a group id");
  return [...new Set([primary, ...own, ...security.supplementalGroups])].sort((a, b) => a - b);
}
