/** Writes of one thread to one key take effect in the order of the calls, whatever way each takes to the shard. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ConcordPool } from '../../dist/index.js';

/** Above the limits at which values and batches travel in chunks. */
const LARGE = 200_000;
const LARGE_BATCH_VALUE = 60_000;

let db: ConcordPool;

beforeAll(async () => {
  db = await ConcordPool.open(':memory:', { shards: 1, memoryBytes: 256 << 20 });
});

afterAll(() => db.close());

type Call =
  | { kind: 'put' | 'large' | 'del'; key: number }
  | { kind: 'batch' | 'large batch'; key: number; other: number }
  | { kind: 'clear' | 'flush' };

const KEYS = 3;
const key = fc.nat(KEYS - 1);
const call: fc.Arbitrary<Call> = fc.oneof(
  fc.record({ kind: fc.constantFrom('put' as const, 'large' as const, 'del' as const), key }),
  fc.record({ kind: fc.constantFrom('batch' as const, 'large batch' as const), key, other: key }),
  fc.record({ kind: fc.constantFrom('clear' as const, 'flush' as const) }),
);

/** Makes the call and gives its promise; says in the model what must be there after all of them. */
function make(call: Call, turn: number, model: Map<string, string>): Promise<unknown> {
  const small = `value ${turn} `;
  switch (call.kind) {
    case 'put':
    case 'large': {
      const value = call.kind === 'put' ? small : small.padEnd(LARGE, 'l');
      model.set(`key${call.key}`, value);
      return db.put(`key${call.key}`, value);
    }
    case 'del':
      model.delete(`key${call.key}`);
      return db.del(`key${call.key}`);
    case 'batch':
    case 'large batch': {
      const value = call.kind === 'batch' ? small : small.padEnd(LARGE_BATCH_VALUE, 'b');
      const keys = [`key${call.key}`, `key${call.other}`];
      // Some weight, so that the batch itself is sent in chunks.
      if (call.kind === 'large batch') keys.push('weight0', 'weight1', 'weight2', 'weight3', 'weight4');
      for (const name of keys) model.set(name, value);
      return db.batch(keys.map((name) => ({ type: 'put', key: name, value })));
    }
    case 'clear':
      model.clear();
      return db.clear();
    case 'flush':
      return db.flush();
  }
}

async function outcomeOf(calls: Call[]): Promise<{ expected: [string, string][]; found: [string, string][] }> {
  await db.clear();
  const model = new Map<string, string>();
  await Promise.all(calls.map((call, turn) => make(call, turn, model)));
  const shorten = (entries: [string, string][]): [string, string][] =>
    entries.map(([name, value]) => [name, `${value.slice(0, 12)} ${value.length}`]);
  return {
    expected: shorten([...model].sort(([a], [b]) => (a < b ? -1 : 1))),
    found: shorten(await db.iterator().all()),
  };
}

test.each<{ name: string; calls: Call[] }>([
  {
    name: 'a small value between two large ones of its key',
    calls: [
      { kind: 'large', key: 0 },
      { kind: 'put', key: 0 },
      { kind: 'large', key: 0 },
    ],
  },
  {
    name: 'a value behind a batch that waits for a large value',
    calls: [
      { kind: 'large', key: 0 },
      { kind: 'batch', key: 1, other: 2 },
      { kind: 'put', key: 1 },
    ],
  },
  {
    name: 'a value behind a long batch that holds its key',
    calls: [
      { kind: 'large batch', key: 1, other: 2 },
      { kind: 'put', key: 1 },
    ],
  },
  {
    name: 'a value behind a clear that waits for a large value',
    calls: [{ kind: 'large', key: 0 }, { kind: 'clear' }, { kind: 'put', key: 1 }],
  },
])('$name is there in the end', async ({ calls }) => {
  const { expected, found } = await outcomeOf(calls);
  expect(found).toEqual(expected);
});

test('any calls that are made without waiting leave what they leave one after another', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(call, { maxLength: 12 }), async (calls) => {
      const { expected, found } = await outcomeOf(calls);
      expect(found).toEqual(expected);
    }),
    { numRuns: 60 },
  );
});
