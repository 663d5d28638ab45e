/**
 * Reads a request body as it is, whatever its content type says, within a length limit and a per-thread budget.
 *
 *   parser ──▶ BodyRequest.push() ──▶ IncomingBody          no sink: ──▶ the stream that every request is, for whoever reads it
 *
 * The bytes go past the stream: its buffer, its events and the turns they take would cost a small write more than the store does. A small body usually arrives
 * as one chunk and is handed on without a copy. Each is reserved from the budget as its bytes arrive (a declared length costs nothing until bytes follow), and
 * given back by whom it was handed to, when nobody holds it any more: however many requests one connection sends ahead, and whether it lives or not. Tiny
 * chunks are joined as they come, so that none costs more than its bytes.
 *
 * Threads: one BodyReader per server thread.
 */
import { IncomingMessage } from 'node:http';
import { HttpFailure } from './failures.js';
import type { HttpOptions } from './options.js';

/** Chunks below this are joined with their neighbours: a buffer of its own costs as much as a hundred bytes. */
const SHORT_BYTES = 4096;
const EMPTY = Buffer.alloc(0);

type BodyLimits = Readonly<Pick<HttpOptions, 'bodyBytesMax' | 'bodyBytesInFlightMax'>>;
/** Called once: with the body, to be given back with release(), or with an HttpFailure. */
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
  /** Of bodies that arrive or are held. */
  #reservedBytes = 0;

  constructor(limits: BodyLimits) {
    this.limits = limits;
  }

  /** Whatever comes is dropped. To be called when the request is announced, as read(). */
  ignore(request: BodyRequest): void {
    request.sink = NO_BODY;
  }

  /** To be called when the request is announced, before anything of its body arrives. */
  read(request: BodyRequest, done: BodyDone): void {
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
    request.sink = new IncomingBody(this, done);
  }

  /** False: the budget has no room for them. */
  reserve(bytes: number): boolean {
    if (this.#reservedBytes + bytes > this.limits.bodyBytesInFlightMax) return false;
    this.#reservedBytes += bytes;
    return true;
  }

  /** Of a body that nobody holds any more. */
  release(bytes: number): void {
    this.#reservedBytes -= bytes;
  }
}

/** One body on its way. */
class IncomingBody implements BodySink {
  readonly #reader: BodyReader;
  /** Undefined when it has been called. */
  #done: BodyDone | undefined;
  #first: Buffer | undefined;
  #more: Buffer[] | undefined;
  #totalBytes = 0;

  constructor(reader: BodyReader, done: BodyDone) {
    this.#reader = reader;
    this.#done = done;
  }

  take(chunk: Buffer): void {
    if (this.#done === undefined) return;
    const reader = this.#reader;
    const { bodyBytesMax } = reader.limits;
    if (this.#totalBytes + chunk.length > bodyBytesMax) {
      this.#fail(tooLarge(bodyBytesMax));
      return;
    }
    if (!reader.reserve(chunk.length)) {
      this.#fail(new HttpFailure('ERR_OVERLOADED'));
      return;
    }
    this.#totalBytes += chunk.length;
    if (this.#first === undefined) this.#first = chunk;
    else this.#keep((this.#more ??= [this.#first]), chunk);
  }

  /** Of short ones each is longer than the next: they are few, and each byte is copied a few times at most. */
  #keep(chunks: Buffer[], chunk: Buffer): void {
    let last = chunk;
    while (last.length < SHORT_BYTES && chunks.length > 0 && chunks.at(-1)!.length <= last.length)
      last = Buffer.concat([chunks.pop()!, last]);
    chunks.push(last);
  }

  end(): void {
    const body = this.#more === undefined ? (this.#first ?? EMPTY) : Buffer.concat(this.#more, this.#totalBytes);
    this.#finish(undefined, body);
  }

  cut(): void {
    this.#fail(new HttpFailure('ERR_BODY_CUT'));
  }

  #fail(error: HttpFailure): void {
    if (this.#done === undefined) return;
    this.#reader.release(this.#totalBytes);
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
