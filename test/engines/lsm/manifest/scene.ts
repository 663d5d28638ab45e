/** Trees without tables: states, random edits, files changed from outside. */
import {
  EMPTY_STATE,
  applyEdit,
  type LsmState,
  type VersionEdit,
} from '../../../../dist/engines/lsm/manifest/state.js';
import type { BlobFileInfo, LsmIdentity, RangeTombstone, TableInfo } from '../../../../dist/engines/lsm/types.js';
import type { Env } from '../../../../dist/shared/env/env.js';
import type { Random } from '../../../../dist/shared/random.js';

export const DIRECTORY = '/store/shard-003/lsm-7';
export const IDENTITY: LsmIdentity = {
  storeId: Buffer.from('00112233445566778899aabbccddeeff', 'hex'),
  shard: 3,
  tree: 7,
};

export function table(number: number, changes: Partial<TableInfo> = {}): TableInfo {
  return {
    number,
    level: 0,
    run: number,
    bytes: 4096 + number,
    entries: 100,
    keys: 90,
    tombstones: 3,
    rawBytes: 12_000,
    smallestKey: Buffer.from(`key-${String(number).padStart(6, '0')}-a`),
    largestKey: Buffer.from(`key-${String(number).padStart(6, '0')}-z`),
    smallestSeq: number * 1000,
    largestSeq: number * 1000 + 99,
    expiring: 0,
    firstExpiry: 0,
    lastExpiry: 0,
    blobs: [],
    createdAt: 1_767_225_600_000,
    ...changes,
  };
}

export function blob(number: number, changes: Partial<BlobFileInfo> = {}): BlobFileInfo {
  return { number, bytes: 9000, records: 10, recordBytes: 8000, createdAt: 1_767_225_600_000, ...changes };
}

/** A state as text: equal texts, equal states. */
export function textOf(state: LsmState, withNextFile = true): string {
  const plain = (value: unknown): unknown =>
    value instanceof Uint8Array ? Buffer.from(value).toString('hex') : (value ?? null);
  const rowOf = (row: object): unknown =>
    Object.fromEntries(
      Object.entries(row)
        .map(([name, value]) => [name, Array.isArray(value) ? value : plain(value)])
        .sort(),
    );
  const byNumber = <T extends { number: number }>(rows: Iterable<T>): unknown[] =>
    [...rows].sort((a, b) => a.number - b.number).map(rowOf);
  return JSON.stringify({
    tables: byNumber(state.tables.values()),
    blobs: byNumber(state.blobs.values()),
    tombstones: state.tombstones
      .map(rowOf)
      .map((row) => JSON.stringify(row))
      .sort(),
    storedSeq: state.storedSeq,
    spaceId: state.spaceId ?? null,
    ...(withNextFile ? { nextFile: state.nextFile } : {}),
  });
}

/** An edit that fits the state: what flushes, compactions, moves and clears make. `take` gives numbers of files. */
export function randomEdit(random: Random, state: LsmState, take: (count: number) => number): VersionEdit {
  const tables = [...state.tables.values()];
  const kind = random.below(tables.length > 12 ? 8 : 5);
  if (kind === 0 && tables.length > 0) {
    // A trivial move. Keys of tables never overlap here.
    const moved = random.pick(tables);
    const level = random.below(7);
    return {
      removedTables: [moved.number],
      addedTables: [{ ...moved, level, run: level === 0 ? 5000 + random.below(100) : 0 }],
    };
  }
  if (kind === 1) {
    const seq = state.storedSeq + 1;
    const bound = (): Uint8Array | undefined => (random.chance(0.3) ? undefined : random.bytes(random.below(20)));
    const added: RangeTombstone = { seq, low: bound(), high: bound() };
    const removed = state.tombstones.filter(() => random.chance(0.3));
    return { addedTombstones: [added], removedTombstones: removed, storedSeq: seq };
  }
  if (kind === 2) {
    const number = take(2);
    const used = 1 + random.below(8000);
    return {
      addedTables: [table(number, { blobs: [{ file: number + 1, bytes: used }] })],
      addedBlobs: [blob(number + 1)],
      storedSeq: state.storedSeq + 1 + random.below(1000),
    };
  }
  if (kind >= 5) {
    // A merge of many into one.
    const removed = tables.filter(() => random.chance(0.7));
    const uses = new Set(
      tables.filter((left) => !removed.includes(left)).flatMap((left) => left.blobs.map((use) => use.file)),
    );
    return {
      removedTables: removed.map(({ number }) => number),
      removedBlobs: [...state.blobs.keys()].filter((number) => !uses.has(number)),
      addedTables: [table(take(1), { level: 1, run: 0 })],
    };
  }
  if (random.chance(0.1)) return { spaceId: random.below(1000) };
  return { addedTables: [table(take(1))], storedSeq: state.storedSeq + 1 + random.below(1000) };
}

export function after(state: LsmState, edit: VersionEdit): LsmState {
  const next = applyEdit(state, edit);
  if (typeof next === 'string') throw new Error(next);
  return next;
}

export { EMPTY_STATE };

export function bytesOf(env: Env, path: string): Buffer {
  const file = env.open(path, 'read');
  try {
    const bytes = Buffer.alloc(file.size());
    file.read(bytes, 0, bytes.length, 0);
    return bytes;
  } finally {
    file.close();
  }
}

/** The file has these bytes and no others. */
export function replace(env: Env, path: string, bytes: Uint8Array): void {
  const file = env.exists(path) ? env.open(path, 'write') : env.open(path, 'create');
  try {
    file.truncate(0);
    file.write(bytes, 0, bytes.length, 0);
    file.sync();
  } finally {
    file.close();
  }
}

export function failure(work: () => unknown): { code: string; message: string; details: Record<string, unknown> } {
  try {
    work();
  } catch (error) {
    return error as { code: string; message: string; details: Record<string, unknown> };
  }
  throw new Error('it did not fail');
}
