/**
 * What a transaction tells a shard: what it has read and scanned there, to be looked at again, and what it writes there. The body of the requests
 * Transaction and Prepare; it never reaches a disk. Everything little-endian.
 *
 *   offset  size  field
 *        0     4  flags         bits 0-1 isolation (0 read-committed, 2 serializable), bit 2 pessimistic
 *        4     4  writesOffset  from the body's start, a multiple of 8
 *        8     8  id            f64, 0: none
 *       16     8  snapshot      f64, the state that was read (S), 0: none
 *       24     8  readMs        f64, the time by which expiry was judged, ms since the epoch
 *       32     4  reads         how many
 *       36     4  ranges
 *       40     4  writes
 *       44     8  mask          shards that are written to: low u32, high u32
 *       52     4  lockEpoch     pessimistic: restarts of the shard when the first lock there was taken. Optimistic: 0, or 1 + the restarts of all shards as of
 *                               which others were asked for their votes, which they keep by locks
 *       56     4  priority      i32
 *       60     4  waitMs        how long it waits for locks at most, 0: as long as a plain write does
 *       64     8  age           f64, id of the first attempt, 0: the age is that of its arrival
 *       72     …  reads         seq seen f64 (0: absent) · space u32 · keyLength u16 · zero u16 · key · padding to 8
 *        …     …  ranges        space u32 · lowLength u16 · highLength u16 (RANGE_OPEN: no bound) · low · high · padding to 8
 *        …     …  writes        Put and Delete records (operation.ts), all but the last joined to the next, to the body's end
 *
 * Both sides are reused from transaction to transaction and allocate nothing on the way. Threads: any, an instance belongs to one.
 */
import { ConcordError } from '../../shared/errors.js';
import { SPACE_ID_MAX } from '../engine.js';
import {
  NUMBER_MAX,
  OPERATION_EXTENDED,
  OPERATION_EXTENSION_BYTES,
  OPERATION_HEADER_BYTES,
  OPERATION_JOINED,
  OperationKind,
  checkWrites,
  isNumber,
  operationBytes,
  writeOperationExtension,
  writeOperationHeader,
} from '../operation.js';

export const Isolation = { ReadCommitted: 0, RepeatableRead: 1, Serializable: 2 } as const;
export type IsolationLevel = (typeof Isolation)[keyof typeof Isolation];

/** Of a body: repeatable-read is serializable with less that was read. */
export type BodyIsolation = Exclude<IsolationLevel, typeof Isolation.RepeatableRead>;

export const BODY_HEADER_BYTES = 72;
/** Of a range: in place of a length, there is no bound. */
const RANGE_OPEN = 0xffff;

const FLAG_PESSIMISTIC = 4;
const READ_HEADER_BYTES = 16;
const RANGE_HEADER_BYTES = 8;
const WRITES_WORD = 40 >> 2;
const SCRATCH_BYTES = 16 * 1024;
/** A larger scratch is given back when the next transaction begins. */
const KEPT_BYTES_MAX = 1 << 20;

/**
 * Builds one body in place. Order: begin(), all reads, all ranges, all writes, seal(). What seal() returns is the writer itself: `bytes` from 0 to
 * `length`, good until the next begin().
 */
export class TransactionBodyWriter {
  bytes!: Buffer;
  /** The same memory, for copying by words. */
  words!: Int32Array;
  length = 0;
  #doubles!: Float64Array;
  #at = 0;
  #writesAt = 0;
  #lastWriteAt = 0;
  #reads = 0;
  #ranges = 0;
  #writes = 0;

  constructor() {
    this.#allocate(SCRATCH_BYTES);
  }

  #allocate(bytes: number): void {
    const buffer = new ArrayBuffer((bytes + 7) & ~7);
    this.bytes = Buffer.from(buffer);
    this.words = new Int32Array(buffer);
    this.#doubles = new Float64Array(buffer);
  }

  #ensure(bytes: number): void {
    const needed = this.#at + bytes;
    if (needed > this.bytes.length) this.#grow(needed);
  }

  #grow(needed: number): void {
    const before = this.bytes;
    this.#allocate(Math.max(before.length * 2, needed));
    this.bytes.set(before.subarray(0, this.#at), 0);
  }

  /** Forgets what was built; a scratch that a large transaction has left is given back. begin() does the same. */
  reset(): void {
    if (this.bytes.length > KEPT_BYTES_MAX) this.#allocate(SCRATCH_BYTES);
    this.#at = 0;
    this.length = 0;
    this.#reads = 0;
    this.#ranges = 0;
    this.#writes = 0;
    this.#writesAt = 0;
  }

  /** id, snapshot, lockEpoch: 0 where there is none. The masks: shards that are written to. */
  begin(
    isolation: BodyIsolation,
    isPessimistic: boolean,
    id: number,
    snapshot: number,
    readMs: number,
    maskLow: number,
    maskHigh: number,
    lockEpoch: number,
  ): void {
    this.reset();
    const { words } = this;
    const doubles = this.#doubles;
    words[0] = isolation | (isPessimistic ? FLAG_PESSIMISTIC : 0);
    doubles[1] = id;
    doubles[2] = snapshot;
    doubles[3] = readMs;
    words[11] = maskLow;
    words[12] = maskHigh;
    words[13] = lockEpoch;
    this.waitAs(0, 0, 0);
    this.#at = BODY_HEADER_BYTES;
  }

  /** Of one that waits for locks: its place among others, and for how long. Without it, it waits as a plain write does. waitMs: a whole number. */
  waitAs(priority: number, age: number, waitMs: number): void {
    const { words } = this;
    words[14] = priority;
    words[15] = waitMs;
    this.#doubles[8] = age;
  }

  /** As begin() was told. */
  get id(): number {
    return this.#doubles[1]!;
  }

  get reads(): number {
    return this.#reads;
  }

  get ranges(): number {
    return this.#ranges;
  }

  get writes(): number {
    return this.#writes;
  }

  /** Bytes so far: what seal() will tell, padding not counted. */
  get size(): number {
    return this.#at;
  }

  /** A key that was looked up: seq is the version's number, 0: there was none. */
  addRead(space: number, key: Uint8Array, keyLength: number, seq: number): void {
    if (this.#ranges > 0 || this.#writes > 0) throw outOfOrder('a read');
    const size = (READ_HEADER_BYTES + keyLength + 7) & ~7;
    this.#ensure(size);
    const at = this.#at;
    const { words, bytes } = this;
    this.#doubles[(at + size - 8) >> 3] = 0;
    this.#doubles[at >> 3] = seq;
    words[(at + 8) >> 2] = space;
    words[(at + 12) >> 2] = keyLength;
    copy(key, keyLength, bytes, at + READ_HEADER_BYTES);
    this.#at = at + size;
    this.#reads++;
  }

  /** [low, high) was scanned; undefined: no bound. */
  addRange(space: number, low: Uint8Array | undefined, high: Uint8Array | undefined): void {
    if (this.#writes > 0) throw outOfOrder('a range');
    const lowLength = low?.length ?? 0;
    const highLength = high?.length ?? 0;
    const size = (RANGE_HEADER_BYTES + lowLength + highLength + 7) & ~7;
    this.#ensure(size);
    const at = this.#at;
    const { words, bytes } = this;
    this.#doubles[(at + size - 8) >> 3] = 0;
    words[at >> 2] = space;
    words[(at + 4) >> 2] =
      (low === undefined ? RANGE_OPEN : lowLength) | ((high === undefined ? RANGE_OPEN : highLength) << 16);
    if (low !== undefined) copy(low, lowLength, bytes, at + RANGE_HEADER_BYTES);
    if (high !== undefined) copy(high, highLength, bytes, at + RANGE_HEADER_BYTES + lowLength);
    this.#at = at + size;
    this.#ranges++;
  }

  /** Each key is written once. expiresAt: ms since the epoch, 0: never. */
  addPut(
    space: number,
    key: Uint8Array,
    keyLength: number,
    value: Uint8Array,
    valueLength: number,
    expiresAt: number,
  ): void {
    const extension = space === 0 && expiresAt === 0 ? 0 : OPERATION_EXTENSION_BYTES;
    const at = this.#addWrite(OperationKind.Put, space, extension, key, keyLength, valueLength, expiresAt);
    copy(value, valueLength, this.bytes, at + keyLength);
  }

  addDel(space: number, key: Uint8Array, keyLength: number): void {
    this.#addWrite(OperationKind.Delete, space, space === 0 ? 0 : OPERATION_EXTENSION_BYTES, key, keyLength, 0, 0);
  }

  /** Returns where the key stands. */
  #addWrite(
    kind: number,
    space: number,
    extension: number,
    key: Uint8Array,
    keyLength: number,
    valueLength: number,
    expiresAt: number,
  ): number {
    const size = operationBytes(keyLength, valueLength, extension);
    this.#ensure(size);
    const at = this.#at;
    const { bytes } = this;
    if (this.#writes === 0) this.#writesAt = at;
    else bytes[this.#lastWriteAt + 1]! |= OPERATION_JOINED;
    this.words[(at + size - 4) >> 2] = 0;
    writeOperationHeader(bytes, at, kind, extension === 0 ? 0 : OPERATION_EXTENDED, keyLength, valueLength);
    if (extension !== 0) writeOperationExtension(bytes, at, space, expiresAt);
    const keyAt = at + OPERATION_HEADER_BYTES + extension;
    copy(key, keyLength, bytes, keyAt);
    this.#lastWriteAt = at;
    this.#at = at + size;
    this.#writes++;
    return keyAt;
  }

  /** Ends the body. */
  seal(): this {
    const { words } = this;
    words[1] = this.#writes === 0 ? this.#at : this.#writesAt;
    words[8] = this.#reads;
    words[9] = this.#ranges;
    words[WRITES_WORD] = this.#writes;
    this.length = this.#at;
    return this;
  }
}

/** Keys are short: for them a loop is faster than a view made for set(). */
function copy(from: Uint8Array, length: number, into: Uint8Array, at: number): void {
  if (length <= 64) for (let i = 0; i < length; i++) into[at + i] = from[i]!;
  else into.set(length === from.length ? from : from.subarray(0, length), at);
}

function outOfOrder(what: string): ConcordError {
  return new ConcordError('ERR_INTERNAL', `${what} of a transaction was added behind what must follow it`);
}

/**
 * Reads a body. open() checks every byte that anything depends on; then the fields are good until the bytes are given back:
 *
 *   body.open(bytes, start, end);
 *   for (body.rewindReads(); body.nextRead();)   … body.readSpace, body.keyStart, body.keyLength, body.readSeq
 *   for (body.rewindRanges(); body.nextRange();) … body.rangeSpace, body.lowStart, body.lowLength (−1: open), …
 *   writes: operation records, bytes[writesStart … writesEnd)
 */
export class TransactionBody {
  bytes: Uint8Array = new Uint8Array(0);
  #start = 0;

  isolation: BodyIsolation = Isolation.ReadCommitted;
  isPessimistic = false;
  id = 0;
  snapshot = 0;
  readMs = 0;
  reads = 0;
  ranges = 0;
  writes = 0;
  maskLow = 0;
  maskHigh = 0;
  lockEpoch = 0;
  priority = 0;
  waitMs = 0;
  age = 0;
  writesStart = 0;
  writesEnd = 0;

  // The read at hand.
  readSeq = 0;
  readSpace = 0;
  keyStart = 0;
  keyLength = 0;
  #nextRead = 0;
  #readsLeft = 0;

  // The range at hand. A length of −1: no bound.
  rangeSpace = 0;
  lowStart = 0;
  lowLength = -1;
  highStart = 0;
  highLength = -1;
  #firstRange = 0;
  #nextRange = 0;
  #rangesLeft = 0;

  readonly #double = new Float64Array(1);
  readonly #doubleBytes = new Uint8Array(this.#double.buffer);

  /** @throws ERR_CORRUPT when anything is impossible; the fields mean nothing then */
  open(bytes: Uint8Array, start: number, end: number): this {
    if (start < 0 || end > bytes.length || end - start < BODY_HEADER_BYTES) throw corrupt('its header is cut off');
    this.bytes = bytes;
    this.#start = start;
    const flags = this.#u32(start);
    const isolation = flags & ~FLAG_PESSIMISTIC;
    if (isolation !== Isolation.ReadCommitted && isolation !== Isolation.Serializable)
      throw corrupt(`unknown flags ${flags}`);
    this.isolation = isolation;
    this.isPessimistic = (flags & FLAG_PESSIMISTIC) !== 0;
    this.id = this.#number(start + 8);
    this.snapshot = this.#number(start + 16);
    this.readMs = this.#f64(start + 24);
    if (!(this.readMs >= 0 && this.readMs <= NUMBER_MAX)) throw corrupt(`an impossible time ${this.readMs}`);
    this.reads = this.#u32(start + 32);
    this.ranges = this.#u32(start + 36);
    this.writes = this.#u32(start + 40);
    this.maskLow = this.#u32(start + 44);
    this.maskHigh = this.#u32(start + 48);
    this.lockEpoch = this.#u32(start + 52);
    this.priority = this.#u32(start + 56) | 0;
    this.waitMs = this.#u32(start + 60);
    this.age = this.#number(start + 64);
    const writesStart = start + this.#u32(start + 4);
    if (writesStart > end || ((writesStart - start) & 7) !== 0)
      throw corrupt('its writes begin at an impossible place');
    if (this.reads * READ_HEADER_BYTES + this.ranges * RANGE_HEADER_BYTES > writesStart - start - BODY_HEADER_BYTES)
      throw corrupt(`${this.reads} reads and ${this.ranges} ranges do not fit`);
    let at = start + BODY_HEADER_BYTES;
    for (let i = 0; i < this.reads; i++) at = this.#checkRead(at, writesStart);
    this.#firstRange = at;
    for (let i = 0; i < this.ranges; i++) at = this.#checkRange(at, writesStart);
    if (at !== writesStart) throw corrupt('bytes that belong to nothing');
    if (checkWrites(bytes, writesStart, end) !== this.writes) throw corrupt(`not ${this.writes} writes`);
    this.writesStart = writesStart;
    this.writesEnd = end;
    this.rewindReads();
    this.rewindRanges();
    return this;
  }

  #checkRead(at: number, end: number): number {
    if (at + READ_HEADER_BYTES > end) throw corrupt('a read is cut off');
    this.#number(at);
    if (this.#u32(at + 8) > SPACE_ID_MAX) throw corrupt('a read of an impossible space');
    const lengths = this.#u32(at + 12);
    if (lengths > 0xffff) throw corrupt('bytes that must be zero');
    const next = at + ((READ_HEADER_BYTES + lengths + 7) & ~7);
    if (next > end) throw corrupt('a read is cut off');
    return next;
  }

  #checkRange(at: number, end: number): number {
    if (at + RANGE_HEADER_BYTES > end) throw corrupt('a range is cut off');
    if (this.#u32(at) > SPACE_ID_MAX) throw corrupt('a range of an impossible space');
    const lengths = this.#u32(at + 4);
    const low = lengths & 0xffff;
    const high = lengths >>> 16;
    const bounds = (low === RANGE_OPEN ? 0 : low) + (high === RANGE_OPEN ? 0 : high);
    const next = at + ((RANGE_HEADER_BYTES + bounds + 7) & ~7);
    if (next > end) throw corrupt('a range is cut off');
    return next;
  }

  rewindReads(): void {
    this.#nextRead = this.#start + BODY_HEADER_BYTES;
    this.#readsLeft = this.reads;
  }

  /** False when there is none left. */
  nextRead(): boolean {
    if (this.#readsLeft === 0) return false;
    this.#readsLeft--;
    const at = this.#nextRead;
    this.readSeq = this.#f64(at);
    this.readSpace = this.#u32(at + 8);
    this.keyStart = at + READ_HEADER_BYTES;
    this.keyLength = this.#u32(at + 12);
    this.#nextRead = at + ((READ_HEADER_BYTES + this.keyLength + 7) & ~7);
    return true;
  }

  rewindRanges(): void {
    this.#nextRange = this.#firstRange;
    this.#rangesLeft = this.ranges;
  }

  nextRange(): boolean {
    if (this.#rangesLeft === 0) return false;
    this.#rangesLeft--;
    const at = this.#nextRange;
    this.rangeSpace = this.#u32(at);
    const lengths = this.#u32(at + 4);
    const low = lengths & 0xffff;
    const high = lengths >>> 16;
    this.lowLength = low === RANGE_OPEN ? -1 : low;
    this.highLength = high === RANGE_OPEN ? -1 : high;
    this.lowStart = at + RANGE_HEADER_BYTES;
    this.highStart = this.lowStart + (low === RANGE_OPEN ? 0 : low);
    this.#nextRange = (this.highStart - this.#start + (high === RANGE_OPEN ? 0 : high) + 7) & ~7;
    this.#nextRange += this.#start;
    return true;
  }

  #u32(at: number): number {
    const { bytes } = this;
    return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
  }

  #f64(at: number): number {
    const { bytes } = this;
    const double = this.#doubleBytes;
    for (let i = 0; i < 8; i++) double[i] = bytes[at + i]!;
    return this.#double[0]!;
  }

  #number(at: number): number {
    const value = this.#f64(at);
    if (!isNumber(value)) throw corrupt(`an impossible number ${value}`);
    return value;
  }
}

function corrupt(what: string): ConcordError {
  return new ConcordError('ERR_CORRUPT', `body of a transaction: ${what}`);
}
