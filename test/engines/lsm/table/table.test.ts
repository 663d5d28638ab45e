/** Tables against the list they were written from, under all kinds of options. fast-check prints its seed. */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { EntryFlag } from '../../../../dist/engines/lsm/table/entry.js';
import { inspectTable } from '../../../../dist/engines/lsm/table/inspect.js';
import { TableFile } from '../../../../dist/engines/lsm/table/table-file.js';
import { TableIterator } from '../../../../dist/engines/lsm/table/table-iterator.js';
import { TableWriter } from '../../../../dist/engines/lsm/table/table-writer.js';
import { isCompressionSupported } from '../../../../dist/engines/lsm/table/compression.js';
import { encodeBlobReference } from '../../../../dist/engines/lsm/blob/reference.js';
import { FaultEnv } from '../../../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { failure, readFile } from '../../wal/wal-scene.js';
import {
  IDENTITY,
  NUMBER,
  OPTIONS,
  PATH,
  TableReader,
  addEntry,
  compareEntries,
  decimals,
  entryArbitrary,
  entryAt,
  inOrder,
  keyArbitrary,
  newEnv,
  show,
  writeTable,
  type Entry,
} from './support.js';

const compressions = (['none', 'lz4', 'zstd'] as const).filter(isCompressionSupported);

const optionsArbitrary = fc.record({
  blockBytes: fc.constantFrom(128, 300, 4096, 65536),
  restartInterval: fc.constantFrom(1, 4, 16, 256),
  compression: fc.constantFrom(...compressions),
  bitsPerKey: fc.constantFrom(0, 0.3, 10, 20),
  prefixFilterBytes: fc.constantFrom(0, 1, 5),
});

const tableArbitrary = fc.record({
  entries: fc.array(entryArbitrary, { minLength: 1, maxLength: 150 }).map(inOrder),
  options: optionsArbitrary,
});

function iterate(table: TableFile, low?: Buffer, high?: Buffer, readAheadBytes?: number): string[] {
  const iterator = new TableIterator(table, readAheadBytes);
  const found: string[] = [];
  for (let more = iterator.seek(low, high); more; more = iterator.next()) found.push(show(entryAt(iterator)));
  expect(iterator.valid).toBe(false);
  return found;
}

const differentKeys = (entries: readonly Entry[]): Buffer[] =>
  entries.filter((entry, index) => index === 0 || !entry.key.equals(entries[index - 1]!.key)).map(({ key }) => key);

describe('a table', () => {
  test('says of itself what it was written from, and every part of it agrees', () => {
    fc.assert(
      fc.property(tableArbitrary, ({ entries, options }) => {
        const env = newEnv();
        const info = writeTable(env, entries, options, { level: 0, run: 12 });
        const expiring = entries.map(({ expiresAt }) => expiresAt).filter((at) => at > 0);
        const seqs = entries.map(({ seq }) => seq);
        expect(info).toEqual({
          number: NUMBER,
          level: 0,
          run: 12,
          bytes: readFile(env, PATH).length,
          entries: entries.length,
          keys: differentKeys(entries).length,
          tombstones: entries.filter(({ value }) => value === undefined).length,
          rawBytes: entries.reduce((sum, { key, value }) => sum + key.length + (value?.length ?? 0), 0),
          smallestKey: Uint8Array.from(entries[0]!.key),
          largestKey: Uint8Array.from(entries.at(-1)!.key),
          smallestSeq: Math.min(...seqs),
          largestSeq: Math.max(...seqs),
          expiring: expiring.length,
          firstExpiry: expiring.length === 0 ? 0 : Math.min(...expiring),
          lastExpiry: Math.max(0, ...expiring),
          blobs: [],
          createdAt: 1_700_000_000_000,
        });
        const table = TableFile.open(env, PATH, IDENTITY, NUMBER, info.bytes);
        expect(table.info).toEqual(info);
        table.close();
        const report = inspectTable(env, PATH, { listBlocks: true });
        expect(report.problems).toEqual([]);
        expect(report.info).toEqual(info);
        expect(report.blocks.reduce((sum, block) => sum + block.entries, 0)).toBe(entries.length);
        expect(report.index.reduce((sum, { blocks }) => sum + blocks, 0)).toBe(report.blocks.length);
      }),
      { numRuns: 120 },
    );
  });

  test('gives every version to a reader that sees it, and nothing for other keys and numbers', () => {
    fc.assert(
      fc.property(
        tableArbitrary,
        fc.array(fc.tuple(keyArbitrary, fc.integer({ min: 0, max: 2 ** 48 })), { maxLength: 10 }),
        ({ entries, options }, others) => {
          const env = newEnv();
          writeTable(env, entries, options);
          const reader = new TableReader(env);
          const targets = [
            ...others,
            ...entries.flatMap(({ key, seq }): [Buffer, number][] => [
              [key, seq],
              [key, Infinity],
              [key, seq - 1],
            ]),
          ];
          for (const [key, seq] of targets) {
            const expected = entries.find((entry) => entry.key.equals(key) && entry.seq <= seq);
            expect(show(reader.find(key, seq))).toBe(show(expected));
          }
          const { prefixFilter, prefixFilterBytes } = reader.table.layout;
          for (const key of differentKeys(entries)) {
            expect(reader.mayContain(key)).toBe(true);
            if (prefixFilter !== undefined && key.length >= prefixFilterBytes) {
              expect(reader.mayContain(key, prefixFilter, prefixFilterBytes)).toBe(true);
            }
          }
          reader.close();
        },
      ),
      { numRuns: 100 },
    );
  });

  test('is iterated from any key to any bound, whatever is read at once', () => {
    fc.assert(
      fc.property(
        tableArbitrary,
        fc.array(fc.tuple(fc.option(keyArbitrary, { nil: undefined }), fc.option(keyArbitrary, { nil: undefined })), {
          maxLength: 8,
        }),
        fc.constantFrom(1, 1000, 262_144),
        ({ entries, options }, ranges, readAheadBytes) => {
          const env = newEnv();
          writeTable(env, entries, options);
          const table = TableFile.open(env, PATH);
          const own = differentKeys(entries);
          const all = [
            ...ranges,
            [undefined, undefined],
            [own[0], own.at(-1)],
            [own.at(-1), undefined],
            [own[own.length >> 1], undefined],
          ];
          for (const [low, high] of all) {
            const expected = entries.filter(
              ({ key }) =>
                (low === undefined || Buffer.compare(key, low) >= 0) &&
                (high === undefined || Buffer.compare(key, high) < 0),
            );
            expect(iterate(table, low, high, readAheadBytes)).toEqual(expected.map(show));
          }
          table.close();
        },
      ),
      { numRuns: 80 },
    );
  });

  test('of many blocks has an index in parts of 16 KiB, and is read whole through them', () => {
    const env = newEnv();
    const entries = decimals(6000);
    const info = writeTable(env, entries, { blockBytes: 128, compression: 'lz4' });
    const reader = new TableReader(env);
    const { partitions } = reader.table;
    expect(partitions.length).toBeGreaterThan(3);
    for (const { storedBytes } of partitions) expect(storedBytes).toBeLessThanOrEqual(16 * 1024 + 5);
    expect(iterate(reader.table)).toEqual(entries.map(show));
    for (let index = 0; index < entries.length; index += 7) {
      expect(show(reader.find(entries[index]!.key, Infinity))).toBe(show(entries[index]));
    }
    expect(reader.find(Buffer.from('0000000000000001'), Infinity)).toBeUndefined();
    reader.close();
    expect(inspectTable(env, PATH).problemCount).toBe(0);
    // Counted while it was written, about as large as it became.
    expect(info.bytes).toBeGreaterThan(6000 * 20);
  });

  test('with keys of 4 KiB has an index whose parts fit a block cache', () => {
    const env = newEnv();
    const entries = Array.from({ length: 60 }, (_, index) => {
      // Different in the last byte only: separators are as long as keys.
      const key = Buffer.alloc(4096, 0x6b);
      key[4095] = index;
      key[0] = 0x30 + (index >> 5);
      return { key, seq: 100 - index, value: Buffer.alloc(5000, index), expiresAt: 0 };
    });
    writeTable(env, entries, { restartInterval: 1 });
    const reader = new TableReader(env);
    for (const { storedBytes } of reader.table.partitions) expect(storedBytes).toBeLessThanOrEqual(64 * 1024);
    for (const entry of entries) expect(show(reader.find(entry.key, 100))).toBe(show(entry));
    expect(iterate(reader.table, entries[17]!.key)).toEqual(entries.slice(17).map(show));
    reader.close();
  });

  test('whose index root is longer than what is read with the footer is opened', () => {
    const env = newEnv();
    const entries = Array.from({ length: 1500 }, (_, index) => {
      const key = Buffer.alloc(4096, 0x6b);
      key.writeUInt16BE(index, 4094);
      return { key, seq: 1, value: Buffer.from(`v${index}`), expiresAt: 0 };
    });
    writeTable(env, entries);
    const reader = new TableReader(env);
    expect(reader.table.layout.rootStoredBytes).toBeGreaterThan(16 * 1024);
    for (let index = 0; index < entries.length; index += 50) {
      expect(show(reader.find(entries[index]!.key, 1))).toBe(show(entries[index]));
    }
    reader.close();
  });

  test('whose versions of one key fill many blocks finds each of them in its block', () => {
    const env = newEnv();
    const entries: Entry[] = [{ key: Buffer.from('a'), seq: 5, value: Buffer.from('x'), expiresAt: 0 }];
    for (let seq = 3000; seq > 0; seq -= 3) {
      entries.push({ key: Buffer.from('hot key'), seq, value: Buffer.from(`version ${seq}`), expiresAt: 0 });
    }
    writeTable(env, entries, { blockBytes: 256 });
    const reader = new TableReader(env);
    for (let seq = 3002; seq >= 0; seq -= 1) {
      const found = reader.find(Buffer.from('hot key'), seq);
      expect(found?.seq).toBe(seq < 3 ? undefined : seq - (seq % 3));
    }
    expect(reader.table.info.keys).toBe(2);
    reader.close();
  });

  test('counts the records of blob files that it refers to, and their values as its own', () => {
    const env = newEnv();
    const entries = [10, 4, 10].map((file, index): Entry => {
      const value = Buffer.alloc(40);
      const reference = { file, offset: index * 1000, recordBytes: 700 + index, valueBytes: 600 };
      const length = encodeBlobReference(value, 0, reference);
      return { key: Buffer.from(`key ${index}`), seq: 1, value: value.subarray(0, length), expiresAt: 0, isBlob: true };
    });
    const info = writeTable(env, entries);
    expect(info.blobs).toEqual([
      { file: 4, bytes: 701 },
      { file: 10, bytes: 1402 },
    ]);
    expect(info.rawBytes).toBe(3 * (5 + 600));
    expect(inspectTable(env, PATH).problems).toEqual([]);
    const reader = new TableReader(env);
    expect(reader.find(Buffer.from('key 1'), Infinity)?.isBlob).toBe(true);
    reader.close();
  });

  test('keeps a block uncompressed that compression makes less than an eighth smaller', () => {
    const env = newEnv();
    const noise = new Uint8Array(300_000);
    let state = 1;
    for (let at = 0; at < noise.length; at++)
      noise[at] = (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 24;
    const entries = Array.from({ length: 60 }, (_, index) => ({
      key: Buffer.from(`key ${String(index).padStart(3, '0')}`),
      seq: 1,
      value: index < 30 ? Buffer.from(noise.subarray(index * 3000, index * 3000 + 3000)) : Buffer.alloc(3000, 'text '),
      expiresAt: 0,
    }));
    writeTable(env, entries, { compression: 'lz4' });
    const { blocks, problems, layout } = inspectTable(env, PATH, { listBlocks: true });
    expect(problems).toEqual([]);
    expect(new Set(blocks.map(({ compression }) => compression))).toEqual(new Set(['none', 'lz4']));
    for (const { compression, plainBytes, storedBytes } of blocks) {
      if (compression === 'none') expect(storedBytes).toBe(plainBytes + 5);
      else expect(storedBytes).toBeLessThanOrEqual(plainBytes - plainBytes / 8 + 5);
    }
    expect(layout.plainBytes).toBe(blocks.reduce((sum, { plainBytes }) => sum + plainBytes, 0));
  });
});

describe('the writer of a table', () => {
  const parameters = { identity: IDENTITY, number: NUMBER, level: 1, run: 0, options: OPTIONS, createdAt: 1 };

  test('refuses options that are none', () => {
    const wrong: [object, RegExp][] = [
      [{ blockBytes: 127 }, /blockBytes is 128 to 65536/],
      [{ restartInterval: 0 }, /restartInterval is 1 to 256/],
      [{ bitsPerKey: -1 }, /bitsPerKey is 0 to 64/],
      [{ bitsPerKey: Number.NaN }, /bitsPerKey/],
      [{ prefixFilterBytes: 1.5 }, /prefixFilterBytes/],
      [{ compression: 'gzip' }, /compression is none, lz4, zstd/],
      ...(isCompressionSupported('zstd') ? [] : [[{ compression: 'zstd' }, /zstd needs Node/] as [object, RegExp]]),
    ];
    for (const [options, message] of wrong) {
      const env = newEnv();
      const create = (): unknown =>
        TableWriter.create(env, PATH, { ...parameters, options: { ...OPTIONS, ...options } });
      expect(create).toThrow(message);
      expect(create).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARG' }));
      expect(env.exists(PATH)).toBe(false);
    }
  });

  test('stops at entries out of order', () => {
    const entry = (key: string, seq: number): Entry => ({
      key: Buffer.from(key),
      seq,
      value: Buffer.from('v'),
      expiresAt: 0,
    });
    for (const [first, second] of [
      [entry('b', 1), entry('a', 1)],
      [entry('b', 1), entry('b', 1)],
      [entry('b', 1), entry('b', 2)],
      [entry('ba', 1), entry('b', 1)],
      [entry('b', 1), entry('', 1)],
    ] as const) {
      const writer = TableWriter.create(newEnv(), PATH, parameters);
      addEntry(writer, first);
      expect(failure(() => addEntry(writer, second)).code).toBe('ERR_INTERNAL');
    }
  });

  test('gives a tombstone no value, and flags no caller can set', () => {
    const env = newEnv();
    const writer = TableWriter.create(env, PATH, parameters);
    const entry: Entry = { key: Buffer.from('k'), seq: 3, value: Buffer.from('value'), expiresAt: 0 };
    addEntry(writer, entry, EntryFlag.tombstone | EntryFlag.expiry);
    expect(writer.finish().rawBytes).toBe(1);
    const iterator = new TableIterator(TableFile.open(env, PATH));
    expect(iterator.seek(undefined, undefined)).toBe(true);
    expect(iterator.flags).toBe(EntryFlag.tombstone);
    expect(iterator.valueLength).toBe(0);
  });

  test('foresees about how large the file will be', () => {
    const env = newEnv();
    const writer = TableWriter.create(env, PATH, parameters);
    for (const entry of decimals(3000)) addEntry(writer, entry);
    const foreseen = writer.bytes;
    const { bytes } = writer.finish();
    expect(Math.abs(bytes - foreseen)).toBeLessThan(bytes / 50);
  });

  test('leaves nothing behind when it is given up, and does not replace a file', () => {
    const env = newEnv();
    const writer = TableWriter.create(env, PATH, parameters);
    for (const entry of decimals(10)) addEntry(writer, entry);
    writer.abort();
    writer.abort();
    expect(env.exists(PATH)).toBe(false);
    writeTable(env, decimals(3));
    expect(() => TableWriter.create(env, PATH, parameters)).toThrow();
    expect(inspectTable(env, PATH).info.entries).toBe(3);
  });

  test('passes on a full disk, and a finished table has been synced', () => {
    const env = new MemEnv({ capacityBytes: 400_000 });
    env.makeDirectory('/store/shard-003/lsm-2');
    const full = failure(() => writeTable(env, decimals(9000)));
    expect(full.code).toBe('ERR_DISK_FULL');
    expect(full.details['file']).toBe(PATH);

    const faults = new FaultEnv(newEnv());
    const syncs: string[] = [];
    const open = faults.open.bind(faults);
    faults.open = (path, mode) => {
      const file = open(path, mode);
      const sync = file.sync.bind(file);
      file.sync = () => {
        syncs.push(path);
        sync();
      };
      return file;
    };
    writeTable(faults, decimals(5));
    expect(syncs).toEqual([PATH]);
  });

  test('writes in pieces of 512 KiB and more', () => {
    const env = newEnv();
    const lengths: number[] = [];
    const open = env.open.bind(env);
    env.open = (path, mode) => {
      const file = open(path, mode);
      const write = file.write.bind(file);
      file.write = (from, start, length, position) => {
        lengths.push(length);
        write(from, start, length, position);
      };
      return file;
    };
    const { bytes } = writeTable(env, decimals(20_000));
    expect(lengths.reduce((sum, length) => sum + length, 0)).toBe(bytes);
    for (const length of lengths.slice(0, -1)) expect(length).toBeGreaterThanOrEqual(512 * 1024);
  });
});

test('tables, entries in their order, are the same bytes each time', () => {
  const entries = inOrder(fc.sample(entryArbitrary, { seed: 3, numRuns: 80 }));
  expect([...entries].sort(compareEntries)).toEqual(entries);
  const first = newEnv();
  const second = newEnv();
  writeTable(first, entries, { compression: 'lz4' });
  writeTable(second, entries, { compression: 'lz4' });
  expect(readFile(first, PATH).equals(readFile(second, PATH))).toBe(true);
});
