/**
 * One engine by itself, in one thread: no shard, no log, nothing on disk. For measuring and testing engines, and for programs that want a structure
 * and no store.
 *
 *   const engine = createEngine('rbtree', { memoryBytes: 64 << 20 });
 *   engine.set(key, value);                       // visible at once
 *   engine.setMany(entries);                      // one group: applied in key order, visible together
 *   for (const [key, value] of engine.iterate({ prefix })) …
 *
 * Keys and values are bytes. Other threads may read the same memory through engine.layout and the engine's openReader(). Threads: the one that made it.
 */
import { invalidArgument } from '../shared/errors.js';
import { ArenaReader, ArenaWriter, UNIT_BYTES, createArena, type ArenaLayout } from '../shared/memory/arena.js';
import { TreeTable, publishTrees } from './btree/meta.js';
import './built-in.js';
import {
  DEFAULT_SPACE_ID,
  engineNamed,
  newSweep,
  type Engine,
  type EngineCounts,
  type EngineCursor,
  type EngineMetrics,
  type EngineReader,
  type EngineTuning,
  type EngineWriter,
} from './engine.js';

export interface StandaloneOptions extends EngineTuning {
  /** Shared memory reserved, 256 KiB to 64 GiB. Default 256 MiB. */
  readonly memoryBytes?: number;
}

export interface RawRange {
  /** Inclusive. */
  readonly gte?: Uint8Array | undefined;
  /** Exclusive. */
  readonly lt?: Uint8Array | undefined;
  readonly prefix?: Uint8Array | undefined;
  readonly reverse?: boolean | undefined;
  readonly limit?: number | undefined;
  /** A number that snapshot() gave. */
  readonly atSeq?: number | undefined;
}

export interface WriteExpiry {
  /** Milliseconds since the epoch. Default: never. */
  readonly expiresAt?: number;
}

const SLOT = 0;
const SWEEP_BUDGET = 256;

/** @throws ERR_INVALID_ARG for an unknown engine or memory out of range */
export function createEngine(name: string, options: StandaloneOptions = {}): StandaloneEngine {
  return new StandaloneEngine(engineNamed(name), options);
}

export class StandaloneEngine {
  readonly name: string;
  /** For readers in other threads. */
  readonly layout: ArenaLayout;
  readonly writer: EngineWriter;
  readonly #arena: ArenaWriter;
  readonly #engine: Engine;
  readonly #reader: EngineReader;
  readonly #cursor: EngineCursor;
  #seq = 0;
  #inGroup = false;
  #snapshots = new Float64Array(0);

  constructor(engine: Engine, options: StandaloneOptions) {
    const { memoryBytes = 256 << 20, ...tuning } = options;
    this.name = engine.name;
    this.#engine = engine;
    this.layout = createArena({ memoryBytes });
    this.#arena = new ArenaWriter(this.layout);
    this.writer = engine.openWriter(this.#arena, 0, DEFAULT_SPACE_ID, tuning);
    publishTrees(this.#arena, 0);
    const reads = new ArenaReader(this.layout);
    this.#reader = engine.openReader(reads, 0, DEFAULT_SPACE_ID, SLOT);
    this.#cursor = engine.openCursor(reads, 0, DEFAULT_SPACE_ID, SLOT);
  }

  /** Number of the last write. */
  get sequence(): number {
    return this.#seq;
  }

  // ---- writes -----------------------------------------------------------------------------------------------------------------------------

  /** Everything `work` writes becomes visible together, when it returns. Nothing is taken back if it throws. */
  group<T>(work: () => T): T {
    if (this.#inGroup) return work();
    this.writer.setSnapshots(this.#snapshots, this.#snapshots.length);
    this.writer.beginGroup(this.#seq, true);
    this.#inGroup = true;
    try {
      return work();
    } finally {
      this.#inGroup = false;
      this.flush();
    }
  }

  /** True if the key was there. @throws ERR_MEMORY_FULL, ERR_KEY_TOO_LARGE, ERR_VALUE_TOO_LARGE */
  set(key: Uint8Array, value: Uint8Array, { expiresAt = 0 }: WriteExpiry = {}): boolean {
    if (this.#inGroup) {
      return this.writer.put(key, 0, key.length, value, 0, value.length, ++this.#seq, expiresAt);
    }
    return this.group(() => this.set(key, value, { expiresAt }));
  }

  /** True if the key was there. */
  delete(key: Uint8Array): boolean {
    if (this.#inGroup) return this.writer.del(key, 0, key.length, ++this.#seq);
    return this.group(() => this.delete(key));
  }

  /** Sets what `change` makes of the value; undefined deletes. Returns what is stored. */
  update(key: Uint8Array, change: (value: Buffer | undefined) => Uint8Array | undefined): Uint8Array | undefined {
    if (this.#inGroup) throw invalidArgument('update reads what is published: call it outside of a group');
    const value = change(this.get(key));
    if (value === undefined) this.delete(key);
    else this.set(key, value);
    return value;
  }

  /** One group, in key order; of equal keys the last one counts. */
  setMany(entries: Iterable<readonly [Uint8Array, Uint8Array]>): void {
    const sorted = [...entries].sort(([a], [b]) => Buffer.compare(a, b));
    this.group(() => {
      for (const [key, value] of sorted) this.set(key, value);
    });
  }

  /** Removes the keys of the range; returns how many there were. */
  clear(range: Pick<RawRange, 'gte' | 'lt' | 'prefix'> = {}): number {
    const { low, high } = boundsOf(range);
    return this.group(() => this.writer.removeRange(low, true, high, false, Infinity, ++this.#seq).removed);
  }

  /** What was written becomes visible. Done by itself after each write outside of a group. */
  flush(): void {
    publishTrees(this.#arena, this.#seq);
    this.writer.endGroup();
    this.#arena.reclaim();
  }

  // ---- reads ------------------------------------------------------------------------------------------------------------------------------

  /** A copy of the value, or undefined. */
  get(key: Uint8Array, atSeq = Infinity): Buffer | undefined {
    const arena = this.#arena;
    this.#letReadersIn();
    const metaUnit = arena.pin(SLOT);
    try {
      return this.#reader.find(metaUnit, key, key.length, atSeq, 0) ? this.#reader.copyValue() : undefined;
    } finally {
      this.#reader.release();
      arena.unpin(SLOT);
    }
  }

  /** Whether the key is there, without a copy. */
  has(key: Uint8Array, atSeq = Infinity): boolean {
    this.#letReadersIn();
    const metaUnit = this.#arena.pin(SLOT);
    try {
      return this.#reader.find(metaUnit, key, key.length, atSeq, 0);
    } finally {
      this.#reader.release();
      this.#arena.unpin(SLOT);
    }
  }

  /** Within a group the writer may hold the latch of engines that are changed in place, and this thread would wait for itself. counts() gives it back. */
  #letReadersIn(): void {
    if (this.#inGroup) this.writer.counts();
  }

  getMany(keys: readonly Uint8Array[]): (Buffer | undefined)[] {
    return keys.map((key) => this.get(key));
  }

  /** Entries in key order; all under one pin: do not write in between. */
  *iterate(range: RawRange = {}): Generator<[Buffer, Buffer], void, undefined> {
    const { low, high } = boundsOf(range);
    const { reverse = false, limit = Infinity, atSeq = Infinity } = range;
    const cursor = this.#cursor;
    this.#letReadersIn();
    const metaUnit = this.#arena.pin(SLOT);
    try {
      cursor.setRange(low, high);
      const from = reverse ? high : low;
      cursor.seek(metaUnit, from, from?.length ?? 0, atSeq, reverse, 0);
      // The high bound is exclusive.
      if (reverse && high !== undefined && cursor.valid && cursor.compareKey(high, high.length) >= 0) cursor.prev();
      for (let count = 0; cursor.valid && count < limit; count++) {
        if (reverse ? low !== undefined && cursor.compareKey(low, low.length) < 0 : high !== undefined && cursor.compareKey(high, high.length) >= 0) return; // prettier-ignore
        const key = Buffer.allocUnsafe(cursor.keyLength);
        cursor.copyKey(key, 0);
        yield [key, cursor.copyValue()];
        if (reverse) cursor.prev();
        else cursor.next();
      }
    } finally {
      cursor.release();
      this.#arena.unpin(SLOT);
    }
  }

  /** A number that get() and iterate() read at, whatever is written later, until release() is called. */
  snapshot(): { readonly sequence: number; release(): void } {
    const sequence = this.#seq;
    this.#snapshots = Float64Array.from([...this.#snapshots, sequence]).sort();
    let isOpen = true;
    const release = (): void => {
      if (!isOpen) return;
      isOpen = false;
      const index = this.#snapshots.indexOf(sequence);
      this.#snapshots = this.#snapshots.filter((_, at) => at !== index);
    };
    return { sequence, release };
  }

  // ---- about it ---------------------------------------------------------------------------------------------------------------------------

  /** Live entries. */
  get count(): number {
    return this.writer.counts().liveEntries;
  }

  /** Bytes of the keys and values of live entries. */
  get sizeBytes(): number {
    const { liveKeyBytes, liveValueBytes } = this.writer.counts();
    return liveKeyBytes + liveValueBytes;
  }

  /** Bytes of memory in use, what waits for readers included. */
  get memoryBytes(): number {
    return this.#arena.usedUnits * UNIT_BYTES;
  }

  counts(): EngineCounts {
    return this.writer.counts();
  }

  memory(): Readonly<Record<string, number>> {
    return this.writer.memory();
  }

  metrics(): EngineMetrics {
    return this.writer.metrics();
  }

  /** Removes versions no snapshot needs and packs what is thin. Returns the versions removed. */
  compact(): number {
    const state = newSweep();
    while (!state.done) {
      this.writer.setSnapshots(this.#snapshots, this.#snapshots.length);
      this.writer.beginGroup(this.#seq, false);
      this.writer.sweep(state, SWEEP_BUDGET);
      this.flush();
    }
    return state.removedCells;
  }

  /** Problems found, empty when sound. */
  check(): string[] {
    return this.writer.check();
  }

  get isOrdered(): boolean {
    return this.#engine.isOrdered;
  }

  /** Gives the memory back: the engine is empty and done. */
  destroy(): void {
    this.writer.destroy();
    TreeTable.of(this.#arena).publish(this.#seq);
    this.#arena.reclaim();
  }
}

function boundsOf({ gte, lt, prefix }: Pick<RawRange, 'gte' | 'lt' | 'prefix'>): {
  low: Uint8Array | undefined;
  high: Uint8Array | undefined;
} {
  if (prefix === undefined) return { low: gte, high: lt };
  const end = Buffer.from(prefix);
  let length = end.length;
  while (length > 0 && end[length - 1] === 0xff) length--;
  if (length > 0) end[length - 1]!++;
  const prefixEnd = length === 0 ? undefined : end.subarray(0, length);
  return {
    low: gte === undefined || Buffer.compare(gte, prefix) < 0 ? prefix : gte,
    high: lt === undefined || (prefixEnd !== undefined && Buffer.compare(lt, prefixEnd) > 0) ? prefixEnd : lt,
  };
}
