/**
 * What readers and cursors of engines with nodes have in common: the way from the pinned meta page to the engine, versions, expiry, the latch.
 *
 * Which version a reader sees, and why it needs no lock for it, stands in the head of node-writer.ts. Bytes are checked as far as a wrong one
 * could lead outside the arena or into an endless walk.
 * Threads: any, one object per thread, between pin and unpin; release() before unpin.
 */
import { ConcordError } from '../../shared/errors.js';
import type { RwLock } from '../../shared/memory/rwlock.js';
import { PAGE_BIRTH_LOW_WORD, SEGMENT_UNIT_SHIFT, type ArenaReader, type UnitId } from '../../shared/memory/arena.js';
import { EntryView } from '../btree/entry-view.js';
import { publishedSeqOf, ROW_TAG_WORD, rowWord } from '../btree/meta.js';
import { CellFlag, cellExpiresAt, cellLengthsAt, readSeq, readVarint, skipVarint } from '../btree/page.js';
import { StaleViewError, rowTag } from '../engine.js';
import { isSuspect } from './latch.js';
import { readEventsOf, type ReadEvents } from './read-events.js';
import {
  checkAddress,
  checkDescriptor,
  corruptNode,
  nodeLimit,
  nodeOffset,
  nodeSegment,
  nodeWord,
  pageWord,
} from './node.js';

const sleepWord = new Int32Array(new SharedArrayBuffer(4));

export abstract class NodeView extends EntryView {
  readonly row: number;
  readonly code: number;
  readonly tag: number;
  /** The latch, of an engine that needs it. */
  readonly #latch: RwLock | undefined;
  protected readonly events: ReadEvents;
  #held = false;
  /** The newest number that shows. */
  protected limitSeq = 0;
  /** Which publication that is of, if it is not a snapshot's number; else 0. */
  protected limitMeta: UnitId = 0;
  protected atMs = 0;
  // What the row said in the publication that was looked at last: unit and birth name one publication.
  #knownMeta: UnitId = 0;
  #knownBirth = 0;
  #knownDescriptor: UnitId = 0;
  #knownSeq = 0;

  constructor(arena: ArenaReader, row: number, spaceId: number, code: number, slot: number, isLocked: boolean) {
    super(arena);
    this.row = row;
    this.code = code;
    this.tag = rowTag(spaceId, code);
    this.#latch = isLocked ? arena.latch(slot) : undefined;
    this.events = readEventsOf(arena, spaceId);
  }

  release(): void {
    if (!this.#held) return;
    this.#held = false;
    this.#latch!.releaseRead();
  }

  /** Byte offset of the node's cell from the node. */
  protected abstract cellOffset(address: number): number;

  /**
   * The engine's descriptor in the publication, 0 if it has none: then no key is there. Sets which numbers show. @throws StaleViewError
   */
  protected enterRow(metaUnit: UnitId, atSeq: number, atMs: number): UnitId {
    this.atMs = atMs;
    const birth = this.arena.i32[metaUnit >>> SEGMENT_UNIT_SHIFT]?.[pageWord(metaUnit) + PAGE_BIRTH_LOW_WORD] ?? 0;
    if (metaUnit !== this.#knownMeta || birth !== this.#knownBirth || metaUnit === 0) {
      if (!this.#lookAtRow(metaUnit, birth)) return 0;
    }
    if (atSeq === Infinity) {
      this.limitSeq = this.#knownSeq;
      this.limitMeta = metaUnit;
    } else {
      this.limitSeq = atSeq;
      this.limitMeta = 0;
    }
    return this.#knownDescriptor;
  }

  /** False if the publication has no such row. */
  #lookAtRow(metaUnit: UnitId, birth: number): boolean {
    const { arena } = this;
    this.#knownMeta = 0;
    const row = rowWord(arena, metaUnit, this.row);
    if (row < 0) return false;
    const words = arena.u32[metaUnit >>> SEGMENT_UNIT_SHIFT]!;
    if (words[row + ROW_TAG_WORD] !== this.tag) throw new StaleViewError();
    const descriptor = words[row]!;
    if (descriptor !== 0) checkDescriptor(arena, descriptor, this.code);
    this.#knownSeq = publishedSeqOf(arena, metaUnit);
    this.#knownDescriptor = descriptor;
    this.#knownBirth = birth;
    this.#knownMeta = metaUnit;
    return true;
  }

  /**
   * After a search at Infinity that met only newer versions: the publication to read again, 0 if nothing was published meanwhile. Its meta page
   * is younger than the pin, which therefore protects it.
   */
  protected newerMeta(): UnitId {
    if (this.limitMeta === 0) return 0;
    const metaUnit = this.arena.published();
    return metaUnit === this.limitMeta ? 0 : metaUnit;
  }

  /** Takes the read latch, if the engine has one. @throws ERR_OWNER_DIED (retryable) when a writer died and is not replaced */
  protected acquire(descriptor: UnitId): void {
    const latch = this.#latch;
    if (latch === undefined || this.#held) return;
    const found = latch.tryAcquireRead();
    if (found === undefined || (found !== 'clean' && isSuspect(this.arena, descriptor))) {
      if (found !== undefined) latch.releaseRead();
      this.#acquireWaiting(latch, descriptor);
    }
    this.#held = true;
  }

  /**
   * A writer is in, or one died within a change. Never for ever: whoever must tell the locks of a death may be this thread, when it comes back to
   * its event loop.
   */
  #acquireWaiting(latch: RwLock, descriptor: UnitId): void {
    const startedMs = performance.now();
    const deadline = startedMs + this.arena.latchWaitMsMax;
    try {
      for (;;) {
        const found = latch.acquireRead(Math.max(0, deadline - performance.now()));
        if (found === 'clean' || !isSuspect(this.arena, descriptor)) return;
        latch.releaseRead();
        if (performance.now() >= deadline) throw this.#notReplaced();
        Atomics.wait(sleepWord, 0, 0, 1);
      }
    } catch (error) {
      throw error instanceof ConcordError && error.code === 'ERR_TIMEOUT' ? this.#notReplaced(error) : error;
    } finally {
      this.events.waitedForLatch(performance.now() - startedMs);
    }
  }

  #notReplaced(cause?: ConcordError): ConcordError {
    const text = `the space is locked by a thread that died, and was not given free within ${this.arena.latchWaitMsMax} ms`;
    return new ConcordError('ERR_OWNER_DIED', text, {}, { cause });
  }

  /** The newest version that shows, from the newest of all on; 0 if none does, or if newerMeta() must be asked for it. */
  protected versionAt(head: number): number {
    const { arena, limitSeq } = this;
    let address = head;
    let steps = 0;
    while (address !== 0) {
      checkAddress(arena, address);
      const segment = nodeSegment(address);
      if (readSeq(arena.u8[segment]!, nodeOffset(address) + this.cellOffset(address) + 1) <= limitSeq) {
        // One between the two may have gone since another publication, while a snapshot keeps this one: the caller reads again.
        return address !== head && this.newerMeta() !== 0 ? 0 : address;
      }
      if (++steps > arena.totalUnits * 512) throw corruptNode(address, 'its versions go round');
      address = Atomics.load(arena.i32[segment]!, nodeWord(address));
    }
    return 0;
  }

  /** Takes the version as current entry. False if it is a tombstone or has expired. */
  protected show(address: number): boolean {
    const segment = nodeSegment(address);
    const offset = nodeOffset(address);
    const cell = offset + this.cellOffset(address);
    const u8 = this.arena.u8[segment]!;
    const flags = u8[cell]!;
    if ((flags & (CellFlag.Tombstone | CellFlag.Expiry)) !== 0) {
      if ((flags & CellFlag.Tombstone) !== 0) return false;
      if (this.atMs === 0) this.atMs = Date.now();
      if (cellExpiresAt(u8, cell) <= this.atMs) return false;
    }
    this.view(segment, offset, 0, cell, nodeLimit(offset));
    return true;
  }

  /** < 0 if the node's key is smaller than the given one, 0 if equal. For searches. @throws ERR_CORRUPT */
  protected compareNode(address: number, key: Uint8Array, keyLength: number): number {
    const u8 = this.arena.u8[nodeSegment(address)]!;
    const offset = nodeOffset(address);
    const keyLengthAt = skipVarint(u8, cellLengthsAt(u8, offset + this.cellOffset(address)));
    const ownLength = readVarint(u8, keyLengthAt);
    const keyAt = skipVarint(u8, keyLengthAt);
    if (!(keyAt + ownLength <= nodeLimit(offset))) throw corruptNode(address, 'a cell reaches beyond its page');
    const length = ownLength < keyLength ? ownLength : keyLength;
    for (let index = 0; index < length; index++) {
      const difference = u8[keyAt + index]! - key[index]!;
      if (difference !== 0) return difference;
    }
    return ownLength - keyLength;
  }
}
