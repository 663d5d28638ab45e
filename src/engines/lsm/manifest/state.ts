/**
 * What a tree consists of on disk, and the edits that lead from one state to the next. States never change: an edit makes a new one.
 * Threads: any; plain data.
 */
import type { BlobFileInfo, RangeTombstone, TableInfo } from '../types.js';
import { LSM_LEVELS } from '../types.js';
import { U48_MAX } from '../../../shared/codec/fixed.js';

export interface LsmState {
  readonly tables: ReadonlyMap<number, TableInfo>;
  readonly blobs: ReadonlyMap<number, BlobFileInfo>;
  /** In no order. */
  readonly tombstones: readonly RangeTombstone[];
  /** What the log says up to this number is in the tables, or in nothing any more. */
  readonly storedSeq: number;
  /** The lowest number of a file that was never given. */
  readonly nextFile: number;
  /** Whose entries these are, where that is known: for a repair that has lost the checkpoint, which otherwise says so. */
  readonly spaceId?: number | undefined;
}

/** Counts as a whole or not at all. Removals come first: a table that moves to another level is removed and added. */
export interface VersionEdit {
  readonly addedTables?: readonly TableInfo[];
  readonly removedTables?: readonly number[];
  readonly addedBlobs?: readonly BlobFileInfo[];
  readonly removedBlobs?: readonly number[];
  readonly addedTombstones?: readonly RangeTombstone[];
  readonly removedTombstones?: readonly RangeTombstone[];
  /** Never goes back. */
  readonly storedSeq?: number;
  readonly nextFile?: number;
  readonly spaceId?: number;
}

export const EMPTY_STATE: LsmState = {
  tables: new Map(),
  blobs: new Map(),
  tombstones: [],
  storedSeq: 0,
  nextFile: 1,
};

export const KEY_BYTES_MAX = 4096;
const U32_MAX = 2 ** 32 - 1;
export const FILE_NUMBER_MAX = U32_MAX;

/** The edit that makes the state from the empty one. */
export function snapshotEdit(state: LsmState): VersionEdit {
  return {
    addedTables: [...state.tables.values()],
    addedBlobs: [...state.blobs.values()],
    addedTombstones: state.tombstones,
    storedSeq: state.storedSeq,
    nextFile: state.nextFile,
    ...(state.spaceId === undefined ? {} : { spaceId: state.spaceId }),
  };
}

function isCount(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

function isUpTo(value: number, max: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= max;
}

function isKey(key: Uint8Array): boolean {
  return key.length <= KEY_BYTES_MAX;
}

/** What is wrong with the description of a table by itself. */
function tableProblem(table: TableInfo): string | undefined {
  const { number, level, run, entries, smallestKey, largestKey, blobs } = table;
  const name = `table ${number}`;
  if (!(isUpTo(number, FILE_NUMBER_MAX) && number >= 1)) return `${number} is no number of a file`;
  if (!isUpTo(level, LSM_LEVELS - 1)) return `${name}: there is no level ${level}`;
  if (!isCount(run) || (level > 0 && run !== 0)) return `${name}: run ${run} on level ${level}`;
  if (!(isCount(table.bytes) && table.bytes > 0)) return `${name}: ${table.bytes} bytes`;
  if (!(isCount(entries) && entries > 0)) return `${name}: ${entries} entries`;
  if (!(isCount(table.keys) && table.keys <= entries)) return `${name}: ${table.keys} keys, ${entries} entries`;
  if (!(isCount(table.tombstones) && table.tombstones <= entries)) {
    return `${name}: ${table.tombstones} tombstones among ${entries} entries`;
  }
  if (!isCount(table.rawBytes)) return `${name}: ${table.rawBytes} raw bytes`;
  if (!isKey(smallestKey) || !isKey(largestKey)) return `${name}: a key of more than ${KEY_BYTES_MAX} bytes`;
  if (Buffer.compare(smallestKey, largestKey) > 0) return `${name}: its smallest key is above its largest`;
  if (!isUpTo(table.largestSeq, U48_MAX) || !isUpTo(table.smallestSeq, table.largestSeq)) {
    return `${name}: numbers from ${table.smallestSeq} to ${table.largestSeq}`;
  }
  if (!(isCount(table.expiring) && table.expiring <= entries)) {
    return `${name}: ${table.expiring} of ${entries} entries expire`;
  }
  if (!isUpTo(table.lastExpiry, U48_MAX) || !isUpTo(table.firstExpiry, table.lastExpiry)) {
    return `${name}: times of expiry from ${table.firstExpiry} to ${table.lastExpiry}`;
  }
  if (!isUpTo(table.createdAt, U48_MAX)) return `${name}: created at ${table.createdAt}`;
  const seen = new Set<number>();
  for (const { file, bytes } of blobs) {
    if (!(isUpTo(file, FILE_NUMBER_MAX) && file >= 1) || !isCount(bytes))
      return `${name}: ${bytes} bytes of blob file ${file}`;
    if (seen.has(file)) return `${name}: blob file ${file} is named twice`;
    seen.add(file);
  }
  return undefined;
}

/** What is wrong with the description of a blob file by itself. */
function blobProblem({ number, bytes, records, recordBytes, createdAt }: BlobFileInfo): string | undefined {
  if (!(isUpTo(number, FILE_NUMBER_MAX) && number >= 1)) return `${number} is no number of a file`;
  if (!isCount(bytes) || !isCount(records) || !isCount(recordBytes) || recordBytes > bytes) {
    return `blob file ${number}: ${records} records of ${recordBytes} bytes in ${bytes}`;
  }
  if (!isUpTo(createdAt, U48_MAX)) return `blob file ${number}: created at ${createdAt}`;
  return undefined;
}

/** What is wrong with a range tombstone. */
function tombstoneProblem({ seq, low, high }: RangeTombstone): string | undefined {
  if (!(isUpTo(seq, U48_MAX) && seq > 0)) return `a range tombstone of number ${seq}`;
  for (const key of [low, high]) {
    if (key !== undefined && !isKey(key)) return `range tombstone ${seq}: a bound of more than ${KEY_BYTES_MAX} bytes`;
  }
  return undefined;
}

function sameBound(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return Buffer.compare(a, b) === 0;
}

function sameTombstone(a: RangeTombstone, b: RangeTombstone): boolean {
  return a.seq === b.seq && sameBound(a.low, b.low) && sameBound(a.high, b.high);
}

/** The state after the edit, or in words why the edit does not fit the state. Overlaps are not looked for: see checkState(). */
export function applyEdit(state: LsmState, edit: VersionEdit): LsmState | string {
  const tables = new Map(state.tables);
  const blobs = new Map(state.blobs);
  for (const number of edit.removedTables ?? []) {
    if (!tables.delete(number)) return `table ${number} is removed, and there is none`;
  }
  for (const number of edit.removedBlobs ?? []) {
    if (!blobs.delete(number)) return `blob file ${number} is removed, and there is none`;
  }
  const nextFile = edit.nextFile ?? state.nextFile;
  if (!isUpTo(nextFile, FILE_NUMBER_MAX) || nextFile < state.nextFile) {
    return `the next file goes from ${state.nextFile} to ${nextFile}`;
  }
  for (const blob of edit.addedBlobs ?? []) {
    const problem = blobProblem(blob);
    if (problem !== undefined) return problem;
    if (tables.has(blob.number) || blobs.has(blob.number)) return `file ${blob.number} is added twice`;
    if (blob.number >= nextFile) return `blob file ${blob.number} was not given out, the next is ${nextFile}`;
    blobs.set(blob.number, blob);
  }
  for (const table of edit.addedTables ?? []) {
    const problem = tableProblem(table);
    if (problem !== undefined) return problem;
    if (tables.has(table.number) || blobs.has(table.number)) return `file ${table.number} is added twice`;
    if (table.number >= nextFile) return `table ${table.number} was not given out, the next is ${nextFile}`;
    tables.set(table.number, table);
  }
  let tombstones = state.tombstones;
  for (const removed of edit.removedTombstones ?? []) {
    const at = tombstones.findIndex((tombstone) => sameTombstone(tombstone, removed));
    if (at < 0) return `range tombstone ${removed.seq} is removed, and there is none`;
    tombstones = tombstones.toSpliced(at, 1);
  }
  for (const added of edit.addedTombstones ?? []) {
    const problem = tombstoneProblem(added);
    if (problem !== undefined) return problem;
    if (tombstones.some((tombstone) => sameTombstone(tombstone, added))) {
      return `range tombstone ${added.seq} is added twice`;
    }
    tombstones = [...tombstones, added];
  }
  const storedSeq = edit.storedSeq ?? state.storedSeq;
  if (!isUpTo(storedSeq, U48_MAX) || storedSeq < state.storedSeq) {
    return `the stored number goes from ${state.storedSeq} to ${storedSeq}`;
  }
  const spaceId = edit.spaceId ?? state.spaceId;
  if (spaceId !== undefined && !isUpTo(spaceId, U32_MAX)) return `${spaceId} is no space`;
  return { tables, blobs, tombstones, storedSeq, nextFile, ...(spaceId === undefined ? {} : { spaceId }) };
}

/** The runs of a level or of a run of level 0, in key order: overlaps are told. */
function overlapsOf(name: string, tables: TableInfo[]): string[] {
  const problems: string[] = [];
  tables.sort((a, b) => Buffer.compare(a.smallestKey, b.smallestKey));
  for (let at = 1; at < tables.length; at++) {
    const before = tables[at - 1]!;
    const table = tables[at]!;
    if (Buffer.compare(before.largestKey, table.smallestKey) >= 0) {
      problems.push(`${name}: table ${before.number} and table ${table.number} overlap`);
    }
  }
  return problems;
}

/** Tables by run, newest run first: those of level 0, then the other levels. Each in key order. Runs without tables are left out. */
export function runsOf(state: Pick<LsmState, 'tables'>): { level: number; run: number; tables: TableInfo[] }[] {
  const runs = new Map<number, { level: number; run: number; tables: TableInfo[] }>();
  for (const table of state.tables.values()) {
    // Runs count up from 0; levels go below them.
    const key = table.level === 0 ? table.run : -table.level;
    const run = runs.get(key);
    if (run === undefined) runs.set(key, { level: table.level, run: table.run, tables: [table] });
    else run.tables.push(table);
  }
  const sorted = [...runs.values()].sort((a, b) => a.level - b.level || b.run - a.run);
  for (const { tables } of sorted) tables.sort((a, b) => Buffer.compare(a.smallestKey, b.smallestKey));
  return sorted;
}

/**
 * Problems of a state, empty when it is sound: tables of a level or of a run of level 0 overlap, an entry refers to a blob file that is not there.
 * `touched`: only the runs that the edit adds to.
 */
export function checkState(state: LsmState, touched?: VersionEdit): string[] {
  const problems: string[] = [];
  const isTouched = (level: number, run: number): boolean =>
    touched === undefined || (touched.addedTables ?? []).some((table) => table.level === level && table.run === run);
  for (const { level, run, tables } of runsOf(state)) {
    if (isTouched(level, run)) problems.push(...overlapsOf(level === 0 ? `run ${run}` : `level ${level}`, tables));
  }
  for (const { number, blobs } of state.tables.values()) {
    for (const { file, bytes } of blobs) {
      const blob = state.blobs.get(file);
      if (blob === undefined) problems.push(`table ${number} refers to blob file ${file}, and there is none`);
      else if (bytes > blob.recordBytes) {
        problems.push(`table ${number} uses ${bytes} bytes of blob file ${file}, which has ${blob.recordBytes}`);
      }
    }
  }
  return problems;
}
