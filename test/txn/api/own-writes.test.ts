/** What a transaction has written is what it reads, however much it has touched: against a model, with savepoints and ranges in both directions. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { WorkingSet, type Write } from '../../../dist/actors/transaction/working-set.js';
import { ConcordPool } from '../../../dist/index.js';
import { hashBytes } from '../../../dist/shared/hash.js';

let db: ConcordPool;
beforeAll(async () => {
  db = await ConcordPool.open(':memory:', { shards: 2, memoryBytes: 128 << 20 });
});
afterAll(async () => {
  await db.close();
});

const KEYS = 300;
/** They are read more than once before anything is written, and met often later. */
const FIRST_KEYS = 4;

type Step =
  | { readonly kind: 'get' | 'del' | 'getAsync'; readonly key: number }
  | { readonly kind: 'put' | 'update'; readonly key: number; readonly value: number }
  | { readonly kind: 'savepoint' }
  | { readonly kind: 'rollbackTo' | 'release'; readonly which: number }
  | { readonly kind: 'scan'; readonly key: number; readonly limit: number; readonly reverse: boolean };

const key = fc.oneof(fc.nat(FIRST_KEYS - 1), fc.nat(KEYS - 1));
const value = fc.nat(1_000_000);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('get'), key }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('getAsync'), key }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('put'), key, value }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('del'), key }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('update'), key, value }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('savepoint') }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('rollbackTo', 'release'), which: fc.nat(7) }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('scan'), key, limit: fc.nat(6), reverse: fc.boolean() }),
  },
) as fc.Arbitrary<Step>;

const nameOf = (id: number): string => `k${String(id).padStart(3, '0')}`;

function sorted(model: ReadonlyMap<string, string>): [string, string][] {
  return [...model].sort(([a], [b]) => (a < b ? -1 : 1));
}

test('reads and scans of a transaction see its writes, and the commit stores them', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom('optimistic' as const, 'pessimistic' as const),
      fc.constantFrom('read-committed' as const, 'repeatable-read' as const, 'serializable' as const),
      fc.array(fc.nat(FIRST_KEYS - 1), { maxLength: 8 }),
      fc.array(step, { minLength: 10, maxLength: 400, size: 'max' }),
      async (mode, isolation, early, steps) => {
        await db.clear();
        for (let id = 0; id < KEYS; id += 7) await db.put(nameOf(id), 'before');
        let model = new Map(await db.iterator().all());
        await db.transaction(
          async (tx) => {
            let saved: [string, Map<string, string>][] = [];
            for (const id of early) expect(tx.getSync(nameOf(id))).toBe(model.get(nameOf(id)));
            for (const now of steps) {
              const name = 'key' in now ? nameOf(now.key) : '';
              if (now.kind === 'get') expect(tx.getSync(name)).toBe(model.get(name));
              else if (now.kind === 'getAsync') expect(await tx.get(name)).toBe(model.get(name));
              else if (now.kind === 'put') {
                void tx.put(name, String(now.value));
                model.set(name, String(now.value));
              } else if (now.kind === 'del') {
                void tx.del(name);
                model.delete(name);
              } else if (now.kind === 'update') {
                await tx.update(name, (before) => {
                  expect(before).toBe(model.get(name));
                  return String(now.value);
                });
                model.set(name, String(now.value));
              } else if (now.kind === 'savepoint') saved.push([tx.savepoint(), new Map(model)]);
              else if (now.kind === 'scan') {
                const wanted = sorted(model).filter(([other]) => other >= name);
                if (now.reverse) wanted.reverse();
                const range = { gte: name, reverse: now.reverse, limit: now.limit };
                expect(await tx.iterator(range).all()).toEqual(wanted.slice(0, now.limit));
              } else if (saved.length > 0) {
                const at = now.which % saved.length;
                const [point, then] = saved[at]!;
                if (now.kind === 'rollbackTo') {
                  tx.rollbackTo(point);
                  model = new Map(then);
                  saved = saved.slice(0, at + 1);
                } else {
                  tx.release(point);
                  saved = saved.slice(0, at);
                }
              }
            }
          },
          { mode, isolation, retries: 0 },
        );
        expect(await db.iterator().all()).toEqual(sorted(model));
      },
    ),
    { numRuns: 100 },
  );
});

test('a key that was read twice before it was written is found when there are many', async () => {
  await db.clear();
  await db.put('a', 'old');
  await db.transaction((tx) => {
    tx.getSync('a');
    tx.getSync('a');
    void tx.put('a', 'new');
    for (let i = 0; i < 300; i++) {
      void tx.put(`k${i}`, 'x');
      expect(tx.getSync('a')).toBe('new');
    }
    void tx.put('a', 'newer');
  });
  expect(await db.get('a')).toBe('newer');
});

test('two objects of one space are one space', async () => {
  // Until it is there, nobody knows whether the options agree.
  const first = db.space('twice', { engine: 'btree' });
  const second = db.space('twice', { engine: 'btree' });
  await Promise.all([first.ready, second.ready]);
  await db.transaction((tx) => {
    void tx.space(first).put('a', '1');
    void tx.space(second).put('a', '2');
    expect(tx.space(first).getSync('a')).toBe('2');
    void tx.space(first).put('a', '3');
    expect(tx.space(second).getSync('a')).toBe('3');
    void tx.space(second).put('b', '4');
    void tx.space(first).del('b');
    expect([...tx.space(second).iterateSync()]).toEqual([['a', '3']]);
  });
  expect(await first.iterator().all()).toEqual([['a', '3']]);
});

test("a name that is made up for a savepoint is nobody else's", async () => {
  await using tx = db.begin();
  tx.savepoint('savepoint-1');
  void tx.put('named', '1');
  expect(tx.savepoint()).not.toBe('savepoint-1');
  tx.rollbackTo('savepoint-1');
  expect(tx.getSync('named')).toBeUndefined();
});

test('of a key that is written again and again only what a savepoint can bring back is kept', () => {
  const set = new WorkingSet(1);
  const key = Buffer.from('k');
  const hash = hashBytes(key, 0, key.length);
  const { source } = db as unknown as { source: Parameters<WorkingSet['add']>[0] };
  set.find(0, hash, key, key.length);
  const entry = set.add(source, 0, hash, key, key.length);
  const values = (): string[] => {
    const found: string[] = [];
    for (let write: Write | undefined = entry.write; write !== undefined; write = write.previous) {
      found.unshift(write.value.toString('utf8', 0, write.length));
    }
    return found;
  };
  for (let i = 0; i < 10; i++) {
    set.savepoint('each');
    set.setPut(entry, `released ${i}`, 0);
    set.releaseSavepoint('each');
  }
  expect(values().length).toBeLessThanOrEqual(2);
  set.sortedWrites(0, undefined, undefined);
  set.setPut(entry, 'first', 0);
  expect(values()).toEqual(['first']);
  set.savepoint('outer');
  for (let i = 0; i < 10; i++) {
    set.setPut(entry, `between ${i}`, 0);
    set.sortedWrites(0, undefined, undefined);
  }
  set.savepoint('inner');
  set.setPut(entry, 'last', 0);
  expect(values()).toEqual(['first', 'between 9', 'last']);
  set.rollbackTo('inner');
  expect(values()).toEqual(['first', 'between 9']);
  set.releaseSavepoint('inner');
  set.setPut(entry, 'later', 0);
  expect(values()).toEqual(['first', 'later']);
  set.rollbackTo('outer');
  expect(values()).toEqual(['first']);
});
