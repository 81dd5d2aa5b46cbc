import { messageOf } from "../base/errors";
import type { Log } from "../base/log";
import { now } from "../base/time";
import { type Any, type Client, connect, packAny, timestampOf } from "../ttrpc";

/**
 * Events to whoever started us, in order: one queue, one Forward at a time, and a head that cannot be sent
 * blocks the rest rather than being overtaken. Events are hints (State and Wait tell the truth), so when the
 * receiver stays away the queue is dropped, not kept: no timer runs for a receiver that may never come back.
 */
export interface EventQueue {
  /** `type` is the message's name below containerd.events. */
  publish(topic: string, type: string, event: object): void;
  /** Resolves when all is sent or given up, at the latest after `ms`. */
  flush(ms: number): Promise<void>;
}

interface Queued {
  readonly topic: string;
  readonly event: Any;
  readonly timestamp: bigint;
}

const FORWARD_MS = 5_000;
const RETRY_MS = [20, 100, 500, 1_000, 3_000];
const MAX_QUEUED = 4_096;
const SERVICE = "containerd.services.events.ttrpc.v1.Events";

export interface EventQueueOptions {
  /** Socket of the receiver; "" (CRI-O): events are logged only. */
  readonly address: string;
  readonly namespace: string;
  readonly log: Log;
}

export function eventQueue({ address, namespace, log }: EventQueueOptions): EventQueue {
  const queue: Queued[] = [];
  const idle: (() => void)[] = [];
  let client: Client | undefined;
  let sending = false;

  async function forward({ topic, event, timestamp }: Queued): Promise<void> {
    if (!client?.connected) {
      client = await connect(address, { timeoutMs: FORWARD_MS });
      client.unref();
    }
    const envelope = { timestamp: timestampOf(timestamp), namespace, topic, event };
    const metadata = { "containerd-namespace-ttrpc": namespace };
    await client.call(SERVICE, "Forward", { envelope }, { timeoutMs: FORWARD_MS, metadata });
  }

  async function sendHead(head: Queued): Promise<void> {
    for (const delay of [...RETRY_MS, undefined]) {
      try {
        await forward(head);
        return;
      } catch (error) {
        if (delay === undefined) {
          log.warn("events cannot be delivered and are dropped", {
            events: queue.length,
            topic: head.topic,
            error: messageOf(error),
          });
          queue.length = 1; // the head itself is taken off by the caller
        } else await new Promise((resolve) => setTimeout(resolve, delay).unref());
      }
    }
  }

  async function send(): Promise<void> {
    for (let head = queue[0]; head !== undefined; head = queue[0]) {
      await sendHead(head);
      queue.shift();
    }
    sending = false;
    for (const resolve of idle.splice(0)) resolve();
  }

  return {
    publish: (topic, type, event) => {
      if (address === "") {
        log.info("event", { topic, event });
        return;
      }
      if (queue.length >= MAX_QUEUED) queue.splice(1, 1);
      queue.push({
        topic,
        event: packAny(`containerd.events.${type}`, event),
        timestamp: now(),
      });
      if (sending) return;
      sending = true;
      setImmediate(() => void send()); // after the answer that the event goes with
    },
    flush: (ms) =>
      new Promise((resolve) => {
        if (!sending) return resolve();
        const timer = setTimeout(resolve, ms);
        idle.push(() => {
          clearTimeout(timer);
          resolve();
        });
      }),
  };
}
