import { IsopodError } from "../base/errors";
import * as gen from "../gen/shim";

/** A generated message class. */
export interface MessageType {
  encode(message: object): { finish(): Uint8Array };
  decode(bytes: Uint8Array): object;
}

export interface Method {
  readonly name: string;
  readonly request: MessageType;
  readonly response: MessageType;
  readonly clientStream: boolean;
  readonly serverStream: boolean;
}

interface MethodEntry {
  readonly request: string;
  readonly response: string;
  readonly clientStream: boolean;
  readonly serverStream: boolean;
}

/** A generated module (src/gen): its services, as scripts/build.mjs lists them, and its message classes. */
export interface Protocol {
  readonly services: Readonly<Record<string, Readonly<Record<string, MethodEntry>>>>;
  readonly messages: object;
}

const shim: Protocol = { services: require("../gen/shim.services.json"), messages: gen };

/** The methods of a service of proto/, by its full name. Throws UNIMPLEMENTED for one that is not there. */
export function methodsOf(service: string, protocol: Protocol = shim): ReadonlyMap<string, Method> {
  const entries = protocol.services[service];
  if (entries === undefined) {
    throw new IsopodError("UNIMPLEMENTED", `service "${service}": not described in proto/`);
  }
  return new Map(
    Object.entries(entries).map(([name, entry]) => [
      name,
      {
        ...entry,
        name,
        request: messageType(entry.request, protocol),
        response: messageType(entry.response, protocol),
      },
    ]),
  );
}

/** The generated class of a message by its full name. */
export function messageType(fullName: string, protocol: Protocol = shim): MessageType {
  let node: unknown = protocol.messages;
  for (const part of fullName.split(".")) node = (node as Record<string, unknown> | undefined)?.[part];
  if (typeof node !== "function") {
    throw new IsopodError("UNIMPLEMENTED", `message "${fullName}": not described in proto/`);
  }
  return node as unknown as MessageType;
}

/** What carries a message whose type only its receiver knows. */
export interface Any {
  readonly type_url: string;
  readonly value: Uint8Array;
}

/** Packs as containerd's typeurl does: the bare name, without `type.googleapis.com/`. */
export function packAny(fullName: string, message: object): Any {
  return { type_url: fullName, value: messageType(fullName).encode(message).finish() };
}
