/**
 * What a shard keeps of one client thread: the two rings, how far they are served, the request that waits for its turn, the answers that found no room.
 *
 * Must hold: a request's response is in the ring before `completed` passes the request. A client that dies leaves whole requests or none in its ring.
 * Threads: the shard's thread only.
 */
import type { Doorbell } from '../../shared/memory/park.js';
import type { ErrorRecord } from '../../shared/errors.js';
import { RingConsumer, RingProducer } from '../../shared/memory/ring.js';
import type { ClearInProgress } from './clear.js';
import {
  COMPLETED_WORD,
  RESPONSE_HEADER_BYTES,
  ResponseStatus,
  announceTaken,
  confirmTaken,
  takenCount,
} from './request.js';

/** A response must fit into half of its ring, as UTF-8. */
const ERROR_CHARACTERS_MAX = 8192;

/** A record read from a ring that must wait for the next group. */
export interface HeldRequest {
  bytes: Buffer;
  words: Int32Array;
  length: number;
}

export class ClientLink {
  readonly client: number;
  readonly requests: RingConsumer;
  readonly responses: RingProducer;
  readonly doorbell: Doorbell;
  taken: number;
  /** Of these: whose room the client has back. */
  released: number;
  completed: number;
  held: HeldRequest | undefined;
  /** The held request waits for files to catch up: until then it is not looked at, on performance.now()'s clock. */
  heldUntilMs = 0;
  clear: ClearInProgress | undefined;
  /** Answers of requests that are completed already wait to be published. */
  hasNews = false;
  /** Responses that found the ring full. */
  readonly backlog: Buffer[] = [];
  /** The client is gone; what it published is still served, nobody listens to the answers. */
  leaving: (() => void) | undefined;

  constructor(client: number, requestRing: SharedArrayBuffer, responseRing: SharedArrayBuffer, doorbell: Doorbell) {
    this.client = client;
    this.requests = new RingConsumer(requestRing);
    this.responses = new RingProducer(responseRing);
    this.doorbell = doorbell;
    this.taken = takenCount(this.requests.header, this.requests.position);
    this.released = this.taken;
    this.completed = Atomics.load(this.requests.header, COMPLETED_WORD);
  }

  /** Gives the room of what was taken back. From here on a successor does not take it again. */
  release(): void {
    const { requests, taken } = this;
    if (taken === this.released) return;
    announceTaken(requests.header, taken, requests.position);
    requests.release();
    confirmTaken(requests.header, taken);
    this.released = taken;
  }

  get idle(): boolean {
    return this.held === undefined && this.clear === undefined && !this.requests.pending();
  }

  /** Puts an answer out; it is seen when complete() comes. Nobody listens to a client that leaves. */
  respond(request: number, status: number, text: string): void {
    if (this.leaving !== undefined) return;
    const response = Buffer.alloc(RESPONSE_HEADER_BYTES + Buffer.byteLength(text));
    response.writeInt32LE(request, 0);
    response[4] = status;
    response.write(text, RESPONSE_HEADER_BYTES);
    this.hasNews = true;
    if (this.backlog.length > 0 || !tryWrite(this.responses, response)) this.backlog.push(response);
  }

  respondError(request: number, error: ErrorRecord): void {
    const text = JSON.stringify(error);
    const fits = text.length < ERROR_CHARACTERS_MAX;
    this.respond(request, ResponseStatus.Error, fits ? text : JSON.stringify(shortened(error)));
  }

  /** True when nothing is left behind. */
  flushBacklog(): boolean {
    if (this.leaving !== undefined) this.backlog.length = 0;
    while (this.backlog.length > 0) {
      if (!tryWrite(this.responses, this.backlog[0]!)) break;
      this.backlog.shift();
    }
    this.responses.publish();
    if (this.backlog.length > 0) {
      this.doorbell.unpark();
      return false;
    }
    this.complete();
    return true;
  }

  /** Everything taken is settled, except a held request and a clear that goes on. Answers go out before. */
  complete(): void {
    this.release();
    this.responses.publish();
    this.hasNews = false;
    if (this.backlog.length === 0) {
      const open = this.held !== undefined || this.clear !== undefined ? 1 : 0;
      const completed = (this.taken - open) | 0;
      if (completed !== this.completed) {
        this.completed = completed;
        Atomics.store(this.requests.header, COMPLETED_WORD, completed);
      }
    }
    this.doorbell.unpark();
  }
}

/** What of an error fits into a response whatever it says: its details are lost. */
function shortened({ code, message }: ErrorRecord): ErrorRecord {
  return { code, message: message.slice(0, 1000), details: {} };
}

function tryWrite(ring: RingProducer, response: Buffer): boolean {
  const length = Math.min(response.length, ring.maxRecordBytes);
  const at = ring.reserve(length);
  if (at < 0) return false;
  response.copy(ring.bytes, at, 0, length);
  return true;
}
