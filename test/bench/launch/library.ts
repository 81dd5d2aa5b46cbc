import { type Container, run } from "../../../src/index";
import type { Contender, Launch } from "./contender";

/**
 * isopod through its public library, in this Node process: FIFOs for output, state files, cgroup and exit
 * record as its shim has them. Reading config.json and making the plan are in the time.
 */
export class Library implements Contender {
  readonly name = "isopod";
  private resident: Container | undefined;

  async launch(bundle: string): Promise<Launch> {
    const begin = process.hrtime.bigint();
    const container = await run(bundle);
    const running = process.hrtime.bigint();
    const { status } = await container.wait();
    const ended = process.hrtime.bigint();
    await container.delete();
    const deleted = process.hrtime.bigint();
    if (status !== 0) throw new Error(`isopod: the container ended with ${status}`);
    container.stdout?.destroy();
    container.stderr?.destroy();
    return {
      total: Number(deleted - begin),
      parts: {
        "create+start": Number(running - begin),
        wait: Number(ended - running),
        delete: Number(deleted - ended),
      },
    };
  }

  async up(bundle: string): Promise<void> {
    this.resident = await run(bundle);
  }

  async exec(): Promise<number> {
    const begin = process.hrtime.bigint();
    const exec = await this.resident!.exec(["/bin/true"]);
    const { status } = await exec.wait();
    await exec.delete();
    const took = Number(process.hrtime.bigint() - begin);
    if (status !== 0) throw new Error(`isopod: exec ended with ${status}`);
    exec.stdout?.destroy();
    exec.stderr?.destroy();
    return took;
  }

  async down(): Promise<void> {
    await this.resident?.[Symbol.asyncDispose]();
    this.resident = undefined;
  }

  async close(): Promise<void> {}
}
