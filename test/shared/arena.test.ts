import fc from 'fast-check';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { ArenaReader, ArenaWriter, HEADER_UNITS, createArena, type UnitId } from '../../dist/shared/memory/arena.js';
import { UnitAllocator } from '../../dist/shared/memory/unit-allocator.js';

const KIB = 1024;
const EPOCH_WORD = 16;

function newArena(memoryBytes = 1024 * KIB): { writer: ArenaWriter; reader: ArenaReader } {
  const writer = new ArenaWriter(createArena({ memoryBytes }));
  return { writer, reader: new ArenaReader(writer.layout) };
}

/** A publication whose only page is its meta page. */
function publishEmpty(writer: ArenaWriter): UnitId {
  const unit = writer.allocate(1, { reserve: true });
  writer.publish(unit);
  return unit;
}

describe('unit allocator', () => {
  it('hands out aligned blocks that never overlap, and merges all of them back', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(3), fc.nat(30)), { maxLength: 400 }), (steps) => {
        const allocator = new UnitAllocator(512, 8);
        const owned = new Map<number, number>();
        const used = new Uint8Array(512);
        for (const [order, which] of steps) {
          if (which < 18) {
            const unit = allocator.allocate(order);
            if (unit === 0) continue;
            expect(unit % (1 << order)).toBe(0);
            for (let at = unit; at < unit + (1 << order); at++) {
              expect(used[at]).toBe(0);
              used[at] = 1;
            }
            owned.set(unit, order);
          } else if (owned.size > 0) {
            const unit = [...owned.keys()][which % owned.size]!;
            used.fill(0, unit, unit + (1 << owned.get(unit)!));
            owned.delete(unit);
            allocator.free(unit);
          }
          let units = 0;
          for (const held of owned.values()) units += 1 << held;
          expect(allocator.freeUnits).toBe(512 - 8 - units);
        }
        for (const unit of owned.keys()) allocator.free(unit);
        let blocks = 0;
        while (allocator.allocate(3) !== 0) blocks++;
        expect(blocks).toBe((512 - 8) / 8);
      }),
      { numRuns: 60 },
    );
  });

  it('tells beforehand whether a set of blocks can be had', () => {
    const allocator = new UnitAllocator(64, 8);
    expect(allocator.canAllocate([0, 0, 0, 7])).toBe(true);
    expect(allocator.canAllocate([1, 0, 0, 7])).toBe(false);
    expect(allocator.canAllocate([8, 0, 0, 6])).toBe(true);
    const units = Array.from({ length: 56 }, () => allocator.allocate(0));
    units.filter((unit) => unit % 2 === 0).forEach((unit) => allocator.free(unit));
    expect(allocator.freeUnits).toBe(28);
    expect(allocator.canAllocate([28, 0, 0, 0])).toBe(true);
    expect(allocator.canAllocate([0, 1, 0, 0])).toBe(false);
  });

  it('refuses to free what is not in use', () => {
    const allocator = new UnitAllocator(64, 8);
    const unit = allocator.allocate(1);
    allocator.free(unit);
    expect(() => allocator.free(unit)).toThrow(/not in use/);
    expect(() => allocator.free(12)).toThrow(/not in use/);
  });
});

describe('arena', () => {
  it('refuses sizes out of range', () => {
    expect(() => createArena({ memoryBytes: 1000 })).toThrow(TypeError);
    expect(() => createArena({ memoryBytes: Number.NaN })).toThrow(TypeError);
    expect(() => createArena({ memoryBytes: 65 * 2 ** 30 })).toThrow(TypeError);
  });

  it('spans several segments', () => {
    const { writer } = newArena(2 ** 30 + 2 ** 20);
    expect(writer.layout.segments.map((segment) => segment.byteLength)).toEqual([2 ** 30, 2 ** 20]);
    expect(writer.totalUnits).toBe(2 ** 18 + 256);
    expect(writer.u8.length).toBe(2);
  });

  it('keeps the reserve for those who ask, and names the figures when full', () => {
    const { writer } = newArena();
    const plain = writer.freeUnits();
    expect(writer.freeUnits(true) - plain).toBe(writer.reserveUnits);
    for (let index = 0; index < plain; index++) writer.allocate(1);
    expect(() => writer.allocate(1)).toThrow(expect.objectContaining({ code: 'ERR_MEMORY_FULL', retryable: true }));
    for (let index = 0; index < writer.reserveUnits; index++) writer.allocate(1, { reserve: true });
    expect(() => writer.allocate(1, { reserve: true })).toThrow(expect.objectContaining({ code: 'ERR_MEMORY_FULL' }));
  });

  it('frees a retired page only after the publication that dropped it', () => {
    const { writer } = newArena();
    const page = writer.allocate(1);
    publishEmpty(writer);
    const used = writer.usedUnits;
    writer.retire(page);
    writer.reclaim();
    expect(writer.usedUnits).toBe(used);
    publishEmpty(writer);
    writer.reclaim();
    expect(writer.unitsOf(page)).toBe(0);
  });

  it('keeps what a pinned reader may see, and frees it after unpin', () => {
    const { writer, reader } = newArena();
    const page = writer.allocate(2);
    const meta = publishEmpty(writer);
    expect(reader.pin(7)).toBe(meta);
    writer.retire(page);
    publishEmpty(writer);
    writer.reclaim();
    expect(writer.unitsOf(page)).toBe(2);
    expect(writer.unitsOf(meta)).toBe(1);
    reader.unpin(7);
    writer.reclaim();
    expect(writer.unitsOf(page)).toBe(0);
    expect(writer.unitsOf(meta)).toBe(0);
  });

  it('a pin with any slot holds, also of readers that change slots, and of a writer that took over', () => {
    const { writer, reader } = newArena();
    const other = new ArenaReader(writer.layout);
    for (const slot of [0, 31, 32, 63, 255, 288, 319]) {
      const page = writer.allocate(1);
      publishEmpty(writer);
      reader.pin(slot);
      other.pin(slot ^ 1);
      writer.retire(page);
      publishEmpty(writer);
      writer.reclaim();
      expect(writer.unitsOf(page), `slot ${slot}`).toBe(1);
      reader.unpin(slot);
      writer.reclaim();
      expect(writer.unitsOf(page), `slot ${slot ^ 1}`).toBe(1);
      other.unpin(slot ^ 1);
      writer.reclaim();
      expect(writer.unitsOf(page)).toBe(0);
    }
    const page = writer.allocate(1);
    const meta = writer.allocate(1);
    writer.publish(meta);
    reader.pin(100);
    const successor = ArenaWriter.adopt(writer.layout, (_, metaUnit, mark) => {
      mark(metaUnit, 1);
      mark(page, 1);
    });
    successor.retire(page);
    publishEmpty(successor);
    successor.reclaim();
    expect(successor.unitsOf(page)).toBe(1);
    reader.unpin(100);
    successor.reclaim();
    expect(successor.unitsOf(page)).toBe(0);
    expect(() => reader.pin(320)).toThrow(TypeError);
  });

  it('a reader that pins after the publication does not hold the pages dropped by it', () => {
    const { writer, reader } = newArena();
    const page = writer.allocate(1);
    publishEmpty(writer);
    writer.retire(page);
    publishEmpty(writer);
    reader.pin(0);
    writer.reclaim();
    expect(writer.unitsOf(page)).toBe(0);
    reader.unpin(0);
  });

  it('ends the pin of a dead thread', () => {
    const { writer, reader } = newArena();
    const page = writer.allocate(1);
    publishEmpty(writer);
    reader.pin(255);
    writer.retire(page);
    publishEmpty(writer);
    ArenaReader.clearSlot(writer.layout, 255);
    writer.reclaim();
    expect(writer.unitsOf(page)).toBe(0);
    expect(() => {
      ArenaReader.clearSlot(writer.layout, 320);
    }).toThrow(TypeError);
  });

  it('gives the latch of a dead reader back', () => {
    const { writer, reader } = newArena();
    reader.latch(3).acquireRead();
    expect(writer.latchForWriting.tryAcquireWrite()).toBeUndefined();
    ArenaReader.clearSlot(writer.layout, 3);
    expect(writer.latchForWriting.tryAcquireWrite()).toBe('clean');
    writer.latchForWriting.releaseWrite();
  });

  it('tells which page a writer was changing when it died', () => {
    const { writer, reader } = newArena();
    const page = writer.allocate(1);
    publishEmpty(writer);
    writer.latchForWriting.acquireWrite();
    writer.noteLatchedUnit(page);
    expect(reader.latch(1).tryAcquireRead()).toBeUndefined();
    const successor = ArenaWriter.adopt(writer.layout, () => undefined);
    expect(reader.latch(1).acquireRead()).toBe('owner-died');
    reader.latch(1).releaseRead();
    expect(reader.latchedUnit).toBe(page);
    expect(successor.latchForWriting.acquireWrite()).toBe('owner-died');
    successor.latchForWriting.markConsistent();
    successor.latchForWriting.releaseWrite();
    expect(reader.latch(1).acquireRead()).toBe('clean');
    reader.latch(1).releaseRead();
  });

  it('a long pin holds exactly the pages of its version', () => {
    const { writer } = newArena();
    const before = writer.allocate(1);
    publishEmpty(writer);
    writer.retire(before);
    const inside = writer.allocate(1);
    publishEmpty(writer);
    const pin = writer.pinLong();
    writer.retire(inside);
    const after = writer.allocate(1);
    publishEmpty(writer);
    writer.retire(after);
    publishEmpty(writer);
    writer.reclaim();
    expect(writer.unitsOf(before)).toBe(0);
    expect(writer.unitsOf(inside)).toBe(1);
    expect(writer.unitsOf(after)).toBe(0);
    expect(writer.unitsOf(pin.metaUnit)).toBe(1);
    writer.unpinLong(pin);
    writer.unpinLong(pin);
    expect(writer.unitsOf(inside)).toBe(0);
    expect(writer.unitsOf(pin.metaUnit)).toBe(0);
  });

  it('runs out of long pins with a code', () => {
    const { writer } = newArena();
    publishEmpty(writer);
    const pins = Array.from({ length: 64 }, () => writer.pinLong());
    expect(() => writer.pinLong()).toThrow(expect.objectContaining({ code: 'ERR_SNAPSHOT_LIMIT' }));
    pins.forEach((pin) => writer.unpinLong(pin));
    writer.unpinLong(writer.pinLong());
  });

  it('epochs pass the end of their low 32 bits with readers pinned before and after', () => {
    const layout = createArena({ memoryBytes: 1024 * KIB });
    new Int32Array(layout.segments[0]!)[EPOCH_WORD] = -3;
    const writer = new ArenaWriter(layout);
    const reader = new ArenaReader(layout);
    const pages: UnitId[] = [];
    for (let round = 0; round < 8; round++) {
      const page = writer.allocate(1);
      publishEmpty(writer);
      reader.pin(round & 1);
      reader.unpin((round + 1) & 1);
      writer.retire(page);
      publishEmpty(writer);
      writer.reclaim();
      expect(writer.unitsOf(page)).toBe(1);
      for (const older of pages) expect(writer.unitsOf(older)).toBe(0);
      pages[0] = page;
    }
    expect(reader.stats().epoch).toBeGreaterThan(2 ** 32);
    expect(writer.birthOf(writer.published())).toBe(reader.stats().epoch);
  });

  it('an allocation waits for a reader that only needs a moment, but not for ever', () => {
    const { writer, reader } = newArena(256 * KIB);
    const pages: UnitId[] = [];
    while (writer.freeUnits() > 0) pages.push(writer.allocate(1));
    publishEmpty(writer);
    reader.pin(0);
    for (const page of pages) writer.retire(page);
    publishEmpty(writer);
    const wait = vi.spyOn(Atomics, 'wait');
    onTestFinished(() => wait.mockRestore());
    const waitedMs = (): number => wait.mock.calls.reduce((sum, [, , , ms]) => sum + ms!, 0);
    expect(() => writer.allocate(1)).toThrow(expect.objectContaining({ code: 'ERR_MEMORY_FULL' }));
    expect(waitedMs()).toBeGreaterThan(40);
    expect(waitedMs()).toBeLessThan(2000);
    wait.mockClear();
    expect(() => writer.allocate(1)).toThrow(expect.objectContaining({ code: 'ERR_MEMORY_FULL' }));
    expect(wait).not.toHaveBeenCalled();
    reader.unpin(0);
    expect(writer.allocate(1)).toBeGreaterThan(0);
  });
});

describe('adoption', () => {
  it('frees what the dead writer never published, and keeps what is reachable', () => {
    const { writer } = newArena();
    const kept = writer.allocate(4);
    const dropped = writer.allocate(2);
    const meta = publishEmpty(writer);
    writer.allocate(8);
    writer.retire(dropped);
    const heir = ArenaWriter.adopt(writer.layout, (_arena, metaUnit, mark) => {
      mark(metaUnit, 1);
      mark(kept, 4);
    });
    expect(heir.published()).toBe(meta);
    expect(heir.usedUnits).toBe(HEADER_UNITS + 4 + 1);
    expect(heir.retiredUnits).toBe(0);
    expect(heir.isUnpublished(kept)).toBe(false);
    expect(() => new ArenaWriter(writer.layout)).toThrow(TypeError);
  });

  it('leaves alone what a slow reader of an older version may still see', () => {
    const { writer, reader } = newArena();
    const old = writer.allocate(1);
    publishEmpty(writer);
    reader.pin(3);
    writer.retire(old);
    publishEmpty(writer);
    const heir = ArenaWriter.adopt(writer.layout, (_arena, metaUnit, mark) => {
      mark(metaUnit, 1);
    });
    const highWater = heir.stats().highWaterUnits;
    for (let index = 0; index < 20; index++) expect(heir.allocate(1)).toBeGreaterThanOrEqual(highWater);
    reader.unpin(3);
    heir.reclaim();
    expect(heir.allocate(1)).toBeLessThan(highWater);
    expect(heir.retiredUnits).toBe(0);
  });

  it('keeps long pins in force', () => {
    const { writer } = newArena();
    const held = writer.allocate(1);
    publishEmpty(writer);
    const pin = writer.pinLong();
    writer.retire(held);
    publishEmpty(writer);
    const heir = ArenaWriter.adopt(writer.layout, (_arena, metaUnit, mark) => {
      mark(metaUnit, 1);
      if (metaUnit === pin.metaUnit) mark(held, 1);
    });
    expect(heir.longPins()).toEqual([pin]);
    heir.reclaim();
    expect(heir.unitsOf(held)).toBe(1);
    heir.unpinLong(pin);
    expect(heir.unitsOf(held)).toBe(0);
    expect(heir.usedUnits).toBe(HEADER_UNITS + 1);
  });

  it('refuses a walk with overlapping pages', () => {
    const { writer } = newArena();
    const page = writer.allocate(4);
    publishEmpty(writer);
    expect(() =>
      ArenaWriter.adopt(writer.layout, (_arena, metaUnit, mark) => {
        mark(metaUnit, 1);
        mark(page, 4);
        mark(page + 2, 2);
      }),
    ).toThrow(expect.objectContaining({ code: 'ERR_CORRUPT' }));
  });
});
