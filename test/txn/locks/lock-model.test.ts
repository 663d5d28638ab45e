/**
 * Random requests against a lock table, judged by a slow and simple model: no two holders that conflict, nobody overtaken, nobody forgotten, every
 * edge told, everything ends.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { LockOwner, LockWait } from '../../../dist/engines/txn/locks/lock.js';
import type { DeadlockPolicy } from '../../../dist/engines/txn/locks/lock-table.js';
import { LockScene, lockText, modeOf, pointOf } from './lock-scene.js';
import type { ModeLetter } from './lock-scene.js';

const RUNS = Number(process.env['LOCK_RUNS'] ?? 400);

type Step =
  | { kind: 'lock'; txn: number; mode: ModeLetter; what: string; timeoutMs: number }
  | { kind: 'try'; txn: number; mode: ModeLetter; what: string }
  | { kind: 'plain'; what: string[]; age: number; mode: ModeLetter }
  | { kind: 'release' | 'prepare'; txn: number }
  | { kind: 'client'; client: number }
  | { kind: 'tick'; byMs: number };

const key = fc.constantFrom('a', 'b', 'c', 'd');
const range = fc.constantFrom('a..c', 'b..d', 'c..', '..', 'b..c', 'a..b');
const txn = fc.integer({ min: 1, max: 7 });
const target = fc.oneof(
  { weight: 3, arbitrary: fc.record({ what: key, mode: fc.constantFrom<ModeLetter>('s', 'u', 'x') }) },
  { weight: 1, arbitrary: fc.record({ what: range, mode: fc.constantFrom<ModeLetter>('s', 'x') }) },
);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc
      .tuple(txn, target, fc.constantFrom(Infinity, Infinity, 20, 0))
      .map(([who, { what, mode }, timeoutMs]) => ({ kind: 'lock' as const, txn: who, mode, what, timeoutMs })),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(txn, target).map(([who, { what, mode }]) => ({ kind: 'try' as const, txn: who, mode, what })),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('plain' as const),
      what: fc.uniqueArray(fc.oneof({ weight: 4, arbitrary: key }, range), { minLength: 1, maxLength: 3 }),
      age: fc.integer({ min: 1, max: 9 }),
      mode: fc.constantFrom<ModeLetter>('x', 'x', 's'),
    }),
  },
  { weight: 4, arbitrary: txn.map((who) => ({ kind: 'release' as const, txn: who })) },
  { weight: 1, arbitrary: txn.map((who) => ({ kind: 'prepare' as const, txn: who })) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 2 }).map((client) => ({ kind: 'client' as const, client })) },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 15 }).map((byMs) => ({ kind: 'tick' as const, byMs })) },
);

interface Area {
  low: string;
  /** Exclusive; undefined: no end. */
  high: string | undefined;
}
interface Held extends Area {
  txn: number;
  mode: number;
}
interface Waiting {
  number: number;
  /** 0: a plain write. */
  txn: number;
  priority: number;
  age: number;
  areas: Area[];
  mode: number;
  told: readonly number[];
  found: readonly LockOwner<string>[];
}

function areaOf(what: string): Area {
  const dots = what.indexOf('..');
  if (dots < 0) return { low: what, high: `${what}\0` };
  return { low: what.slice(0, dots), high: what.slice(dots + 2) || undefined };
}

function meet(a: Area, b: Area): boolean {
  return (b.high === undefined || a.low < b.high) && (a.high === undefined || b.low < a.high);
}

function conflict(a: { mode: number }, b: { mode: number }): boolean {
  return a.mode + b.mode >= 2;
}

/** What the table says, in the words of the model. */
class Model {
  readonly scene: LockScene;
  readonly waits = new Map<number, LockWait<string>>();
  readonly ended = new Set<number>();
  readonly #priorities = [0, 0, 0, 1, 0, -1, 0];
  /** Waits that were granted by the call at hand, in that order. */
  readonly granted: LockWait<string>[] = [];

  constructor(policy: DeadlockPolicy) {
    this.scene = new LockScene(policy);
  }

  owner(id: number): LockOwner<string> {
    return this.scene.owner(id, { priority: this.#priorities[id - 1]!, age: 10 - id, client: id % 3 });
  }

  held(): Held[] {
    return this.scene.table.list(Infinity).flatMap(({ txn: id, held }) =>
      held.map((lock) => {
        const { key: bytes } = lock;
        const mode = modeOf((lock.mode === 'exclusive' ? 'x' : lock.mode[0]) as ModeLetter);
        const area =
          bytes === undefined ? areaOf(lockText(lock).slice(1, -1).replace(', ', '..')) : areaOf(lockText(lock));
        return { txn: id, mode, ...area };
      }),
    );
  }

  /** Seated waits in the order they were asked for. */
  waiting(): Waiting[] {
    return [...this.waits.values()]
      .filter((wait) => wait.isSeated)
      .map((wait) => ({
        number: wait.number,
        txn: wait.owner?.id ?? 0,
        priority: wait.priority,
        age: wait.age,
        areas: wait
          .wanted()
          .map(({ key: bytes, low, high }) =>
            bytes === undefined
              ? { low: Buffer.from(low!).toString(), high: high && Buffer.from(high).toString() }
              : areaOf(Buffer.from(bytes).toString()),
          ),
        mode: wait.wanted()[0]!.mode,
        told: wait.blockers,
        found: wait.found,
      }));
  }
}

function isUpgrade(wait: Waiting, held: readonly Held[]): boolean {
  return wait.txn !== 0 && held.some((lock) => lock.txn === wait.txn && wait.areas.some((area) => meet(area, lock)));
}

function holdersOf(wait: Waiting, held: readonly Held[]): number[] {
  return held
    .filter((lock) => lock.txn !== wait.txn && conflict(lock, wait) && wait.areas.some((area) => meet(area, lock)))
    .map((lock) => lock.txn);
}

/** Waiters that come before it and want what it wants. */
function before(wait: Waiting, waiting: readonly Waiting[], held: readonly Held[]): Waiting[] {
  const rank = (other: Waiting): number[] => [isUpgrade(other, held) ? 0 : 1, -other.priority, other.age, other.number];
  const own = rank(wait);
  return waiting.filter((other) => {
    if (other === wait || (wait.txn !== 0 && other.txn === wait.txn) || !conflict(other, wait)) return false;
    if (!other.areas.some((a) => wait.areas.some((b) => meet(a, b)))) return false;
    const others = rank(other);
    const at = others.findIndex((value, index) => value !== own[index]);
    return at >= 0 && others[at]! < own[at]!;
  });
}

/** Whom a waiter waits for in the end, over all ways. */
function reaches(from: Waiting, waiting: readonly Waiting[], held: readonly Held[]): Set<number> {
  const found = new Set<number>();
  const seen = new Set<Waiting>();
  const walk = (wait: Waiting): void => {
    if (seen.has(wait)) return;
    seen.add(wait);
    const met = (id: number): void => {
      if (id === 0 || found.has(id)) return;
      found.add(id);
      for (const other of waiting) if (other.txn === id) walk(other);
    };
    for (const id of holdersOf(wait, held)) met(id);
    for (const other of before(wait, waiting, held)) {
      met(other.txn);
      walk(other);
    }
  };
  walk(from);
  return found;
}

/** The same over what was told. */
function toldReaches(from: Waiting, waiting: readonly Waiting[]): Set<number> {
  const found = new Set<number>();
  const todo = [...from.told];
  for (let id = todo.pop(); id !== undefined; id = todo.pop()) {
    if (found.has(id)) continue;
    found.add(id);
    for (const other of waiting) if (other.txn === id) todo.push(...other.told);
  }
  return found;
}

function check(model: Model, policy: DeadlockPolicy): void {
  const held = model.held();
  const waiting = model.waiting();
  for (const a of held)
    for (const b of held)
      if (a.txn < b.txn && conflict(a, b) && meet(a, b))
        expect.fail(`transactions ${a.txn} and ${b.txn} hold locks that conflict: ${JSON.stringify([a, b])}`);
  for (const wait of waiting) {
    const holders = holdersOf(wait, held);
    const ahead = before(wait, waiting, held);
    if (holders.length === 0 && ahead.length === 0)
      expect.fail(`nobody is in the way of wait ${wait.number}, and it was not granted`);
    if (policy !== 'detect' || wait.txn === 0) continue;
    const told = toldReaches(wait, waiting);
    const { table } = model.scene;
    // Who waits for nobody any more need not be told of, and may be named for longer than it is in the way.
    const isPastWaiting = (id: number): boolean => table.findOwner(id)?.isPastWaiting ?? true;
    for (const id of holders)
      if (!isPastWaiting(id)) expect(told, `wait ${wait.number} of ${wait.txn} waits for holder ${id}`).toContain(id);
    for (const other of ahead) {
      if (other.txn === 0 || reaches(other, waiting, held).has(wait.txn)) continue;
      expect(told, `wait ${wait.number} of ${wait.txn} waits behind ${other.txn}`).toContain(other.txn);
    }
    const possible = reaches(wait, waiting, held);
    for (const id of wait.told) {
      // By the owner: an id may have come back.
      if (wait.found.some((owner) => owner.id === id && owner.isPastWaiting)) continue;
      expect(possible, `wait ${wait.number} of ${wait.txn} is said to wait for ${id}`).toContain(id);
    }
  }
  const { figures } = model.scene.table;
  expect(figures.held).toBe(held.length);
  expect(figures.waiting + figures.waitingAnonymous).toBe(waiting.length);
}

/** A grant: nobody who holds, and nobody who came before, unless that one waits for the same transaction. */
function checkGrant(model: Model, wait: LockWait<string>): void {
  const granted: Waiting = {
    number: wait.number,
    txn: wait.owner?.id ?? 0,
    priority: wait.priority,
    age: wait.age,
    areas: wait
      .wanted()
      .map(({ key: bytes, low, high }) =>
        bytes === undefined
          ? { low: Buffer.from(low!).toString(), high: high && Buffer.from(high).toString() }
          : areaOf(Buffer.from(bytes).toString()),
      ),
    mode: wait.wanted()[0]!.mode,
    told: [],
    found: [],
  };
  const held = model.held();
  const waiting = model.waiting();
  expect(holdersOf(granted, held), `grant ${wait.number} beside a holder`).toEqual([]);
  for (const other of before(granted, waiting, held)) {
    if (granted.txn !== 0 && reaches(other, waiting, held).has(granted.txn)) continue;
    expect.fail(`wait ${wait.number} of ${granted.txn} overtook ${other.number} of ${other.txn}`);
  }
}

function run(policy: DeadlockPolicy, steps: readonly Step[]): void {
  const model = new Model(policy);
  const { scene } = model;
  const { table } = scene;
  const wounded = new Set<number>();
  scene.onGrant = (wait): void => {
    model.waits.delete(wait.number);
    expect(model.ended.has(wait.number), `wait ${wait.number} ends twice`).toBe(false);
    model.ended.add(wait.number);
    checkGrant(model, wait);
  };
  // Failures and wounds come as lines; a wait that failed is not seated any more.
  const seat = (wait: LockWait<string> | undefined): void => {
    if (wait !== undefined && !model.ended.has(wait.number)) model.waits.set(wait.number, wait);
  };
  const settle = (): void => {
    for (const line of scene.lines()) {
      const [id, what, , by] = line.split(' ');
      if (what === 'wounded') {
        wounded.add(Number(id));
        expect(table.findOwner(Number(id))?.isPrepared ?? false, `${id} wounded by ${by} though it is prepared`).toBe(
          false,
        );
      }
    }
    const seated = new Set<number>();
    for (const wait of model.waits.values()) if (wait.isSeated) seated.add(wait.number);
    for (const number of [...model.waits.keys()])
      if (!seated.has(number)) {
        model.waits.delete(number);
        model.ended.add(number);
      }
  };
  const attempt = (call: () => LockWait<string> | undefined): boolean => {
    try {
      seat(call());
      return true;
    } catch (error) {
      if (!['ERR_DEADLOCK', 'ERR_LOCK_TIMEOUT'].includes((error as { code?: string }).code ?? '')) throw error;
      return (error as { code?: string }).code === 'ERR_LOCK_TIMEOUT';
    }
  };
  for (const each of steps) {
    switch (each.kind) {
      case 'lock': {
        const owner = model.owner(each.txn);
        if (owner.isPrepared) break;
        // Who must die, or was wounded, rolls back.
        if (!attempt(() => scene.acquire(owner, each.mode, each.what, each.timeoutMs))) table.release(each.txn);
        break;
      }
      case 'try': {
        const owner = model.owner(each.txn);
        if (owner.isPrepared) break;
        const inTheWay = scene.try(owner, each.mode, each.what);
        // Its lock may have let somebody see it who takes it away at once.
        if (inTheWay === 0 && owner.woundedBy === 0) {
          const area = areaOf(each.what);
          expect(
            model
              .held()
              .some((lock) => lock.txn !== each.txn && meet(lock, area) && lock.mode + modeOf(each.mode) >= 2),
          ).toBe(false);
        }
        break;
      }
      case 'plain': {
        const points = each.what.map((what) => pointOf(what, each.mode));
        attempt(() => table.waitAnonymous(points, 9, each.age, 0, Infinity, scene.nowMs, 'plain'));
        break;
      }
      case 'release':
        table.release(each.txn);
        break;
      case 'prepare': {
        const owner = table.findOwner(each.txn);
        // A transaction is prepared when it has all its locks.
        if (owner !== undefined && owner.waits.length === 0 && owner.woundedBy === 0) table.markPrepared(owner);
        break;
      }
      case 'client':
        table.releaseClient(each.client);
        break;
      case 'tick':
        scene.nowMs += each.byMs;
        table.tick(scene.nowMs);
        break;
    }
    settle();
    check(model, policy);
  }
  // Everybody who can end ends, until nobody is left: without the help of a deadline where the policy prevents deadlocks.
  for (let round = 0; ; round++) {
    const owners = table.list(0);
    if (owners.length === 0) break;
    const free = owners.find((owner) => owner.awaited.length === 0 || owner.isWounded);
    if (free === undefined && policy !== 'detect')
      expect.fail(`${owners.map(({ txn: id }) => id).join()} wait for ever`);
    table.release((free ?? owners[round % owners.length]!).txn);
    settle();
    check(model, policy);
  }
  expect(model.waits.size).toBe(0);
  expect(table.isEmpty).toBe(true);
  expect(table.figures).toMatchObject({ held: 0, waiting: 0, waitingAnonymous: 0 });
}

describe.each<DeadlockPolicy>(['detect', 'wait-die', 'wound-wait'])('%s', (policy) => {
  it('random requests are granted in order, exclude each other, and end', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 40, size: 'max' }), (steps) => {
        run(policy, steps);
      }),
      { numRuns: RUNS },
    );
  });
});
