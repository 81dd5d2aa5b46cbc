import type { Descriptor, Platform } from "../oci/image-spec";

/** Which manifest of an index this host runs, by OCI's names (GOOS, GOARCH and the variant). */
const names: Readonly<Record<string, string>> = {
  x64: "amd64",
  x86_64: "amd64",
  "x86-64": "amd64",
  aarch64: "arm64",
  armhf: "arm",
};

/** Variants that run on a host of the key, best first; "" is an entry that names none. */
const runnable: Readonly<Record<string, readonly string[]>> = {
  "arm64/v8": ["v8", ""],
  "arm/v7": ["v7", "v6", "v5", ""],
  "arm/v6": ["v6", "v5", ""],
  "arm/v5": ["v5", ""],
  // Levels above v1 need instructions that not every machine has; those images come with a plain one.
  "amd64/": ["", "v1"],
};

export function hostPlatform(): Platform {
  const architecture = names[process.arch] ?? process.arch;
  return architecture === "arm64"
    ? { os: "linux", architecture, variant: "v8" }
    : { os: "linux", architecture };
}

export const formatPlatform = (platform: Platform): string =>
  [platform.os, platform.architecture, platform.variant].filter((part) => part).join("/");

/** How well `offered` suits `host`: 0 is best, undefined means it does not run there. */
export function rankPlatform(host: Platform, offered: Platform): number | undefined {
  const architecture = names[offered.architecture] ?? offered.architecture;
  if (offered.os !== host.os || architecture !== host.architecture) return undefined;
  const variants = runnable[`${host.architecture}/${host.variant ?? ""}`] ?? [host.variant ?? "", ""];
  const rank = variants.indexOf(offered.variant ?? "");
  return rank < 0 ? undefined : rank;
}

/**
 * The manifests of an index that may run on `host`, best first. Entries without a platform come last:
 * their config decides. Attestations are entries for unknown/unknown and so match nothing.
 */
export function choosePlatform(host: Platform, manifests: readonly Descriptor[]): Descriptor[] {
  const ranked: { rank: number; manifest: Descriptor }[] = [];
  for (const manifest of manifests) {
    const rank = manifest.platform ? rankPlatform(host, manifest.platform) : 1000;
    if (rank !== undefined) ranked.push({ rank, manifest });
  }
  return ranked.sort((a, b) => a.rank - b.rank).map(({ manifest }) => manifest);
}
