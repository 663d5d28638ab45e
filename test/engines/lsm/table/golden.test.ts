/** The bytes of a table, which later versions must read: FORMAT.md shows the first of them. UPDATE=1 rewrites the files: bytes on people's disks. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { inspectTable } from '../../../../dist/engines/lsm/table/inspect.js';
import { TableFile } from '../../../../dist/engines/lsm/table/table-file.js';
import { TableIterator } from '../../../../dist/engines/lsm/table/table-iterator.js';
import { encodeBlobReference } from '../../../../dist/engines/lsm/blob/reference.js';
import { expectGolden, hex } from '../../../shared/codec/golden-file.js';
import { readFile, writeFile } from '../../wal/wal-scene.js';
import { IDENTITY, NUMBER, PATH, entryAt, newEnv, show, writeTable, type Entry } from './support.js';

function entry(key: string, seq: number, value: string | Buffer | undefined, expiresAt = 0, isBlob = false): Entry {
  return { key: Buffer.from(key), seq, value: value === undefined ? undefined : Buffer.from(value), expiresAt, isBlob };
}

/** The example of FORMAT.md. */
const FEW = [
  entry('apple', 300, 'red'),
  entry('apple', 170, undefined),
  entry('apricot', 299, 'orange', 1_800_000_000_000),
];

function blobValue(): Buffer {
  const bytes = Buffer.alloc(32);
  return bytes.subarray(
    0,
    encodeBlobReference(bytes, 0, { file: 9, offset: 4096, recordBytes: 70_000, valueBytes: 69_900 }),
  );
}

/** Several blocks; every kind of entry. */
const MANY = [
  entry('', 2 ** 48 - 1, 'the empty key'),
  entry('blob', 40, blobValue(), 0, true),
  ...Array.from({ length: 30 }, (_, index) =>
    entry(
      `user:${String(index >> 1).padStart(6, '0')}`,
      1000 - index,
      index % 7 === 3 ? undefined : 'value '.repeat(index % 9),
      index % 5 === 0 ? 1_900_000_000_000 + index : 0,
    ),
  ),
  entry('x'.repeat(400), 1, Buffer.alloc(300, 0xff)),
];

function parts(bytes: Buffer, names: readonly (readonly [length: number, what: string])[]): [string, string][] {
  const lines: [string, string][] = [];
  let at = 0;
  for (const [length, what] of names) {
    lines.push([hex(bytes.subarray(at, at + length)), what]);
    at += length;
  }
  expect(at).toBe(bytes.length);
  return lines;
}

describe('a table', () => {
  test('has the bytes of the example in FORMAT.md', () => {
    const env = newEnv();
    writeTable(env, FEW);
    const bytes = readFile(env, PATH);
    const { layout, index, footer } = inspectTable(env, PATH);
    const lines = parts(bytes, [
      [1, 'data block at 0, entry 0: no flags, shares 0 bytes'],
      [3, 'of 5 of the key; value of 3; number 300 + 0'],
      [5, 'key "apple"'],
      [3, 'value "red"'],
      [1, 'entry 1: a tombstone, shares 5 bytes'],
      [4, 'of 0 of the key; value of 0; number 300 - 130, zigzag 259'],
      [1, 'entry 2: expires, shares 2 bytes'],
      [3, 'of 5 of the key; value of 6; number 300 - 1'],
      [6, 'expires at 1800000000000'],
      [5, 'key "ap" + "ricot"'],
      [6, 'value "orange"'],
      [4, 'head of the one restart: "ple" behind the common "ap", and a zero'],
      [4, 'its offset'],
      [6, 'baseSeq 300'],
      [2, 'common 2'],
      [4, 'entries'],
      [4, 'restarts'],
      [1, 'trailer: not compressed'],
      [4, 'crc'],
      [64, `filter at ${layout.filter!.offset}: one partition of one line`],
      [5, 'trailer'],
      [index[0]!.storedBytes, `index partition at ${index[0]!.offset}: "apricot" leads to the data block; trailer`],
      [layout.rootStoredBytes, `root at ${layout.rootOffset}: "apricot" leads to the partition; trailer`],
      [footer.propertiesBytes, `properties at ${footer.propertiesOffset}; trailer`],
      [8, 'footer: magic "CKV-SST\\n"'],
      [4, 'format version'],
      [4, 'shard'],
      [16, 'store id'],
      [4, 'tree'],
      [4, 'number of the file; the crc of the footer so far seeds all others'],
      [8, 'bytes of the file'],
      [8, 'offset of the properties'],
      [4, 'their bytes'],
      [4, 'bytes of the root'],
      [8, 'offset of the root'],
      [20, 'zero'],
      [4, 'crc of the footer'],
    ]);
    expectGolden('lsm-table.txt', lines);
  });

  for (const compression of ['none', 'lz4'] as const) {
    test(`of the first version with compression ${compression} is read`, () => {
      const name = `lsm-table-${compression}.txt`;
      if (process.env['UPDATE'] === '1') {
        const env = newEnv();
        writeTable(
          env,
          MANY,
          { blockBytes: 300, restartInterval: 4, compression, prefixFilterBytes: 5 },
          { level: 0, run: 17 },
        );
        expectGolden(name, [[hex(readFile(env, PATH)), `a table with compression ${compression}`]]);
      }
      // Read, not written again: what a compressor makes of a block may change.
      const text = readFileSync(new URL(`../../../golden/${name}`, import.meta.url), 'utf8');
      const env = newEnv();
      writeFile(env, PATH, Buffer.from(text.slice(0, text.indexOf(' ')), 'hex'));
      const table = TableFile.open(env, PATH, IDENTITY, NUMBER);
      expect(table.info).toMatchObject({
        level: 0,
        run: 17,
        entries: MANY.length,
        largestSeq: 2 ** 48 - 1,
        smallestSeq: 1,
        blobs: [{ file: 9, bytes: 70_000 }],
        createdAt: 1_700_000_000_000,
      });
      expect(table.layout.dataBlocks).toBeGreaterThan(3);
      const iterator = new TableIterator(table);
      const found: string[] = [];
      for (let more = iterator.seek(undefined, undefined); more; more = iterator.next())
        found.push(show(entryAt(iterator)));
      expect(found).toEqual(MANY.map((expected) => show({ ...expected })));
      const report = inspectTable(env, PATH, { listBlocks: true });
      expect(report.problems).toEqual([]);
      expect(report.blocks.some((block) => block.compression === compression)).toBe(true);
      table.close();
    });
  }
});

test('the worked example in FORMAT.md is the golden table', () => {
  const format = readFileSync(new URL('../../../../src/engines/lsm/table/FORMAT.md', import.meta.url), 'utf8');
  const golden = readFileSync(new URL('../../../golden/lsm-table.txt', import.meta.url), 'utf8');
  const bytes = golden
    .split('\n')
    .map((line) => line.split('#')[0]!.trim())
    .join('');
  const shown = [...format.matchAll(/^([0-9a-f]{6}) {2}((?:[0-9a-f]{2} ?)+)/gm)];
  expect(shown.length).toBeGreaterThan(20);
  for (const [, offset, text] of shown) {
    const digits = text!.replaceAll(' ', '');
    const at = 2 * Number.parseInt(offset!, 16);
    expect(`${offset}: ${bytes.slice(at, at + digits.length)}`).toBe(`${offset}: ${digits}`);
  }
});
