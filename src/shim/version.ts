/** Of the running server, not of the binary on disk, which may be newer. */
export const VERSION: string = (require("../../../package.json") as { version: string }).version;
