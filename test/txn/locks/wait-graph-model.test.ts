/**
 * The wait-for graph against a slow search for cycles; and real lock tables of three shards, whose messages are late, doubled and in any order, with a
 * graph that may only kill who was in a circle at one instant, and must end every circle.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LockTable } from '../../../dist/engines/txn/locks/lock-table.js';
import { LockMode } from '../../../dist/engines/txn/locks/mode.js';
import { WaitGraph } from '../../../dist/engines/txn/wait-graph.js';
import { hashBytes } from '../../../dist/shared/hash.js';

const RUNS = Number(process.env['LOCK_RUNS'] ?? 300);

function hasCycle(edges: readonly (readonly [number, number])[]): boolean {
  let left = edges;
  for (;;) {
    const waiting = new Set(left.map(([from]) => from));
    const next = left.filter(([, to]) => waiting.has(to));
    if (next.length === left.length) return left.length > 0;
    left = next;
  }
}

describe('edges that shards confirm at once', () => {
  it('a victim is found exactly when there is a cycle, and then there is none', () => {
    const news = fc.record({
      txn: fc.integer({ min: 1, max: 9 }),
      blockers: fc.uniqueArray(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 3 }),
      shard: fc.integer({ min: 0, max: 2 }),
      ends: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(news, { maxLength: 60, size: 'max' }), (steps) => {
        /** By shard and wait. */
        const waits = new Map<string, { txn: number; blockers: number[]; shard: number; wait: number }>();
        const kills: { shard: number; wait: number; txn: number }[] = [];
        const questions: { shard: number; check: number }[] = [];
        const graph = new WaitGraph({
          confirm: (shard, check) => questions.push({ shard, check }),
          kill: (shard, txn, wait) => kills.push({ shard, txn, wait }),
        });
        const edges = (): [number, number][] =>
          [...waits.values()].flatMap(({ txn, blockers }) => blockers.map((to): [number, number] => [txn, to]));
        let waitNumber = 0;
        for (const { txn, blockers: asked, shard, ends } of steps) {
          if (ends) {
            const [first] = waits.values();
            if (first === undefined) continue;
            waits.delete(`${first.shard}.${first.wait}`);
            graph.unwait(first.shard, first.wait, 0);
          } else {
            const blockers = asked.filter((id) => id !== txn);
            const wait = ++waitNumber;
            waits.set(`${shard}.${wait}`, { txn, blockers, shard, wait });
            graph.wait(
              { shard, txn, wait, revision: 1, blockers, priority: 0, age: txn, space: 1, key: '', mode: '' },
              0,
            );
          }
          let mustKill = hasCycle(edges());
          for (let round = 0; questions.length > 0 || kills.length > 0; round++) {
            expect(round).toBeLessThan(100);
            for (const { shard: asking, check } of questions.splice(0)) graph.confirmed(asking, check, true, 0);
            for (const kill of kills.splice(0)) {
              expect(mustKill || hasCycle(edges())).toBe(true);
              mustKill = false;
              waits.delete(`${kill.shard}.${kill.wait}`);
              graph.unwait(kill.shard, kill.wait, 0);
            }
          }
          expect(hasCycle(edges())).toBe(false);
          expect(mustKill).toBe(false);
          expect(graph.figures).toMatchObject({ waits: waits.size, edges: edges().length });
        }
      }),
      { numRuns: RUNS },
    );
  });
});

type Step =
  | { kind: 'lock'; txn: number; shard: number; mode: LockMode; what: string }
  | { kind: 'plain'; shard: number; what: string[] }
  | { kind: 'end'; txn: number }
  | { kind: 'deliver'; index: number; twice: boolean }
  | { kind: 'tick'; byMs: number }
  | { kind: 'restart'; shard: number };

const keys = fc.constantFrom('a', 'b', 'c');
const shardIndex = fc.integer({ min: 0, max: 2 });
const transaction = fc.integer({ min: 1, max: 7 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({
      kind: fc.constant('lock' as const),
      txn: transaction,
      shard: shardIndex,
      mode: fc.constantFrom(LockMode.Shared, LockMode.Update, LockMode.Exclusive, LockMode.Exclusive),
      what: fc.oneof({ weight: 5, arbitrary: keys }, fc.constant('..')),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('plain' as const),
      shard: shardIndex,
      what: fc.uniqueArray(keys, { minLength: 1, maxLength: 2 }),
    }),
  },
  { weight: 2, arbitrary: transaction.map((txn) => ({ kind: 'end' as const, txn })) },
  {
    weight: 12,
    arbitrary: fc.record({
      kind: fc.constant('deliver' as const),
      index: fc.nat(1000),
      twice: fc.constantFrom(false, false, false, true),
    }),
  },
  { weight: 1, arbitrary: fc.constantFrom(1, 5, 300, 1200).map((byMs) => ({ kind: 'tick' as const, byMs })) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('restart' as const), shard: shardIndex }) },
);

const SHARDS = 3;

/** Lock tables, a graph, and messages under way between them. */
class World {
  readonly tables: LockTable<number>[] = [];
  /** Edges of each instant, `shard.txn.blocker`. */
  readonly #instants: Set<string>[] = [];
  #messages: { shard: number; life: number; deliver: () => void }[] = [];
  readonly #lives: number[] = new Array<number>(SHARDS).fill(0);
  readonly #graph: WaitGraph;
  /** Who rolls back at the next turn. */
  readonly failed = new Set<number>();
  nowMs = 0;
  kills = 0;

  constructor() {
    for (let shard = 0; shard < SHARDS; shard++) this.#open(shard);
    this.#graph = new WaitGraph({
      confirm: (shard, check, edges) => {
        this.#send(shard, () => {
          const table = this.tables[shard]!;
          const holds = edges.every(({ wait, blocker, revision }) => table.isWaitingFor(wait, blocker, revision));
          this.#send(shard, () => {
            this.#graph.confirmed(shard, check, holds, this.nowMs);
          });
        });
      },
      kill: (shard, txn, wait, cycle) => {
        this.kills++;
        const edges = cycle.map((edge) => `${edge.shard}.${edge.txn}.${edge.waitsFor}`);
        cycle.forEach((edge, index) => {
          expect(cycle[(index + 1) % cycle.length]!.txn).toBe(edge.waitsFor);
        });
        if (!this.#instants.some((instant) => edges.every((edge) => instant.has(edge))))
          expect.fail(`${txn} is killed for a cycle that never was: ${edges.join()}`);
        this.#send(shard, () => this.tables[shard]!.kill(wait, 'gave way', {}));
      },
    });
  }

  get messages(): number {
    return this.#messages.length;
  }

  #open(shard: number): void {
    this.tables[shard] = new LockTable<number>(
      { policy: 'detect' },
      {
        onGrant: () => undefined,
        onFail: (wait, error) => {
          if (error.code === 'ERR_DEADLOCK') this.failed.add(wait.context);
        },
        onWait: (wait) => {
          const { number, revision, blockers, priority, age } = wait;
          const txn = wait.owner!.id;
          this.#send(shard, () => {
            this.#graph.wait(
              { shard, txn, wait: number, revision, blockers, priority, age, space: 1, key: '', mode: '' },
              this.nowMs,
            );
          });
        },
        onUnwait: ({ number }) => {
          this.#send(shard, () => {
            this.#graph.unwait(shard, number, this.nowMs);
          });
        },
      },
    );
  }

  #send(shard: number, deliver: () => void): void {
    this.#messages.push({ shard, life: this.#lives[shard]!, deliver });
  }

  deliver(index: number, twice: boolean): void {
    const [message] = this.#messages.splice(index, 1);
    if (message === undefined) return;
    // The port of a dead thread is closed.
    if (message.life !== this.#lives[message.shard]!) return;
    message.deliver();
    if (twice) message.deliver();
    this.note();
  }

  lock(txn: number, shard: number, mode: LockMode, what: string): void {
    const table = this.tables[shard]!;
    const owner = table.owner(txn, txn, txn === 4 ? 1 : 0, 1);
    if (what === '..') {
      const rangeMode = mode === LockMode.Update ? LockMode.Shared : mode;
      table.acquireRange(owner, 1, undefined, undefined, rangeMode, Infinity, 0, txn);
    } else {
      const key = Buffer.from(what);
      table.acquireKey(owner, 1, key, 0, key.length, hashBytes(key, 0, key.length), mode, Infinity, 0, txn);
    }
  }

  plain(shard: number, what: readonly string[]): void {
    const points = what.map((each) => {
      const key = Buffer.from(each);
      return { space: 1, mode: LockMode.Exclusive, key, hash: hashBytes(key, 0, key.length) };
    });
    this.tables[shard]!.waitAnonymous(points, 9, 3, 0, Infinity, 0, 0);
  }

  end(txn: number): void {
    this.failed.delete(txn);
    for (const table of this.tables) {
      table.release(txn);
      this.note();
    }
  }

  restart(shard: number): void {
    // Whoever had a lock there cannot commit.
    for (const { txn } of this.tables[shard]!.list(0)) this.failed.add(txn);
    this.#lives[shard]!++;
    this.#open(shard);
    this.#graph.forgetShard(shard, this.nowMs);
  }

  tick(byMs: number): void {
    this.nowMs += byMs;
    this.#graph.tick(this.nowMs);
  }

  note(): void {
    const edges = new Set<string>();
    this.tables.forEach((table, shard) => {
      table.forEachWait((wait) => {
        for (const blocker of wait.blockers) edges.add(`${shard}.${wait.owner!.id}.${blocker}`);
      });
    });
    this.#instants.push(edges);
  }

  /** Transactions that hold or want something, and those that wait for nothing. */
  active(): { all: Set<number>; free: Set<number> } {
    const all = new Set<number>();
    const waiting = new Set<number>();
    for (const table of this.tables)
      for (const { txn, awaited } of table.list(0)) {
        all.add(txn);
        if (awaited.length > 0) waiting.add(txn);
      }
    return { all, free: new Set([...all].filter((txn) => !waiting.has(txn))) };
  }

  get graphFigures(): WaitGraph['figures'] {
    return this.#graph.figures;
  }
}

describe('lock tables whose messages are late, doubled and in any order', () => {
  it('nobody is killed who was in no circle, and every circle ends', () => {
    let kills = 0;
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120, size: 'max' }), (steps) => {
        const world = new World();
        for (const each of steps) {
          switch (each.kind) {
            case 'lock':
              // Who was killed asks for nothing more.
              if (!world.failed.has(each.txn)) world.lock(each.txn, each.shard, each.mode, each.what);
              break;
            case 'plain':
              world.plain(each.shard, each.what);
              break;
            case 'end':
              world.end(each.txn);
              break;
            case 'deliver':
              if (world.messages > 0) world.deliver(each.index % world.messages, each.twice);
              break;
            case 'tick':
              world.tick(each.byMs);
              break;
            case 'restart':
              world.restart(each.shard);
              break;
          }
          world.note();
        }
        for (let round = 0; world.active().all.size > 0; round++) {
          expect(round, 'somebody waits for ever').toBeLessThan(200);
          // Late and doubled, but some time.
          for (let index = 0; world.messages > 0; index++) world.deliver((index * 7) % world.messages, index % 3 === 0);
          world.note();
          for (const txn of [...world.failed]) world.end(txn);
          const { free } = world.active();
          // One at a time, so that circles of the others are not broken by chance.
          const [first] = free;
          if (world.messages === 0 && first !== undefined) world.end(first);
          world.tick(500);
        }
        for (let index = 0; world.messages > 0; index++) world.deliver(0, false);
        expect(world.tables.every((table) => table.isEmpty)).toBe(true);
        expect(world.graphFigures).toMatchObject({ waits: 0, edges: 0 });
        kills += world.kills;
      }),
      { numRuns: RUNS },
    );
    // Else it shows nothing.
    expect(kills).toBeGreaterThan(RUNS / 10);
  });
});
