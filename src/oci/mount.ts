/**
 * A mount as snapshotters emit it and runtimes consume it: the lingua franca between `image`, `task`,
 * `shim` and `runtime`. Options are mount flags by name (`ro`, `rbind`, `nosuid`) or filesystem data.
 */
export interface Mount {
  readonly type: string;
  readonly source: string;
  /** Relative to the root it is mounted for; "" is the root itself. */
  readonly target?: string;
  readonly options: readonly string[];
}
