import { invalid } from "../../base/errors";
import { runtime } from "../../gen/cri";
import type { NamespaceOptions, SecurityContext, SecurityProfile } from "../../sandbox";
import { choice, cstring, cstrings, id, refuse, required } from "./fields";
import { readNamespaces } from "./namespaces";

const { ProfileType } = runtime.v1.SecurityProfile;
const profileTypes = {
  [ProfileType.RuntimeDefault]: "runtimeDefault",
  [ProfileType.Unconfined]: "unconfined",
  [ProfileType.Localhost]: "localhost",
} as const;

const policies = {
  [runtime.v1.SupplementalGroupsPolicy.Merge]: "merge",
  [runtime.v1.SupplementalGroupsPolicy.Strict]: "strict",
} as const;

export function readSecurity(
  field: string,
  context: runtime.v1.ILinuxContainerSecurityContext | null | undefined,
  pod: NamespaceOptions,
): SecurityContext {
  refuse(`${field}.selinux_options`, context?.selinuxOptions);
  const capabilities = context?.capabilities;
  return {
    addCapabilities: cstrings(`${field}.capabilities.add_capabilities`, capabilities?.addCapabilities),
    dropCapabilities: cstrings(`${field}.capabilities.drop_capabilities`, capabilities?.dropCapabilities),
    addAmbientCapabilities: cstrings(
      `${field}.capabilities.add_ambient_capabilities`,
      capabilities?.addAmbientCapabilities,
    ),
    privileged: context?.privileged ?? false,
    namespaces: context?.namespaceOptions
      ? readNamespaces(`${field}.namespace_options`, context.namespaceOptions)
      : pod,
    ...readUser(field, context),
    readonlyRootfs: context?.readonlyRootfs ?? false,
    ...readGroups(field, context),
    noNewPrivs: context?.noNewPrivs ?? false,
    maskedPaths: cstrings(`${field}.masked_paths`, context?.maskedPaths),
    readonlyPaths: cstrings(`${field}.readonly_paths`, context?.readonlyPaths),
    seccomp:
      readProfile(`${field}.seccomp`, context?.seccomp) ??
      readLegacyProfile(`${field}.seccomp_profile_path`, context?.seccompProfilePath),
    apparmor:
      readProfile(`${field}.apparmor`, context?.apparmor) ??
      readLegacyProfile(`${field}.apparmor_profile`, context?.apparmorProfile),
  };
}

type UserFields = Pick<
  runtime.v1.ILinuxContainerSecurityContext,
  "runAsUser" | "runAsGroup" | "runAsUsername"
>;

/** Who to run as: Int64Value is a message so that 0, root, differs from unset. */
function readUser(
  field: string,
  context: UserFields | null | undefined,
): Pick<SecurityContext, "runAsUser" | "runAsUsername" | "runAsGroup"> {
  const runAsUsername = cstring(`${field}.run_as_username`, context?.runAsUsername);
  const runAsUser = context?.runAsUser ? id(`${field}.run_as_user`, context.runAsUser.value) : undefined;
  const runAsGroup = context?.runAsGroup ? id(`${field}.run_as_group`, context.runAsGroup.value) : undefined;
  if (runAsUser !== undefined && runAsUsername !== "") {
    throw invalid(`${field}.run_as_username`, runAsUsername, `run_as_user is given too (${runAsUser})`);
  }
  if (runAsGroup !== undefined && runAsUser === undefined && runAsUsername === "") {
    throw invalid(`${field}.run_as_group`, runAsGroup, "needs run_as_user or run_as_username");
  }
  return { runAsUser, runAsUsername, runAsGroup };
}

type GroupFields = Pick<
  runtime.v1.ILinuxContainerSecurityContext,
  "supplementalGroups" | "supplementalGroupsPolicy"
>;

function readGroups(
  field: string,
  context: GroupFields | null | undefined,
): Pick<SecurityContext, "supplementalGroups" | "supplementalGroupsPolicy"> {
  return {
    supplementalGroups: (context?.supplementalGroups ?? []).map((group, index) =>
      id(`${field}.supplemental_groups[${index}]`, group),
    ),
    supplementalGroupsPolicy: choice(
      `${field}.supplemental_groups_policy`,
      context?.supplementalGroupsPolicy,
      policies,
    ),
  };
}

function readProfile(
  field: string,
  profile: runtime.v1.ISecurityProfile | null | undefined,
): SecurityProfile | undefined {
  if (!profile) return undefined;
  const type = choice(`${field}.profile_type`, profile.profileType, profileTypes);
  const localhostRef = cstring(`${field}.localhost_ref`, profile.localhostRef);
  if (type === "localhost") required(`${field}.localhost_ref`, localhostRef);
  else if (localhostRef !== "") {
    throw invalid(`${field}.localhost_ref`, localhostRef, "only allowed with profile type Localhost");
  }
  return { type, localhostRef };
}

/** The words that the fields used before they became messages; clients of that age still send them. */
function readLegacyProfile(field: string, text: string | null | undefined): SecurityProfile | undefined {
  const word = cstring(field, text);
  if (word === "") return undefined;
  if (word === "runtime/default" || word === "docker/default") {
    return { type: "runtimeDefault", localhostRef: "" };
  }
  if (word === "unconfined") return { type: "unconfined", localhostRef: "" };
  const local = /^localhost\/(.+)$/.exec(word)?.[1];
  if (local === undefined) {
    throw invalid(field, word, "must be runtime/default, unconfined or localhost/NAME");
  }
  return { type: "localhost", localhostRef: local };
}

/**
 * The sandbox has no process of the user's: who it runs as and its confinement are fixed and stricter
 * than anything a request may say. What kubelet sends for a pause container is therefore checked and
 * satisfied; a profile that would have to be loaded from the host is refused.
 */
export function checkSandboxSecurity(
  field: string,
  context: runtime.v1.ILinuxSandboxSecurityContext | null | undefined,
): void {
  refuse(`${field}.selinux_options`, context?.selinuxOptions);
  readUser(field, context);
  readGroups(field, context);
  const seccomp =
    readProfile(`${field}.seccomp`, context?.seccomp) ??
    readLegacyProfile(`${field}.seccomp_profile_path`, context?.seccompProfilePath);
  if (seccomp?.type === "localhost") {
    refuse(`${field}.seccomp.localhost_ref`, seccomp.localhostRef, "a sandbox takes no profile of its own");
  }
  const apparmor = readProfile(`${field}.apparmor`, context?.apparmor);
  if (apparmor?.type === "localhost") {
    refuse(`${field}.apparmor.localhost_ref`, apparmor.localhostRef, "a sandbox takes no profile of its own");
  }
}
