/**
 * The model of a pool, a Map beside it, and the operations both are put through. One list of operations runs under several options and must give
 * the same answers everywhere; each answer is compared with the model's as it comes.
 *
 * Operations are plain data, so that a counterexample reads as a list of calls. Threads: the test's.
 */
import * as fc from 'fast-check';
import { join } from 'node:path';
import { ConcordPool, type IteratorOptions, type PoolOptions, type Snapshot } from '../../dist/index.js';
import { byBytes, patternText } from './pool-scene.js';
import { expect } from './expect.js';

export type Step =
  | { readonly type: 'put'; readonly key: string; readonly value: string }
  | { readonly type: 'del'; readonly key: string };

export interface Range {
  readonly low?: { readonly bound: 'gt' | 'gte'; readonly key: string };
  readonly high?: { readonly bound: 'lt' | 'lte'; readonly key: string };
  readonly prefix?: string;
}

export type Durability = 'memory' | 'os' | 'sync';

export type Operation =
  | { readonly do: 'put'; readonly key: string; readonly value: string; readonly durability: Durability }
  | { readonly do: 'putLarge'; readonly key: string; readonly length: number; readonly durability: Durability }
  | {
      readonly do: 'fill';
      readonly from: number;
      readonly count: number;
      readonly stride: number;
      readonly length: number;
    }
  | { readonly do: 'del'; readonly key: string }
  | { readonly do: 'batch'; readonly steps: readonly Step[] }
  | { readonly do: 'burst'; readonly steps: readonly Step[] }
  | { readonly do: 'clear'; readonly range: Range }
  | { readonly do: 'putIfAbsent'; readonly key: string; readonly value: string }
  | {
      readonly do: 'putIfVersion';
      readonly key: string;
      readonly value: string;
      readonly which: 'current' | 'stale' | 'absent';
    }
  | { readonly do: 'delIfVersion'; readonly key: string; readonly which: 'current' | 'stale' }
  | { readonly do: 'update'; readonly key: string; readonly append: string | undefined }
  | { readonly do: 'get'; readonly keys: readonly string[] }
  | { readonly do: 'iterate'; readonly range: Range; readonly reverse: boolean; readonly limit: number }
  | { readonly do: 'count'; readonly range: Range }
  | { readonly do: 'snapshot' }
  | {
      readonly do: 'readSnapshot';
      readonly index: number;
      readonly keys: readonly string[];
      readonly range: Range;
      readonly reverse: boolean;
    }
  | { readonly do: 'closeSnapshot'; readonly index: number }
  | { readonly do: 'flush' | 'compact' | 'checkpointAll' | 'reopen' | 'crash' | 'export' | 'check' };

// ---- arbitraries ------------------------------------------------------------------------------------------------------------------------

/** Few keys, so that operations meet; close together, far apart, long with a common beginning, and beyond ASCII. */
const keyArbitrary = fc.oneof(
  { weight: 6, arbitrary: fc.nat(40).map((i) => `k${i}`) },
  { weight: 3, arbitrary: fc.nat(600).map((i) => `fill${String(i).padStart(4, '0')}`) },
  { weight: 1, arbitrary: fc.nat(8).map((i) => 'long'.padEnd(900 + i * 350, 'x') + i) },
  { weight: 1, arbitrary: fc.constantFrom('', '\0', 'k', 'é', '\uffff', '\u{10000}', '\u{10ffff}') },
);
const valueArbitrary = fc.oneof(
  { weight: 4, arbitrary: fc.string({ maxLength: 12, unit: 'grapheme' }) },
  { weight: 2, arbitrary: fc.nat(3000).map((length) => patternText(length)) },
);
const rangeArbitrary: fc.Arbitrary<Range> = fc.record(
  {
    low: fc.record({ bound: fc.constantFrom('gt', 'gte'), key: keyArbitrary }),
    high: fc.record({ bound: fc.constantFrom('lt', 'lte'), key: keyArbitrary }),
    prefix: fc.constantFrom('k', 'k1', 'fill', 'fill00', 'long', ''),
  },
  { requiredKeys: [] },
);
/** What is acknowledged must survive a crash at 'os' and 'sync'; 'memory' promises nothing and is left to orderly lives. */
const durabilityArbitrary = fc.constantFrom<Durability>('os', 'os', 'sync');
const stepArbitrary: fc.Arbitrary<Step> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ type: fc.constant('put' as const), key: keyArbitrary, value: valueArbitrary }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('del' as const), key: keyArbitrary }) },
);
const largeArbitrary = fc.oneof(
  fc.integer({ min: 60_000, max: 70_000 }),
  fc.integer({ min: 3000, max: 5000 }),
  fc.integer({ min: 100_000, max: 600_000 }),
);

const one = <K extends Operation['do']>(name: K): fc.Arbitrary<{ do: K }> => fc.constant({ do: name });

const operationArbitrary = fc.oneof(
  { weight: 10, arbitrary: fc.record({ do: fc.constant('put' as const), key: keyArbitrary, value: valueArbitrary, durability: durabilityArbitrary }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('putLarge' as const), key: keyArbitrary, length: largeArbitrary, durability: durabilityArbitrary }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('fill' as const), from: fc.nat(600), count: fc.integer({ min: 1, max: 250 }), stride: fc.constantFrom(1, 1, 7, 599), length: fc.constantFrom(0, 10, 100, 900) }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('del' as const), key: keyArbitrary }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('batch' as const), steps: fc.array(stepArbitrary, { maxLength: 30 }) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('burst' as const), steps: fc.array(stepArbitrary, { maxLength: 60 }) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('clear' as const), range: rangeArbitrary }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('putIfAbsent' as const), key: keyArbitrary, value: valueArbitrary }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('putIfVersion' as const), key: keyArbitrary, value: valueArbitrary, which: fc.constantFrom('current' as const, 'stale' as const, 'absent' as const) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('delIfVersion' as const), key: keyArbitrary, which: fc.constantFrom('current' as const, 'stale' as const) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('update' as const), key: keyArbitrary, append: fc.option(fc.string({ maxLength: 4 }), { nil: undefined }) }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('get' as const), keys: fc.array(keyArbitrary, { minLength: 1, maxLength: 5 }) }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('iterate' as const), range: rangeArbitrary, reverse: fc.boolean(), limit: fc.constantFrom(-1, 0, 1, 5, 100, 101, 400) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('count' as const), range: rangeArbitrary }) },
  { weight: 3, arbitrary: one('snapshot') },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('readSnapshot' as const), index: fc.nat(3), keys: fc.array(keyArbitrary, { minLength: 1, maxLength: 4 }), range: rangeArbitrary, reverse: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('closeSnapshot' as const), index: fc.nat(3) }) },
  { weight: 1, arbitrary: one('flush') },
  { weight: 2, arbitrary: one('compact') },
  { weight: 2, arbitrary: one('checkpointAll') },
  { weight: 2, arbitrary: one('reopen') },
  { weight: 2, arbitrary: one('crash') },
  { weight: 1, arbitrary: one('export') },
  { weight: 2, arbitrary: one('check') },
) satisfies fc.Arbitrary<Operation>; // prettier-ignore

export function operationsArbitrary(lengthMax: number): fc.Arbitrary<Operation[]> {
  return fc.array(operationArbitrary as fc.Arbitrary<Operation>, { minLength: 10, maxLength: lengthMax, size: 'max' });
}

// ---- the machine ------------------------------------------------------------------------------------------------------------------------

type Model = Map<string, string>;

function optionsOf({ low, high, prefix }: Range): IteratorOptions<string, string> {
  return {
    ...(low === undefined ? {} : { [low.bound]: low.key }),
    ...(high === undefined ? {} : { [high.bound]: high.key }),
    ...(prefix === undefined ? {} : { prefix }),
  };
}

function isIn(key: string, { low, high, prefix }: Range): boolean {
  if (low !== undefined && byBytes(key, low.key) < (low.bound === 'gt' ? 1 : 0)) return false;
  if (high !== undefined && byBytes(key, high.key) > (high.bound === 'lt' ? -1 : 0)) return false;
  return prefix === undefined || key.startsWith(prefix);
}

function entriesIn(model: Model, range: Range, reverse = false, limit = -1): [string, string][] {
  const entries = [...model].filter(([key]) => isIn(key, range)).sort(([a], [b]) => byBytes(a, b));
  if (reverse) entries.reverse();
  return limit < 0 ? entries : entries.slice(0, limit);
}

/** Long values make a failed comparison unreadable and slow: they are told by length and hash-like ends. */
function brief(value: string | undefined): string | undefined {
  return value === undefined || value.length <= 64
    ? value
    : `${value.length}:${value.slice(0, 24)}…${value.slice(-24)}`;
}

/** Equal, byte for byte; the message stays short. */
function expectEntries(
  found: readonly (readonly [string, string])[],
  expected: readonly (readonly [string, string])[],
): void {
  const same =
    found.length === expected.length &&
    found.every(([key, value], i) => key === expected[i]![0] && value === expected[i]![1]);
  if (same) return;
  const show = (entries: readonly (readonly [string, string])[]): string[] =>
    entries.map(([key, value]) => `${brief(key)} = ${brief(value)}`);
  expect(show(found)).toEqual(show(expected));
  expect.fail('entries differ in the middle of a long key or value');
}

function expectValues(found: readonly (string | undefined)[], expected: readonly (string | undefined)[]): void {
  if (found.length === expected.length && found.every((value, i) => value === expected[i])) return;
  expect(found.map(brief)).toEqual(expected.map(brief));
  expect.fail('values differ in the middle');
}

/** A pool and its model, under one configuration. */
export class Machine {
  readonly #root: string;
  readonly #options: PoolOptions & { readonly shards: number };
  readonly #isMemory: boolean;
  readonly #model: Model = new Map();
  #snapshots: { readonly snapshot: Snapshot<string, string>; readonly model: Model }[] = [];
  #exports = 0;
  #db!: ConcordPool;

  /** `root`: an empty directory of its own, or ':memory:'. */
  constructor(root: string, options: PoolOptions & { readonly shards: number }) {
    this.#root = root;
    this.#options = options;
    this.#isMemory = root === ':memory:';
  }

  async open(): Promise<void> {
    this.#db = await ConcordPool.open(this.#isMemory ? ':memory:' : join(this.#root, 'store'), this.#options);
  }

  /** The store equals the model as a whole and is sound inside; the directory verifies. */
  async end(): Promise<void> {
    await this.#compareAll();
    await this.#checkMemory();
    await this.#db.close();
    if (!this.#isMemory)
      expect(await ConcordPool.verify(join(this.#root, 'store'))).toMatchObject({
        ok: true,
        entries: this.#model.size,
      });
  }

  /** After a failure: ends the threads. */
  async abandon(): Promise<void> {
    await this.#db.host?.crash().catch(() => undefined);
  }

  async #compareAll(): Promise<void> {
    expectEntries([...this.#db.iterateSync()], entriesIn(this.#model, {}));
    expect(await this.#db.count()).toBe(this.#model.size);
  }

  async #checkMemory(): Promise<void> {
    expect(await this.#db.host!.check()).toEqual([]);
  }

  #apply(step: Step): void {
    if (step.type === 'put') this.#model.set(step.key, step.value);
    else this.#model.delete(step.key);
  }

  async #restart(end: () => Promise<void>): Promise<void> {
    if (this.#isMemory) return;
    this.#snapshots = [];
    await end();
    await this.open();
    await this.#compareAll();
    await this.#checkMemory();
  }

  async run(operation: Operation): Promise<void> {
    const db = this.#db;
    const model = this.#model;
    switch (operation.do) {
      case 'put': {
        const { key, value, durability } = operation;
        expect(await db.put(key, value, { durability })).toBe(true);
        model.set(key, value);
        expectValues([db.getSync(key)], [value]);
        return;
      }
      case 'putLarge': {
        const { key, length, durability } = operation;
        const value = patternText(length, model.size);
        expect(await db.put(key, value, { durability })).toBe(true);
        model.set(key, value);
        expectValues([await db.get(key)], [value]);
        return;
      }
      case 'fill': {
        const calls: Promise<boolean>[] = [];
        for (let i = 0; i < operation.count; i++) {
          const key = `fill${String((operation.from + i * operation.stride) % 601).padStart(4, '0')}`;
          const value = patternText(operation.length, i);
          calls.push(db.put(key, value, { durability: 'os' }));
          model.set(key, value);
        }
        expect((await Promise.all(calls)).every(Boolean)).toBe(true);
        return;
      }
      case 'del':
        expect(await db.del(operation.key)).toBe(true);
        model.delete(operation.key);
        expect(db.hasSync(operation.key)).toBe(false);
        return;
      case 'batch': {
        const { steps } = operation;
        await db.batch(steps);
        for (const step of steps) this.#apply(step);
        return;
      }
      case 'burst': {
        const calls = operation.steps.map((step) =>
          step.type === 'put' ? db.put(step.key, step.value, { durability: 'os' }) : db.del(step.key),
        );
        expect((await Promise.all(calls)).every(Boolean)).toBe(true);
        for (const step of operation.steps) this.#apply(step);
        return;
      }
      case 'clear':
        await db.clear(optionsOf(operation.range));
        for (const key of [...model.keys()]) if (isIn(key, operation.range)) model.delete(key);
        return;
      case 'putIfAbsent': {
        const { key, value } = operation;
        const applies = !model.has(key);
        expect(await db.put(key, value, { ifAbsent: true })).toBe(applies);
        if (applies) model.set(key, value);
        return;
      }
      case 'putIfVersion': {
        const { key, value, which } = operation;
        const version = (await db.getEntry(key))?.version ?? 0;
        const ifVersion = which === 'current' ? version : which === 'absent' ? 0 : version + 1;
        const applies = ifVersion === version;
        expect(await db.put(key, value, { ifVersion })).toBe(applies);
        if (!applies) return;
        model.set(key, value);
        expect((await db.getEntry(key))!.version).toBeGreaterThan(version);
        return;
      }
      case 'delIfVersion': {
        const { key, which } = operation;
        const version = (await db.getEntry(key))?.version ?? 0;
        expect(await db.del(key, { ifVersion: which === 'current' ? version : version + 1 })).toBe(which === 'current');
        if (which === 'current') model.delete(key);
        return;
      }
      case 'update': {
        const { key, append } = operation;
        const change = (old: string | undefined): string | undefined =>
          append === undefined ? undefined : (old ?? '') + append;
        const expected = change(model.get(key));
        expectValues([await db.update(key, change)], [expected]);
        if (expected === undefined) model.delete(key);
        else model.set(key, expected);
        return;
      }
      case 'get': {
        const expected = operation.keys.map((key) => model.get(key));
        expectValues(db.getManySync(operation.keys), expected);
        expectValues(await db.getMany(operation.keys), expected);
        expect(operation.keys.map((key) => db.hasSync(key))).toEqual(expected.map((value) => value !== undefined));
        return;
      }
      case 'iterate': {
        const { range, reverse, limit } = operation;
        const options = { ...optionsOf(range), reverse, limit };
        const expected = entriesIn(model, range, reverse, limit);
        expectEntries(await db.iterator(options).all(), expected);
        expectEntries([...db.iterateSync(options)], expected);
        return;
      }
      case 'count':
        expect(await db.count(optionsOf(operation.range))).toBe(entriesIn(model, operation.range).length);
        return;
      case 'snapshot':
        if (this.#snapshots.length < 4) this.#snapshots.push({ snapshot: await db.snapshot(), model: new Map(model) });
        return;
      case 'readSnapshot': {
        const held = this.#snapshots[operation.index % Math.max(1, this.#snapshots.length)];
        if (held === undefined) return;
        expectValues(
          operation.keys.map((key) => held.snapshot.getSync(key)),
          operation.keys.map((key) => held.model.get(key)),
        );
        const expected = entriesIn(held.model, operation.range, operation.reverse);
        const options = { ...optionsOf(operation.range), reverse: operation.reverse };
        expectEntries(await held.snapshot.iterator(options).all(), expected);
        expectEntries([...db.iterateSync({ ...options, snapshot: held.snapshot })], expected);
        expect(await held.snapshot.count()).toBe(held.model.size);
        return;
      }
      case 'closeSnapshot': {
        if (this.#snapshots.length === 0) return;
        const [held] = this.#snapshots.splice(operation.index % this.#snapshots.length, 1);
        await held!.snapshot.close();
        return;
      }
      case 'flush':
        await db.flush();
        return;
      case 'compact':
        await db.compact();
        return;
      case 'checkpointAll':
        await db.host!.checkpointAll();
        return;
      case 'check':
        await this.#checkMemory();
        await this.#compareAll();
        return;
      case 'reopen':
        await this.#restart(() => db.close());
        return;
      case 'crash':
        await this.#restart(() => db.host!.crash());
        return;
      case 'export': {
        if (this.#isMemory) return;
        const directory = join(this.#root, `export-${++this.#exports}`);
        await db.checkpoint(directory);
        const copy = await ConcordPool.open(directory, { memoryBytes: this.#options.memoryBytes ?? 2 ** 30 });
        expectEntries([...copy.iterateSync()], entriesIn(model, {}));
        await copy.close();
        return;
      }
    }
  }
}
