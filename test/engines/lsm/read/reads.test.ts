/** Reader, cursor and walk of an LSM-Tree against a model: every number, both directions, memtables, runs, blobs, caches of all sizes. */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { StaleViewError } from '../../../../dist/engines/engine.js';
import { LsmReader } from '../../../../dist/engines/lsm/read/reader.js';
import type { LsmCursor } from '../../../../dist/engines/lsm/read/cursor.js';
import { VersionWalk } from '../../../../dist/engines/lsm/read/version-walk.js';
import { Harness, SPACE, bytes, get, type HarnessOptions, type Version } from './support.js';

interface Row {
  readonly key: string;
  readonly value: string;
  readonly seq: number;
}

function rowOf(cursor: LsmCursor): Row {
  const key = Buffer.alloc(cursor.keyLength);
  cursor.copyKey(key, 0);
  const value = cursor.copyValue();
  expect(cursor.valueLength).toBe(value.length);
  const part = Buffer.alloc(3);
  const count = cursor.readValue(part, 0, 1, 3);
  expect(part.subarray(0, count)).toEqual(Buffer.from(value.subarray(1, 4)));
  expect(cursor.compareKey(key, key.length)).toBe(0);
  return { key: key.toString('latin1'), value: value.toString('latin1'), seq: cursor.seq };
}

function expectedRows(versions: readonly Version[]): Row[] {
  return versions.map(({ key, value, seq }) => ({
    key: Buffer.from(key).toString('latin1'),
    value: Buffer.from(value!).toString('latin1'),
    seq,
  }));
}

function scan(harness: Harness, from: Uint8Array | undefined, reverse: boolean, atSeq: number, atMs = 1): Row[] {
  const cursor = harness.cursor();
  const metaUnit = harness.arena.pin(1);
  const rows: Row[] = [];
  try {
    for (
      let more = cursor.seek(metaUnit, from, from?.length ?? 0, atSeq, reverse, atMs);
      more;
      more = reverse ? cursor.prev() : cursor.next()
    ) {
      rows.push(rowOf(cursor));
    }
    expect(cursor.valid).toBe(false);
    return rows;
  } finally {
    cursor.release();
    harness.arena.unpin(1);
  }
}

function checkAll(harness: Harness, keys: readonly Uint8Array[], numbers: readonly number[]): void {
  const reader = harness.reader();
  for (const atSeq of numbers) {
    const all = expectedRows(harness.expectedAll(atSeq));
    expect(scan(harness, undefined, false, atSeq)).toEqual(all);
    expect(scan(harness, undefined, true, atSeq)).toEqual([...all].reverse());
    for (const key of keys) {
      const expected = harness.expected(key, atSeq);
      const found = get(harness, reader, key, atSeq);
      expect(found?.seq).toBe(expected?.seq);
      if (expected !== undefined) {
        expect(found!.value).toEqual(Buffer.from(expected.value!));
        expect(found!.expiresAt).toBe(expected.expiresAt);
      }
      const text = Buffer.from(key).toString('latin1');
      expect(scan(harness, key, false, atSeq)).toEqual(all.filter((row) => row.key >= text));
      expect(scan(harness, key, true, atSeq)).toEqual(all.filter((row) => row.key <= text).reverse());
    }
  }
}

type Step =
  | { readonly kind: 'put'; readonly key: number; readonly size: number; readonly expiresAt: number }
  | { readonly kind: 'del'; readonly key: number }
  | { readonly kind: 'clear'; readonly low: number | undefined; readonly high: number | undefined }
  | { readonly kind: 'freeze' }
  | { readonly kind: 'flush' }
  | { readonly kind: 'merge'; readonly from: number; readonly count: number };

const KEYS = ['', 'a', 'a\0', 'aa', 'ab', 'abc', 'abcd', 'abcde', 'abd', 'b', 'ba', 'bcdefghij', 'bcdefghik', 'z'].map(
  bytes,
);

const keyArbitrary = fc.nat(KEYS.length - 1);
const stepArbitrary: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      kind: fc.constant('put' as const),
      key: keyArbitrary,
      size: fc.constantFrom(0, 1, 5, 40, 300, 1500, 3000),
      expiresAt: fc.constantFrom(0, 0, 0, 0, 1, 2, 5000),
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('del' as const), key: keyArbitrary }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('clear' as const),
      low: fc.option(keyArbitrary, { nil: undefined }),
      high: fc.option(keyArbitrary, { nil: undefined }),
    }),
  },
  { weight: 2, arbitrary: fc.constant({ kind: 'freeze' as const }) },
  { weight: 2, arbitrary: fc.constant({ kind: 'flush' as const }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('merge' as const),
      from: fc.nat(4),
      count: fc.integer({ min: 1, max: 4 }),
    }),
  },
);

function run(harness: Harness, steps: readonly Step[]): void {
  let salt = 0;
  for (const step of steps) {
    if (step.kind === 'put') {
      const value = new Uint8Array(step.size).map((_, index) => 33 + ((index * 7 + salt) % 90));
      salt++;
      harness.put(KEYS[step.key]!, value, step.expiresAt);
    } else if (step.kind === 'del') harness.del(KEYS[step.key]!);
    else if (step.kind === 'clear') {
      harness.clear(
        step.low === undefined ? undefined : KEYS[step.low]!,
        step.high === undefined ? undefined : KEYS[step.high]!,
      );
    } else if (step.kind === 'freeze') harness.freeze();
    else if (step.kind === 'flush') harness.flush();
    else {
      const from = Math.min(step.from, harness.runs.length);
      const to = Math.min(from + step.count, harness.runs.length);
      harness.merge(from, to, to === harness.runs.length ? 3 : 0);
    }
  }
}

const CONFIGURATIONS: Record<string, HarnessOptions> = {
  'a cache, metadata in memory': {},
  'no cache': { cacheBytes: 0 },
  'the smallest cache, metadata in files, small tables': { cacheBytes: 256 * 1024, resident: false, tableEntries: 3 },
  'no cache, metadata in files, small blocks': {
    cacheBytes: 0,
    resident: false,
    table: { blockBytes: 128, restartInterval: 1 },
  },
  'lz4, no filters, small tables': { table: { compression: 'lz4', bitsPerKey: 0 }, tableEntries: 2 },
  'values in blob files': { blobValueBytes: 40, tableEntries: 5 },
  'a prefix filter': { table: { prefixFilterBytes: 2 }, tableEntries: 2 },
};

describe.each(Object.entries(CONFIGURATIONS))('with %s', (_name, options) => {
  test('every key at every number, in both directions, is what the model says', () => {
    fc.assert(
      fc.property(fc.array(stepArbitrary, { minLength: 1, maxLength: 40 }), (steps) => {
        const harness = new Harness(options);
        run(harness, steps);
        const numbers = [Infinity, 0, ...Array.from({ length: harness.seq }, (_, index) => index + 1)].slice(0, 8);
        checkAll(harness, KEYS, [...numbers, harness.seq]);
      }),
      { numRuns: 12 },
    );
  });

  test('a cursor that turns stands on the neighbours of where it was', () => {
    fc.assert(
      fc.property(
        fc.array(stepArbitrary, { minLength: 5, maxLength: 40 }),
        keyArbitrary,
        fc.boolean(),
        fc.array(fc.boolean(), { maxLength: 20 }),
        (steps, start, reverse, moves) => {
          const harness = new Harness(options);
          run(harness, steps);
          const rows = expectedRows(harness.expectedAll());
          const text = Buffer.from(KEYS[start]!).toString('latin1');
          let at = reverse ? rows.findLastIndex((row) => row.key <= text) : rows.findIndex((row) => row.key >= text);
          const cursor = harness.cursor();
          const metaUnit = harness.arena.pin(1);
          const key = KEYS[start]!;
          expect(cursor.seek(metaUnit, key, key.length, Infinity, reverse, 1)).toBe(at >= 0);
          for (const forward of moves) {
            if (!cursor.valid) break;
            expect(rowOf(cursor)).toEqual(rows[at]);
            at += forward ? 1 : -1;
            expect(forward ? cursor.next() : cursor.prev()).toBe(at >= 0 && at < rows.length);
          }
          cursor.release();
          harness.arena.unpin(1);
        },
      ),
      { numRuns: 25 },
    );
  });

  test('a walk shows all versions, oldest first, and range tombstones among them, whatever the budget', () => {
    fc.assert(
      fc.property(
        fc.array(stepArbitrary, { minLength: 1, maxLength: 40 }),
        fc.integer({ min: 1, max: 9 }),
        (steps, budget) => {
          const harness = new Harness(options);
          run(harness, steps);
          const seen: string[] = [];
          const walk = new VersionWalk(harness.arena, 0, SPACE, 0);
          let position: Uint8Array | undefined;
          let lastKey = Buffer.alloc(0);
          let lastSeq = 0;
          do {
            position = walk.visit(
              harness.arena.published(),
              position,
              budget,
              (key, keyLength, value, valueLength, seq, expiresAt, isTombstone) => {
                const own = Buffer.from(key.subarray(0, keyLength));
                const order = seen.length === 0 ? -1 : lastKey.compare(own);
                expect(order < 0 || (order === 0 && lastSeq < seq)).toBe(true);
                lastKey = own;
                lastSeq = seq;
                const text = Buffer.from(value.subarray(0, valueLength)).toString('latin1');
                seen.push(
                  isTombstone ? `${own.toString('hex')}@${seq}-` : `${own.toString('hex')}@${seq}+${text}/${expiresAt}`,
                );
              },
            );
          } while (position !== undefined);
          const expected = new Set<string>();
          for (const { key, seq, value, expiresAt } of harness.versions) {
            const name = Buffer.from(key).toString('hex');
            if (value === undefined) expected.add(`${name}@${seq}-`);
            else expected.add(`${name}@${seq}+${Buffer.from(value).toString('latin1')}/${expiresAt}`);
            for (const tombstone of harness.tombstones) {
              const { low, high } = tombstone;
              if (low !== undefined && Buffer.compare(key, low) < 0) continue;
              if (high !== undefined && Buffer.compare(key, high) >= 0) continue;
              if (tombstone.seq > seq) expected.add(`${name}@${tombstone.seq}-`);
            }
          }
          expect(seen.sort()).toEqual([...expected].sort());
        },
      ),
      { numRuns: 25 },
    );
  });
});

describe('a reader', () => {
  test('takes an expired entry for absence, though an older one has not expired', () => {
    const harness = new Harness();
    harness.put(bytes('k'), bytes('old'));
    harness.freeze();
    harness.flush();
    harness.put(bytes('k'), bytes('new'), 100);
    const reader = harness.reader();
    expect(get(harness, reader, bytes('k'), Infinity, 99)?.value.toString()).toBe('new');
    expect(get(harness, reader, bytes('k'), Infinity, 100)).toBeUndefined();
    expect(scan(harness, undefined, false, Infinity, 100)).toEqual([]);
    expect(get(harness, reader, bytes('k'), 1, 100)?.value.toString()).toBe('old');
    harness.freeze();
    harness.flush();
    expect(get(harness, reader, bytes('k'), Infinity, 99)?.value.toString()).toBe('new');
    expect(get(harness, reader, bytes('k'), Infinity, 100)).toBeUndefined();
    expect(scan(harness, undefined, true, Infinity, 100)).toEqual([]);
  });

  test('of a row that is another space’s says so', () => {
    const harness = new Harness();
    harness.put(bytes('k'), bytes('v'));
    const stranger = new LsmReader(harness.arena, 0, SPACE + 1, 0);
    expect(() => get(harness, stranger, bytes('k'))).toThrow(StaleViewError);
  });

  test('of a row that was never published finds nothing', () => {
    const harness = new Harness();
    const reader = new LsmReader(harness.arena, 60, SPACE, 0);
    expect(get(harness, reader, bytes('k'))).toBeUndefined();
  });

  test('asks no filter of a run that has answered many finds in a row, until it does not have a key', () => {
    const harness = new Harness();
    for (let index = 0; index < 200; index++) harness.put(bytes(`key ${2 * index}`), bytes('v'));
    harness.freeze();
    harness.flush();
    const reader = harness.reader();
    const { counters } = reader;
    const asked = (key: string): boolean => {
      const before = counters.filterChecks;
      const found = get(harness, reader, bytes(key));
      expect(found === undefined).toBe(Number(key.slice(4)) % 2 === 1);
      return counters.filterChecks > before;
    };
    let checks = 0;
    for (let index = 0; index < 200; index++) if (asked(`key ${2 * index}`)) checks++;
    expect(checks).toBe(64);
    expect(asked('key 101')).toBe(false);
    expect(asked('key 101')).toBe(true);
    expect(asked('key 100')).toBe(true);
  });

  test('touches no data block for keys that a filter denies, and says how often it was wrong', () => {
    const harness = new Harness({ cacheBytes: 0 });
    for (let index = 0; index < 2000; index++) harness.put(bytes(`key ${2 * index}`), bytes('v'));
    harness.freeze();
    harness.flush();
    const reader = harness.reader();
    const { counters } = reader;
    const before = { ...counters };
    for (let index = 0; index < 2000; index++)
      expect(get(harness, reader, bytes(`key ${2 * index + 1}`))).toBeUndefined();
    const checks = counters.filterChecks - before.filterChecks;
    const negatives = counters.filterNegatives - before.filterNegatives;
    const wrong = counters.filterFalsePositives - before.filterFalsePositives;
    // Keys beyond the last one never come to the filter.
    expect(checks).toBeGreaterThan(1900);
    expect(negatives + wrong).toBe(checks);
    expect(wrong).toBeLessThan(60);
    // Where the bound of a block is just the key that is missing, the next one is looked at too.
    expect(counters.blocksFromFile - before.blocksFromFile).toBeLessThanOrEqual(2 * wrong);
  });

  test('reads a block once: again it comes from the cache, and then from memory of the thread', () => {
    const harness = new Harness();
    for (let index = 0; index < 100; index++) harness.put(bytes(`key ${index}`), bytes('v'));
    harness.freeze();
    harness.flush();
    const reader = harness.reader();
    const { counters } = reader;
    const other = harness.reader();
    get(harness, reader, bytes('key 50'));
    expect(counters).toMatchObject({ blocksFromFile: 1, blocksFromCache: 0 });
    get(harness, reader, bytes('key 50'));
    expect(counters).toMatchObject({ blocksFromFile: 1, blocksFromCache: 0 });
    get(harness, other, bytes('key 50'));
    expect(counters).toMatchObject({ blocksFromFile: 1, blocksFromCache: 1 });
    get(harness, other, bytes('key 50'));
    expect(counters).toMatchObject({ blocksFromFile: 1, blocksFromCache: 2 });
    get(harness, other, bytes('key 50'));
    expect(counters).toMatchObject({ blocksFromFile: 1, blocksFromCache: 2 });
  });

  test('gives each caller of copyValue() memory of its own', () => {
    const harness = new Harness();
    harness.put(bytes('k'), bytes('value'));
    harness.freeze();
    harness.flush();
    const reader = harness.reader();
    const metaUnit = harness.arena.pin(0);
    expect(reader.find(metaUnit, bytes('k'), 1, Infinity, 1)).toBe(true);
    const first = reader.copyValue();
    const second = reader.copyValue();
    expect(first.toString()).toBe('value');
    first.fill(0);
    expect(second.toString()).toBe('value');
    harness.arena.unpin(0);
  });

  test('tells text, parts of values and keys of entries in memtables, tables and blob files', () => {
    const harness = new Harness({ blobValueBytes: 1000 });
    const values = ['kurz', 'länger '.repeat(30), 'sehr lang '.repeat(500)];
    for (const inTable of [false, true]) {
      values.forEach((value, index) => harness.put(bytes(`${inTable} ${index}`), bytes(value)));
      if (!inTable) {
        harness.freeze();
        harness.flush();
      }
    }
    const reader = harness.reader();
    const metaUnit = harness.arena.pin(0);
    for (const inTable of [false, true]) {
      values.forEach((value, index) => {
        const key = bytes(`${inTable} ${index}`);
        expect(reader.find(metaUnit, key, key.length, Infinity, 1)).toBe(true);
        expect(reader.valueUtf8()).toBe(value);
        expect(reader.valueLength).toBe(bytes(value).length);
        const own = Buffer.alloc(50);
        expect(own.subarray(2, 2 + reader.copyKey(own, 2)).toString()).toBe(`${inTable} ${index}`);
        expect(reader.keyLength).toBe(key.length);
        expect(reader.compareKey(key, key.length)).toBe(0);
        const part = Buffer.alloc(100);
        const length = Math.min(100, bytes(value).length - 3);
        expect(reader.readValue(part, 0, 3, 100)).toBe(length);
        expect(part.subarray(0, length)).toEqual(Buffer.from(bytes(value).subarray(3, 3 + length)));
        expect(reader.readValue(part, 0, 100_000, 10)).toBe(0);
      });
    }
    harness.arena.unpin(0);
  });
});

describe('a cursor', () => {
  test('with a range passes tables over whose prefix filter has nothing of it', () => {
    const harness = new Harness({ table: { prefixFilterBytes: 4 }, tableEntries: 10 });
    for (let group = 0; group < 50; group += 2) {
      for (let index = 0; index < 10; index++) {
        harness.put(bytes(`p${String(group).padStart(3, '0')}/${index}`), bytes('v'));
      }
    }
    harness.freeze();
    harness.flush();
    const cursor = harness.cursor();
    const { counters } = cursor;
    const read = (prefix: string, next: string): number => {
      cursor.setRange(bytes(prefix), bytes(next));
      const metaUnit = harness.arena.pin(1);
      let count = 0;
      let more = cursor.seek(metaUnit, bytes(prefix), 4, Infinity, false, 1);
      for (; more && cursor.compareKey(bytes(next), 4) < 0; more = cursor.next()) count++;
      cursor.release();
      harness.arena.unpin(1);
      return count;
    };
    expect(read('p010', 'p011')).toBe(10);
    const blocks = counters.blocksFromFile;
    expect(read('p011', 'p012')).toBe(0);
    expect(counters.prefixNegatives).toBeGreaterThan(10);
    // Nearly all of the 39 tables behind it were passed over.
    expect(counters.blocksFromFile - blocks).toBeLessThan(5);
  });

  test('that scans reads far ahead, and leaves nothing of it in the cache', () => {
    const harness = new Harness({ cacheBytes: 1 << 20, memoryBytes: 64 << 20, table: { blockBytes: 4096 } });
    harness.keepsAll = false;
    const value = new Uint8Array(400).fill(65);
    for (let index = 0; index < 2000; index++) harness.put(bytes(`key ${String(index).padStart(6, '0')}`), value);
    harness.freeze();
    harness.flush();
    const rows = scan(harness, undefined, false, Infinity);
    expect(rows.length).toBe(2000);
    const { counters } = harness.cursor();
    expect(counters.blocksFromFile).toBeGreaterThan(190);
    expect(harness.files.cache!.stats().insertions).toBeLessThan(5);
    expect(counters.bytesFromFile).toBeLessThan(2 * harness.runs[0]![0]!.info.bytes);
  });
});
