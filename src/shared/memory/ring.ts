/**
 * Single-producer single-consumer byte ring in one SharedArrayBuffer.
 *
 *   byte    0   producer line   word 0: position up to which records are published
 *   byte   64   consumer line   word 16: position up to which records are released
 *   byte  128   user lines      words 32..47 and 48..63: for the protocol of the two sides (RING_USER_WORDS)
 *   byte  256   data            capacity bytes
 *
 *   record, 8-byte aligned, always contiguous:
 *   offset  size  field
 *        0     4  length   payload bytes; -1: skip, the next record stands at offset 0 of the data
 *        4     4  check    ~length
 *        8     n  payload  padded to a multiple of 8
 *
 * Positions are byte counters that wrap at 2^32; capacity is a power of two below 2^31, so `(a - b) | 0` is the distance and
 * `position & (capacity - 1)` the offset. Each side keeps the other's position and loads it anew only when the one it knows is
 * used up, so a record costs no atomic access by itself.
 *
 * The producer: reserve → write payload → (shrink) → reserve … → publish. The consumer: next → read payload → next … → release.
 *
 * A record that finds the ring empty may go to offset 0 although there is room behind the last one: so a ring of which little is used stays in the caches.
 *
 * Invariants: what lies between released and published is whole records. A record is at most half the ring, so it fits at every
 * position once the ring is empty. What a producer had not published when it died is invisible; a new producer starts at the
 * published position, a new consumer at the released one. The consumer believes no byte: lengths and positions that cannot be
 * are ERR_CORRUPT, again at every further call.
 * Threads: one producer thread and one consumer thread at a time.
 */
import { assert } from '../assert.js';
import { ConcordError, invalidArgument } from '../errors.js';

export const RING_HEADER_BYTES = 256;
const RING_CAPACITY_BYTES_MIN = 4 * 1024;
const RING_CAPACITY_BYTES_MAX = 64 * 1024 * 1024;

/** Index in `header` of the first word the users of a ring have for themselves; zero at first. */
export const RING_USER_WORDS = 32;
/** Cache lines of user words, at RING_USER_WORDS and RING_USER_WORDS + RING_USER_LINE_WORDS. Each can hold a Doorbell. */
export const RING_USER_LINES = 2;
export const RING_USER_LINE_WORDS = 16;

const PRODUCER = 0;
const CONSUMER = 16;
const RECORD_HEADER_BYTES = 8;
const SKIP = -1;
/** An empty ring begins at its start again from here on. */
const REWIND_BYTES = 64 * 1024;

assert(4 * (RING_USER_WORDS + RING_USER_LINES * RING_USER_LINE_WORDS) === RING_HEADER_BYTES, 'ring header layout');

/** A zeroed ring. `capacityBytes` is a power of two, 4 KiB to 64 MiB. */
export function createRing(capacityBytes: number): SharedArrayBuffer {
  checkCapacity(capacityBytes);
  return new SharedArrayBuffer(RING_HEADER_BYTES + capacityBytes);
}

/** The writing end. */
export class RingProducer {
  /** The header words, for RING_USER_WORDS. */
  readonly header: Int32Array<SharedArrayBuffer>;
  /** The data area; offsets of reserve() count in it. */
  readonly bytes: Buffer;
  /** The same bytes as words. */
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly capacity: number;
  /** The longest payload reserve() takes. */
  readonly maxRecordBytes: number;

  readonly #mask: number;
  /** End of the last reserved record. */
  #head: number;
  #published: number;
  /** Of what is not published: skips. */
  #skippedBytes = 0;
  /** The consumer's position when last loaded. */
  #tail: number;
  /** Offset of the last reserved record while it may still shrink, else -1. */
  #lastOffset = -1;
  /** Position of that record. */
  #lastStart = 0;

  constructor(sab: SharedArrayBuffer) {
    const capacity = checkCapacity(sab.byteLength - RING_HEADER_BYTES);
    this.header = new Int32Array(sab, 0, RING_HEADER_BYTES / 4);
    this.bytes = Buffer.from(sab, RING_HEADER_BYTES, capacity);
    this.words = new Int32Array(sab, RING_HEADER_BYTES, capacity / 4);
    this.capacity = capacity;
    this.maxRecordBytes = capacity / 2 - RECORD_HEADER_BYTES;
    this.#mask = capacity - 1;
    this.#head = Atomics.load(this.header, PRODUCER);
    this.#published = this.#head;
    this.#tail = 0;
    if ((this.#head & 7) !== 0) throw corruptPositions('producer', this.#head, this.#tail);
    this.#loadTail();
  }

  /**
   * Room for a payload of `length` bytes: its 8-byte aligned offset in `bytes`, or -1 when there is no room now.
   * The bytes there are old ones; write them all before publish().
   */
  reserve(length: number): number {
    if (!(length >= 0 && length <= this.maxRecordBytes)) {
      throw invalidArgument(`a record of this ring has 0 to ${this.maxRecordBytes} bytes, got ${length}`);
    }
    const recordBytes = recordBytesOf(length);
    let start = this.#head;
    let at = start & this.#mask;
    const bytesToEnd = this.capacity - at;
    const skipBytes = recordBytes > bytesToEnd || this.#mayRewind(at, recordBytes) ? bytesToEnd : 0;
    const neededBytes = skipBytes + recordBytes;
    if (neededBytes > this.capacity - ((start - this.#tail) | 0)) {
      this.#loadTail();
      if (neededBytes > this.capacity - ((start - this.#tail) | 0)) return -1;
    }
    if (skipBytes !== 0) {
      this.words[at >> 2] = SKIP;
      this.words[(at >> 2) + 1] = ~SKIP;
      this.#skippedBytes = skipBytes;
      start = (start + skipBytes) | 0;
      at = 0;
    }
    this.words[at >> 2] = length;
    this.words[(at >> 2) + 1] = ~length;
    this.#lastStart = start;
    this.#lastOffset = at + RECORD_HEADER_BYTES;
    this.#head = (start + recordBytes) | 0;
    return at + RECORD_HEADER_BYTES;
  }

  /**
   * Whether the next record may go to the start although there is room here: when the consumer has everything. So a ring that empties now and then stays in
   * the caches, whatever its capacity.
   */
  #mayRewind(at: number, recordBytes: number): boolean {
    if (at < REWIND_BYTES || at < recordBytes || this.#head !== this.#published) return false;
    this.#loadTail();
    return this.#tail === this.#head;
  }

  /** The record reserved last, at `offset`, and not yet published, has only `length` bytes: the rest is room again. */
  shrink(offset: number, length: number): void {
    assert(offset === this.#lastOffset, 'shrink: not the last reserved record');
    const word = (offset - RECORD_HEADER_BYTES) >> 2;
    if (!(length >= 0 && length <= this.words[word]!)) {
      throw invalidArgument(`a record of ${this.words[word]} bytes cannot shrink to ${length}`);
    }
    this.words[word] = length;
    this.words[word + 1] = ~length;
    this.#head = (this.#lastStart + recordBytesOf(length)) | 0;
  }

  /** Makes all reserved records visible at once. Nothing happens when there are none. */
  publish(): void {
    if (this.#head === this.#published) return;
    this.#published = this.#head;
    this.#skippedBytes = 0;
    this.#lastOffset = -1;
    Atomics.store(this.header, PRODUCER, this.#head);
  }

  get hasUnpublished(): boolean {
    return this.#head !== this.#published;
  }

  /** Of reserved records that nobody sees yet, headers and padding included, a skip to the start not. */
  get unpublishedBytes(): number {
    return ((this.#head - this.#published) | 0) - this.#skippedBytes;
  }

  /** Bytes not taken by records now, headers and padding included; a long record may need a skip to the start on top. */
  free(): number {
    this.#loadTail();
    return this.capacity - ((this.#head - this.#tail) | 0);
  }

  #loadTail(): void {
    const tail = Atomics.load(this.header, CONSUMER);
    const usedBytes = (this.#head - tail) | 0;
    if (usedBytes < 0 || usedBytes > this.capacity || (tail & 7) !== 0)
      throw corruptPositions('producer', this.#head, tail);
    this.#tail = tail;
  }
}

/** The reading end. */
export class RingConsumer {
  /** The header words, for RING_USER_WORDS. */
  readonly header: Int32Array<SharedArrayBuffer>;
  /** The data area; offsets of next() count in it. */
  readonly bytes: Buffer;
  /** The same bytes as words. */
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly capacity: number;
  /** The longest payload a record can have. */
  readonly maxRecordBytes: number;
  /** Payload bytes of the record next() returned last. */
  length = 0;

  readonly #mask: number;
  /** Start of the next record. */
  #position: number;
  #released: number;
  /** The producer's position when last loaded. */
  #head: number;

  constructor(sab: SharedArrayBuffer) {
    const capacity = checkCapacity(sab.byteLength - RING_HEADER_BYTES);
    this.header = new Int32Array(sab, 0, RING_HEADER_BYTES / 4);
    this.bytes = Buffer.from(sab, RING_HEADER_BYTES, capacity);
    this.words = new Int32Array(sab, RING_HEADER_BYTES, capacity / 4);
    this.capacity = capacity;
    this.maxRecordBytes = capacity / 2 - RECORD_HEADER_BYTES;
    this.#mask = capacity - 1;
    this.#position = Atomics.load(this.header, CONSUMER);
    this.#released = this.#position;
    this.#head = this.#position;
    if ((this.#position & 7) !== 0) throw corruptPositions('consumer', this.#head, this.#position);
  }

  /** The payload offset in `bytes` of the next record, its bytes in `length`; -1 when there is none. Valid until release(). */
  next(): number {
    let position = this.#position;
    if (position === this.#head && !this.#loadHead()) return -1;
    let at = position & this.#mask;
    let length = this.words[at >> 2]!;
    let check = this.words[(at >> 2) + 1]!;
    if (length === SKIP && check === ~SKIP) {
      const skipBytes = this.capacity - at;
      // A skip is published together with its record, and never stands at the start.
      if (at === 0 || skipBytes >= ((this.#head - position) | 0)) throw this.#corruptRecord(at, length);
      position = (position + skipBytes) | 0;
      at = 0;
      length = this.words[0]!;
      check = this.words[1]!;
    }
    if (check !== ~length || length < 0 || length > this.maxRecordBytes) throw this.#corruptRecord(at, length);
    const recordBytes = recordBytesOf(length);
    if (recordBytes > ((this.#head - position) | 0) || recordBytes > this.capacity - at)
      throw this.#corruptRecord(at, length);
    this.#position = (position + recordBytes) | 0;
    this.length = length;
    return at + RECORD_HEADER_BYTES;
  }

  /** Gives the room of every record returned so far back to the producer. */
  release(): void {
    this.releaseTo(this.#position);
  }

  /** Gives it back up to here: what `position` was behind one of these records. */
  releaseTo(position: number): void {
    if (position === this.#released) return;
    this.#released = position;
    Atomics.store(this.header, CONSUMER, position);
  }

  /** Where the next record begins: what release() would store. */
  get position(): number {
    return this.#position;
  }

  /** Whether next() would return a record now. The second look before parking. */
  pending(): boolean {
    return this.#position !== this.#head || this.#loadHead();
  }

  #loadHead(): boolean {
    const head = Atomics.load(this.header, PRODUCER);
    // Measured from the released position: what next() returned and release() has not freed counts as used.
    const usedBytes = (head - this.#released) | 0;
    const unreadBytes = (head - this.#position) | 0;
    if (unreadBytes < 0 || usedBytes > this.capacity || usedBytes < unreadBytes || (head & 7) !== 0) {
      throw corruptPositions('consumer', head, this.#released);
    }
    this.#head = head;
    return unreadBytes !== 0;
  }

  #corruptRecord(at: number, length: number): ConcordError {
    return new ConcordError(
      'ERR_CORRUPT',
      `ring record at ${at}: impossible length ${length} in ${this.capacity} bytes`,
      {
        offset: at,
        length,
        capacity: this.capacity,
      },
    );
  }
}

/** Header and padded payload. */
function recordBytesOf(length: number): number {
  return (length + RECORD_HEADER_BYTES + 7) & ~7;
}

function checkCapacity(capacityBytes: number): number {
  if (
    !Number.isInteger(capacityBytes) ||
    capacityBytes < RING_CAPACITY_BYTES_MIN ||
    capacityBytes > RING_CAPACITY_BYTES_MAX ||
    (capacityBytes & (capacityBytes - 1)) !== 0
  ) {
    throw invalidArgument(
      `ring capacity is a power of two, ${RING_CAPACITY_BYTES_MIN} to ${RING_CAPACITY_BYTES_MAX} bytes, got ${capacityBytes}`,
    );
  }
  return capacityBytes;
}

function corruptPositions(side: string, head: number, tail: number): ConcordError {
  return new ConcordError(
    'ERR_CORRUPT',
    `ring ${side}: published ${head >>> 0} and released ${tail >>> 0} cannot both be`,
    {
      published: head >>> 0,
      released: tail >>> 0,
    },
  );
}
