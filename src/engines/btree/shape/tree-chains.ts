/**
 * Values in chains of overflow pages: written before the cell that names them, given back with it, moved to the page file ahead of a root leaf.
 *
 * Threads: the shard thread only.
 */
import { readU32LE, writeU32LE } from '../../../shared/codec/fixed.js';
import type { ArenaWriter, UnitId } from '../../../shared/memory/arena.js';
import { SEGMENT_UNIT_SHIFT } from '../../../shared/memory/arena.js';
import { OverflowWriter, walkChain, type OverflowChain } from '../overflow.js';
import { CellFlag, cellLengthsAt, readVarint, skipVarint } from '../page.js';
import type { PageSizer } from '../page-sizer.js';
import { COLD } from '../paged/format.js';
import { TreeRoom } from './tree-room.js';

const NO_KEY = new Uint8Array(0);

export abstract class TreeChains extends TreeRoom {
  protected overflowPages = 0;
  protected overflowUnits = 0;
  readonly #overflow: OverflowWriter;

  constructor(arena: ArenaWriter, order: number, sizer: PageSizer, inlineValueBytesMax: number) {
    super(arena, order, sizer, inlineValueBytesMax);
    this.#overflow = new OverflowWriter(arena);
  }

  /** A chain that nothing refers to yet. @throws ERR_MEMORY_FULL */
  protected writeChain(value: Uint8Array, start: number, length: number): OverflowChain {
    return this.#overflow.write(value, start, length);
  }

  /** The value, wherever its chain is. */
  protected assembleChain(firstUnit: UnitId, totalBytes: number): Uint8Array {
    const { arena } = this;
    const value = new Uint8Array(totalBytes);
    let at = 0;
    if (firstUnit >= COLD) {
      this.pager!.visitColdChain(firstUnit, totalBytes, (_reference, page, payloadAt, payloadBytes) => {
        value.set(page.subarray(payloadAt, payloadAt + payloadBytes), at);
        at += payloadBytes;
      });
      return value;
    }
    walkChain(arena, firstUnit, totalBytes, (unit, _pageClass, payloadAt, payloadBytes) => {
      value.set(arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!.subarray(payloadAt, payloadAt + payloadBytes), at);
      at += payloadBytes;
    });
    return value;
  }

  /** Gives back the chain of a cell of the path's leaf. */
  protected releaseChainOf(cell: number): void {
    const totalBytes = readVarint(this.u8, cellLengthsAt(this.u8, cell));
    const firstUnit = readU32LE(this.u8, this.chainAt(cell));
    if (firstUnit >= COLD) {
      const { pages, units } = this.pager!.releaseChain(firstUnit, totalBytes);
      this.overflowPages -= pages;
      this.overflowUnits -= units;
      return;
    }
    walkChain(this.arena, firstUnit, totalBytes, (unit, pageClass) => {
      this.overflowPages--;
      this.overflowUnits -= 1 << pageClass;
      this.arena.release(unit);
    });
  }

  /** Where an overflow cell of the path's leaf names its chain. */
  protected chainAt(cell: number): number {
    const suffixLengthAt = skipVarint(this.u8, cellLengthsAt(this.u8, cell));
    return skipVarint(this.u8, suffixLengthAt) + readVarint(this.u8, suffixLengthAt);
  }

  /** Of the root leaf, to the page file. The next publication shows it. @throws ERR_DISK_FULL, ERR_IO */
  protected moveRootChains(): void {
    const { arena } = this;
    const pager = this.pager!;
    this.descend(NO_KEY, 0, 0, Infinity);
    for (let position = 0; position < this.leafCount(); position++) {
      if ((this.u8[this.cellAt(position)]! & CellFlag.Overflow) === 0) continue;
      let body = this.chainAt(this.cellAt(position));
      const first = readU32LE(this.u8, body);
      if (first >= COLD) continue;
      const totalBytes = readVarint(this.u8, cellLengthsAt(this.u8, this.cellAt(position)));
      const reference = pager.moveChain(first, totalBytes);
      this.makeWritable(0);
      body = this.chainAt(this.cellAt(position));
      walkChain(arena, first, totalBytes, (unit) => {
        arena.release(unit);
      });
      writeU32LE(this.u8, body, reference);
      this.nameFile(this.unit[0]!);
    }
  }
}
