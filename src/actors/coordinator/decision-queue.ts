/**
 * The coordinator's end of one client's rings: requests to decide come in, completions go out in their order.
 *
 *   request ring   [ completed, room given back | in flight: read, not completed | not read ]
 *                                               ▲ released                       ▲ read
 *
 * Unlike a shard, which gives the room of a request back when it has read it, a request stays in the ring until it is completed: a coordinator that takes
 * over from a dead one meets it again. To decide it twice is harmless. To refuse it once and decide it the next time is not, so a refusal is noted
 * in the ring's header before its answer is published.
 *
 *   request ring, user line 0, word 3   the request that was refused last
 *
 * Threads: the coordinator's.
 */
import { ConcordError, type ErrorRecord } from '../../shared/errors.js';
import type { Doorbell } from '../../shared/memory/park.js';
import { RING_USER_WORDS, RingConsumer, RingProducer } from '../../shared/memory/ring.js';
import {
  COMPLETED_WORD,
  REQUEST_HEADER_BYTES,
  RESPONSE_HEADER_BYTES,
  RequestType,
  ResponseStatus,
  announceTaken,
  confirmTaken,
  takenCount,
} from '../shard/request.js';

/** Behind the three words of announceTaken(). */
const REFUSED_WORD = RING_USER_WORDS + 3;
/** id f64 · participants 2 × u32 · vote epoch f64 */
const DECIDE_BODY_BYTES = 24;

export const DECISION_RING_BYTES = 256 << 10;
export const DECISION_RESPONSE_RING_BYTES = 32 << 10;

/** A request that was read and is not completed. */
interface Flight {
  readonly id: number;
  /** Where it ends in the ring. */
  readonly position: number;
  isDone: boolean;
  error: ErrorRecord | undefined;
}

export type Decide = (
  request: number,
  id: number,
  maskLow: number,
  maskHigh: number,
  level: number,
  voteEpoch: number,
) => void;

export class DecisionQueue {
  readonly client: number;
  /** The client is gone: its requests are served, nobody listens to the answers. */
  leaving: ((isKnown: boolean) => void) | undefined;
  readonly #requests: RingConsumer;
  readonly #responses: RingProducer;
  readonly #doorbell: Doorbell;
  readonly #decide: Decide;
  readonly #onCompleted: (id: number) => void;
  readonly #flights: Flight[] = [];
  /** Number of the last request that is completed. */
  #completed: number;
  /** A request whose refusal a predecessor may have told. */
  readonly #refusedBefore: number | undefined;

  constructor(
    client: number,
    requests: SharedArrayBuffer,
    responses: SharedArrayBuffer,
    doorbell: Doorbell,
    decide: Decide,
    onCompleted: (id: number) => void,
  ) {
    this.client = client;
    this.#requests = new RingConsumer(requests);
    this.#responses = new RingProducer(responses);
    this.#doorbell = doorbell;
    this.#decide = decide;
    this.#onCompleted = onCompleted;
    const { header, position } = this.#requests;
    this.#completed = takenCount(header, position);
    const next = (this.#completed + 1) | 0;
    this.#refusedBefore = Atomics.load(header, REFUSED_WORD) === next ? next : undefined;
    // A predecessor may have died between giving the room back and saying so.
    if (Atomics.load(header, COMPLETED_WORD) !== this.#completed) {
      Atomics.store(header, COMPLETED_WORD, this.#completed);
      doorbell.unpark();
    }
  }

  /** Requests that are not completed. */
  get inFlight(): number {
    return this.#flights.length;
  }

  /** Whether take() would meet one. */
  get hasRequests(): boolean {
    return this.#requests.pending();
  }

  /** Whether every request in flight is beyond what may be undone. */
  areAll(isSettled: (id: number) => boolean): boolean {
    return this.#flights.every(({ id, isDone }) => isDone || isSettled(id));
  }

  /** Nobody will: the rings go with the client. */
  abandon(): void {
    for (const { id } of this.#flights.splice(0)) this.#onCompleted(id);
  }

  /** Reads up to `max` requests. Returns how many. */
  take(max: number): number {
    const reader = this.#requests;
    let taken = 0;
    while (taken < max) {
      const at = reader.next();
      if (at < 0) break;
      taken++;
      const { bytes, length } = reader;
      const isWhole = length >= REQUEST_HEADER_BYTES + DECIDE_BODY_BYTES && bytes[at] === RequestType.Decide;
      const body = at + REQUEST_HEADER_BYTES;
      const id = isWhole ? bytes.readDoubleLE(body) : 0;
      this.#flights.push({ id, position: reader.position, isDone: false, error: undefined });
      const request = (this.#completed + this.#flights.length) | 0;
      if (!isWhole) {
        const message = `the coordinator was sent a request of type ${bytes[at]} with ${length} bytes`;
        this.answer(request, new ConcordError('ERR_INTERNAL', message, { outcome: 'aborted' }).toRecord());
      } else if (request === this.#refusedBefore) {
        const message = `transaction ${id} was refused before the coordinator restarted`;
        const details = { transaction: id, outcome: 'aborted' };
        this.answer(request, new ConcordError('ERR_CONFLICT', message, details).toRecord());
      } else {
        const [maskLow, maskHigh] = [bytes.readInt32LE(body + 8), bytes.readInt32LE(body + 12)];
        this.#decide(request, id, maskLow, maskHigh, bytes[at + 1]!, bytes.readDoubleLE(body + 16));
      }
    }
    return taken;
  }

  /** The request is done, or failed. It is completed by settle(), when those before it are. */
  answer(request: number, error: ErrorRecord | undefined): void {
    const flight = this.#flights[((request - this.#completed) | 0) - 1];
    if (flight === undefined || flight.isDone) return;
    flight.isDone = true;
    flight.error = error;
  }

  /** Completes what is done, in order; wakes the client. Returns how many. */
  settle(): number {
    const flights = this.#flights;
    let count = 0;
    let done = 0;
    while (done < flights.length && flights[done]!.isDone) {
      const { error } = flights[done]!;
      if (error === undefined) {
        done++;
        continue;
      }
      count += this.#complete(done);
      done = 0;
      if (!this.#respond(error)) break;
      count += this.#complete(1);
    }
    count += this.#complete(done);
    if (count > 0) this.#doorbell.unpark();
    return count;
  }

  /** Says of the oldest request in flight that it failed. False: no room for the answer now. */
  #respond(error: ErrorRecord): boolean {
    if (this.leaving !== undefined) return true;
    const request = (this.#completed + 1) | 0;
    const text = Buffer.from(JSON.stringify(error));
    const at = this.#responses.reserve(RESPONSE_HEADER_BYTES + text.length);
    if (at < 0) {
      this.#doorbell.unpark();
      return false;
    }
    if (error.details.outcome === 'aborted') Atomics.store(this.#requests.header, REFUSED_WORD, request);
    const { bytes } = this.#responses;
    bytes.fill(0, at, at + RESPONSE_HEADER_BYTES);
    bytes.writeInt32LE(request, at);
    bytes[at + 4] = ResponseStatus.Error;
    bytes.set(text, at + RESPONSE_HEADER_BYTES);
    this.#responses.publish();
    return true;
  }

  /** The oldest `count` in flight: their room goes back, then the client may know. */
  #complete(count: number): number {
    if (count === 0) return 0;
    const requests = this.#requests;
    const { header } = requests;
    const completed = this.#flights.splice(0, count);
    const { position } = completed.at(-1)!;
    this.#completed = (this.#completed + count) | 0;
    announceTaken(header, this.#completed, position);
    requests.releaseTo(position);
    confirmTaken(header, this.#completed);
    Atomics.store(header, COMPLETED_WORD, this.#completed);
    for (const { id } of completed) this.#onCompleted(id);
    return count;
  }
}
