/**
 * A small LSM-Tree for tests of its readers: memtables, tables and states made by hand, every version kept, and a model beside it.
 */
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import type { Env } from '../../../../dist/shared/env/env.js';
import { ArenaWriter, createArena, type ArenaLayout, type UnitId } from '../../../../dist/shared/memory/arena.js';
import { createPageCache, type PageCacheLayout } from '../../../../dist/shared/memory/page-cache.js';
import { TreeTable, type TreeCounts } from '../../../../dist/engines/btree/meta.js';
import { EngineCode, rowTag } from '../../../../dist/engines/engine.js';
import { MemtableWriter } from '../../../../dist/engines/memtable/writer.js';
import { TableWalk } from '../../../../dist/engines/memtable/walk.js';
import { encodeBlobReference } from '../../../../dist/engines/lsm/blob/format.js';
import { BlobWriter } from '../../../../dist/engines/lsm/blob/blob-writer.js';
import { blobName, tableName, treeDirectoryName } from '../../../../dist/engines/lsm/manifest/names.js';
import { buildState, retireState } from '../../../../dist/engines/lsm/memory/state-page.js';
import { retireTable } from '../../../../dist/engines/lsm/memory/table-meta.js';
import { buildVersion, retireVersion } from '../../../../dist/engines/lsm/memory/version-page.js';
import { LsmCursor } from '../../../../dist/engines/lsm/read/cursor.js';
import { LsmFiles } from '../../../../dist/engines/lsm/read/files.js';
import { LsmReader } from '../../../../dist/engines/lsm/read/reader.js';
import { EntryFlag } from '../../../../dist/engines/lsm/table/entry.js';
import { TableWriter } from '../../../../dist/engines/lsm/table/table-writer.js';
import type {
  BlockVerification,
  LsmIdentity,
  RangeTombstone,
  TableInfo,
  TableOptions,
} from '../../../../dist/engines/lsm/types.js';
import { installTable } from '../install-table.js';

export const SPACE = 3;
const MEMTABLE_SPACE = 7;
const TREE = 1;

export interface Version {
  readonly key: Uint8Array;
  readonly seq: number;
  /** Undefined: a tombstone. */
  readonly value: Uint8Array | undefined;
  readonly expiresAt: number;
}

export interface HarnessOptions {
  readonly env?: Env;
  readonly directory?: string;
  readonly memoryBytes?: number;
  /** 0: no cache. */
  readonly cacheBytes?: number;
  readonly resident?: boolean;
  readonly verifyBlocks?: BlockVerification;
  readonly table?: Partial<TableOptions>;
  /** Entries of one table. */
  readonly tableEntries?: number;
  /** Values from this size on go to blob files. */
  readonly blobValueBytes?: number;
  readonly shard?: number;
}

interface Installed {
  readonly info: TableInfo;
  readonly meta: UnitId;
}

export class Harness {
  readonly env: Env;
  readonly directory: string;
  readonly identity: LsmIdentity;
  readonly layout: ArenaLayout;
  readonly arena: ArenaWriter;
  readonly cache: PageCacheLayout | undefined;
  readonly options: HarnessOptions;
  readonly tableOptions: TableOptions;
  /** Newest first. */
  memtables: MemtableWriter[] = [];
  /** Newest first. */
  runs: Installed[][] = [];
  tombstones: RangeTombstone[] = [];
  blobFiles: number[] = [];
  seq = 0;
  state: UnitId = 0;
  version: UnitId = 0;
  #nextFile = 1;
  #nextCacheId = 1;
  #run = 0;
  #inGroup = false;
  readonly versions: Version[] = [];

  constructor(options: HarnessOptions = {}) {
    this.options = options;
    this.env = options.env ?? new MemEnv();
    this.directory = options.directory ?? '/shard';
    const shard = options.shard ?? 0;
    this.identity = { storeId: new Uint8Array(16).fill(7), shard, tree: TREE };
    this.cache = options.cacheBytes === 0 ? undefined : createPageCache({ bytes: options.cacheBytes ?? 4 << 20 });
    const layout = createArena({ memoryBytes: options.memoryBytes ?? 32 << 20 });
    this.layout = {
      ...layout,
      cold: {
        directory: this.directory,
        storeId: this.identity.storeId,
        shard,
        cache: this.cache,
        fileNumbers: new SharedArrayBuffer(64),
      },
    };
    this.arena = new ArenaWriter(this.layout);
    this.tableOptions = {
      blockBytes: 256,
      restartInterval: 4,
      compression: 'none',
      bitsPerKey: 10,
      prefixFilterBytes: 0,
      ...options.table,
    };
    this.env.makeDirectory(this.treeDirectory);
    TreeTable.of(this.arena).attach(0, { counts: () => this.#counts() });
    LsmFiles.attach(this.arena, this.env, this.layout.cold!, 1);
    this.#addMemtable();
    this.publish();
  }

  get treeDirectory(): string {
    return `${this.directory}/${treeDirectoryName(TREE)}`;
  }

  get files(): LsmFiles {
    return LsmFiles.of(this.arena, 1);
  }

  #counts(): TreeCounts {
    return {
      rootUnit: this.state,
      height: 0,
      order: 0,
      pageBytes: 4096,
      liveEntries: 0,
      liveKeyBytes: 0,
      liveValueBytes: 0,
      cells: 0,
      leafPages: 0,
      branchPages: 0,
      overflowPages: 0,
      treeUnits: 0,
      overflowUnits: 0,
      tag: rowTag(SPACE, EngineCode.lsm),
    };
  }

  #addMemtable(): void {
    const row = Math.max(1, TreeTable.of(this.arena).freeRow());
    this.memtables.unshift(
      new MemtableWriter(this.arena, row, MEMTABLE_SPACE, { keepTombstones: true, memtableBytes: 1 << 20 }),
    );
  }

  get active(): MemtableWriter {
    return this.memtables[0]!;
  }

  /** Numbers that versions are kept for; all of them. */
  #begin(): void {
    if (this.#inGroup) return;
    this.#inGroup = true;
    const count = this.keepsAll ? this.seq : 0;
    const snapshots = Float64Array.from({ length: count }, (_, index) => index + 1);
    this.active.setSnapshots(snapshots, count);
    this.active.beginGroup(this.seq, false);
  }

  /** Old versions stay for every number. */
  keepsAll = true;

  put(key: Uint8Array, value: Uint8Array, expiresAt = 0): number {
    this.#begin();
    const seq = ++this.seq;
    this.active.put(key, 0, key.length, value, 0, value.length, seq, expiresAt);
    this.versions.push({ key, seq, value, expiresAt });
    this.#deleted.delete(Buffer.from(key).toString('latin1'));
    this.publish();
    return seq;
  }

  del(key: Uint8Array): number {
    this.#begin();
    const seq = ++this.seq;
    this.active.del(key, 0, key.length, seq);
    // A tombstone upon a tombstone of the same memtable hides nothing more: it is left out.
    const name = Buffer.from(key).toString('latin1');
    if (!this.#deleted.has(name)) this.versions.push({ key, seq, value: undefined, expiresAt: 0 });
    this.#deleted.add(name);
    this.publish();
    return seq;
  }

  clear(low: Uint8Array | undefined, high: Uint8Array | undefined): number {
    const seq = ++this.seq;
    this.tombstones.push({ seq, low, high });
    this.renew();
    return seq;
  }

  /** Keys whose newest version in the active memtable is a tombstone. */
  readonly #deleted = new Set<string>();

  freeze(): void {
    this.#deleted.clear();
    this.active.freeze();
    this.#addMemtable();
    this.renew();
  }

  /** All memtables but the active one become runs, the oldest first. */
  flush(): void {
    while (this.memtables.length > 1) {
      const memtable = this.memtables.pop()!;
      const entries: Version[] = [];
      for (const walk = new TableWalk(this.arena, memtable.descriptorUnit); walk.next();) {
        const key = new Uint8Array(walk.keyLength);
        walk.copyKey(key, 0);
        const value = walk.isTombstone ? undefined : new Uint8Array(walk.copyValue());
        entries.push({ key, seq: walk.seq, value, expiresAt: walk.expiresAt });
      }
      if (entries.length > 0) this.runs.unshift(this.writeRun(entries, 0, ++this.#run));
      this.renew();
      memtable.destroy();
    }
  }

  /** Runs from … to (of the list, newest first) become one of that level; nothing is dropped. */
  merge(from: number, to: number, level: number): void {
    const merged = this.runs.slice(from, to);
    if (merged.length === 0) return;
    const numbers = new Set(merged.flat().map(({ info }) => info.number));
    const entries = this.entriesOfTables(numbers);
    const run = this.writeRun(entries, level, level === 0 ? merged[0]![0]!.info.run : 0);
    this.runs.splice(from, to - from, run);
    this.renew();
    for (const { meta, info } of merged.flat()) {
      retireTable(this.arena, meta);
      this.#entries.delete(info.number);
      this.#obsolete.push({ number: info.number, epoch: this.arena.unpublishedEpoch });
    }
    this.publish();
    this.removeObsolete();
  }

  #obsolete: { number: number; epoch: number }[] = [];

  /** Files of tables that no reader can come to any more. */
  removeObsolete(): void {
    this.arena.reclaim();
    const { safeEpoch } = this.arena;
    for (const { number, epoch } of this.#obsolete) {
      if (epoch <= safeEpoch) this.env.remove(`${this.treeDirectory}/${tableName(number)}`);
    }
    this.#obsolete = this.#obsolete.filter(({ epoch }) => epoch > safeEpoch);
  }

  readonly #entries = new Map<number, Version[]>();

  entriesOfTables(numbers: ReadonlySet<number>): Version[] {
    const entries = [...numbers].flatMap((number) => this.#entries.get(number)!);
    return entries.sort((a, b) => Buffer.compare(a.key, b.key) || b.seq - a.seq);
  }

  /** Tables of one run; entries in order. */
  writeRun(entries: readonly Version[], level: number, run: number): Installed[] {
    const tables: Installed[] = [];
    const most = this.options.tableEntries ?? Infinity;
    let from = 0;
    while (from < entries.length) {
      let to = Math.min(entries.length, from + most);
      // Versions of a key stay together.
      while (to < entries.length && Buffer.compare(entries[to]!.key, entries[to - 1]!.key) === 0) to++;
      tables.push(this.writeTable(entries.slice(from, to), level, run));
      from = to;
    }
    return tables;
  }

  writeTable(entries: readonly Version[], level: number, run: number): Installed {
    const number = this.#nextFile++;
    const writer = TableWriter.create(this.env, `${this.treeDirectory}/${tableName(number)}`, {
      identity: this.identity,
      number,
      level,
      run,
      options: this.tableOptions,
      createdAt: 1,
    });
    let blobs: BlobWriter | undefined;
    const reference = new Uint8Array(64);
    const none = new Uint8Array(0);
    for (const { key, seq, value, expiresAt } of entries) {
      if (value === undefined) {
        writer.add(key, key.length, none, 0, 0, seq, EntryFlag.tombstone, 0);
      } else if (value.length >= (this.options.blobValueBytes ?? Infinity)) {
        if (blobs === undefined) {
          const blobNumber = this.#nextFile++;
          blobs = BlobWriter.create(this.env, `${this.treeDirectory}/${blobName(blobNumber)}`, {
            identity: this.identity,
            number: blobNumber,
            compression: this.tableOptions.compression,
            createdAt: 1,
          });
          this.blobFiles.push(blobNumber);
        }
        const place = blobs.append(key, key.length, value, 0, value.length, seq);
        const length = encodeBlobReference(reference, 0, place);
        writer.add(key, key.length, reference, 0, length, seq, EntryFlag.blob, expiresAt);
      } else {
        writer.add(key, key.length, value, 0, value.length, seq, 0, expiresAt);
      }
    }
    blobs?.finish();
    const info = writer.finish();
    this.#entries.set(number, [...entries]);
    const meta = installTable(this.arena, this.env, this.treeDirectory, this.identity, info, this.#nextCacheId++, {
      resident: this.options.resident ?? true,
      verifyBlocks: this.options.verifyBlocks ?? 'always',
    });
    return { info, meta };
  }

  /** New version and state pages, published. */
  renew(): void {
    const { arena } = this;
    const oldVersion = this.version;
    this.version = buildVersion(arena, this.runs, this.blobFiles);
    this.publish();
    retireVersion(arena, oldVersion);
  }

  publish(): void {
    if (this.#inGroup) {
      const { descriptorUnit } = this.active;
      this.#inGroup = false;
      this.#publish(descriptorUnit !== this.#knownActive);
      this.active.endGroup();
    } else this.#publish(true);
  }

  #knownActive: UnitId = 0;

  #publish(isNew: boolean): void {
    const { arena } = this;
    const old = this.state;
    if (isNew) {
      this.state = buildState(arena, {
        tree: TREE,
        version: this.version,
        memtables: this.memtables.map((memtable) => memtable.descriptorUnit),
        tombstones: this.tombstones,
      });
      this.#knownActive = this.active.descriptorUnit;
    }
    TreeTable.of(arena).publish(this.seq);
    if (isNew) retireState(arena, old);
  }

  reader(slot = 0): LsmReader {
    return new LsmReader(this.arena, 0, SPACE, slot);
  }

  cursor(slot = 1): LsmCursor {
    return new LsmCursor(this.arena, 0, SPACE, slot);
  }

  /** What the model says of the key. */
  expected(key: Uint8Array, atSeq = Infinity, atMs = 1): Version | undefined {
    let newest: Version | undefined;
    for (const version of this.versions) {
      if (version.seq > atSeq || Buffer.compare(version.key, key) !== 0) continue;
      if (newest === undefined || version.seq > newest.seq) newest = version;
    }
    return newest !== undefined && this.#shows(newest, atSeq, atMs) ? newest : undefined;
  }

  #shows(version: Version, atSeq: number, atMs: number): boolean {
    if (version.value === undefined) return false;
    if (version.expiresAt !== 0 && version.expiresAt <= atMs) return false;
    return !this.tombstones.some(
      ({ seq, low, high }) =>
        seq <= atSeq &&
        seq > version.seq &&
        (low === undefined || Buffer.compare(version.key, low) >= 0) &&
        (high === undefined || Buffer.compare(version.key, high) < 0),
    );
  }

  /** All that shows, in key order. */
  expectedAll(atSeq = Infinity, atMs = 1): Version[] {
    const newest = new Map<string, Version>();
    for (const version of this.versions) {
      if (version.seq > atSeq) continue;
      const name = Buffer.from(version.key).toString('latin1');
      const known = newest.get(name);
      if (known === undefined || version.seq > known.seq) newest.set(name, version);
    }
    return [...newest.values()]
      .filter((version) => this.#shows(version, atSeq, atMs))
      .sort((a, b) => Buffer.compare(a.key, b.key));
  }
}

export function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** Key → what the reader says: seq and value. */
export function get(
  harness: Harness,
  reader: LsmReader,
  key: Uint8Array,
  atSeq = Infinity,
  atMs = 1,
): { seq: number; value: Buffer; expiresAt: number } | undefined {
  const { arena } = harness;
  const metaUnit = arena.pin(0);
  try {
    if (!reader.find(metaUnit, key, key.length, atSeq, atMs)) return undefined;
    return { seq: reader.seq, value: reader.copyValue(), expiresAt: reader.expiresAt };
  } finally {
    reader.release();
    arena.unpin(0);
  }
}
