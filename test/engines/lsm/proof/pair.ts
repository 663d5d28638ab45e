/**
 * One shard with two spaces that are told the same things in the same groups: one in a B+Tree, one in an LSM-Tree. Whatever happens to the shard, both must
 * answer alike: no model is needed that could be wrong in the same way.
 *
 * The records of an operation stand side by side, so that the tree's number of an entry is the B+Tree's and one.
 */
import { coldLayout } from '../../../../dist/engines/btree/paged/paging.js';
import { engineNamed, type EngineCursor, type EngineReader } from '../../../../dist/engines/engine.js';
import { InlineJobs } from '../../../../dist/engines/lsm/inline-jobs.js';
import type { LsmTuning } from '../../../../dist/engines/lsm/options.js';
import { LsmFiles } from '../../../../dist/engines/lsm/read/files.js';
import type { LsmWriter } from '../../../../dist/engines/lsm/writer.js';
import {
  BLOB_REFERENCE_BYTES,
  CHUNK_OF_BATCH,
  OPERATION_EXTENDED,
  OPERATION_EXTENSION_BYTES,
  OPERATION_HEADER_BYTES,
  OperationKind,
  operationBytes,
  writeBlobReference,
  writeOperationExtension,
  writeOperationHeader,
} from '../../../../dist/engines/operation.js';
import { Durability, ShardStore, type DurabilityLevel } from '../../../../dist/engines/store/shard-store.js';
import { FaultEnv } from '../../../../dist/shared/env/fault-env.js';
import { MemEnv, type CrashPolicy, type MemEnvOptions } from '../../../../dist/shared/env/mem-env.js';
import { createPageCache } from '../../../../dist/shared/memory/page-cache.js';
import { ArenaReader, createArena, type ArenaLayout } from '../../../../dist/shared/memory/arena.js';
import type { Random } from '../../../../dist/shared/random.js';
import { DIRECTORY, SEGMENT_BYTES, SHARD, STORE_ID, checkpoint } from '../../../support/store-scene.js';

export type Change =
  | { readonly kind: 'put'; readonly key: string; readonly value: string; readonly expiresAt: number }
  | { readonly kind: 'del'; readonly key: string }
  | { readonly kind: 'clear'; readonly low: string | undefined; readonly high: string | undefined };

export interface PairSnapshot {
  readonly seq: number;
  readonly atMs: number;
}

interface Side {
  readonly reader: EngineReader;
  readonly cursor: EngineCursor;
}

const PLAIN = 0;
const TREE = 7;
const SPACES = [PLAIN, TREE];
export const START_MS = 1_000_000;
const READER_SLOT = 1;
const CACHE_OWNER = 7;
const CHUNK_BYTES = 20_000;
const EXPIRED_AT_ONCE = 40;

export class Pair {
  mem: MemEnv;
  env: FaultEnv;
  layout: ArenaLayout;
  store!: ShardStore;
  jobs!: InlineJobs;
  snapshots: PairSnapshot[] = [];
  nowMs = START_MS;
  /** Everything up to this number survives a power loss. */
  syncedSeq = 0;
  /** Numbers of blobs on their way, given out once. */
  #blobs = 0;
  #view!: ArenaReader;
  #sides!: readonly [Side, Side];
  readonly #tuning: LsmTuning;
  readonly #parallelism: number;

  constructor(tuning: LsmTuning, seed: number, parallelism: number, memOptions: MemEnvOptions = {}) {
    this.#tuning = tuning;
    this.#parallelism = parallelism;
    this.mem = new MemEnv({ seed, ...memOptions });
    this.env = new FaultEnv(this.mem);
    this.layout = newLayout();
    this.#open({ isNew: true });
    this.mem.syncDirectory('/data');
    this.mem.syncDirectory('/');
  }

  get tree(): LsmWriter {
    return this.store.spaces.require(TREE).engine as LsmWriter;
  }

  #open(how: { isNew?: boolean; adopt?: boolean } = {}): void {
    this.jobs = new InlineJobs(this.env, this.layout, this.#parallelism);
    const sequences = this.#sequences();
    this.store = ShardStore.open({
      env: this.env,
      directory: DIRECTORY,
      storeId: STORE_ID,
      shard: SHARD,
      arena: this.layout,
      segmentBytes: SEGMENT_BYTES,
      spaces: [
        { id: PLAIN, engine: 'btree', tuning: {} },
        { id: TREE, engine: 'lsm', tuning: { lsm: this.#tuning } },
      ],
      jobs: this.jobs,
      snapshots: { sequences, count: sequences.length },
      ...how,
    });
    this.#view = new ArenaReader(this.layout);
    LsmFiles.attach(this.#view, this.env, this.layout.cold!, CACHE_OWNER);
    const sideOf = (id: number): Side => {
      const { row } = this.store.spaces.require(id).engine;
      const engine = engineNamed(id === PLAIN ? 'btree' : 'lsm');
      return {
        reader: engine.openReader(this.#view, row, id, READER_SLOT),
        cursor: engine.openCursor(this.#view, row, id, READER_SLOT),
      };
    };
    this.#sides = [sideOf(PLAIN), sideOf(TREE)];
  }

  #sequences(): Float64Array<ArrayBuffer> {
    return Float64Array.from(this.snapshots.map(({ seq }) => seq)).sort();
  }

  #setSnapshots(): void {
    const sequences = this.#sequences();
    this.store.setSnapshots(sequences, sequences.length);
  }

  // ---- writes -----------------------------------------------------------------------------------------------------------------------

  /** One group, the same in both spaces. */
  commit(changes: readonly Change[], level: DurabilityLevel = Durability.Os): void {
    this.#group(changes.flatMap(recordsOf), level);
  }

  /** The same as one batch that comes in chunks. */
  commitBatch(changes: readonly Change[], level: DurabilityLevel = Durability.Os): void {
    const records = changes.filter(({ kind }) => kind !== 'clear').flatMap(recordsOf);
    if (records.length === 0) return;
    const bytes = Buffer.concat(records);
    const blob = this.#send(3, bytes, true);
    const name = reference(3, blob, bytes.length, records.length);
    this.#group([record(OperationKind.ApplyBatch, 0, 0, 0, Buffer.alloc(0), name)], level);
  }

  /** A value that comes in chunks, to each space from a client of its own. */
  commitLarge(key: string, value: Buffer, expiresAt: number, level: DurabilityLevel = Durability.Os): void {
    const last = SPACES.map((space, client) => {
      const blob = this.#send(client, value, false);
      const name = reference(client, blob, value.length, 0);
      return record(OperationKind.PutBlob, 0, space, expiresAt, Buffer.from(key), name);
    });
    this.#group(last, level);
  }

  #send(client: number, bytes: Buffer, ofBatch: boolean): number {
    const blob = ++this.#blobs;
    for (let offset = 0; offset < bytes.length; offset += CHUNK_BYTES) {
      const name = reference(client, blob, offset, offset === 0 ? bytes.length : 0);
      const piece = bytes.subarray(offset, offset + CHUNK_BYTES);
      const flags = ofBatch ? CHUNK_OF_BATCH : 0;
      this.#group([record(OperationKind.Chunk, flags, undefined, 0, name, piece)], Durability.Os);
    }
    return blob;
  }

  #group(records: readonly Buffer[], level: DurabilityLevel): void {
    const { store } = this;
    store.beginGroup();
    for (const bytes of records) store.append(bytes, new Int32Array(bytes.buffer), 0, bytes.length);
    store.commit(level, store.publishedSeq + 1, () => {
      this.#setSnapshots();
    });
    if (level === Durability.Sync) this.syncedSeq = store.publishedSeq;
  }

  /** The B+Tree's entries whose time has come are deleted, as a shard does it; the tree's go with a merge. */
  expire(): void {
    const { store } = this;
    const expired = store.collectExpired(this.nowMs, EXPIRED_AT_ONCE);
    if (expired.length === 0) return;
    store.beginGroup();
    for (const { spaceId, key } of expired) store.appendDelete(spaceId, key);
    store.commit(Durability.Os, store.publishedSeq + 1, () => {
      this.#setSnapshots();
    });
  }

  // ---- what goes on behind ------------------------------------------------------------------------------------------------------------

  work(): void {
    this.#setSnapshots();
    this.store.work(this.nowMs);
  }

  settle(): void {
    for (let round = 0; round < 10_000; round++) {
      this.work();
      if (this.jobs.runNext() || this.store.hasWork) continue;
      const { workDueAtMs } = this.store;
      if (workDueAtMs > this.nowMs + 20_000) return;
      this.nowMs = Math.max(this.nowMs, workDueAtMs);
    }
    throw new Error('there is no end of work');
  }

  flush(): void {
    this.tree.flush(() => undefined);
    this.settle();
  }

  compact(low?: string, high?: string): void {
    const ends: (Error | undefined)[] = [];
    const bound = (key: string | undefined): Buffer | undefined => (key === undefined ? undefined : Buffer.from(key));
    this.tree.compactRange(bound(low), bound(high), (error) => ends.push(error));
    this.settle();
    if (ends.length !== 1 || ends[0] !== undefined)
      throw new Error(`the compaction ended ${ends.length} times, ${ends}`);
  }

  checkpoint(): void {
    checkpoint(this.env, this.store);
    this.syncedSeq = this.store.publishedSeq;
  }

  openSnapshot(): void {
    this.snapshots.push({ seq: this.store.publishedSeq, atMs: this.nowMs });
  }

  closeSnapshot(index: number): void {
    this.snapshots.splice(index, 1);
  }

  // ---- ends and beginnings ------------------------------------------------------------------------------------------------------------

  reopen(): void {
    this.store.close();
    this.#begin();
    this.syncedSeq = this.store.publishedSeq;
  }

  #begin(): void {
    this.snapshots = [];
    this.layout = newLayout();
    this.#open();
  }

  powerLoss(random: Random, policy: CrashPolicy, options: MemEnvOptions): void {
    this.mem = this.mem.crash(random, policy, options);
    this.env = new FaultEnv(this.mem);
    this.#begin();
    this.#checkSynced();
  }

  /** The shard's thread ends where it is; another takes its memory over. */
  adopt(random: Random, options: MemEnvOptions): void {
    this.mem = this.mem.crash(random, 'keep-all', options);
    this.env = new FaultEnv(this.mem);
    this.#open({ adopt: true });
    this.#checkSynced();
  }

  #checkSynced(): void {
    const { publishedSeq } = this.store;
    if (publishedSeq < this.syncedSeq) throw new Error(`${publishedSeq} came back, ${this.syncedSeq} was synced`);
  }

  // ---- comparison -------------------------------------------------------------------------------------------------------------------

  /** What the two spaces answer differently, in words; undefined: nothing. */
  difference(random: Random, someKey: () => string): string | undefined {
    const views = [{ seq: Infinity, atMs: this.nowMs }, ...this.snapshots];
    for (const { seq, atMs } of views) {
      for (const reverse of [false, true]) {
        const from = random.below(3) === 0 ? someKey() : undefined;
        const [left, right] = this.#sides.map((side, place) => this.#scan(side, place, from, seq, reverse, atMs));
        const at = left!.findIndex((line, index) => line !== right![index]);
        if (at >= 0 || left!.length !== right!.length) {
          const where = at >= 0 ? at : left!.length;
          return `at ${seq}, ${reverse ? 'backwards' : 'forwards'} from ${from}: entry ${where} of ${left!.length}: ${short(left![where])}; in the tree, of ${right!.length}: ${short(right![where])}`;
        }
      }
      for (let round = 0; round < 40; round++) {
        const key = someKey();
        const [left, right] = this.#sides.map((side, place) => this.#get(side, place, key, seq, atMs));
        if (left !== right) return `at ${seq}: ${key} is ${short(left)}, in the tree ${short(right)}`;
      }
    }
    for (let round = 0; round < 10; round++) {
      const key = Buffer.from(someKey());
      const [left, right] = SPACES.map((id) =>
        this.store.versionOf(this.store.spaces.require(id), key, 0, key.length, this.nowMs),
      );
      if (right !== (left === 0 ? 0 : left! + 1)) return `${key.toString()} has version ${left}, in the tree ${right}`;
    }
    return this.store.spaces.check()[0];
  }

  #scan(side: Side, place: number, from: string | undefined, atSeq: number, reverse: boolean, atMs: number): string[] {
    const { cursor } = side;
    const key = from === undefined ? undefined : Buffer.from(from);
    const metaUnit = this.#view.pin(READER_SLOT);
    const lines: string[] = [];
    try {
      cursor.setRange(undefined, undefined);
      cursor.seek(metaUnit, key, key?.length ?? 0, atSeq, reverse, atMs);
      while (cursor.valid) {
        const found = Buffer.alloc(cursor.keyLength);
        cursor.copyKey(found, 0);
        lines.push(
          `${found.toString()} ${cursor.seq - place} ${cursor.expiresAt} ${cursor.copyValue().toString('latin1')}`,
        );
        if (reverse) cursor.prev();
        else cursor.next();
      }
    } finally {
      cursor.release();
      this.#view.unpin(READER_SLOT);
    }
    return lines;
  }

  #get(side: Side, place: number, key: string, atSeq: number, atMs: number): string | undefined {
    const { reader } = side;
    const bytes = Buffer.from(key);
    const metaUnit = this.#view.pin(READER_SLOT);
    try {
      if (!reader.find(metaUnit, bytes, bytes.length, atSeq, atMs)) return undefined;
      const { valueLength } = reader;
      const value = reader.copyValue();
      if (value.length !== valueLength) return `${value.length} bytes, not ${valueLength}`;
      return `${reader.seq - place} ${reader.expiresAt} ${value.toString('latin1')}`;
    } finally {
      reader.release();
      this.#view.unpin(READER_SLOT);
    }
  }

  close(): void {
    this.store.close();
  }
}

function newLayout(): ArenaLayout {
  const cold = coldLayout(DIRECTORY, STORE_ID, SHARD, createPageCache({ bytes: 512 << 10 }));
  return { ...createArena({ memoryBytes: 16 << 20 }), cold };
}

function short(line: string | undefined): string {
  return line === undefined ? 'nothing' : line.length > 60 ? `${line.slice(0, 60)}… (${line.length})` : line;
}

function reference(client: number, blob: number, offset: number, count: number): Buffer {
  const bytes = Buffer.alloc(BLOB_REFERENCE_BYTES);
  writeBlobReference(bytes, 0, { client, blob, offset, count });
  return bytes;
}

/** space undefined: the record has no extension. */
function record(
  kind: number,
  flags: number,
  space: number | undefined,
  expiresAt: number,
  key: Uint8Array,
  value: Uint8Array,
): Buffer {
  const extension = space === undefined || (space === PLAIN && expiresAt === 0) ? 0 : OPERATION_EXTENSION_BYTES;
  const bytes = Buffer.from(new ArrayBuffer(operationBytes(key.length, value.length, extension)));
  writeOperationHeader(bytes, 0, kind, extension === 0 ? flags : flags | OPERATION_EXTENDED, key.length, value.length);
  if (extension > 0) writeOperationExtension(bytes, 0, space!, expiresAt);
  const keyAt = OPERATION_HEADER_BYTES + extension;
  bytes.set(key, keyAt);
  bytes.set(value, keyAt + key.length);
  return bytes;
}

/** For both spaces. */
function recordsOf(change: Change): Buffer[] {
  const noBytes = Buffer.alloc(0);
  return SPACES.map((space) => {
    if (change.kind === 'put') {
      const { key, value, expiresAt } = change;
      return record(OperationKind.Put, 0, space, expiresAt, Buffer.from(key), Buffer.from(value));
    }
    if (change.kind === 'del') return record(OperationKind.Delete, 0, space, 0, Buffer.from(change.key), noBytes);
    const { low, high } = change;
    const flags = (low === undefined ? 0 : 1) | (high === undefined ? 0 : 2);
    return record(OperationKind.ClearRange, flags, space, 0, Buffer.from(low ?? ''), Buffer.from(high ?? ''));
  });
}
