/** Of the running program, not of the package on disk, which may be newer. */
export const VERSION: string = (require("../../../package.json") as { version: string }).version;
