/**
 * Reads a request body as it is, whatever its content type says, within a length limit and a per-thread budget.
 *
 * A small body usually arrives as one chunk and is handed on without a copy. A large one is reserved from the budget as its bytes
 * arrive (a declared length costs nothing until bytes follow) and given back when the answer has left or the connection has died.
 *
 * Threads: one BodyReader per server thread.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { HttpFailure } from './failures.js';
import type { HttpOptions } from './options.js';

/** Bodies up to this length do not touch the budget: connectionsMax bounds their sum. */
const SMALL_BYTES = 64 * 1024;
const EMPTY = Buffer.alloc(0);

export class BodyReader {
  /** Read anew for each body: they may change while the server runs. */
  readonly #limits: Readonly<Pick<HttpOptions, 'bodyBytesMax' | 'bodyBytesInFlightMax'>>;
  #reservedBytes = 0;

  constructor(limits: Readonly<Pick<HttpOptions, 'bodyBytesMax' | 'bodyBytesInFlightMax'>>) {
    this.#limits = limits;
  }

  get reservedBytes(): number {
    return this.#reservedBytes;
  }

  /** Calls done once: with the body, or with an HttpFailure. */
  read(
    request: IncomingMessage,
    response: ServerResponse,
    done: (error: Error | undefined, body: Buffer) => void,
  ): void {
    const declared = request.headers['content-length'];
    if (declared === undefined && request.headers['transfer-encoding'] === undefined) {
      done(undefined, EMPTY);
      return;
    }
    const { bodyBytesMax, bodyBytesInFlightMax } = this.#limits;
    if (declared !== undefined && Number(declared) > bodyBytesMax) {
      done(tooLarge(bodyBytesMax), EMPTY);
      return;
    }
    let first: Buffer | undefined;
    let more: Buffer[] | undefined;
    let totalBytes = 0;
    let reserved = 0;
    let finished = false;

    const finish = (error: Error | undefined, body: Buffer): void => {
      if (finished) return;
      finished = true;
      if (error) {
        first = undefined;
        more = undefined;
      }
      done(error, body);
    };
    request.on('data', (chunk: Buffer) => {
      if (finished) return;
      totalBytes += chunk.length;
      if (totalBytes > bodyBytesMax) {
        finish(tooLarge(bodyBytesMax), EMPTY);
        return;
      }
      if (totalBytes > SMALL_BYTES) {
        if (this.#reservedBytes + totalBytes - reserved > bodyBytesInFlightMax) {
          finish(new HttpFailure('ERR_OVERLOADED'), EMPTY);
          return;
        }
        if (reserved === 0) {
          response.once('close', () => {
            this.#reservedBytes -= reserved;
            reserved = 0;
          });
        }
        this.#reservedBytes += totalBytes - reserved;
        reserved = totalBytes;
      }
      if (first === undefined) first = chunk;
      else if (more === undefined) more = [first, chunk];
      else more.push(chunk);
    });
    request.on('end', () => {
      finish(undefined, more !== undefined ? Buffer.concat(more, totalBytes) : (first ?? EMPTY));
    });
    const cut = (): void => {
      if (!finished) finish(new HttpFailure('ERR_BODY_CUT'), EMPTY);
    };
    request.on('error', cut);
    request.on('close', cut);
  }
}

function tooLarge(bytesMax: number): HttpFailure {
  return new HttpFailure('ERR_BODY_TOO_LARGE', `the body is longer than ${bytesMax} bytes`);
}
