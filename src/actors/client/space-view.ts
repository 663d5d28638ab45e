/**
 * One thread's view of one space in one shard: the reader of the engine that holds it there.
 *
 * Which row and which engine is read from the pinned meta page, and only when the last answer proves wrong (StaleViewError: the space was dropped,
 * or moved to another engine). Then the view is renewed and the read begins again under a new pin.
 * Threads: the client's.
 */
import { ConcordError } from '../../shared/errors.js';
import type { ArenaReader, UnitId } from '../../shared/memory/arena.js';
import { rowOfSpace, treeCounts, type TreeCounts } from '../../engines/btree/meta.js';
import '../../engines/built-in.js';
import { observeReads } from '../../engines/cells/read-events.js';
import { ColdReadError } from '../../engines/lsm/read/cold.js';
import {
  StaleViewError,
  engineCodeOfTag,
  engineOfCode,
  type Engine,
  type EngineCursor,
  type EngineReader,
} from '../../engines/engine.js';
import { Counter } from '../metrics/board.js';
import { READS_PER_SAMPLE, type SpaceMeter, type ThreadMeters } from '../metrics/meters.js';
import type { ShardLine } from './thread-client.js';

/** A read meets another engine only after a publication in between: so often in a row something is broken. */
const RENEWALS_MAX = 1000;

/** A space that has no row yet: nothing is in it, and somebody looks whether that is still so. */
class NoEntries implements EngineReader, EngineCursor {
  readonly seq = 0;
  readonly expiresAt = 0;
  readonly keyLength = 0;
  readonly valueLength = 0;
  readonly valid = false;
  readonly #arena: ArenaReader;
  readonly #spaceId: number;

  constructor(arena: ArenaReader, spaceId: number) {
    this.#arena = arena;
    this.#spaceId = spaceId;
  }

  find(metaUnit: UnitId): boolean {
    if (rowOfSpace(this.#arena, metaUnit, this.#spaceId) >= 0) throw new StaleViewError();
    return false;
  }

  seek(metaUnit: UnitId): boolean {
    return this.find(metaUnit);
  }

  next(): boolean {
    return false;
  }

  prev(): boolean {
    return false;
  }

  copyKey(): number {
    return 0;
  }

  compareKey(): number {
    return -1;
  }

  copyValue(): Buffer {
    return Buffer.alloc(0);
  }

  valueUtf8(): string {
    return '';
  }

  readValue(): number {
    return 0;
  }

  release(): void {
    // Nothing was taken.
  }

  setRange(): void {
    // Nothing is in any range.
  }
}

export class SpaceView {
  readonly spaceId: number;
  readonly arena: ArenaReader;
  readonly line: ShardLine;
  /** Of the thread. */
  readonly slot: number;
  /** Between find() and release() the entry that was found. */
  reader: EngineReader;
  /** Undefined: no row holds the space yet. */
  engine: Engine | undefined;
  /** Grows with each renewal: cursors of before are of no use. */
  generation = 0;
  #row = -1;
  readonly #nothing: NoEntries;
  #cursor: EngineCursor | undefined;
  /** Of the read under way. */
  #avoidsDisk = false;
  readonly #meters: ThreadMeters;
  #meter: SpaceMeter | undefined;
  /** Of point reads, one of so many of which is timed, from find() to release(). */
  #tick = 0;
  #startedMs = 0;

  constructor(line: ShardLine, spaceId: number, slot: number, meters: ThreadMeters) {
    this.line = line;
    this.arena = line.arena;
    this.spaceId = spaceId;
    this.slot = slot;
    this.#meters = meters;
    this.#nothing = new NoEntries(line.arena, spaceId);
    this.reader = this.#nothing;
  }

  /** Where the thread counts what it does with the space: made when it does something. */
  get meter(): SpaceMeter {
    return (this.#meter ??= this.#meters.of(this.spaceId));
  }

  /** Pins and finds the key. When true, `reader` stands at the entry, and the caller calls release(); when false nothing is held. */
  find(key: Uint8Array, keyLength: number, atSeq: number, atMs: number): boolean {
    const { counts } = this.#meter ?? this.meter;
    counts[Counter.Gets]!++;
    if ((++this.#tick & (READS_PER_SAMPLE - 1)) === 0) this.#startedMs = performance.now();
    const metaUnit = this.arena.pin(this.slot);
    try {
      if (this.reader.find(metaUnit, key, keyLength, atSeq, atMs)) return true;
    } catch (error) {
      this.release();
      if (!(error instanceof StaleViewError)) throw error;
      this.noteStale();
      const isFound = this.findUncounted(key, keyLength, atSeq, atMs);
      if (!isFound) this.meter.counts[Counter.Misses]!++;
      return isFound;
    }
    this.release();
    counts[Counter.Misses]!++;
    return false;
  }

  /** Whether a read may have to wait for a file: see tryFind(). Of a space that nobody has read yet it is not known. */
  get mayBeCold(): boolean {
    return this.reader.avoidsDisk !== undefined || this.generation === 0;
  }

  /** As find(), or uncounted, but it does not wait for a file: what must be loaded first is returned, and nothing is held. */
  tryFind(
    key: Uint8Array,
    keyLength: number,
    atSeq: number,
    atMs: number,
    isCounted: boolean,
  ): boolean | ColdReadError {
    this.#avoidsDisk = true;
    if (this.reader.avoidsDisk !== undefined) this.reader.avoidsDisk = true;
    try {
      if (isCounted) return this.find(key, keyLength, atSeq, atMs);
      const metaUnit = this.arena.pin(this.slot);
      const isFound = this.reader.find(metaUnit, key, keyLength, atSeq, atMs);
      if (!isFound) this.release();
      return isFound;
    } catch (error) {
      if (!isCounted) this.release();
      if (error instanceof ColdReadError) return error;
      if (!isCounted && error instanceof StaleViewError) return this.#tryFindFresh(key, keyLength, atSeq, atMs);
      throw error;
    } finally {
      this.#avoidsDisk = false;
      if (this.reader.avoidsDisk !== undefined) this.reader.avoidsDisk = false;
    }
  }

  #tryFindFresh(key: Uint8Array, keyLength: number, atSeq: number, atMs: number): boolean | ColdReadError {
    this.noteStale();
    try {
      return this.findUncounted(key, keyLength, atSeq, atMs);
    } catch (error) {
      if (error instanceof ColdReadError) return error;
      throw error;
    }
  }

  /** As find(), for what is no read of its own. Looks up first who holds the space. */
  findUncounted(key: Uint8Array, keyLength: number, atSeq: number, atMs: number): boolean {
    return this.untilFresh((metaUnit) => {
      const isFound = this.reader.find(metaUnit, key, keyLength, atSeq, atMs);
      if (!isFound) this.release();
      return isFound;
    });
  }

  release(): void {
    this.reader.release();
    this.arena.unpin(this.slot);
    if (this.#startedMs === 0) return;
    this.meter.readTook(performance.now() - this.#startedMs);
    this.#startedMs = 0;
  }

  /**
   * Runs `read` under a pin, again with a renewed view when it meets a stale one. `read` lets go of the pin, unless it throws.
   * @throws ERR_INTERNAL when no renewal helps
   */
  untilFresh<T>(read: (metaUnit: UnitId) => T): T {
    for (let attempt = 0; attempt < RENEWALS_MAX; attempt++) {
      const metaUnit = this.arena.pin(this.slot);
      try {
        this.renew(metaUnit);
        return read(metaUnit);
      } catch (error) {
        this.release();
        if (!(error instanceof StaleViewError)) throw error;
        this.noteStale();
      }
    }
    throw new ConcordError('ERR_INTERNAL', `space ${this.spaceId}: its row changes with every read`);
  }

  /** A read begins again with a renewed view. The first time it is not stale: nothing was known. */
  noteStale(): void {
    if (this.generation > 0) this.meter.counts[Counter.ViewRenewals]!++;
  }

  /** Looks up who holds the space in the pinned publication. */
  renew(metaUnit: UnitId): void {
    const { arena, spaceId } = this;
    this.generation++;
    this.#cursor = undefined;
    this.#row = rowOfSpace(arena, metaUnit, spaceId);
    if (this.#row < 0) {
      this.engine = undefined;
      this.reader = this.#nothing;
      return;
    }
    this.engine = engineOfCode(engineCodeOfTag(treeCounts(arena, metaUnit, this.#row).tag));
    observeReads(arena, spaceId, this.meter);
    this.reader = this.engine.openReader(arena, this.#row, spaceId, this.slot);
    if (this.#avoidsDisk && this.reader.avoidsDisk !== undefined) this.reader.avoidsDisk = true;
  }

  /** Shared by the scans of the thread, each of which seeks anew under its pin: for ordered engines. */
  get cursor(): EngineCursor {
    return (this.#cursor ??= this.openCursor());
  }

  /** A cursor of the caller's own, good for this generation. */
  openCursor(): EngineCursor {
    return this.engine === undefined
      ? this.#nothing
      : this.engine.openCursor(this.arena, this.#row, this.spaceId, this.slot);
  }

  /** The space's row in the newest publication; an empty one if it has none. */
  counts(): TreeCounts {
    const metaUnit = this.arena.pin(this.slot);
    try {
      const row = rowOfSpace(this.arena, metaUnit, this.spaceId);
      return row < 0 ? treeCounts(this.arena, 0, 0) : treeCounts(this.arena, metaUnit, row);
    } finally {
      this.arena.unpin(this.slot);
    }
  }
}
