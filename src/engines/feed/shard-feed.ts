/**
 * The feed of one shard: its frames taken apart into units, in the order of their commits. A unit is what became visible at once and belongs together:
 * an operation, a batch, a transaction's writes in this shard.
 *
 *   frame  | chunk | put | put→ put→ del | putBlob | prepare 7 | resolve 5 |      units: transaction 5, put, (put, put, del), the blob's put
 *
 * Transactions that were prepared come first in the frame that resolves them: their numbers are below all of its others. A chunk and a Prepare change
 * nothing by themselves; what they belong to may have begun before the place where this feed began: then the log is searched for it, once. If it was cut
 * off meanwhile the feed is told so, and passes nothing over that was committed behind its place.
 *
 * Units with nothing that is wanted are passed over, but for transactions over several shards, which others wait for. Threads: the reader's.
 */
import { ConcordError } from '../../shared/errors.js';
import {
  BLOB_REFERENCE_BYTES,
  CLEAR_HAS_HIGH,
  CLEAR_HAS_LOW,
  OPERATION_EXPIRED,
  OPERATION_HEADER_BYTES,
  OPERATION_JOINED,
  OperationKind,
  PREPARE_KEY_BYTES,
  checkOperation,
  operationKeyAt,
  operationSpan,
  readBlobReference,
  readKeyLength,
  readOperationExpiry,
  readOperationSpace,
  readPrepareKey,
  readResolveNumber,
  readTransactionId,
  readValueLength,
} from '../operation.js';
import type { FeedFrame, FeedLimits, FeedPosition, FeedSource } from './source.js';
import { truncated } from './source.js';
import { Unfinished, loadStretch, type Prepared, type Stretch } from './unfinished.js';

/** What a feed is to tell of. */
export interface FeedFilter {
  wants(spaceId: number, bytes: Buffer, keyAt: number, keyLength: number): boolean;
  /** A clear of [low, high), undefined: open. */
  wantsRange(spaceId: number, low: Buffer | undefined, high: Buffer | undefined): boolean;
}

/** One change as it stands in the log: places in bytes that are nobody else's. */
export interface RawChange {
  readonly kind: 'put' | 'del' | 'clear';
  /** Of a delete: the shard's own, when the entry's time had come. */
  readonly isExpiry: boolean;
  readonly spaceId: number;
  readonly bytes: Buffer;
  readonly keyAt: number;
  readonly keyLength: number;
  readonly value: Buffer;
  readonly valueAt: number;
  readonly valueLength: number;
  /** 0: never. */
  readonly expiresAt: number;
  readonly seq: number;
  /** Of a clear: [low, high), undefined: open. */
  readonly low: Buffer | undefined;
  readonly high: Buffer | undefined;
}

export interface FeedTransaction {
  readonly id: number;
  /** Shards that it writes to, one bit each. */
  readonly maskLow: number;
  readonly maskHigh: number;
}

export interface FeedUnit {
  readonly shard: number;
  /** The number of its first change, of a transaction its own. */
  readonly seq: number;
  /** Whether its changes were made together by their maker, however many they are. */
  readonly isJoined: boolean;
  readonly transaction: FeedTransaction | undefined;
}

interface Unit extends FeedUnit {
  /** Among the units of its frame. */
  readonly ordinal: number;
  readonly frame: FeedFrame;
  /** Records: frame.bytes[at, end). Of a batch or transaction: `writes`. */
  readonly at: number;
  readonly end: number;
  readonly writes: Stretch | undefined;
  loaded: Buffer | undefined;
  /** Values that came in chunks, by the offsets of their records. */
  readonly blobs: ReadonlyMap<number, Stretch> | undefined;
}

/** Kept in memory of what is unfinished; the rest is read again. */
const KEPT_BYTES_MAX = 16 << 20;

export class ShardFeed {
  readonly shard: number;
  readonly #source: FeedSource;
  readonly #filter: FeedFilter;
  readonly #unfinished = new Unfinished(KEPT_BYTES_MAX);
  /** All before the place where this feed stands has been searched for what is unfinished. */
  #isSearched = false;
  /** Units of #frame, from #next on to come. */
  #units: Unit[] = [];
  #next = 0;
  #frame: FeedFrame | undefined;
  /** Where #frame begins, and with how many of its units passed. */
  #before: FeedPosition;
  /** Of the next frame: delivered in an earlier life. */
  #unitsToPass: number;

  constructor(shard: number, source: FeedSource, filter: FeedFilter, position: FeedPosition) {
    this.shard = shard;
    this.#source = source;
    this.#filter = filter;
    this.#before = position;
    this.#unitsToPass = position.unit;
    source.seek(position);
  }

  /** Behind the unit that was taken last. */
  get position(): FeedPosition {
    const unit = this.#units[this.#next];
    if (unit !== undefined) return { ...this.#before, unit: unit.ordinal };
    if (this.#frame === undefined && this.#unitsToPass > 0) return this.#before;
    return this.#source.position;
  }

  /** The next unit, if advance() has found it. */
  get head(): FeedUnit | undefined {
    return this.#units[this.#next];
  }

  get settledSeq(): number {
    return this.#source.settledSeq;
  }

  /** Reads one frame further. True: there was one, or there is more to look at; false: this is the end for now. */
  advance(limits: FeedLimits): boolean {
    const before = this.#source.position;
    const frame = this.#source.next(limits);
    if (frame === undefined) return this.#source.isSearching;
    this.#frame = frame;
    this.#before = { ...before, generation: frame.generation, offset: frame.offset, lsn: frame.lsn };
    this.#units = [];
    this.#next = 0;
    const units = this.#unitsOf(frame, true);
    const toPass = this.#unitsToPass;
    this.#unitsToPass = 0;
    this.#units = toPass === 0 ? units : units.filter(({ ordinal }) => ordinal >= toPass);
    return true;
  }

  /** The head is delivered, or not wanted. */
  pass(): void {
    this.#next++;
    if (this.#next < this.#units.length) return;
    this.#units = [];
    this.#next = 0;
  }

  /** A transaction's unit among those found. */
  holds(id: number): boolean {
    for (let i = this.#next; i < this.#units.length; i++) if (this.#units[i]!.transaction?.id === id) return true;
    return false;
  }

  /** Prepared before the place where this feed stands, and ended behind it. @throws ERR_FEED_TRUNCATED, ERR_CORRUPT, ERR_IO */
  hasPrepared(id: number): boolean {
    const source = this.#source;
    if (source.isOfOneLife) return false;
    // From the beginning on all of them were met.
    if (!this.#unfinished.hasPrepared(id) && !source.mayLackBeginnings) this.#search();
    return this.#unfinished.hasPrepared(id);
  }

  /**
   * Tells the changes of the head that are wanted, with their places among all of its records; returns how many records there are.
   * @throws ERR_FEED_TRUNCATED, ERR_CORRUPT, ERR_IO
   */
  *changes(): Generator<{ readonly change: RawChange; readonly record: number }, number> {
    const unit = this.#units[this.#next]!;
    const { bytes, start, end } = this.#recordsOf(unit);
    let { seq } = unit;
    let record = 0;
    for (let at = start; at < end; record++) {
      const size = sizeIn(unit, bytes, at, end);
      const blob = unit.blobs?.get(at);
      if (wantsRecord(this.#filter, bytes, at)) {
        const value = blob === undefined ? undefined : loadStretch(this.#source, blob);
        yield { change: changeOf(bytes, at, seq, value), record };
      }
      // All writes of a transaction over several shards have its number.
      if (unit.transaction === undefined) seq++;
      at += size;
    }
    return record;
  }

  /** How many changes of the head are wanted. @throws as changes() */
  countWanted(): number {
    const unit = this.#units[this.#next]!;
    const { bytes, start, end } = this.#recordsOf(unit);
    let wanted = 0;
    for (let at = start; at < end;) {
      const size = sizeIn(unit, bytes, at, end);
      if (wantsRecord(this.#filter, bytes, at)) wanted++;
      at += size;
    }
    return wanted;
  }

  #recordsOf(unit: Unit): { bytes: Buffer; start: number; end: number } {
    if (unit.writes === undefined) return { bytes: unit.frame.bytes, start: unit.at, end: unit.end };
    const bytes = (unit.loaded ??= loadStretch(this.#source, unit.writes));
    return { bytes, start: 0, end: bytes.length };
  }

  #unitsOf(frame: FeedFrame, isLive: boolean, until = frame.end): Unit[] {
    const { bytes, start, end } = frame;
    const unfinished = this.#unfinished;
    const resolved: Unit[] = [];
    const units: Unit[] = [];
    let resolves = 0;
    let others = 0;
    let { firstSeq: seq } = frame;
    for (let at = start; at < until;) {
      const size = checkIn(frame, at, end);
      const kind = bytes[at]!;
      if (kind === OperationKind.Chunk) {
        const reference = readBlobReference(bytes, at + OPERATION_HEADER_BYTES);
        const bytesAt = at + OPERATION_HEADER_BYTES + BLOB_REFERENCE_BYTES;
        unfinished.chunk(frame, bytesAt, readValueLength(bytes, at), reference);
        seq++;
      } else if (kind === OperationKind.Prepare) {
        const { id, maskLow, maskHigh } = readPrepareKey(bytes, at);
        const writesAt = at + OPERATION_HEADER_BYTES + PREPARE_KEY_BYTES;
        unfinished.prepare(frame, id, maskLow, maskHigh, writesAt, readValueLength(bytes, at));
      } else if (kind === OperationKind.Resolve) {
        const number = readResolveNumber(bytes, at);
        const id = readTransactionId(bytes, at);
        // Given up, or delivered in an earlier life: it need not be found.
        const isWanted = isLive && number !== 0 && resolves >= this.#unitsToPass;
        const prepared = this.#preparedOf(at, id, isWanted);
        if (number !== 0) {
          const ordinal = resolves++;
          if (prepared !== undefined) {
            const { maskLow, maskHigh, writes } = prepared;
            const transaction = { id, maskLow, maskHigh };
            const { shard } = this;
            const seqOf = { seq: number, isJoined: true, transaction, writes, blobs: undefined, loaded: undefined };
            resolved.push({ shard, ordinal, frame, at: 0, end: 0, ...seqOf });
          }
        }
      } else if (kind === OperationKind.ApplyBatch) {
        const span = operationSpan(bytes, at);
        const writes = this.#blobOf(bytes, at, isLive);
        const none = { transaction: undefined, blobs: undefined, loaded: undefined };
        const common = { shard: this.shard, seq, isJoined: true, frame, ...none };
        units.push({ ...common, ordinal: others++, at: 0, end: 0, writes });
        seq += span;
      } else {
        const unitAt = at;
        const unitSeq = seq;
        let unitEnd = at + size;
        let isWanted = false;
        let blobs: Map<number, Stretch> | undefined;
        for (let record = at; ;) {
          const isBlob = bytes[record] === OperationKind.PutBlob;
          if (isLive && wantsRecord(this.#filter, bytes, record)) {
            isWanted = true;
            if (isBlob) (blobs ??= new Map()).set(record, this.#blobOf(bytes, record, isLive)!);
          } else if (isBlob) {
            // Not to be searched for: nobody wants it.
            const reference = readBlobReference(bytes, operationKeyAt(bytes, record) + readKeyLength(bytes, record));
            unfinished.takeBlob(reference.client, reference.blob, reference.offset);
          }
          seq++;
          if (bytes[record] === OperationKind.ClearRange || (bytes[record + 1]! & OPERATION_JOINED) === 0) break;
          record = unitEnd;
          if (record >= end) throw corruptAt(frame, at, 'operations that belong together are cut off');
          unitEnd += checkIn(frame, record, end);
          const joined = bytes[record];
          if (joined !== OperationKind.Put && joined !== OperationKind.Delete && joined !== OperationKind.PutBlob)
            throw corruptAt(frame, record, `an operation of kind ${joined} in a batch`);
        }
        const ordinal = others++;
        if (isWanted) {
          const isJoined = unitEnd > unitAt + size;
          const none = { transaction: undefined, writes: undefined, loaded: undefined };
          const common = { shard: this.shard, seq: unitSeq, isJoined, frame, ...none };
          units.push({ ...common, ordinal, at: unitAt, end: unitEnd, blobs });
        }
        at = unitEnd;
        continue;
      }
      at += size;
    }
    if (!isLive) return [];
    // Behind those that are resolved here.
    const behind = resolves === 0 ? units : units.map((unit) => ({ ...unit, ordinal: unit.ordinal + resolves }));
    return [...resolved, ...behind];
  }

  /** Of the record at `at` of the frame at hand. Undefined: it is not wanted; or it was cut off, and began before anything that this feed was to tell. */
  #preparedOf(at: number, id: number, isWanted: boolean): Prepared | undefined {
    const unfinished = this.#unfinished;
    const prepared = unfinished.takePrepared(id);
    if (prepared !== undefined || !isWanted) return prepared;
    const searched = this.#search(at) ? unfinished.takePrepared(id) : undefined;
    if (searched !== undefined || this.#source.mayLackBeginnings) return searched;
    const { lsn } = this.#frame!;
    throw truncated(this.shard, lsn, `the log was cut within transaction ${id}, which record ${lsn} commits`);
  }

  #blobOf(bytes: Buffer, at: number, isLive: boolean): Stretch | undefined {
    const unfinished = this.#unfinished;
    const { client, blob, offset } = readBlobReference(bytes, operationKeyAt(bytes, at) + readKeyLength(bytes, at));
    const found = unfinished.takeBlob(client, blob, offset);
    if (found !== undefined || !isLive) return found;
    const searched = this.#search(at) ? unfinished.takeBlob(client, blob, offset) : undefined;
    if (searched !== undefined) return searched;
    const { lsn } = this.#frame!;
    throw truncated(this.shard, lsn, `the log was cut within a large value that record ${lsn} completes`);
  }

  /**
   * Looks through the log before the place where this feed stands for what it has left unfinished; `at`: that is this record of the frame at hand.
   * False: that was done before.
   */
  #search(at?: number): boolean {
    if (this.#isSearched) return false;
    this.#isSearched = true;
    const publishedSeq = at === undefined ? this.#source.position.seq : this.#frame!.firstSeq - 1;
    const source = this.#source.fork();
    source.seek(source.beginning());
    const limits = { publishedSeq, lastSeq: Infinity, syncedLsn: 0, durable: false };
    this.#unfinished.clear();
    for (;;) {
      const frame = source.next(limits);
      if (frame !== undefined) this.#unitsOf(frame, false);
      else if (!source.isSearching) break;
    }
    // What the frame at hand has brought before that.
    if (at !== undefined) this.#unitsOf(this.#frame!, false, at);
    return true;
  }
}

function wantsRecord(filter: FeedFilter, bytes: Buffer, at: number): boolean {
  const spaceId = readOperationSpace(bytes, at);
  const keyAt = operationKeyAt(bytes, at);
  const keyLength = readKeyLength(bytes, at);
  if (bytes[at] !== OperationKind.ClearRange) return filter.wants(spaceId, bytes, keyAt, keyLength);
  const { low, high } = boundsOf(bytes, at);
  return filter.wantsRange(spaceId, low, high);
}

function boundsOf(bytes: Buffer, at: number): { low: Buffer | undefined; high: Buffer | undefined } {
  const flags = bytes[at + 1]!;
  const lowAt = operationKeyAt(bytes, at);
  const highAt = lowAt + readKeyLength(bytes, at);
  return {
    low: flags & CLEAR_HAS_LOW ? bytes.subarray(lowAt, highAt) : undefined,
    high: flags & CLEAR_HAS_HIGH ? bytes.subarray(highAt, highAt + readValueLength(bytes, at)) : undefined,
  };
}

/** Of a (checked) record. `blob`: its value, if that came in chunks. */
function changeOf(bytes: Buffer, at: number, seq: number, blob: Buffer | undefined): RawChange {
  const kind = bytes[at]!;
  const keyAt = operationKeyAt(bytes, at);
  const keyLength = readKeyLength(bytes, at);
  const isClear = kind === OperationKind.ClearRange;
  const { low, high } = isClear ? boundsOf(bytes, at) : { low: undefined, high: undefined };
  return {
    kind: isClear ? 'clear' : kind === OperationKind.Delete ? 'del' : 'put',
    isExpiry: kind === OperationKind.Delete && (bytes[at + 1]! & OPERATION_EXPIRED) !== 0,
    spaceId: readOperationSpace(bytes, at),
    bytes,
    keyAt,
    keyLength,
    value: blob ?? bytes,
    valueAt: blob === undefined ? keyAt + keyLength : 0,
    valueLength: blob === undefined ? readValueLength(bytes, at) : blob.length,
    expiresAt: readOperationExpiry(bytes, at),
    seq,
    low,
    high,
  };
}

/** Of the unit's record at `at`. */
function sizeIn(unit: Unit, bytes: Buffer, at: number, end: number): number {
  if (unit.writes === undefined) return checkIn(unit.frame, at, end);
  // They were checked before they were logged, and their frames are intact.
  const kind = bytes[at];
  if (kind !== OperationKind.Put && kind !== OperationKind.Delete)
    throw corruptAt(unit.frame, unit.frame.start, `an operation of kind ${kind} in a batch`);
  try {
    return checkOperation(bytes, at, end);
  } catch (error) {
    if (!(error instanceof ConcordError)) throw error;
    throw corruptAt(unit.frame, unit.frame.start, `in a batch: ${error.message}`);
  }
}

/** What is wrong with a record whose frame is intact was wrong when it was written. */
function checkIn(frame: FeedFrame, at: number, end: number): number {
  try {
    return checkOperation(frame.bytes, at, end);
  } catch (error) {
    if (!(error instanceof ConcordError)) throw error;
    throw corruptAt(frame, at, error.message);
  }
}

function corruptAt(frame: FeedFrame, at: number, text: string): ConcordError {
  const offset = frame.payloadOffset + at - frame.start;
  return new ConcordError('ERR_CORRUPT', `${frame.file} at ${offset}: ${text}`, { file: frame.file, offset });
}
