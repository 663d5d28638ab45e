/**
 * Makes a sound tree in a new directory from what can be read of a damaged one. The old directory is not changed.
 *
 *   with its manifest     every table keeps its level and run. Sound files are copied; of a damaged table what can be read is written anew.
 *   without               every table there is. They are put into runs of level 0 by their numbers: tables whose numbers interleave become one run, merged
 *                         by key and number, newest version first; between two runs all numbers of one are above all of the other. So whoever looks
 *                         from the newest run down meets the newest version first, whatever levels the tables had.
 *
 * A table whose footer or index is damaged is searched for its data blocks, see TableScan.
 *
 * What is lost: entries of damaged blocks, so an older version of such a key may show; each loss names the keys. A value whose blob record is damaged becomes a
 * tombstone instead, which lets no older version show. Without the manifest, tables that a finished merge had made obsolete are taken too if they were
 * not deleted yet, and what a merge dropped for good, a deleted key, may come back. Range tombstones come from the frames that can be read.
 *
 * storedSeq, the number up to which a replay of the log is to pass over operations:
 *   - With a manifest it is the manifest's.
 *   - Without, it is what is known for certain: what the readable frames and the checkpoint say (storedSeqAtLeast). All later operations are in the log, and
 *     replaying one that is in a table puts the same version on top of itself. That is right as long as the log goes at least as far as the tables: what
 *     the replay has put on top of a key is then the newest version of it.
 *   - If the log ends before the tables do (logEndSeq), an older version could come on top of a newer one. Then it is the tables' largest number. Lost
 *     are operations of an unfinished flush at most, whose log is lost too for its greater part.
 *
 * Threads: any; nobody may write to either directory meanwhile.
 */
import { ConcordError, type ErrorRecord } from '../../../shared/errors.js';
import type { Env, EnvFile } from '../../../shared/env/env.js';
import { BlobWriter } from '../blob/blob-writer.js';
import { BLOB_REFERENCE_BYTES_MAX, decodeBlobReference, encodeBlobReference } from '../blob/format.js';
import type { BlockCursor } from '../table/block.js';
import { isCompressionSupported } from '../table/compression.js';
import { EntryFlag } from '../table/entry.js';
import { FILTER_LINE_BYTES } from '../table/filter.js';
import { TableFile } from '../table/table-file.js';
import { TableWriter } from '../table/table-writer.js';
import type { BlobFileInfo, CompressionName, LsmIdentity, RangeTombstone, TableInfo, TableOptions } from '../types.js';
import { LsmManifest } from './manifest.js';
import { blobName, blobNumber, manifestNumber, tableName, tableNumber } from './names.js';
import { readManifest } from './read.js';
import type { LsmState } from './state.js';
import { MergedWalk, TableScan, TableWalk, isLoss, type OpenedTable } from './table-walk.js';
import { BlobFiles, shownKey, verifyTable, verifyTree } from './verify.js';

export interface TreeRepairOptions {
  /** Known from elsewhere (the checkpoint): operations up to it are in the tables. */
  readonly storedSeqAtLeast?: number;
  /** The last number in the log that will be replayed. Default: the log is whole. */
  readonly logEndSeq?: number;
  /** Size at which a merge begins another file. */
  readonly fileBytes?: number;
}

export interface TreeRepair {
  /** What could not be read, and is not in the new tree. */
  readonly losses: readonly ErrorRecord[];
  /** Of the new tree. */
  readonly state: LsmState;
  readonly entries: number;
  /** Files that were copied as they are, and files written anew. */
  readonly copiedFiles: number;
  readonly writtenFiles: number;
}

const FILE_BYTES_DEFAULT = 64 << 20;
const COPY_BYTES = 1 << 20;
const BITS_PER_KEY_MAX = 20;
const NO_BYTES = new Uint8Array(0);
/** Of tables that do not say how they were written. */
const OPTIONS_UNKNOWN: TableOptions = {
  blockBytes: 1024,
  restartInterval: 8,
  compression: 'lz4',
  bitsPerKey: 10,
  prefixFilterBytes: 0,
};

/**
 * From the tree in `from` to one in `to`, which must not exist or be empty.
 * @throws ERR_DISK_FULL, ERR_PERMISSION, ERR_FORMAT_VERSION, ERR_UNSUPPORTED: the old tree is as it was, the new one is not finished
 */
export function repairTree(
  env: Env,
  from: string,
  to: string,
  identity: LsmIdentity,
  options: TreeRepairOptions = {},
): TreeRepair {
  env.makeDirectory(to);
  const repair = new Repair(env, from, to, identity, options);
  try {
    return repair.run();
  } finally {
    repair.close();
  }
}

/** What can be known of a tree whose manifest cannot be read as a whole. */
interface Remains {
  readonly tombstones: RangeTombstone[];
  storedSeq: number;
  spaceId: number | undefined;
}

interface Candidate {
  readonly number: number;
  readonly info: TableInfo;
  readonly isSound: boolean;
}

class Repair {
  readonly #env: Env;
  readonly #from: string;
  readonly #to: string;
  readonly #identity: LsmIdentity;
  readonly #options: TreeRepairOptions;
  readonly #losses: ErrorRecord[] = [];
  readonly #sources: BlobFiles;
  /** Of the new tree. */
  readonly #tables = new Map<number, TableInfo>();
  readonly #blobs = new Map<number, BlobFileInfo>();
  /** Blob files whose values are written anew, as far as they can be read. */
  #damagedBlobs: ReadonlySet<number> = new Set();
  #nextFile = 1;
  #copied = 0;
  #written = 0;
  #blobWriter: { readonly number: number; readonly writer: BlobWriter } | undefined;
  #tableWriter: TableWriter | undefined;
  readonly #reference = new Uint8Array(BLOB_REFERENCE_BYTES_MAX);

  constructor(env: Env, from: string, to: string, identity: LsmIdentity, options: TreeRepairOptions) {
    this.#env = env;
    this.#from = from;
    this.#to = to;
    this.#identity = identity;
    this.#options = options;
    this.#sources = new BlobFiles(env, from, identity);
  }

  run(): TreeRepair {
    const { state, problems, damagedTables, damagedBlobs } = verifyTree(this.#env, this.#from, this.#identity);
    this.#losses.push(...problems.filter(({ code }) => code !== 'ERR_FORMAT_VERSION'));
    const foreign = problems.find(({ code }) => code === 'ERR_FORMAT_VERSION');
    // A later release can read it: nothing of it may be lost.
    if (foreign !== undefined) throw ConcordError.fromRecord(foreign);
    const names = this.#env.exists(this.#from) ? this.#env.list(this.#from) : [];
    const numbers = names.map((name) => tableNumber(name) ?? blobNumber(name) ?? 0);
    this.#nextFile = Math.max(state?.nextFile ?? 1, 1 + Math.max(0, ...numbers));
    if (state !== undefined) {
      this.#keepLevels(state, damagedTables, damagedBlobs);
      return this.#finish(state.tombstones, state.storedSeq, state.spaceId);
    }
    const remains = this.#readRemains(names);
    this.#byNumbers(names);
    let storedSeq = Math.max(remains.storedSeq, this.#options.storedSeqAtLeast ?? 0);
    let largestSeq = 0;
    for (const table of this.#tables.values()) largestSeq = Math.max(largestSeq, table.largestSeq);
    if (largestSeq > (this.#options.logEndSeq ?? Infinity)) storedSeq = Math.max(storedSeq, largestSeq);
    return this.#finish(remains.tombstones, storedSeq, remains.spaceId);
  }

  close(): void {
    this.#sources.close();
    this.#tableWriter?.abort();
    this.#blobWriter?.writer.abort();
  }

  #finish(tombstones: readonly RangeTombstone[], storedSeq: number, spaceId: number | undefined): TreeRepair {
    this.#endBlobs();
    const state: LsmState = {
      tables: this.#tables,
      blobs: this.#blobs,
      tombstones,
      storedSeq,
      nextFile: this.#nextFile,
      ...(spaceId === undefined ? {} : { spaceId }),
    };
    LsmManifest.rebuild(this.#env, this.#to, this.#identity, state).close();
    let entries = 0;
    for (const table of this.#tables.values()) entries += table.entries;
    return { losses: this.#losses, state, entries, copiedFiles: this.#copied, writtenFiles: this.#written };
  }

  // ---- with a manifest ----------------------------------------------------------------------------------------------------------------

  #keepLevels(state: LsmState, damagedTables: ReadonlySet<number>, damagedBlobs: ReadonlySet<number>): void {
    const missing = new Set<number>();
    for (const { blobs } of state.tables.values()) {
      for (const { file } of blobs) if (!state.blobs.has(file)) missing.add(file);
    }
    this.#damagedBlobs = new Set([...damagedBlobs, ...missing]);
    for (const table of state.tables.values()) {
      const isSound =
        !damagedTables.has(table.number) && table.blobs.every(({ file }) => !this.#damagedBlobs.has(file));
      if (damagedTables.has(table.number) && !this.#canOpen(table.number)) this.#scanned(table.number, table);
      this.#take([{ number: table.number, info: table, isSound }], table.level, table.run);
    }
    for (const blob of state.blobs.values()) {
      if (!this.#damagedBlobs.has(blob.number)) this.#copyBlob(blob);
    }
  }

  // ---- without ------------------------------------------------------------------------------------------------------------------------

  /** From the frames of every manifest file that is there, as far as each can be read. */
  #readRemains(names: readonly string[]): Remains {
    const remains: Remains = { tombstones: [], storedSeq: 0, spaceId: undefined };
    const seen = new Set<string>();
    for (const name of names) {
      const number = manifestNumber(name);
      if (number === undefined) continue;
      try {
        readManifest(this.#env, `${this.#from}/${name}`, { identity: this.#identity, number }, ({ edit }) => {
          remains.storedSeq = Math.max(remains.storedSeq, edit.storedSeq ?? 0);
          remains.spaceId = edit.spaceId ?? remains.spaceId;
          // One that was removed has done all it had to: it hides nothing that is there.
          for (const tombstone of edit.addedTombstones ?? []) {
            const { seq, low, high } = tombstone;
            const text = `${seq} ${shownBound(low)} ${shownBound(high)}`;
            if (!seen.has(text)) remains.tombstones.push(tombstone);
            seen.add(text);
          }
        });
      } catch (error) {
        if (!isLoss(error)) throw error;
      }
    }
    return remains;
  }

  #byNumbers(names: readonly string[]): void {
    const damagedBlobs = new Set<number>();
    const blobs = new Map<number, BlobFileInfo>();
    for (const name of names) {
      const number = blobNumber(name);
      if (number === undefined) continue;
      try {
        blobs.set(number, this.#sources.info(number));
      } catch (error) {
        if (!isLoss(error)) throw error;
        damagedBlobs.add(number);
      }
    }
    const candidates: Candidate[] = [];
    const files = new BlobFiles(this.#env, this.#from, this.#identity);
    try {
      for (const name of names) {
        const number = tableNumber(name);
        if (number === undefined) continue;
        const {
          info,
          problems,
          damagedBlobs: damaged,
        } = verifyTable(this.#env, this.#from, this.#identity, number, files);
        for (const blob of damaged) damagedBlobs.add(blob);
        if (info === undefined) this.#losses.push(...problems.filter(({ message }) => !this.#isKnown(message)));
        const found = info ?? this.#scanned(number, undefined);
        if (found !== undefined) candidates.push({ number, info: found, isSound: problems.length === 0 });
      }
    } finally {
      files.close();
    }
    for (const { info } of candidates) for (const { file } of info.blobs) if (!blobs.has(file)) damagedBlobs.add(file);
    this.#damagedBlobs = damagedBlobs;
    runsByNumbers(candidates).forEach((group, run) => {
      this.#take(group, 0, run + 1);
    });
    const used = new Set([...this.#tables.values()].flatMap((table) => table.blobs.map(({ file }) => file)));
    for (const blob of blobs.values()) if (used.has(blob.number) && !this.#blobs.has(blob.number)) this.#copyBlob(blob);
  }

  // ---- tables -------------------------------------------------------------------------------------------------------------------------

  /** The tables become one run: as they are, or written anew where one of them is damaged, or where they overlap. */
  #take(group: readonly Candidate[], level: number, run: number): void {
    if (areDisjoint(group)) {
      for (const candidate of group) {
        const { number, info, isSound } = candidate;
        const isKept = isSound && info.blobs.every(({ file }) => !this.#damagedBlobs.has(file));
        if (isKept) {
          this.#copy(tableName(number));
          this.#tables.set(number, { ...info, level, run });
        } else this.#merge([candidate], level, run);
      }
    } else this.#merge(group, level, run);
  }

  #merge(group: readonly Candidate[], level: number, run: number): void {
    const options = { value: undefined as TableOptions | undefined };
    let createdAt = 0;
    // The newest: nothing may go before its time.
    for (const { info } of group) createdAt = Math.max(createdAt, info.createdAt);
    const merged = new MergedWalk(
      group.map(({ number, info, isSound }) => ({
        smallestKey: info.smallestKey,
        open: () => this.#open(number, isSound, (like) => (options.value ??= like)),
      })),
    );
    const last = Buffer.alloc(4096);
    let lastLength = -1;
    try {
      for (let entry = merged.next(); entry !== undefined; entry = merged.next()) {
        const { key, keyLength } = entry;
        const isNewKey = keyLength !== lastLength || last.compare(key, 0, keyLength, 0, keyLength) !== 0;
        if (isNewKey) {
          last.set(key.subarray(0, keyLength));
          lastLength = keyLength;
          if (this.#tableWriter !== undefined && this.#tableWriter.bytes >= this.#fileBytes) this.#endTable();
        }
        this.#tableWriter ??= this.#beginTable(level, run, options.value!, createdAt);
        this.#add(this.#tableWriter, entry, options.value!.compression);
      }
      this.#endTable();
    } finally {
      merged.close();
    }
  }

  #open(number: number, isSound: boolean, use: (options: TableOptions) => void): OpenedTable | undefined {
    const path = `${this.#from}/${tableName(number)}`;
    let file: TableFile;
    try {
      file = TableFile.open(this.#env, path, this.#identity, number);
    } catch (error) {
      if (!isLoss(error) || isSound) throw error;
      const walk = this.#scan(number);
      if (walk === undefined) return undefined;
      use(OPTIONS_UNKNOWN);
      return { walk, close: () => undefined };
    }
    use(optionsLike(file));
    const walk = new TableWalk(file, (error, lost) => {
      if (isSound) throw error;
      const { low, high } = lost;
      const above = low === undefined ? '' : `above ${shownKey(low)} and `;
      this.#lose(error, `entries of keys ${above}up to ${shownKey(high)}`);
    });
    return {
      walk,
      close: () => {
        file.close();
      },
    };
  }

  /** What a table without footer or index still has. Verifying has said that it is damaged. */
  #scan(number: number): TableScan | undefined {
    try {
      return new TableScan(this.#env, `${this.#from}/${tableName(number)}`, this.#identity, number);
    } catch (error) {
      if (!isLoss(error)) throw error;
      return undefined;
    }
  }

  #canOpen(number: number): boolean {
    try {
      TableFile.open(this.#env, `${this.#from}/${tableName(number)}`, this.#identity, number).close();
      return true;
    } catch (error) {
      if (!isLoss(error)) throw error;
      return false;
    }
  }

  #isKnown(message: string): boolean {
    return this.#losses.some((loss) => loss.message === message);
  }

  /** Looks at what a scan finds, and says so in the report. */
  #scanned(number: number, known: TableInfo | undefined): TableInfo | undefined {
    const walk = this.#scan(number);
    let entries = 0;
    let smallestKey: Uint8Array | undefined;
    let largestKey: Uint8Array = NO_BYTES;
    let smallestSeq = Infinity;
    let largestSeq = 0;
    const uses = new Map<number, number>();
    while (walk?.next() === true) {
      const { key, keyLength, seq, flags, bytes, valueStart, valueLength } = walk.cursor;
      entries++;
      smallestKey ??= new Uint8Array(key.subarray(0, keyLength));
      largestKey = new Uint8Array(key.subarray(0, keyLength));
      smallestSeq = Math.min(smallestSeq, seq);
      largestSeq = Math.max(largestSeq, seq);
      if ((flags & EntryFlag.blob) === 0) continue;
      const reference = decodeBlobReference(bytes, valueStart, valueStart + valueLength);
      if (reference !== undefined) uses.set(reference.file, (uses.get(reference.file) ?? 0) + reference.recordBytes);
    }
    const path = `${this.#from}/${tableName(number)}`;
    const ofHowMany = known === undefined ? '' : ` of ${known.entries}`;
    const upTo = smallestKey === undefined ? '' : `, up to key ${shownKey(largestKey)}`;
    const at = this.#losses.findIndex(({ details }) => details['file'] === path);
    const text = `${entries}${ofHowMany} entries were found without footer and index${upTo}`;
    if (at >= 0) this.#losses[at] = { ...this.#losses[at]!, message: `${this.#losses[at]!.message}; ${text}` };
    if (smallestKey === undefined) return undefined;
    const blobs = [...uses].map(([file, bytes]) => ({ file, bytes }));
    const createdAt = known?.createdAt ?? this.#env.now();
    return {
      ...{ number, level: 0, run: 0, bytes: 1, entries, keys: 0, tombstones: 0, rawBytes: 0, smallestKey, largestKey },
      ...{ smallestSeq, largestSeq, expiring: 0, firstExpiry: 0, lastExpiry: 0, blobs, createdAt },
    };
  }

  #add(table: TableWriter, entry: BlockCursor, compression: CompressionName): void {
    const { key, keyLength, bytes, valueStart, valueLength, seq, flags, expiresAt } = entry;
    const isBlob = (flags & EntryFlag.blob) !== 0;
    const reference = isBlob ? decodeBlobReference(bytes, valueStart, valueStart + valueLength) : undefined;
    if (!isBlob || (reference !== undefined && !this.#damagedBlobs.has(reference.file))) {
      table.add(key, keyLength, bytes, valueStart, valueLength, seq, flags & ~EntryFlag.expiry, expiresAt);
      return;
    }
    try {
      if (reference === undefined) throw entry.damage('refers to no blob');
      const value = this.#sources.read(reference);
      const written = this.#blobsTo(compression).append(key, keyLength, value, 0, value.length, seq);
      const length = encodeBlobReference(this.#reference, 0, written);
      table.add(key, keyLength, this.#reference, 0, length, seq, EntryFlag.blob, expiresAt);
    } catch (error) {
      if (!isLoss(error)) throw error;
      this.#lose(error, `the value of ${shownKey(key.subarray(0, keyLength))}`);
      // No older version of the key may show in its place.
      table.add(key, keyLength, NO_BYTES, 0, 0, seq, EntryFlag.tombstone, 0);
    }
  }

  /** Verifying has found the same damage, but not what is lost with it. */
  #lose(error: ConcordError, what: string): void {
    const { code, message, details } = error;
    const loss = { code, message: `${message}; lost: ${what}`, details };
    const known = this.#losses.findIndex((other) => other.message === message);
    if (known < 0) this.#losses.push(loss);
    else this.#losses[known] = loss;
  }

  get #fileBytes(): number {
    return this.#options.fileBytes ?? FILE_BYTES_DEFAULT;
  }

  #beginTable(level: number, run: number, options: TableOptions, createdAt: number): TableWriter {
    const number = this.#nextFile++;
    const path = `${this.#to}/${tableName(number)}`;
    return TableWriter.create(this.#env, path, { identity: this.#identity, number, level, run, options, createdAt });
  }

  #endTable(): void {
    const writer = this.#tableWriter;
    if (writer === undefined) return;
    const info = writer.finish();
    this.#tableWriter = undefined;
    this.#tables.set(info.number, info);
    this.#written++;
  }

  // ---- blob files and copies ----------------------------------------------------------------------------------------------------------

  #blobsTo(compression: CompressionName): BlobWriter {
    if (this.#blobWriter !== undefined && this.#blobWriter.writer.bytes >= this.#fileBytes) this.#endBlobs();
    if (this.#blobWriter === undefined) {
      const number = this.#nextFile++;
      const path = `${this.#to}/${blobName(number)}`;
      const parameters = { identity: this.#identity, number, compression, createdAt: this.#env.now() };
      this.#blobWriter = { number, writer: BlobWriter.create(this.#env, path, parameters) };
    }
    return this.#blobWriter.writer;
  }

  #endBlobs(): void {
    if (this.#blobWriter === undefined) return;
    const info = this.#blobWriter.writer.finish();
    this.#blobWriter = undefined;
    this.#blobs.set(info.number, info);
    this.#written++;
  }

  #copyBlob(blob: BlobFileInfo): void {
    this.#copy(blobName(blob.number));
    this.#blobs.set(blob.number, blob);
  }

  #copy(name: string): void {
    const source = this.#env.open(`${this.#from}/${name}`, 'read');
    try {
      const target = this.#env.open(`${this.#to}/${name}`, 'create');
      try {
        copyBytes(source, target);
        target.sync();
      } finally {
        target.close();
      }
    } finally {
      source.close();
    }
    this.#copied++;
  }
}

function copyBytes(source: EnvFile, target: EnvFile): void {
  const buffer = Buffer.allocUnsafe(COPY_BYTES);
  for (let at = 0; ;) {
    const read = source.read(buffer, 0, COPY_BYTES, at);
    if (read === 0) return;
    target.write(buffer, 0, read, at);
    at += read;
  }
}

function shownBound(key: Uint8Array | undefined): string {
  return key === undefined ? '-' : Buffer.from(key).toString('hex') || '=';
}

/** How new tables are written: like the ones they come from. */
function optionsLike({ layout }: TableFile): TableOptions {
  const { blockBytes, restartInterval, compression, filter, prefixFilterBytes } = layout;
  const bits =
    filter === undefined ? 0 : (filter.partitions * filter.partitionLines * 8 * FILTER_LINE_BYTES) / filter.keys;
  return {
    blockBytes,
    restartInterval,
    compression: isCompressionSupported(compression) ? compression : 'lz4',
    // A filter of few keys has many bits for each, since it has a line at least.
    bitsPerKey: filter === undefined ? 0 : Math.min(BITS_PER_KEY_MAX, Math.max(1, Math.round(bits))),
    prefixFilterBytes,
  };
}

/** Whether the tables can stand in one run. */
function areDisjoint(group: readonly Candidate[]): boolean {
  const sorted = [...group].sort((a, b) => Buffer.compare(a.info.smallestKey, b.info.smallestKey));
  return sorted.every(
    ({ info }, at) => at === 0 || Buffer.compare(sorted[at - 1]!.info.largestKey, info.smallestKey) < 0,
  );
}

/** Groups of tables, oldest first: all numbers of a group are above those of the groups before. */
export function runsByNumbers<T extends { readonly info: Pick<TableInfo, 'smallestSeq' | 'largestSeq'> }>(
  tables: readonly T[],
): T[][] {
  const sorted = [...tables].sort(
    (a, b) => a.info.smallestSeq - b.info.smallestSeq || a.info.largestSeq - b.info.largestSeq,
  );
  const groups: T[][] = [];
  let largestSeq = -1;
  for (const table of sorted) {
    const group = groups.at(-1);
    if (group !== undefined && table.info.smallestSeq <= largestSeq) group.push(table);
    else groups.push([table]);
    largestSeq = Math.max(largestSeq, table.info.largestSeq);
  }
  return groups;
}
