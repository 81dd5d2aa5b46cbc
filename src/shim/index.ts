/** The server side of ShimV2: Task v2 and v3, Sandbox v1, events, recovery. */
export { type ServeOptions, serveShim } from "./serve";
