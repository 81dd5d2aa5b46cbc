/**
 * Which kernel modules have to be loaded, and in what order, from depmod's modules.dep ("PATH: PATH…", a
 * module and what it needs) and modules.builtin (one path a line). busybox's insmod resolves nothing.
 */
export interface ModuleIndex {
  readonly dep: string;
  /** Absent in some kernel packages: then what is no module is taken to be built in. */
  readonly builtin?: string;
}

export interface Wanted {
  readonly name: string;
  /** Some kernels do without it, or have it under another roof. */
  readonly optional?: boolean;
}

/** Paths relative to the module folder, each after everything it needs. */
export function loadOrder(index: ModuleIndex, wanted: readonly Wanted[]): string[] {
  const needs = new Map<string, string[]>();
  for (const line of index.dep.split("\n")) {
    const [module, list] = line.split(":");
    if (list !== undefined) needs.set(module!, list.split(" ").filter(Boolean));
  }
  const paths = new Map([...needs.keys()].map((path) => [moduleName(path), path]));
  const builtin = new Set((index.builtin ?? "").split("\n").filter(Boolean).map(moduleName));
  const known = index.builtin !== undefined;

  const order = new Set<string>();
  const visit = (path: string, above: readonly string[]) => {
    if (above.includes(path)) throw new Error(`modules need each other: ${[...above, path].join(" ")}`);
    if (order.has(path)) return;
    for (const needed of needs.get(path) ?? []) visit(needed, [...above, path]);
    order.add(path);
  };
  for (const { name, optional } of wanted) {
    const path = paths.get(moduleName(name));
    if (path !== undefined) visit(path, []);
    else if (known && !optional && !builtin.has(moduleName(name))) {
      throw new Error(`this kernel has no module ${name}`);
    }
  }
  return [...order];
}

/** "kernel/fs/9p/9p.ko.xz" is 9p; modprobe takes - and _ for the same. */
function moduleName(path: string): string {
  const base = path.slice(path.lastIndexOf("/") + 1);
  return base.replace(/\.ko(\.\w+)?$/, "").replaceAll("-", "_");
}
