/**
 * Looks at every byte of a tree: manifest, all blocks of all tables, filters, the blob records that entries refer to. Nothing is changed.
 * Threads: any; nobody may write to the tree meanwhile.
 */
import { ConcordError, toErrorRecord, type ErrorRecord } from '../../../shared/errors.js';
import type { Env } from '../../../shared/env/env.js';
import { BlobReader } from '../blob/blob-reader.js';
import { decodeBlobReference } from '../blob/format.js';
import { BlockBuffer } from '../table/block.js';
import { EntryFlag } from '../table/entry.js';
import { FILTER_LINE_BYTES, KeyHash, filterLine, lineMayContain, type FilterShape } from '../table/filter.js';
import { TableFile } from '../table/table-file.js';
import type { BlobFileInfo, BlobReference, LsmIdentity, TableInfo } from '../types.js';
import { blobName, blobNumber, tableName, tableNumber } from './names.js';
import { readCurrentManifest } from './read.js';
import type { LsmState } from './state.js';
import { TableWalk, isLoss } from './table-walk.js';

/** Keys are shown up to so many bytes. */
const SHOWN_KEY_BYTES = 40;

export interface TableVerification {
  readonly problems: readonly ErrorRecord[];
  /** What the table says of itself; undefined when it cannot be read. */
  readonly info: TableInfo | undefined;
  readonly entries: number;
  /** Numbers of blob files in which a record that the table refers to is not what was written. */
  readonly damagedBlobs: ReadonlySet<number>;
}

export interface TreeVerification {
  readonly problems: readonly ErrorRecord[];
  /** Undefined when the manifest cannot be read. */
  readonly state: LsmState | undefined;
  readonly entries: number;
  /** Tables that are not what was written, by number of the file. */
  readonly damagedTables: ReadonlySet<number>;
  readonly damagedBlobs: ReadonlySet<number>;
  /** Files that the manifest does not name: left by a crash, and removed at the next open. No problem. */
  readonly orphans: readonly string[];
}

/** A key for people: as text where it is text. */
export function shownKey(key: Uint8Array | undefined): string {
  if (key === undefined) return '(none)';
  const bytes = Buffer.from(key.buffer, key.byteOffset, Math.min(key.length, SHOWN_KEY_BYTES));
  const rest = key.length > SHOWN_KEY_BYTES ? `… (${key.length} bytes)` : '';
  const isText = bytes.every((byte) => byte >= 0x20 && byte < 0x7f);
  return isText ? JSON.stringify(bytes.toString('latin1')) + rest : `0x${bytes.toString('hex')}${rest}`;
}

/** The tree in a directory. Damage is listed; only what keeps one from looking is thrown. @throws ERR_PERMISSION, ERR_UNSUPPORTED */
export function verifyTree(env: Env, directory: string, identity: LsmIdentity): TreeVerification {
  const problems: ErrorRecord[] = [];
  let state: LsmState | undefined;
  try {
    ({ state } = readCurrentManifest(env, directory, identity));
  } catch (error) {
    if (!isProblem(error)) throw error;
    problems.push(toErrorRecord(error));
  }
  const names = env.exists(directory) ? env.list(directory) : [];
  const damagedTables = new Set<number>();
  const damagedBlobs = new Set<number>();
  let entries = 0;
  const blobs = new BlobFiles(env, directory, identity);
  try {
    for (const info of state?.blobs.values() ?? []) {
      for (const error of blobs.check(info.number, info)) {
        damagedBlobs.add(info.number);
        problems.push(toErrorRecord(error));
      }
    }
    // Without a manifest every table there is may be one of the tree's.
    const numbers =
      state === undefined ? names.map(tableNumber).filter((number) => number !== undefined) : [...state.tables.keys()];
    for (const number of numbers) {
      const table = verifyTable(env, directory, identity, number, blobs, state?.tables.get(number));
      entries += table.entries;
      if (table.problems.length > 0) damagedTables.add(number);
      for (const blob of table.damagedBlobs) damagedBlobs.add(blob);
      problems.push(...table.problems);
    }
  } finally {
    blobs.close();
  }
  const orphans = names.filter((name) => {
    const table = tableNumber(name);
    const blob = blobNumber(name);
    if (state === undefined) return false;
    return (table !== undefined && !state.tables.has(table)) || (blob !== undefined && !state.blobs.has(blob));
  });
  return { problems, state, entries, damagedTables, damagedBlobs, orphans };
}

function isProblem(error: unknown): boolean {
  return isLoss(error) || (error instanceof ConcordError && error.code === 'ERR_FORMAT_VERSION');
}

/** One table, with the records it refers to. `expected`: as the manifest has it. @throws ERR_PERMISSION, ERR_UNSUPPORTED */
export function verifyTable(
  env: Env,
  directory: string,
  identity: LsmIdentity,
  number: number,
  blobs: BlobFiles,
  expected?: TableInfo,
): TableVerification {
  const problems: ErrorRecord[] = [];
  const damagedBlobs = new Set<number>();
  const path = `${directory}/${tableName(number)}`;
  let table: TableFile;
  try {
    table = TableFile.open(env, path, identity, number, expected?.bytes);
  } catch (error) {
    if (!isProblem(error)) throw error;
    return { problems: [toErrorRecord(error)], info: undefined, entries: 0, damagedBlobs };
  }
  try {
    const wrong = (text: string): void => {
      problems.push(toErrorRecord(new ConcordError('ERR_CORRUPT', `${path}: ${text}`, { file: path, offset: 0 })));
    };
    const filters = new Filters(table, (error) => problems.push(toErrorRecord(error)));
    const counts = countEntries(
      table,
      filters,
      (error) => problems.push(toErrorRecord(error)),
      (reference) => {
        const error = blobs.checkRecord(reference);
        if (error === undefined) return;
        damagedBlobs.add(reference.file);
        problems.push(toErrorRecord(error));
      },
    );
    if (problems.length === 0) {
      for (const difference of differences(counts, table.info)) wrong(`its properties say ${difference}`);
      if (expected !== undefined) {
        // Where a table stands changes without its being written.
        const { level, run } = expected;
        const keys = expected.keys === 0 ? 0 : table.info.keys;
        for (const difference of differences({ ...table.info, level, run, keys }, expected))
          wrong(`the manifest says ${difference}`);
      }
    }
    return { problems, info: table.info, entries: counts.entries, damagedBlobs };
  } finally {
    table.close();
  }
}

type Counts = Omit<TableInfo, 'number' | 'level' | 'run' | 'bytes' | 'createdAt'>;

function countEntries(
  table: TableFile,
  filters: Filters,
  onDamage: (error: ConcordError) => void,
  onBlob: (reference: BlobReference) => void,
): Counts {
  const walk = new TableWalk(table, onDamage);
  const { cursor } = walk;
  let smallestKey: Uint8Array | undefined;
  const last = Buffer.alloc(4096);
  let lastLength = -1;
  let keys = 0;
  let entries = 0;
  let tombstones = 0;
  let rawBytes = 0;
  let smallestSeq = Infinity;
  let largestSeq = 0;
  let expiring = 0;
  let firstExpiry = Infinity;
  let lastExpiry = 0;
  const uses = new Map<number, number>();
  while (walk.next()) {
    const { key, keyLength, seq, flags, expiresAt } = cursor;
    smallestKey ??= new Uint8Array(key.subarray(0, keyLength));
    if (keyLength !== lastLength || last.compare(key, 0, keyLength, 0, keyLength) !== 0) {
      keys++;
      last.set(key.subarray(0, keyLength));
      lastLength = keyLength;
      if (!filters.has(key, keyLength))
        onDamage(cursor.damage(`key ${shownKey(key.subarray(0, keyLength))} is not in the filter`));
    }
    entries++;
    if ((flags & EntryFlag.tombstone) !== 0) tombstones++;
    rawBytes += keyLength;
    if ((flags & EntryFlag.blob) === 0) rawBytes += cursor.valueLength;
    else {
      const { valueStart } = cursor;
      const reference = decodeBlobReference(cursor.bytes, valueStart, valueStart + cursor.valueLength);
      if (reference === undefined) onDamage(cursor.damage('refers to no blob'));
      else {
        rawBytes += reference.valueBytes;
        uses.set(reference.file, (uses.get(reference.file) ?? 0) + reference.recordBytes);
        onBlob(reference);
      }
    }
    if (seq < smallestSeq) smallestSeq = seq;
    if (seq > largestSeq) largestSeq = seq;
    if (expiresAt > 0) {
      expiring++;
      if (expiresAt < firstExpiry) firstExpiry = expiresAt;
      if (expiresAt > lastExpiry) lastExpiry = expiresAt;
    }
  }
  return {
    keys,
    entries,
    tombstones,
    rawBytes,
    smallestKey: smallestKey ?? new Uint8Array(0),
    largestKey: Uint8Array.from(last.subarray(0, Math.max(0, lastLength))),
    smallestSeq: entries === 0 ? 0 : smallestSeq,
    largestSeq,
    expiring,
    firstExpiry: expiring === 0 ? 0 : firstExpiry,
    lastExpiry,
    blobs: [...uses].map(([file, bytes]) => ({ file, bytes })).sort((a, b) => a.file - b.file),
  };
}

/** In words, the fields of `expected` that are not so in `found`. */
function differences(found: Partial<TableInfo>, expected: TableInfo): string[] {
  const text = (value: unknown): string => (value instanceof Uint8Array ? shownKey(value) : JSON.stringify(value));
  return Object.entries(expected)
    .filter(([name, value]) => name in found && text(value) !== text(found[name as keyof TableInfo]))
    .map(([name, value]) => `${name} ${text(value)}, found ${text(found[name as keyof TableInfo])}`);
}

/** The filters of a table, in memory. */
class Filters {
  readonly #prefixBytes: number;
  readonly #filter: { readonly shape: FilterShape; readonly bytes: Uint8Array } | undefined;
  readonly #prefixFilter: { readonly shape: FilterShape; readonly bytes: Uint8Array } | undefined;
  readonly #hash = new KeyHash();

  constructor(table: TableFile, onDamage: (error: ConcordError) => void) {
    const { filter, prefixFilter, prefixFilterBytes } = table.layout;
    this.#prefixBytes = prefixFilterBytes;
    this.#filter = readFilter(table, filter, onDamage);
    this.#prefixFilter = readFilter(table, prefixFilter, onDamage);
  }

  has(key: Uint8Array, keyLength: number): boolean {
    const prefixBytes = this.#prefixBytes;
    if (!this.#mayContain(this.#filter, key, keyLength)) return false;
    return keyLength < prefixBytes || this.#mayContain(this.#prefixFilter, key, prefixBytes);
  }

  #mayContain(
    filter: { readonly shape: FilterShape; readonly bytes: Uint8Array } | undefined,
    key: Uint8Array,
    length: number,
  ): boolean {
    if (filter === undefined) return true;
    this.#hash.set(key, 0, length);
    const { partitions, partitionLines, probes } = filter.shape;
    const line = filterLine(this.#hash.h1, partitions * partitionLines);
    return lineMayContain(filter.bytes, line * FILTER_LINE_BYTES, this.#hash.h2, probes);
  }
}

function readFilter(
  table: TableFile,
  shape: FilterShape | undefined,
  onDamage: (error: ConcordError) => void,
): { readonly shape: FilterShape; readonly bytes: Uint8Array } | undefined {
  if (shape === undefined) return undefined;
  const partitionBytes = shape.partitionLines * FILTER_LINE_BYTES;
  const buffer = new BlockBuffer(0);
  try {
    const bytes = new Uint8Array(shape.partitions * partitionBytes);
    for (let partition = 0; partition < shape.partitions; partition++) {
      table.readFilter(shape, partition, buffer);
      bytes.set(buffer.bytes.subarray(0, partitionBytes), partition * partitionBytes);
    }
    return { shape, bytes };
  } catch (error) {
    if (!isLoss(error)) throw error;
    onDamage(error);
    return undefined;
  }
}

/** Blob files of a tree, each opened once. */
export class BlobFiles {
  readonly #env: Env;
  readonly #directory: string;
  readonly #identity: LsmIdentity;
  readonly #readers = new Map<number, BlobReader>();
  #value = new Uint8Array(64 << 10);

  constructor(env: Env, directory: string, identity: LsmIdentity) {
    this.#env = env;
    this.#directory = directory;
    this.#identity = identity;
  }

  /** What the file says of itself. @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO */
  info(number: number, expectedBytes?: number): BlobFileInfo {
    return this.#reader(number).readInfo(expectedBytes);
  }

  /** What is wrong with the file apart from its records. */
  check(number: number, expected: BlobFileInfo): ConcordError[] {
    const path = `${this.#directory}/${blobName(number)}`;
    try {
      const found = this.info(number, expected.bytes);
      const fields = ['bytes', 'records', 'recordBytes', 'createdAt'] as const;
      return fields
        .filter((field) => found[field] !== expected[field])
        .map((field) => {
          const text = `${path}: ${field} ${found[field]}, the manifest says ${expected[field]}`;
          return new ConcordError('ERR_CORRUPT', text, { file: path, offset: 0 });
        });
    } catch (error) {
      if (!isProblem(error)) throw error;
      return [error as ConcordError];
    }
  }

  checkRecord(reference: BlobReference): ConcordError | undefined {
    try {
      this.read(reference);
      return undefined;
    } catch (error) {
      if (!isLoss(error)) throw error;
      return error;
    }
  }

  /** The value, good until the next call. @throws ERR_CORRUPT, ERR_IO */
  read(reference: BlobReference): Uint8Array {
    const { valueBytes } = reference;
    const reader = this.#reader(reference.file);
    // A wrong length must not cost its memory: the first bytes are read, and all of the record checked, before.
    if (valueBytes > this.#value.length) {
      reader.read(reference, this.#value, 0, 0, 1);
      this.#value = new Uint8Array(valueBytes);
    }
    const read = reader.read(reference, this.#value, 0, 0, valueBytes);
    if (read !== valueBytes) {
      const file = `${this.#directory}/${blobName(reference.file)}`;
      const text = `${file} at ${reference.offset}: ${read} of ${valueBytes} bytes of a value`;
      throw new ConcordError('ERR_CORRUPT', text, { file, offset: reference.offset });
    }
    return this.#value.subarray(0, valueBytes);
  }

  close(): void {
    for (const reader of this.#readers.values()) reader.close();
    this.#readers.clear();
  }

  #reader(number: number): BlobReader {
    let reader = this.#readers.get(number);
    if (reader === undefined) {
      const path = `${this.#directory}/${blobName(number)}`;
      reader = BlobReader.open(this.#env, path, this.#identity, number);
      this.#readers.set(number, reader);
    }
    return reader;
  }
}
