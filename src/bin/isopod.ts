import { Command } from "commander";
import { messageOf } from "../base/errors";
import type { Overrides } from "./config";
import { VERSION } from "./installation";

/**
 * The `isopod` command. Commands load their code when they run, so that `isopod version` is quick.
 *
 * Exit codes: 0 done, 1 failed, 2 wrong use or wrong configuration.
 */
const OLDEST_NODE = 20;

interface ConfigOption {
  readonly config?: string;
}

interface ServeOptions extends ConfigOption {
  readonly root?: string;
  readonly state?: string;
  readonly listen?: string;
  readonly logLevel?: string;
}

const CONFIG = [
  "--config <file>",
  "configuration file (default /etc/isopod/config.toml, if it exists)",
] as const;

function program(): Command {
  const isopod = new Command("isopod").description("a Kubernetes container runtime").exitOverride();
  isopod
    .command("serve")
    .description("serve the Container Runtime Interface")
    .option(...CONFIG)
    .option("--root <dir>", "what outlives a reboot: images, snapshots, records")
    .option("--state <dir>", "what does not: sockets, FIFOs")
    .option("--listen <address>", "unix:// and the path of the socket")
    .option("--log-level <level>", "info, debug, warn or error")
    .action(serve);
  isopod
    .command("check")
    .description("say what this host can run, why not, and how to cure it")
    .option(...CONFIG)
    .option("--json", "as JSON")
    .action(check);
  const config = isopod.command("config").description("show or check the configuration");
  config.command("default").description("print the default file").action(printDefault);
  config
    .command("dump")
    .description("print the configuration in force")
    .option(...CONFIG)
    .action(dump);
  config
    .command("check")
    .description("check the configuration and name every mistake")
    .option(...CONFIG)
    .action(async ({ config: file }: ConfigOption) => {
      await load(file);
    });
  isopod
    .command("version")
    .description("print the version")
    .action(() => print(`isopod ${VERSION}`));
  return isopod;
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** A wrong configuration is a wrong use. */
async function load(file: string | undefined, overrides: Overrides = {}) {
  const { loadConfig } = await import("./config/index.js");
  try {
    return await loadConfig(file, overrides);
  } catch (error) {
    fail(messageOf(error), 2);
  }
}

async function serve({ config: file, root, state, listen, logLevel }: ServeOptions): Promise<void> {
  const overrides = { root, state, listen, log: logLevel ? { level: logLevel } : undefined };
  const config = await load(file, overrides);
  const { loadConfig } = await import("./config/index.js");
  const { jsonLog } = await import("./logger.js");
  const log = jsonLog(config.log.level);
  if (process.getuid?.() !== 0) fail("isopod serve must run as root: it makes namespaces and mounts", 1);
  // Whatever state a defect leaves in memory is worth less than what is on disk: end, and be started again.
  const crash = (what: string) => (error: unknown) => {
    log.error(`${what}: ${messageOf(error)}`, { stack: error instanceof Error ? error.stack : undefined });
    process.exit(1);
  };
  process.on("uncaughtException", crash("uncaught exception"));
  process.on("unhandledRejection", crash("unhandled rejection"));
  try {
    const { reloader } = await import("./reload.js");
    const reload = reloader(config, () => loadConfig(file, overrides), log);
    process.exitCode = await (await import("./serve.js")).serve(config, log, reload);
  } catch (error) {
    log.error(`starting: ${messageOf(error)}`, { stack: error instanceof Error ? error.stack : undefined });
    process.exitCode = 1;
  }
  // Threads of the addon and idle handles do not keep a daemon that is done.
  process.exit();
}

async function check({ config: file, json }: ConfigOption & { json?: boolean }): Promise<void> {
  const config = await load(file);
  const { report, reportText } = await import("./check.js");
  const found = await report(config);
  print(json ? JSON.stringify(found, null, 2) : reportText(found));
  process.exitCode = found.ok ? 0 : 1;
}

async function printDefault(): Promise<void> {
  print((await import("./config/index.js")).defaultFile().trimEnd());
}

async function dump({ config: file }: ConfigOption): Promise<void> {
  const config = await load(file);
  print((await (await import("./config/index.js")).dumpFile(config)).trimEnd());
}

function fail(text: string, code: number): never {
  process.stderr.write(`isopod: ${text}\n`);
  process.exit(code);
}

const major = Number(process.versions.node.split(".")[0]);
if (major < OLDEST_NODE) fail(`${process.execPath} is Node ${major}; ${OLDEST_NODE} or later is needed`, 1);

program()
  .parseAsync()
  .catch((error: Error & { code?: string; exitCode?: number }) => {
    // commander has printed its own message already.
    if (error.code?.startsWith("commander.")) process.exit(error.exitCode === 0 ? 0 : 2);
    fail(messageOf(error), 1);
  });
