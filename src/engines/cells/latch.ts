/**
 * The arena's latch as the writers of the engines that need it hold it: together, over a slice of operations.
 *
 * Taking it means looking at the counter of every reader, so it is kept for up to SLICE_OPERATIONS changes, whichever engine they are of, and
 * given back when the group has been applied (counts() of any of them, which a publication asks for) and before anything that waits.
 * Which engine is being changed is noted before each of its changes: after a death only that one may be half changed, and readers of the others
 * go on. Its own successor repairs it when it is opened; readers are let in to it again when all engines of the arena that
 * use the latch are open. Threads: the shard's thread only.
 */
import type { ArenaReader, ArenaWriter, UnitId } from '../../shared/memory/arena.js';
import { TreeTable } from '../btree/meta.js';
import { isLockedDescriptor } from './node.js';

const SLICE_OPERATIONS = 32;
/** Noted while one engine is changed before another has been repaired. */
const ALL_ENGINES = 0xffffffff;

/** Whether a dead writer may have left the engine half changed. Of a reader that was told so by the latch. */
export function isSuspect(arena: ArenaReader, descriptor: UnitId): boolean {
  const unit = arena.latchedUnit;
  return unit === descriptor || unit === ALL_ENGINES;
}

export class WriterLatch {
  static readonly #latches = new WeakMap<ArenaWriter, WriterLatch>();
  readonly #arena: ArenaWriter;
  /** The descriptor whose engine is being changed; 0 while the latch is not held. */
  #unit: UnitId = 0;
  #operations = 0;
  readonly #opened = new Set<UnitId>();
  /** Times it was taken. */
  acquired = 0;

  static of(arena: ArenaWriter): WriterLatch {
    let latch = this.#latches.get(arena);
    if (latch === undefined) this.#latches.set(arena, (latch = new WriterLatch(arena)));
    return latch;
  }

  private constructor(arena: ArenaWriter) {
    this.#arena = arena;
  }

  get held(): boolean {
    return this.#unit !== 0;
  }

  /** Before a change of the engine with that descriptor. */
  enter(descriptor: UnitId): void {
    if (this.#unit === descriptor) return;
    const arena = this.#arena;
    let noted = descriptor;
    if (this.#unit === 0) {
      if (arena.latchForWriting.acquireWrite() === 'owner-died') {
        if (this.#allOpened()) arena.latchForWriting.markConsistent();
        else if (arena.latchedUnit !== descriptor) noted = ALL_ENGINES;
      }
      this.acquired++;
      this.#operations = 0;
    }
    this.#unit = descriptor;
    arena.noteLatchedUnit(noted);
  }

  /** The engine with that descriptor has been taken over and is whole. */
  opened(descriptor: UnitId): void {
    this.#opened.add(descriptor);
    if (!this.#allOpened()) return;
    const { latchForWriting } = this.#arena;
    if (latchForWriting.acquireWrite() === 'owner-died') latchForWriting.markConsistent();
    latchForWriting.releaseWrite();
  }

  /** The engine is new. */
  started(descriptor: UnitId): void {
    this.#opened.add(descriptor);
  }

  #allOpened(): boolean {
    const table = TreeTable.of(this.#arena);
    for (let row = 0; row < table.count; row++) {
      const { rootUnit } = table.row(row);
      if (isLockedDescriptor(this.#arena, rootUnit) && !this.#opened.has(rootUnit)) return false;
    }
    return true;
  }

  /** After the change. */
  leave(): void {
    if (++this.#operations >= SLICE_OPERATIONS) this.release();
  }

  release(): void {
    if (this.#unit === 0) return;
    this.#unit = 0;
    this.#arena.latchForWriting.releaseWrite();
  }
}
