import { invalid, messageOf, unsupported } from "../../base/errors";
import type { UnitProperty } from "../../native";
import { parseVariant } from "./gvariant";

/** What a scope is started with besides its first process. */
export interface ScopeOptions {
  readonly description: string;
  readonly slice: string;
  /** See properties.ts. */
  readonly limits: readonly UnitProperty[];
  /** Of the container's spec. */
  readonly annotations?: Readonly<Record<string, string>> | undefined;
}

const UNLIMITED = 2n ** 64n - 1n;

const text = (name: string, value: string): UnitProperty => ({ name, signature: "s", value });
const flag = (name: string, value: boolean): UnitProperty => ({ name, signature: "b", value });

export function scopeProperties(options: ScopeOptions): readonly UnitProperty[] {
  return [
    text("Description", options.description),
    text("Slice", options.slice),
    // The cgroup is ours: systemd moves no process in it, removes none and leaves what is below alone.
    flag("Delegate", true),
    // Statistics of what has no limit.
    flag("CPUAccounting", true),
    flag("MemoryAccounting", true),
    flag("IOAccounting", true),
    flag("TasksAccounting", true),
    // No ordering against shutdown: kubelet ends pods in its own order.
    flag("DefaultDependencies", false),
    // One that failed is forgotten too, so that its name is free again.
    text("CollectMode", "inactive-or-failed"),
    // systemd has a default of its own here (DefaultTasksMax), which is nobody's wish for a container.
    { name: "TasksMax", signature: "t", value: UNLIMITED },
    ...options.limits,
    ...annotated(options.annotations ?? {}),
  ];
}

const PREFIX = "org.systemd.property.";
/** They say where the container is, and that it is ours. */
const OURS = ["Slice", "PIDs", "Delegate", "DelegateControllers", "ControlGroup"];
const MICROSECONDS = 1_000_000n;

/** Annotations `org.systemd.property.NAME`: any property that the spec wants to set, in GVariant's text. */
function annotated(annotations: Readonly<Record<string, string>>): UnitProperty[] {
  return Object.entries(annotations)
    .filter(([key]) => key.startsWith(PREFIX))
    .map(([key, written]) => {
      const field = `annotations["${key}"]`;
      const name = key.slice(PREFIX.length);
      if (!/^[A-Z][A-Za-z0-9]+$/.test(name)) throw invalid(field, written, "not the name of a unit property");
      if (OURS.includes(name)) throw unsupported(field, written, "it is not the container's to say");
      try {
        return inMicroseconds({ name, ...parseVariant(written) });
      } catch (error) {
        throw invalid(field, written, `not in GVariant's text format: ${messageOf(error)}`);
      }
    });
}

/** Unit files have `TimeoutStopSec=5`, the bus has `TimeoutStopUSec`: the first is what people know. */
function inMicroseconds(property: UnitProperty): UnitProperty {
  const { name, value } = property;
  if (!/[a-z]Sec$/.test(name)) return property;
  if (typeof value !== "bigint" || value < 0n) throw new Error(`${name} is a number of seconds`);
  return { name: name.replace(/Sec$/, "USec"), signature: "t", value: value * MICROSECONDS };
}
