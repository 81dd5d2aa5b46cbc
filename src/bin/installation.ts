import * as path from "node:path";

/** Of the running program, not of the package on disk, which may be newer. */
export const VERSION: string = (require("../../../package.json") as { version: string }).version;

/** Where our own programs are: beside the bundle as installed, or where a build leaves them. */
export const programDirs = (): string[] =>
  [".", "../build/Release", "../../../build/Release"].map((relative) => path.resolve(__dirname, relative));
