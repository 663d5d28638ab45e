/**
 * Reads a shard's log while it is written: the files of the write-ahead log, by a thread that does not own them.
 *
 *   segment 7  |4|5|6|          the owner of an LSN is the newest segment that begins at or below it: what an older one holds there was cut
 *   segment 8        |7|8|≈     8: written and published. ≈: being written, buffered, or a failed write that will be cut off
 *
 * Nothing tells the reader that a frame is complete but the shard's published number. So a frame counts when its last number is published and its
 * bytes were read after that was known: what failed and was cut off is replaced in the file before a higher number is published. Where a log has failed
 * for good nothing is replaced, and numbers above its last good one do not count (FeedLimits).
 * Files are opened for each read, by names that are never used twice: a segment that is recycled meanwhile is missing, never misread, and
 * nothing is held open by a reader that is dropped.
 *
 * Where no good frame stands is either the end (for now), or damage: damage if a later segment exists or the LSN is known to be synced, or if bytes that
 * are no terminator stay there. Threads: any, each its own; never the log's owner's business.
 */
import { ConcordError } from '../../shared/errors.js';
import type { Env, EnvFile } from '../../shared/env/env.js';
import {
  FRAME_HEADER_BYTES,
  SEGMENT_HEADER_BYTES,
  TERMINATOR_BYTES,
  checkSegmentOwner,
  frameBytes,
  frameFirstSeq,
  frameLsn,
  frameOperationCount,
  framePayloadBytes,
  isPayloadIntact,
  readSegmentHeader,
  segmentName,
} from '../wal/format.js';
import { crc32 } from '../../shared/checksum.js';
import { listSegments } from '../wal/recovery.js';
import { truncated, type FeedFrame, type FeedLimits, type FeedPosition, type FeedSource } from './source.js';

/** What one read brings: little while it waits for single frames, more while it catches up. */
const READ_BYTES_MIN = 16 << 10;
const READ_BYTES_MAX = 1 << 20;
/** Passed over by one call, at most. */
const SEARCH_BYTES_MAX = 4 << 20;
/** A segment that vanished between being listed and being opened: look again so often. */
const LIST_ATTEMPTS_MAX = 8;
/** Bytes that are no frame and no terminator may be a write under way, but not for so long. */
const STUCK_MS_MAX = 2000;
/** A number that is published and of no frame: a frame of the memory level is buffered. Or, of a log that was cut, it is older than its first frame. */
const SETTLE_MS = 1000;
/** The directory is looked at again at most so often while nothing else has changed. */
const LIST_AGAIN_MS = 20;

interface Segment {
  readonly path: string;
  readonly generation: number;
  readonly firstLsn: number;
  readonly seed: number;
}

type Found = 'good' | 'cut' | 'none';

export class LogTail implements FeedSource {
  readonly #env: Env;
  readonly #directory: string;
  readonly #storeId: Uint8Array;
  readonly #shard: number;
  /** Headers never change under one name. */
  readonly #known = new Map<number, Segment>();
  /** Of the newest segment whose header cannot be read: what is older is out of reach. */
  #damage: ConcordError | undefined;
  #segment: Segment | undefined;
  #generation = 0;
  #offset = SEGMENT_HEADER_BYTES;
  #lsn = 1;
  /** The last number of the frames passed. */
  #seq = 0;
  #unit = 0;
  #mayLackBeginnings = false;
  #isFromEnd = false;
  #isSearching = true;
  #settledSeq = 0;

  // What was read last: bytes of the segment from #chunkFrom on.
  #chunk: Buffer = Buffer.alloc(0);
  #chunkFrom = 0;
  /** Known to be published before it was read. */
  #chunkPublished = -1;
  #readBytes = READ_BYTES_MIN;
  /** Where nothing stood, and since when. */
  #waiting = { publishedSeq: -1, lsn: -1, sinceMs: 0, listedMs: 0, stuckSinceMs: 0 };

  constructor(env: Env, directory: string, storeId: Uint8Array, shard: number) {
    this.#env = env;
    this.#directory = directory;
    this.#storeId = storeId;
    this.#shard = shard;
  }

  fork(): LogTail {
    return new LogTail(this.#env, this.#directory, this.#storeId, this.#shard);
  }

  /** The log is kept for its own sake. */
  watch(): () => void {
    return () => undefined;
  }

  end(publishedSeq: () => number): FeedPosition {
    this.#isFromEnd = true;
    const newest = this.#list().at(-1)!;
    // Loaded behind the look at the directory: what is above it comes in this segment, or a later one.
    const seq = publishedSeq();
    return { generation: newest.generation, offset: SEGMENT_HEADER_BYTES, lsn: newest.firstLsn, seq, unit: 0 };
  }

  beginning(): FeedPosition {
    const segments = this.#list();
    if (this.#damage !== undefined) throw this.#damage;
    const lsn = oldestLsn(segments);
    const { generation } = ownerOf(segments, lsn)!;
    return { generation, offset: SEGMENT_HEADER_BYTES, lsn, seq: 0, unit: 0 };
  }

  seek(position: FeedPosition): void {
    this.#segment = undefined;
    this.#generation = position.generation;
    this.#offset = position.offset;
    this.#lsn = position.lsn;
    this.#seq = position.seq;
    this.#unit = position.unit;
    // As beginning() makes it. What is prepared is never cut off, so all other places had it behind them.
    this.#mayLackBeginnings = position.seq === 0;
    this.#settledSeq = position.seq;
    this.#isSearching = true;
    this.#chunk = Buffer.alloc(0);
    this.#chunkPublished = -1;
  }

  get position(): FeedPosition {
    return {
      generation: this.#generation,
      offset: this.#offset,
      lsn: this.#lsn,
      seq: this.#seq,
      unit: this.#unit,
    };
  }

  get isSearching(): boolean {
    return this.#isSearching;
  }

  get mayLackBeginnings(): boolean {
    return this.#mayLackBeginnings;
  }

  /** What was decided in earlier lives is applied before anybody can ask for the end. */
  get isOfOneLife(): boolean {
    return this.#isFromEnd;
  }

  get settledSeq(): number {
    return this.#settledSeq;
  }

  next({ publishedSeq, syncedLsn, durable }: FeedLimits): FeedFrame | undefined {
    // Once at the end, this is all there is to look at until something is published.
    if (!this.#isSearching && publishedSeq <= this.#seq) {
      this.#settledSeq = publishedSeq;
      return undefined;
    }
    if (durable && this.#lsn > syncedLsn && !this.#isSearching) return undefined;
    this.#isSearching = true;
    let searchedBytes = 0;
    for (;;) {
      if (this.#segment === undefined) this.#locate();
      if (this.#read(publishedSeq) !== 'good') {
        if (this.#goOn(publishedSeq, syncedLsn)) continue;
        this.#isSearching = false;
        return undefined;
      }
      const at = this.#offset - this.#chunkFrom;
      const lastSeq = lastSeqOf(this.#chunk, at);
      if (lastSeq <= this.#seq) {
        const bytes = frameBytes(framePayloadBytes(this.#chunk, at));
        this.#offset += bytes;
        this.#lsn++;
        searchedBytes += bytes;
        if (searchedBytes > SEARCH_BYTES_MAX) return undefined;
        continue;
      }
      if (lastSeq > publishedSeq || (durable && this.#lsn > syncedLsn)) {
        this.#isSearching = false;
        return undefined;
      }
      return this.#take(at, lastSeq);
    }
  }

  reload(generation: number, offset: number, lsn: number): FeedFrame {
    const path = `${this.#directory}/${segmentName(generation)}`;
    try {
      const { seed } = this.#known.get(generation) ?? this.#readHeader(path, generation);
      const file = this.#env.open(path, 'read');
      try {
        const header = Buffer.alloc(FRAME_HEADER_BYTES);
        const fileBytes = file.size();
        if (
          file.read(header, 0, FRAME_HEADER_BYTES, offset) < FRAME_HEADER_BYTES ||
          !isHeader(header, 0, seed, generation, lsn)
        )
          throw corrupt(path, offset, lsn, `record ${lsn} is not there any more`);
        const bytes = readAt(file, offset, Math.min(frameBytes(framePayloadBytes(header, 0)), fileBytes - offset));
        if (
          bytes.length < frameBytes(framePayloadBytes(header, 0)) ||
          !isHeader(bytes, 0, seed, generation, lsn) ||
          !isPayloadIntact(bytes, 0, seed)
        )
          throw corrupt(path, offset, lsn, `the payload of record ${lsn} does not match its crc`);
        return frameOf(bytes, 0, generation, offset, path);
      } finally {
        file.close();
      }
    } catch (error) {
      if (!isMissing(error)) throw error;
      throw truncated(this.#shard, lsn, `the log was cut behind record ${lsn}, which is part of a change`);
    }
  }

  #take(at: number, lastSeq: number): FeedFrame {
    const frame = frameOf(this.#chunk, at, this.#generation, this.#offset, this.#segment!.path);
    this.#offset += frameBytes(frame.end - frame.start);
    this.#lsn++;
    this.#seq = lastSeq;
    this.#unit = 0;
    // What comes behind has higher numbers than this begins with.
    this.#settledSeq = frame.firstSeq - 1;
    return frame;
  }

  /** The frame at #offset, whole if it is to be given out. */
  #read(publishedSeq: number): Found {
    let isFresh = false;
    for (;;) {
      const found = this.#look();
      const at = this.#offset - this.#chunkFrom;
      if (found !== 'none' && (found === 'good' || lastSeqOf(this.#chunk, at) <= this.#seq)) {
        const lastSeq = lastSeqOf(this.#chunk, at);
        // Read before it was known to be published: it may have failed, and another stands there by now.
        if (isFresh || lastSeq <= this.#chunkPublished || lastSeq > publishedSeq) return 'good';
      }
      let wanted = this.#readBytes;
      if (found === 'cut') {
        wanted = Math.max(wanted, frameBytes(framePayloadBytes(this.#chunk, at)));
        if (isFresh && this.#chunk.length >= wanted) return 'none';
      } else if (isFresh) return 'none';
      const before = this.#chunk.length;
      if (!this.#fill(publishedSeq, wanted)) return 'none';
      if (found === 'cut' && isFresh && this.#chunk.length <= before) return 'none';
      isFresh = true;
    }
  }

  /** What stands at #offset as far as it has been read; 'cut': a good header whose payload has not. */
  #look(): Found {
    const at = this.#offset - this.#chunkFrom;
    const chunk = this.#chunk;
    if (at < 0 || at + FRAME_HEADER_BYTES > chunk.length) return 'none';
    const { seed, generation } = this.#segment!;
    if (!isHeader(chunk, at, seed, generation, this.#lsn)) return 'none';
    if (at + frameBytes(framePayloadBytes(chunk, at)) > chunk.length) return 'cut';
    return isPayloadIntact(chunk, at, seed) || lastSeqOf(chunk, at) <= this.#seq ? 'good' : 'none';
  }

  /** Reads from #offset on. False: the segment is gone. */
  #fill(publishedSeq: number, bytes: number): boolean {
    // All that was read is used up, so there is more to come.
    if (this.#chunk.length > 0 && this.#offset > this.#chunkFrom) {
      this.#readBytes = Math.min(this.#readBytes * 2, READ_BYTES_MAX);
    }
    let file: EnvFile;
    try {
      file = this.#env.open(this.#segment!.path, 'read');
    } catch (error) {
      if (!isMissing(error)) throw error;
      this.#segment = undefined;
      this.#chunk = Buffer.alloc(0);
      return false;
    }
    try {
      this.#chunk = readAt(file, this.#offset, Math.max(0, Math.min(bytes, file.size() - this.#offset)));
      this.#chunkFrom = this.#offset;
      this.#chunkPublished = publishedSeq;
      return true;
    } finally {
      file.close();
    }
  }

  /** There is no good frame at #offset. True: look again. @throws ERR_FEED_TRUNCATED, ERR_CORRUPT */
  #goOn(publishedSeq: number, syncedLsn: number): boolean {
    this.#readBytes = READ_BYTES_MIN;
    if (this.#segment === undefined) {
      this.#locate();
      return true;
    }
    const waiting = this.#waiting;
    const nowMs = this.#env.now();
    if (waiting.publishedSeq !== publishedSeq || waiting.lsn !== this.#lsn) {
      waiting.publishedSeq = publishedSeq;
      waiting.lsn = this.#lsn;
      waiting.sinceMs = nowMs;
      waiting.stuckSinceMs = 0;
      waiting.listedMs = 0;
    }
    if (publishedSeq <= this.#seq) {
      this.#settledSeq = publishedSeq;
      return false;
    }
    const current = this.#segment;
    if (nowMs - waiting.listedMs >= LIST_AGAIN_MS) {
      waiting.listedMs = nowMs;
      if (this.#locate() !== current) return true;
      const isLast = ![...this.#known.keys()].some((generation) => generation > current.generation);
      // The last writes of a segment come before the next one has a name.
      if (!isLast || syncedLsn >= this.#lsn) this.#mustBeThere(publishedSeq);
      if (this.#isForeign()) {
        waiting.stuckSinceMs ||= nowMs;
        if (nowMs - waiting.stuckSinceMs > STUCK_MS_MAX) this.#mustBeThere(publishedSeq);
      } else waiting.stuckSinceMs = 0;
    }
    // Only of a follower that has met no frame at all.
    if (this.#seq === 0 && nowMs - waiting.sinceMs > SETTLE_MS) this.#settledSeq = publishedSeq;
    return false;
  }

  #mustBeThere(publishedSeq: number): void {
    this.#chunk = Buffer.alloc(0);
    if (this.#read(publishedSeq) === 'good' || this.#segment === undefined) return;
    const { path } = this.#segment;
    throw corrupt(path, this.#offset, this.#lsn, `record ${this.#lsn} was written and is not intact`);
  }

  /** Whether what stands at #offset looks neither like the end of the frames nor like one. */
  #isForeign(): boolean {
    const from = this.#offset - this.#chunkFrom;
    const to = Math.min(from + TERMINATOR_BYTES, this.#chunk.length);
    for (let at = from; at < to; at++) if (this.#chunk[at] !== 0) return true;
    return false;
  }

  /** The segment that owns the next frame. @throws ERR_FEED_TRUNCATED */
  #locate(): Segment {
    const segments = this.#list();
    const lsn = this.#lsn;
    const owner = ownerOf(segments, lsn);
    if (owner === undefined) {
      if (this.#damage !== undefined) throw this.#damage;
      const oldest = oldestLsn(segments);
      throw truncated(this.#shard, lsn, `the log begins with record ${oldest}, ${lsn} was wanted`, oldest);
    }
    const isOther =
      owner.generation < this.#generation ||
      segments.some(({ generation, firstLsn }) => generation > this.#generation && firstLsn < lsn);
    if (isOther) {
      const text = `record ${lsn - 1} is not the one that was delivered: the store was set back`;
      throw truncated(this.#shard, lsn, text, oldestLsn(segments));
    }
    if (owner.generation !== this.#generation) {
      this.#generation = owner.generation;
      this.#offset = SEGMENT_HEADER_BYTES;
    }
    if (this.#segment?.generation !== owner.generation) {
      this.#segment = owner;
      this.#chunk = Buffer.alloc(0);
    }
    return this.#segment;
  }

  /** Oldest first. */
  #list(): Segment[] {
    for (let attempt = 1; ; attempt++) {
      try {
        const segments = this.#readHeaders();
        if (segments.length === 0) {
          throw corrupt(this.#directory, 0, this.#lsn, 'the log is missing: the directory has no segment');
        }
        this.#known.clear();
        for (const segment of segments) this.#known.set(segment.generation, segment);
        return segments;
      } catch (error) {
        if (!isMissing(error) || attempt === LIST_ATTEMPTS_MAX) throw error;
      }
    }
  }

  /** Oldest first, as far back as headers are intact: damage in old log concerns those only that want it. */
  #readHeaders(): Segment[] {
    const segments: Segment[] = [];
    this.#damage = undefined;
    for (const { path, generation } of listSegments(this.#env, this.#directory).reverse()) {
      try {
        segments.push(this.#known.get(generation) ?? this.#readHeader(path, generation));
      } catch (error) {
        const isDamage = error instanceof ConcordError && error.code === 'ERR_CORRUPT';
        if (!isDamage || segments.length === 0) throw error;
        this.#damage = error;
        break;
      }
    }
    return segments.reverse();
  }

  #readHeader(path: string, generation: number): Segment {
    const file = this.#env.open(path, 'read');
    try {
      const { header, seed } = readSegmentHeader(file);
      checkSegmentOwner(header, this.#storeId, this.#shard, generation, path);
      return { path, generation, firstLsn: header.firstLsn, seed };
    } finally {
      file.close();
    }
  }
}

function ownerOf(segments: readonly Segment[], lsn: number): Segment | undefined {
  return segments.findLast(({ firstLsn }) => firstLsn <= lsn);
}

function oldestLsn(segments: readonly Segment[]): number {
  return segments.reduce((oldest, { firstLsn }) => Math.min(oldest, firstLsn), Infinity);
}

/** As isFrameHeader(), of a frame that may reach beyond the bytes at hand. */
function isHeader(bytes: Buffer, at: number, seed: number, generation: number, lsn: number): boolean {
  return (
    bytes.readUInt32LE(at + 12) === generation &&
    frameLsn(bytes, at) === lsn &&
    bytes.readUInt32LE(at) === crc32(bytes, at + 4, FRAME_HEADER_BYTES - 4, seed)
  );
}

function lastSeqOf(bytes: Buffer, at: number): number {
  return frameFirstSeq(bytes, at) + frameOperationCount(bytes, at) - 1;
}

function frameOf(bytes: Buffer, at: number, generation: number, offset: number, file: string): FeedFrame {
  const start = at + FRAME_HEADER_BYTES;
  return {
    lsn: frameLsn(bytes, at),
    firstSeq: frameFirstSeq(bytes, at),
    lastSeq: lastSeqOf(bytes, at),
    generation,
    offset,
    file,
    bytes,
    start,
    end: start + framePayloadBytes(bytes, at),
    payloadOffset: offset + FRAME_HEADER_BYTES,
  };
}

function readAt(file: EnvFile, offset: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafeSlow(length);
  const count = length === 0 ? 0 : file.read(bytes, 0, length, offset);
  return count === length ? bytes : bytes.subarray(0, count);
}

function isMissing(error: unknown): boolean {
  return error instanceof ConcordError && error.details['errno'] === 'ENOENT';
}

function corrupt(file: string, offset: number, lsn: number, text: string): ConcordError {
  return new ConcordError('ERR_CORRUPT', `${file} at ${offset}: ${text}`, { file, offset, lsn });
}
