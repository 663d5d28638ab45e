/**
 * The files of one LSM-Tree and what of them stands in shared memory: manifest, pages of tables, the version that is published, files that wait for their
 * last reader.
 *
 *   prepare(tables)…  pages of new tables, a slice at a time
 *   change(edit)      what of them is missing · new version · the caller's state page · the manifest (synced) ──▶ the caller publishes
 *                     what may fail comes before the manifest; what comes after it cannot fail
 *
 * Files that an edit removes are deleted when every reader that may have seen the version before has left: when ArenaWriter.safeEpoch has passed the
 * epoch in which the new version was made. Numbers of files never come twice, so what a dead predecessor's job still writes is nobody's.
 *
 * Threads: the shard's thread only.
 */
import { ConcordError } from '../../shared/errors.js';
import type { UnitId } from '../../shared/memory/arena.js';
import { removeTreeDirectory, type LsmSite } from './attach.js';
import { shapeOf, type TreeShape } from './compaction/debt.js';
import { LsmManifest, removeOrphans, type LsmState, type VersionEdit } from './manifest/manifest.js';
import { blobName, tableName } from './manifest/names.js';
import { runsOf } from './manifest/state.js';
import { TableInstallation, retireTable, tableMetaUnits, tableUnits } from './memory/table-meta.js';
import { buildVersion, readVersion, retireVersion } from './memory/version-page.js';
import type { BlockVerification, LsmIdentity, LsmJobResult, TableInfo } from './types.js';

/** Metadata of tables is kept in memory within this share of the arena; beyond it blocks of it come through the cache. */
const RESIDENT_SHARE = 4;
/** Files deleted between two groups: each takes milliseconds where freed blocks are discarded. */
const DELETIONS_PER_SLICE = 1;
/** Of filters and indexes, read between two groups: two or three milliseconds. */
const PREPARED_BYTES_PER_SLICE = 64 * 1024;

interface InstalledTable {
  readonly unit: UnitId;
  /** Counted in LsmSite.residentUnits. */
  readonly residentUnits: number;
}

/** A table on its way, while no slice of it is at work. */
interface TableInProgress {
  readonly installation: TableInstallation;
  /** Counted in LsmSite.residentUnits until it is known. */
  readonly expectedUnits: number;
}

interface ObsoleteFile {
  readonly name: string;
  readonly epoch: number;
}

export class LsmTree {
  readonly number: number;
  readonly directory: string;
  readonly identity: LsmIdentity;
  readonly #site: LsmSite;
  readonly #verifyBlocks: BlockVerification;
  readonly #manifest: LsmManifest;
  /** By number of the file. */
  #installed = new Map<number, InstalledTable>();
  /** Those that an edit to come will add, as prepare() has left them. */
  readonly #prepared = new Map<number, InstalledTable>();
  readonly #inProgress = new Map<number, TableInProgress>();
  /** 0: no table. */
  #version: UnitId = 0;
  #obsolete: ObsoleteFile[] = [];
  /** Files that the manifest does not name and that were here before: they go when readers of before have left. */
  #orphansAfterEpoch: number;
  readonly #orphansBelow: number;
  #shape: TreeShape | undefined;

  private constructor(site: LsmSite, number: number, manifest: LsmManifest, verifyBlocks: BlockVerification) {
    this.#site = site;
    this.#verifyBlocks = verifyBlocks;
    this.number = number;
    this.directory = manifest.directory;
    this.identity = manifest.identity;
    this.#manifest = manifest;
    this.#orphansBelow = manifest.state.nextFile;
    this.#orphansAfterEpoch = site.adopted ? site.arena.unpublishedEpoch : 0;
  }

  /** @throws ERR_IO, ERR_DISK_FULL, ERR_PERMISSION */
  static create(site: LsmSite, verifyBlocks: BlockVerification): LsmTree {
    const number = site.takeTree();
    try {
      return LsmTree.#open(site, number, true, verifyBlocks);
    } catch (error) {
      // Nobody knows of it, and the next attempt takes another number.
      removeTreeDirectory(site.env, site.directoryOf(number));
      throw error;
    }
  }

  /**
   * The tree as its manifest has it, its tables installed. `version`: of a predecessor, published in the arena; 0: none.
   * @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO, ERR_MEMORY_FULL
   */
  static open(site: LsmSite, number: number, version: UnitId, verifyBlocks: BlockVerification): LsmTree {
    const tree = LsmTree.#open(site, number, false, verifyBlocks);
    try {
      tree.#install(version);
    } catch (error) {
      tree.#manifest.close();
      throw error;
    }
    return tree;
  }

  static #open(site: LsmSite, number: number, create: boolean, verifyBlocks: BlockVerification): LsmTree {
    const { env, storeId, shard, readOnly } = site;
    const directory = site.directoryOf(number);
    const identity: LsmIdentity = { storeId, shard, tree: number };
    return new LsmTree(site, number, LsmManifest.open(env, directory, identity, { create, readOnly }), verifyBlocks);
  }

  get state(): LsmState {
    return this.#manifest.state;
  }

  get version(): UnitId {
    return this.#version;
  }

  get shape(): TreeShape {
    return (this.#shape ??= shapeOf([...this.state.tables.values()]));
  }

  /** Of table metadata, an estimate. */
  get residentUnits(): number {
    let units = 0;
    for (const installed of this.#installed.values()) units += installed.residentUnits;
    return units;
  }

  get obsoleteFiles(): number {
    return this.#obsolete.length;
  }

  // ---- opening ----------------------------------------------------------------------------------------------------------------------

  #install(adopted: UnitId): void {
    const { arena } = this.#site;
    const known = adopted === 0 ? new Map<number, UnitId>() : readVersion(arena, adopted);
    const tables = [...this.state.tables.values()];
    const isSame = adopted !== 0 && known.size === tables.length && tables.every(({ number }) => known.has(number));
    for (const table of tables) {
      const unit = known.get(table.number);
      if (unit === undefined) this.#installed.set(table.number, this.#installTable(table));
      else this.#adoptTable(table, unit);
    }
    // The levels of a version are not looked at: a table may have moved without being published.
    this.#version = this.#buildVersion(this.state, this.#installed);
    if (adopted !== 0) retireVersion(arena, adopted);
    if (isSame) return;
    for (const [number, unit] of known) {
      if (this.state.tables.has(number)) continue;
      retireTable(arena, unit);
    }
  }

  #adoptTable({ number }: TableInfo, unit: UnitId): void {
    const residentUnits = tableUnits(this.#site.arena, unit);
    this.#site.residentUnits += residentUnits;
    this.#installed.set(number, { unit, residentUnits });
  }

  // ---- changes ----------------------------------------------------------------------------------------------------------------------

  /** Numbers of files, the first of so many in a row. @throws ERR_IO, ERR_DISK_FULL */
  takeFiles(count: number): number {
    return this.#manifest.takeFiles(count);
  }

  /**
   * A slice of making the pages of tables that a change() to come will add, which then has little to do. True: nothing is missing. When it throws, nothing is
   * left of what was prepared. @throws ERR_MEMORY_FULL, ERR_IO, ERR_CORRUPT
   */
  prepare(tables: readonly TableInfo[]): boolean {
    const { arena } = this.#site;
    const before = arena.reserveMode;
    arena.reserveMode = true;
    let bytes = PREPARED_BYTES_PER_SLICE;
    try {
      for (const info of tables) {
        if (this.#installed.has(info.number) || this.#prepared.has(info.number)) continue;
        bytes = this.#prepareTable(info, bytes);
        if (bytes <= 0) return false;
      }
      return true;
    } catch (error) {
      this.#dropPrepared();
      throw error;
    } finally {
      arena.reserveMode = before;
    }
  }

  /** Goes on with a table by about so many bytes. Returns what is left of them; 0: there is more to do. */
  #prepareTable(info: TableInfo, bytes: number): number {
    const site = this.#site;
    const { number } = info;
    const table = this.#takeInProgress(number) ?? this.#beginTable(info);
    const { installation, expectedUnits } = table;
    const left = installation.advance(bytes);
    if (left <= 0) {
      site.residentUnits += expectedUnits;
      this.#inProgress.set(number, table);
      return 0;
    }
    const { unit } = installation;
    const residentUnits = tableUnits(site.arena, unit);
    site.residentUnits += residentUnits;
    this.#prepared.set(number, { unit, residentUnits });
    return left;
  }

  /**
   * Makes the edit. `show` makes the page that leads to the new version, and is called once; what it returns is handed back when the edit is durable. When
   * anything throws, nothing has changed but what `show` made, which `undo` takes back.
   * @throws ERR_MEMORY_FULL, ERR_IO, ERR_DISK_FULL, ERR_CORRUPT (a new table is not what was written)
   */
  change<T>(edit: VersionEdit, show: (version: UnitId) => T, undo: (shown: T) => void): T {
    const { arena } = this.#site;
    const added = (edit.addedTables ?? []).filter(({ number }) => !this.#installed.has(number));
    const removed = new Set(edit.removedTables ?? []);
    for (const { number } of edit.addedTables ?? []) removed.delete(number);
    const hasFiles = [edit.addedTables, edit.removedTables, edit.addedBlobs, edit.removedBlobs].some(
      (files) => files !== undefined && files.length > 0,
    );
    const before = arena.reserveMode;
    arena.reserveMode = true;
    const fresh = new Map<number, InstalledTable>();
    let version = this.#version;
    let shown: { readonly value: T } | undefined;
    try {
      for (const table of added) fresh.set(table.number, this.#installTable(table));
      if (hasFiles) version = this.#buildVersion(this.#filesAfter(edit), new Map([...this.#installed, ...fresh]));
      shown = { value: show(version) };
      this.#site.syncLog();
      this.#manifest.append(edit);
    } catch (error) {
      if (shown !== undefined) undo(shown.value);
      if (version !== this.#version) retireVersion(arena, version);
      for (const table of fresh.values()) this.#forget(table);
      throw error;
    } finally {
      arena.reserveMode = before;
    }
    if (version !== this.#version) {
      if (this.#version !== 0) retireVersion(arena, this.#version);
      this.#version = version;
      this.#shape = undefined;
    }
    for (const [number, table] of fresh) this.#installed.set(number, table);
    const epoch = arena.unpublishedEpoch;
    for (const number of removed) {
      const table = this.#installed.get(number);
      this.#installed.delete(number);
      if (table !== undefined) this.#forget(table);
      this.#obsolete.push({ name: tableName(number), epoch });
    }
    for (const number of edit.removedBlobs ?? []) this.#obsolete.push({ name: blobName(number), epoch });
    return shown.value;
  }

  #filesAfter(edit: VersionEdit): Pick<LsmState, 'tables' | 'blobs'> {
    const tables = new Map(this.state.tables);
    for (const number of edit.removedTables ?? []) tables.delete(number);
    for (const table of edit.addedTables ?? []) tables.set(table.number, table);
    const blobs = new Map(this.state.blobs);
    for (const number of edit.removedBlobs ?? []) blobs.delete(number);
    for (const blob of edit.addedBlobs ?? []) blobs.set(blob.number, blob);
    return { tables, blobs };
  }

  #buildVersion(state: Pick<LsmState, 'tables' | 'blobs'>, installed: ReadonlyMap<number, InstalledTable>): UnitId {
    if (state.tables.size === 0) return 0;
    const runs = runsOf(state).map(({ tables }) =>
      tables.map((info) => ({ info, meta: installed.get(info.number)!.unit })),
    );
    return buildVersion(this.#site.arena, runs, [...state.blobs.keys()]);
  }

  /** With all its pages, whether they were prepared or not. */
  #installTable(info: TableInfo): InstalledTable {
    if (!this.#prepared.has(info.number)) this.#prepareTable(info, Infinity);
    const table = this.#prepared.get(info.number)!;
    this.#prepared.delete(info.number);
    return table;
  }

  #beginTable(info: TableInfo): TableInProgress {
    const site = this.#site;
    const { arena, env } = site;
    const expectedUnits = tableMetaUnits(info, { resident: true });
    const resident = site.residentUnits + expectedUnits <= Math.floor(arena.totalUnits / RESIDENT_SHARE);
    const cacheId = site.takeCacheId();
    const options = { resident, verifyBlocks: this.#verifyBlocks };
    const installation = new TableInstallation(arena, env, this.directory, this.identity, info, cacheId, options);
    return { installation, expectedUnits: resident ? expectedUnits : 0 };
  }

  /** Not counted any more. */
  #takeInProgress(number: number): TableInProgress | undefined {
    const table = this.#inProgress.get(number);
    if (table === undefined) return undefined;
    this.#inProgress.delete(number);
    this.#site.residentUnits -= table.expectedUnits;
    return table;
  }

  #dropPrepared(): void {
    for (const number of [...this.#inProgress.keys()]) this.#takeInProgress(number)!.installation.abort();
    for (const table of this.#prepared.values()) this.#forget(table);
    this.#prepared.clear();
  }

  #forget({ unit, residentUnits }: InstalledTable): void {
    this.#site.residentUnits -= residentUnits;
    retireTable(this.#site.arena, unit);
  }

  // ---- files that go ----------------------------------------------------------------------------------------------------------------

  /** Whether deleteObsolete() would do something. */
  get hasObsolete(): boolean {
    if (this.#site.readOnly || !this.#manifest.isSettled) return false;
    const { safeEpoch } = this.#site.arena;
    if (this.#orphansAfterEpoch <= safeEpoch) return true;
    return this.#obsolete.length > 0 && this.#obsolete[0]!.epoch <= safeEpoch;
  }

  /** Deletes up to so many of the files that no reader can see any more. What cannot be deleted is an orphan for the next open. */
  deleteObsolete(limit = DELETIONS_PER_SLICE): void {
    const { env, arena, readOnly } = this.#site;
    // Of an edit that failed it may not be known whether it is made.
    if (readOnly || !this.#manifest.isSettled) return;
    if (this.#orphansAfterEpoch <= arena.safeEpoch) {
      this.#orphansAfterEpoch = Infinity;
      const waiting = new Set(this.#obsolete.map(({ name }) => name));
      const isKept = (number: number): boolean =>
        number >= this.#orphansBelow || waiting.has(tableName(number)) || waiting.has(blobName(number));
      attempt(() => removeOrphans(env, this.directory, this.state, isKept));
    }
    let count = 0;
    while (count < limit && count < this.#obsolete.length) {
      const { name, epoch } = this.#obsolete[count]!;
      if (epoch > arena.safeEpoch) break;
      count++;
      attempt(() => {
        env.remove(`${this.directory}/${name}`);
      });
    }
    if (count > 0) this.#obsolete.splice(0, count);
  }

  /** What a job has written and nobody wants. */
  deleteFiles({ tables, blobs }: Pick<LsmJobResult, 'tables' | 'blobs'>): void {
    const { env } = this.#site;
    if (!this.#manifest.isSettled) return;
    for (const name of [
      ...tables.map(({ number }) => tableName(number)),
      ...blobs.map(({ number }) => blobName(number)),
    ]) {
      attempt(() => {
        env.remove(`${this.directory}/${name}`);
      });
    }
  }

  /** What a failed job may have left under the numbers that it had. */
  deleteLeftovers(firstFile: number, files: number): void {
    const { env } = this.#site;
    if (!this.#manifest.isSettled) return;
    const { tables, blobs } = this.state;
    attempt(() => {
      const names = new Set(env.list(this.directory));
      for (let number = firstFile; number < firstFile + files; number++) {
        const table = tableName(number);
        const blob = blobName(number);
        if (names.has(table) && !tables.has(number)) env.remove(`${this.directory}/${table}`);
        if (names.has(blob) && !blobs.has(number)) env.remove(`${this.directory}/${blob}`);
      }
    });
  }

  // ---- the end ----------------------------------------------------------------------------------------------------------------------

  /** Gives the pages back. The caller has retired what led to them. */
  retirePages(): void {
    if (this.#version !== 0) retireVersion(this.#site.arena, this.#version);
    this.#version = 0;
    this.#dropPrepared();
    for (const table of this.#installed.values()) this.#forget(table);
    this.#installed = new Map();
  }

  close(): void {
    this.#dropPrepared();
    this.#manifest.close();
  }
}

/** Deleting is never needed for anything but space. */
function attempt(work: () => void): void {
  try {
    work();
  } catch (error) {
    if (!(error instanceof ConcordError) || error.code === 'ERR_INTERNAL') throw error;
  }
}
