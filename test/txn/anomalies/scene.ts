/**
 * A few transactions whose steps are played in a given order, through begin() handles. What each of them saw becomes a history, which the history checker judges in the
 * end; so every scene is judged twice, by what it expects and by what its level promises.
 *
 * A step that waits for a lock, as the pool's list of transactions tells, is blocked: the play goes on, and the later steps of the same transaction follow when it is granted.
 */
import { expect } from 'vitest';
import type { ConcordPool } from '../../../dist/index.js';
import { check, textOfReport } from '../../support/history/check.mjs';
import { History } from '../../support/history/history.mjs';
import { keysOfShard } from '../../support/pool-scene.js';

export type Level = 'read-committed' | 'repeatable-read' | 'serializable';
export type Mode = 'optimistic' | 'pessimistic';
/** Where the keys x and y are, and those of the range. */
export type Place = 'in a store of one shard' | 'on one shard of two' | 'on two shards';

export const LEVELS: readonly Level[] = ['read-committed', 'repeatable-read', 'serializable'];
export const MODES: readonly Mode[] = ['optimistic', 'pessimistic'];
export const PLACES: readonly Place[] = ['in a store of one shard', 'on one shard of two', 'on two shards'];

export interface Combination {
  readonly level: Level;
  readonly mode: Mode;
  readonly place: Place;
}

export const COMBINATIONS: readonly Combination[] = LEVELS.flatMap((level) =>
  MODES.flatMap((mode) => PLACES.map((place) => ({ level, mode, place }))),
);

/** x and y hold 10 and 20; a and b, in the range, 30 and 40; c and d, in the range, and v and w are absent. */
const NAMES = ['x', 'y', 'a', 'b', 'c', 'd', 'v', 'w'] as const;
export type Name = (typeof NAMES)[number];
const FIRST_VALUES: Partial<Record<Name, number>> = { x: 10, y: 20, a: 30, b: 40 };
const IN_RANGE: readonly Name[] = ['a', 'b', 'c', 'd'];
const ON_SECOND_SHARD: readonly Name[] = ['y', 'b', 'd', 'w'];

/** A step that takes so long is blocked, whatever the list says. */
const BLOCKED_MS = 3000;
const LOOK_EVERY_MS = 10;

type Op = ['r', number, number, number?] | ['w', number, number] | ['s', [number, number, number?][]];
type Transaction = ReturnType<ConcordPool['begin']>;
interface Failure {
  code: string;
  retryable: boolean;
}

let scenes = 0;

export class Scene {
  readonly combination: Combination;
  readonly #db: ConcordPool;
  readonly #keys = new Map<Name, string>();
  readonly #prefix: string;
  readonly #actors: Actor[] = [];
  /** Of each key, the store's number of each value. */
  readonly #versions = NAMES.map(() => new Map<number, number>());
  /** Deletions cannot be told apart, so a scene with one is not judged by its history. */
  hasDeletes = false;
  clock = 0;

  private constructor(db: ConcordPool, combination: Combination) {
    this.combination = combination;
    this.#db = db;
    const scene = ++scenes;
    this.#prefix = `${scene}/range/`;
    const shards = combination.place === 'in a store of one shard' ? 1 : 2;
    NAMES.forEach((name, index) => {
      const shard = combination.place === 'on two shards' && ON_SECOND_SHARD.includes(name) ? 1 : 0;
      const prefix = IN_RANGE.includes(name) ? this.#prefix : `${scene}/${name}`;
      this.#keys.set(name, keysOfShard(shard, shards, index + 1, prefix)[index]!);
    });
  }

  static async open(db: ConcordPool, combination: Combination): Promise<Scene> {
    const scene = new Scene(db, combination);
    const first = Object.entries(FIRST_VALUES) as [Name, number][];
    await Promise.all(first.map(([name, value]) => db.put(scene.key(name), String(value))));
    scene.observe();
    return scene;
  }

  get is(): { rc: boolean; rr: boolean; ser: boolean; opt: boolean; pess: boolean } {
    const { level, mode } = this.combination;
    return {
      rc: level === 'read-committed',
      rr: level === 'repeatable-read',
      ser: level === 'serializable',
      opt: mode === 'optimistic',
      pess: mode === 'pessimistic',
    };
  }

  key(name: Name): string {
    return this.#keys.get(name)!;
  }

  get range(): { prefix: string } {
    return { prefix: this.#prefix };
  }

  nameOf(key: string): Name {
    return NAMES.find((name) => this.key(name) === key)!;
  }

  get namesInRange(): readonly Name[] {
    return IN_RANGE;
  }

  begin(count: number): Actor[] {
    const { level, mode } = this.combination;
    return Array.from({ length: count }, () => {
      const actor = new Actor(
        this,
        this.#db.begin({ isolation: level, mode, lockTimeoutMs: 20_000, timeoutMs: 40_000 }),
      );
      this.#actors.push(actor);
      return actor;
    });
  }

  /** Learns the versions of what is stored now. */
  observe(): void {
    NAMES.forEach((name, index) => {
      const entry = this.#db.getEntrySync(this.key(name));
      if (entry !== undefined) this.#versions[index]!.set(Number(entry.value), entry.version);
    });
  }

  async isWaiting(id: number): Promise<boolean> {
    const transactions = await this.#db.transactions();
    return transactions.some((one) => one.id === id && one.awaited.length > 0);
  }

  stored(name: Name): number {
    const value = this.#db.getSync(this.key(name));
    return value === undefined ? 0 : Number(value);
  }

  /** Waits for all steps and judges what was seen. */
  async end(): Promise<void> {
    for (const actor of this.#actors) await actor.settled();
    this.observe();
    for (const actor of this.#actors) {
      // What loses must be told that it may try again.
      if (actor.failure !== undefined) expect(actor.failure.retryable, actor.failure.code).toBe(true);
    }
    if (this.hasDeletes) return;
    const history = new History('register');
    const numbered = (ops: readonly Op[]): Op[] =>
      ops.map((op) => {
        const version = (key: number, value: number): number => this.#versions[key]!.get(value) ?? 0;
        if (op[0] === 'r') return ['r', op[1], op[2], version(op[1], op[2])];
        if (op[0] === 's') return ['s', op[1].map(([key, value]) => [key, value, version(key, value)])];
        return op;
      });
    const { level } = this.combination;
    const add = (txn: object): void => void history.add({ level, ...txn } as never);
    const first = Object.entries(FIRST_VALUES).map(([name, value]) => ['w', NAMES.indexOf(name as Name), value]);
    add({ start: -2, end: -1, ops: first });
    for (const { outcome, start, finish, ops } of this.#actors) {
      add({ outcome: outcome === 'committed' ? 'ok' : 'fail', start, end: finish, ops: numbered(ops) });
    }
    const last = NAMES.map((name, index) => ['r', index, this.stored(name)] as Op);
    add({ start: ++this.clock, end: ++this.clock, ops: numbered(last) });
    expect(textOfReport(check(history))).toBe('');
  }
}

/** One transaction. Its steps return what was read, 'blocked' while they wait, or 'failed'. */
export class Actor {
  outcome: 'open' | 'committed' | 'rolled back' | 'failed' = 'open';
  failure: Failure | undefined;
  /** Every value that get() and getSync() returned. */
  readonly seen: number[] = [];
  /** Every list of names that scan() returned. */
  readonly scans: string[] = [];
  readonly ops: Op[] = [];
  readonly start: number;
  finish = Infinity;
  readonly #scene: Scene;
  readonly #tx: Transaction;
  #chain: Promise<unknown> = Promise.resolve();

  constructor(scene: Scene, tx: Transaction) {
    this.#scene = scene;
    this.#tx = tx;
    this.start = ++scene.clock;
  }

  /** The steps of one transaction follow one another; after a failure there are none. */
  async #step<T>(act: () => T | Promise<T>): Promise<T | 'blocked' | 'failed'> {
    const step = this.#chain.then(async () => {
      if (this.outcome !== 'open') return 'failed' as const;
      try {
        return await act();
      } catch (error) {
        const { code, retryable } = error as Failure;
        if (code === undefined) throw error;
        this.outcome = 'failed';
        this.failure = { code, retryable };
        this.finish = ++this.#scene.clock;
        await this.#tx.rollback().catch(() => undefined);
        return 'failed' as const;
      }
    });
    this.#chain = step;
    let isSettled = false;
    const settled = (): void => void (isSettled = true);
    step.then(settled, settled);
    const result = await Promise.race([step, this.#blocked(() => isSettled)]);
    this.#scene.observe();
    return result;
  }

  async #blocked(isSettled: () => boolean): Promise<'blocked'> {
    const deadline = performance.now() + BLOCKED_MS;
    while (!isSettled() && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
      if (!isSettled() && (await this.#scene.isWaiting(this.#tx.id))) break;
    }
    return 'blocked';
  }

  settled(): Promise<unknown> {
    return this.#chain;
  }

  #note(name: Name, text: string | undefined): number {
    const value = text === undefined ? 0 : Number(text);
    this.seen.push(value);
    this.ops.push(['r', NAMES.indexOf(name), value]);
    return value;
  }

  get(name: Name): Promise<number | 'blocked' | 'failed'> {
    return this.#step(async () => this.#note(name, await this.#tx.get(this.#scene.key(name))));
  }

  getSync(name: Name): Promise<number | 'blocked' | 'failed'> {
    return this.#step(() => this.#note(name, this.#tx.getSync(this.#scene.key(name))));
  }

  getForUpdate(name: Name): Promise<number | 'blocked' | 'failed'> {
    return this.#step(async () => this.#note(name, await this.#tx.getForUpdate(this.#scene.key(name))));
  }

  put(name: Name, value: number): Promise<unknown> {
    return this.#step(async () => {
      this.ops.push(['w', NAMES.indexOf(name), value]);
      await this.#tx.put(this.#scene.key(name), String(value));
    });
  }

  del(name: Name): Promise<unknown> {
    this.#scene.hasDeletes = true;
    return this.#step(async () => {
      await this.#tx.del(this.#scene.key(name));
    });
  }

  /** The range as names and values: 'a=30 b=40'. */
  scan(): Promise<string> {
    return this.#step(async () => {
      const found = new Map<Name, number>();
      for await (const [key, value] of this.#tx.iterator(this.#scene.range)) {
        found.set(this.#scene.nameOf(key as string), Number(value));
      }
      const names = this.#scene.namesInRange;
      this.ops.push(['s', names.map((name) => [NAMES.indexOf(name), found.get(name) ?? 0])]);
      const text = names.filter((name) => found.has(name)).map((name) => `${name}=${found.get(name)}`);
      this.scans.push(text.join(' '));
      return text.join(' ');
    });
  }

  async commit(): Promise<boolean> {
    await this.#step(async () => {
      await this.#tx.commit();
      this.outcome = 'committed';
      this.finish = ++this.#scene.clock;
    });
    return this.isCommitted;
  }

  rollback(): Promise<unknown> {
    return this.#step(async () => {
      await this.#tx.rollback();
      this.outcome = 'rolled back';
      this.finish = ++this.#scene.clock;
    });
  }

  get isCommitted(): boolean {
    return this.outcome === 'committed';
  }
}
