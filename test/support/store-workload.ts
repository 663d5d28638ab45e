/**
 * A seeded workload on a shard store, and the judge of what a power loss in the middle of it left.
 *
 *   history   one entry per group: its last sequence number and the state after it. A group is listed before its commit begins.
 *   synced    index of the last group that was durable when a call returned
 *
 * After a crash the recovered store must show exactly the state of one entry, at `synced` or later. The sequence number it published says
 * which. Everything follows from the seed.
 */
import { preallocateSegment } from '../../dist/engines/wal/preallocate.js';
import { Durability, newTableSweep } from '../../dist/engines/store/shard-store.js';
import type { CheckpointPlan, DurabilityLevel, ShardStore } from '../../dist/engines/store/shard-store.js';
import { ConcordError } from '../../dist/shared/errors.js';
import type { MemEnv } from '../../dist/shared/env/mem-env.js';
import type { Random } from '../../dist/shared/random.js';
import {
  DIRECTORY,
  SEGMENT_BYTES,
  applied,
  batchBytes,
  buildGroup,
  openStore,
  readState,
  stateText,
  writeCheckpoint,
} from './store-scene.js';
import type { SpaceDefinition } from '../../dist/engines/store/space.js';
import type { Operation, State } from './store-scene.js';

export interface HistoryEntry {
  readonly lastSeq: number;
  readonly state: State;
}

export interface Knowledge {
  readonly history: readonly HistoryEntry[];
  readonly synced: number;
  /** Of the only space, as the manifest has it. Default 'btree'. */
  readonly engine?: string;
}

export const EMPTY_HISTORY: readonly HistoryEntry[] = [{ lastSeq: 0, state: new Map() }];

export type Verdict =
  { readonly problem: string } | { readonly problem: undefined; readonly store: ShardStore; readonly index: number };

/** Recovers the disk and compares it with what is known. */
export function judge(disk: MemEnv, known: Knowledge, open: (disk: MemEnv) => ShardStore = opener(known)): Verdict {
  let store;
  try {
    store = open(disk);
  } catch (error) {
    if (error instanceof ConcordError) return { problem: `open fails with ${error.code}: ${error.message}` };
    throw error;
  }
  const { history, synced } = known;
  const index = history.findLastIndex((entry) => entry.lastSeq === store.publishedSeq);
  if (index < 0) return { problem: `published ${store.publishedSeq}, which is the end of no group` };
  if (index < synced) {
    return { problem: `lost what was synced: group ${synced} was durable, recovered up to ${index}` };
  }
  const found = stateText(readState(store));
  const expected = stateText(history[index]!.state);
  if (found !== expected) return { problem: `after group ${index} there is\n${found}\ninstead of\n${expected}` };
  const problems = store.tree.check();
  if (problems.length > 0) return { problem: `check: ${problems.join('; ')}` };
  const { liveEntries } = store.tree.counts();
  if (liveEntries !== history[index]!.state.size) return { problem: `counts ${liveEntries} entries` };
  return { problem: undefined, store, index };
}

/** 'paged': a B+Tree that keeps most of its pages in a file. */
export function spacesOf(engine = 'btree'): readonly SpaceDefinition[] {
  if (engine === 'paged') return [{ id: 0, engine: 'btree', tuning: { budgetBytes: 16 << 10, order: 4 } }];
  return [{ id: 0, engine, tuning: {} }];
}

function opener({ engine }: Knowledge): (disk: MemEnv) => ShardStore {
  return (disk) => openStore(disk, { spaces: spacesOf(engine) });
}

interface BlobOnItsWay {
  readonly client: number;
  readonly blob: number;
  readonly bytes: Buffer;
  /** Of a batch. */
  readonly operations: readonly Operation[] | undefined;
  offset: number;
}

const KEYS = 48;
const CLIENTS = 3;
const CHUNK_BYTES = 5000;
const LEVELS: readonly DurabilityLevel[] = [Durability.Memory, Durability.Os, Durability.Os, Durability.Sync];

export class Workload {
  store: ShardStore;
  history: HistoryEntry[];
  synced: number;
  engine: string;
  /** Engines the space is moved to, in turn. */
  readonly #engines: readonly string[];
  readonly #env: MemEnv;
  readonly #random: Random;
  readonly #blobs = new Map<number, BlobOnItsWay>();
  #blobNumber: number;
  #nextSeq: number;
  #checkpoint: CheckpointPlan | undefined;
  #snapshots: number[] = [];

  constructor(
    env: MemEnv,
    store: ShardStore,
    random: Random,
    known: Knowledge = { history: EMPTY_HISTORY, synced: 0 },
    engines: readonly string[] = [],
  ) {
    this.engine = known.engine ?? 'btree';
    this.#engines = engines;
    this.#env = env;
    this.#random = random;
    this.store = store;
    this.history = [...known.history];
    this.synced = known.synced;
    this.#blobNumber = known.history.length;
    this.#nextSeq = store.publishedSeq + 1;
  }

  get #state(): State {
    return this.history.at(-1)!.state;
  }

  /** Does something. */
  step(): void {
    if (this.#engines.length > 0 && this.#random.below(100) < 25) {
      this.#switchStep();
      return;
    }
    const dice = this.#random.below(100);
    if (dice < 50) this.#group(this.#someOperations(this.#random.pick([1, 2, 3, 5, 8, 20])));
    else if (dice < 66) this.#blobStep();
    else if (dice < 70) this.#group([this.#someClear()]);
    else if (dice < 74) this.sync();
    else if (dice < 77) this.store.writeOut();
    else if (dice < 85) this.#checkpointStep();
    else if (dice < 89) {
      this.store.log.offerSpare(preallocateSegment(this.#env, DIRECTORY, SEGMENT_BYTES));
    } else if (dice < 92) this.#snapshotStep();
    else if (dice < 94) this.store.sweep(newTableSweep(), 4);
    else if (dice < 96) this.#dropBlob();
    else this.#restart();
  }

  sync(): void {
    this.store.sync();
    this.synced = this.history.length - 1;
  }

  #someKey(): string {
    return `key-${String(this.#random.below(KEYS)).padStart(3, '0')}`;
  }

  #someValue(): Uint8Array {
    const { below } = { below: (bound: number) => this.#random.below(bound) };
    const bytes = this.#random.pick([0, below(20), below(120), below(120), 400 + below(1500), 3000 + below(6000)]);
    return this.#random.bytes(bytes);
  }

  #someOperations(count: number): Operation[] {
    return Array.from({ length: count }, () =>
      this.#random.below(10) < 7
        ? { kind: 'put', key: this.#someKey(), value: this.#someValue() }
        : { kind: 'del', key: this.#someKey() },
    );
  }

  #someClear(): Operation {
    const [low, high] = [this.#someKey(), this.#someKey()].sort();
    const shape = this.#random.below(8);
    return { kind: 'clear', low: shape === 0 ? undefined : low, high: shape === 1 ? undefined : high };
  }

  #group(operations: readonly Operation[]): void {
    const random = this.#random;
    const level = random.pick(LEVELS);
    // Numbers that other shards took.
    if (random.below(4) === 0) this.#nextSeq += random.below(5);
    const span = buildGroup(this.store, operations);
    const firstSeq = this.#nextSeq;
    this.#nextSeq += span;
    this.history.push({ lastSeq: firstSeq + span - 1, state: applied(this.#state, operations) });
    this.store.commit(level, firstSeq, () => {
      this.store.setSnapshots(Float64Array.from(this.#snapshots), this.#snapshots.length);
    });
    if (level === Durability.Sync) this.synced = this.history.length - 1;
  }

  /** Begins a blob, sends a piece of it, or ends it. Several are on their way at a time. */
  #blobStep(): void {
    const random = this.#random;
    const client = random.below(CLIENTS);
    const blob = this.#blobs.get(client);
    if (blob === undefined) {
      const operations = random.below(2) === 0 ? this.#someOperations(random.between(1, 30)) : undefined;
      const bytes =
        operations === undefined ? Buffer.from(random.bytes(random.between(1, 30_000))) : batchBytes(operations);
      this.#blobs.set(client, { client, blob: ++this.#blobNumber, bytes, operations, offset: 0 });
      return;
    }
    const { bytes, operations } = blob;
    if (blob.offset < bytes.length) {
      const group: Operation[] = [];
      for (let pieces = random.between(1, 3); pieces > 0 && blob.offset < bytes.length; pieces--) {
        const { offset } = blob;
        const piece = bytes.subarray(offset, offset + CHUNK_BYTES);
        const name = { client, blob: blob.blob, ofBatch: operations !== undefined };
        group.push({ kind: 'chunk', ...name, offset, totalBytes: bytes.length, bytes: piece });
        blob.offset += piece.length;
      }
      this.#group([...this.#someOperations(random.below(2)), ...group]);
      return;
    }
    this.#blobs.delete(client);
    const name = { client, blob: blob.blob };
    const last: Operation =
      operations === undefined
        ? { kind: 'putBlob', ...name, key: this.#someKey(), value: bytes }
        : { kind: 'applyBatch', ...name, totalBytes: bytes.length, operations };
    this.#group([last, ...this.#someOperations(random.below(3))]);
  }

  /** A client gives up, or its thread dies. */
  #dropBlob(): void {
    const client = this.#random.below(CLIENTS);
    this.#blobs.delete(client);
    this.store.dropBlob(client);
  }

  #checkpointStep(): void {
    if (this.#checkpoint === undefined) {
      this.#checkpoint = this.store.beginCheckpoint();
      this.synced = this.history.length - 1;
      return;
    }
    const plan = this.#checkpoint;
    const isFinished = this.#random.below(8) > 0;
    if (isFinished) writeCheckpoint(this.#env, this.store, plan);
    this.#checkpoint = undefined;
    this.store.endCheckpoint(isFinished);
  }

  /** Decides on another engine, or goes on with the move. */
  #switchStep(): void {
    const { spaces } = this.store;
    const space = spaces.require(0);
    if (space.building !== undefined) {
      this.store.switchSlice(space, this.#random.between(1, 40));
      return;
    }
    this.engine = this.#random.pick(this.#engines);
    spaces.beginSwitch(spacesOf(this.engine)[0]!);
  }

  #snapshotStep(): void {
    if (this.#snapshots.length < 3) this.#snapshots.push(this.store.publishedSeq);
    else this.#snapshots.splice(this.#random.below(3), 1);
  }

  /** In order, or a process that was killed with the page cache alive. */
  #restart(): void {
    if (this.#random.below(2) === 0) {
      this.store.close();
      this.synced = this.history.length - 1;
    }
    const verdict = judge(this.#env, this);
    if (verdict.problem !== undefined) throw new Error(`restart: ${verdict.problem}`);
    this.store = verdict.store;
    for (const { definition } of this.store.spaces.unfinishedSwitches) this.store.spaces.beginSwitch(definition);
    this.history.length = verdict.index + 1;
    // The recovery made durable what it showed.
    this.synced = verdict.index;
    this.#nextSeq = this.store.publishedSeq + 1;
    this.#checkpoint = undefined;
    this.#blobs.clear();
    this.#snapshots = [];
  }
}
