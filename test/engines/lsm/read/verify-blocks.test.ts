/** When point reads look at the checksums of blocks, and what the index remembers of blocks that were read. */
import { describe, expect, test } from 'vitest';
import { ColdReadError } from '../../../../dist/engines/lsm/read/cold.js';
import { LsmFiles } from '../../../../dist/engines/lsm/read/files.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import type { LsmReader } from '../../../../dist/engines/lsm/read/reader.js';
import { createPageCache } from '../../../../dist/shared/memory/page-cache.js';
import { Harness, bytes, get, type HarnessOptions } from './support.js';

const COUNT = 60;
const keyOf = (index: number): Uint8Array => bytes(`key ${String(index).padStart(3, '0')}`);
const valueOf = (index: number): string => `value ${String(index).padStart(3, '0')} `.repeat(4);

/** A table of many blocks. */
function filled(options: HarnessOptions): Harness {
  const harness = new Harness({ env: new MemEnv(), memoryBytes: 4 << 20, ...options });
  for (let index = 0; index < COUNT; index++) harness.put(keyOf(index), bytes(valueOf(index)));
  harness.freeze();
  harness.flush();
  return harness;
}

/** Changes a byte of the entry's value in the file. */
function damage({ env, treeDirectory }: Harness, index: number): void {
  const [name] = env.list(treeDirectory);
  const file = env.open(`${treeDirectory}/${name!}`, 'write');
  const content = Buffer.alloc(file.size());
  file.read(content, 0, content.length, 0);
  const at = content.indexOf(valueOf(index), 0, 'latin1');
  expect(at).toBeGreaterThan(0);
  file.write(bytes('V'), 0, 1, at);
  file.close();
}

const read = (harness: Harness, reader: LsmReader, index: number): string | undefined =>
  get(harness, reader, keyOf(index))?.value?.toString('latin1');

/** All entries, by a cursor. */
function scan(harness: Harness): void {
  const cursor = harness.cursor();
  const metaUnit = harness.arena.pin(1);
  try {
    for (let more = cursor.seek(metaUnit, undefined, 0, Infinity, false, 1); more; more = cursor.next());
  } finally {
    cursor.release();
    harness.arena.unpin(1);
  }
}

describe.each([true, false])('without a cache, metadata in memory: %s', (resident) => {
  test('always: a block that went bad after it was read is refused', () => {
    const harness = filled({ cacheBytes: 0, resident, verifyBlocks: 'always' });
    const reader = harness.reader();
    expect(read(harness, reader, 5)).toBe(valueOf(5));
    expect(read(harness, reader, 50)).toBe(valueOf(50));
    damage(harness, 5);
    expect(() => read(harness, reader, 5)).toThrow(expect.objectContaining({ code: 'ERR_CORRUPT' }));
  });
});

test('once: a block that nobody has read is checked, one that some thread has read is not', () => {
  const harness = filled({ cacheBytes: 0, verifyBlocks: 'once' });
  const one = harness.reader();
  const other = harness.reader();
  expect(read(harness, one, 5)).toBe(valueOf(5));
  expect(read(harness, one, 50)).toBe(valueOf(50));
  damage(harness, 5);
  damage(harness, 30);
  expect(read(harness, other, 5)).toBe(`V${valueOf(5).slice(1)}`);
  for (const reader of [one, other]) {
    expect(() => read(harness, reader, 30)).toThrow(expect.objectContaining({ code: 'ERR_CORRUPT' }));
  }
});

test('once: what goes into the cache is checked, whoever has read it before', () => {
  const harness = filled({ verifyBlocks: 'once' });
  expect(read(harness, harness.reader(), 5)).toBe(valueOf(5));
  damage(harness, 5);
  // As when it had to go from the cache.
  const cache = createPageCache({ bytes: 4 << 20 });
  LsmFiles.attach(harness.arena, harness.env, { ...harness.layout.cold!, cache }, 1);
  expect(() => read(harness, harness.reader(), 5)).toThrow(expect.objectContaining({ code: 'ERR_CORRUPT' }));
});

test('a block that a scan has found in the cache is found there by finds, which look where its place is noted', async () => {
  const harness = filled({});
  const lazy = harness.reader();
  lazy.avoidsDisk = true;
  // One per block: nobody finds what is loaded, so nobody notes where it is.
  const indexes = Array.from({ length: COUNT / 6 }, (_, index) => 6 * index);
  for (const index of indexes) {
    try {
      read(harness, lazy, index);
    } catch (error) {
      if (!(error instanceof ColdReadError)) throw error;
      await error.load();
    }
  }
  // What they keep of it for themselves is gone.
  LsmFiles.attach(harness.arena, harness.env, harness.layout.cold!, 1);
  scan(harness);
  const reader = harness.reader();
  const { blocksFromFile } = reader.counters;
  for (const index of indexes) expect(read(harness, reader, index)).toBe(valueOf(index));
  expect(reader.counters.blocksFromFile).toBe(blocksFromFile);
});

test('once: with metadata in files every block is checked', () => {
  const harness = filled({ cacheBytes: 0, resident: false, verifyBlocks: 'once' });
  const reader = harness.reader();
  expect(read(harness, reader, 5)).toBe(valueOf(5));
  expect(read(harness, reader, 50)).toBe(valueOf(50));
  damage(harness, 5);
  expect(() => read(harness, reader, 5)).toThrow(expect.objectContaining({ code: 'ERR_CORRUPT' }));
});

test('once: scans check', () => {
  const harness = filled({ cacheBytes: 0, verifyBlocks: 'once' });
  expect(read(harness, harness.reader(), 5)).toBe(valueOf(5));
  damage(harness, 5);
  expect(() => {
    scan(harness);
  }).toThrow(expect.objectContaining({ code: 'ERR_CORRUPT' }));
});

describe.each(['always', 'once'] as const)('with a cache, checked %s', (verifyBlocks) => {
  test('a block that was read is not read from the file again, by any thread', () => {
    const harness = filled({ verifyBlocks });
    const first = harness.reader();
    for (let index = 0; index < COUNT; index++) expect(read(harness, first, index)).toBe(valueOf(index));
    const { blocksFromFile } = first.counters;
    expect(blocksFromFile).toBeGreaterThan(5);
    for (const reader of [first, harness.reader()]) {
      for (let index = 0; index < COUNT; index++) {
        // One from another block between, so that none is read twice in a row.
        expect(read(harness, reader, (index * 17) % COUNT)).toBe(valueOf((index * 17) % COUNT));
      }
    }
    expect(first.counters.blocksFromFile).toBe(blocksFromFile);
  });
});
