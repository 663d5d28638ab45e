/** The memtable as an LSM-Tree uses it: tombstones that stay, a size limit, freezing, walks of a frozen table in other threads, dropping it whole. */
import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import { publishTrees } from '../../../dist/engines/btree/meta.js';
import { PAGE_HEADER_BYTES } from '../../../dist/engines/btree/page.js';
import { newSweep } from '../../../dist/engines/engine.js';
import { memtableEngine } from '../../../dist/engines/memtable/engine.js';
import { TableCursor, TableReader } from '../../../dist/engines/memtable/reader.js';
import { TableWalk } from '../../../dist/engines/memtable/walk.js';
import { MemtableWriter, type MemtableOptions } from '../../../dist/engines/memtable/writer.js';
import { markRows } from '../../../dist/engines/store/space-table.js';
import {
  ArenaReader,
  ArenaWriter,
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_BYTES,
  createArena,
} from '../../../dist/shared/memory/arena.js';
import { Random } from '../../../dist/shared/random.js';
import '../../../dist/engines/built-in.js';
import { newSeed } from '../contract-scene.js';

const SPACE_ID = 7;
const SLOT = 3;
/** Of the table that is written while others read. */
const GROUPS_MAX = 300;

/** A table beside the plainest model of it: all versions that were ever put and may be needed. */
class Table {
  readonly layout = createArena({ memoryBytes: 64 << 20 });
  arena = new ArenaWriter(this.layout);
  writer: MemtableWriter;
  seq = 0;
  snapshots = new Float64Array(0);

  constructor(options: MemtableOptions = { keepTombstones: true }) {
    this.writer = new MemtableWriter(this.arena, 0, SPACE_ID, options);
    publishTrees(this.arena, 0);
  }

  group(work: () => void): void {
    this.writer.setSnapshots(this.snapshots, this.snapshots.length);
    this.writer.beginGroup(this.seq, true);
    work();
    this.publish();
    this.writer.endGroup();
  }

  publish(): void {
    publishTrees(this.arena, this.seq);
  }

  put(key: string, value: string, expiresAt = 0): boolean {
    const bytes = Buffer.from(key);
    const valueBytes = Buffer.from(value);
    return this.writer.put(bytes, 0, bytes.length, valueBytes, 0, valueBytes.length, ++this.seq, expiresAt);
  }

  del(key: string): boolean {
    const bytes = Buffer.from(key);
    return this.writer.del(bytes, 0, bytes.length, ++this.seq);
  }

  walk(): string[] {
    const lines: string[] = [];
    for (const walk = new TableWalk(new ArenaReader(this.layout), this.writer.descriptorUnit); walk.next();) {
      const key = Buffer.alloc(walk.keyLength);
      walk.copyKey(key, 0);
      const shown = walk.isTombstone ? 'deleted' : walk.copyValue().toString();
      lines.push(`${key.toString()} ${walk.seq} ${walk.expiresAt} ${shown}`);
    }
    return lines;
  }

  /** Newest versions ≤ atSeq by the cursor of the table, tombstones told. */
  entries(atSeq: number, reverse = false, from?: string): string[] {
    const view = new ArenaReader(this.layout);
    const cursor = new TableCursor(view, SLOT).open(this.writer.descriptorUnit);
    const lines: string[] = [];
    const metaUnit = view.pin(SLOT);
    const key = from === undefined ? undefined : Buffer.from(from);
    cursor.seek(metaUnit, key, key?.length ?? 0, atSeq, reverse, 0);
    while (cursor.valid) {
      const bytes = Buffer.alloc(cursor.keyLength);
      cursor.copyKey(bytes, 0);
      lines.push(`${bytes.toString()} ${cursor.isTombstone ? 'deleted' : cursor.copyValue().toString()}`);
      if (reverse) cursor.prev();
      else cursor.next();
    }
    cursor.release();
    view.unpin(SLOT);
    return lines;
  }

  find(key: string, atSeq = Infinity): string {
    const view = new ArenaReader(this.layout);
    const reader = new TableReader(view, SLOT).open(this.writer.descriptorUnit);
    const metaUnit = view.pin(SLOT);
    const bytes = Buffer.from(key);
    const isFound = reader.find(metaUnit, bytes, bytes.length, atSeq, 0);
    const told = !isFound ? 'absent' : reader.isTombstone ? 'deleted' : reader.copyValue().toString();
    reader.release();
    view.unpin(SLOT);
    return told;
  }
}

const workers: Worker[] = [];
afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.terminate()));
});

const FROZEN = /frozen memtable does not change/;

describe('a memtable with tombstones', () => {
  it('keeps a tombstone of every deleted key, also of one it never had', () => {
    const table = new Table();
    table.group(() => {
      table.put('a', '1');
      table.put('b', '2');
      expect(table.del('never')).toBe(false);
    });
    table.group(() => {
      expect(table.del('a')).toBe(true);
      expect(table.del('a')).toBe(false);
    });
    expect(table.entries(Infinity)).toEqual(['a deleted', 'b 2', 'never deleted']);
    expect(table.entries(Infinity, true, 'n')).toEqual(['b 2', 'a deleted']);
    expect(['a', 'b', 'c', 'never'].map((key) => table.find(key))).toEqual(['deleted', '2', 'absent', 'deleted']);
    expect(table.writer.check()).toEqual([]);
    expect(table.writer.counts()).toMatchObject({ liveEntries: 1, cells: 3 });
    const state = newSweep();
    while (!state.done) table.group(() => void table.writer.sweep(state, 10));
    expect(table.entries(Infinity)).toEqual(['a deleted', 'b 2', 'never deleted']);
  });

  it('puts a key over its tombstone', () => {
    const table = new Table();
    table.group(() => table.del('a'));
    table.group(() => {
      expect(table.put('a', 'back')).toBe(false);
    });
    expect(table.entries(Infinity)).toEqual(['a back']);
    expect(table.writer.statistics()).toMatchObject({ entries: 1, tombstones: 0, versions: 1 });
  });

  it('keeps the versions that snapshots need, and shows them newest first', () => {
    const table = new Table();
    table.group(() => table.put('k', 'one'));
    table.snapshots = Float64Array.of(table.seq);
    table.group(() => table.put('k', 'two'));
    table.group(() => table.put('k', 'three', 5000));
    table.group(() => table.del('k'));
    table.writer.freeze();
    expect(table.walk()).toEqual(['k 4 0 deleted', 'k 1 0 one']);
    expect(table.find('k', 1)).toBe('one');
    expect(table.find('k', 0)).toBe('absent');
    expect(table.find('k')).toBe('deleted');
  });

  it('hands over entries that have expired: they hide what is below', () => {
    const table = new Table();
    table.group(() => table.put('k', 'gone', 1));
    expect(table.find('k')).toBe('gone');
    expect(table.entries(Infinity)).toEqual(['k gone']);
  });

  it('agrees with a model through random groups, snapshots and deaths of the writer', () => {
    const random = new Random(newSeed('memtable/table.test.ts'));
    const table = new Table();
    /** Newest versions of what is published, and of each open snapshot. */
    let model = new Map<string, string>();
    const states: { seq: number; state: Map<string, string> }[] = [];
    for (let round = 0; round < 150; round++) {
      const next = new Map(model);
      const work = (): void => {
        for (let count = random.below(30); count > 0; count--) {
          const key = `key ${random.below(60)}`;
          if (random.chance(0.4)) {
            // A second delete in a row leaves the first one's tombstone.
            table.del(key);
            next.set(key, 'deleted');
          } else {
            table.put(key, `${round}.${count}`);
            next.set(key, `${round}.${count}`);
          }
        }
      };
      if (random.chance(0.15)) {
        const before = table.seq;
        table.writer.setSnapshots(table.snapshots, table.snapshots.length);
        table.writer.beginGroup(table.seq, true);
        work();
        table.arena = ArenaWriter.adopt(table.layout, markRows);
        table.writer = new MemtableWriter(table.arena, 0, SPACE_ID, { keepTombstones: true });
        table.seq = before;
      } else {
        table.group(work);
        model = next;
      }
      if (random.chance(0.2)) states.push({ seq: table.seq, state: model });
      if (states.length > 3) states.splice(random.below(states.length), 1);
      table.snapshots = Float64Array.from(states, ({ seq }) => seq).sort();
      const linesOf = (state: Map<string, string>): string[] =>
        [...state]
          .map(([key, value]) => `${key} ${value}`)
          .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
      expect(table.writer.check()).toEqual([]);
      for (const { seq, state } of [{ seq: Infinity, state: model }, ...states]) {
        const lines = table.entries(seq);
        expect([...lines].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))).toEqual(linesOf(state));
        expect(table.entries(seq, true).reverse()).toEqual(lines);
        for (const [key, value] of state) expect(table.find(key, seq)).toBe(value);
      }
      const statistics = table.writer.statistics();
      const values = [...model.values()];
      expect(statistics.tombstones).toBe(values.filter((value) => value === 'deleted').length);
      expect(statistics.entries).toBe(values.filter((value) => value !== 'deleted').length);
    }
  });
});

describe('the size limit', () => {
  it('is told when memory in use reaches it', () => {
    const table = new Table({ memtableBytes: 1 << 20, keepTombstones: true });
    expect(table.writer.isFull).toBe(false);
    let entries = 0;
    while (!table.writer.isFull) {
      table.group(() => {
        for (let count = 0; count < 100; count++)
          table.put(`user:${String(++entries).padStart(12, '0')}`, 'x'.repeat(40));
      });
    }
    const { memoryBytes, liveBytes } = table.writer.statistics();
    expect(memoryBytes).toBeGreaterThanOrEqual(1 << 20);
    expect(memoryBytes).toBeLessThan((1 << 20) + (1 << 17));
    expect(liveBytes).toBe(entries * 57);
    expect(entries).toBeGreaterThan((1 << 20) / 120);
  });
});

describe('statistics', () => {
  it('count versions and tell the smallest and largest key and number', () => {
    const table = new Table();
    expect(table.writer.statistics()).toEqual({
      entries: 0,
      tombstones: 0,
      versions: 0,
      liveBytes: 0,
      memoryBytes: 0,
      smallestKey: undefined,
      largestKey: undefined,
      smallestSeq: 0,
      largestSeq: 0,
    });
    table.seq = 10;
    table.group(() => {
      table.put('m', 'value');
      table.put('b', 'value');
      table.del('x');
    });
    table.snapshots = Float64Array.of(table.seq);
    table.group(() => table.put('b', 'other'));
    expect(table.writer.statistics()).toEqual({
      entries: 2,
      tombstones: 1,
      versions: 4,
      liveBytes: 12,
      memoryBytes: table.writer.memoryBytes,
      smallestKey: Uint8Array.from(Buffer.from('b')),
      largestKey: Uint8Array.from(Buffer.from('x')),
      smallestSeq: 11,
      largestSeq: 14,
    });
  });
});

describe('a frozen memtable', () => {
  it('refuses every change and stays as it was', () => {
    const table = new Table();
    table.group(() => {
      table.put('a', '1');
      table.put('b', '2');
    });
    table.snapshots = Float64Array.of(table.seq);
    table.group(() => table.put('a', '3'));
    table.writer.freeze();
    expect(table.writer.isFrozen).toBe(true);
    const before = table.walk();
    expect(() => table.put('c', '3')).toThrow(FROZEN);
    expect(() => table.put('a', 'x'.repeat(5000))).toThrow(FROZEN);
    expect(() => table.del('a')).toThrow(FROZEN);
    expect(() => table.del('never')).toThrow(FROZEN);
    expect(() => table.writer.removeRange(undefined, true, undefined, true, 10, ++table.seq)).toThrow(FROZEN);
    table.snapshots = new Float64Array(0);
    const state = newSweep();
    table.group(() => void table.writer.sweep(state, 10));
    expect(state).toMatchObject({ done: true, removedCells: 0 });
    expect(table.walk()).toEqual(before);
    expect(before).toEqual(['a 3 0 3', 'a 1 0 1', 'b 2 0 2']);
    expect(table.writer.check()).toEqual([]);
    expect(table.arena.stagedUnits).toBe(0);
  });

  it('may be empty', () => {
    const table = new Table();
    table.writer.freeze();
    expect(() => table.put('a', '1')).toThrow(FROZEN);
    expect(() => table.put('a', 'x'.repeat(5000))).toThrow(FROZEN);
    expect(table.walk()).toEqual([]);
    expect(table.entries(Infinity)).toEqual([]);
    expect(table.find('a')).toBe('absent');
    expect(table.writer.counts()).toMatchObject({ rootUnit: 0, cells: 0, treeUnits: 0 });
  });

  it('is frozen only between groups', () => {
    const table = new Table();
    table.group(() => {
      expect(() => {
        table.writer.freeze();
      }).toThrow(/between groups/);
    });
  });

  it('is still frozen for the next writer', () => {
    const table = new Table();
    table.group(() => {
      for (let index = 0; index < 1000; index++) table.put(`key ${index}`, 'value');
    });
    table.writer.freeze();
    const before = table.walk();
    table.publish();
    table.arena = ArenaWriter.adopt(table.layout, markRows);
    table.writer = new MemtableWriter(table.arena, 0, SPACE_ID, { keepTombstones: true });
    expect(table.writer.isFrozen).toBe(true);
    expect(() => table.put('a', '1')).toThrow(FROZEN);
    expect(table.walk()).toEqual(before);
    expect(table.writer.check()).toEqual([]);
  });

  it('cannot be walked before it is frozen', () => {
    const table = new Table();
    table.group(() => table.put('a', '1'));
    expect(() => table.walk()).toThrow(/walked when it is frozen/);
  });

  it('is read whole by four threads while a new table takes writes in the same arena', async () => {
    const table = new Table();
    const expected: string[] = [];
    const keys: string[] = [];
    table.group(() => {
      for (let index = 0; index < 20_000; index++) table.put(`key ${String(index).padStart(6, '0')}`, `old ${index}`);
    });
    table.snapshots = Float64Array.of(table.seq);
    const atSeq = table.seq;
    table.group(() => {
      for (let index = 0; index < 20_000; index++) {
        const key = `key ${String(index).padStart(6, '0')}`;
        keys.push(key);
        if (index % 3 === 0) table.put(key, `new ${index}`, index);
        if (index % 3 === 1) table.del(key);
        if (index % 3 === 0) expected.push(`${key} ${table.seq} ${index} new ${index}`);
        if (index % 3 === 1) expected.push(`${key} ${table.seq} 0 deleted`);
        expected.push(`${key} ${index + 1} 0 old ${index}`);
      }
    });
    table.writer.freeze();
    table.publish();
    const successor = new MemtableWriter(table.arena, 1, SPACE_ID, { keepTombstones: true });
    const told = Array.from({ length: 4 }, (_, index) => {
      const worker = new Worker(new URL('./table-walker.mjs', import.meta.url), {
        workerData: { layout: table.layout, descriptor: table.writer.descriptorUnit, slot: 10 + index, keys, atSeq },
      });
      workers.push(worker);
      return new Promise<{ versions: string[]; found: string[] }>((resolve, reject) => {
        worker.once('message', resolve);
        worker.once('error', reject);
      });
    });
    let isDone = false;
    void Promise.allSettled(told).then(() => (isDone = true));
    // No more than there is room for: readers that take long keep all of it in memory.
    for (let groups = 0; !isDone && groups < GROUPS_MAX; groups++) {
      successor.setSnapshots(table.snapshots, 1);
      successor.beginGroup(table.seq, true);
      for (let count = 0; count < 500; count++) {
        const key = Buffer.from(`key ${count * 31}`);
        successor.put(key, 0, key.length, key, 0, key.length, ++table.seq, 0);
      }
      table.publish();
      successor.endGroup();
      await new Promise((resolve) => setImmediate(resolve));
    }
    for (const { versions, found } of await Promise.all(told)) {
      expect(versions.length).toBe(expected.length);
      expect(versions.findIndex((line, index) => line !== expected[index])).toBe(-1);
      expect(found.findIndex((line, index) => line !== `${index + 1} old ${index}`)).toBe(-1);
    }
  });

  it('is dropped page by page: no entry is looked at', () => {
    const table = new Table();
    const before = table.arena.usedUnits;
    for (let start = 0; start < 200_000; start += 1000) {
      table.group(() => {
        for (let index = start; index < start + 1000; index++) table.put(`user:${index}`, 'x'.repeat(40));
      });
    }
    table.writer.freeze();
    const { arena, writer } = table;
    let pages = 0;
    memtableEngine.mark(arena, arena.published(), 0, (unit, units) => {
      if (unit === writer.descriptorUnit) return;
      const at = (unit & SEGMENT_UNIT_MASK) * UNIT_BYTES;
      // Whoever follows a link of a node leaves the arena.
      arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!.fill(0xff, at + PAGE_HEADER_BYTES, at + units * UNIT_BYTES);
      pages++;
    });
    expect(pages).toBeGreaterThan(100);
    writer.destroy();
    table.publish();
    table.publish();
    table.arena.reclaim();
    expect(table.arena.usedUnits).toBe(before);
  });
});
