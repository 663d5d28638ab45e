/**
 * Recovery of a shard's write-ahead log: replays the frames in LSN order, and decides what to do where a frame is bad.
 *
 *   wal-1.log  firstLsn 1    |1|2|3|4|          ends where wal-2 begins; a writer syncs a segment before it creates the next,
 *   wal-2.log  firstLsn 5    |5|6|7|8'|9'|      so anything bad before that point is damage to durable data
 *   wal-3.log  firstLsn 8    |8|9|10|≈≈≈        8' and 9' were cut by an earlier recovery and are never read again
 *                                    └ in the last segment: if a valid frame behind it says "synced up to ≥ 11", damage; else a torn tail
 *
 * What is bad, and then, by mode:
 *   tolerate-torn-tail   torn tail: cut there. Damage: ERR_CORRUPT with file, offset, lsn
 *   strict               any of both: ERR_CORRUPT
 *   point-in-time        stop at the first bad frame, whatever follows
 *   salvage              go on with the next valid frame; every loss is reported
 * Frames below fromLsn are not needed: damage among them is passed over (not in strict) when a valid frame ≤ fromLsn follows.
 *
 * A segment of another store or shard and a foreign format version are errors in every mode. Nothing is written here. After
 * 'point-in-time' and 'salvage' take a checkpoint before going on, or the next recovery meets the same damage.
 * Threads: the directory's owner.
 */
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import type { Env } from '../../shared/env/env.js';
import {
  U48_MAX,
  checkIdentity,
  checkSegmentOwner,
  frameFirstSeq,
  frameOperationCount,
  framePayloadBytes,
  frameSyncedLsn,
  FRAME_HEADER_BYTES,
  readSegmentHeader,
  segmentGeneration,
} from './format.js';
import { FIRST_FRAME_OFFSET, SegmentImage } from './segment-image.js';

export type WalRecoveryMode = 'tolerate-torn-tail' | 'strict' | 'point-in-time' | 'salvage';

/** Reused between calls: valid only inside onFrame. */
export interface WalFrame {
  lsn: number;
  firstSeq: number;
  operationCount: number;
  /** The payload is bytes[start, end). */
  bytes: Buffer;
  start: number;
  end: number;
  file: string;
  /** Of the frame in its file. */
  offset: number;
}

export interface WalRecoveryOptions {
  readonly storeId: Uint8Array;
  readonly shard: number;
  /** The first LSN wanted: one more than the checkpoint's, 1 without a checkpoint. */
  readonly fromLsn: number;
  /** Known from elsewhere to have been durable up to here (a checkpoint is written behind a sync). Default 0. */
  readonly syncedLsn?: number | undefined;
  /** Default 'tolerate-torn-tail'. */
  readonly mode?: WalRecoveryMode | undefined;
  /** No segment at all is an error (the store was in use before). Default false. */
  readonly mustExist?: boolean | undefined;
  readonly onFrame: (frame: WalFrame) => void;
}

/** Where replay ended before the bytes did. */
export interface WalCut {
  readonly file: string;
  readonly offset: number;
  /** The first LSN not replayed. */
  readonly lsn: number;
  readonly reason: string;
}

export interface WalLoss {
  readonly file: string;
  readonly offset: number;
  readonly lsnFrom: number;
  /** Undefined: unknown, nothing valid follows. */
  readonly lsnTo: number | undefined;
  readonly reason: string;
}

export interface WalSegmentInfo {
  readonly path: string;
  readonly generation: number;
  /** 0 where the header was not needed or not readable. */
  readonly firstLsn: number;
  readonly usedBytes: number;
  /** False: all that it holds comes before fromLsn. */
  readonly isNeeded: boolean;
}

export interface WalRecovery {
  /** The last LSN recovered, or fromLsn - 1, or syncedLsn: the highest of them. The writer goes on with the next. */
  readonly lastLsn: number;
  readonly nextGeneration: number;
  /** Delivered to onFrame. */
  readonly frames: number;
  /** Payload bytes delivered. */
  readonly bytes: number;
  readonly cut: WalCut | undefined;
  /** Only in mode 'salvage'. */
  readonly losses: readonly WalLoss[];
  /** Every segment of the directory, oldest first. */
  readonly segments: readonly WalSegmentInfo[];
  /** Frames not known to be durable; WalWriter.open() writes them again and syncs before it goes on. */
  readonly unsyncedTail: { readonly path: string; readonly from: number; readonly to: number } | undefined;
}

interface Segment {
  readonly path: string;
  readonly generation: number;
  readonly firstLsn: number;
  readonly damage: ConcordError | undefined;
  usedBytes: number;
}

/** The segments of a directory, oldest first. */
export function listSegments(env: Env, directory: string): { path: string; generation: number }[] {
  const segments: { path: string; generation: number }[] = [];
  for (const name of env.list(directory)) {
    const generation = segmentGeneration(name);
    if (generation !== undefined) segments.push({ path: `${directory}/${name}`, generation });
  }
  return segments.sort((a, b) => a.generation - b.generation);
}

export function recoverWal(env: Env, directory: string, options: WalRecoveryOptions): WalRecovery {
  checkIdentity(options.storeId, options.shard);
  if (!Number.isInteger(options.fromLsn) || options.fromLsn < 1 || options.fromLsn > U48_MAX) {
    throw invalidArgument(`fromLsn must be 1 ..= 2^48 - 1, got ${options.fromLsn}`);
  }
  return new Recovery(env, directory, options).run();
}

class Recovery {
  readonly #env: Env;
  readonly #directory: string;
  readonly #options: WalRecoveryOptions;
  readonly #mode: WalRecoveryMode;
  readonly #image = new SegmentImage();
  readonly #frame: WalFrame;
  /** Oldest first; those before #firstNeeded hold nothing from fromLsn on. */
  readonly #segments: Segment[] = [];
  #firstNeeded = 0;
  /** The next LSN to come. */
  #lsn: number;
  #frames = 0;
  #bytes = 0;
  #cut: WalCut | undefined;
  readonly #losses: { file: string; offset: number; lsnFrom: number; lsnTo: number | undefined; reason: string }[] = [];
  #unsyncedTail: { path: string; from: number; to: number } | undefined;

  constructor(env: Env, directory: string, options: WalRecoveryOptions) {
    this.#env = env;
    this.#directory = directory;
    this.#options = options;
    this.#mode = options.mode ?? 'tolerate-torn-tail';
    this.#lsn = options.fromLsn;
    this.#frame = {
      lsn: 0,
      firstSeq: 0,
      operationCount: 0,
      bytes: this.#image.bytes,
      start: 0,
      end: 0,
      file: '',
      offset: 0,
    };
  }

  run(): WalRecovery {
    this.#collect();
    const fromLsn = this.#options.fromLsn;
    for (let i = this.#firstNeeded; i < this.#segments.length && this.#cut === undefined; i++) {
      const segment = this.#segments[i]!;
      // Frames from here on were cut by an earlier recovery, or belong to the next segment.
      let limit = Infinity;
      for (let later = i + 1; later < this.#segments.length; later++) {
        const next = this.#segments[later]!;
        if (next.damage === undefined && next.firstLsn < limit) limit = next.firstLsn;
      }
      const isLast = i === this.#segments.length - 1;
      if (segment.damage !== undefined) this.#passDamagedHeader(segment, isLast ? undefined : limit);
      else if (limit > segment.firstLsn) this.#replay(segment, limit, isLast);
    }
    return {
      // Numbers of records that a checkpoint has are not given again, whatever the log has lost: the next checkpoint is to be the newest.
      lastLsn: Math.max(this.#lsn - 1, fromLsn - 1, this.#options.syncedLsn ?? 0),
      nextGeneration: (this.#segments.at(-1)?.generation ?? 0) + 1,
      frames: this.#frames,
      bytes: this.#bytes,
      cut: this.#cut,
      losses: this.#losses,
      segments: this.#segments.map(({ path, generation, firstLsn, usedBytes }, i) => ({
        path,
        generation,
        firstLsn,
        usedBytes,
        isNeeded: i >= this.#firstNeeded,
      })),
      unsyncedTail: this.#unsyncedTail,
    };
  }

  /** Reads headers from the newest back to the one that holds fromLsn; what is older has done its duty and is not judged. */
  #collect(): void {
    const files = listSegments(this.#env, this.#directory);
    if (files.length === 0 && this.#options.mustExist === true) {
      throw this.#corrupt(
        this.#directory,
        0,
        this.#options.fromLsn,
        'the log is missing: the directory has no segment',
      );
    }
    let reached = false;
    for (const { path, generation } of files.reverse()) {
      const file = this.#env.open(path, 'read');
      try {
        const usedBytes = file.size();
        if (reached) {
          this.#segments.push({ path, generation, firstLsn: 0, damage: undefined, usedBytes });
          continue;
        }
        const { firstLsn, damage } = this.#readHeader(file, generation);
        this.#segments.push({ path, generation, firstLsn, damage, usedBytes });
        reached = damage === undefined && firstLsn <= this.#options.fromLsn;
        this.#firstNeeded = this.#segments.length;
      } finally {
        file.close();
      }
    }
    this.#segments.reverse();
    this.#firstNeeded = this.#segments.length - this.#firstNeeded;
    const first = this.#segments.at(0);
    if (first !== undefined && !reached) this.#startIsMissing(first);
  }

  #readHeader(
    file: Parameters<typeof readSegmentHeader>[0],
    generation: number,
  ): { firstLsn: number; damage: ConcordError | undefined } {
    let header;
    try {
      header = readSegmentHeader(file).header;
    } catch (error) {
      const mayGoOn = this.#mode === 'salvage' || this.#mode === 'point-in-time';
      if (!(error instanceof ConcordError) || error.code !== 'ERR_CORRUPT' || !mayGoOn) throw error;
      return { firstLsn: 0, damage: error };
    }
    checkSegmentOwner(header, this.#options.storeId, this.#options.shard, generation, file.path);
    return { firstLsn: header.firstLsn, damage: undefined };
  }

  #startIsMissing(first: Segment): void {
    const fromLsn = this.#options.fromLsn;
    // A damaged header says the same later, in order.
    if (first.damage !== undefined) return;
    const reason = `the log begins with record ${first.firstLsn}, records from ${fromLsn} on are needed`;
    if (this.#mode === 'salvage') this.#lose(first.path, 0, fromLsn, first.firstLsn - 1, reason);
    else if (this.#mode === 'point-in-time') this.#cut = { file: first.path, offset: 0, lsn: fromLsn, reason };
    else throw this.#corrupt(first.path, 0, fromLsn, reason);
  }

  #passDamagedHeader(segment: Segment, limit: number | undefined): void {
    const reason = segment.damage!.message;
    if (this.#mode === 'point-in-time') this.#cut = { file: segment.path, offset: 0, lsn: this.#lsn, reason };
    else if (limit === undefined || limit === Infinity) this.#lose(segment.path, 0, this.#lsn, undefined, reason);
    else if (limit > this.#lsn) {
      this.#lose(segment.path, 0, this.#lsn, limit - 1, reason);
      this.#lsn = limit;
    }
  }

  #replay(segment: Segment, limit: number, isLast: boolean): void {
    const image = this.#image;
    image.load(this.#env, segment.path);
    let at = FIRST_FRAME_OFFSET;
    let lsn = segment.firstLsn;
    // Everything before the segment was durable when it was created.
    let unsyncedFrom = at;
    let unsyncedLsn = lsn;
    while (lsn < limit) {
      if (image.frameState(at, lsn) === 'good') {
        const syncedLsn = frameSyncedLsn(image.bytes, at);
        while (unsyncedLsn <= syncedLsn && unsyncedFrom < at) {
          unsyncedFrom = image.frameEnd(unsyncedFrom);
          unsyncedLsn++;
        }
        if (lsn >= this.#options.fromLsn) this.#deliver(at, lsn);
        at = image.frameEnd(at);
        lsn++;
        continue;
      }
      const resumeAt = this.#judge(segment, at, lsn, limit, isLast);
      if (resumeAt === undefined) break;
      at = resumeAt.offset;
      lsn = resumeAt.lsn;
      unsyncedFrom = at;
      unsyncedLsn = lsn;
    }
    segment.usedBytes = at;
    this.#lsn = Math.max(this.#lsn, lsn);
    // A segment that is not the last was synced before its successor came into being.
    if (isLast && unsyncedFrom < at) this.#unsyncedTail = { path: segment.path, from: unsyncedFrom, to: at };
  }

  /** At `at` there is no good frame `lsn`. Returns where to go on; undefined: this segment is done. */
  #judge(
    segment: Segment,
    at: number,
    lsn: number,
    limit: number,
    isLast: boolean,
  ): { offset: number; lsn: number } | undefined {
    const image = this.#image;
    const ahead = image.lookAhead(at, lsn, this.#mode === 'salvage');
    const hasNext = ahead.offset !== 0 && ahead.lsn < limit;
    const isClean = isLast && image.isCleanEnd(at, ahead);
    // Not yet part of a loss: records below fromLsn are in the checkpoint.
    const lsnNeeded = Math.max(lsn, this.#options.fromLsn);
    if (hasNext && ahead.lsn <= this.#options.fromLsn && this.#mode !== 'strict') return ahead;
    const what = image.describe(at, lsn);
    let behind = ahead.offset === 0 ? 'nothing valid behind it' : `valid records behind it, the first is ${ahead.lsn}`;
    if (!isLast)
      behind = limit === Infinity ? 'and a damaged segment follows' : `and a later segment begins with record ${limit}`;
    const reason = `${what}, ${behind}`;
    switch (this.#mode) {
      case 'tolerate-torn-tail':
        if (!isLast) throw this.#corrupt(segment.path, at, lsn, `${reason}; it had been synced`);
        if (lsn <= (this.#options.syncedLsn ?? 0)) {
          const known = `${what}, but the checkpoint says all up to ${this.#options.syncedLsn} was synced`;
          throw this.#corrupt(segment.path, at, lsn, known);
        }
        if (ahead.syncedLsnMax >= lsnNeeded) {
          throw this.#corrupt(
            segment.path,
            at,
            lsn,
            `${what}, but a later one says all up to ${ahead.syncedLsnMax} was synced`,
          );
        }
        if (!isClean) this.#cut = { file: segment.path, offset: at, lsn: lsnNeeded, reason };
        return undefined;
      case 'strict':
        if (!isClean || lsn <= (this.#options.syncedLsn ?? 0)) throw this.#corrupt(segment.path, at, lsn, reason);
        return undefined;
      case 'point-in-time':
        if (!isClean) this.#cut = { file: segment.path, offset: at, lsn: lsnNeeded, reason };
        return undefined;
      case 'salvage':
        if (hasNext) {
          if (ahead.lsn > lsnNeeded) this.#lose(segment.path, at, lsnNeeded, ahead.lsn - 1, reason);
          return ahead;
        }
        if (!isLast) {
          // With no readable header behind, the loss is reported where that header is.
          if (limit === Infinity) return undefined;
          this.#lose(segment.path, at, lsnNeeded, limit - 1, reason);
          return { offset: at, lsn: limit };
        }
        if (!isClean) this.#cut = { file: segment.path, offset: at, lsn: lsnNeeded, reason };
        return undefined;
    }
  }

  #deliver(at: number, lsn: number): void {
    const image = this.#image;
    const frame = this.#frame;
    const payloadBytes = framePayloadBytes(image.bytes, at);
    frame.lsn = lsn;
    frame.firstSeq = frameFirstSeq(image.bytes, at);
    frame.operationCount = frameOperationCount(image.bytes, at);
    frame.bytes = image.bytes;
    frame.start = at + FRAME_HEADER_BYTES;
    frame.end = frame.start + payloadBytes;
    frame.file = image.path;
    frame.offset = at;
    this.#frames++;
    this.#bytes += payloadBytes;
    this.#options.onFrame(frame);
  }

  #lose(file: string, offset: number, lsnFrom: number, lsnTo: number | undefined, reason: string): void {
    const last = this.#losses.at(-1);
    // Two bad frames in a row are one loss.
    if (last !== undefined && last.file === file && last.lsnTo === lsnFrom - 1) last.lsnTo = lsnTo;
    else this.#losses.push({ file, offset, lsnFrom, lsnTo, reason });
  }

  #corrupt(file: string, offset: number, lsn: number, text: string): ConcordError {
    return new ConcordError('ERR_CORRUPT', `${file} at ${offset}: ${text}`, { file, offset, lsn });
  }
}
