import type { Native } from "../native";
import type { CgroupParents } from "./cgroup";
import type { Warn } from "./compile-process";
import type { SliceKills } from "./systemd/slice-kills";
import type { Units } from "./systemd/units";
import type { Target } from "./target";
import type { FdStore } from "./types";

/** What every sandbox, container and process of one runtime shares. */
export interface Engine {
  readonly native: Native;
  readonly target: Target;
  readonly stateDir: string;
  readonly store: FdStore | undefined;
  readonly dieWithParent: boolean;
  readonly warn: Warn;
  readonly parents: CgroupParents;
  readonly units: Units;
  readonly kills: SliceKills;
  /** Ids in use: of sandboxes and containers alike, since both name files, cgroups and stored fds. */
  readonly ids: Set<string>;
  /** The empty mount namespace that implicit sandboxes start from (R8); made once. Borrowed. */
  base(): number | Promise<number>;
}
