/** Batches of hundreds of thousands of operations through the whole store: admitted, applied in page order, recovered. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { ConcordPool } from '../../../dist/index.js';

const MIB = 1 << 20;
const directory = mkdtempSync(join(tmpdir(), 'concordkv-large-batch-'));

afterAll(() => {
  rmSync(directory, { recursive: true, force: true });
});

const keyOf = (index: number): string => `k${String(index).padStart(15, '0')}`;

function puts(count: number, value: (index: number) => Buffer): { type: 'put'; key: string; value: Buffer }[] {
  return Array.from({ length: count }, (_, index) => {
    // In no order; every key once.
    const at = (index * 7919) % count;
    return { type: 'put', key: keyOf(at), value: value(at) };
  });
}

it('500,000 puts of 16 + 100 bytes are one batch in an empty store of a gigabyte', async () => {
  const db = await ConcordPool.open<string, Buffer>(':memory:', {
    shards: 1,
    memoryBytes: 1024 * MIB,
    durability: 'memory',
    valueEncoding: 'binary',
  });
  try {
    await db.batch(puts(500_000, (index) => Buffer.alloc(100, index)));
    expect(await db.count()).toBe(500_000);
    for (let index = 0; index < 500_000; index += 997)
      expect(db.getSync(keyOf(index))).toEqual(Buffer.alloc(100, index));
  } finally {
    await db.close();
  }
});

it('a large batch that puts and deletes one key many times leaves its last word, also after a recovery', async () => {
  const options = { shards: 1, memoryBytes: 256 * MIB, durability: 'os', valueEncoding: 'utf8' } as const;
  const expected = new Map<string, string>();
  const operations = Array.from({ length: 60_000 }, (_, index) => {
    const key = keyOf((index * 31) % 5000);
    if (index % 11 === 3) {
      expected.delete(key);
      return { type: 'del' as const, key };
    }
    const value = `${index}`.repeat(index % 20);
    expected.set(key, value);
    return { type: 'put' as const, key, value };
  });
  let db = await ConcordPool.open<string, string>(directory, options);
  await db.batch(operations);
  for (let round = 0; round < 2; round++) {
    expect(await db.count()).toBe(expected.size);
    for (const [key, value] of expected) expect(db.getSync(key)).toBe(value);
    await db.close();
    db = await ConcordPool.open<string, string>(directory, options);
  }
  await db.close();
});
