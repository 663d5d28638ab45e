/** Tables from lists of entries, and what a reader finds in them by the way readers go: root, partition, block. */
import * as fc from 'fast-check';
import { BlockBuffer, BlockCursor, handleBytes, handleOffset } from '../../../../dist/engines/lsm/table/block.js';
import { EntryFlag } from '../../../../dist/engines/lsm/table/entry.js';
import { KeyHash, filterLine, lineMayContain, type FilterShape } from '../../../../dist/engines/lsm/table/filter.js';
import { TableFile } from '../../../../dist/engines/lsm/table/table-file.js';
import { TableWriter, type TableWriterParameters } from '../../../../dist/engines/lsm/table/table-writer.js';
import type { LsmIdentity, TableInfo, TableOptions } from '../../../../dist/engines/lsm/types.js';
import type { Env } from '../../../../dist/shared/env/env.js';
import { crc32 } from '../../../../dist/shared/checksum.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { STORE_ID } from '../../wal/wal-scene.js';

export const DIRECTORY = '/store/shard-003/lsm-2';
export const PATH = `${DIRECTORY}/000007.sst`;
export const IDENTITY: LsmIdentity = { storeId: STORE_ID, shard: 3, tree: 2 };
export const NUMBER = 7;

export const OPTIONS: TableOptions = {
  blockBytes: 4096,
  restartInterval: 16,
  compression: 'none',
  bitsPerKey: 10,
  prefixFilterBytes: 0,
};

export interface Entry {
  readonly key: Buffer;
  readonly seq: number;
  /** Undefined: a tombstone. */
  readonly value: Buffer | undefined;
  readonly expiresAt: number;
  readonly isBlob?: boolean;
}

export function newEnv(): MemEnv {
  const env = new MemEnv();
  env.makeDirectory(DIRECTORY);
  return env;
}

export function compareEntries(a: Pick<Entry, 'key' | 'seq'>, b: Pick<Entry, 'key' | 'seq'>): number {
  return Buffer.compare(a.key, b.key) || b.seq - a.seq;
}

/** In a table's order, each (key, seq) once. */
export function inOrder(entries: readonly Entry[]): Entry[] {
  const sorted = [...entries].sort(compareEntries);
  return sorted.filter((entry, index) => index === 0 || compareEntries(sorted[index - 1]!, entry) !== 0);
}

export function flagsOf(entry: Entry): number {
  return (entry.value === undefined ? EntryFlag.tombstone : 0) | (entry.isBlob === true ? EntryFlag.blob : 0);
}

const NO_VALUE = Buffer.alloc(0);

/** Adds an entry from buffers in whose middle it lies, and that are overwritten afterwards: nothing of them may be kept. */
export function addEntry(writer: Pick<TableWriter, 'add'>, entry: Entry, flags = flagsOf(entry)): void {
  const key = Buffer.concat([entry.key, Buffer.from('not of the key')]);
  const value = Buffer.concat([Buffer.from('ab'), entry.value ?? NO_VALUE, Buffer.from('cd')]);
  writer.add(key, entry.key.length, value, 2, entry.value?.length ?? 0, entry.seq, flags, entry.expiresAt);
  key.fill(0xee);
  value.fill(0xee);
}

export function writeTable(
  env: Env,
  entries: readonly Entry[],
  options: Partial<TableOptions> = {},
  parameters: Partial<TableWriterParameters> = {},
): TableInfo {
  const path =
    parameters.number === undefined ? PATH : `${DIRECTORY}/${String(parameters.number).padStart(6, '0')}.sst`;
  const writer = TableWriter.create(env, path, {
    identity: IDENTITY,
    number: NUMBER,
    level: 1,
    run: 0,
    createdAt: 1_700_000_000_000,
    ...parameters,
    options: { ...OPTIONS, ...options },
  });
  for (const entry of entries) addEntry(writer, entry);
  return writer.finish();
}

/** What stands at a position, without flags that say the same. */
export function entryAt(at: {
  readonly key: Uint8Array;
  readonly keyLength: number;
  readonly bytes: Uint8Array;
  readonly valueStart: number;
  readonly valueLength: number;
  readonly seq: number;
  readonly flags: number;
  readonly expiresAt: number;
}): Entry {
  const isTombstone = (at.flags & EntryFlag.tombstone) !== 0;
  const value = Buffer.from(at.bytes.slice(at.valueStart, at.valueStart + at.valueLength));
  const isBlob = (at.flags & EntryFlag.blob) !== 0;
  return {
    key: Buffer.from(at.key.slice(0, at.keyLength)),
    seq: at.seq,
    value: isTombstone ? undefined : value,
    expiresAt: at.expiresAt,
    ...(isBlob ? { isBlob } : {}),
  };
}

/** The entry as text, short however long its value is: deep equality of long buffers takes minutes. */
export function show(entry: Entry | undefined): string {
  if (entry === undefined) return 'nothing';
  const of = (bytes: Buffer): string =>
    bytes.length <= 32
      ? bytes.toString('latin1')
      : `${bytes.toString('latin1', 0, 8)}… ${bytes.length} bytes, crc ${crc32(bytes, 0, bytes.length)}`;
  const value = entry.value === undefined ? 'deleted' : of(entry.value);
  return `${of(entry.key)} @${entry.seq} ${value}${entry.expiresAt > 0 ? ` until ${entry.expiresAt}` : ''}${entry.isBlob === true ? ' blob' : ''}`;
}

/** A table as a reader sees it: one partition of index and filter and one block at a time. */
export class TableReader {
  readonly table: TableFile;
  readonly #root = new BlockCursor();
  readonly #index = new BlockCursor();
  readonly #block = new BlockCursor();
  readonly #indexBytes = new BlockBuffer(0);
  readonly #blockBytes = new BlockBuffer(0);
  readonly #filterBytes = new BlockBuffer(0);
  readonly #hash = new KeyHash();

  constructor(env: Env, path = PATH, number = NUMBER, expectedBytes?: number) {
    this.table = TableFile.open(env, path, IDENTITY, number, expectedBytes);
  }

  mayContain(
    key: Uint8Array,
    shape: FilterShape | undefined = this.table.layout.filter,
    keyLength = key.length,
  ): boolean {
    if (shape === undefined) return true;
    this.#hash.set(key, 0, keyLength);
    const line = filterLine(this.#hash.h1, shape.partitions * shape.partitionLines);
    const partition = Math.floor(line / shape.partitionLines);
    this.table.readFilter(shape, partition, this.#filterBytes);
    const at = (line % shape.partitionLines) * 64;
    return lineMayContain(this.#filterBytes.bytes, at, this.#hash.h2, shape.probes);
  }

  /** The newest version ≤ atSeq of the key. */
  find(key: Uint8Array, atSeq: number): Entry | undefined {
    const { table } = this;
    this.#root.open(table.root, 0, table.root.length, table.path, table.layout.rootOffset);
    this.#root.seek(key, key.length, atSeq);
    if (!this.#root.valid) return undefined;
    const offset = handleOffset(this.#root);
    const indexBytes = table.readBlock(offset, handleBytes(this.#root), this.#indexBytes);
    this.#index.open(this.#indexBytes.bytes, 0, indexBytes, table.path, offset);
    this.#index.seek(key, key.length, atSeq);
    if (!this.#index.valid) throw this.#root.damage('leads to a partition that ends before the key');
    const blockOffset = handleOffset(this.#index);
    const blockBytes = table.readBlock(blockOffset, handleBytes(this.#index), this.#blockBytes);
    this.#block.open(this.#blockBytes.bytes, 0, blockBytes, table.path, blockOffset);
    return this.#block.seek(key, key.length, atSeq) ? entryAt(this.#block) : undefined;
  }

  close(): void {
    this.table.close();
  }
}

const bytesOf = (maxLength: number): fc.Arbitrary<Buffer> =>
  fc.uint8Array({ maxLength }).map((bytes) => Buffer.from(bytes));

/** Keys that share much, that are prefixes of each other, that are empty, that are as long as keys may be. */
export const keyArbitrary: fc.Arbitrary<Buffer> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.array(fc.constantFrom(0x61, 0x62, 0x00, 0xff), { maxLength: 6 }).map((list) => Buffer.from(list)),
  },
  {
    weight: 4,
    arbitrary: fc.integer({ min: 0, max: 300 }).map((number) => Buffer.from(`user:${String(number).padStart(8, '0')}`)),
  },
  { weight: 2, arbitrary: bytesOf(40) },
  {
    weight: 1,
    arbitrary: fc.integer({ min: 0, max: 40 }).map((number) => Buffer.from('x'.repeat(60) + String(number))),
  },
  {
    weight: 1,
    arbitrary: fc.tuple(fc.integer({ min: 4000, max: 4096 }), bytesOf(8)).map(([length, end]) => {
      const key = Buffer.alloc(length, 0x6c);
      end.copy(key, length - end.length);
      return key;
    }),
  },
);

const valueArbitrary: fc.Arbitrary<Buffer> = fc.oneof(
  { weight: 8, arbitrary: bytesOf(60) },
  {
    weight: 2,
    arbitrary: fc
      .tuple(fc.integer({ min: 100, max: 9000 }), fc.nat(255))
      .map(([length, byte]) => Buffer.alloc(length, byte)),
  },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 200_000 }).map((length) => Buffer.alloc(length, 'abcdefghijklm')) },
);

const seqArbitrary = fc.oneof(fc.integer({ min: 0, max: 50 }), fc.integer({ min: 0, max: 2 ** 48 - 1 }));

export const entryArbitrary: fc.Arbitrary<Entry> = fc.record({
  key: keyArbitrary,
  seq: seqArbitrary,
  value: fc.option(valueArbitrary, { nil: undefined, freq: 5 }),
  expiresAt: fc.oneof(
    { weight: 3, arbitrary: fc.constant(0) },
    { weight: 1, arbitrary: fc.integer({ min: 1, max: 2 ** 48 - 1 }) },
  ),
});

/** 16-byte decimal keys in steps, values of 100 bytes that say whose they are. */
export function decimals(count: number, step = 2): Entry[] {
  return Array.from({ length: count }, (_, index) => ({
    key: Buffer.from(String(index * step).padStart(16, '0')),
    seq: ((index * 7919) % count) + 1,
    value: Buffer.alloc(100, `value ${index * step};`),
    expiresAt: 0,
  }));
}
