/**
 * The writer of a shard's write-ahead log.
 *
 *   begin() → payload at bytes[position…], ensure() → commit() = one frame, one LSN, one write()     sync() = one fdatasync
 *   every 2 MiB that nobody synced: an fdatasync behind the thread's back, so that the one at the change of segments finds little left to do.
 *   Such a log changes segments from three quarters on at the first moment at which the disk has just answered quickly
 *
 *   bytes   [ buffered frames … | header | payload → position ]        segment  [ header | frames … | end | zeros or old bytes ]
 *
 * The caller builds the payload in the writer's own buffer behind room for the header, so a group is copied once, from the client's
 * ring into the buffer that is written. Segment files are preallocated: spares made elsewhere or recycled from the log's own old end;
 * without a spare the file grows by zeroed steps. A log that is hardly ever synced has nothing of zeros but the work of writing them: its new
 * files grow with their frames.
 *
 * Invariants
 * - LSNs are consecutive; frames reach the file in LSN order.
 * - A segment is synced before its successor gets a name, and its successor's header before that. So whatever is bad in a segment
 *   that is not the last is damage, and the last one's header is always whole.
 * - After a failed write the file is cut back to the last good frame and synced before anyone hears of the failure: a frame whose
 *   commit() threw is never replayed (on a file system too full even for that: from the next successful call on).
 * - After a failed fdatasync (of either kind, or cut) nothing is accepted any more: the kernel may have dropped the pages and would call the next sync
 *   a success. Only a new writer behind a recovery goes on; it writes the doubtful tail anew.
 * - A file is reused only after its old name is durably gone.
 * - Segments go oldest first: what is left of the log has no gap. The one that is written goes too when nothing of it is needed, behind a new one. Those kept for readers go first of all when the disk is full.
 *
 * Format: format.ts. Threads: the shard's, which owns the directory.
 */
import { assert } from '../../shared/assert.js';
import { ConcordError, invalidArgument, isDiskFull } from '../../shared/errors.js';
import type { Env, EnvFile } from '../../shared/env/env.js';
import {
  FRAME_HEADER_BYTES,
  PAYLOAD_BYTES_MAX_DEFAULT,
  SALT_BYTES,
  SEGMENT_BYTES_DEFAULT,
  SEGMENT_BYTES_MAX,
  SEGMENT_BYTES_MIN,
  SEGMENT_HEADER_BYTES,
  TERMINATOR_BYTES,
  U32_MAX,
  U48_MAX,
  checkIdentity,
  encodeSegmentHeader,
  frameBytes,
  isSpareName,
  isTemporaryName,
  sealFrame,
  segmentName,
} from './format.js';
import { removeQuietly, writeZeros } from './preallocate.js';
import { listSegments } from './recovery.js';
import type { WalRecovery } from './recovery.js';

export { preallocateSegment } from './preallocate.js';

export interface WalOptions {
  /** 16 bytes. */
  readonly storeId: Uint8Array;
  readonly shard: number;
  /** 64 KiB ..= 1 GiB, a multiple of 4096. Default 32 MiB. */
  readonly segmentBytes?: number | undefined;
  /** Largest payload of one frame. Default 8 MiB, less where a segment is smaller. */
  readonly payloadBytesMax?: number | undefined;
  /** Without a ready spare a segment is preallocated in steps of this size. Default 4 MiB. */
  readonly preallocateBytes?: number | undefined;
  /** Written bytes at which a sync begins that nobody waits for; Infinity: never. Default 2 MiB. */
  readonly backgroundSyncBytes?: number | undefined;
  /** Files kept for reuse. Default 4. */
  readonly spareSegmentsMax?: number | undefined;
  /** Bytes of files that are kept, newest first, behind what a recovery needs: for readers that follow the log. Default 0. */
  readonly retainBytes?: number | undefined;
}

/** A sync behind the thread's back that took no longer says that the disk has no queue. */
const QUICK_SYNC_MS = 8;
/** Syncs of a segment that were waited for from which on preallocation pays. */
const SYNCS_MIN = 4;
/** Frames at the `memory` level are written at the latest when this much has gathered. */
const BUFFERED_BYTES_MAX = 1 << 20;
const BUFFER_BYTES_INITIAL = 256 << 10;
const NO_FRAME = -1;

interface Segment {
  readonly path: string;
  readonly generation: number;
  readonly firstLsn: number;
  usedBytes: number;
}

/** With its header, and not its name yet. */
interface PreparedSegment {
  readonly path: string;
  readonly file: EnvFile;
  readonly fileBytes: number;
  readonly seed: number;
}

interface Spare {
  readonly path: string;
  readonly fileBytes: number;
  readonly zeroed: boolean;
}

export class WalWriter {
  /** Payload goes to bytes[position…]. ensure() may replace it by a larger one. */
  bytes: Buffer;
  position = 0;
  /** Where the payload of the frame under construction, or committed last, begins; commit() may move it. */
  payloadStart = 0;
  readonly payloadBytesMax: number;

  readonly #env: Env;
  readonly #directory: string;
  readonly #storeId: Uint8Array;
  readonly #shard: number;
  readonly #segmentBytes: number;
  readonly #preallocateBytes: number;
  readonly #spareSegmentsMax: number;
  readonly #backgroundSyncBytes: number;

  /** Oldest first; the last is the one written. */
  readonly #segments: Segment[] = [];
  readonly #spares: Spare[] = [];
  /** No recovery needs them; kept for readers. Oldest first. */
  readonly #retained: { readonly path: string; readonly fileBytes: number }[] = [];
  #retainedBytes = 0;
  #retainBytes: number;
  /** Segments of lower generations may have gaps: they are not kept for readers. */
  #retainFromGeneration = 0;
  /** Segments that truncate() has left to removeUnneeded(). Oldest first. */
  #unneeded: string[] = [];
  #file: EnvFile | undefined;
  /** Where the next write() goes. */
  #filePosition = 0;
  // NaN, here and below: what may be no small integer later is none from the start. That would change the shape of the object, and throw all code away that was
  // compiled for it, whenever a segment comes whose seed or size is the first such one.
  #allocatedBytes = NaN;
  /** In the current segment. */
  #syncCount = 0;
  /** Syncs were waited for in this segment or the one before. */
  #preallocates = false;
  /** Of the current segment, for syncs that nobody waits for; see EnvFile.syncAsync(). */
  #syncHandle: EnvFile | undefined;
  #isSyncingBehind = false;
  /** A sync that covers the segment up to here has begun. */
  #syncBegunTo = 0;
  /** The next one begins when the segment is written up to here. */
  #syncDueAt = 0;
  /** A good moment to go on in the next segment. */
  #rollsEarly = false;
  #seed = NaN;
  #generation = 0;
  #nextGeneration: number;

  /** Frames in bytes[0, #bufferedBytes) are committed and not yet written. */
  #bufferedBytes = 0;
  #frameStart = NO_FRAME;
  #lastLsn: number;
  #writtenLsn: number;
  #syncedLsn: number;
  /** A failed write is still to be cut off. */
  #isCutPending = false;
  #failure: ConcordError | undefined;
  #isClosed = false;

  /** A log for a new store, in a directory that exists and has no segments. The first frame gets `nextLsn`. */
  static create(env: Env, directory: string, options: WalOptions, nextLsn = 1): WalWriter {
    if (!Number.isInteger(nextLsn) || nextLsn < 1 || nextLsn > U48_MAX)
      throw invalidArgument(`nextLsn must be 1 ..= 2^48 - 1, got ${nextLsn}`);
    const existing = listSegments(env, directory).at(0);
    if (existing !== undefined)
      throw new ConcordError('ERR_EXISTS', `a log exists already: ${existing.path}`, { file: existing.path });
    const writer = new WalWriter(env, directory, options, nextLsn - 1, 1);
    writer.#start();
    return writer;
  }

  /** Goes on after a recovery, in a new segment of a new generation: what lies behind a cut is never read again. */
  static open(env: Env, directory: string, options: WalOptions, recovery: WalRecovery): WalWriter {
    const writer = new WalWriter(env, directory, options, recovery.lastLsn, recovery.nextGeneration);
    writer.#adopt(recovery);
    writer.#start();
    return writer;
  }

  private constructor(env: Env, directory: string, options: WalOptions, lastLsn: number, nextGeneration: number) {
    checkIdentity(options.storeId, options.shard);
    const segmentBytes = options.segmentBytes ?? SEGMENT_BYTES_DEFAULT;
    if (segmentBytes < SEGMENT_BYTES_MIN || segmentBytes > SEGMENT_BYTES_MAX || segmentBytes % 4096 !== 0) {
      throw invalidArgument(
        `segmentBytes must be a multiple of 4096 in ${SEGMENT_BYTES_MIN} ..= ${SEGMENT_BYTES_MAX}, got ${segmentBytes}`,
      );
    }
    const fits = segmentBytes - SEGMENT_HEADER_BYTES - FRAME_HEADER_BYTES;
    const payloadBytesMax = options.payloadBytesMax ?? Math.min(PAYLOAD_BYTES_MAX_DEFAULT, fits);
    if (!Number.isInteger(payloadBytesMax) || payloadBytesMax < 1 || payloadBytesMax > fits) {
      throw invalidArgument(`payloadBytesMax must be 1 ..= ${fits}, got ${payloadBytesMax}`);
    }
    const preallocateBytes = options.preallocateBytes ?? 4 << 20;
    if (!Number.isInteger(preallocateBytes) || preallocateBytes < 1) {
      throw invalidArgument(`preallocateBytes must be a positive integer, got ${preallocateBytes}`);
    }
    const spareSegmentsMax = options.spareSegmentsMax ?? 4;
    if (!Number.isInteger(spareSegmentsMax) || spareSegmentsMax < 0) {
      throw invalidArgument(`spareSegmentsMax must be an integer from 0, got ${spareSegmentsMax}`);
    }
    const backgroundSyncBytes = options.backgroundSyncBytes ?? 2 << 20;
    if (!(backgroundSyncBytes >= 1)) {
      throw invalidArgument(`backgroundSyncBytes must be at least 1, got ${backgroundSyncBytes}`);
    }
    this.#backgroundSyncBytes = backgroundSyncBytes;
    this.#env = env;
    this.#directory = directory;
    this.#storeId = Uint8Array.from(options.storeId);
    this.#shard = options.shard;
    this.#segmentBytes = segmentBytes;
    this.#preallocateBytes = preallocateBytes;
    this.#spareSegmentsMax = spareSegmentsMax;
    this.#retainBytes = options.retainBytes ?? 0;
    this.payloadBytesMax = payloadBytesMax;
    this.bytes = Buffer.allocUnsafeSlow(BUFFER_BYTES_INITIAL);
    this.#lastLsn = this.#writtenLsn = this.#syncedLsn = lastLsn;
    this.#nextGeneration = nextGeneration;
  }

  /** LSN of the last committed frame, buffered ones included. */
  get lastLsn(): number {
    return this.#lastLsn;
  }

  /** LSN of the last frame the operating system has. */
  get writtenLsn(): number {
    return this.#writtenLsn;
  }

  get syncedLsn(): number {
    return this.#syncedLsn;
  }

  /** Bytes of headers and frames in the segments not yet truncated. */
  get sizeBytes(): number {
    let sizeBytes = 0;
    for (const segment of this.#segments) sizeBytes += segment.usedBytes;
    return sizeBytes;
  }

  /** Of these: what truncate(lsn - 1) would leave. */
  bytesFrom(lsn: number): number {
    let bytes = 0;
    let limit = Infinity;
    for (let i = this.#segments.length - 1; i >= 0; i--) {
      const { firstLsn, usedBytes } = this.#segments[i]!;
      if (limit > lsn && limit !== firstLsn) bytes += usedBytes;
      limit = Math.min(limit, firstLsn === 0 ? Infinity : firstLsn);
    }
    return bytes;
  }

  get segmentCount(): number {
    return this.#segments.length;
  }

  /** Bytes of the files that are kept for readers only. */
  get retainedBytes(): number {
    return this.#retainedBytes;
  }

  /** How many may be kept from now on. */
  retain(bytes: number): void {
    this.#retainBytes = bytes;
    if (this.#failure !== undefined || this.#isClosed) return;
    this.#drop(this.#takeBeyond(bytes), true, this.#spareSegmentsMax);
  }

  /** The disk is full: what is kept for readers goes at once. False: there was nothing. */
  dropRetained(): boolean {
    const paths = this.#takeBeyond(0);
    const isAny = paths.length > 0 || this.hasUnneeded;
    while (this.hasUnneeded) this.removeUnneeded();
    for (const path of paths) removeQuietly(this.#env, path);
    return isAny;
  }

  get spareCount(): number {
    return this.#spares.length;
  }

  /** 0 ..= 1 */
  get currentSegmentFill(): number {
    return this.#filePosition / this.#segmentBytes;
  }

  /** Set once an fdatasync, or the repair of a failed write, has failed: nothing is accepted any more. */
  get failure(): ConcordError | undefined {
    return this.#failure;
  }

  /** Starts a frame. A frame begun and not committed is dropped. */
  begin(): void {
    this.#checkUsable();
    this.#frameStart = this.#bufferedBytes;
    this.position = this.#frameStart + FRAME_HEADER_BYTES;
    this.payloadStart = this.position;
    this.#reserve(this.position);
  }

  /** Room for `byteCount` more bytes at `position`. */
  ensure(byteCount: number): void {
    assert(this.#frameStart !== NO_FRAME, 'ensure() without begin()');
    const end = this.position + byteCount;
    if (end - this.#frameStart - FRAME_HEADER_BYTES > this.payloadBytesMax) {
      throw new ConcordError(
        'ERR_BATCH_TOO_LARGE',
        `a log record of ${end - this.#frameStart - FRAME_HEADER_BYTES} bytes, at most ${this.payloadBytesMax} are possible`,
        { limit: this.payloadBytesMax },
      );
    }
    this.#reserve(end);
  }

  /** Drops the frame under construction. */
  discard(): void {
    this.#frameStart = NO_FRAME;
  }

  /**
   * Ends the frame and writes it behind all others; returns its LSN. `buffered`: leave it in memory until the next write, writeOut() or
   * sync(). When it throws, the frame does not exist and never will; ERR_DISK_FULL may pass, ERR_IO with `failure` set does not.
   */
  commit(firstSeq: number, operationCount: number, buffered = false): number {
    this.#checkUsable();
    assert(this.#frameStart !== NO_FRAME, 'commit() without begin()');
    const payloadBytes = this.position - this.#frameStart - FRAME_HEADER_BYTES;
    assert(payloadBytes >= 0 && payloadBytes <= this.payloadBytesMax, 'a log record beyond its limit');
    const lsn = this.#lastLsn + 1;
    assert(lsn <= U48_MAX, 'log sequence numbers are used up');
    try {
      // The frame must carry the generation of the segment it goes to, so the decision to roll comes before sealing.
      if (this.#filePosition + this.#bufferedBytes + frameBytes(payloadBytes) > this.#segmentBytes) {
        this.#flushBefore(payloadBytes);
        this.#roll();
      } else if (this.#rollsEarly) {
        this.#flushBefore(payloadBytes);
        this.#tryToRoll();
      } else if (buffered && this.#bufferedBytes >= BUFFERED_BYTES_MAX) this.#flushBefore(payloadBytes);
      const start = this.#frameStart;
      const sealed = sealFrame(
        this.bytes,
        start,
        payloadBytes,
        this.#seed,
        this.#generation,
        lsn,
        this.#syncedLsn,
        firstSeq,
        operationCount,
      );
      if (buffered) this.#bufferedBytes = start + sealed;
      else {
        this.#write(start + sealed);
        this.#writtenLsn = lsn;
      }
      this.#lastLsn = lsn;
      if (this.#filePosition >= this.#syncDueAt) this.#syncBehind();
      return lsn;
    } finally {
      this.#frameStart = NO_FRAME;
    }
  }

  /** Hands the buffered frames to the operating system. On failure they stay buffered. */
  writeOut(): void {
    this.#checkUsable();
    if (this.#bufferedBytes === 0) return;
    assert(this.#frameStart === NO_FRAME, 'writeOut() in the middle of a frame');
    this.#write(this.#bufferedBytes);
    this.#writtenLsn = this.#lastLsn;
    if (this.#filePosition >= this.#syncDueAt) this.#syncBehind();
  }

  /** Everything committed so far is durable when it returns. */
  sync(): void {
    this.#checkUsable();
    if (this.#bufferedBytes > 0) {
      assert(this.#frameStart === NO_FRAME, 'sync() in the middle of a frame');
      this.#write(this.#bufferedBytes);
      this.#writtenLsn = this.#lastLsn;
    }
    this.#finishCut();
    if (this.#syncedLsn === this.#lastLsn) return;
    this.#syncFile(this.#file!);
    this.#syncedLsn = this.#writtenLsn;
    this.#noteSyncBegun();
    if (++this.#syncCount >= SYNCS_MIN) this.#preallocates = true;
  }

  /** Time to have a spare made: more than half of the segment is used, none is ready, and it would be of use. */
  wantsSpare(): boolean {
    if (!this.#preallocates || this.#spares.length > 0 || this.#spareSegmentsMax === 0) return false;
    return this.#filePosition * 2 > this.#segmentBytes;
  }

  /** Takes a file made by preallocateSegment(). False: not needed (it is removed), or gone. */
  offerSpare(path: string): boolean {
    const name = path.slice(path.lastIndexOf('/') + 1);
    if (path !== `${this.#directory}/${name}` || !isSpareName(name))
      throw invalidArgument(`not a spare of this log: ${path}`);
    if (this.#isClosed || this.#spares.some((spare) => spare.path === path) || !this.#env.exists(path)) return false;
    return this.#keepSpare(path, true);
  }

  /**
   * Frames up to and including `lsn` are no longer needed: whole segments are kept for readers, as far as that is wanted; what is too much becomes spares or
   * is removed. `inSlices`: removing is left to removeUnneeded(); segments that a crash leaves are met by the next writer.
   */
  truncate(lsn: number, inSlices = false): void {
    this.#checkUsable();
    const rests = this.#isAllObsolete(lsn) && this.#leaveCurrent();
    const empty: string[] = [];
    for (const { path, isEmpty, generation } of this.#takeObsolete(lsn)) {
      if (isEmpty || generation < this.#retainFromGeneration) empty.push(path);
      else this.#keepForReaders(path);
    }
    this.#drop([...this.#takeBeyond(this.#retainBytes), ...empty], inSlices, rests ? 0 : this.#spareSegmentsMax);
  }

  /** Whether the current segment has frames, and none of them is needed. Readers are to find as much as is kept for them: one that would be too much stays. */
  #isAllObsolete(lsn: number): boolean {
    const { usedBytes } = this.#segments.at(-1)!;
    if (lsn < this.#lastLsn || this.#writtenLsn < this.#lastLsn || usedBytes <= SEGMENT_HEADER_BYTES) return false;
    return this.#retainBytes === 0 || countedBytes(usedBytes + TERMINATOR_BYTES) <= this.#retainBytes;
  }

  /**
   * A log of which nothing is needed is one that rests: it goes on in a new segment, which is small, and needs no spares. False: that was not possible, and
   * the current one goes on.
   */
  #leaveCurrent(): boolean {
    this.#trim();
    return this.#tryToRoll(true);
  }

  /** Spares, and what lies ready behind the last frame, are for a log at work. One that rests needs none. */
  #trim(): void {
    for (const { path } of this.#spares.splice(0)) removeQuietly(this.#env, path);
    const end = this.#filePosition + TERMINATOR_BYTES;
    if (end >= this.#allocatedBytes) return;
    try {
      this.#file!.truncate(end);
      this.#allocatedBytes = end;
    } catch {
      // Nothing depends on it.
    }
  }

  #keepForReaders(path: string): void {
    const fileBytes = countedBytes(this.#retainBytes === 0 ? 0 : this.#fileBytesAtMost(path));
    this.#retained.push({ path, fileBytes });
    this.#retainedBytes += fileBytes;
  }

  /** Of those kept for readers: the oldest, until no more than `bytes` are left. They are no longer counted. */
  #takeBeyond(bytes: number): string[] {
    let count = 0;
    while (this.#retainedBytes > bytes) this.#retainedBytes -= this.#retained[count++]!.fileBytes;
    return this.#retained.splice(0, count).map(({ path }) => path);
  }

  /** Segments become spares, while there are fewer than `sparesMax`, or are removed; oldest first. */
  #drop(paths: readonly string[], inSlices: boolean, sparesMax: number): void {
    if (paths.length === 0) return;
    const renamed: string[] = [];
    for (const path of paths) {
      // What waits to be removed is older: it goes first.
      if (this.hasUnneeded || this.#spares.length + renamed.length >= sparesMax) {
        if (inSlices) this.#unneeded.push(path);
        else this.#env.remove(path);
      } else {
        const sparePath = path.replace(/\.log$/, '.spare');
        this.#env.rename(path, sparePath);
        renamed.push(sparePath);
      }
    }
    // Only now the old names are gone for good, and the files' content may change.
    this.#env.syncDirectory(this.#directory);
    for (const path of renamed) this.#keepSpare(path, false);
  }

  /** Whether removeUnneeded() has something to do. */
  get hasUnneeded(): boolean {
    return this.#unneeded.length > 0;
  }

  /** Removes one segment: that takes as long as the file system needs to free it. What cannot be removed stays until the next open. */
  removeUnneeded(): void {
    const path = this.#unneeded.shift();
    if (path !== undefined) removeQuietly(this.#env, path);
  }

  /** Writes and syncs what is there, removes spares, then closes. The file is closed even when that fails. */
  close(): void {
    if (this.#isClosed) return;
    try {
      while (this.hasUnneeded) this.removeUnneeded();
      if (this.#failure === undefined) {
        this.sync();
        this.#trim();
      }
    } finally {
      this.#isClosed = true;
      this.#frameStart = NO_FRAME;
      this.#closeFile();
    }
  }

  #checkUsable(): void {
    if (this.#isClosed) throw new ConcordError('ERR_CLOSED', 'the log is closed', { file: this.#directory });
    if (this.#failure !== undefined) {
      throw new ConcordError(
        'ERR_IO',
        `the log accepts nothing since: ${this.#failure.message}`,
        this.#failure.details,
        {
          cause: this.#failure,
        },
      );
    }
  }

  #fail(error: unknown, what: string): ConcordError {
    const text = error instanceof Error ? error.message : String(error);
    const details = error instanceof ConcordError ? error.details : { file: this.#directory };
    this.#failure = new ConcordError('ERR_IO', `${what}: ${text}`, details, { cause: error });
    return this.#failure;
  }

  /** The segments all of whose frames are ≤ lsn, and empty ones; no longer counted. `isEmpty`: no frame is read from it. */
  #takeObsolete(lsn: number): (Segment & { readonly isEmpty: boolean })[] {
    const freed: (Segment & { readonly isEmpty: boolean })[] = [];
    const kept: Segment[] = [];
    let limit = Infinity;
    for (let i = this.#segments.length - 1; i >= 0; i--) {
      const segment = this.#segments[i]!;
      const { firstLsn } = segment;
      if (limit <= lsn + 1 || limit === firstLsn) freed.push({ ...segment, isEmpty: limit <= firstLsn });
      else kept.push(segment);
      limit = Math.min(limit, firstLsn === 0 ? Infinity : firstLsn);
    }
    this.#segments.splice(0, this.#segments.length, ...kept.reverse());
    return freed.reverse();
  }

  /** Payload up to `end`, its padding and the terminator fit behind this. */
  #reserve(end: number): void {
    const needed = end + 8 + TERMINATOR_BYTES;
    if (needed <= this.bytes.length) return;
    let capacity = this.bytes.length;
    while (capacity < needed) capacity *= 2;
    const larger = Buffer.allocUnsafeSlow(capacity);
    larger.set(this.bytes.subarray(0, Math.min(this.position, this.bytes.length)), 0);
    this.bytes = larger;
  }

  /** Writes the buffered frames that stand before the one under construction, and moves that to the front. */
  #flushBefore(payloadBytes: number): void {
    if (this.#bufferedBytes === 0) return;
    const start = this.#frameStart;
    // The terminator goes where the next frame's header will be filled in, which is still free.
    this.#write(this.#bufferedBytes);
    this.#writtenLsn = this.#lastLsn;
    const payloadStart = start + FRAME_HEADER_BYTES;
    this.bytes.copyWithin(FRAME_HEADER_BYTES, payloadStart, payloadStart + payloadBytes);
    this.#frameStart = 0;
    this.payloadStart = FRAME_HEADER_BYTES;
    this.position = FRAME_HEADER_BYTES + payloadBytes;
  }

  /** Writes bytes[0, byteCount) and the terminator at the end of the segment; the buffer is then empty. */
  #write(byteCount: number): void {
    try {
      this.#tryToWrite(byteCount);
    } catch (error) {
      if (!this.#makesRoom(error)) throw error;
      this.#tryToWrite(byteCount);
    }
  }

  /** Whether the disk was full, and is so no longer. */
  #makesRoom(error: unknown): boolean {
    return isDiskFull(error) && this.#failure === undefined && this.dropRetained();
  }

  #tryToWrite(byteCount: number): void {
    this.#finishCut();
    const end = this.#filePosition + byteCount;
    assert(end <= this.#segmentBytes, 'a log position beyond the segment');
    const terminatorBytes = Math.min(TERMINATOR_BYTES, this.#segmentBytes - end);
    this.bytes.fill(0, byteCount, byteCount + terminatorBytes);
    if (this.#preallocates && end + terminatorBytes > this.#allocatedBytes) this.#allocate(end + terminatorBytes);
    try {
      this.#file!.write(this.bytes, 0, byteCount + terminatorBytes, this.#filePosition);
    } catch (error) {
      this.#cutBack();
      throw error;
    }
    this.#filePosition = end;
    if (end + terminatorBytes > this.#allocatedBytes) this.#allocatedBytes = end + terminatorBytes;
    this.#bufferedBytes = 0;
    this.#segments.at(-1)!.usedBytes = end;
  }

  /** Grows the file by zeros. A failure leaves only zeros behind, which mean nothing. */
  #allocate(end: number): void {
    const target = Math.min(this.#segmentBytes, Math.max(end, this.#allocatedBytes + this.#preallocateBytes));
    writeZeros(this.#file!, this.#allocatedBytes, target);
    this.#allocatedBytes = target;
  }

  /**
   * Some of a failed write may be in the file, even all of it. Cutting the file needs no space on most file systems; syncing makes sure
   * that the failed frame cannot come back. What was written before becomes durable by the way. Where even cutting wants space, it is
   * done before anything else is written or synced.
   */
  #cutBack(): void {
    const file = this.#file!;
    try {
      file.truncate(this.#filePosition);
    } catch (error) {
      this.#isCutPending = error instanceof ConcordError && error.code === 'ERR_DISK_FULL';
      if (this.#isCutPending) return;
      throw this.#fail(error, 'the log could not be cut back after a failed write');
    }
    this.#isCutPending = false;
    this.#allocatedBytes = this.#filePosition;
    this.#syncFile(file);
    this.#syncedLsn = this.#writtenLsn;
  }

  #finishCut(): void {
    if (!this.#isCutPending) return;
    this.#cutBack();
    if (!this.#isCutPending) return;
    const file = this.#segments.at(-1)!.path;
    throw new ConcordError('ERR_DISK_FULL', `${file}: no space even for cutting off a failed write`, { file });
  }

  #syncFile(file: EnvFile): void {
    try {
      file.sync();
    } catch (error) {
      throw this.#fail(error, 'the log could not be synced');
    }
  }

  /** Begins a sync of what is written, unless the last one is still under way. */
  #syncBehind(): void {
    if (this.#isSyncingBehind) return;
    this.#noteSyncBegun();
    let handle;
    try {
      handle = this.#syncHandle ??= this.#env.open(this.#segments.at(-1)!.path, 'write');
    } catch {
      // It only saves a wait later.
      return;
    }
    if (handle.syncAsync === undefined) return;
    const own = handle;
    const lsn = this.#writtenLsn;
    const begunMs = this.#env.now();
    this.#isSyncingBehind = true;
    handle.syncAsync().then(
      () => {
        // Earlier segments were synced before this one came into being.
        if (this.#failure === undefined && lsn > this.#syncedLsn) this.#syncedLsn = lsn;
        this.#endSyncBehind(own);
        if (own === this.#syncHandle) this.#rollsEarly = this.#isGoodMoment(begunMs);
      },
      (error: unknown) => {
        if (this.#failure === undefined && !this.#isClosed) this.#fail(error, 'the log could not be synced');
        this.#endSyncBehind(own);
      },
    );
  }

  #noteSyncBegun(): void {
    const at = this.#filePosition;
    this.#syncBegunTo = at;
    // Towards the end in smaller steps: each is a chance to change segments.
    this.#syncDueAt = at + (this.#isNearEnd ? this.#backgroundSyncBytes / 4 : this.#backgroundSyncBytes);
  }

  get #isNearEnd(): boolean {
    return this.#filePosition * 4 >= this.#segmentBytes * 3;
  }

  /** A sync that began at `begunMs` has just ended: whether one more would be short. */
  #isGoodMoment(begunMs: number): boolean {
    if (!this.#isNearEnd || this.#filePosition - this.#syncBegunTo > this.#backgroundSyncBytes / 8) return false;
    try {
      return this.#env.now() - begunMs <= QUICK_SYNC_MS;
    } catch {
      // A machine that is no more has no clock.
      return false;
    }
  }

  #endSyncBehind(handle: EnvFile): void {
    this.#isSyncingBehind = false;
    if (handle !== this.#syncHandle) closeQuietly(handle);
  }

  /** While a sync is under way its handle stays open until that ends. */
  #closeSyncHandle(): void {
    const handle = this.#syncHandle;
    this.#syncHandle = undefined;
    if (handle !== undefined && !this.#isSyncingBehind) closeQuietly(handle);
  }

  #closeFile(): void {
    this.#closeSyncHandle();
    const file = this.#file;
    this.#file = undefined;
    file?.close();
  }

  /** Takes over what a recovery found: makes the doubtful tail durable, cleans up, collects spares. */
  #adopt(recovery: WalRecovery): void {
    const tail = recovery.unsyncedTail;
    if (tail !== undefined) {
      const file = this.#env.open(tail.path, 'write');
      try {
        // These bytes came from the page cache. If an fdatasync failed before, the cache calls them clean though the disk has never
        // seen them; written again, the next sync carries them.
        const bytes = Buffer.allocUnsafeSlow(tail.to - tail.from);
        const byteCount = file.read(bytes, 0, bytes.length, tail.from);
        if (byteCount !== bytes.length) {
          throw new ConcordError('ERR_IO', `${tail.path}: read ${byteCount} of ${bytes.length} bytes at ${tail.from}`, {
            file: tail.path,
          });
        }
        file.write(bytes, 0, bytes.length, tail.from);
        file.sync();
      } finally {
        file.close();
      }
    }
    const { cut, lastLsn, losses, nextGeneration } = recovery;
    // Feeds do not read across a gap.
    if (losses.length > 0 || (cut !== undefined && cut.lsn <= lastLsn)) this.#retainFromGeneration = nextGeneration;
    for (const { path, generation, firstLsn, usedBytes, isNeeded } of recovery.segments) {
      if (isNeeded || generation < this.#retainFromGeneration)
        this.#segments.push({ path, generation, firstLsn, usedBytes });
      else this.#keepForReaders(path);
    }
  }

  /** The first segment of this writer; leftovers of earlier ones become spares or go. */
  #start(): void {
    const names = this.#env.list(this.#directory);
    for (const name of names) if (isTemporaryName(name)) this.#env.remove(`${this.#directory}/${name}`);
    // A spare may have been a segment until an interrupted truncate(): its old name must be gone before its content changes.
    if (names.some(isSpareName)) this.#env.syncDirectory(this.#directory);
    for (const name of names) if (isSpareName(name)) this.#keepSpare(`${this.#directory}/${name}`, false);
    try {
      this.#roll();
      // Segments without frames, as restarts without writes leave behind.
      this.truncate(0);
    } catch (error) {
      this.#closeFile();
      throw error;
    }
  }

  #keepSpare(path: string, zeroed: boolean): boolean {
    if (this.#spares.length < this.#spareSegmentsMax) {
      const fileBytes = this.#fileBytes(path);
      if (fileBytes >= SEGMENT_HEADER_BYTES + TERMINATOR_BYTES && fileBytes <= this.#segmentBytes) {
        this.#spares.push({ path, fileBytes, zeroed });
        return true;
      }
    }
    this.#env.remove(path);
    return false;
  }

  #fileBytes(path: string): number {
    const file = this.#env.open(path, 'read');
    try {
      return file.size();
    } finally {
      file.close();
    }
  }

  /** A segment that cannot be opened now counts as a whole one: truncate() must not lose sight of it. */
  #fileBytesAtMost(path: string): number {
    try {
      return this.#fileBytes(path);
    } catch {
      return this.#segmentBytes;
    }
  }

  /** Ends the current segment and starts the next; `rests`: with nothing ready in it. When it throws without `failure`, the current one goes on. */
  #roll(rests = false): void {
    assert(this.#bufferedBytes === 0, 'a roll with buffered frames');
    this.#finishCut();
    if (this.#syncedLsn < this.#writtenLsn) {
      this.#syncFile(this.#file!);
      this.#syncedLsn = this.#writtenLsn;
    }
    if (this.#file !== undefined) this.#preallocates = !rests && this.#syncCount >= SYNCS_MIN;
    const generation = this.#nextGeneration;
    assert(generation <= U32_MAX, 'log generations are used up');
    const path = `${this.#directory}/${segmentName(generation)}`;
    const prepared = this.#prepareWithRoom(generation);
    try {
      this.#env.rename(prepared.path, path);
    } catch (error) {
      prepared.file.close();
      if (this.#env.exists(path)) throw this.#fail(error, 'a log segment may or may not have got its name');
      removeQuietly(this.#env, prepared.path);
      throw error;
    }
    prepared.file.close();
    let file;
    try {
      this.#env.syncDirectory(this.#directory);
      // Opened anew, so that errors name the file as it is called now.
      file = this.#env.open(path, 'write');
    } catch (error) {
      // With the new name perhaps durable, frames added to the old segment would not be read; without it, those in the new one.
      throw this.#fail(error, 'a new log segment could not be put to use');
    }
    this.#closeSyncHandle();
    const previous = this.#file;
    this.#file = file;
    this.#filePosition = SEGMENT_HEADER_BYTES;
    this.#noteSyncBegun();
    this.#rollsEarly = false;
    this.#syncCount = 0;
    this.#allocatedBytes = prepared.fileBytes;
    this.#seed = prepared.seed;
    this.#generation = generation;
    this.#nextGeneration = generation + 1;
    this.#segments.push({ path, generation, firstLsn: this.#lastLsn + 1, usedBytes: SEGMENT_HEADER_BYTES });
    previous?.close();
  }

  /** While the current segment has room a next one that cannot be had is no failure: false, and it goes on. */
  #tryToRoll(rests = false): boolean {
    this.#rollsEarly = false;
    try {
      this.#roll(rests);
      return true;
    } catch (error) {
      if (this.#failure !== undefined || !(error instanceof ConcordError)) throw error;
      return false;
    }
  }

  #prepareWithRoom(generation: number): PreparedSegment {
    try {
      return this.#prepare(generation);
    } catch (error) {
      if (!this.#makesRoom(error)) throw error;
      return this.#prepare(generation);
    }
  }

  /** A synced file with the header of `generation`, under a name that no recovery reads. */
  #prepare(generation: number): PreparedSegment {
    const spare = this.#spares.shift();
    const path = spare?.path ?? `${this.#directory}/wal-${generation}.tmp`;
    // What an earlier attempt could not remove.
    if (spare === undefined && this.#env.exists(path)) this.#env.remove(path);
    const file = this.#env.open(path, spare === undefined ? 'create' : 'write');
    try {
      // With a terminator: a recycled file goes on with the first frame of its former life.
      const block = Buffer.alloc(SEGMENT_HEADER_BYTES + TERMINATOR_BYTES);
      const seed = encodeSegmentHeader(block, {
        storeId: this.#storeId,
        shard: this.#shard,
        generation,
        zeroed: spare?.zeroed ?? true,
        firstLsn: this.#lastLsn + 1,
        createdAt: this.#env.now(),
        salt: this.#env.randomBytes(SALT_BYTES),
      });
      let fileBytes = spare?.fileBytes ?? 0;
      if (spare === undefined) {
        fileBytes = block.length;
        if (this.#preallocates) {
          fileBytes = Math.min(this.#segmentBytes, block.length + this.#preallocateBytes);
          writeZeros(file, block.length, fileBytes);
        }
      }
      file.write(block, 0, block.length, 0);
      file.sync();
      return { path, file, fileBytes, seed };
    } catch (error) {
      file.close();
      removeQuietly(this.#env, path);
      throw error;
    }
  }
}

/** As what a file that is kept for readers counts: many small ones take time to list. */
function countedBytes(fileBytes: number): number {
  return Math.max(SEGMENT_BYTES_MIN, fileBytes);
}

/** Of a handle that only syncs: what it had to say it has said. */
function closeQuietly(handle: EnvFile): void {
  try {
    handle.close();
  } catch {
    // Nothing depends on it.
  }
}
