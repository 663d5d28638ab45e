/** The bytes of a blob file, which later versions must read: FORMAT.md shows them. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { BlobReader } from '../../../../dist/engines/lsm/blob/blob-reader.js';
import { encodeBlobReference } from '../../../../dist/engines/lsm/blob/format.js';
import { expectGolden, hex } from '../../../shared/codec/golden-file.js';
import { readFile, writeFile } from '../../wal/wal-scene.js';
import { IDENTITY, newEnv } from '../table/support.js';
import { NUMBER, PATH, writeBlobs } from './support.js';

const VALUES = [
  { key: Buffer.from('apple'), value: Buffer.from('a value that is short'), seq: 300 },
  { key: Buffer.from('pear'), value: Buffer.alloc(0), seq: 301 },
];
const GOLDEN = new URL('../../../golden/lsm-blob.txt', import.meta.url);

test('a blob file has the documented bytes', () => {
  const env = newEnv();
  const { references } = writeBlobs(env, VALUES);
  const bytes = readFile(env, PATH);
  const reference = Buffer.alloc(32);
  const referenceBytes = encodeBlobReference(reference, 0, references[0]!);
  const lines: [string, string][] = [];
  let at = 0;
  const add = (length: number, what: string): void => {
    lines.push([hex(bytes.subarray(at, at + length)), what]);
    at += length;
  };
  add(4, 'record at 0: crc of its header');
  add(4, 'key of 5 bytes; zero');
  add(6, 'value of 21 bytes');
  add(6, 'number 300');
  add(4, 'chunk 0: 26 bytes with its trailer');
  add(5, 'key "apple"');
  add(21, 'chunk 0: the value');
  add(5, 'not compressed; crc');
  add(4, 'record at 55: crc of its header');
  add(4, 'key of 4 bytes; zero');
  add(6, 'value of 0 bytes');
  add(6, 'number 301');
  add(4, 'key "pear"');
  add(8, 'footer: magic "CKV-BLB\\n"');
  add(4, 'format version');
  add(4, 'shard');
  add(16, 'store id');
  add(4, 'tree');
  add(4, 'number of the file; the crc of the footer so far seeds all others');
  add(8, 'bytes of the file');
  add(8, 'records');
  add(8, 'their bytes');
  add(8, 'created at 1700000000000');
  add(20, 'zero');
  add(4, 'crc of the footer');
  expect(at).toBe(bytes.length);
  lines.push([
    hex(reference.subarray(0, referenceBytes)),
    'reference to the first: file 9, offset 0, 55 bytes, value of 21',
  ]);
  expectGolden('lsm-blob.txt', lines);
});

test('a blob file of the first version is read, and FORMAT.md shows it', () => {
  const text = readFileSync(GOLDEN, 'utf8');
  const pieces = text
    .trimEnd()
    .split('\n')
    .map((line) => line.split('#')[0]!.trim());
  const bytes = pieces.slice(0, -1).join('');
  const env = newEnv();
  writeFile(env, PATH, Buffer.from(bytes, 'hex'));
  const reader = BlobReader.open(env, PATH, IDENTITY, NUMBER);
  expect(reader.readInfo()).toMatchObject({ records: 2, createdAt: 1_700_000_000_000 });
  const into = Buffer.alloc(21);
  expect(reader.read({ file: NUMBER, offset: 0, recordBytes: 55, valueBytes: 21 }, into, 0, 0, 21)).toBe(21);
  expect(into.toString()).toBe('a value that is short');

  const format = readFileSync(new URL('../../../../src/engines/lsm/blob/FORMAT.md', import.meta.url), 'utf8');
  const shown = [...format.matchAll(/^([0-9a-f]{6}) {2}((?:[0-9a-f]{2} ?)+)/gm)];
  expect(shown.length).toBeGreaterThan(10);
  for (const [, offset, digits] of shown) {
    const at = 2 * Number.parseInt(offset!, 16);
    const plain = digits!.replaceAll(' ', '');
    expect(`${offset}: ${bytes.slice(at, at + plain.length)}`).toBe(`${offset}: ${plain}`);
  }
});
