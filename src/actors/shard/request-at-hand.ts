/**
 * The request that the shard is taking: one object, set for each, so that what takes it need not hand seven things on.
 *
 * Must hold: one request is taken at a time, and what it says of one is not looked at after the next. Threads: the shard's thread only.
 */
import type { ClientLink } from './client-link.js';
import { REQUEST_HEADER_BYTES } from './request.js';
import { DeferredRequest } from './transactions.js';

export class RequestAtHand {
  link!: ClientLink;
  /** Its number among the client's. */
  number = 0;
  /** Where it stands: a ring's, or a copy's. */
  bytes!: Buffer;
  words!: Int32Array;
  at = 0;
  length = 0;
  /** It has waited for locks, and has them. */
  deferred: DeferredRequest | undefined;

  set(link: ClientLink, number: number, bytes: Buffer, words: Int32Array, at: number, length: number): void {
    this.link = link;
    this.number = number;
    this.bytes = bytes;
    this.words = words;
    this.at = at;
    this.length = length;
    this.deferred = undefined;
  }

  setDeferred(deferred: DeferredRequest): void {
    this.set(deferred.link, deferred.request, deferred.bytes, deferred.words, 0, deferred.length);
    this.deferred = deferred;
  }

  /** Its first word, see request.ts. */
  get head(): number {
    return this.words[this.at >> 2]!;
  }

  /** Its body. */
  get start(): number {
    return this.at + REQUEST_HEADER_BYTES;
  }

  get end(): number {
    return this.at + this.length;
  }

  /** A copy of it that may wait. */
  setAside(): DeferredRequest {
    return new DeferredRequest(this.link, this.number, this.bytes, this.at, this.length);
  }
}
