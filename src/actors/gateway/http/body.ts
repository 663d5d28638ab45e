/**
 * Reads a request body as it is, whatever its content type says, within a length limit and a per-thread budget.
 *
 *   parser ──▶ BodyRequest.push() ──▶ IncomingBody          no sink: ──▶ the stream that every request is, for whoever reads it
 *
 * The bytes go past the stream: its buffer, its events and the turns they take would cost a small write more than the store does. A small body usually arrives
 * as one chunk and is handed on without a copy. A large one is reserved from the budget as its bytes arrive (a declared length costs nothing until bytes
 * follow) and given back when the answer has left or the connection has died. Tiny chunks are joined as they come, so that none costs more than its bytes.
 *
 * Threads: one BodyReader per server thread.
 */
import { IncomingMessage } from 'node:http';
import type { ServerResponse } from 'node:http';
import { HttpFailure } from './failures.js';
import type { HttpOptions } from './options.js';

/** Bodies up to this length do not touch the budget: connectionsMax bounds their sum. */
const SMALL_BYTES = 64 * 1024;
/** Chunks below this are joined with their neighbours: a buffer of its own costs as much as a hundred bytes. */
const SHORT_BYTES = 4096;
const EMPTY = Buffer.alloc(0);

type BodyLimits = Readonly<Pick<HttpOptions, 'bodyBytesMax' | 'bodyBytesInFlightMax'>>;
/** Called once: with the body, or with an HttpFailure. */
type BodyDone = (error: HttpFailure | undefined, body: Buffer) => void;

/** What node:http calls when the answer has left, to pull the rest of the body off the wire; its declarations leave it out. */
const plainRequest = IncomingMessage.prototype as unknown as { _dump(this: IncomingMessage): void };

/** A request whose body may be taken, or passed over, as the parser finds it: then its stream is never used. */
export class BodyRequest extends IncomingMessage {
  sink: BodySink | undefined;

  override push(chunk: Buffer | null, encoding?: BufferEncoding): boolean {
    const { sink } = this;
    if (sink === undefined) return super.push(chunk, encoding);
    if (chunk === null) sink.end();
    else sink.take(chunk);
    // More is always welcome: beyond the limits it is dropped.
    return true;
  }

  /** What is still to come goes to the sink. */
  _dump(): void {
    if (this.sink === undefined) plainRequest._dump.call(this);
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.sink?.cut();
    super._destroy(error, callback);
  }
}

interface BodySink {
  take(chunk: Buffer): void;
  end(): void;
  /** The connection is gone, before the end or after it. */
  cut(): void;
}

/** Of requests that have none, or whose body nobody wants. */
const NO_BODY: BodySink = { take: () => undefined, end: () => undefined, cut: () => undefined };

export class BodyReader {
  /** Read anew for each body: they may change while the server runs. */
  readonly limits: BodyLimits;
  /** Of large bodies in flight. */
  reservedBytes = 0;

  constructor(limits: BodyLimits) {
    this.limits = limits;
  }

  /** Whatever comes is dropped. To be called when the request is announced, as read(). */
  ignore(request: BodyRequest): void {
    request.sink = NO_BODY;
  }

  /** To be called when the request is announced, before anything of its body arrives. */
  read(request: BodyRequest, response: ServerResponse, done: BodyDone): void {
    request.sink = NO_BODY;
    const declared = request.headers['content-length'];
    if (declared === undefined && request.headers['transfer-encoding'] === undefined) {
      done(undefined, EMPTY);
      return;
    }
    const { bodyBytesMax } = this.limits;
    if (declared !== undefined && Number(declared) > bodyBytesMax) {
      done(tooLarge(bodyBytesMax), EMPTY);
      return;
    }
    request.sink = new IncomingBody(this, response, done);
  }
}

/** One body on its way. */
class IncomingBody implements BodySink {
  readonly #reader: BodyReader;
  readonly #response: ServerResponse;
  /** Undefined when it has been called. */
  #done: BodyDone | undefined;
  #first: Buffer | undefined;
  #more: Buffer[] | undefined;
  #totalBytes = 0;
  #reservedBytes = 0;

  constructor(reader: BodyReader, response: ServerResponse, done: BodyDone) {
    this.#reader = reader;
    this.#response = response;
    this.#done = done;
  }

  take(chunk: Buffer): void {
    if (this.#done === undefined) return;
    this.#totalBytes += chunk.length;
    const { bodyBytesMax } = this.#reader.limits;
    if (this.#totalBytes > bodyBytesMax) this.#fail(tooLarge(bodyBytesMax));
    else if (this.#totalBytes > SMALL_BYTES && !this.#reserve()) this.#fail(new HttpFailure('ERR_OVERLOADED'));
    else if (this.#first === undefined) this.#first = chunk;
    else this.#keep((this.#more ??= [this.#first]), chunk);
  }

  /** Of short ones each is longer than the next: they are few, and each byte is copied a few times at most. */
  #keep(chunks: Buffer[], chunk: Buffer): void {
    let last = chunk;
    while (last.length < SHORT_BYTES && chunks.length > 0 && chunks.at(-1)!.length <= last.length)
      last = Buffer.concat([chunks.pop()!, last]);
    chunks.push(last);
  }

  /** All that has arrived counts in the budget, if it has the room. */
  #reserve(): boolean {
    const reader = this.#reader;
    const bytes = this.#totalBytes - this.#reservedBytes;
    if (reader.reservedBytes + bytes > reader.limits.bodyBytesInFlightMax) return false;
    if (this.#reservedBytes === 0) {
      this.#response.once('close', () => {
        this.#giveBack();
      });
    }
    reader.reservedBytes += bytes;
    this.#reservedBytes += bytes;
    return true;
  }

  #giveBack(): void {
    this.#reader.reservedBytes -= this.#reservedBytes;
    this.#reservedBytes = 0;
  }

  end(): void {
    const body = this.#more === undefined ? (this.#first ?? EMPTY) : Buffer.concat(this.#more, this.#totalBytes);
    this.#finish(undefined, body);
  }

  cut(): void {
    this.#fail(new HttpFailure('ERR_BODY_CUT'));
    // An answer whose turn had not come is not told that its connection is gone.
    this.#giveBack();
  }

  #fail(error: HttpFailure): void {
    this.#finish(error, EMPTY);
  }

  #finish(error: HttpFailure | undefined, body: Buffer): void {
    const done = this.#done;
    if (done === undefined) return;
    this.#done = undefined;
    this.#first = undefined;
    this.#more = undefined;
    done(error, body);
  }
}

function tooLarge(bytesMax: number): HttpFailure {
  return new HttpFailure('ERR_BODY_TOO_LARGE', `the body is longer than ${bytesMax} bytes`);
}
