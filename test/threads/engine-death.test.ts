/**
 * Shard threads that die while they serve every engine: under load, in the middle of a move from engine to engine, while entries expire, while a space is
 * dropped. What was acknowledged is there, snapshots see what they saw, the work goes on, and the memory comes back.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ConcordPool, type PoolOptions, type Space } from '../../dist/index.js';
import { BUILDING_SPACE_ID } from '../../dist/engines/engine.js';
// @ts-expect-error a plain JavaScript helper
import { engineRows as untypedRows, strayRows as untypedStrays } from '../crash/engine-rows.mjs';
// @ts-expect-error a plain JavaScript helper
import { Load } from '../support/threads-load.mjs';
import { byBytes, patternText } from '../support/pool-scene.js';
import { newDirectory, removeDirectory, sleep, until } from './scene.js';

const engineRows = untypedRows as (db: ConcordPool) => [number, string][][];
const strayRows = untypedStrays as (db: ConcordPool) => string[];

const ENGINES = ['btree', 'hash', 'rbtree', 'array', 'memtable'] as const;
const SHARDS = 2;
/** A shard stays down after five deaths in a minute. */
const DEATHS_BORNE = 4;
/** What each load does, at least. */
const ENOUGH = { acknowledged: 20, reads: 100 };
/** What pages of emptied structures and of the index of what expires may keep. */
const MEMORY_SLACK_BYTES = 256 * 1024;
const options: PoolOptions = {
  shards: SHARDS,
  durability: 'os',
  memoryBytes: 128 << 20,
  segmentBytes: 256 << 10,
  checkpointLogBytes: 256 << 10,
  expiry: { intervalMs: 10, batch: 100 },
};

let directory: string;
let db: ConcordPool;

function allRunning(): boolean {
  return db.stats().shards.every(({ state }) => state === 'running');
}

async function kill(shard: number): Promise<void> {
  await until('the shard is up', () => db.stats().shards[shard]!.state === 'running');
  const { restarts } = db.stats().shards[shard]!;
  await db.host!.killShard(shard);
  await until('its death is noticed', () => db.stats().shards[shard]!.restarts > restarts);
}

/** Of engines with a latch: a shard may die while it holds it. The thread that must hear of the death to replace the shard does not wait for it long. */
const LATCHED: ReadonlySet<string> = new Set(['rbtree', 'array']);

function problemsOf(load: Load, engine: string, space?: Space): string[] {
  const problems = load.verify(space) as string[];
  return LATCHED.has(engine) ? problems.filter((text) => !text.includes('locked by a thread that died')) : problems;
}

/** Everything in the space, in the order of its keys. */
function contentOf(reads: Pick<Space, 'iterator'>): Promise<[string, string][]> {
  return reads.iterator().all();
}

async function fill(space: Pick<Space, 'put'>, count: number): Promise<Map<string, string>> {
  const model = new Map<string, string>();
  for (let i = 0; i < count; i++) model.set(`fixed${String(i).padStart(5, '0')}`, patternText(10 + (i % 150), i));
  await Promise.all([...model].map(([key, value]) => space.put(key, value)));
  return model;
}

function sorted(model: ReadonlyMap<string, string>): [string, string][] {
  return [...model].sort(([a], [b]) => byBytes(a, b));
}

async function expectSound(): Promise<void> {
  await until('every shard is back', allRunning);
  expect(await db.host!.check()).toEqual([]);
  await expect.poll(() => strayRows(db)).toEqual([]);
}

/** Of the whole pool, with nothing that waits for a reader. */
async function usedBytes(): Promise<number> {
  await db.compact();
  await until('no page waits for a reader', () => db.stats().shards.every(({ memory }) => memory.retiredBytes === 0));
  return db.stats().memoryUsedBytes;
}

describe.each([['in a directory'], ['in memory']])('%s', (where) => {
  beforeEach(async () => {
    directory = newDirectory();
    db = await ConcordPool.open(where === 'in memory' ? ':memory:' : directory, options);
  });

  afterEach(async () => {
    await db.close();
    removeDirectory(directory);
  });

  /** Closes the pool and opens what it left, if it left anything. */
  async function reopen(): Promise<boolean> {
    if (where === 'in memory') return false;
    await db.close();
    expect(await ConcordPool.verify(directory)).toMatchObject({ ok: true });
    db = await ConcordPool.open(directory, options);
    return true;
  }

  test('shards that are killed under load on every engine lose nothing, and snapshots see what they saw', async () => {
    const seed = Math.floor(Math.random() * 1e9);
    console.log(`seed ${seed}`);
    const usedAtFirst = await usedBytes();
    const spaces = ENGINES.map((engine) => db.space(engine, { engine }));
    for (const space of spaces) await fill(space, 400);
    const snapshot = await db.snapshot();
    const before = await Promise.all(spaces.map((space) => contentOf(snapshot.space(space))));
    const loads = spaces.map(
      (space, i) => new Load(space, { name: space.name, seed: seed + i, callers: 6, largeEvery: 60 }),
    );
    const running = loads.map((load) => load.run() as Promise<void>);
    for (let death = 0; death < DEATHS_BORNE; death++) {
      for (let shard = 0; shard < SHARDS; shard++) {
        await sleep(Math.random() * 150);
        // Things that never change can be deleted, too: the snapshot keeps them.
        await Promise.allSettled(spaces.map((space) => space.del(`fixed0000${death}`)));
        await kill(shard);
      }
    }
    await sleep(100);
    for (const load of loads) load.stop(ENOUGH);
    await Promise.all(running);
    await until('every shard is back', allRunning);
    for (const [i, load] of loads.entries()) {
      expect(problemsOf(load, ENGINES[i]!)).toEqual([]);
      expect(await contentOf(snapshot.space(spaces[i]!))).toEqual(before[i]);
    }
    await expectSound();
    await snapshot.close();
    if (await reopen()) {
      for (const [i, load] of loads.entries()) expect(problemsOf(load, ENGINES[i]!, db.space(ENGINES[i]!))).toEqual([]);
      await expectSound();
    } else {
      for (const engine of ENGINES) await db.dropSpace(engine);
      await expect.poll(usedBytes).toBeLessThan(usedAtFirst + MEMORY_SLACK_BYTES);
    }
  });

  /** In a circle, each with the two behind it: so every pair is met once, in both directions. */
  const after = (index: number): string => ENGINES[index % ENGINES.length]!;
  test.each(ENGINES.map((home, index) => [home, after(index + 1), after(index + 2)] as const))(
    'a move from %s to %s or %s and back goes on when its shard dies, and snapshots see what they saw',
    async (home, ...others) => {
      const space = db.space('s', { engine: home });
      const model = await fill(space, 4000);
      let turn = 0;
      let deathsInTheMiddle = 0;
      // In memory with the first of them: the other way round the pairs are met in a directory.
      for (const other of where === 'in memory' ? others.slice(0, 1) : others) {
        for (const target of [other, home]) {
          const snapshot = await space.snapshot();
          const before = sorted(model);
          const shard = turn++ % SHARDS;
          const from = space.engine;
          // Writes of the time of the move, on both sides of the copy.
          const write = async (i: number): Promise<void> => {
            const key = `fixed${String((i * 37 + turn * 11) % 4600).padStart(5, '0')}`;
            const value = i % 5 === 0 ? undefined : `${target} ${turn} ${i}`;
            for (;;) {
              try {
                if (value === undefined) await space.del(key);
                else await space.put(key, value);
                break;
              } catch (error) {
                // Unknown outcome: a second time does no harm.
                if ((error as { code?: string }).code !== 'ERR_SHARD_RESTARTED') throw error;
              }
            }
            if (value === undefined) model.delete(key);
            else model.set(key, value);
          };
          const isHalfWay = (): boolean => engineRows(db)[shard]!.some(([id]) => id === BUILDING_SPACE_ID);
          let moved: Promise<unknown> = Promise.resolve();
          // Where this thread has lost its core the move may be over before it is seen: then it is made again.
          for (let attempt = 0; attempt < 20; attempt++) {
            await moved;
            if (space.engine !== from) await space.switchEngine(from);
            let isOver = false;
            const over = (): void => {
              isOver = true;
            };
            const move = space.switchEngine(target);
            move.then(over, over);
            moved = Promise.all([move, ...Array.from({ length: 200 }, (_, i) => write(i))]);
            while (!isOver && !isHalfWay()) await new Promise((resolve) => setImmediate(resolve));
            if (isHalfWay()) break;
          }
          if (isHalfWay()) deathsInTheMiddle++;
          await kill(shard);
          await moved;
          expect(space.engine).toBe(target);
          expect(await contentOf(space)).toEqual(sorted(model));
          expect(await contentOf(snapshot)).toEqual(before);
          await snapshot.close();
          await expectSound();
        }
      }
      expect(deathsInTheMiddle).toBeGreaterThan(0);
      if (await reopen()) {
        expect(await contentOf(db.space('s'))).toEqual(sorted(model));
        await expectSound();
      }
    },
  );

  test('entries that expire while their shard dies go, and nothing else does', async () => {
    const spaces = ENGINES.map((engine) => db.space(engine, { engine }));
    const models = new Map<Space, Map<string, string>>();
    for (const space of spaces) models.set(space, await fill(space, 300));
    const snapshot = await db.snapshot();
    await Promise.all(
      spaces.flatMap((space) =>
        Array.from({ length: 1500 }, (_, i) => space.put(`gone${i}`, 'v'.repeat(i % 90), { ttlMs: 1 + (i % 600) })),
      ),
    );
    // An entry that stays takes the place of one that is about to go.
    for (const space of spaces) {
      for (let i = 0; i < 1500; i += 50) {
        for (;;) {
          try {
            await space.put(`gone${i}`, 'stays');
            break;
          } catch (error) {
            if ((error as { code?: string }).code !== 'ERR_SHARD_RESTARTED') throw error;
          }
        }
        models.get(space)!.set(`gone${i}`, 'stays');
      }
    }
    for (let death = 0; death < 3; death++) {
      for (let shard = 0; shard < SHARDS; shard++) {
        await sleep(Math.random() * 40);
        await kill(shard);
      }
    }
    await until('all that was to expire is removed', () =>
      db.stats().spaces.every(({ name, entries }) => name === '' || entries === 330),
    );
    for (const space of spaces) {
      expect(await contentOf(space)).toEqual(sorted(models.get(space)!));
      expect(await contentOf(snapshot.space(space))).toHaveLength(300);
    }
    await snapshot.close();
    await expectSound();
    if (await reopen()) {
      for (const [space, model] of models) expect(await contentOf(db.space(space.name))).toEqual(sorted(model));
    }
  });

  test('a space that is dropped while its shard dies is gone with its memory, whatever engine had it', async () => {
    const usedAtFirst = await usedBytes();
    const kept = db.space('kept', { engine: 'hash' });
    const model = await fill(kept, 500);
    let shard = 0;
    for (const engine of ENGINES) {
      const space = db.space('fleeting', { engine });
      await fill(space, 3000);
      await space.put('large', 'x'.repeat(500_000));
      const writing = Promise.allSettled(Array.from({ length: 200 }, (_, i) => space.put(`late${i}`, 'v')));
      // Half of them in the middle of a move, which ends with the space.
      const moving = engine === 'hash' || engine === 'rbtree' ? space.switchEngine('btree') : Promise.resolve();
      moving.catch(() => undefined);
      await sleep(Math.random() * 5);
      const dropped = space.drop();
      await sleep(Math.random() * 3);
      await kill(shard++ % SHARDS);
      expect(await dropped).toBe(true);
      await writing;
      await moving.catch((error: unknown) => {
        expect((error as { code?: string }).code).toBe('ERR_SPACE_DROPPED');
      });
      expect((await db.spaces()).map(({ name }) => name)).toEqual(['kept']);
      await expectSound();
      expect(await contentOf(kept)).toEqual(sorted(model));
    }
    if (await reopen()) {
      expect((await db.spaces()).map(({ name }) => name)).toEqual(['kept']);
      expect(await contentOf(db.space('kept'))).toEqual(sorted(model));
      await expectSound();
    }
    await db.dropSpace('kept');
    await expect.poll(usedBytes).toBeLessThan(usedAtFirst + MEMORY_SLACK_BYTES);
  });
});
