/**
 * A shard store with transactions that are prepared in it and decided elsewhere, a model beside it, and the judge of what a crash has left.
 *
 *   history   one entry per group: its last number, the state after it, what is prepared after it. Listed before its commit begins.
 *   synced    index of the last group that was durable when a call returned
 *   decided   what the coordinator has decided, and not forgotten: its log is another one, and durable at once
 *
 * A crash must leave the state and the prepared transactions of one group, `synced` or later; and when all of them are resolved as decided, each transaction
 * that was committed is there whole, and no other. Everything follows from the seed.
 */
import { Durability } from '../../../dist/engines/store/shard-store.js';
import type { ShardStoreOptions } from '../../../dist/engines/store/options.js';
import type { DurabilityLevel, ShardStore } from '../../../dist/engines/store/shard-store.js';
import type { SpaceDefinition } from '../../../dist/engines/store/space.js';
import type { RecoveryReport } from '../../../dist/engines/store/recovery.js';
import { BODY_HEADER_BYTES, TransactionBodyWriter } from '../../../dist/engines/txn/body.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import type { Env } from '../../../dist/shared/env/env.js';
import type { MemEnv, MemEnvOptions } from '../../../dist/shared/env/mem-env.js';
import type { Random } from '../../../dist/shared/random.js';
import { coldLayout } from '../../../dist/engines/btree/paged/paging.js';
import { createArena } from '../../../dist/shared/memory/arena.js';
import type { ArenaLayout } from '../../../dist/shared/memory/arena.js';
import { TINY } from '../../engines/lsm/store/scene.js';
import {
  DIRECTORY,
  SHARD,
  STORE_ID,
  checkpoint,
  fingerprint,
  openStore,
  stateText,
  writeCheckpoint,
} from '../../support/store-scene.js';
import type { State } from '../../support/store-scene.js';
import type { CheckpointPlan } from '../../../dist/engines/store/shard-store.js';

export const ENGINES = ['btree', 'hash', 'rbtree', 'array', 'memtable', 'lsm', 'paged'] as const;
const FAR_MS = 2 ** 42;

export interface Write {
  readonly space: 0 | 2;
  readonly key: string;
  /** Undefined: a delete. */
  readonly value: Uint8Array | undefined;
  readonly expiresAt?: number;
}

/** Two spaces: the first in the engine, the second in a B+Tree. */
export function spacesOf(engine: string): readonly SpaceDefinition[] {
  const second = { id: 2, engine: 'btree', tuning: {} };
  if (engine === 'paged') return [{ id: 0, engine: 'btree', tuning: { budgetBytes: 16 << 10, order: 4 } }, second];
  if (engine === 'lsm') return [{ id: 0, engine: 'lsm', tuning: { lsm: TINY } }, second];
  return [{ id: 0, engine, tuning: {} }, second];
}

/** With names for files that a successor goes on with. */
export function newArena(memoryBytes = 4 << 20): ArenaLayout {
  return { ...createArena({ memoryBytes }), cold: coldLayout(DIRECTORY, STORE_ID, SHARD, undefined) };
}

const bodies = new TransactionBodyWriter();

/** Their records, joined. */
export function recordsOf(writes: readonly Write[]): Buffer {
  bodies.begin(0, false, 0, 0, 0, 0, 0, 0);
  for (const { space, key, value, expiresAt = 0 } of writes) {
    const bytes = Buffer.from(key);
    if (value === undefined) bodies.addDel(space, bytes, bytes.length);
    else bodies.addPut(space, bytes, bytes.length, value, value.length, expiresAt);
  }
  const { bytes, length } = bodies.seal();
  const records = Buffer.from(new ArrayBuffer(length - BODY_HEADER_BYTES));
  records.set(bytes.subarray(BODY_HEADER_BYTES, length));
  return records;
}

export function appendWrites(store: ShardStore, writes: readonly Write[]): void {
  for (const write of writes) {
    const bytes = recordsOf([write]);
    store.append(bytes, new Int32Array(bytes.buffer), 0, bytes.length);
  }
}

export function appendPrepare(store: ShardStore, id: number, writes: readonly Write[]): void {
  const bytes = recordsOf(writes);
  store.appendPrepare({ id, maskLow: 3, maskHigh: 0, client: 0 }, bytes, 0, bytes.length);
}

export function commitGroup(
  store: ShardStore,
  level: DurabilityLevel,
  firstSeq: number,
  snapshots: readonly number[] = [],
): void {
  store.commit(level, firstSeq, () => {
    store.setSnapshots(Float64Array.from(snapshots), snapshots.length);
  });
}

/** Key (with its space) → fingerprint of its value. */
export function readAll(store: ShardStore, atSeq = Infinity): State {
  const state = new Map<string, string>();
  for (const space of store.spaces.all) {
    const cursor = store.spaces.cursorOf(space);
    cursor.setRange(undefined, undefined);
    cursor.seek(store.arena.published(), undefined, 0, atSeq, false, 1);
    for (; cursor.valid; cursor.next()) {
      const key = Buffer.alloc(cursor.keyLength);
      cursor.copyKey(key, 0);
      state.set(`${space.id}/${key.toString()}`, fingerprint(cursor.copyValue()));
    }
    cursor.release();
  }
  return state;
}

export function written(state: State, writes: readonly Write[]): State {
  const next = new Map(state);
  for (const { space, key, value } of writes) {
    if (value === undefined) next.delete(`${space}/${key}`);
    else next.set(`${space}/${key}`, fingerprint(value));
  }
  return next;
}

export interface Entry {
  readonly lastSeq: number;
  readonly state: State;
  readonly prepared: ReadonlyMap<number, readonly Write[]>;
  /** Committed transactions that are applied. */
  readonly applied: ReadonlySet<number>;
}

export const NOTHING: Entry = { lastSeq: 0, state: new Map(), prepared: new Map(), applied: new Set() };

export interface Knowledge {
  readonly history: readonly Entry[];
  readonly synced: number;
  readonly engine: string;
  /** Committed, and not forgotten. */
  readonly decided: ReadonlySet<number>;
  /** Committed, and forgotten again. */
  readonly forgotten: ReadonlySet<number>;
  /** Numbers that were taken: whatever a recovery shows, new ones are higher. */
  readonly nextSeq: number;
}

export type Verdict =
  { readonly problem: string } | { readonly problem: undefined; readonly store: ShardStore; readonly index: number };

/** Recovers the disk and compares it with what is known; does not resolve anything. */
export function judge(disk: Env, known: Knowledge, options: Partial<ShardStoreOptions> = {}): Verdict {
  let store;
  try {
    store = openStore(disk, { spaces: spacesOf(known.engine), arena: newArena(), ...options });
  } catch (error) {
    if (error instanceof ConcordError) return { problem: `open fails with ${error.code}: ${error.message}` };
    throw error;
  }
  const { history, synced, decided, forgotten } = known;
  const index = history.findLastIndex((entry) => entry.lastSeq === store.publishedSeq);
  if (index < 0) return { problem: `published ${store.publishedSeq}, which is the end of no group` };
  if (index < synced) return { problem: `lost what was synced: group ${synced} was durable, recovered up to ${index}` };
  const entry = history[index]!;
  const problem =
    differs('state', stateText(readAll(store)), stateText(entry.state)) ??
    differs(
      'prepared',
      idsText(store.prepared.all, (one) => one.id),
      idsText(entry.prepared.keys(), (id) => id),
    ) ??
    differs(
      'report',
      idsText(store.recovery.prepared, (id) => id),
      idsText(entry.prepared.keys(), (id) => id),
    );
  if (problem !== undefined) return { problem: `after group ${index}: ${problem}` };
  for (const [id, writes] of entry.prepared) {
    if (!store.prepared.get(id)!.writes.equals(recordsOf(writes))) return { problem: `other writes of ${id}` };
    if (forgotten.has(id)) return { problem: `transaction ${id} is prepared, and its decision is forgotten` };
  }
  for (const id of [...decided, ...forgotten]) {
    if (!entry.prepared.has(id) && !entry.applied.has(id))
      return { problem: `transaction ${id} is committed, and nothing is known of it` };
  }
  for (const { id, engine } of store.spaces.all) {
    const problems = engine.check();
    if (problems.length > 0) return { problem: `check of space ${id}: ${problems.join('; ')}` };
  }
  return { problem: undefined, store, index };
}

/** After a good verdict: resolves what is prepared as decided, in one group. Returns what is wrong then. */
export function settle(disk: Env, store: ShardStore, index: number, known: Knowledge): string | undefined {
  const entry = known.history[index]!;
  let { state } = entry;
  let next = known.nextSeq;
  store.beginGroup();
  for (const [id, writes] of entry.prepared) {
    const isCommitted = known.decided.has(id);
    if (!store.addResolve(id, isCommitted ? next++ : 0)) return `transaction ${id} is not prepared`;
    if (isCommitted) state = written(state, writes);
  }
  if (store.groupControls === 0) store.discardGroup();
  else commitGroup(store, Durability.Os, next);
  const problem = differs('state', stateText(readAll(store)), stateText(state));
  if (problem !== undefined) return `when all is resolved: ${problem}`;
  const settled: Knowledge = {
    ...known,
    history: [
      {
        lastSeq: store.publishedSeq,
        state,
        prepared: new Map(),
        applied: new Set([...known.decided, ...known.forgotten]),
      },
    ],
    synced: 0,
  };
  const again = judge(disk, settled);
  return again.problem === undefined ? undefined : `opened again when all was resolved: ${again.problem}`;
}

function differs(what: string, found: string, expected: string): string | undefined {
  return found === expected ? undefined : `${what} is\n${found}\ninstead of\n${expected}`;
}

function idsText<T>(ids: Iterable<T>, idOf: (one: T) => number): string {
  return Array.from(ids, idOf)
    .sort((a, b) => a - b)
    .join(' ');
}

export interface WorkloadOptions {
  readonly engine: string;
  /** Level at which transactions are prepared before they are decided. Default: sync. */
  readonly prepareLevel?: DurabilityLevel;
  /** Decisions are forgotten as soon as they are applied. Default: when the store lets them go. */
  readonly forgetsEarly?: boolean;
  /** Of the disks that follow the first. */
  readonly disk?: MemEnvOptions;
}

const KEYS = 40;
const LEVELS: readonly DurabilityLevel[] = [Durability.Memory, Durability.Os, Durability.Os, Durability.Sync];

export class TxnWorkload implements Knowledge {
  store: ShardStore;
  history: Entry[];
  synced: number;
  readonly engine: string;
  readonly decided: Set<number>;
  readonly forgotten: Set<number>;
  nextSeq: number;
  readonly counts = { prepared: 0, committed: 0, aborted: 0, restarts: 0, checkpoints: 0, forgotten: 0 };
  env: MemEnv;
  readonly #random: Random;
  readonly #options: WorkloadOptions;
  /** Decided and not applied: their numbers. */
  readonly #due = new Map<number, number>();
  /** Applied, their numbers; the decision is still kept. */
  readonly #kept = new Map<number, number>();
  #snapshots: { readonly seq: number; readonly state: State }[] = [];
  #checkpoint: CheckpointPlan | undefined;

  constructor(env: MemEnv, store: ShardStore, random: Random, options: WorkloadOptions, known?: Knowledge) {
    this.env = env;
    this.#random = random;
    this.#options = options;
    this.store = store;
    this.engine = options.engine;
    this.history = [...(known?.history ?? [NOTHING])];
    this.synced = known?.synced ?? 0;
    this.decided = new Set(known?.decided);
    this.forgotten = new Set(known?.forgotten);
    this.nextSeq = known?.nextSeq ?? store.publishedSeq + 1;
    this.#redecide();
  }

  get #last(): Entry {
    return this.history.at(-1)!;
  }

  /** A new life: what is decided and prepared goes onto the board with new numbers. */
  #redecide(): void {
    this.#due.clear();
    this.#kept.clear();
    for (const id of this.#last.prepared.keys()) if (this.decided.has(id)) this.#due.set(id, this.nextSeq++);
    // The others of the decided are applied; nobody knows how safely.
    for (const id of this.decided) if (this.#last.applied.has(id)) this.#kept.set(id, this.#last.lastSeq);
  }

  step(): void {
    const dice = this.#random.below(100);
    if (dice < 58) this.group();
    else if (dice < 70) this.#decide();
    else if (dice < 75) this.#forget();
    else if (dice < 78) this.sync();
    else if (dice < 80) this.store.writeOut();
    else if (dice < 86) this.#work();
    else if (dice < 91) this.#checkpointStep();
    else if (dice < 95) this.#snapshotStep();
    else this.#restart();
  }

  sync(): void {
    this.store.sync();
    this.synced = this.history.length - 1;
  }

  #locked(): Set<string> {
    const locked = new Set<string>();
    for (const writes of this.#last.prepared.values())
      for (const { space, key } of writes) locked.add(`${space}/${key}`);
    return locked;
  }

  #someWrites(count: number, locked: Set<string>): Write[] {
    const random = this.#random;
    const writes: Write[] = [];
    for (let i = 0; i < count; i++) {
      const space = random.below(3) === 0 ? 2 : 0;
      const key = `key-${String(random.below(KEYS)).padStart(3, '0')}`;
      if (locked.has(`${space}/${key}`)) continue;
      locked.add(`${space}/${key}`);
      if (random.below(10) < 3) writes.push({ space, key, value: undefined });
      else {
        const bytes = random.pick([0, random.below(30), random.below(200), 500 + random.below(1500), 5000]);
        // Few times, so that entries of one transaction have the same.
        const expiresAt = random.below(3) === 0 ? FAR_MS + random.below(2) : 0;
        writes.push({ space, key, value: random.bytes(bytes), expiresAt });
      }
    }
    return writes;
  }

  /** What is due, a few operations, perhaps some to be prepared or given up. */
  group(): void {
    const { store } = this;
    const random = this.#random;
    if (random.below(4) === 0) this.nextSeq += random.below(5);
    let level = random.pick(LEVELS);
    const locked = this.#locked();
    const prepared = new Map(this.#last.prepared);
    const applied = new Set(this.#last.applied);
    let { state } = this.#last;
    store.beginGroup();
    // Undecided ones may be given up.
    for (const id of this.#last.prepared.keys()) {
      if (this.decided.has(id) || random.below(6) > 0) continue;
      store.addResolve(id, 0);
      prepared.delete(id);
      this.counts.aborted++;
    }
    const ordinary = this.#someWrites(random.pick([0, 0, 1, 2, 5, 12]), locked);
    appendWrites(store, ordinary);
    for (let count = random.pick([0, 0, 1, 1, 2]); count > 0; count--) {
      const writes = this.#someWrites(random.pick([1, 2, 3, 10]), locked);
      if (writes.length === 0) continue;
      const id = this.nextSeq++;
      appendPrepare(store, id, writes);
      prepared.set(id, writes);
      this.counts.prepared++;
      level = Math.max(level, this.#options.prepareLevel ?? Durability.Sync) as DurabilityLevel;
    }
    const firstSeq = this.nextSeq;
    const resolved: number[] = [];
    let lowest = firstSeq;
    for (const [id, number] of this.#due) {
      if (number >= firstSeq) throw new Error('a number is out of order');
      if (!store.addResolve(id, number)) throw new Error(`transaction ${id} is not prepared`);
      lowest = Math.min(lowest, number);
      state = written(state, prepared.get(id)!);
      prepared.delete(id);
      applied.add(id);
      resolved.push(id);
    }
    if (store.lowestNumber(firstSeq) !== lowest) throw new Error('the lowest number is another');
    if (store.groupRecords !== ordinary.length) throw new Error(`${store.groupRecords} records in the group`);
    if (store.groupRecords === 0 && store.groupControls === 0) {
      store.discardGroup();
      return;
    }
    const span = store.groupSpan;
    this.nextSeq += span;
    state = written(state, ordinary);
    this.history.push({ lastSeq: firstSeq + span - 1, state, prepared, applied });
    commitGroup(
      store,
      level,
      firstSeq,
      this.#snapshots.map(({ seq }) => seq),
    );
    for (const id of resolved) {
      this.#kept.set(id, this.#due.get(id)!);
      this.#due.delete(id);
      this.counts.committed++;
    }
    if (this.#options.forgetsEarly === true) for (const id of resolved) this.#forgetOne(id);
    if (level === Durability.Sync) this.synced = this.history.length - 1;
  }

  /** Memory shows what it must, at snapshots too. */
  verify(): string | undefined {
    const { store } = this;
    for (const { seq, state } of this.#snapshots) {
      const problem = differs(`snapshot ${seq}`, stateText(readAll(store, seq)), stateText(state));
      if (problem !== undefined) return problem;
    }
    return differs('state', stateText(readAll(store)), stateText(this.#last.state));
  }

  #decide(): void {
    for (const id of this.#last.prepared.keys()) {
      if (this.decided.has(id) || this.#random.below(2) === 0) continue;
      this.decided.add(id);
      this.#due.set(id, this.nextSeq++);
    }
  }

  #forget(): void {
    const limit = this.store.decisionsNeededFrom;
    for (const [id, number] of this.#kept) if (number < limit) this.#forgetOne(id);
  }

  #forgetOne(id: number): void {
    this.#kept.delete(id);
    this.decided.delete(id);
    this.forgotten.add(id);
    this.counts.forgotten++;
  }

  #work(): void {
    const { store } = this;
    const snapshots = this.#snapshots.map(({ seq }) => seq);
    store.setSnapshots(Float64Array.from(snapshots), snapshots.length);
    for (let round = 0; round < 4; round++) store.work(this.env.now());
  }

  #checkpointStep(): void {
    if (this.#checkpoint === undefined) {
      this.#checkpoint = this.store.beginCheckpoint();
      this.synced = this.history.length - 1;
      return;
    }
    const plan = this.#checkpoint;
    const isFinished = this.#random.below(8) > 0;
    if (isFinished) writeCheckpoint(this.env, this.store, plan);
    this.#checkpoint = undefined;
    this.store.endCheckpoint(isFinished);
    this.counts.checkpoints++;
  }

  /** A whole one, if none is under way. */
  checkpoint(): void {
    if (this.#checkpoint !== undefined) return;
    checkpoint(this.env, this.store);
    this.synced = this.history.length - 1;
    this.counts.checkpoints++;
  }

  #snapshotStep(): void {
    if (this.#snapshots.length < 3) this.#snapshots.push({ seq: this.store.publishedSeq, state: this.#last.state });
    else this.#snapshots.splice(this.#random.below(3), 1);
  }

  /** In order, or a process that was killed with the page cache alive, or a thread that died. */
  #restart(): void {
    this.counts.restarts++;
    const dice = this.#random.below(3);
    if (dice === 0) {
      this.store.close();
      this.synced = this.history.length - 1;
    }
    let options: Partial<ShardStoreOptions> = {};
    if (dice === 2) {
      // Groups of the memory level whose frames die with their thread are in memory, and in no log until the next checkpoint: not what this is about.
      this.store.writeOut();
      const sequences = Float64Array.from(this.#snapshots.map(({ seq }) => seq)).sort();
      options = { adopt: true, arena: this.store.arena.layout, snapshots: { sequences, count: sequences.length } };
      // What is published is in memory, whatever the log has of it.
      this.synced = Math.max(this.synced, this.history.length - 1);
    } else this.#snapshots = [];
    // Whoever was there before is no more, and has nothing open.
    this.env = this.env.crash(this.#random, 'keep-all', this.#options.disk);
    const verdict = judge(this.env, this, options);
    if (verdict.problem !== undefined) throw new Error(`restart ${dice}: ${verdict.problem}`);
    this.store = verdict.store;
    this.history.length = verdict.index + 1;
    if (dice !== 2) this.synced = verdict.index;
    this.nextSeq = Math.max(this.nextSeq, this.store.publishedSeq + 1);
    this.#checkpoint = undefined;
    const report: RecoveryReport = this.store.recovery;
    if (report.abandoned.length > 0) throw new Error('nothing was lost, and something was given up');
    if (dice !== 2) this.#redecide();
    else {
      // The board has outlived the thread.
      const problem = this.verify();
      if (problem !== undefined) throw new Error(`adopted: ${problem}`);
    }
  }
}
