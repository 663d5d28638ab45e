/**
 * The decision log: which transactions over several shards are to be committed. A write-ahead log (wal/) of its own in the directory `coordinator`
 * of the store; picture, worked example and reasons: FORMAT.md.
 *
 *   decide(), fence(), end() … → write() = one frame, one write()     sync() = one fdatasync
 *
 *   offset  size  field        record, at a multiple of 8 in the payload of a frame; little-endian
 *        0     1  kind         DecisionKind
 *        1     3  zero
 *        4     4  client       u32, slot of the client; zero in End and Restated
 *        8     8  id           f64, an integer 1 ..= 2^48 - 1; Restated, which stands in a frame of its own: the LSN from which on all that is open was said anew
 *       16     8  mask         Decide only: the shards that write, bit s of the 64 for shard s; low u32, high u32
 *
 *   firstSeq of a frame: the highest id that was known when it was built. operationCount: its records.
 *
 * Invariants
 * - An id is committed from the moment on at which a frame with its Decide is whole in the file, whoever reads it later.
 * - What write() throws for has not happened and never will, unless `isInDoubt`: then nobody knows until settle() says so, or a recovery.
 * - End is told only of ids of which no shard will ask again (see coordinator.ts), so to forget it is safe; to lose it is too.
 * - Segments are cut off only when all that is open has been said anew, durably, behind them. Recovery begins there, whatever else a crash left.
 *
 * A store that has never decided anything has no such directory: it is made with the first frame.
 * Threads: the coordinator's, which owns the directory; readDecisions(): any while nobody writes.
 */
import { dirname } from 'node:path';
import { assert } from '../../shared/assert.js';
import { ConcordError } from '../../shared/errors.js';
import type { Env } from '../../shared/env/env.js';
import { recoverWal, type WalFrame, type WalRecovery, type WalRecoveryMode } from '../wal/recovery.js';
import { U48_MAX } from '../wal/format.js';
import { WalWriter, type WalOptions } from '../wal/writer.js';
import { FenceTable } from './fence-table.js';

/** In the place of a shard's number in the segments' headers. */
export const COORDINATOR_SHARD = 0xffff;
export const COORDINATOR_DIRECTORY = 'coordinator';

/** On disk: never renumber, never reuse. */
export const DecisionKind = { Decide: 1, Fence: 2, End: 3, Restated: 4 } as const;

export const DECIDE_BYTES = 24;
/** Of all others. */
export const SHORT_RECORD_BYTES = 16;

/** Small, since little of it is needed at a time; a spare or two are recycled for ever. */
const SEGMENT_BYTES = 2 << 20;
const PREALLOCATE_BYTES = 256 << 10;
const SPARE_SEGMENTS_MAX = 2;
/** A log that has grown by this, and by twice what was open the last time, is begun anew with what is open. */
const LOG_BYTES_MAX = 8 << 20;
/** Of one frame that says anew what is open. */
const REWRITE_RECORDS_MAX = 2048;

/** A transaction that is to be committed. */
export interface DecisionRecord {
  readonly id: number;
  /** As signed words. */
  readonly maskLow: number;
  readonly maskHigh: number;
  readonly client: number;
}

/** What has been decided and not ended, in order, and what must not be decided any more. */
export interface Decisions {
  readonly decided: ReadonlyMap<number, DecisionRecord>;
  /** Clients by ids. */
  readonly fenced: ReadonlyMap<number, number>;
  /** Of all ids that were ever met in the part of the log that is left; 0: none. */
  readonly highestId: number;
}

export interface DecisionLogOptions {
  readonly env: Env;
  /** Of the log itself; undefined: nothing is kept. */
  readonly directory: string | undefined;
  readonly storeId: Uint8Array;
  /** How many the store has: a mask names no other. */
  readonly shards: number;
  /** As of the shards' logs. */
  readonly recoveryMode?: WalRecoveryMode | undefined;
  readonly segmentBytes?: number | undefined;
  /** What it may grow by, see LOG_BYTES_MAX. Default 8 MiB. */
  readonly logBytesMax?: number | undefined;
  /** Of a store that keeps nothing: see fence-table.ts. Without one nothing is fenced there. */
  readonly fences?: SharedArrayBuffer | undefined;
}

/** @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO, ERR_PERMISSION. Nothing is written. */
export function readDecisions(options: DecisionLogOptions): (Decisions & { readonly wal: WalRecovery }) | undefined {
  const { env, directory, storeId } = options;
  if (directory === undefined || !env.exists(directory)) return undefined;
  const identity = { storeId, shard: COORDINATOR_SHARD };
  let fromLsn = 1;
  // Every frame that is whole: one that is not, from there on, is judged below.
  recoverWal(env, directory, {
    ...identity,
    fromLsn: 1,
    mode: 'salvage',
    onFrame: ({ bytes, start, end }) => {
      if (end - start !== SHORT_RECORD_BYTES || bytes[start] !== DecisionKind.Restated) return;
      const lsn = bytes.readDoubleLE(start + 8);
      if (isNumber(lsn)) fromLsn = lsn;
    },
  });
  const decided = new Map<number, DecisionRecord>();
  const fenced = new Map<number, number>();
  let highestId = 0;
  const wal = recoverWal(env, directory, {
    ...identity,
    fromLsn,
    mode: options.recoveryMode,
    onFrame: (frame) => {
      highestId = Math.max(highestId, frame.firstSeq, applyFrame(frame, options.shards, decided, fenced));
    },
  });
  return { decided, fenced, highestId, wal };
}

/** Returns the highest id in it. @throws ERR_CORRUPT */
function applyFrame(
  frame: WalFrame,
  shards: number,
  decided: Map<number, DecisionRecord>,
  fenced: Map<number, number>,
): number {
  const { bytes, start, end } = frame;
  let highest = 0;
  let records = 0;
  for (let at = start; at < end; records++) {
    const kind = bytes[at]!;
    const size = kind === DecisionKind.Decide ? DECIDE_BYTES : SHORT_RECORD_BYTES;
    if (size > end - at) throw corrupt(frame, at, `a record of kind ${kind} is cut off`);
    if (kind < DecisionKind.Decide || kind > DecisionKind.Restated) throw corrupt(frame, at, `unknown kind ${kind}`);
    if (bytes.readUIntLE(at + 1, 3) !== 0) throw corrupt(frame, at, 'bytes that must be zero are not');
    const client = bytes.readUInt32LE(at + 4);
    const id = bytes.readDoubleLE(at + 8);
    if (!isNumber(id)) throw corrupt(frame, at, `impossible number ${id}`);
    if (kind === DecisionKind.Decide) {
      const maskLow = bytes.readInt32LE(at + 16);
      const maskHigh = bytes.readInt32LE(at + 20);
      if (!isMaskOf(shards, maskLow, maskHigh)) throw corrupt(frame, at, `a mask beyond ${shards} shards`);
      decided.set(id, { id, maskLow, maskHigh, client });
    } else if (kind === DecisionKind.Fence) fenced.set(id, client);
    else if (client !== 0) throw corrupt(frame, at, 'a client where there is none');
    else if (kind === DecisionKind.End) {
      decided.delete(id);
      fenced.delete(id);
    } else if (id > frame.lsn) throw corrupt(frame, at, `record ${frame.lsn} names the later record ${id}`);
    if (kind !== DecisionKind.Restated) highest = Math.max(highest, id);
    at += size;
  }
  if (records !== frame.operationCount)
    throw corrupt(frame, start, `${records} records, the frame counts ${frame.operationCount}`);
  return highest;
}

function corrupt({ file, lsn }: WalFrame, at: number, what: string): ConcordError {
  return new ConcordError('ERR_CORRUPT', `${file} at ${at}: decision record: ${what}`, { file, offset: at, lsn });
}

function isNumber(value: number): boolean {
  return Number.isInteger(value) && value >= 1 && value <= U48_MAX;
}

/** Some shard of the store, and no other. */
export function isMaskOf(shards: number, maskLow: number, maskHigh: number): boolean {
  if (maskLow === 0 && maskHigh === 0) return false;
  const lowBits = shards >= 32 ? 0 : maskLow >>> shards;
  const highBits = shards >= 64 ? 0 : shards <= 32 ? maskHigh : maskHigh >>> (shards - 32);
  return lowBits === 0 && highBits === 0;
}

export class DecisionLog {
  /** What was found when it was opened. */
  readonly recovered: Decisions;
  /** Undefined: there was no log. */
  readonly recovery: WalRecovery | undefined;
  readonly #options: DecisionLogOptions;
  readonly #logBytesMax: number;
  readonly #fences: FenceTable | undefined;
  #writer: WalWriter | undefined;
  #recovery: WalRecovery | undefined;
  #highestId: number;
  #records = 0;
  /** Length of the log when it was begun anew last. */
  #restatedBytes = 0;
  #isBuilding = false;
  #isInDoubt = false;

  /**
   * Recovers the log; begins nothing that is not needed. What it says holds from then on, also after a power loss.
   * @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO, ERR_PERMISSION, ERR_DISK_FULL
   */
  static open(options: DecisionLogOptions): DecisionLog {
    const found = readDecisions(options);
    const log = new DecisionLog(options, found);
    if (found === undefined) return log;
    const { wal, decided, fenced } = found;
    const passedOver = wal.losses.length > 0 || wal.cut !== undefined;
    // What is acted upon must be durable before: the system may have told what the disk does not hold yet.
    if (decided.size > 0 || fenced.size > 0 || passedOver) {
      try {
        log.restate(decided.values(), fenced);
      } catch (error) {
        log.#abandon();
        throw error;
      }
    }
    return log;
  }

  private constructor(options: DecisionLogOptions, found: (Decisions & { readonly wal: WalRecovery }) | undefined) {
    this.#options = options;
    this.#logBytesMax = options.logBytesMax ?? LOG_BYTES_MAX;
    const { directory, fences } = options;
    this.#fences = directory !== undefined || fences === undefined ? undefined : new FenceTable(fences);
    const fenced = this.#fences?.recovered ?? new Map<number, number>();
    this.recovered = found ?? { decided: new Map(), fenced, highestId: 0 };
    this.recovery = found?.wal;
    this.#recovery = found?.wal;
    this.#highestId = this.recovered.highestId;
  }

  /** Set when nothing is accepted any more; see WalWriter. */
  get failure(): ConcordError | undefined {
    return this.#writer?.failure;
  }

  /** What write() has thrown for may or may not be in the file: see settle(). */
  get isInDoubt(): boolean {
    return this.#isInDoubt;
  }

  get sizeBytes(): number {
    return this.#writer?.sizeBytes ?? 0;
  }

  /** Time for restate(). */
  get isLong(): boolean {
    return this.sizeBytes > this.#logBytesMax + 2 * this.#restatedBytes;
  }

  /** Records of the frame under construction. */
  get records(): number {
    return this.#records;
  }

  decide(id: number, maskLow: number, maskHigh: number, client: number): void {
    if (!this.#begin(id, DECIDE_BYTES)) return;
    const writer = this.#writer!;
    const { bytes, position } = writer;
    this.#header(DecisionKind.Decide, client, id);
    bytes.writeInt32LE(maskLow | 0, position + 16);
    bytes.writeInt32LE(maskHigh | 0, position + 20);
    writer.position = position + DECIDE_BYTES;
  }

  /** How many more may be fenced in the frame under construction. */
  get fenceRoom(): number {
    return this.#options.directory === undefined ? (this.#fences?.room ?? 0) : Infinity;
  }

  /** The id must not be decided any more. */
  fence(id: number, client: number): void {
    this.#fences?.set(id, client);
    if (!this.#begin(id, SHORT_RECORD_BYTES)) return;
    this.#header(DecisionKind.Fence, client, id);
    this.#writer!.position += SHORT_RECORD_BYTES;
  }

  /** Nobody will ask of the id again. */
  end(id: number): void {
    this.#fences?.clear(id);
    if (!this.#begin(id, SHORT_RECORD_BYTES)) return;
    this.#header(DecisionKind.End, 0, id);
    this.#writer!.position += SHORT_RECORD_BYTES;
  }

  /** False: nothing is kept. @throws as WalWriter.open(): the frame is empty then */
  #begin(id: number, bytes: number): boolean {
    if (id > this.#highestId) this.#highestId = id;
    this.#records++;
    if (this.#options.directory === undefined) return false;
    try {
      const writer = this.#open();
      if (!this.#isBuilding) writer.begin();
      this.#isBuilding = true;
      writer.ensure(bytes);
      return true;
    } catch (error) {
      this.discard();
      throw error;
    }
  }

  #header(kind: number, client: number, id: number): void {
    const { bytes, position } = this.#writer!;
    bytes.writeUInt32LE(kind, position);
    bytes.writeUInt32LE(client, position + 4);
    bytes.writeDoubleLE(id, position + 8);
  }

  /** Drops the frame under construction. */
  discard(): void {
    if (this.#isBuilding) this.#writer!.discard();
    this.#isBuilding = false;
    this.#records = 0;
  }

  /** Hands the frame to the operating system. When it throws, the frame does not exist and never will, unless isInDoubt says otherwise. */
  write(): void {
    const records = this.#records;
    this.#records = 0;
    if (!this.#isBuilding) return;
    this.#isBuilding = false;
    const writer = this.#writer!;
    assert(!this.#isInDoubt, 'a frame behind one that is in doubt');
    try {
      writer.commit(this.#highestId, records);
    } catch (error) {
      // The writer has cut the frame off, if it could; what it could not cut it tells at the next sync.
      this.#isInDoubt = true;
      this.settle();
      throw error;
    }
  }

  /** Tries to end the doubt; true: what write() had thrown for does not exist. */
  settle(): boolean {
    if (!this.#isInDoubt || this.#writer!.failure !== undefined) return false;
    try {
      this.#writer!.sync();
      this.#isInDoubt = false;
    } catch {
      // Not yet, or never: `failure` tells.
    }
    return !this.#isInDoubt;
  }

  /** All that was written is durable when it returns. When it throws nothing is accepted any more, and what is durable nobody knows. */
  sync(): void {
    this.#writer?.sync();
  }

  /** Says all that is open anew, durably, and cuts off what stood before. When it throws, what stood before stands. */
  restate(decided: Iterable<DecisionRecord>, fenced: Iterable<readonly [id: number, client: number]>): void {
    if (this.#options.directory === undefined) return;
    assert(this.#records === 0, 'a restatement in the middle of a frame');
    const firstLsn = this.#open().lastLsn + 1;
    for (const { id, maskLow, maskHigh, client } of decided) {
      this.decide(id, maskLow, maskHigh, client);
      if (this.#records >= REWRITE_RECORDS_MAX) this.write();
    }
    for (const [id, client] of fenced) {
      this.fence(id, client);
      if (this.#records >= REWRITE_RECORDS_MAX) this.write();
    }
    this.write();
    const writer = this.#open();
    // Before the mark: a disk may keep that and lose what it speaks of.
    writer.sync();
    writer.begin();
    this.#isBuilding = true;
    writer.ensure(SHORT_RECORD_BYTES);
    this.#header(DecisionKind.Restated, 0, firstLsn);
    writer.position += SHORT_RECORD_BYTES;
    this.#records = 1;
    this.write();
    writer.sync();
    writer.truncate(firstLsn - 1);
    this.#restatedBytes = writer.sizeBytes;
  }

  #open(): WalWriter {
    if (this.#writer !== undefined) return this.#writer;
    const { env, storeId, segmentBytes = SEGMENT_BYTES } = this.#options;
    const directory = this.#options.directory!;
    if (!env.exists(directory)) env.makeDirectory(directory);
    env.syncDirectory(dirname(directory));
    const wal: WalOptions = {
      storeId,
      shard: COORDINATOR_SHARD,
      segmentBytes,
      preallocateBytes: PREALLOCATE_BYTES,
      spareSegmentsMax: SPARE_SEGMENTS_MAX,
    };
    // An attempt that failed may have left a segment: the next one looks anew.
    const recovery = this.#recovery ?? this.#lookAnew();
    this.#recovery = undefined;
    this.#writer = WalWriter.open(env, directory, wal, recovery);
    return this.#writer;
  }

  #lookAnew(): WalRecovery {
    const { recovery } = this;
    const { env, directory, storeId } = this.#options;
    return recoverWal(env, directory!, {
      storeId,
      shard: COORDINATOR_SHARD,
      fromLsn: (recovery?.lastLsn ?? 0) + 1,
      mode: 'salvage',
      onFrame: () => undefined,
    });
  }

  /** Writes and syncs what is there. The file is closed even when that fails. */
  close(): void {
    this.discard();
    this.#writer?.close();
  }

  #abandon(): void {
    try {
      this.close();
    } catch {
      // What failed before is told.
    }
  }
}
