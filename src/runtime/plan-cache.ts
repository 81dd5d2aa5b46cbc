import { type CompiledPlan, type ContainerPlanOptions, compileContainer, keyringOf } from "./compile";
import { endpoint } from "./stdio";
import type { Stdio } from "./types";
import { isSealed } from "./validate";

/**
 * Plans of specs that cannot change any more. Two containers of one differ in a few strings that their ids make:
 * where the strings are of the same length, the plan of the first is that of the second with these replaced.
 * A plan that had something to warn of is made anew each time, so that it is said each time.
 */
type Options = ContainerPlanOptions & { readonly stdio: Stdio; readonly gate: string | undefined };

const plans = new WeakMap<object, Map<string, CompiledPlan>>();
const MAX_SHAPES = 8;

export function compileCached(options: Options): CompiledPlan {
  // What comes of an image or of a pod is another one's each time.
  if (!isSealed(options.spec) || options.rootfs.length > 0 || options.base !== undefined)
    return compileContainer(options);
  const shapes = plans.get(options.spec) ?? new Map<string, CompiledPlan>();
  plans.set(options.spec, shapes);
  const values = valuesOf(options);
  const { bundle, dieWithParent, stdio, target } = options;
  const sizes = [...values].map(([name, text]) => [name, Buffer.byteLength(text)]);
  const files = [stdio.stdout, stdio.stderr].filter((value) => endpoint(value, "stdio")?.kind === "file");
  const { kernel, cgroupRoot, oomScoreAdj } = target;
  const shape = JSON.stringify([bundle, dieWithParent, kernel, cgroupRoot, oomScoreAdj, sizes, files]);
  const known = shapes.get(shape);
  if (known) return { ...known, plan: withStrings(known, values) };
  let warned = false;
  const warn: ContainerPlanOptions["warn"] = (message, fields) => {
    warned = true;
    options.warn(message, fields);
  };
  const compiled = compileContainer({ ...options, warn });
  if (!warned && shapes.size < MAX_SHAPES) shapes.set(shape, compiled);
  return compiled;
}

/** The variable strings of a container, by the names that `compileContainer` gives them. */
function valuesOf({ id, stdio, gate }: Options): Map<string, string> {
  const values = new Map([["keyring", keyringOf(id)]]);
  if (gate !== undefined) values.set("gate", gate);
  for (const name of ["stdin", "stdout", "stderr"] as const) {
    const end = endpoint(stdio[name], name);
    if (end?.kind === "fifo") values.set(name, end.path);
  }
  return values;
}

function withStrings({ plan, variables }: CompiledPlan, values: ReadonlyMap<string, string>): Uint8Array {
  const copy = Buffer.from(plan);
  for (const [name, { at, size }] of variables) copy.write(values.get(name)!, at, size);
  return copy;
}
