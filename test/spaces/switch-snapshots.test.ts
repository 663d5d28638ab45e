/** Snapshots and iterators that are open while a space moves: they see the same before, meanwhile and after, from any engine to any other. */
import { describe, expect, onTestFinished, test } from 'vitest';
import { ConcordPool, type Snapshot, type Space } from '../../dist/index.js';
import { byBytes, patternText } from '../support/pool-scene.js';

const ENGINES = ['btree', 'hash', 'rbtree', 'array', 'memtable'];
const PAIRS = ENGINES.flatMap((from) => ENGINES.filter((to) => to !== from).map((to) => [from, to] as const));
const ENTRIES = 700;
const HOUR_MS = 3_600_000;

type Model = Map<string, string>;

interface Held {
  readonly snapshot: Snapshot;
  readonly model: Model;
}

function keyOf(i: number): string {
  return `k${String(i).padStart(4, '0')}`;
}

function sorted(model: Model): [string, string][] {
  return [...model].sort(([a], [b]) => byBytes(a, b));
}

async function hold(space: Space, model: Model): Promise<Held> {
  return { snapshot: await space.snapshot(), model: new Map(model) };
}

/** Puts, deletes, values of any length, entries that expire later and such as have expired. */
async function change(space: Space, model: Model, generation: number): Promise<void> {
  const calls: Promise<unknown>[] = [];
  for (let i = generation; i < ENTRIES; i += 3) {
    const key = keyOf((i * 31 + generation) % ENTRIES);
    if (i % 7 === 0) {
      calls.push(space.del(key));
      model.delete(key);
      continue;
    }
    const length = i % 97 === 0 ? 70_000 + i : i % 13 === 0 ? 0 : (i * 7) % 300;
    const value = patternText(length, i * 10 + generation);
    const ttlMs = i % 11 === 0 ? HOUR_MS : undefined;
    calls.push(space.put(key, value, { ttlMs }));
    model.set(key, value);
  }
  await Promise.all(calls);
}

async function expectHeld(space: Space, held: readonly Held[]): Promise<void> {
  for (const { snapshot, model } of held) {
    const expected = sorted(model);
    expect(await snapshot.iterator().all()).toEqual(expected);
    expect(await snapshot.iterator({ reverse: true }).all()).toEqual([...expected].reverse());
    expect(await snapshot.count()).toBe(expected.length);
    for (let i = 0; i < ENTRIES; i += 5) expect(snapshot.getSync(keyOf(i))).toBe(model.get(keyOf(i)));
    expect(await space.iterator({ snapshot, gte: keyOf(100), lt: keyOf(140) }).all()).toEqual(
      expected.filter(([key]) => key >= keyOf(100) && key < keyOf(140)),
    );
  }
}

describe.each(PAIRS)('from %s to %s', (from, to) => {
  test('snapshots of different times see what they saw, while it moves, after it, and after it has moved back', async () => {
    const db = await ConcordPool.open(':memory:', { shards: 2, memoryBytes: 128 << 20, durability: 'memory' });
    onTestFinished(() => db.close());
    const space = db.space('s', { engine: from });
    const model: Model = new Map();
    const held: Held[] = [];
    for (let generation = 0; generation < 3; generation++) {
      await change(space, model, generation);
      held.push(await hold(space, model));
    }
    await change(space, model, 3);
    const iterator = space.iterator();
    const listed = await iterator.nextv(50);
    const whenBegun = sorted(model);

    const moved = space.switchEngine(to);
    await change(space, model, 4);
    await expectHeld(space, held.slice(0, 1));
    await moved;
    held.push(await hold(space, model));
    await expectHeld(space, held);
    expect(await space.iterator().all()).toEqual(sorted(model));

    await change(space, model, 5);
    await expectHeld(space, held);
    await held[1]!.snapshot.close();
    held.splice(1, 1);
    await db.compact();
    await space.switchEngine(from);
    await expectHeld(space, held);
    expect(await space.iterator().all()).toEqual(sorted(model));
    for (;;) {
      const more = await iterator.nextv(200);
      if (more.length === 0) break;
      listed.push(...more);
    }
    expect(listed).toEqual(whenBegun);

    for (const { snapshot } of held) await snapshot.close();
    // Versions of a key that stood on two pages of a B+Tree come together in the first pass.
    await db.compact();
    await db.compact();
    expect(await space.iterator().all()).toEqual(sorted(model));
    expect((await db.spaces())[0]).toMatchObject({ engine: from, entries: model.size, cells: model.size });
    expect(await db.host!.check()).toEqual([]);
  });
});
