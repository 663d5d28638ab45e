/** Blocks by themselves: what was added is found in every direction, from every place; other bytes are refused. fast-check prints its seed. */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BlockBuilder, BlockCursor } from '../../../../dist/engines/lsm/table/block.js';
import { separate } from '../../../../dist/engines/lsm/table/table-writer.js';
import { Random } from '../../../../dist/shared/random.js';
import {
  compareEntries,
  entryArbitrary,
  entryAt,
  flagsOf,
  inOrder,
  keyArbitrary,
  show,
  type Entry,
} from './support.js';

function build(entries: readonly Entry[], restartInterval: number): Uint8Array {
  const builder = new BlockBuilder(restartInterval, 16);
  for (const entry of entries) {
    const value = entry.value ?? Buffer.alloc(0);
    const flags = flagsOf(entry) | (entry.expiresAt > 0 ? 2 : 0);
    builder.add(entry.key, entry.key.length, value, 0, value.length, entry.seq, flags, entry.expiresAt);
  }
  const said = builder.bytes;
  const length = builder.finish();
  expect(length).toBe(said);
  return builder.buffer.slice(0, length);
}

/** In the middle of other bytes, in shared memory. */
function open(block: Uint8Array): BlockCursor {
  const bytes = new Uint8Array(new SharedArrayBuffer(block.length + 20));
  bytes.fill(0xff);
  bytes.set(block, 10);
  const cursor = new BlockCursor();
  cursor.open(bytes, 10, 10 + block.length, 'some.sst', 4711);
  return cursor;
}

const blockArbitrary = fc.record({
  entries: fc.array(entryArbitrary, { minLength: 1, maxLength: 60 }).map(inOrder),
  restartInterval: fc.constantFrom(1, 2, 3, 16, 256),
});

function restartsOf(block: Uint8Array): number {
  return new DataView(block.buffer, block.byteOffset).getUint32(block.length - 4, true);
}

function entriesOf(count: number, keyBytes: number, valueBytes: number): Entry[] {
  return Array.from({ length: count }, (_, index) => ({
    key: Buffer.from(String(index).padStart(keyBytes, '0')),
    value: Buffer.alloc(valueBytes, index),
    seq: 1,
    expiresAt: 0,
  }));
}

describe('a block', () => {
  test('stores the more keys whole the larger its entries are, and spends a sixteenth on that', () => {
    expect(restartsOf(build(entriesOf(64, 16, 4), 8))).toBe(8);
    expect(restartsOf(build(entriesOf(64, 16, 1000), 8))).toBe(64);
    for (const [keyBytes, valueBytes] of [
      [16, 100],
      [16, 300],
      [200, 300],
      [200, 4000],
    ] as const) {
      const entries = entriesOf(64, keyBytes, valueBytes);
      const bytes = build(entries, 256).length;
      const fewest = bytes - (restartsOf(build(entries, 256)) - 1) * (keyBytes + 8);
      expect(bytes).toBeLessThan(fewest * (1 + 1 / 16));
    }
  });

  test('is left at its first entry by a search for less than all of its keys begin with, behind its last by one for more', () => {
    const cursor = open(build(entriesOf(40, 8, 100), 3));
    for (const less of ['', '0', '000', '00000', '/', '/~~~~~~~~', '0000/~~~']) {
      expect(cursor.seek(Buffer.from(less), less.length, Infinity)).toBe(false);
      expect(show(entryAt(cursor))).toBe(show(entriesOf(1, 8, 100)[0]!));
      expect(cursor.next()).toBe(true);
    }
    for (const more of ['1', '0001', '000100000', '~']) {
      expect(cursor.seek(Buffer.from(more), more.length, Infinity)).toBe(false);
      expect(cursor.valid).toBe(false);
      expect(cursor.prev()).toBe(true);
      expect(Buffer.from(cursor.key.subarray(0, 8)).toString()).toBe('00000039');
    }
  });

  test('gives back its entries forwards and backwards, and is sound', () => {
    fc.assert(
      fc.property(blockArbitrary, ({ entries, restartInterval }) => {
        const cursor = open(build(entries, restartInterval));
        expect(cursor.entryCount).toBe(entries.length);
        expect(cursor.check()).toBeUndefined();
        const forwards: string[] = [];
        for (let more = cursor.seekToFirst(); more; more = cursor.next()) forwards.push(show(entryAt(cursor)));
        expect(forwards).toEqual(entries.map(show));
        expect(cursor.next()).toBe(false);
        const backwards: string[] = [];
        for (let more = cursor.prev(); more; more = cursor.prev()) backwards.push(show(entryAt(cursor)));
        expect(backwards.reverse()).toEqual(entries.map(show));
        expect(cursor.prev()).toBe(false);
        expect(cursor.next()).toBe(true);
        expect(show(entryAt(cursor))).toBe(show(entries[0]));
        expect(cursor.seekToLast()).toBe(true);
        expect(show(entryAt(cursor))).toBe(show(entries.at(-1)));
      }),
      { numRuns: 200 },
    );
  });

  test('is searched to the first entry that is not before a key and number, and walked from there', () => {
    fc.assert(
      fc.property(
        blockArbitrary,
        fc.array(fc.tuple(keyArbitrary, fc.integer({ min: 0, max: 2 ** 48 })), { maxLength: 10 }),
        fc.array(fc.boolean(), { maxLength: 12 }),
        ({ entries, restartInterval }, others, steps) => {
          const cursor = open(build(entries, restartInterval));
          const targets = [
            ...others,
            ...entries.flatMap(({ key, seq }): [Buffer, number][] => [
              [key, seq],
              [key, Infinity],
              [key, Math.max(0, seq - 1)],
              [Buffer.concat([key, Buffer.alloc(key.length < 4096 ? 1 : 0)]), 0],
            ]),
          ];
          for (const [key, seq] of targets) {
            let index = entries.findIndex((entry) => compareEntries(entry, { key, seq }) >= 0);
            if (index < 0) index = entries.length;
            const isFound = cursor.seek(key, key.length, seq);
            expect(cursor.valid).toBe(index < entries.length);
            expect(isFound).toBe(entries[index]?.key.equals(key) === true);
            if (cursor.valid) expect(show(entryAt(cursor))).toBe(show(entries[index]));
            for (const forward of steps) {
              index = Math.max(-1, Math.min(entries.length, index + (forward ? 1 : -1)));
              const more = forward ? cursor.next() : cursor.prev();
              expect(more).toBe(index >= 0 && index < entries.length);
              if (more) expect(show(entryAt(cursor))).toBe(show(entries[index]));
            }
          }
        },
      ),
      { numRuns: 150 },
    );
  });

  test('with a byte changed is read without a hang and without leaving it, or refused with file and offset', () => {
    const random = new Random(20_261_122);
    const entries = inOrder(
      fc
        .sample(entryArbitrary, { seed: 7, numRuns: 50 })
        .filter(({ key, value }) => key.length < 80 && (value?.length ?? 0) < 80),
    );
    const block = build(entries, 4);
    const cursor = new BlockCursor();
    let refused = 0;
    for (let at = 0; at < block.length; at++) {
      const bytes = block.slice();
      bytes[at] = random.chance(0.2) ? 0xff : bytes[at]! ^ (1 << random.below(8));
      let steps = 0;
      const look = (more: boolean): boolean => {
        const isInside = cursor.valueStart + cursor.valueLength <= bytes.length && cursor.keyLength <= 4096;
        if (++steps > 10 * block.length || (more && !isInside)) throw new Error(`byte ${at}: step ${steps}`);
        return more;
      };
      try {
        cursor.open(bytes, 0, bytes.length, 'some.sst', 4711);
        for (const { key } of entries) look(cursor.seek(key, key.length, Infinity));
        for (let more = look(cursor.seekToFirst()); more;) more = look(cursor.next());
        for (let more = look(cursor.seekToLast()); more;) more = look(cursor.prev());
      } catch (error) {
        expect(error).toMatchObject({ code: 'ERR_CORRUPT', details: { file: 'some.sst', offset: 4711 } });
        refused++;
      }
    }
    expect(block.length).toBeGreaterThan(500);
    expect(refused).toBeGreaterThan(50);
  });

  test('of random bytes is refused or read to an end', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(8), fc.nat(60), (noise, restarts, common) => {
        const bytes = Buffer.concat([noise, Buffer.alloc(16)]);
        bytes.writeUInt16LE(common, bytes.length - 10);
        bytes.writeUInt32LE(restarts, bytes.length - 4);
        const cursor = new BlockCursor();
        try {
          cursor.open(bytes, 0, bytes.length, 'f', 1);
          cursor.check();
          cursor.seek(Buffer.from('abc'), 3, 5);
          for (let more = cursor.seekToFirst(); more; more = cursor.next());
          for (let more = cursor.seekToLast(); more; more = cursor.prev());
        } catch (error) {
          expect(error).toMatchObject({ code: 'ERR_CORRUPT', details: { file: 'f', offset: 1 } });
        }
      }),
      { numRuns: 2000 },
    );
  });

  test('tells when its order, its heads or its count are wrong', () => {
    const entries = inOrder(
      [3, 1, 2, 5, 4].map((n) => ({ key: Buffer.from(`key ${n}`), seq: n, value: Buffer.from('v'), expiresAt: 0 })),
    );
    const swapped = [entries[1]!, entries[0]!, ...entries.slice(2)];
    expect(open(build(swapped, 16)).check()).toMatch(/out of order/);
    const block = build(entries, 2);
    const wrongCount = block.slice();
    wrongCount[wrongCount.length - 8] = 4;
    expect(open(wrongCount).check()).toBe('5 entries, 4 in its tail');
    const wrongHead = block.slice();
    // Three restarts: heads of 12 bytes before offsets of 12 and a tail of 16.
    wrongHead[wrongHead.length - 16 - 12 - 12]! ^= 1;
    expect(open(wrongHead).check()).toMatch(/head of restart 0/);
  });
});

test('a separator lies between two keys and is no longer than the first, or than one byte more than they share', () => {
  fc.assert(
    fc.property(keyArbitrary, keyArbitrary, (a, b) => {
      const order = Buffer.compare(a, b);
      if (order === 0) return;
      const [last, next] = order < 0 ? [a, b] : [b, a];
      const into = Buffer.alloc(4096);
      const length = separate(last, last.length, next, next.length, into);
      const separator = into.subarray(0, length);
      expect(Buffer.compare(last, separator)).toBeLessThanOrEqual(0);
      expect(Buffer.compare(separator, next)).toBeLessThan(0);
      let shared = 0;
      while (shared < last.length && last[shared] === next[shared]) shared++;
      expect(length).toBeLessThanOrEqual(Math.max(last.length, shared + 1));
    }),
    { numRuns: 2000 },
  );
});
