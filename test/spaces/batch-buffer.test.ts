/** Where batches are put together, and what must not disturb it. */
import { afterEach, expect, it } from 'vitest';
import { ConcordPool } from '../../dist/index.js';

let db: ConcordPool<string, Buffer> | undefined;

afterEach(async () => {
  await db?.close();
  db = undefined;
});

const value = (number: number, bytes: number): Buffer =>
  Buffer.from(Array.from({ length: bytes }, (_, at) => (number * 31 + at) & 0xff));

it('batches of all sizes, made while others wait, hold what their callers gave', async () => {
  db = await ConcordPool.open<string, Buffer>(':memory:', { shards: 1, valueEncoding: 'binary' });
  const expected = new Map<string, Buffer>();
  const calls: Promise<void>[] = [];
  // Around what goes to the ring in one piece (128 KiB), and around the buffer that is kept (192 KiB); lengths of all remainders by four.
  const shapes: readonly (readonly [number, number])[] = [
    [1, 0],
    [3, 1],
    [862, 100],
    [1000, 113],
    [1100, 114],
    [1500, 115],
    [2000, 116],
    [7, 50_001],
    [2, 3],
  ];
  let next = 0;
  for (let round = 0; round < 3; round++) {
    for (const [entries, bytes] of shapes) {
      const operations = Array.from({ length: entries }, () => {
        const key = `key ${next}`;
        const own = value(next++, bytes);
        expected.set(key, own);
        return { type: 'put' as const, key, value: own };
      });
      calls.push(db.batch(operations));
    }
  }
  await Promise.all(calls);
  let right = 0;
  for (const [key, own] of expected) if (db.getSync(key)?.equals(own) === true) right++;
  expect(right).toBe(next);
});

it('an encoding that makes a batch of its own while a batch is put together disturbs neither', async () => {
  const inner: Promise<void>[] = [];
  const open: ConcordPool<string, string> = await ConcordPool.open<string, string>(':memory:', {
    shards: 1,
    valueEncoding: {
      name: 'nesting',
      encode: (text: string) => {
        if (text.startsWith('outer')) {
          const key = `of ${text}`;
          inner.push(open.batch([{ type: 'put', key, value: `inner ${text}`.repeat(20) }]));
        }
        return text;
      },
      decode: (bytes: Uint8Array) => Buffer.from(bytes).toString('utf8'),
    },
  });
  try {
    const names = Array.from({ length: 100 }, (_, at) => `outer ${at}`);
    await open.batch(names.map((name) => ({ type: 'put' as const, key: name, value: name })));
    await Promise.all(inner);
    for (const name of names) {
      expect(open.getSync(name)).toBe(name);
      expect(open.getSync(`of ${name}`)).toBe(`inner ${name}`.repeat(20));
    }
  } finally {
    await open.close();
  }
});
