import { type ChildProcess, spawn } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import * as readline from "node:readline";
import { cleanEnv } from "../../support/command";
import { repository } from "../../support/peers";

/** Nanoseconds of one container's life, and of its parts. */
export interface Launch {
  readonly total: number;
  readonly parts: Readonly<Record<string, number>>;
}

/** Somebody who launches containers. */
export interface Contender {
  readonly name: string;
  launch(bundle: string): Promise<Launch>;
  /** Starts a container that stays, for `exec`. */
  up(bundle: string): Promise<void>;
  /** Nanoseconds of running /bin/true in it. */
  exec(): Promise<number>;
  down(): Promise<void>;
  close(): Promise<void>;
}

/** Compiles the harness into `dir`; see harness.c. */
export function harnessSource(): string {
  return path.join(repository, "test/bench/launch/harness.c");
}

/** An OCI runtime's command line, driven by the C harness: no Node anywhere near what is timed. */
export class CommandLine implements Contender {
  readonly name: string;
  private readonly child: ChildProcess;
  private readonly answers: AsyncIterator<string>;

  /** `dir` is the harness's and the runtime's own; made here. */
  constructor(name: string, harness: string, program: string, dir: string) {
    this.name = name;
    fs.mkdirSync(path.join(dir, "root"), { recursive: true });
    this.child = spawn(harness, [program, path.join(dir, "root"), dir], {
      env: cleanEnv(),
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.answers = readline.createInterface({ input: this.child.stdout! })[Symbol.asyncIterator]();
  }

  /** One command, one line of numbers. */
  async ask(command: string): Promise<number[]> {
    this.child.stdin!.write(`${command}\n`);
    const { value, done } = await this.answers.next();
    if (done) throw new Error(`${this.name}: the harness ended at "${command}"`);
    return value.split(" ").map(Number);
  }

  async launch(bundle: string): Promise<Launch> {
    const [total, create, start, wait, remove] = await this.ask(`launch ${bundle}`);
    return { total: total!, parts: { create: create!, start: start!, wait: wait!, delete: remove! } };
  }

  async up(bundle: string): Promise<void> {
    await this.ask(`up ${bundle} resident-${process.pid}`);
  }

  async exec(): Promise<number> {
    return (await this.ask(`exec resident-${process.pid}`))[0]!;
  }

  async down(): Promise<void> {
    await this.ask(`down resident-${process.pid}`);
  }

  async close(): Promise<void> {
    const ended = new Promise((resolve) => this.child.on("close", resolve));
    this.child.stdin!.end();
    await ended;
  }
}
