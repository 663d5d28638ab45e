import { readFileSync } from 'node:fs';
import { beforeEach, describe, expect, test } from 'vitest';
import {
  FrameKind,
  GROWTH_BYTES,
  FRAME_HEADER_BYTES,
  HEADER_BYTES,
  MANIFEST_FORMAT_VERSION,
} from '../../../../dist/engines/lsm/manifest/format.js';
import { LsmManifest, removeOrphans } from '../../../../dist/engines/lsm/manifest/manifest.js';
import {
  blobName,
  blobNumber,
  manifestName,
  manifestNumber,
  tableName,
  tableNumber,
  treeDirectoryName,
  treeOfDirectory,
} from '../../../../dist/engines/lsm/manifest/names.js';
import { readCurrentManifest, type ManifestFrame } from '../../../../dist/engines/lsm/manifest/read.js';
import { applyEdit, checkState, runsOf, type LsmState } from '../../../../dist/engines/lsm/manifest/state.js';
import { crc32 } from '../../../../dist/shared/checksum.js';
import { FaultEnv } from '../../../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { Random } from '../../../../dist/shared/random.js';
import { expectGolden, hex } from '../../../shared/codec/golden-file.js';
import {
  DIRECTORY,
  EMPTY_STATE,
  IDENTITY,
  after,
  blob,
  bytesOf,
  failure,
  randomEdit,
  replace,
  table,
  textOf,
} from './scene.js';

let env: MemEnv;
beforeEach(() => {
  env = new MemEnv();
});

const create = (options = {}): LsmManifest => LsmManifest.open(env, DIRECTORY, IDENTITY, { create: true, ...options });
const reopen = (options = {}): LsmManifest => LsmManifest.open(env, DIRECTORY, IDENTITY, options);
const files = (pattern: RegExp): string[] => env.list(DIRECTORY).filter((name) => pattern.test(name));

describe('a manifest', () => {
  test('has the documented bytes', () => {
    const manifest = create();
    manifest.append({ nextFile: 100 });
    manifest.append({
      addedTables: [
        table(12, {
          smallestKey: Buffer.from('apple'),
          largestKey: Buffer.from('plum'),
          expiring: 2,
          firstExpiry: 1_800_000_000_000,
          lastExpiry: 1_800_000_000_001,
          blobs: [{ file: 13, bytes: 300 }],
        }),
      ],
      addedBlobs: [blob(13)],
      addedTombstones: [{ seq: 500, low: Buffer.from('b'), high: undefined }],
      storedSeq: 12_099,
    });
    manifest.close();
    const bytes = bytesOf(env, `${DIRECTORY}/${manifestName(1)}`);
    const field = (from: number, bytesInAll: number, what: string): [string, string] => [
      hex(bytes.subarray(from, from + bytesInAll)),
      what,
    ];
    const frames: ManifestFrame[] = [];
    const image = readCurrentManifest(env, DIRECTORY, IDENTITY, (frame) => frames.push(frame));
    const lines: [string, string][] = [
      field(0, 8, 'header: magic "CKV-LSM\\n"'),
      field(8, 4, 'format version'),
      field(12, 4, 'shard'),
      field(16, 16, 'store id'),
      field(32, 8, 'tree, 4 zero bytes'),
      field(40, 8, 'number of the manifest'),
      field(48, 8, 'created at'),
      field(56, 12, 'salt, 4 zero bytes'),
      field(68, 4, 'crc: the seed of all others'),
    ];
    for (const { offset, sequence, payloadBytes, isSnapshot } of frames) {
      const payload = offset + FRAME_HEADER_BYTES;
      const kind = isSnapshot ? 'snapshot' : 'edit';
      lines.push(
        field(offset, 8, `frame ${sequence}: crcs of header and payload`),
        field(offset + 8, 4, `${payloadBytes} bytes`),
        field(offset + 12, 4, `kind: ${kind}`),
        field(offset + 16, 8, 'sequence'),
        field(payload, payloadBytes, 'records'),
      );
      const padding = Math.ceil(payloadBytes / 8) * 8 - payloadBytes;
      if (padding > 0) lines.push(field(payload + payloadBytes, padding, 'padding'));
    }
    lines.push(field(image.end, FRAME_HEADER_BYTES, 'seal: frames up to 3 are durable'));
    lines.push([hex(bytesOf(env, `${DIRECTORY}/CURRENT`)), 'CURRENT']);
    expectGolden('lsm-manifest-2.txt', lines);
    expect(image).toMatchObject({ isSealed: true, cut: undefined, sequence: 3, fileBytes: GROWTH_BYTES });
    expect(bytes.subarray(image.end + FRAME_HEADER_BYTES).every((byte) => byte === 0)).toBe(true);
    expect(bytes[image.end + 12]).toBe(FrameKind.Seal);
  });

  test('of format 1 is read, and followed by one of the present format before anything is changed', () => {
    const bytes = Buffer.alloc(GROWTH_BYTES);
    const lines = readFileSync(new URL('../../../golden/lsm-manifest-1.txt', import.meta.url), 'utf8').split('\n');
    const rows = lines.filter((line) => line !== '').map((line) => Buffer.from(line.split('  # ')[0]!.trim(), 'hex'));
    const current = rows.pop()!;
    Buffer.concat(rows).copy(bytes);
    env.makeDirectory(DIRECTORY);
    replace(env, `${DIRECTORY}/${manifestName(1)}`, bytes);
    replace(env, `${DIRECTORY}/CURRENT`, current);
    const expected = table(12, {
      keys: 0,
      smallestKey: Buffer.from('apple'),
      largestKey: Buffer.from('plum'),
      expiring: 2,
      firstExpiry: 1_800_000_000_000,
      lastExpiry: 1_800_000_000_001,
      blobs: [{ file: 13, bytes: 300 }],
    });
    const shown = (state: LsmState): string => textOf({ ...state, tables: new Map(state.tables) });
    const before = reopen({ readOnly: true });
    expect(before.number).toBe(1);
    expect(shown(before.state)).toBe(shown({ ...before.state, tables: new Map([[12, expected]]) }));
    const manifest = reopen();
    expect(manifest.number).toBe(2);
    expect(textOf(manifest.state)).toBe(textOf(before.state));
    manifest.append({ addedTables: [table(14)] });
    manifest.close();
    const after = reopen().state;
    expect(after.tables.get(12)!.keys).toBe(0);
    expect(after.tables.get(14)!.keys).toBe(90);
  });

  test('gives back after any edits and reopenings the state they lead to', () => {
    const random = new Random(4711);
    let state = EMPTY_STATE;
    let manifest = create({ rollBytes: 3000 });
    for (let step = 0; step < 600; step++) {
      const edit = randomEdit(random, manifest.state, (count) => manifest.takeFiles(count));
      state = { ...state, nextFile: manifest.state.nextFile };
      manifest.append(edit);
      state = after(state, edit);
      expect(textOf(manifest.state)).toBe(textOf(state));
      if (random.chance(0.05)) {
        manifest.close();
        manifest = reopen({ rollBytes: 3000 });
        expect(textOf(manifest.state)).toBe(textOf(state));
        expect(textOf(reopen({ readOnly: true }).state)).toBe(textOf(state));
      }
    }
  });

  test('is rolled when it has become much longer than its state, and one file is left', () => {
    const manifest = create({ rollBytes: 10_000 });
    manifest.append({ nextFile: 10_000 });
    let longest = 0;
    for (let number = 1; number < 2000; number++) {
      manifest.append({ addedTables: [table(number)], removedTables: number > 5 ? [number - 5] : [] });
      longest = Math.max(longest, manifest.bytes);
    }
    expect(longest).toBeLessThanOrEqual(10_000);
    expect(manifest.number).toBeGreaterThan(10);
    expect(files(/MANIFEST|tmp/)).toEqual([manifestName(manifest.number)]);
    const text = textOf(manifest.state);
    manifest.close();
    expect(textOf(reopen().state)).toBe(text);
  });

  test('grows with a state that is larger than any limit', () => {
    const manifest = create({ rollBytes: 1 });
    const many = Array.from({ length: 1500 }, (_, i) => table(i + 1));
    manifest.append({ addedTables: many, nextFile: 5000 });
    for (let number = 2000; number < 2040; number++) manifest.append({ addedTables: [table(number)] });
    // Not one roll for each edit: each would write all of the state again.
    expect(manifest.number).toBeLessThan(5);
    expect(reopen({ readOnly: true }).state.tables.size).toBe(1540);
  });

  test('an opening of a sealed manifest writes nothing and goes on in the same file', () => {
    const manifest = create();
    manifest.append({ storedSeq: 5 });
    manifest.close();
    let mutations = 0;
    const before = bytesOf(env, `${DIRECTORY}/${manifestName(1)}`);
    const survivor = env.crash(new Random(1), 'keep-all', {
      onOperation: (_, kind) => void (mutations += kind === 'syncDirectory' ? 0 : 1),
    });
    const opened = LsmManifest.open(survivor, DIRECTORY, IDENTITY);
    expect(mutations).toBe(0);
    expect(bytesOf(survivor, `${DIRECTORY}/${manifestName(1)}`).equals(before)).toBe(true);
    opened.append({ storedSeq: 6 });
    expect(opened.number).toBe(1);
    expect(LsmManifest.open(survivor, DIRECTORY, IDENTITY, { readOnly: true }).state.storedSeq).toBe(6);
  });

  test('an edit whose seal is lost still counts, and is made durable by the next opening', () => {
    const manifest = create();
    manifest.append({ storedSeq: 5 });
    const end = manifest.bytes;
    manifest.close();
    const path = `${DIRECTORY}/${manifestName(1)}`;
    const bytes = bytesOf(env, path);
    bytes.fill(0, end, end + FRAME_HEADER_BYTES);
    replace(env, path, bytes);
    expect(readCurrentManifest(env, DIRECTORY, IDENTITY)).toMatchObject({ isSealed: false, cut: undefined });
    const faulty = new FaultEnv(env, [{ operation: 'sync', path: /MANIFEST/, error: 'EIO' }]);
    expect(failure(() => LsmManifest.open(faulty, DIRECTORY, IDENTITY)).code).toBe('ERR_IO');
    const opened = reopen();
    expect(opened.state.storedSeq).toBe(5);
    expect(opened.number).toBe(1);
    expect(readCurrentManifest(env, DIRECTORY, IDENTITY).isSealed).toBe(true);
  });

  test('what a torn edit left is cut off, and nothing is written behind it', () => {
    const manifest = create();
    manifest.append({ storedSeq: 5 });
    manifest.append({ storedSeq: 6 });
    manifest.close();
    const path = `${DIRECTORY}/${manifestName(1)}`;
    const image = readCurrentManifest(env, DIRECTORY, IDENTITY);
    const bytes = bytesOf(env, path);
    bytes[image.lastFrame + FRAME_HEADER_BYTES]! ^= 1;
    bytes.fill(0, image.end, image.end + FRAME_HEADER_BYTES);
    replace(env, path, bytes);
    const before = env.list(DIRECTORY);
    expect(reopen({ readOnly: true }).state.storedSeq).toBe(5);
    expect(env.list(DIRECTORY)).toEqual(before);
    expect(bytesOf(env, path).equals(bytes)).toBe(true);
    const opened = reopen();
    expect(opened.state.storedSeq).toBe(5);
    expect(opened.number).toBe(2);
    expect(files(/MANIFEST/)).toEqual([manifestName(2)]);
    opened.append({ storedSeq: 7 });
    opened.close();
    expect(reopen().state.storedSeq).toBe(7);
  });

  test('refuses edits that do not fit the state, and is as before', () => {
    const manifest = create();
    manifest.append({ addedTables: [table(1), table(2)], nextFile: 10, storedSeq: 50 });
    const text = textOf(manifest.state);
    const wrong = [
      { removedTables: [3] },
      { removedBlobs: [1] },
      { addedTables: [table(1)] },
      { addedTables: [table(10)] },
      { addedBlobs: [blob(2)] },
      { addedTables: [table(3, { run: 1, smallestKey: Buffer.from('a'), largestKey: Buffer.from('z') })] },
      { addedTables: [table(3, { level: 7, run: 0 })] },
      { addedTables: [table(3, { level: 1 })] },
      { addedTables: [table(3, { smallestKey: Buffer.from('z'), largestKey: Buffer.from('a') })] },
      { addedTables: [table(3, { smallestSeq: 9, largestSeq: 8 })] },
      { addedTables: [table(3, { entries: 0 })] },
      { addedTables: [table(3, { blobs: [{ file: 9, bytes: 1 }] })] },
      { addedTables: [table(3, { smallestKey: Buffer.alloc(4097) })] },
      { removedTombstones: [{ seq: 1, low: undefined, high: undefined }] },
      {
        addedTombstones: [
          { seq: 60, low: undefined, high: undefined },
          { seq: 60, low: undefined, high: undefined },
        ],
      },
      { storedSeq: 49 },
      { nextFile: 9 },
    ];
    for (const edit of wrong)
      expect(failure(() => manifest.append(edit)).code, JSON.stringify(edit)).toBe('ERR_INTERNAL');
    expect(textOf(manifest.state)).toBe(text);
    manifest.close();
    expect(textOf(reopen().state)).toBe(text);
  });

  test('gives numbers of files in a row, none twice, with one edit for many', () => {
    let manifest = create();
    const given = new Set<number>();
    let edits = 0;
    for (let round = 0; round < 300; round++) {
      const before = manifest.bytes;
      const first = manifest.takeFiles(1 + (round % 7));
      if (manifest.bytes !== before) edits++;
      for (let number = first; number <= first + (round % 7); number++) {
        expect(given.has(number)).toBe(false);
        given.add(number);
      }
      if (round % 50 === 49) {
        manifest.close();
        manifest = reopen();
      }
    }
    expect(edits).toBeLessThan(15);
    expect(Math.min(...given)).toBe(1);
  });

  test('says that all numbers are used up, and stays usable', () => {
    const manifest = create();
    manifest.append({ nextFile: 2 ** 32 - 10 });
    manifest.close();
    const opened = reopen();
    expect(opened.takeFiles(9)).toBe(2 ** 32 - 10);
    expect(failure(() => opened.takeFiles(1)).code).toBe('ERR_INTERNAL');
    opened.append({ storedSeq: 4 });
  });

  test('is not there: it is created only where that was asked for, and only in an empty directory', () => {
    expect(failure(() => reopen())).toMatchObject({ code: 'ERR_CORRUPT', details: { file: DIRECTORY } });
    env.makeDirectory(DIRECTORY);
    const noCurrent = { code: 'ERR_CORRUPT', details: { file: `${DIRECTORY}/CURRENT` } };
    expect(failure(() => reopen())).toMatchObject(noCurrent);
    expect(failure(() => create({ readOnly: true }))).toMatchObject(noCurrent);
    replace(env, `${DIRECTORY}/${tableName(1)}`, Buffer.from('x'));
    expect(failure(() => create())).toMatchObject(noCurrent);
    env.remove(`${DIRECTORY}/${tableName(1)}`);
    create().append({ storedSeq: 1 });
    env.remove(`${DIRECTORY}/CURRENT`);
    expect(failure(() => create())).toMatchObject(noCurrent);
  });

  test('of another store, shard, tree or name is refused', () => {
    create().close();
    for (const other of [
      { ...IDENTITY, shard: 4 },
      { ...IDENTITY, tree: 8 },
      { ...IDENTITY, storeId: Buffer.alloc(16, 1) },
    ]) {
      expect(failure(() => LsmManifest.open(env, DIRECTORY, other)).code).toBe('ERR_CORRUPT');
      // Its pointer is ours, its manifest is not.
      const foreign = '/foreign';
      LsmManifest.open(env, foreign, other, { create: true }).close();
      replace(env, `${foreign}/CURRENT`, bytesOf(env, `${DIRECTORY}/CURRENT`));
      expect(failure(() => LsmManifest.open(env, foreign, IDENTITY))).toMatchObject({
        code: 'ERR_CORRUPT',
        details: { file: `${foreign}/${manifestName(1)}` },
      });
      for (const name of env.list(foreign)) env.remove(`${foreign}/${name}`);
    }
    env.rename(`${DIRECTORY}/${manifestName(1)}`, `${DIRECTORY}/${manifestName(2)}`);
    expect(failure(() => reopen()).code).toBe('ERR_CORRUPT');
  });

  test('of a later format version says so', () => {
    create().close();
    const path = `${DIRECTORY}/${manifestName(1)}`;
    const bytes = bytesOf(env, path);
    bytes.writeUInt32LE(MANIFEST_FORMAT_VERSION + 1, 8);
    replace(env, path, bytes);
    // Without a good crc it is damage.
    expect(failure(() => reopen()).code).toBe('ERR_CORRUPT');
    bytes.writeUInt32LE(crc32(bytes, 0, 68), 68);
    replace(env, path, bytes);
    expect(failure(() => reopen())).toMatchObject({
      code: 'ERR_FORMAT_VERSION',
      details: { file: path, version: MANIFEST_FORMAT_VERSION + 1 },
    });
  });

  test('refuses wrong arguments and use after close', () => {
    expect(failure(() => LsmManifest.open(env, DIRECTORY, { ...IDENTITY, shard: -1 }, { create: true })).code).toBe(
      'ERR_INVALID_ARG',
    );
    const storeId = new Uint8Array(15);
    expect(failure(() => LsmManifest.open(env, DIRECTORY, { ...IDENTITY, storeId }, { create: true })).code).toBe(
      'ERR_INVALID_ARG',
    );
    const manifest = create();
    manifest.close();
    expect(failure(() => manifest.append({ storedSeq: 1 })).code).toBe('ERR_CLOSED');
    expect(failure(() => reopen({ readOnly: true }).append({ storedSeq: 1 })).code).toBe('ERR_READ_ONLY');
    expect(failure(() => reopen({ readOnly: true }).takeFiles(1)).code).toBe('ERR_READ_ONLY');
  });
});

describe('a state', () => {
  test('lists runs newest first, tables in key order', () => {
    const rows = [
      table(1, { level: 2, run: 0 }),
      table(2, { level: 0, run: 5, smallestKey: Buffer.from('m'), largestKey: Buffer.from('n') }),
      table(3, { level: 0, run: 9 }),
      table(4, { level: 1, run: 0 }),
      table(5, { level: 0, run: 5, smallestKey: Buffer.from('a'), largestKey: Buffer.from('b') }),
    ];
    const state = { ...EMPTY_STATE, tables: new Map(rows.map((row) => [row.number, row])) };
    expect(runsOf(state).map(({ level, run, tables }) => [level, run, ...tables.map(({ number }) => number)])).toEqual([
      [0, 9, 3],
      [0, 5, 5, 2],
      [1, 0, 4],
      [2, 0, 1],
    ]);
    expect(checkState(state)).toEqual([]);
  });

  test('is told what overlaps and which blob files are missing or too small', () => {
    const key = (text: string): Buffer => Buffer.from(text);
    const rows = [
      table(1, { level: 1, run: 0, smallestKey: key('a'), largestKey: key('m') }),
      table(2, { level: 1, run: 0, smallestKey: key('m'), largestKey: key('z') }),
      table(3, { run: 4, smallestKey: key('a'), largestKey: key('c'), blobs: [{ file: 9, bytes: 1 }] }),
      table(4, { run: 4, smallestKey: key('b'), largestKey: key('d'), blobs: [{ file: 8, bytes: 8001 }] }),
    ];
    const state = {
      ...EMPTY_STATE,
      tables: new Map(rows.map((row) => [row.number, row])),
      blobs: new Map([[8, blob(8)]]),
    };
    expect(checkState(state)).toEqual([
      'run 4: table 3 and table 4 overlap',
      'level 1: table 1 and table 2 overlap',
      'table 3 refers to blob file 9, and there is none',
      'table 4 uses 8001 bytes of blob file 8, which has 8000',
    ]);
  });

  test('never changes: an edit makes a new one', () => {
    const one = after({ ...EMPTY_STATE, nextFile: 9 }, { addedTables: [table(1)] });
    const text = textOf(one);
    after(one, { removedTables: [1], addedTables: [table(2)], storedSeq: 9 });
    expect(textOf(one)).toBe(text);
    expect(typeof applyEdit(one, { removedTables: [2] })).toBe('string');
  });
});

describe('files of a tree', () => {
  test('have names that say their number, and no other name says it', () => {
    for (const number of [1, 42, 999_999, 1_000_000, 2 ** 32 - 1]) {
      expect(tableNumber(tableName(number))).toBe(number);
      expect(blobNumber(blobName(number))).toBe(number);
      expect(manifestNumber(manifestName(number))).toBe(number);
      expect(treeOfDirectory(treeDirectoryName(number))).toBe(number);
    }
    for (const name of ['1.sst', '000000.sst', '0000001.sst', '000001.sst.tmp', 'x000001.sst', '4294967296.sst']) {
      expect(tableNumber(name), name).toBeUndefined();
    }
    for (const name of ['lsm-', 'lsm-01', 'lsm-4294967296', 'xlsm-1'])
      expect(treeOfDirectory(name), name).toBeUndefined();
  });

  test('that the state does not name are removed, those that somebody keeps and strangers are not', () => {
    const manifest = create();
    manifest.append({ addedTables: [table(1)], addedBlobs: [blob(2)], nextFile: 100 });
    for (const name of [1, 3, 4].map(tableName).concat([2, 5, 6].map(blobName), ['000009.sst.tmp', 'notes.txt'])) {
      replace(env, `${DIRECTORY}/${name}`, Buffer.from('x'));
    }
    expect(removeOrphans(env, DIRECTORY, manifest.state, (number) => number === 4 || number === 6)).toEqual([
      '000003.sst',
      '000005.blob',
      '000009.sst.tmp',
    ]);
    expect(removeOrphans(env, DIRECTORY, manifest.state)).toEqual(['000004.sst', '000006.blob']);
    expect(removeOrphans(env, DIRECTORY, manifest.state)).toEqual([]);
    expect(env.list(DIRECTORY)).toEqual(['000001.sst', '000002.blob', 'CURRENT', manifestName(1), 'notes.txt']);
    expect(HEADER_BYTES % 8).toBe(0);
  });
});
