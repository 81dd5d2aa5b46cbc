/** The client of the guest's agent (native/agent); proto/agent/agent.proto opens with the protocol. */
export { Agent } from "./client";
export type { CpioEntry } from "./cpio";
export { buildInitramfs, cachedInitramfs, GUEST_MODULES, type InitramfsOptions } from "./initramfs";
export { CONTROL_PORT, type Expected, Ports, type PortTransport, unixPorts } from "./ports";
export * from "./types";
