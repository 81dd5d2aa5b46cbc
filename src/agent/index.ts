/** The client of the guest's agent (native/agent); proto/agent/agent.proto opens with the protocol. */
export { Agent } from "./client";
export { CONTROL_PORT, type Expected, Ports, type PortTransport, unixPorts } from "./ports";
export * from "./types";
