import Long from "long";
import type { runtime } from "../../gen/cri";
import type { Image, RegistryAuth } from "../../image";
import { cstring, int64, required, uint64 } from "./fields";

export const readImageName = (field: string, spec: runtime.v1.IImageSpec | null | undefined): string =>
  required(`${field}.image`, spec?.image);

/** Absent if nothing in it is set: clients send an empty AuthConfig for "no credentials". */
export function readAuth(
  field: string,
  auth: runtime.v1.IAuthConfig | null | undefined,
): RegistryAuth | undefined {
  const given = {
    username: auth?.username,
    password: auth?.password,
    auth: auth?.auth,
    serverAddress: cstring(`${field}.server_address`, auth?.serverAddress),
    identityToken: auth?.identityToken,
    registryToken: auth?.registryToken,
  };
  const set = Object.entries(given).filter(([, value]) => value !== "" && value != null);
  return set.length === 0 ? undefined : (Object.fromEntries(set) as RegistryAuth);
}

export const writeImage = (image: Image): runtime.v1.IImage => ({
  id: image.id,
  repoTags: [...image.repoTags],
  repoDigests: [...image.repoDigests],
  size: Long.fromNumber(image.size, true),
  pinned: image.pinned,
  ...writeUser(image.config.config?.User ?? ""),
});

/** `USER "1000:staff"` → uid 1000; `USER www` → username www; none → neither, which is root. */
function writeUser(user: string): Pick<runtime.v1.IImage, "uid" | "username"> {
  const [name = ""] = user.split(":");
  if (name === "") return {};
  return /^\d{1,10}$/.test(name) ? { uid: { value: Long.fromString(name) } } : { username: name };
}

export const imageInfo = (image: Image): unknown => ({
  chainID: image.chainId,
  imageSpec: image.config,
});

export const writeFilesystem = (usage: {
  mountpoint: string;
  bytes: bigint;
  inodes: bigint;
  timestamp: bigint;
}): runtime.v1.IFilesystemUsage => ({
  timestamp: int64(usage.timestamp),
  fsId: { mountpoint: usage.mountpoint },
  usedBytes: uint64(usage.bytes),
  inodesUsed: uint64(usage.inodes),
});
