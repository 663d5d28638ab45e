/**
 * A whole LSM-Tree of the plainest kind beside the truth: every operation that ever was. Its memtable is a list, its version a map; tables, blob files,
 * the choice of compactions and the jobs are the real ones. Several compactions may be on their way at once, while operations go on.
 */
import { posix } from 'node:path';
import { BlobReader } from '../../../../dist/engines/lsm/blob/blob-reader.js';
import { BlobWriter } from '../../../../dist/engines/lsm/blob/blob-writer.js';
import {
  BLOB_REFERENCE_BYTES_MAX,
  decodeBlobReference,
  encodeBlobReference,
} from '../../../../dist/engines/lsm/blob/reference.js';
import { pickCompaction } from '../../../../dist/engines/lsm/compaction/picker.js';
import type { CompactionPlan, ManualRange, PickState } from '../../../../dist/engines/lsm/compaction/plan.js';
import { tasksOf } from '../../../../dist/engines/lsm/compaction/split.js';
import { TreeView } from '../../../../dist/engines/lsm/compaction/tree-view.js';
import { runCompaction } from '../../../../dist/engines/lsm/jobs/compact.js';
import { blobName, tableName } from '../../../../dist/engines/lsm/manifest/names.js';
import { EntryFlag } from '../../../../dist/engines/lsm/table/entry.js';
import { TableFile } from '../../../../dist/engines/lsm/table/table-file.js';
import { TableIterator } from '../../../../dist/engines/lsm/table/table-iterator.js';
import { TableWriter } from '../../../../dist/engines/lsm/table/table-writer.js';
import { LSM_LEVELS } from '../../../../dist/engines/lsm/types.js';
import type {
  BlobFileInfo,
  CompactionTask,
  LsmIdentity,
  LsmOptions,
  RangeTombstone,
  TableInfo,
  TableOptions,
} from '../../../../dist/engines/lsm/types.js';
import type { Env } from '../../../../dist/shared/env/env.js';
import { expect } from '../../../support/expect.js';

export const DIRECTORY = '/shard/lsm-3';
export const IDENTITY: LsmIdentity = { storeId: new Uint8Array(16).fill(7), shard: 1, tree: 3 };

const TABLE: TableOptions = {
  blockBytes: 256,
  restartInterval: 4,
  compression: 'none',
  bitsPerKey: 10,
  prefixFilterBytes: 0,
};

/** Everything small, so that few entries exercise every level. */
export const TINY: LsmOptions = {
  style: 'leveled',
  memtableBytes: 1 << 16,
  frozenMax: 2,
  tables: new Array<TableOptions>(LSM_LEVELS).fill(TABLE),
  tableBytes: 1500,
  level0Runs: 2,
  slowdownRuns: 6,
  stopRuns: 12,
  slowdownDebtBytes: 1 << 20,
  stopDebtBytes: 1 << 22,
  levelBytes: 3000,
  levelFactor: 3,
  tieredRunsMin: 2,
  tieredSpacePercent: 200,
  fifoBytes: 1 << 30,
  fifoTtlMs: 0,
  blobValueBytes: Infinity,
  blobFileBytes: 4096,
  blobGarbage: 0.5,
};

/** An operation on one key; value undefined: it was deleted. */
export interface Version {
  readonly seq: number;
  readonly value: string | undefined;
  readonly expiresAt: number;
}

interface MemtableVersion extends Version {
  readonly key: string;
}

export interface StoredVersion {
  readonly seq: number;
  readonly isTombstone: boolean;
  readonly expiresAt: number;
  readonly value: string;
}

export interface Snapshot {
  readonly seq: number;
  readonly atMs: number;
}

interface Running {
  readonly plan: CompactionPlan;
  readonly tasks: readonly CompactionTask[];
}

export function covered(tombstone: RangeTombstone, key: string): boolean {
  const bytes = Buffer.from(key);
  return (
    (tombstone.low === undefined || Buffer.compare(bytes, tombstone.low) >= 0) &&
    (tombstone.high === undefined || Buffer.compare(bytes, tombstone.high) < 0)
  );
}

export class Tree {
  readonly truth = new Map<string, Version[]>();
  readonly clears: RangeTombstone[] = [];
  readonly tables = new Map<number, TableInfo>();
  readonly blobs = new Map<number, BlobFileInfo>();
  /** In the manifest. */
  tombstones: RangeTombstone[] = [];
  /** Of the memtable. */
  newTombstones: RangeTombstone[] = [];
  memtable: MemtableVersion[] = [];
  snapshots: Snapshot[] = [];
  running: Running[] = [];
  manual: ManualRange | undefined;
  seq = 0;
  run = 0;
  nextFile = 1;
  nowMs = 1_000_000;
  entriesIn = 0;
  writtenBytes = 0;
  parallelism = 2;

  constructor(
    readonly env: Env,
    public options: LsmOptions,
  ) {
    env.makeDirectory(DIRECTORY);
  }

  takeFiles(count: number): number {
    const first = this.nextFile;
    this.nextFile += count;
    return first;
  }

  put(key: string, value: string, expiresAt = 0): void {
    this.#add(key, { seq: ++this.seq, value, expiresAt });
  }

  del(key: string): void {
    this.#add(key, { seq: ++this.seq, value: undefined, expiresAt: 0 });
  }

  #add(key: string, version: Version): void {
    const versions = this.truth.get(key);
    if (versions === undefined) this.truth.set(key, [version]);
    else versions.push(version);
    this.memtable.push({ key, ...version });
  }

  clear(low: string | undefined, high: string | undefined): void {
    const tombstone = {
      seq: ++this.seq,
      low: low === undefined ? undefined : Buffer.from(low),
      high: high === undefined ? undefined : Buffer.from(high),
    };
    this.clears.push(tombstone);
    this.newTombstones.push(tombstone);
  }

  /** What a reader must see. */
  expected(key: string, number: number, atMs: number): string | undefined {
    const version = (this.truth.get(key) ?? []).findLast(({ seq }) => seq <= number);
    if (version === undefined || (version.expiresAt !== 0 && version.expiresAt <= atMs)) return undefined;
    const isCleared = this.clears.some(
      (clear) => clear.seq > version.seq && clear.seq <= number && covered(clear, key),
    );
    return isCleared ? undefined : version.value;
  }

  /** All versions in the files by key, run by run: newest run first. */
  stored(): Map<string, StoredVersion[][]> {
    const found = new Map<string, StoredVersion[][]>();
    for (const run of new TreeView({ state: this.pickState(), options: this.options, busy: [] }).runs) {
      const ofRun = new Map<string, StoredVersion[]>();
      let before = '';
      for (const table of run.tables) {
        const first = Buffer.from(table.smallestKey).toString('latin1');
        expect(before === '' || before < first, `tables of a run follow each other`).toBe(true);
        before = Buffer.from(table.largestKey).toString('latin1');
        for (const [key, version] of this.entries(table)) {
          const versions = ofRun.get(key);
          if (versions === undefined) ofRun.set(key, [version]);
          else versions.push(version);
        }
      }
      for (const [key, versions] of ofRun) {
        const runs = found.get(key);
        if (runs === undefined) found.set(key, [versions]);
        else runs.push(versions);
      }
    }
    return found;
  }

  entries(table: TableInfo): [string, StoredVersion][] {
    const file = TableFile.open(
      this.env,
      posix.join(DIRECTORY, tableName(table.number)),
      IDENTITY,
      table.number,
      table.bytes,
    );
    const entries: [string, StoredVersion][] = [];
    const iterator = new TableIterator(file);
    for (let isAt = iterator.seek(undefined, undefined); isAt; isAt = iterator.next()) {
      const { flags, seq, expiresAt } = iterator;
      const bytes = iterator.bytes.subarray(iterator.valueStart, iterator.valueStart + iterator.valueLength);
      entries.push([
        Buffer.from(iterator.key.subarray(0, iterator.keyLength)).toString(),
        {
          seq,
          expiresAt,
          isTombstone: (flags & EntryFlag.tombstone) !== 0,
          value: Buffer.from((flags & EntryFlag.blob) !== 0 ? this.#blobValue(bytes) : bytes).toString(),
        },
      ]);
    }
    file.close();
    expect(entries.length).toBe(table.entries);
    return entries;
  }

  #blobValue(bytes: Uint8Array): Uint8Array {
    const reference = decodeBlobReference(bytes, 0, bytes.length)!;
    expect(this.blobs.has(reference.file), `blob file ${reference.file} is known`).toBe(true);
    const value = new Uint8Array(reference.valueBytes);
    const reader = BlobReader.open(this.env, posix.join(DIRECTORY, blobName(reference.file)), IDENTITY, reference.file);
    expect(reader.read(reference, value, 0, 0, value.length)).toBe(value.length);
    reader.close();
    return value;
  }

  /** Reads as readers do: the first version on the way is the newest. */
  checkReads(): void {
    const stored = this.stored();
    const active = [...this.tombstones, ...this.newTombstones];
    const reads: Snapshot[] = [...this.snapshots, { seq: Infinity, atMs: this.nowMs }];
    for (const key of this.truth.keys()) {
      for (const { seq: number, atMs } of reads) {
        let found: StoredVersion | undefined;
        const inMemory = this.memtable.findLast((version) => version.key === key && version.seq <= number);
        if (inMemory !== undefined) {
          found = { ...inMemory, isTombstone: inMemory.value === undefined, value: inMemory.value ?? '' };
        }
        for (const run of stored.get(key) ?? []) found ??= run.find(({ seq }) => seq <= number);
        let value: string | undefined;
        if (found !== undefined && !found.isTombstone && !(found.expiresAt !== 0 && found.expiresAt <= atMs)) {
          const { seq } = found;
          const isHidden = active.some((one) => one.seq > seq && one.seq <= number && covered(one, key));
          if (!isHidden) value = found.value;
        }
        const expected = this.expected(key, number, atMs);
        if (value !== expected) {
          throw new Error(`${key} at ${number}: ${value ?? 'nothing'} instead of ${expected ?? 'nothing'}`);
        }
      }
    }
  }

  /** All that is in memory becomes a run, whatever is needed of it. */
  flush(): void {
    this.tombstones.push(...this.newTombstones);
    this.newTombstones = [];
    const run = ++this.run;
    const versions = [...this.memtable].sort(
      (a, b) => Buffer.compare(Buffer.from(a.key), Buffer.from(b.key)) || b.seq - a.seq,
    );
    this.memtable = [];
    if (versions.length === 0) return;
    const { blobValueBytes } = this.options;
    let blob: BlobWriter | undefined;
    const number = this.takeFiles(1);
    const table = TableWriter.create(this.env, posix.join(DIRECTORY, tableName(number)), {
      identity: IDENTITY,
      number,
      level: 0,
      run,
      options: this.options.tables[0]!,
      createdAt: this.nowMs,
    });
    for (const { key, value, seq, expiresAt } of versions) {
      const keyBytes = Buffer.from(key);
      let bytes: Uint8Array = Buffer.from(value ?? '');
      let flags = value === undefined ? EntryFlag.tombstone : 0;
      if (value !== undefined && bytes.length >= blobValueBytes) {
        if (blob === undefined) {
          const blobNumber = this.takeFiles(1);
          blob = BlobWriter.create(this.env, posix.join(DIRECTORY, blobName(blobNumber)), {
            identity: IDENTITY,
            number: blobNumber,
            compression: 'none',
            createdAt: this.nowMs,
          });
        }
        const reference = blob.append(keyBytes, keyBytes.length, bytes, 0, bytes.length, seq);
        bytes = new Uint8Array(BLOB_REFERENCE_BYTES_MAX);
        bytes = bytes.subarray(0, encodeBlobReference(bytes, 0, reference));
        flags |= EntryFlag.blob;
      }
      table.add(keyBytes, keyBytes.length, bytes, 0, bytes.length, seq, flags, expiresAt);
    }
    const info = table.finish();
    this.tables.set(info.number, info);
    if (blob !== undefined) {
      const blobInfo = blob.finish();
      this.blobs.set(blobInfo.number, blobInfo);
    }
  }

  pickState(isIdle = false): PickState {
    return {
      tables: [...this.tables.values()],
      blobs: [...this.blobs.values()],
      tombstones: this.tombstones,
      snapshots: this.snapshots.map(({ seq }) => seq),
      memtableSeq: this.memtable[0]?.seq ?? Infinity,
      nowMs: this.nowMs,
      isIdle,
      manual: this.manual,
    };
  }

  pick(isIdle = false): CompactionPlan | undefined {
    return pickCompaction(this.pickState(isIdle), this.options, this.plans);
  }

  get plans(): CompactionPlan[] {
    return this.running.map(({ plan }) => plan);
  }

  /** Its tasks know what is so now, and run when it is finished. */
  start(plan: CompactionPlan): void {
    const tasks = tasksOf(
      plan,
      {
        directory: DIRECTORY,
        identity: IDENTITY,
        options: this.options,
        snapshots: this.snapshots.map(({ seq }) => seq),
        tombstones: [...this.tombstones],
        nowMs: this.nowMs,
        takeFiles: (count) => this.takeFiles(count),
        cancel: new Int32Array(1),
        rate: undefined,
      },
      this.parallelism,
    );
    expect(tasks.length > 0).toBe(plan.kind === 'merge');
    this.running.push({ plan, tasks });
  }

  finish(index: number): void {
    const { plan, tasks } = this.running[index]!;
    const outcomes = tasks.map((task) => runCompaction(this.env, task));
    this.running.splice(index, 1);
    const inputs = plan.inputs.flat();
    for (const table of inputs) expect(this.tables.delete(table.number), `table ${table.number} is there`).toBe(true);
    if (plan.kind === 'move') {
      for (const table of inputs) this.tables.set(table.number, { ...table, level: plan.outputLevel, run: 0 });
    }
    for (const outcome of outcomes) {
      for (const table of outcome.tables) {
        expect([table.level, table.run]).toEqual([plan.outputLevel, plan.outputRun]);
        expect(this.tables.has(table.number)).toBe(false);
        this.tables.set(table.number, table);
      }
      for (const blob of outcome.blobs) this.blobs.set(blob.number, blob);
      this.entriesIn += outcome.entriesIn;
      this.writtenBytes += outcome.writtenBytes;
    }
    if (plan.kind === 'merge') {
      const entries = inputs.reduce((sum, table) => sum + table.entries, 0);
      expect(
        outcomes.reduce((sum, outcome) => sum + outcome.entriesIn, 0),
        'each entry is read once',
      ).toBe(entries);
      for (const table of inputs) this.env.remove(posix.join(DIRECTORY, tableName(table.number)));
    } else if (plan.kind === 'drop') {
      for (const table of inputs) this.env.remove(posix.join(DIRECTORY, tableName(table.number)));
    }
    this.tombstones = this.tombstones.filter((tombstone) => !plan.removedTombstones.includes(tombstone));
    for (const blob of plan.removedBlobs) {
      expect(this.blobs.delete(blob)).toBe(true);
      this.env.remove(posix.join(DIRECTORY, blobName(blob)));
    }
  }

  /** Plans and finishes until there is nothing more to do; how many plans that took. */
  settle(isIdle: boolean, plansMax = 500): number {
    while (this.running.length > 0) this.finish(0);
    let plans = 0;
    for (let plan = this.pick(isIdle); plan !== undefined; plan = this.pick(isIdle)) {
      if (++plans > plansMax) throw new Error(`more than ${plansMax} plans, the last for ${plan.cause}`);
      this.start(plan);
      this.finish(0);
    }
    return plans;
  }

  /** Everything into one run of the last level. */
  mergeAll(): void {
    while (this.running.length > 0) this.finish(0);
    const view = new TreeView({ state: this.pickState(), options: this.options, busy: [] });
    const plan = view.planFor('manual', 1, [...this.tables.values()], LSM_LEVELS - 1, false);
    if (plan === undefined) return;
    this.start(plan);
    this.finish(0);
  }

  /** Exactly what is needed, no more: for keys none of whose versions can expire. */
  checkExact(): void {
    const stored = this.stored();
    const numbers = [...this.snapshots.map(({ seq }) => seq), Infinity];
    for (const [key, versions] of this.truth) {
      if (versions.some(({ expiresAt }) => expiresAt !== 0)) continue;
      const seen = new Set<Version>();
      for (const number of numbers) {
        const newest = versions.findLast(({ seq }) => seq <= number);
        if (newest === undefined) continue;
        const isCleared = this.clears.some(
          (clear) => clear.seq > newest.seq && clear.seq <= number && covered(clear, key),
        );
        if (!isCleared) seen.add(newest);
      }
      // Oldest first: a tombstone stays if it hides something that stays.
      const kept: number[] = [];
      for (const version of versions) {
        if (seen.has(version) && (version.value !== undefined || kept.length > 0)) kept.push(version.seq);
      }
      const found = (stored.get(key) ?? []).flat().map(({ seq }) => seq);
      expect({ key, versions: found }).toEqual({ key, versions: kept.reverse() });
    }
  }

  files(): string[] {
    return this.env.list(DIRECTORY);
  }

  checkFiles(): void {
    const known = [...[...this.tables.keys()].map(tableName), ...[...this.blobs.keys()].map(blobName)];
    expect(this.files()).toEqual(known.sort());
  }
}
