import * as fs from "node:fs";
import * as path from "node:path";
import type { TestContext } from "node:test";
import { native } from "../../src/native";
import type { Spec } from "../../src/oci/runtime-spec";
import { containerRuntime } from "../../src/runtime";
import type { Container } from "../../src/runtime/types";
import { cgroupParent, collect, containerOptions, KeptFds, runtimeOf } from "./fixture";
import { specOf } from "./specs";

export const root = native().features().cgroupRoot;

export const shell = (script: string): Spec => specOf(["/bin/sh", "-c", script]);

export interface Contained {
  readonly container: Container;
  /** What it has written, at its end. */
  readonly output: Promise<string>;
  /** What a later runtime makes of it; needs `kept`. */
  recovered(): Promise<Container>;
}

/** A container of an implicit sandbox, started unless told otherwise, that goes at the test's end. */
export async function contained(t: TestContext, spec: Spec, start = true, kept = false): Promise<Contained> {
  const store = new KeptFds();
  const { runtime, stateDir } = runtimeOf(kept ? { store } : {});
  const options = containerOptions(spec);
  const sandbox = await runtime.sandbox({ id: options.id, implicit: true });
  let container = await sandbox.create(options);
  t.after(async () => {
    await container.kill(9, { all: true });
    if (container.state !== "created") await container.exited;
    await container.delete();
  });
  const output = Promise.all([collect(options.fifo("stdout")), collect(options.fifo("stderr"))]);
  output.catch(() => {});
  if (start) await container.start();
  return {
    container,
    output: output.then((texts) => texts.join("")),
    async recovered() {
      const later = containerRuntime({ stateDir, dieWithParent: true, store });
      const [found] = await later.recover({ fds: store.handOver(), exits: [] });
      container = [...found!.containers.values()][0]!;
      return container;
    },
  };
}

/** A file of its cgroup. */
export const fileOf = (container: Container, file: string): string =>
  fs.readFileSync(path.join(root, cgroupParent, container.id, file), "utf8").trim();
