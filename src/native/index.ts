export { native } from "./load";
export * from "./plan";
export type * from "./types";
