/**
 * Scans: chunks of entries copied out of each shard under a short pin, merged in key order over the shards.
 *
 * Between chunks a scan holds a snapshot number and a key, never a page, so a slow consumer costs the writer old versions of what it changes,
 * not memory for every page. A scan of one shard that fits one chunk needs no snapshot, if nothing was applied while the chunk was copied:
 * single overwrites show before their group is published (see BTreeWriter.overwritesInPlace), so a pinned root alone is not one state.
 * Engines without an order of their own sort the range once per state: they are always read with a snapshot, through a cursor of the scan's own.
 *
 * Threads: the client's thread.
 */
import { KeyScratch, type KeyEncoding } from '../../shared/codec/key-encoding.js';
import type { ValueEncoding } from '../../shared/codec/value-encoding.js';
import { StaleViewError, type EngineCursor } from '../../engines/engine.js';
import type { UnitId } from '../../shared/memory/arena.js';
import type { SpaceView } from '../client/space-view.js';
import type { ControlBlock } from '../control-block.js';
import type { EncodedRange } from './range.js';

const CHUNK_ENTRIES_FIRST = 100;
const CHUNK_ENTRIES_MAX = 512;
/** Values copied in one chunk: one value may exceed it. */
const CHUNK_VALUE_BYTES_MAX = 1 << 20;

export interface ScanShape {
  readonly range: EncodedRange;
  readonly reverse: boolean;
  readonly wantKeys: boolean;
  readonly wantValues: boolean;
  /** Raw key bytes are kept for merging. */
  readonly merges: boolean;
}

/** A stored value on its way out: text or bytes of its own, decoded when the caller gets it. */
export type RawValue = string | Buffer;

/** What a scan walks one shard with: the view's cursor, or one of its own where the engine keeps what it sorted. */
export class ScanCursor {
  readonly #view: SpaceView;
  readonly #range: EncodedRange;
  #own: EngineCursor | undefined;
  #generation = -1;

  constructor(view: SpaceView, range: EncodedRange) {
    this.#view = view;
    this.#range = range;
  }

  #current(): EngineCursor {
    const view = this.#view;
    if (view.engine === undefined || view.engine.isOrdered) {
      // Other scans use it between two chunks.
      view.cursor.setRange(this.#range.low, this.#range.high);
      return view.cursor;
    }
    if (this.#own === undefined || this.#generation !== view.generation) {
      this.#own = view.openCursor();
      this.#own.setRange(this.#range.low, this.#range.high);
      this.#generation = view.generation;
    }
    return this.#own;
  }

  /** Runs `walk` under a pin, again when its seek() met a stale view: it has no effects before that. */
  read<T>(walk: (cursor: EngineCursor, metaUnit: UnitId) => T): T {
    const view = this.#view;
    const { arena, slot } = view;
    const metaUnit = arena.pin(slot);
    try {
      return this.#walk(walk, metaUnit);
    } catch (error) {
      if (!(error instanceof StaleViewError)) throw error;
      view.noteStale();
    } finally {
      arena.unpin(slot);
    }
    return view.untilFresh((fresh) => {
      const found = this.#walk(walk, fresh);
      arena.unpin(slot);
      return found;
    });
  }

  #walk<T>(walk: (cursor: EngineCursor, metaUnit: UnitId) => T, metaUnit: UnitId): T {
    const cursor = this.#current();
    try {
      return walk(cursor, metaUnit);
    } finally {
      cursor.release();
    }
  }
}

/** The part of a scan that one shard contributes. */
export class ShardScan {
  readonly #view: SpaceView;
  readonly #cursor: ScanCursor;
  readonly #control: ControlBlock;
  readonly #shape: ScanShape;
  readonly #keyEncoding: KeyEncoding;
  readonly #isText: boolean;
  readonly #keyScratch = new KeyScratch();
  /** Where the next chunk begins, inclusive; undefined: at the open end. */
  #resume: Buffer | undefined;
  #chunkEntries = CHUNK_ENTRIES_FIRST;

  keys: unknown[] = [];
  rawKeys: Buffer[] = [];
  values: RawValue[] = [];
  count = 0;
  position = 0;
  /** Nothing follows the chunk at hand. */
  ended = false;
  /** The chunk at hand, if it was read without a snapshot, is of one state. */
  isStable = true;
  /** Of the chunk at hand, read without a snapshot: what it was read from. */
  #metaUnit: UnitId = 0;

  constructor(
    view: SpaceView,
    control: ControlBlock,
    shape: ScanShape,
    keyEncoding: KeyEncoding,
    valueEncoding: ValueEncoding,
  ) {
    this.#view = view;
    this.#control = control;
    this.#shape = shape;
    this.#cursor = new ScanCursor(view, shape.range);
    this.#keyEncoding = keyEncoding;
    this.#isText = valueEncoding.form === 'text';
    this.#resume = shape.reverse ? shape.range.high : shape.range.low;
  }

  /** Copies the next chunk, of at most `entriesMax` entries, as of `atSeq` and, for what expires, `atMs`. */
  fill(atSeq: number, atMs: number, entriesMax: number): void {
    const max = Math.min(this.#chunkEntries, entriesMax);
    this.#chunkEntries = Math.min(CHUNK_ENTRIES_MAX, this.#chunkEntries * 2);
    const startedMs = performance.now();
    this.#cursor.read((cursor, metaUnit) => {
      this.#copyChunk(cursor, metaUnit, atSeq, atMs, max);
    });
    // An unstable chunk is read again.
    if (this.isStable) this.#view.meter.chunkTook(performance.now() - startedMs, this.count);
  }

  /** Whether every transaction shows on all of its shards, or on none. */
  get isCommitFree(): boolean {
    return this.#control.commits.length === 0;
  }

  /** Whether nothing was published since the chunk at hand was read. */
  get isUnchanged(): boolean {
    const { arena, line } = this.#view;
    return arena.published() === this.#metaUnit && !this.#control.isApplying(line.link.shard);
  }

  #copyChunk(cursor: EngineCursor, metaUnit: UnitId, atSeq: number, atMs: number, max: number): void {
    const { range, reverse, wantKeys, wantValues, merges } = this.#shape;
    const { low, high } = range;
    const keys: unknown[] = [];
    const rawKeys: Buffer[] = [];
    const values: RawValue[] = [];
    let count = 0;
    let valueBytes = 0;
    const scratch = this.#keyScratch;
    const resume = this.#resume;
    const needsStability = atSeq === Infinity;
    const { engine } = this.#view;
    const { shard } = this.#view.line.link;
    if (needsStability && (this.#control.isApplying(shard) || engine?.isOrdered === false)) {
      this.isStable = false;
      return;
    }
    cursor.seek(metaUnit, resume, resume?.length ?? 0, atSeq, reverse, atMs);
    // The high bound is exclusive; only the first chunk of a reverse scan begins at it.
    if (reverse && cursor.valid && high !== undefined && resume === high && cursor.compareKey(high, high.length) >= 0) {
      cursor.prev();
    }
    for (;;) {
      if (!cursor.valid || (reverse ? isBelow(cursor, low) : isAtOrAbove(cursor, high))) {
        this.ended = true;
        break;
      }
      if (count >= max || valueBytes >= CHUNK_VALUE_BYTES_MAX) {
        const next = Buffer.allocUnsafe(cursor.keyLength);
        cursor.copyKey(next, 0);
        this.#resume = next;
        break;
      }
      if (merges) {
        const raw = Buffer.allocUnsafe(cursor.keyLength);
        cursor.copyKey(raw, 0);
        rawKeys.push(raw);
        if (wantKeys) keys.push(this.#keyEncoding.decode(raw, 0, raw.length));
      } else if (wantKeys) {
        scratch.ensure(cursor.keyLength);
        const length = cursor.copyKey(scratch.bytes, 0);
        keys.push(this.#keyEncoding.decode(scratch.bytes, 0, length));
      }
      if (wantValues) {
        valueBytes += cursor.valueLength;
        values.push(this.#isText ? cursor.valueUtf8() : cursor.copyValue());
      }
      count++;
      if (reverse) cursor.prev();
      else cursor.next();
    }
    // The pinned meta page cannot be reused, so an unchanged one means that nothing was published.
    if (needsStability) {
      this.#metaUnit = metaUnit;
      this.isStable = this.isUnchanged;
    }
    this.keys = keys;
    this.rawKeys = rawKeys;
    this.values = values;
    this.count = count;
    this.position = 0;
  }

  /** Back to the beginning of the range. */
  restart(): void {
    this.#resume = this.#shape.reverse ? this.#shape.range.high : this.#shape.range.low;
    this.count = 0;
    this.position = 0;
    this.ended = false;
    this.isStable = true;
  }

  get isDrained(): boolean {
    return this.ended && this.position >= this.count;
  }
}

function isBelow(cursor: EngineCursor, low: Buffer | undefined): boolean {
  return low !== undefined && cursor.compareKey(low, low.length) < 0;
}

function isAtOrAbove(cursor: EngineCursor, high: Buffer | undefined): boolean {
  return high !== undefined && cursor.compareKey(high, high.length) >= 0;
}

/** Entries of all shards in key order. */
export class MergedScan {
  readonly #shards: ShardScan[];
  readonly #reverse: boolean;
  #remaining: number;
  #current: ShardScan | undefined;

  constructor(shards: ShardScan[], reverse: boolean, limit: number) {
    this.#shards = shards;
    this.#reverse = reverse;
    this.#remaining = limit;
  }

  /** Whether the next advance() reads a chunk: a good moment to yield to the event loop. */
  get needsChunk(): boolean {
    return this.#shards.some((shard) => !shard.ended && shard.position >= shard.count);
  }

  /** Entries of the chunks at hand that were not given yet. */
  get readyEntries(): number {
    return this.#shards.reduce((sum, shard) => sum + shard.count - shard.position, 0);
  }

  /** Reads the chunks that are used up. */
  fill(atSeq: number, atMs: number): void {
    for (const shard of this.#shards) {
      if (!shard.ended && shard.position >= shard.count) shard.fill(atSeq, atMs, this.#remaining);
    }
  }

  /** Whether the chunks at hand, read without a snapshot, are of one state and hold everything the scan will give. */
  get holdsAll(): boolean {
    const shards = this.#shards;
    if (!shards.every((shard) => shard.isStable && (shard.ended || shard.count >= this.#remaining))) return false;
    // One state of several shards: none of them has changed while the others were read, and no transaction shows on some of them only.
    return shards.length === 1 || (shards[0]!.isCommitFree && shards.every((shard) => shard.isUnchanged));
  }

  restart(): void {
    for (const shard of this.#shards) shard.restart();
  }

  /** To the next entry; false at the end. Chunks must be filled. */
  advance(): boolean {
    if (this.#remaining <= 0) return false;
    const shards = this.#shards;
    let best: ShardScan | undefined;
    if (shards.length === 1) {
      const only = shards[0]!;
      if (only.position < only.count) best = only;
    } else {
      for (const shard of shards) {
        if (shard.position >= shard.count) continue;
        if (best === undefined) best = shard;
        else {
          const order = shard.rawKeys[shard.position]!.compare(best.rawKeys[best.position]!);
          if (this.#reverse ? order > 0 : order < 0) best = shard;
        }
      }
    }
    if (best === undefined) return false;
    best.position++;
    this.#remaining--;
    this.#current = best;
    return true;
  }

  get isFinished(): boolean {
    return this.#remaining <= 0 || this.#shards.every((shard) => shard.isDrained);
  }

  get key(): unknown {
    const shard = this.#current!;
    return shard.keys[shard.position - 1];
  }

  get value(): RawValue {
    const shard = this.#current!;
    return shard.values[shard.position - 1]!;
  }
}
