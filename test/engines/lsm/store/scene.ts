/**
 * A shard whose default space is an LSM-Tree with tiny limits, on a disk in memory, and a model beside it: every version that was ever put, so that the
 * answer at any number and time can be told. Jobs run when the scene says so.
 */
import { createPageCache } from '../../../../dist/shared/memory/page-cache.js';
import { coldLayout } from '../../../../dist/engines/btree/paged/paging.js';
import { InlineJobs } from '../../../../dist/engines/lsm/inline-jobs.js';
import { LsmFiles } from '../../../../dist/engines/lsm/read/files.js';
import type { LsmTuning } from '../../../../dist/engines/lsm/options.js';
import type { LsmWriter } from '../../../../dist/engines/lsm/writer.js';
import { engineNamed, type EngineCursor, type EngineReader } from '../../../../dist/engines/engine.js';
import type { ShardStoreOptions } from '../../../../dist/engines/store/options.js';
import { Durability, ShardStore, type DurabilityLevel } from '../../../../dist/engines/store/shard-store.js';
import {
  CLEAR_HAS_HIGH,
  CLEAR_HAS_LOW,
  OPERATION_EXTENDED,
  OPERATION_EXTENSION_BYTES,
  OPERATION_HEADER_BYTES,
  OperationKind,
  operationBytes,
  writeOperationExtension,
  writeOperationHeader,
} from '../../../../dist/engines/operation.js';
import { FaultEnv } from '../../../../dist/shared/env/fault-env.js';
import { MemEnv, type CrashPolicy, type MemEnvOptions } from '../../../../dist/shared/env/mem-env.js';
import { ArenaReader, createArena, type ArenaLayout } from '../../../../dist/shared/memory/arena.js';
import type { Random } from '../../../../dist/shared/random.js';
import { DIRECTORY, SEGMENT_BYTES, SHARD, STORE_ID, checkpoint } from '../../../support/store-scene.js';

export const TINY: LsmTuning = {
  memtableBytes: 64 << 10,
  tableBytes: 16 << 10,
  levelBytes: 64 << 10,
  levelFactor: 4,
  level0Runs: 2,
  blockBytes: 1024,
};

export interface Version {
  readonly seq: number;
  /** Undefined: a delete. */
  readonly value: string | undefined;
  readonly expiresAt: number;
}

export type Change =
  | { readonly kind: 'put'; readonly key: string; readonly value: string; readonly expiresAt?: number }
  | { readonly kind: 'del'; readonly key: string }
  | { readonly kind: 'clear'; readonly low: string | undefined; readonly high: string | undefined };

export interface OpenSnapshot {
  readonly seq: number;
  readonly atMs: number;
}

export interface SceneOptions {
  readonly tuning?: LsmTuning;
  readonly memoryBytes?: number;
  readonly seed?: number;
  readonly parallelism?: number;
}

const READER_SLOT = 1;
const CACHE_OWNER = 7;

export class LsmScene {
  mem: MemEnv;
  env: FaultEnv;
  layout: ArenaLayout;
  store!: ShardStore;
  jobs!: InlineJobs;
  view!: ArenaReader;
  reader!: EngineReader;
  cursor!: EngineCursor;
  readonly model = new Map<string, Version[]>();
  snapshots: OpenSnapshot[] = [];
  nowMs = 1_000_000;
  /** Everything up to this number survives a power loss. */
  syncedSeq = 0;
  #options: SceneOptions;

  constructor(options: SceneOptions = {}, memOptions: MemEnvOptions = {}) {
    this.#options = options;
    // A recovery goes by the clock of the disk: what expires must not go before the scene says so.
    this.mem = new MemEnv({ seed: options.seed ?? 1, startMs: this.nowMs, ...memOptions });
    this.env = new FaultEnv(this.mem);
    this.layout = this.#newLayout();
    this.#open({ isNew: true });
    this.mem.syncDirectory('/data');
    this.mem.syncDirectory('/');
  }

  #newLayout(): ArenaLayout {
    const arena = createArena({ memoryBytes: this.#options.memoryBytes ?? 8 << 20 });
    // Both live as long as a process: names in the cache count from one again with the next.
    return { ...arena, cold: coldLayout(DIRECTORY, STORE_ID, SHARD, createPageCache({ bytes: 512 << 10 })) };
  }

  get writer(): LsmWriter {
    return this.store.spaces.require(0).engine as LsmWriter;
  }

  #open(options: Partial<ShardStoreOptions>): void {
    this.jobs = new InlineJobs(this.env, this.layout, this.#options.parallelism ?? 2);
    const sequences = Float64Array.from(this.snapshots.map(({ seq }) => seq)).sort();
    this.store = ShardStore.open({
      env: this.env,
      directory: DIRECTORY,
      storeId: STORE_ID,
      shard: SHARD,
      arena: this.layout,
      segmentBytes: SEGMENT_BYTES,
      spaces: [{ id: 0, engine: 'lsm', tuning: { lsm: this.#options.tuning ?? TINY } }],
      jobs: this.jobs,
      snapshots: { sequences, count: sequences.length },
      ...options,
    });
    this.view = new ArenaReader(this.layout);
    LsmFiles.attach(this.view, this.env, this.layout.cold!, CACHE_OWNER);
    const engine = engineNamed('lsm');
    this.reader = engine.openReader(this.view, this.writer.row, 0, READER_SLOT);
    this.cursor = engine.openCursor(this.view, this.writer.row, 0, READER_SLOT);
  }

  // ---- writes -----------------------------------------------------------------------------------------------------------------------

  #setSnapshots(): void {
    const sorted = Float64Array.from(this.snapshots.map(({ seq }) => seq)).sort();
    this.store.setSnapshots(sorted, sorted.length);
  }

  /** One group. */
  commit(changes: readonly Change[], level: DurabilityLevel = Durability.Os): void {
    const { store } = this;
    const firstSeq = store.publishedSeq + 1;
    store.beginGroup();
    for (const change of changes) {
      const bytes = recordOf(change);
      store.append(bytes, new Int32Array(bytes.buffer), 0, bytes.length);
    }
    // Logged, it may show after a restart, whatever becomes of the rest.
    changes.forEach((change, index) => {
      this.#record(change, firstSeq + index);
    });
    store.commit(level, firstSeq, () => {
      this.#setSnapshots();
    });
    if (level === Durability.Sync) this.syncedSeq = store.publishedSeq;
  }

  #record(change: Change, seq: number): void {
    if (change.kind === 'clear') {
      for (const [key, versions] of this.model) {
        if ((change.low === undefined || key >= change.low) && (change.high === undefined || key < change.high))
          versions.push({ seq, value: undefined, expiresAt: 0 });
      }
      return;
    }
    let versions = this.model.get(change.key);
    if (versions === undefined) this.model.set(change.key, (versions = []));
    if (change.kind === 'del') versions.push({ seq, value: undefined, expiresAt: 0 });
    else versions.push({ seq, value: change.value, expiresAt: change.expiresAt ?? 0 });
  }

  put(key: string, value: string, expiresAt = 0): void {
    this.commit([{ kind: 'put', key, value, expiresAt }]);
  }

  del(key: string): void {
    this.commit([{ kind: 'del', key }]);
  }

  // ---- what goes on behind ------------------------------------------------------------------------------------------------------------

  work(): void {
    this.#setSnapshots();
    this.store.work(this.nowMs);
  }

  /** Runs jobs and installs what they did until nothing is left to do, not even soon. */
  settle(): void {
    for (let round = 0; round < 10_000; round++) {
      this.work();
      if (this.jobs.runNext() || this.store.hasWork) continue;
      const { workDueAtMs } = this.store;
      if (workDueAtMs > this.nowMs + 20_000) return;
      this.nowMs = Math.max(this.nowMs, workDueAtMs);
    }
    throw new Error(`there is no end of work: ${JSON.stringify(this.describe())}`);
  }

  /** For a failure's message. */
  describe(): unknown {
    const { workDueAtMs, hasWork } = this.store;
    const waiting = this.jobs.waiting.map((task) => task.kind);
    return {
      workDueInMs: workDueAtMs - this.nowMs,
      hasWork,
      waiting,
      shape: this.shape(),
      figures: this.writer.figures(),
    };
  }

  /** Memtables to tables, all compactions done. */
  flush(): void {
    this.writer.flush(() => undefined);
    this.settle();
  }

  compact(low?: string, high?: string): void {
    const done: (Error | undefined)[] = [];
    this.writer.compactRange(bound(low), bound(high), (error) => done.push(error));
    this.settle();
    if (done.length !== 1 || done[0] !== undefined) throw new Error(`the compaction ended with ${String(done[0])}`);
  }

  checkpoint(): void {
    checkpoint(this.env, this.store);
    this.syncedSeq = this.store.publishedSeq;
  }

  openSnapshot(): OpenSnapshot {
    const snapshot = { seq: this.store.publishedSeq, atMs: this.nowMs };
    this.snapshots.push(snapshot);
    return snapshot;
  }

  closeSnapshot(snapshot: OpenSnapshot): void {
    this.snapshots = this.snapshots.filter((other) => other !== snapshot);
  }

  // ---- ends and beginnings ------------------------------------------------------------------------------------------------------------

  reopen(options: { readOnly?: boolean } = {}): void {
    this.store.close();
    this.#begin(options);
  }

  /** A closed store again, with other options. */
  reopenWith(options: SceneOptions, storeOptions: Partial<ShardStoreOptions> = {}): this {
    this.#options = { ...this.#options, ...options };
    this.#begin(storeOptions);
    return this;
  }

  #begin(options: Partial<ShardStoreOptions> = {}): void {
    this.snapshots = [];
    this.layout = this.#newLayout();
    this.#open(options);
  }

  /** The machine stops; what was not synced may be lost. The model is cut back to what came back. */
  powerLoss(random: Random, policy: CrashPolicy = 'random', options: MemEnvOptions = {}): void {
    this.mem = this.mem.crash(random, policy, options);
    this.env = new FaultEnv(this.mem);
    this.#begin();
    this.#cutModel();
  }

  /** The shard's thread ends where it is; another takes its memory over. */
  adopt(random: Random, options: MemEnvOptions = {}): void {
    this.mem = this.mem.crash(random, 'keep-all', options);
    this.env = new FaultEnv(this.mem);
    this.#open({ adopt: true });
    this.#cutModel();
  }

  /** The process ends where it is, the machine does not. */
  kill(random: Random, options: MemEnvOptions = {}): void {
    this.powerLoss(random, 'keep-all', options);
  }

  #cutModel(): void {
    const { publishedSeq } = this.store;
    if (publishedSeq < this.syncedSeq) throw new Error(`${publishedSeq} came back, ${this.syncedSeq} was synced`);
    for (const [key, versions] of this.model) {
      const kept = versions.filter(({ seq }) => seq <= publishedSeq);
      if (kept.length === 0) this.model.delete(key);
      else this.model.set(key, kept);
    }
  }

  // ---- reads ------------------------------------------------------------------------------------------------------------------------

  /** What a read must tell. */
  expected(key: string, atSeq: number, atMs: number): Version | undefined {
    const versions = this.model.get(key) ?? [];
    for (let index = versions.length - 1; index >= 0; index--) {
      const version = versions[index]!;
      if (version.seq > atSeq) continue;
      if (version.value === undefined || (version.expiresAt !== 0 && version.expiresAt <= atMs)) return undefined;
      return version;
    }
    return undefined;
  }

  get(key: string, atSeq = Infinity, atMs = this.nowMs): string | undefined {
    const bytes = Buffer.from(key);
    const metaUnit = this.view.pin(READER_SLOT);
    try {
      return this.reader.find(metaUnit, bytes, bytes.length, atSeq, atMs)
        ? this.reader.copyValue().toString()
        : undefined;
    } finally {
      this.reader.release();
      this.view.unpin(READER_SLOT);
    }
  }

  scan(atSeq = Infinity, atMs = this.nowMs, reverse = false): string[] {
    const lines: string[] = [];
    const { cursor } = this;
    const metaUnit = this.view.pin(READER_SLOT);
    try {
      cursor.setRange(undefined, undefined);
      cursor.seek(metaUnit, undefined, 0, atSeq, reverse, atMs);
      while (cursor.valid) {
        const key = Buffer.alloc(cursor.keyLength);
        cursor.copyKey(key, 0);
        lines.push(`${key.toString()} ${cursor.seq} ${cursor.copyValue().toString()}`);
        if (reverse) cursor.prev();
        else cursor.next();
      }
    } finally {
      cursor.release();
      this.view.unpin(READER_SLOT);
    }
    return lines;
  }

  expectedScan(atSeq: number, atMs: number): string[] {
    const lines: string[] = [];
    for (const key of [...this.model.keys()].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))) {
      const version = this.expected(key, atSeq, atMs);
      if (version !== undefined) lines.push(`${key} ${version.seq} ${version.value!}`);
    }
    return lines;
  }

  /** What differs from the model, in words; undefined: nothing. */
  difference(withKeys = false): string | undefined {
    for (const { seq, atMs } of [{ seq: Infinity, atMs: this.nowMs }, ...this.snapshots]) {
      const wanted = this.expectedScan(seq, atMs);
      const told = this.scan(seq, atMs);
      for (let index = 0; index < Math.max(wanted.length, told.length); index++) {
        if (told[index] !== wanted[index])
          return `at ${seq}: entry ${index} of ${wanted.length} (${told.length} told): ${short(told[index])}, not ${short(wanted[index])}`;
      }
      const back = this.scan(seq, atMs, true).reverse();
      for (let index = 0; index < Math.max(wanted.length, back.length); index++) {
        if (back[index] !== wanted[index])
          return `backwards at ${seq}: entry ${index} of ${wanted.length}: ${short(back[index])}, not ${short(wanted[index])}`;
      }
      if (!withKeys) continue;
      for (const key of this.model.keys()) {
        const told = this.get(key, seq, atMs);
        const wanted = this.expected(key, seq, atMs)?.value;
        if (told !== wanted) return `at ${seq}: ${key} is ${short(told)}, not ${short(wanted)}`;
      }
    }
    return this.store.spaces.check()[0];
  }

  /** Names of files in the tree's directory; empty: there is none. */
  files(): string[] {
    const directory = `${DIRECTORY}/lsm-${this.writer.tree}`;
    return this.mem.exists(directory) ? this.mem.list(directory) : [];
  }

  directories(): string[] {
    return this.mem.list(DIRECTORY).filter((name) => name.startsWith('lsm-'));
  }

  /** Tables by level. */
  shape(): number[] {
    return this.writer.figures().levels.map(({ tables }) => tables);
  }

  close(): void {
    this.store.close();
  }
}

function short(line: string | undefined): string {
  return line === undefined ? 'nothing' : line.length > 60 ? `${line.slice(0, 60)}… (${line.length})` : line;
}

export function bound(key: string | undefined): Uint8Array | undefined {
  return key === undefined ? undefined : Buffer.from(key);
}

function recordOf(change: Change): Buffer {
  const noBytes = Buffer.alloc(0);
  let kind: number = OperationKind.Put;
  let flags = 0;
  let key: Buffer;
  let value: Buffer = noBytes;
  let expiresAt = 0;
  if (change.kind === 'clear') {
    kind = OperationKind.ClearRange;
    flags = (change.low === undefined ? 0 : CLEAR_HAS_LOW) | (change.high === undefined ? 0 : CLEAR_HAS_HIGH);
    key = Buffer.from(change.low ?? '');
    value = Buffer.from(change.high ?? '');
  } else {
    key = Buffer.from(change.key);
    if (change.kind === 'del') kind = OperationKind.Delete;
    else {
      value = Buffer.from(change.value);
      expiresAt = change.expiresAt ?? 0;
    }
  }
  const extension = expiresAt === 0 ? 0 : OPERATION_EXTENSION_BYTES;
  const length = operationBytes(key.length, value.length, extension);
  const bytes = Buffer.from(new ArrayBuffer(length));
  const extended = extension === 0 ? 0 : OPERATION_EXTENDED;
  writeOperationHeader(bytes, 0, kind as 1, flags | extended, key.length, value.length);
  if (extension > 0) writeOperationExtension(bytes, 0, 0, expiresAt);
  const keyAt = OPERATION_HEADER_BYTES + extension;
  bytes.set(key, keyAt);
  bytes.set(value, keyAt + key.length);
  return bytes;
}
