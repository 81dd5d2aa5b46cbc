/** ttrpc: containerd's small RPC over unix sockets. `frame.ts` opens with the protocol. */
export { type Api, type CallOptions, Client, type ClientStream, connect, type ServiceClient } from "./client";
export { type Any, type MessageType, messageType, packAny } from "./codec";
export { type Frame, FrameParser, type FrameSink } from "./frame";
export { type Call, type Implementation, Server, type ServerOptions, type ServerStream } from "./server";
export { errorOf, type Status, statusOf } from "./status";
export { nanosecondsOf, timestampOf } from "./time";
