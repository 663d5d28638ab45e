/**
 * The contract of engines: what a structure must offer to hold the entries of a space, and the table of those that do.
 *
 * An engine lives in one row of its shard's meta page (btree/meta.ts). It has three faces:
 *
 *   EngineWriter   the shard's thread     changes, counts, checks; everything of a group becomes visible with the next publication
 *   EngineReader   any thread             point reads under a pin
 *   EngineCursor   any thread             entries in key order under a pin, both directions
 *
 * What all of them hold to:
 *  1. Visibility. Before the meta page is published, no read sees anything of the group, or sees it whole (an overwrite in place, see
 *     BTreeWriter.overwritesInPlace). atSeq = Infinity reads what is published; a number reads what a snapshot of that number saw.
 *  2. Versions. While a snapshot S of setSnapshots() has old ≤ S < new, the old version stays readable at S. A delete leaves a tombstone only
 *     while a version below it must stay.
 *  3. Death. The writer's thread may die between any two lines. A writer constructed on the same row afterwards (after ArenaWriter.adopt)
 *     finds the published state; what was not published is gone.
 *  4. Room. If admits() said yes, the group can be applied. An operation that throws ERR_MEMORY_FULL has changed nothing.
 *  5. Expiry. An entry with expiresAt ≤ the time of the read is absent. It still counts in liveEntries until it is removed.
 *  6. Readers trust no byte further than they must: a wrong one leads to ERR_CORRUPT, never outside the arena or into an endless walk.
 *
 * Keys are bytes in memcmp order, at most 4,096 of them. Sequence numbers are below 2^48, and so are times (ms since the epoch; 0: none).
 * Threads: the table is per thread; registerEngine() must run in every thread of a pool (option engineModules).
 */
import { ConcordError, invalidArgument } from '../shared/errors.js';
import type { ArenaReader, ArenaWriter, UnitId } from '../shared/memory/arena.js';
import type { OverflowChain } from './btree/overflow.js';
import type { TreeCounts, TreeRowSource } from './btree/meta.js';
import type { LsmFigures } from './lsm/figures.js';
import type { LsmTuning } from './lsm/options.js';
import type { WriteFlow } from './lsm/types.js';

/** In shared memory and in checkpoint files: never renumber, never reuse. 8 … 15 are for registerEngine(). */
export const EngineCode = { btree: 0, hash: 1, rbtree: 2, array: 3, memtable: 4, lsm: 5 } as const;
export type BuiltInEngine = keyof typeof EngineCode;
const CUSTOM_CODE_MIN = 8;
const CUSTOM_CODE_MAX = 15;

/** Space 0 is the default one. Ids are never used twice. */
export const DEFAULT_SPACE_ID = 0;
export const SPACE_ID_MAX = 2 ** 28 - 3;
/** An engine that is being filled: no reader looks for it. */
export const BUILDING_SPACE_ID = 2 ** 28 - 2;
/** The tag of a row that nothing uses. */
export const FREE_TAG = 0xffffffff;
/** Not a user's: the index of entries that expire, always a B+Tree. */
export const EXPIRY_SPACE_ID = 1;

/**
 * The last word of a meta row: whose entries it holds, in which engine. A reader whose tag is not the row's is out of date: the space was
 * dropped or switched (StaleViewError). 0: the default space in a B+Tree.
 */
export function rowTag(spaceId: number, code: number): number {
  return ((spaceId << 4) | code) >>> 0;
}

export function spaceIdOfTag(tag: number): number {
  return tag >>> 4;
}

export function engineCodeOfTag(tag: number): number {
  return tag & 15;
}

/** Thrown by find() and seek() when the row is another engine's now. Not for users: the caller renews its view and tries again. */
export class StaleViewError extends Error {
  constructor() {
    super('the space has another engine, or is gone');
    this.name = 'StaleViewError';
  }
}

/** What a new engine is told. Unknown ones are ignored: each engine reads its own. Remembered with the space. */
export interface EngineTuning {
  /** B+Tree: 3 … 1000. */
  readonly order?: number | undefined;
  /** B+Tree: 4096 … 32768, or 'adaptive': by the sizes of the entries seen. */
  readonly pageBytes?: number | 'adaptive' | undefined;
  /** Memtable: bytes at which it asks to be frozen. */
  readonly memtableBytes?: number | undefined;
  /** B+Tree: bytes of shared memory the space may use before cold pages live in its file only. */
  readonly budgetBytes?: number | undefined;
  /** LSM-Tree. */
  readonly lsm?: LsmTuning | undefined;
}

/** Counts of a row; those that an engine has no use for are 0. */
export type EngineCounts = TreeCounts;

/** Events since the writer was made; names as in metrics. An engine lists those it has. */
export type EngineMetrics = Readonly<Record<string, number>>;

export interface SweepState {
  /** Where to go on; the engine's own. */
  resumeKey: Uint8Array | undefined;
  resumeSeq: number;
  done: boolean;
  /** Versions and tombstones removed so far. */
  removedCells: number;
}

export function newSweep(): SweepState {
  return { resumeKey: undefined, resumeSeq: Infinity, done: false, removedCells: 0 };
}

export interface RemoveRangeResult {
  /** Live keys removed. */
  readonly removed: number;
  readonly done: boolean;
  /** Where to go on (inclusive, in the engine's own order) if not done. */
  readonly resumeKey: Uint8Array | undefined;
}

/** A version on its way from one engine to another. The bytes are the receiver's until the visit returns. */
export interface VersionVisit {
  (
    key: Uint8Array,
    keyLength: number,
    value: Uint8Array,
    valueLength: number,
    seq: number,
    expiresAt: number,
    isTombstone: boolean,
  ): void;
}

/** The shard's side. All methods: the shard's thread only. */
export interface EngineWriter extends TreeRowSource {
  readonly code: number;
  /** Row of the meta page. */
  readonly row: number;
  /** Stands in the row, see rowTag(). Set anew by the store when a filled engine takes its place. */
  tag: number;

  /**
   * Sets the key. True if a live version existed. seq: above that of every version of the key.
   * @throws ERR_MEMORY_FULL, ERR_KEY_TOO_LARGE, ERR_VALUE_TOO_LARGE
   */
  put(
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    value: Uint8Array,
    valueStart: number,
    valueLength: number,
    seq: number,
    expiresAt: number,
  ): boolean;
  /** The same with a value that an OverflowWriter of the arena has written; the engine owns the chain from then on, unless it throws. */
  putOverflow(
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    chain: OverflowChain,
    seq: number,
    expiresAt: number,
  ): boolean;
  /** True if a live version existed. */
  del(key: Uint8Array, keyStart: number, keyLength: number, seq: number): boolean;
  /**
   * Brings what an operation on the key will look at into memory, where an engine keeps a part elsewhere: what can fail, fails before the operation is
   * logged. Nothing of it goes before the next endGroup(). @throws ERR_CORRUPT, ERR_IO, ERR_MEMORY_FULL
   */
  fetch?(key: Uint8Array, keyStart: number, keyLength: number): void;
  /** Of what the last put or del replaced: its expiry and number; 0 and 0 if there was nothing, or it does not expire. */
  readonly replacedExpiresAt: number;
  readonly replacedSeq: number;
  /** Number of the live version in the state being built that has not expired at `atMs` (0: judge no expiry), 0 if there is none. */
  versionOf(key: Uint8Array, keyStart: number, keyLength: number, atMs: number): number;
  /** Expiry of what versionOf() found, 0: none. */
  readonly foundExpiresAt: number;

  /**
   * Deletes live keys in [low, high) (undefined: open), at most `limit`: a slice. The engine's own order decides which; resumeKey replaces low in
   * the next call if the engine is ordered, and is handed back as `resume` if it is not.
   */
  removeRange(
    low: Uint8Array | undefined,
    lowInclusive: boolean,
    high: Uint8Array | undefined,
    highInclusive: boolean,
    limit: number,
    seq: number,
    resume?: Uint8Array,
  ): RemoveRangeResult;

  /** Open snapshots for the group about to be applied, ascending; the array is kept, not copied. */
  setSnapshots(sorted: Float64Array, count: number): void;
  /**
   * Before the first operation of a group. `publishedSeq`: the last number readers see until the publication. `isAtomic`: its operations must show
   * together.
   */
  beginGroup(publishedSeq: number, isAtomic: boolean): void;
  /** After the publication: what only its readers needed goes. */
  endGroup(): void;

  /**
   * Whether a group of so many operations and bytes of keys and values can surely be applied. Deletes may use the arena's reserve. largestBytes: key
   * and value of the largest of them, if it is known.
   */
  admits(operations: number, bytes: number, deletesOnly: boolean, largestBytes?: number): boolean;
  /** A safe bound of the units such a group may take. */
  unitsNeeded(operations: number, bytes: number, largestBytes?: number): number;

  /** One slice of removing what no snapshot needs, and packing. */
  sweep(state: SweepState, budget: number): void;
  /**
   * Shows versions in the engine's own order, oldest first within a key, from `position` (undefined: the start) on, about `budget` of them. Returns
   * where to go on, undefined at the end. Positions stay meaningful whatever changes in between.
   */
  visitVersions(position: Uint8Array | undefined, budget: number, visit: VersionVisit): Uint8Array | undefined;
  /** Whether the key comes before the position in the engine's own order: visitVersions() has passed it. */
  isBefore(key: Uint8Array, keyStart: number, keyLength: number, position: Uint8Array): boolean;

  counts(): EngineCounts;
  /** Bytes by kind: what the engine's memory is used for. Names as in metrics. */
  memory(): Readonly<Record<string, number>>;
  metrics(): EngineMetrics;
  /** Problems found, empty when sound. Walks everything. */
  check(): string[];
  /** Gives all memory back and empties the row. Readers must have no way here any more, or hold a pin. */
  destroy(): void;

  /** What engines with files and jobs of their own have besides. */
  readonly background?: EngineBackground;
}

/**
 * The side of an engine that works behind the groups: it writes its memory to files and merges those, by jobs that run elsewhere. Everything is called
 * in the shard's thread between groups; ShardStore.work() does it for all engines and publishes.
 */
export interface EngineBackground {
  /** There is something for work() to do now: a job ended, a memtable is full. Cheap: asked for between any two groups. */
  readonly hasWork: boolean;
  /** When work() has something to do by itself, ms since the epoch: a failed job is tried again, tables grow too old. Infinity: never. */
  readonly workDueAtMs: number;
  setSnapshots(sorted: Float64Array, count: number): void;
  /** Installs what jobs have done and starts new ones. True when something must be published. setSnapshots() comes before it. @throws ERR_IO, ERR_CORRUPT */
  work(nowMs: number): boolean;
  /** How fast writes may come. */
  flow(): WriteFlow;
  /** Operations up to this number are in files: a replay passes over them. */
  readonly storedSeq: number;
  /** The highest number of an operation in files. */
  readonly largestSeq: number;
  /** First frame of the log that holds something which is not in files yet; Infinity: everything is. 0: some of it is in no frame, see noteLsn(). */
  readonly neededFromLsn: number;
  /** Within a group: its operations stand in the log from this frame on; 0: they are not in the log, but copied from elsewhere. */
  noteLsn(lsn: number): void;
  /**
   * Writes what is in memory to files here and now, where no jobs run: a recovery that holds more than memory does. False if nothing was done. Between
   * groups; the caller publishes. @throws ERR_IO, ERR_DISK_FULL, ERR_MEMORY_FULL
   */
  relieve(nowMs: number): boolean;
  /** Entries go from its files by themselves, and a recovery may find them in the log: what is to be removed is more than what is found. */
  readonly dropsEntries?: boolean;
  /** If it holds anything from the log before that frame, memory goes to files, so that the log may go. */
  freezeBefore(lsn: number): void;
  /** Memory that may be used before the log's beginning moves on, bytes. */
  readonly logBytesMax: number;
  /** What is in memory now goes to files. `done` is called from within a later work(), when it is there, or with why not. */
  flush(done: (error?: Error) => void): void;
  /**
   * Merges everything in [low, high) (undefined: open) down to the last level. `done` is called from within a later work(). Returns how to give it up: then
   * `done` comes with ERR_CLOSED.
   */
  compactRange(low: Uint8Array | undefined, high: Uint8Array | undefined, done: (error?: Error) => void): () => void;
  figures(): LsmFigures;
}

/** An entry at hand, between find()/seek() and release(). */
export interface EngineEntry {
  readonly seq: number;
  /** 0: never. */
  readonly expiresAt: number;
  readonly keyLength: number;
  readonly valueLength: number;
  copyKey(into: Uint8Array, at: number): number;
  compareKey(key: Uint8Array, keyLength: number): number;
  copyValue(): Buffer;
  valueUtf8(): string;
  readValue(into: Uint8Array, at: number, from: number, length: number): number;
}

export interface EngineReader extends EngineEntry {
  /**
   * Engines that read files have it: while true, a find() that would wait for one throws ColdReadError instead (see lsm/read/cold.ts). The caller sets it
   * back.
   */
  avoidsDisk?: boolean;
  /**
   * Finds the newest version ≤ atSeq (Infinity: what is published) that has not expired at `atMs` (0: now). The entry stays good until release()
   * or the next find(). @throws StaleViewError, ERR_CORRUPT
   */
  find(metaUnit: UnitId, key: Uint8Array, keyLength: number, atSeq: number, atMs: number): boolean;
  /** Lets go of what find() took (a read lock). Before unpin, whatever find() did. */
  release(): void;
}

export interface EngineCursor extends EngineEntry {
  readonly valid: boolean;
  /**
   * To the first entry ≥ key, or in reverse the last ≤ key (undefined: from the end). A cursor is valid until release(): chunks seek again.
   * @throws StaleViewError, ERR_CORRUPT
   */
  seek(
    metaUnit: UnitId,
    key: Uint8Array | undefined,
    keyLength: number,
    atSeq: number,
    reverse: boolean,
    atMs: number,
  ): boolean;
  next(): boolean;
  prev(): boolean;
  /** As EngineReader.release(). */
  release(): void;
  /** Unordered engines: only keys in [low, high) will be asked for; what was sorted for another range is forgotten. Others ignore it. */
  setRange(low: Uint8Array | undefined, high: Uint8Array | undefined): void;
}

export interface Engine {
  readonly name: string;
  readonly code: number;
  /** Cursors walk in key order by themselves; if not they sort a copy of the keys first, and need a snapshot to do it only once. */
  readonly isOrdered: boolean;
  /** False: counts().liveEntries is an estimate, as puts and deletes do not look for what they replace. Left out: true. */
  readonly countsExactly?: boolean;
  /** Entries that have expired go without being deleted, where the writer has a `background`: no lines for them are kept in the index. Left out: false. */
  readonly expiresByItself?: boolean;
  /** removeRange() without a limit takes the same time for any range, where the writer has a `background`: no need to cut it into slices. Left out: false. */
  readonly removesRangeAtOnce?: boolean;
  /** On the row as it was last published; options count for one that is empty. The arena's writer must have adopted it. */
  openWriter(arena: ArenaWriter, row: number, spaceId: number, tuning: EngineTuning): EngineWriter;
  /** slot: the thread's reader slot. */
  openReader(arena: ArenaReader, row: number, spaceId: number, slot: number): EngineReader;
  openCursor(arena: ArenaReader, row: number, spaceId: number, slot: number): EngineCursor;
  /** Reports every page the row's engine uses: for ArenaWriter.adopt. */
  mark(arena: ArenaReader, metaUnit: UnitId, row: number, mark: (unit: UnitId, units: number) => void): void;
}

const byName = new Map<string, Engine>();
const byCode = new Map<number, Engine>();

/** Without one of them a shard would fail in the middle of its work. */
const ENGINE_METHODS = ['openWriter', 'openReader', 'openCursor', 'mark'] as const;

/** The built-in engines register themselves in engines/built-in.ts. */
export function addEngine(engine: Engine): void {
  byName.set(engine.name, engine);
  byCode.set(engine.code, engine);
}

/**
 * Makes an engine of your own known in this thread under a new name and a code of 8 … 15. Call it from a module that is named in the pool's option
 * engineModules, so that the threads of the pool do the same. @throws ERR_INVALID_ARG when name or code are taken, or it is no engine
 */
export function registerEngine(name: string, engine: Engine): void {
  if (typeof name !== 'string' || !/^[a-z][a-z0-9-]{0,31}$/.test(name)) {
    throw invalidArgument(`an engine's name is 1 to 32 of a-z, 0-9 and -, got ${String(name)}`);
  }
  if (typeof engine !== 'object' || engine === null) throw invalidArgument(`engine ${name} must be an object`);
  if (engine.name !== name) {
    throw invalidArgument(`an engine is registered as what it is called: ${name}, not ${String(engine.name)}`);
  }
  const { code } = engine;
  if (!(Number.isInteger(code) && code >= CUSTOM_CODE_MIN && code <= CUSTOM_CODE_MAX)) {
    throw invalidArgument(`an engine's code is ${CUSTOM_CODE_MIN} to ${CUSTOM_CODE_MAX}, got ${String(code)}`);
  }
  for (const method of ENGINE_METHODS) {
    if (typeof engine[method] !== 'function') throw invalidArgument(`engine ${name} has no function ${method}`);
  }
  const known = byName.get(name) ?? byCode.get(code);
  if (known !== undefined && (known.name !== name || known.code !== code)) {
    throw invalidArgument(`engine ${name} with code ${code}: ${known.name} has code ${known.code}`);
  }
  addEngine(engine);
}

/** @throws ERR_INVALID_ARG */
export function engineNamed(name: string): Engine {
  const engine = byName.get(name);
  if (engine === undefined) throw invalidArgument(`unknown engine ${name}; there are ${engineNames().join(', ')}`);
  return engine;
}

/** @throws ERR_CORRUPT */
export function engineOfCode(code: number): Engine {
  const engine = byCode.get(code);
  if (engine === undefined) {
    throw new ConcordError('ERR_CORRUPT', `no engine has code ${code}; is a module of engineModules missing?`, {
      code,
    });
  }
  return engine;
}

export function engineNames(): string[] {
  return [...byName.keys()];
}
