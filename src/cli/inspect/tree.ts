/** Inspections of LSM-Trees: tables, blob files, manifests, levels. Threads: main thread only; files are only read. */
import type { Env } from '../../shared/env/env.js';
import type { ErrorRecord } from '../../shared/errors.js';
import { BlobReader, type BlobRecord } from '../../engines/lsm/blob/blob-reader.js';
import { corruptManifest } from '../../engines/lsm/manifest/format.js';
import {
  CURRENT_NAME,
  blobName,
  manifestNumber,
  tableName,
  treeOfDirectory,
} from '../../engines/lsm/manifest/names.js';
import {
  identityOfTree,
  readCurrentManifest,
  readManifest,
  type ManifestFrame,
  type ManifestImage,
} from '../../engines/lsm/manifest/read.js';
import { runsOf, type LsmState, type VersionEdit } from '../../engines/lsm/manifest/state.js';
import { shownKey, verifyTree } from '../../engines/lsm/manifest/verify.js';
import { inspectTable } from '../../engines/lsm/table/inspect.js';
import { TableFile } from '../../engines/lsm/table/table-file.js';
import { TableIterator } from '../../engines/lsm/table/table-iterator.js';
import { EntryFlag } from '../../engines/lsm/table/entry.js';
import type { LsmIdentity, RangeTombstone, TableInfo } from '../../engines/lsm/types.js';
import { amount, columns, damageOf, problem, shownId, shownTime, type Report } from './report.js';

const TREE_DEPTH_MAX = 2;

export interface TableOptions {
  readonly blocks: boolean;
  readonly entries: boolean;
  readonly limit: number;
}

// ---- tables and blob files ----------------------------------------------------------------------------------------------------------------

/** A table, or a blob file. */
export function inspectTableFile(env: Env, path: string, options: TableOptions): Report {
  if (path.endsWith('.blob')) return inspectBlobFile(env, path, options);
  let report;
  try {
    report = inspectTable(env, path, { listBlocks: options.blocks });
  } catch (error) {
    const damage = damageOf(error);
    return { lines: [], facts: { path, problems: [damage] }, problems: [damage] };
  }
  const { info, layout, identity, filter, prefixFilter, index, blocks, footer } = report;
  const problems = report.problems.map(({ file, offset, text }) => problem(file, offset, text));
  const ratio = layout.dataBytes === 0 ? 1 : layout.plainBytes / layout.dataBytes;
  const lines = [
    `table ${info.number} of tree ${identity.tree}, shard ${identity.shard}, store ${shownId(identity.storeId)}`,
    `format      version ${report.formatVersion}, ${amount(footer.fileBytes)}`,
    `written to  level ${info.level}${info.level === 0 ? `, run ${info.run}` : ''}, data of ${shownTime(info.createdAt)}`,
    `entries     ${info.entries.toLocaleString('en-US')} of ${info.keys.toLocaleString('en-US')} keys, ` +
      `${info.tombstones.toLocaleString('en-US')} tombstones, ${info.expiring.toLocaleString('en-US')} expire`,
    `keys        ${shownKey(info.smallestKey)} to ${shownKey(info.largestKey)}`,
    `numbers     ${info.smallestSeq} to ${info.largestSeq}`,
    `raw         ${amount(info.rawBytes)} of keys and values`,
    `blocks      ${layout.dataBlocks.toLocaleString('en-US')} of ${layout.blockBytes} bytes, ${layout.compression}, ` +
      `${amount(layout.dataBytes)}, ${ratio.toFixed(2)}:1`,
    `index       ${index.length} partitions, root of ${layout.rootStoredBytes} bytes`,
  ];
  for (const [name, shape] of [
    ['filter      ', filter],
    ['prefixes    ', prefixFilter],
  ] as const) {
    if (shape === undefined) continue;
    const rate = (100 * shape.falsePositiveRate).toFixed(2);
    lines.push(
      `${name}${amount(shape.bytes)}, ${shape.bitsPerKey.toFixed(1)} bits a key, ${shape.probes} probes, ` +
        `${(100 * shape.fill).toFixed(0)} % set, ${rate} % false positives expected`,
    );
  }
  for (const { file, bytes } of info.blobs) lines.push(`blob file   ${file}: ${amount(bytes)} of records`);
  if (blocks.length > 0) {
    lines.push('');
    lines.push(
      ...columns(
        ['block at', 'stored', 'plain', 'compression', 'entries', 'tombstones', 'numbers', 'keys'],
        blocks
          .slice(0, options.limit)
          .map((block) => [
            block.offset,
            block.storedBytes,
            block.plainBytes,
            block.compression,
            block.entries,
            block.tombstones,
            `${block.smallestSeq}…${block.largestSeq}`,
            `${shownKey(block.firstKey)} to ${shownKey(block.lastKey)}`,
          ]),
      ),
    );
  }
  const entries = options.entries && problems.length === 0 ? entriesOf(env, path, options.limit) : [];
  if (entries.length > 0) {
    lines.push('');
    lines.push(
      ...columns(
        ['number', 'what', 'bytes', 'expires', 'key'],
        entries.map(({ seq, kind, valueBytes, expiresAt, key }) => [
          seq,
          kind,
          valueBytes,
          expiresAt === 0 ? '' : shownTime(expiresAt),
          shownKey(key),
        ]),
      ),
    );
  }
  const { problemCount, ...facts } = report;
  return { lines, facts: { ...facts, problems, problemCount, ...(options.entries ? { entries } : {}) }, problems };
}

interface EntryFacts {
  readonly key: Uint8Array;
  readonly seq: number;
  readonly kind: string;
  readonly valueBytes: number;
  readonly expiresAt: number;
}

function entriesOf(env: Env, path: string, limit: number): EntryFacts[] {
  const file = TableFile.open(env, path);
  try {
    const iterator = new TableIterator(file);
    const entries: EntryFacts[] = [];
    for (let more = iterator.seek(undefined, undefined); more && entries.length < limit; more = iterator.next()) {
      const { key, keyLength, seq, flags, valueLength, expiresAt } = iterator;
      const isTombstone = (flags & EntryFlag.tombstone) !== 0;
      const kind = isTombstone ? 'tombstone' : (flags & EntryFlag.blob) !== 0 ? 'blob' : 'value';
      entries.push({ key: key.slice(0, keyLength), seq, kind, valueBytes: valueLength, expiresAt });
    }
    return entries;
  } finally {
    file.close();
  }
}

function inspectBlobFile(env: Env, path: string, options: TableOptions): Report {
  try {
    const { reader, owner } = BlobReader.openAny(env, path);
    try {
      const info = reader.readInfo();
      const lines = [
        `blob file ${info.number} of tree ${owner.tree}, shard ${owner.shard}, store ${shownId(owner.storeId)}`,
        `size        ${amount(info.bytes)}`,
        `records     ${info.records.toLocaleString('en-US')}, ${amount(info.recordBytes)}`,
        `created     ${shownTime(info.createdAt)}`,
      ];
      const problems: ErrorRecord[] = [];
      const records: BlobRecord[] = [];
      reader.walk((record) => {
        records.push(record);
      });
      const piece = new Uint8Array(1 << 16);
      for (const { reference } of records) {
        try {
          for (let from = 0; from < reference.valueBytes; from += piece.length) {
            reader.read(reference, piece, 0, from, Math.min(piece.length, reference.valueBytes - from));
          }
        } catch (error) {
          problems.push(damageOf(error));
        }
      }
      const shown = options.entries ? records.slice(0, options.limit) : [];
      if (shown.length > 0) {
        lines.push('');
        lines.push(
          ...columns(
            ['record at', 'bytes', 'value', 'number', 'key'],
            shown.map(({ key, seq, reference }) => [
              reference.offset,
              reference.recordBytes,
              reference.valueBytes,
              seq,
              shownKey(key),
            ]),
          ),
        );
      }
      return {
        lines,
        facts: { path, identity: owner, info, problems, ...(options.entries ? { records: shown } : {}) },
        problems,
      };
    } finally {
      reader.close();
    }
  } catch (error) {
    const damage = damageOf(error);
    return { lines: [], facts: { path, problems: [damage] }, problems: [damage] };
  }
}

// ---- manifests ----------------------------------------------------------------------------------------------------------------------------

function shownTombstone({ seq, low, high }: RangeTombstone): string {
  const from = low === undefined ? 'the first key' : shownKey(low);
  return `${seq} over ${from} up to ${high === undefined ? 'the last key' : shownKey(high)}`;
}

function shownEdit(edit: VersionEdit): string {
  const words: string[] = [];
  const numbers = (name: string, rows: readonly { number: number }[] | undefined): void => {
    if (rows !== undefined && rows.length > 0) words.push(`${name} ${rows.map(({ number }) => number).join(' ')}`);
  };
  const tables = (edit.addedTables ?? []).map(
    ({ number, level, run }) => `${number}→L${level}${level === 0 ? `.${run}` : ''}`,
  );
  if (tables.length > 0) words.push(`+tables ${tables.join(' ')}`);
  numbers(
    '-tables',
    edit.removedTables?.map((number) => ({ number })),
  );
  numbers('+blobs', edit.addedBlobs);
  numbers(
    '-blobs',
    edit.removedBlobs?.map((number) => ({ number })),
  );
  for (const tombstone of edit.addedTombstones ?? []) words.push(`+range tombstone ${shownTombstone(tombstone)}`);
  for (const { seq } of edit.removedTombstones ?? []) words.push(`-range tombstone ${seq}`);
  if (edit.storedSeq !== undefined) words.push(`stored up to ${edit.storedSeq}`);
  if (edit.nextFile !== undefined) words.push(`next file ${edit.nextFile}`);
  if (edit.spaceId !== undefined) words.push(`space ${edit.spaceId}`);
  return words.join(', ');
}

export function inspectManifest(env: Env, path: string, isDirectory: boolean, listEdits: boolean): Report {
  const frames: ManifestFrame[] = [];
  const problems: ErrorRecord[] = [];
  let image: ManifestImage | undefined;
  try {
    image = isDirectory
      ? readCurrentManifest(env, path, mustBeTree(env, path), (frame) => frames.push(frame))
      : readManifest(env, path, undefined, (frame) => frames.push(frame));
  } catch (error) {
    problems.push(damageOf(error));
  }
  const lines: string[] = [];
  if (image !== undefined) {
    const { identity, createdAt } = image.header;
    const named = manifestNumber(image.path.slice(image.path.lastIndexOf('/') + 1));
    if (named !== undefined && named !== image.number) {
      problems.push(problem(image.path, 40, `number ${image.number} inside, ${named} in the name`));
    }
    lines.push(
      `manifest ${image.number} of tree ${identity.tree}, shard ${identity.shard}, store ${shownId(identity.storeId)}`,
      `begun       ${shownTime(createdAt)}`,
      `file        ${amount(image.fileBytes)}, ${image.sequence} frames up to ${image.end}, the first ${image.snapshotBytes} bytes`,
      `end         ${image.isSealed ? 'sealed: the last edit is durable' : 'not sealed: the last edit may not be durable'}`,
    );
    if (image.cut !== undefined) {
      lines.push(`            at ${image.cut.offset} an edit that did not count is left behind: ${image.cut.reason}`);
    }
    lines.push(...stateLines(image.state));
  }
  if (listEdits || image === undefined) {
    lines.push('');
    lines.push(
      ...columns(
        ['frame', 'at', 'bytes', 'says'],
        frames.map(({ sequence, offset, payloadBytes, isSnapshot, edit }) => [
          sequence,
          offset,
          payloadBytes,
          `${isSnapshot ? 'state: ' : ''}${shownEdit(edit)}`,
        ]),
      ),
    );
  }
  const facts = {
    path: image?.path ?? path,
    ...(image === undefined
      ? {}
      : {
          identity: image.header.identity,
          number: image.number,
          fileBytes: image.fileBytes,
          end: image.end,
          frames: image.sequence,
          isSealed: image.isSealed,
          cut: image.cut ?? null,
          state: image.state,
        }),
    ...(listEdits ? { edits: frames } : {}),
    problems,
  };
  return { lines, facts, problems };
}

function stateLines(state: LsmState): string[] {
  let bytes = 0;
  for (const table of state.tables.values()) bytes += table.bytes;
  let blobBytes = 0;
  for (const blob of state.blobs.values()) blobBytes += blob.bytes;
  const lines = [
    `state       ${state.tables.size} tables of ${amount(bytes)}, ${state.blobs.size} blob files of ${amount(blobBytes)}`,
    `            stored up to number ${state.storedSeq}, next file ${state.nextFile}` +
      (state.spaceId === undefined ? '' : `, entries of space ${state.spaceId}`),
  ];
  for (const tombstone of state.tombstones) lines.push(`            range tombstone ${shownTombstone(tombstone)}`);
  return lines;
}

/** @throws ERR_CORRUPT */
function mustBeTree(env: Env, directory: string): LsmIdentity {
  const identity = identityOfTree(env, directory);
  if (identity === undefined) throw corruptManifest(directory, 0, 'no manifest in the directory has a sound header');
  return identity;
}

// ---- levels -------------------------------------------------------------------------------------------------------------------------------

/** The trees in a directory: itself, or those of a shard, or of all shards of a store. */
export function treesIn(env: Env, directory: string, depth = TREE_DEPTH_MAX): string[] {
  const names = env.list(directory);
  if (names.some((name) => name === CURRENT_NAME || manifestNumber(name) !== undefined)) return [directory];
  if (depth === 0) return [];
  return names
    .filter((name) => treeOfDirectory(name) !== undefined || /^shard-\d+$/.test(name))
    .flatMap((name) => treesIn(env, `${directory}/${name}`, depth - 1));
}

/** Level by level. `verify`: every byte is looked at, not only whether the files are there. */
export function inspectLevels(env: Env, directory: string, listTables: boolean, verify: boolean): Report {
  const lines: string[] = [];
  const problems: ErrorRecord[] = [];
  const trees: unknown[] = [];
  for (const tree of treesIn(env, directory)) {
    if (lines.length > 0) lines.push('');
    const report = inspectTree(env, tree, listTables, verify);
    lines.push(...report.lines);
    problems.push(...report.problems);
    trees.push(report.facts);
  }
  return { lines, facts: { directory, trees, problems }, problems };
}

function inspectTree(env: Env, directory: string, listTables: boolean, verify: boolean): Report {
  let identity: LsmIdentity;
  let state: LsmState;
  try {
    identity = mustBeTree(env, directory);
    ({ state } = readCurrentManifest(env, directory, identity));
  } catch (error) {
    const damage = damageOf(error);
    return { lines: [directory], facts: { directory, problems: [damage] }, problems: [damage] };
  }
  const problems = verify ? [...verifyTree(env, directory, identity).problems] : filesProblems(env, directory, state);
  const runs = runsOf(state);
  const lines = [`${directory}: tree ${identity.tree} of shard ${identity.shard}`, ...stateLines(state), ''];
  const rowOf = (name: string, tables: readonly TableInfo[], overlap: string): (string | number)[] => [
    name,
    tables.length,
    sum(tables, ({ bytes }) => bytes),
    sum(tables, ({ entries }) => entries),
    sum(tables, ({ tombstones }) => tombstones),
    overlap,
    `${shownKey(tables[0]!.smallestKey)} to ${shownKey(tables.at(-1)!.largestKey)}`,
  ];
  const rows: (string | number)[][] = [];
  runs.forEach(({ level, run, tables }, at) => {
    const below = runs[at + 1]?.tables ?? [];
    const met = tables.map((table) => below.filter((other) => overlaps(table, other)).length);
    const overlap =
      below.length === 0 ? '' : (met.reduce((total, count) => total + count, 0) / tables.length).toFixed(1);
    rows.push(rowOf(level === 0 ? `0, run ${run}` : String(level), tables, overlap));
    if (!listTables) return;
    tables.forEach((table, index) => {
      rows.push(rowOf(`  ${tableName(table.number)}`, [table], below.length === 0 ? '' : String(met[index])));
    });
  });
  lines.push(...columns(['level', 'files', 'bytes', 'entries', 'tombstones', 'overlap', 'keys'], rows));
  if (state.blobs.size > 0) {
    const used = new Map<number, number>();
    for (const { blobs } of state.tables.values()) {
      for (const { file, bytes } of blobs) used.set(file, (used.get(file) ?? 0) + bytes);
    }
    lines.push('');
    lines.push(
      ...columns(
        ['blob file', 'bytes', 'records', 'in use'],
        [...state.blobs.values()].map(({ number, bytes, records, recordBytes }) => {
          const share = recordBytes === 0 ? 0 : (100 * (used.get(number) ?? 0)) / recordBytes;
          return [blobName(number), bytes, records, `${share.toFixed(0)} %`];
        }),
      ),
    );
  }
  const levels = runs.map(({ level, run, tables }) => ({
    level,
    run,
    files: tables.length,
    bytes: sum(tables, ({ bytes }) => bytes),
    entries: sum(tables, ({ entries }) => entries),
    tables: listTables ? tables : tables.map(({ number }) => number),
  }));
  const { storedSeq, nextFile, tombstones, blobs } = state;
  const facts = { directory, identity, storedSeq, nextFile, tombstones, levels, blobs, problems };
  return { lines, facts, problems };
}

function sum(tables: readonly TableInfo[], of: (table: TableInfo) => number): number {
  return tables.reduce((total, table) => total + of(table), 0);
}

function overlaps(a: TableInfo, b: TableInfo): boolean {
  return Buffer.compare(a.smallestKey, b.largestKey) <= 0 && Buffer.compare(b.smallestKey, a.largestKey) <= 0;
}

/** Files that are missing, or of another size. */
function filesProblems(env: Env, directory: string, state: LsmState): ErrorRecord[] {
  const problems: ErrorRecord[] = [];
  const check = (name: string, bytes: number): void => {
    const path = `${directory}/${name}`;
    if (!env.exists(path)) {
      problems.push(problem(path, 0, 'the file is missing'));
      return;
    }
    const file = env.open(path, 'read');
    try {
      const found = file.size();
      if (found !== bytes)
        problems.push(problem(path, Math.min(found, bytes), `${found} bytes, the manifest says ${bytes}`));
    } finally {
      file.close();
    }
  };
  for (const { number, bytes } of state.tables.values()) check(tableName(number), bytes);
  for (const { number, bytes } of state.blobs.values()) check(blobName(number), bytes);
  return problems;
}
