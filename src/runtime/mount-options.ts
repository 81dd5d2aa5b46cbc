import { unsupported } from "../base/errors";

/** Words of mount options, as fstab(5), mount(8) and the OCI runtime specification have them. */
export const ATTR = {
  rdonly: 0x1n,
  nosuid: 0x2n,
  nodev: 0x4n,
  noexec: 0x8n,
  /** The access time field: one value of it at a time; relatime is 0. */
  atime: 0x70n,
  noatime: 0x10n,
  strictatime: 0x20n,
  nodiratime: 0x80n,
  nosymfollow: 0x200000n,
} as const;

export const MS_REC = 0x4000;
export const MS_UNBINDABLE = 1 << 17;
export const MS_PRIVATE = 1 << 18;
export const MS_SLAVE = 1 << 19;
export const MS_SHARED = 1 << 20;

export interface Attributes {
  readonly set: bigint;
  readonly clear: bigint;
}

export interface MountOptions {
  readonly attributes: Attributes;
  /** The `r…` words: these hold for every mount below as well. */
  readonly recursive: Attributes;
  /** MS_PRIVATE and the like, with MS_REC; undefined if no word was given. */
  readonly propagation: number | undefined;
  readonly bind: "bind" | "rbind" | undefined;
  readonly copyUp: boolean;
  /** What belongs to the file system: superblock flags and data. */
  readonly data: readonly string[];
}

const NONE: Attributes = { set: 0n, clear: 0n };
const set = (bits: bigint): Attributes => ({ set: bits, clear: 0n });
const clear = (bits: bigint): Attributes => ({ set: 0n, clear: bits });
/** mount_setattr(2): to change the access time mode, all its bits are cleared in the same call. */
const atime = (bits: bigint): Attributes => ({ set: bits, clear: ATTR.atime });

const ATTRIBUTES: ReadonlyMap<string, Attributes> = new Map([
  ["ro", set(ATTR.rdonly)],
  ["rw", clear(ATTR.rdonly)],
  ["nosuid", set(ATTR.nosuid)],
  ["suid", clear(ATTR.nosuid)],
  ["nodev", set(ATTR.nodev)],
  ["dev", clear(ATTR.nodev)],
  ["noexec", set(ATTR.noexec)],
  ["exec", clear(ATTR.noexec)],
  ["nodiratime", set(ATTR.nodiratime)],
  ["diratime", clear(ATTR.nodiratime)],
  ["nosymfollow", set(ATTR.nosymfollow)],
  ["symfollow", clear(ATTR.nosymfollow)],
  ["noatime", atime(ATTR.noatime)],
  ["strictatime", atime(ATTR.strictatime)],
  ["relatime", atime(0n)],
  ["atime", atime(0n)],
  ["norelatime", atime(ATTR.strictatime)],
  ["nostrictatime", atime(0n)],
]);

const PROPAGATION: ReadonlyMap<string, number> = new Map(
  Object.entries({
    private: MS_PRIVATE,
    slave: MS_SLAVE,
    shared: MS_SHARED,
    unbindable: MS_UNBINDABLE,
  }).flatMap(([word, bits]): [string, number][] => [
    [word, bits],
    [`r${word}`, bits | MS_REC],
  ]),
);

/** Known words that would change what is asked for if they were passed on or dropped. */
const REFUSED = new Set(["remount", "move", "idmap", "ridmap", "loop", "mand"]);
const NOTHING = new Set(["defaults", "", "nomand", "loud", "silent", "auto", "noauto", "nouser", "_netdev"]);

export const propagationOf = (word: string | undefined): number | undefined =>
  word ? PROPAGATION.get(word) : undefined;

export function parseMountOptions(words: readonly string[] | undefined, field: string): MountOptions {
  let attributes = NONE;
  let recursive = NONE;
  let propagation: number | undefined;
  let bind: MountOptions["bind"];
  let copyUp = false;
  const data: string[] = [];
  for (const word of words ?? []) {
    const direct = ATTRIBUTES.get(word);
    const below = word.startsWith("r") ? ATTRIBUTES.get(word.slice(1)) : undefined;
    const spread = PROPAGATION.get(word);
    if (direct) attributes = merge(attributes, direct);
    else if (below) recursive = merge(recursive, below);
    else if (spread !== undefined) propagation = spread;
    else if (word === "bind" || word === "rbind") bind = word;
    else if (word === "tmpcopyup") copyUp = true;
    else if (isRefused(word)) throw unsupported(field, word);
    else if (!NOTHING.has(word) && !word.startsWith("x-")) data.push(word);
  }
  return { attributes, recursive, propagation, bind, copyUp, data };
}

const isRefused = (word: string): boolean =>
  REFUSED.has(word.split("=", 1)[0]!) || word.startsWith("X-containerd.");

/** A later word takes back an earlier one. */
function merge(before: Attributes, word: Attributes): Attributes {
  if (before === NONE) return word;
  return {
    set: (before.set & ~word.clear) | word.set,
    clear: (before.clear & ~word.set) | word.clear,
  };
}
