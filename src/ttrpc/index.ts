/** ttrpc: containerd's small RPC over unix sockets. `frame.ts` opens with the protocol. */
export {
  type Api,
  type CallOptions,
  Client,
  type ClientOptions,
  type ClientStream,
  connect,
  type ServiceClient,
} from "./client";
export { type Any, type MessageType, messageType, type Protocol, packAny } from "./codec";
export { type Frame, FrameParser, type FrameSink } from "./frame";
export { type Call, type Implementation, Server, type ServerOptions, type ServerStream } from "./server";
export { errorOf, type ReceivedStatus, type Status, statusOf } from "./status";
export { nanosecondsOf, timestampOf } from "./time";
