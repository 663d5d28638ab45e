/** Damaged tables: every byte changed, every length cut, parts that lie behind good checksums. A read is right, or a coded error names file and offset. */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BlockBuffer } from '../../../../dist/engines/lsm/table/block.js';
import {
  FOOTER_BYTES,
  TABLE_KIND,
  decodeProperties,
  decodeTableFooter,
  encodeProperties,
  identitySeed,
  sealBlock,
} from '../../../../dist/engines/lsm/table/format.js';
import { inspectTable } from '../../../../dist/engines/lsm/table/inspect.js';
import { BlockFile, TableFile } from '../../../../dist/engines/lsm/table/table-file.js';
import { TableIterator } from '../../../../dist/engines/lsm/table/table-iterator.js';
import { crc32 } from '../../../../dist/shared/checksum.js';
import { ConcordError } from '../../../../dist/shared/errors.js';
import type { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { failure, overwrite, readFile, truncateFile, writeFile } from '../../wal/wal-scene.js';
import { IDENTITY, NUMBER, PATH, TableReader, entryAt, newEnv, show, writeTable, type Entry } from './support.js';

const ENTRIES: Entry[] = Array.from({ length: 24 }, (_, index) => ({
  key: Buffer.from(`key ${String(index >> 1).padStart(3, '0')}`),
  seq: 50 - index,
  value: index % 5 === 0 ? undefined : Buffer.alloc(20, `v${index} `),
  expiresAt: index % 7 === 0 ? 1_800_000_000_000 : 0,
}));
const TINY = { blockBytes: 160, restartInterval: 3, prefixFilterBytes: 5 } as const;

function scene(compression: 'none' | 'lz4'): { env: MemEnv; bytes: Buffer } {
  const env = newEnv();
  writeTable(env, ENTRIES, { ...TINY, compression });
  return { env, bytes: readFile(env, PATH) };
}

/** Runs the call; true if it failed as damage of this file does. */
function isRefused(call: () => void, fileBytes: number): boolean {
  try {
    call();
    return false;
  } catch (error) {
    if (!(error instanceof ConcordError) || error.code !== 'ERR_CORRUPT') throw error;
    const { file, offset } = error.details;
    if (file !== PATH || !(Number(offset) >= 0 && Number(offset) <= fileBytes)) throw error;
    return true;
  }
}

/** Everything a reader or a job may ask for: each is right, or refused. Returns how many were refused. */
function refusals(env: MemEnv, fileBytes: number): number {
  let reader: TableReader | undefined;
  if (isRefused(() => (reader = new TableReader(env, PATH, NUMBER, fileBytes)), fileBytes)) return 1;
  let count = 0;
  for (const entry of ENTRIES) {
    const refused = isRefused(() => {
      const found = show(reader!.find(entry.key, entry.seq));
      if (found !== show(entry)) throw new Error(`found ${found}, expected ${show(entry)}`);
    }, fileBytes);
    if (refused) count++;
    const filterRefused = isRefused(() => {
      if (!reader!.mayContain(entry.key)) throw new Error(`${entry.key.toString()} is missed by the filter`);
    }, fileBytes);
    if (filterRefused) count++;
  }
  const iteratorRefused = isRefused(() => {
    const iterator = new TableIterator(reader!.table, 500);
    let index = 0;
    for (let more = iterator.seek(undefined, undefined); more; more = iterator.next()) {
      if (show(entryAt(iterator)) !== show(ENTRIES[index++])) throw new Error(`entry ${index - 1} is wrong`);
    }
    if (index !== ENTRIES.length) throw new Error(`${index} entries`);
  }, fileBytes);
  reader!.close();
  return count + (iteratorRefused ? 1 : 0);
}

function inspectionFinds(env: MemEnv, fileBytes: number): boolean {
  let problems = 0;
  return (
    isRefused(() => {
      const report = inspectTable(env, PATH);
      problems = report.problemCount;
      for (const { file, offset, text } of report.problems) {
        if (file !== PATH || !(offset >= 0 && offset <= fileBytes) || !text.startsWith(PATH)) throw new Error(text);
      }
    }, fileBytes) || problems > 0
  );
}

describe.each(['none', 'lz4'] as const)('in a table with compression %s', (compression) => {
  test('every changed byte gives right answers or refusals, and is found by an inspection', () => {
    const { env, bytes } = scene(compression);
    expect(refusals(env, bytes.length)).toBe(0);
    expect(inspectionFinds(env, bytes.length)).toBe(false);
    for (let offset = 0; offset < bytes.length; offset++) {
      const mask = [0x01, 0x80, 0xff][offset % 3]!;
      overwrite(env, PATH, offset, Buffer.from([bytes[offset]! ^ mask]));
      refusals(env, bytes.length);
      if (!inspectionFinds(env, bytes.length)) throw new Error(`byte ${offset} is not found`);
      overwrite(env, PATH, offset, bytes.subarray(offset, offset + 1));
    }
  });

  test('every truncation, and every longer file, is refused when it is opened', () => {
    const { env, bytes } = scene(compression);
    for (let length = 0; length < bytes.length; length++) {
      writeFile(env, PATH, bytes);
      truncateFile(env, PATH, length);
      for (const expected of [bytes.length, undefined]) {
        if (!isRefused(() => TableFile.open(env, PATH, IDENTITY, NUMBER, expected), bytes.length)) {
          throw new Error(`length ${length} is opened`);
        }
      }
    }
    writeFile(env, PATH, Buffer.concat([bytes, Buffer.alloc(1)]));
    expect(isRefused(() => TableFile.open(env, PATH), bytes.length + 1)).toBe(true);
  });
});

test('a table of another tree, or of another number, is not read as this one', () => {
  const { env } = scene('none');
  for (const [identity, number] of [
    [{ ...IDENTITY, tree: 3 }, NUMBER],
    [{ ...IDENTITY, shard: 4 }, NUMBER],
    [{ ...IDENTITY, storeId: Buffer.alloc(16) }, NUMBER],
    [IDENTITY, 8],
  ] as const) {
    const error = failure(() => TableFile.open(env, PATH, identity, number));
    expect(error.message).toMatch(/footer: it is file 7 of tree 2 of shard 3 .*, expected file/);
    const blocks = BlockFile.open(env, PATH, identity, number);
    expect(failure(() => blocks.readBlock(0, 150, new BlockBuffer())).code).toBe('ERR_CORRUPT');
  }
});

test('a block in the place of another is refused', () => {
  const env = newEnv();
  const entries = ['a', 'b'].map((key) => ({
    key: Buffer.from(key),
    seq: 1,
    value: Buffer.alloc(100, 1),
    expiresAt: 0,
  }));
  writeTable(env, entries, TINY);
  const { blocks } = inspectTable(env, PATH, { listBlocks: true });
  const [first, second] = blocks;
  expect(second!.storedBytes).toBe(first!.storedBytes);
  overwrite(env, PATH, second!.offset, readFile(env, PATH).subarray(0, first!.storedBytes));
  const reader = new TableReader(env);
  expect(reader.find(Buffer.from('a'), 1)).toBeDefined();
  expect(failure(() => reader.find(Buffer.from('b'), 1)).details).toEqual({ file: PATH, offset: second!.offset });
});

test('a missing table is damage that names it', () => {
  const error = failure(() => TableFile.open(newEnv(), PATH, IDENTITY, NUMBER));
  expect(error).toMatchObject({ code: 'ERR_CORRUPT', details: { file: PATH, offset: 0 } });
});

test('a table of a later format version is ERR_FORMAT_VERSION, not damage', () => {
  const { env, bytes } = scene('none');
  const footer = bytes.subarray(bytes.length - FOOTER_BYTES);
  footer.writeUInt32LE(2, 8);
  footer.writeUInt32LE(crc32(footer, 0, FOOTER_BYTES - 4), FOOTER_BYTES - 4);
  writeFile(env, PATH, bytes);
  expect(failure(() => TableFile.open(env, PATH))).toMatchObject({
    code: 'ERR_FORMAT_VERSION',
    details: { file: PATH, version: 2 },
  });
});

describe('behind good checksums', () => {
  const seed = identitySeed(TABLE_KIND, IDENTITY, NUMBER);

  /** Changes plain bytes of an uncompressed block and seals it again. */
  function forge(env: MemEnv, offset: number, storedBytes: number, change: (block: Buffer) => void): void {
    const bytes = readFile(env, PATH);
    const block = bytes.subarray(offset, offset + storedBytes);
    change(block);
    sealBlock(block, 0, storedBytes - 5, 0, offset, seed);
    writeFile(env, PATH, bytes);
  }

  test('any change of a data, index or root block is right, wrong order at most, or refused: never a hang', () => {
    const { env, bytes } = scene('none');
    const { blocks, index, layout } = inspectTable(env, PATH, { listBlocks: true });
    // A forged index may name a place behind the end of the file.
    const places = [blocks[1]!, index[0]!, { offset: layout.rootOffset, storedBytes: layout.rootStoredBytes }];
    for (const { offset, storedBytes } of places) {
      for (let at = 0; at < storedBytes - 5; at++) {
        for (const value of [0, 0x7f, 0xff]) {
          writeFile(env, PATH, bytes);
          forge(env, offset, storedBytes, (block) => (block[at] = value));
          isRefused(() => {
            const reader = new TableReader(env);
            for (const { key, seq } of ENTRIES) isRefused(() => reader.find(key, seq), Infinity);
            const iterator = new TableIterator(reader.table);
            let steps = 0;
            for (let more = iterator.seek(undefined, undefined); more; more = iterator.next()) {
              if (++steps > 10_000) throw new Error(`byte ${at} of the block at ${offset}: no end`);
            }
          }, Infinity);
          isRefused(() => inspectTable(env, PATH), Infinity);
        }
      }
    }
  });

  test('an index that leads out of the data is refused', () => {
    const env = newEnv();
    // So large that its end is no neighbour of the footer.
    writeTable(env, ENTRIES, { ...TINY, blockBytes: 65536 });
    const [partition] = inspectTable(env, PATH).index;
    const bytes = readFile(env, PATH);
    forge(env, partition!.offset, partition!.storedBytes, (block) => {
      // The only entry's handle, offset 0 and a length of two bytes, stands before head, restart and tail.
      const handle = block.length - 5 - 16 - 8 - 3;
      expect(block[handle]).toBe(0);
      block[handle + 1] = 0xff;
      block[handle + 2] = 0x7f;
    });
    const reader = new TableReader(env);
    expect(isRefused(() => reader.find(ENTRIES[0]!.key, Infinity), bytes.length)).toBe(true);
    expect(isRefused(() => new TableIterator(reader.table).seek(undefined, undefined), bytes.length)).toBe(true);
    expect(inspectionFinds(env, bytes.length)).toBe(true);
  });

  test('properties that contradict the file are refused or found', () => {
    const { env, bytes } = scene('none');
    const table = TableFile.open(env, PATH);
    const { footer, info, layout } = table;
    table.close();
    const plain = encodeProperties({ info, layout }, 0);
    expect(decodeProperties(plain, plain.length, footer, PATH)).toEqual({ info, layout });
    for (let at = 0; at < plain.length; at++) {
      for (const value of [0, 1, 0x7f, 0x80, 0xff]) {
        if (plain[at] === value) continue;
        writeFile(env, PATH, bytes);
        forge(env, footer.propertiesOffset, footer.propertiesBytes, (block) => (block[at] = value));
        // Times and places that nothing else in the file says: level, run, createdAt, sizes asked for.
        if (inspectionFinds(env, bytes.length)) continue;
        const changed = TableFile.open(env, PATH);
        const same = { ...changed.info, level: info.level, run: info.run, createdAt: info.createdAt };
        if (show(entryAtInfo(same)) !== show(entryAtInfo(info))) throw new Error(`byte ${at} as ${value} is not found`);
        changed.close();
      }
    }
  });

  test('properties of random bytes are refused', () => {
    const { bytes } = scene('none');
    const footer = decodeTableFooter(bytes, bytes.length - FOOTER_BYTES, bytes.length, PATH);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (noise) => {
        expect(isRefused(() => decodeProperties(noise, noise.length, footer, PATH), bytes.length)).toBe(true);
      }),
      { numRuns: 1000 },
    );
  });
});

/** What a table says that its content can prove, as text. */
function entryAtInfo(info: object): Entry {
  return { key: Buffer.from(JSON.stringify(info)), seq: 0, value: undefined, expiresAt: 0 };
}
