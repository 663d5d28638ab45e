/**
 * What a job writes: versions in order go in, those that must stay come out as tables, large values as blob files.
 *
 *   offer(key, …) ──▶ VersionRules ──▶ tombstones wait for what they may hide ──▶ blob or not ──▶ TableWriter
 *
 * Tables are cut between keys, never within the versions of one: when one has tableBytes, when it overlaps more than ten tables' worth of the next
 * level (merging it there would be dear), a little early where a table of the next level ends (then the two do not meet later), and at the bounds of range
 * tombstones: tables on either side of a bound let the tombstone go as soon as nothing older lies within.
 *
 * A job has a fixed stock of file numbers. When only the last is left a table grows instead of being cut.
 *
 * Threads: the job's. After an error the caller calls abort().
 */
import { posix } from 'node:path';
import { ConcordError } from '../../../shared/errors.js';
import { compareKeyTo } from '../compaction/ranges.js';
import { BLOB_REFERENCE_BYTES_MAX, decodeBlobReference, encodeBlobReference } from '../blob/reference.js';
import { BlobReader } from '../blob/blob-reader.js';
import { BlobWriter } from '../blob/blob-writer.js';
import { blobName, tableName } from '../manifest/names.js';
import { EntryFlag, KEY_BYTES_MAX } from '../table/entry.js';
import { TableWriter } from '../table/table-writer.js';
import type { BlobFileInfo, BlobReference, LsmIdentity, LsmJobResult, TableInfo, TableOptions } from '../types.js';
import type { JobEnv } from './job-env.js';
import { Verdict, type VersionRules } from './versions.js';

/** Tables' worth of the next level that one table may overlap. */
const GRANDPARENT_TABLES_MAX = 10;
/** Part of tableBytes from which on a table ends where one of the next level does. */
const ALIGNED_CUT_SHARE = 0.6;
/** Versions between two looks at the cancel word: some milliseconds. */
const CANCEL_INTERVAL = 4096;
/** Larger values go to blob files piece by piece. */
export const PIECE_BYTES = 256 * 1024;
const NO_BYTES = new Uint8Array(0);

export interface JobOutputParameters {
  readonly directory: string;
  readonly identity: LsmIdentity;
  readonly level: number;
  readonly run: number;
  readonly firstFile: number;
  readonly files: number;
  readonly options: TableOptions;
  readonly tableBytes: number;
  readonly blobValueBytes: number;
  readonly blobFileBytes: number;
  readonly grandparents: readonly TableInfo[];
  readonly collectBlobs: readonly number[];
  readonly createdAt: number;
  readonly nowMs: number;
}

export class JobOutput {
  #entriesIn = 0;
  #entriesOut = 0;
  readonly #startedMs: number;
  /** Of the entry offered last: key[0, keyLength). */
  readonly #key = new Uint8Array(KEY_BYTES_MAX);
  #keyLength = -1;
  /** Numbers of tombstones of the key that go if nothing older is kept. */
  readonly #waiting: number[] = [];
  #isBelowKnown = false;
  #mayBeBelow = false;
  #isKeyWritten = false;

  readonly #env: JobEnv;
  readonly #parameters: JobOutputParameters;
  readonly #rules: VersionRules;
  // Asked for each entry: parameters of another job may be an object of another shape.
  readonly #tableBytes: number;
  readonly #blobValueBytes: number;
  readonly #grandparents: readonly TableInfo[];
  readonly #tables: TableInfo[] = [];
  readonly #blobs: BlobFileInfo[] = [];
  #table: TableWriter | undefined;
  #blob: BlobWriter | undefined;
  #nextFile: number;
  readonly #endOfFiles: number;
  readonly #alignedCutBytes: number;
  #place = 0;
  #grandparent = 0;
  #overlapBytes = 0;
  #toCancelCheck = CANCEL_INTERVAL;
  readonly #collect: ReadonlySet<number>;
  readonly #readers = new Map<number, BlobReader>();
  #value: Uint8Array = NO_BYTES;
  readonly #reference = new Uint8Array(BLOB_REFERENCE_BYTES_MAX);

  constructor(env: JobEnv, rules: VersionRules, parameters: JobOutputParameters) {
    this.#env = env;
    this.#startedMs = env.now();
    this.#rules = rules;
    this.#parameters = parameters;
    this.#tableBytes = parameters.tableBytes;
    this.#blobValueBytes = parameters.blobValueBytes;
    this.#grandparents = parameters.grandparents;
    this.#nextFile = parameters.firstFile;
    this.#endOfFiles = parameters.firstFile + parameters.files;
    this.#alignedCutBytes = parameters.tableBytes * ALIGNED_CUT_SHARE;
    this.#collect = new Set(parameters.collectBlobs);
  }

  /** Whether the version must be written; then write() follows with its value, or nothing does if it is false. */
  offer(key: Uint8Array, keyLength: number, seq: number, flags: number, expiresAt: number): boolean {
    this.#entriesIn++;
    if (--this.#toCancelCheck === 0) {
      this.#toCancelCheck = CANCEL_INTERVAL;
      this.#env.checkCancelled();
    }
    if (!this.#isSameKey(key, keyLength)) this.#beginKey(key, keyLength);
    const verdict = this.#rules.judge(seq, flags, expiresAt);
    if (verdict === Verdict.keep) {
      if (this.#waiting.length > 0) this.#writeWaiting();
      return true;
    }
    if (verdict === Verdict.tombstone) {
      if (!this.#isBelowKnown) {
        this.#isBelowKnown = true;
        this.#mayBeBelow = this.#rules.mayBeBelow(key, keyLength);
      }
      if (this.#mayBeBelow) this.#add(NO_BYTES, 0, 0, seq, EntryFlag.tombstone, 0);
      else this.#waiting.push(seq);
    }
    return false;
  }

  /** The value of the version that offer() asked for. */
  write(
    value: Uint8Array,
    valueStart: number,
    valueLength: number,
    seq: number,
    flags: number,
    expiresAt: number,
  ): void {
    if ((flags & EntryFlag.blob) !== 0) {
      if (this.#collect.size > 0) this.#moveBlob(value, valueStart, valueLength, seq, flags, expiresAt);
      else this.#add(value, valueStart, valueLength, seq, flags, expiresAt);
    } else if (valueLength >= this.#blobValueBytes) {
      const reference = this.#blobFor().append(this.#key, this.#keyLength, value, valueStart, valueLength, seq);
      this.#addReference(encodeBlobReference(this.#reference, 0, reference), seq, flags, expiresAt);
    } else this.#add(value, valueStart, valueLength, seq, flags, expiresAt);
  }

  /** Whether a value of this size goes to a blob file: it may come in pieces. */
  isBlob(valueLength: number): boolean {
    return valueLength >= this.#blobValueBytes;
  }

  /** In place of write(): the value comes by piece(), then endPieces(). */
  beginPieces(valueLength: number, seq: number): void {
    this.#blobFor().begin(this.#key, this.#keyLength, valueLength, seq);
  }

  piece(bytes: Uint8Array, start: number, length: number): void {
    this.#blob!.piece(bytes, start, length);
  }

  endPieces(seq: number, flags: number, expiresAt: number): void {
    this.#addReference(encodeBlobReference(this.#reference, 0, this.#blob!.end()), seq, flags, expiresAt);
  }

  /** All of it is written, synced and has its names. Of the job: what it read and wrote, and how long it took since this was made. */
  finish(): LsmJobResult {
    this.#waiting.length = 0;
    this.#endTable();
    this.#endBlob();
    this.#closeReaders();
    if (this.#env.hasCreated) this.#env.syncDirectory(this.#parameters.directory);
    this.#env.checkCancelled();
    const { readBytes, writtenBytes } = this.#env;
    return {
      tables: this.#tables,
      blobs: this.#blobs,
      readBytes,
      writtenBytes,
      entriesIn: this.#entriesIn,
      entriesOut: this.#entriesOut,
      durationMs: Math.max(0, this.#env.now() - this.#startedMs),
    };
  }

  /** Nothing of it stays. Never throws. */
  abort(): void {
    for (const writer of [this.#table, this.#blob]) {
      try {
        writer?.abort();
      } catch {
        // What is left is removed by its name.
      }
    }
    this.#table = undefined;
    this.#blob = undefined;
    try {
      this.#closeReaders();
    } catch {
      // A handle that does not close has nothing to lose.
    }
    this.#env.removeCreated();
  }

  #isSameKey(key: Uint8Array, keyLength: number): boolean {
    if (keyLength !== this.#keyLength) return false;
    const own = this.#key;
    // Keys differ at their end more often than at their beginning.
    for (let index = keyLength - 1; index >= 0; index--) if (own[index] !== key[index]) return false;
    return true;
  }

  #beginKey(key: Uint8Array, keyLength: number): void {
    // Tombstones still waiting have nothing to hide. The length of an array is dear to set.
    if (this.#waiting.length > 0) this.#waiting.length = 0;
    this.#isBelowKnown = false;
    this.#isKeyWritten = false;
    const own = this.#key;
    if (keyLength <= 64) for (let index = 0; index < keyLength; index++) own[index] = key[index]!;
    else own.set(keyLength === key.length ? key : key.subarray(0, keyLength));
    this.#keyLength = keyLength;
    this.#rules.beginKey(key, keyLength);
  }

  #writeWaiting(): void {
    const waiting = this.#waiting;
    for (let index = 0; index < waiting.length; index++) {
      this.#add(NO_BYTES, 0, 0, waiting[index]!, EntryFlag.tombstone, 0);
    }
    waiting.length = 0;
  }

  #add(
    value: Uint8Array,
    valueStart: number,
    valueLength: number,
    seq: number,
    flags: number,
    expiresAt: number,
  ): void {
    if (!this.#isKeyWritten) {
      this.#isKeyWritten = true;
      if (this.#cutsBefore()) this.#endTable();
    }
    const table = (this.#table ??= this.#beginTable());
    table.add(this.#key, this.#keyLength, value, valueStart, valueLength, seq, flags, expiresAt);
    this.#entriesOut++;
  }

  #addReference(length: number, seq: number, flags: number, expiresAt: number): void {
    this.#add(this.#reference, 0, length, seq, flags | EntryFlag.blob, expiresAt);
  }

  /** Before the first version of the key at hand. */
  #cutsBefore(): boolean {
    const grandparents = this.#grandparents;
    const tableBytes = this.#tableBytes;
    let passed = this.#grandparent;
    while (
      passed < grandparents.length &&
      compareKeyTo(this.#key, this.#keyLength, grandparents[passed]!.largestKey) > 0
    ) {
      this.#overlapBytes += grandparents[passed]!.bytes;
      passed++;
    }
    const isAtEdge = passed !== this.#grandparent;
    this.#grandparent = passed;
    const { place } = this.#rules;
    const isAtBound = place !== this.#place;
    this.#place = place;
    const table = this.#table;
    if (table === undefined) {
      this.#overlapBytes = 0;
      return false;
    }
    const { bytes } = table;
    const cuts =
      bytes >= tableBytes ||
      isAtBound ||
      (isAtEdge && (bytes >= this.#alignedCutBytes || this.#overlapBytes > GRANDPARENT_TABLES_MAX * tableBytes));
    // One number stays for a blob file.
    return cuts && this.#endOfFiles - this.#nextFile >= 2;
  }

  #takeFile(): number {
    if (this.#nextFile >= this.#endOfFiles) {
      throw new ConcordError('ERR_INTERNAL', `a job has used all of its ${this.#parameters.files} numbers of files`);
    }
    return this.#nextFile++;
  }

  #beginTable(): TableWriter {
    const { directory, identity, level, run, options, createdAt } = this.#parameters;
    this.#overlapBytes = 0;
    const number = this.#takeFile();
    const path = posix.join(directory, tableName(number));
    return TableWriter.create(this.#env, path, { identity, number, level, run, options, createdAt });
  }

  #endTable(): void {
    const table = this.#table;
    if (table === undefined) return;
    this.#tables.push(table.finish());
    this.#table = undefined;
  }

  #blobFor(): BlobWriter {
    const { directory, identity, options, blobFileBytes, nowMs } = this.#parameters;
    // A table that is not begun yet needs a number too.
    const needed = this.#table === undefined ? 2 : 1;
    if (this.#blob !== undefined && this.#blob.bytes >= blobFileBytes && this.#endOfFiles - this.#nextFile >= needed) {
      this.#endBlob();
    }
    if (this.#blob === undefined) {
      const number = this.#takeFile();
      this.#blob = BlobWriter.create(this.#env, posix.join(directory, blobName(number)), {
        identity,
        number,
        compression: options.compression,
        createdAt: nowMs,
      });
    }
    return this.#blob;
  }

  #endBlob(): void {
    const blob = this.#blob;
    if (blob === undefined) return;
    this.#blobs.push(blob.finish());
    this.#blob = undefined;
  }

  /** A reference as it is, or its value anew if its file is collected. */
  #moveBlob(
    value: Uint8Array,
    valueStart: number,
    valueLength: number,
    seq: number,
    flags: number,
    expiresAt: number,
  ): void {
    const reference = decodeBlobReference(value, valueStart, valueStart + valueLength);
    if (reference === undefined) {
      throw new ConcordError(
        'ERR_CORRUPT',
        `an entry of tree ${this.#parameters.identity.tree} has a damaged reference`,
        {
          tree: this.#parameters.identity.tree,
          seq,
        },
      );
    }
    if (!this.#collect.has(reference.file)) {
      this.#add(value, valueStart, valueLength, seq, flags, expiresAt);
      return;
    }
    const { valueBytes } = reference;
    const reader = this.#readerOf(reference.file);
    const isLarge = valueBytes > PIECE_BYTES && this.isBlob(valueBytes);
    const roomBytes = isLarge ? PIECE_BYTES : valueBytes;
    if (this.#value.length < roomBytes) this.#value = new Uint8Array(Math.max(roomBytes, 2 * this.#value.length));
    const room = this.#value;
    const ownFlags = flags & ~EntryFlag.blob;
    if (!isLarge) {
      readWhole(reader, reference, room, 0, valueBytes);
      this.write(room, 0, valueBytes, seq, ownFlags, expiresAt);
      return;
    }
    this.beginPieces(valueBytes, seq);
    for (let from = 0; from < valueBytes; from += PIECE_BYTES) {
      const pieceBytes = Math.min(PIECE_BYTES, valueBytes - from);
      readWhole(reader, reference, room, from, pieceBytes);
      this.piece(room, 0, pieceBytes);
    }
    this.endPieces(seq, ownFlags, expiresAt);
  }

  #readerOf(file: number): BlobReader {
    let reader = this.#readers.get(file);
    if (reader === undefined) {
      const { directory, identity } = this.#parameters;
      reader = BlobReader.open(this.#env, posix.join(directory, blobName(file)), identity, file);
      this.#readers.set(file, reader);
    }
    return reader;
  }

  #closeReaders(): void {
    for (const reader of this.#readers.values()) reader.close();
    this.#readers.clear();
  }
}

/** @throws ERR_CORRUPT */
function readWhole(reader: BlobReader, reference: BlobReference, into: Uint8Array, from: number, length: number): void {
  const read = reader.read(reference, into, 0, from, length);
  if (read === length) return;
  const { path } = reader;
  const { offset } = reference;
  throw new ConcordError(
    'ERR_CORRUPT',
    `${path}: at ${offset} a value has ${from + read} bytes, not ${reference.valueBytes}`,
    {
      file: path,
      offset,
    },
  );
}
