/** Trees with tables of known content, and what a reader that goes from the newest run down finds in them. */
import { BlobReader } from '../../../../dist/engines/lsm/blob/blob-reader.js';
import { BlobWriter } from '../../../../dist/engines/lsm/blob/blob-writer.js';
import { decodeBlobReference, encodeBlobReference } from '../../../../dist/engines/lsm/blob/format.js';
import { LsmManifest, type LsmState } from '../../../../dist/engines/lsm/manifest/manifest.js';
import { blobName, tableName } from '../../../../dist/engines/lsm/manifest/names.js';
import { runsOf } from '../../../../dist/engines/lsm/manifest/state.js';
import { EntryFlag } from '../../../../dist/engines/lsm/table/entry.js';
import { TableFile } from '../../../../dist/engines/lsm/table/table-file.js';
import { TableIterator } from '../../../../dist/engines/lsm/table/table-iterator.js';
import { TableWriter } from '../../../../dist/engines/lsm/table/table-writer.js';
import type { TableInfo, TableOptions } from '../../../../dist/engines/lsm/types.js';
import type { Env } from '../../../../dist/shared/env/env.js';
import type { Random } from '../../../../dist/shared/random.js';
import { DIRECTORY, IDENTITY } from './scene.js';

export const TABLE_OPTIONS: TableOptions = {
  blockBytes: 256,
  restartInterval: 4,
  compression: 'none',
  bitsPerKey: 10,
  prefixFilterBytes: 3,
};

/** value undefined: a tombstone. */
export interface Version {
  readonly key: string;
  readonly seq: number;
  readonly value: string | undefined;
  readonly expiresAt?: number;
  /** The value goes to a blob file. */
  readonly isBlob?: boolean;
}

export function inOrder(versions: readonly Version[]): Version[] {
  return [...versions].sort((a, b) => Buffer.compare(Buffer.from(a.key), Buffer.from(b.key)) || b.seq - a.seq);
}

/** A tree that is built table by table. */
export class TreeBuilder {
  readonly manifest: LsmManifest;

  constructor(
    readonly env: Env,
    readonly directory = DIRECTORY,
    readonly options: Partial<TableOptions> = {},
  ) {
    this.manifest = LsmManifest.open(env, directory, IDENTITY, { create: true });
  }

  /** Adds a table; versions in any order. */
  add(level: number, run: number, versions: readonly Version[]): TableInfo {
    const { env, directory, manifest } = this;
    const number = manifest.takeFiles(2);
    const createdAt = env.now();
    const options = { ...TABLE_OPTIONS, ...this.options };
    const writer = TableWriter.create(env, `${directory}/${tableName(number)}`, {
      identity: IDENTITY,
      number,
      level,
      run,
      options,
      createdAt,
    });
    let blobs: BlobWriter | undefined;
    for (const { key, seq, value, expiresAt, isBlob } of inOrder(versions)) {
      const keyBytes = Buffer.from(key);
      let bytes: Uint8Array = Buffer.from(value ?? '');
      let length = bytes.length;
      if (isBlob === true) {
        blobs ??= BlobWriter.create(env, `${directory}/${blobName(number + 1)}`, {
          identity: IDENTITY,
          number: number + 1,
          compression: 'none',
          createdAt,
        });
        const reference = blobs.append(keyBytes, keyBytes.length, bytes, 0, bytes.length, seq);
        bytes = new Uint8Array(40);
        length = encodeBlobReference(bytes, 0, reference);
      }
      const flags = value === undefined ? EntryFlag.tombstone : isBlob === true ? EntryFlag.blob : 0;
      writer.add(keyBytes, keyBytes.length, bytes, 0, length, seq, flags, expiresAt ?? 0);
    }
    const info = writer.finish();
    const addedBlobs = blobs === undefined ? [] : [blobs.finish()];
    env.syncDirectory(directory);
    const storedSeq = Math.max(manifest.state.storedSeq, info.largestSeq);
    manifest.append({ addedTables: [info], addedBlobs, storedSeq });
    return info;
  }
}

/** All versions of a table. Values of blobs are read. */
export function versionsOf(env: Env, directory: string, number: number): Version[] {
  const file = TableFile.open(env, `${directory}/${tableName(number)}`, IDENTITY, number);
  const iterator = new TableIterator(file);
  const versions: Version[] = [];
  for (let more = iterator.seek(undefined, undefined); more; more = iterator.next()) {
    const { key, keyLength, bytes, valueStart, valueLength, seq, flags, expiresAt } = iterator;
    let value: string | undefined = Buffer.from(bytes.subarray(valueStart, valueStart + valueLength)).toString();
    const isBlob = (flags & EntryFlag.blob) !== 0;
    if (isBlob) {
      const reference = decodeBlobReference(bytes, valueStart, valueStart + valueLength)!;
      const reader = BlobReader.open(env, `${directory}/${blobName(reference.file)}`, IDENTITY, reference.file);
      const into = Buffer.alloc(reference.valueBytes);
      reader.read(reference, into, 0, 0, into.length);
      reader.close();
      value = into.toString();
    }
    if ((flags & EntryFlag.tombstone) !== 0) value = undefined;
    versions.push({
      key: Buffer.from(key.subarray(0, keyLength)).toString(),
      seq,
      value,
      ...(expiresAt > 0 ? { expiresAt } : {}),
      ...(isBlob ? { isBlob } : {}),
    });
  }
  file.close();
  return versions;
}

/** What a reader finds that takes the first version on its way: key → number and value (undefined: deleted). */
export function visible(env: Env, directory: string, state: LsmState): Map<string, Version> {
  const found = new Map<string, Version>();
  for (const { tables } of runsOf(state)) {
    const ofRun = new Map<string, Version>();
    for (const { number } of tables) {
      for (const version of versionsOf(env, directory, number))
        if (!ofRun.has(version.key)) ofRun.set(version.key, version);
    }
    for (const [key, version] of ofRun) if (!found.has(key)) found.set(key, version);
  }
  return found;
}

/**
 * A tree as a leveled one becomes: numbers of deep levels mix, but on the way down a key's versions go from new to old. Returns what is visible.
 */
export function randomTree(random: Random, builder: TreeBuilder): Map<string, Version> {
  const keyCount = 150;
  let seq = 0;
  const pending: Version[][] = [];
  const keyOf = (index: number): string => `key-${String(index).padStart(4, '0')}`;
  const truth = new Map<string, Version>();
  for (let flush = 0; flush < 6; flush++) {
    const versions: Version[] = [];
    const count = 10 + random.below(60);
    for (let i = 0; i < count; i++) {
      const key = keyOf(random.below(keyCount));
      seq++;
      const value = random.chance(0.15) ? undefined : `value ${seq} of ${key}`;
      const version: Version = {
        key,
        seq,
        value,
        ...(value !== undefined && random.chance(0.1) ? { expiresAt: 2_000_000_000_000 + seq } : {}),
        ...(value !== undefined && random.chance(0.15) ? { isBlob: true } : {}),
      };
      versions.push(version);
      truth.set(key, version);
    }
    pending.push(versions);
  }
  // The two oldest are merged into level 2 and cut; the next one, only half of its keys, went to level 1.
  const bottom = inOrder([...pending[0]!, ...pending[1]!]);
  const middle = inOrder(pending[2]!);
  const addCut = (level: number, versions: Version[], pieces: number): void => {
    const keys = [...new Set(versions.map(({ key }) => key))];
    const perPiece = Math.ceil(keys.length / pieces);
    for (let at = 0; at < keys.length; at += perPiece) {
      const mine = new Set(keys.slice(at, at + perPiece));
      builder.add(
        level,
        0,
        versions.filter(({ key }) => mine.has(key)),
      );
    }
  };
  const isMoved = (version: Version): boolean => version.key < keyOf(keyCount / 2);
  addCut(2, inOrder([...bottom, ...middle.filter(isMoved)]), 3);
  const rest = middle.filter((version) => !isMoved(version));
  if (rest.length > 0) addCut(1, rest, 2);
  for (let run = 1; run <= 3; run++) builder.add(0, run, pending[run + 2]!);
  return truth;
}
