import * as fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import {
  COLD,
  FIRST_SLOT,
  SLOT_BYTES,
  classOf,
  coldReference,
  decodeRoot,
  encodeRoot,
  isRootChunk,
  pageFileName,
  pageFileNumber,
  slotOf,
} from '../../../dist/engines/btree/paged/format.js';
import {
  PageFileReader,
  PageFileWriter,
  pageFileNumbers,
  removePageFiles,
  syncPageFile,
} from '../../../dist/engines/btree/paged/page-file.js';
import { SlotMap } from '../../../dist/engines/btree/paged/slot-map.js';
import { readRow } from '../../../dist/engines/btree/meta.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import { Random } from '../../../dist/shared/random.js';
import { expectGolden, hex } from '../../shared/codec/golden-file.js';
import { STORE_ID, failure, overwrite, readFile } from '../wal/wal-scene.js';

const DIRECTORY = '/store/shard-003';
const IDENTITY = { storeId: STORE_ID, shard: 3 };

let env: MemEnv;
beforeEach(() => {
  env = new MemEnv();
  env.makeDirectory(DIRECTORY);
});

/** A page of that class filled from the seed; as far as the file looks at it. */
function put(writer: PageFileWriter, pageClass: number, seed: number): number {
  const at = writer.begin(pageClass);
  writer.buffer.fill(seed & 0xff, at, at + (SLOT_BYTES << pageClass));
  writer.buffer[at] = 1;
  writer.buffer[at + 1] = 0;
  writer.buffer[at + 2] = pageClass;
  writer.buffer.writeUInt32LE(seed, at + 100);
  return writer.commit();
}

function seedOf(reader: PageFileReader | PageFileWriter, reference: number): number {
  const page = Buffer.alloc(SLOT_BYTES << classOf(reference));
  reader.read(reference, page, 0);
  const seed = page.readUInt32LE(100);
  for (const at of [30, 99, 200, page.length - 1]) expect(page[at]).toBe(seed & 0xff);
  return seed;
}

describe('a page file', () => {
  test('has the documented bytes', () => {
    const writer = PageFileWriter.create(env, DIRECTORY, IDENTITY);
    const reference = put(writer, 0, 0x01020304);
    writer.flush();
    const bytes = readFile(env, writer.path);
    const field = (from: number, to: number, what: string): [string, string] => [hex(bytes.subarray(from, to)), what];
    const page = FIRST_SLOT * SLOT_BYTES;
    const row = { ...readRow(new Uint32Array(16), 0), rootUnit: coldReference(0x123456, 2), height: 3, isPaged: true };
    const root = encodeRoot({ spaceId: 7, number: 1, endSlot: 4096, row: { ...row, liveEntries: 1000, tag: 0x70 } });
    expectGolden('page-file.txt', [
      field(0, 8, 'header: magic "CKV-PGS\\n"'),
      field(8, 12, 'format version'),
      field(12, 16, 'shard'),
      field(16, 32, 'store id'),
      field(32, 36, 'number of the file'),
      field(124, 128, 'crc; 88 zero bytes before it'),
      field(page, page + 4, 'slot 8: a page of kind 1, level 0, class 0, flags 0'),
      field(page + 4, page + 8, 'crc over the slot number and the page, seeded with the header crc'),
      field(page + 8, page + 10, 'zero'),
      field(page + 20, page + 24, 'next: 0 in a leaf'),
      [hex(Uint8Array.from([reference >>> 24, reference >>> 16, reference >>> 8, reference])), 'reference, big-endian'],
      [hex(root.subarray(0, 32)), 'root in a checkpoint: magic, space, number, end slot'],
      [hex(root.subarray(32)), 'row of the tree: root is slot 0x123456, class 2'],
    ]);
    expect(isRootChunk(root)).toBe(true);
    expect(decodeRoot(root)).toMatchObject({ spaceId: 7, number: 1, endSlot: 4096, row: { liveEntries: 1000 } });
  });

  test('gives back pages of all sizes by reference, to the writer and to readers', () => {
    const writer = PageFileWriter.create(env, DIRECTORY, IDENTITY);
    const references = Array.from({ length: 200 }, (_, i) => put(writer, [0, 3, 1, 0, 2][i % 5]!, i + 1000));
    expect(new Set(references).size).toBe(200);
    references.forEach((reference, i) => {
      expect(seedOf(writer, reference)).toBe(i + 1000);
      expect(slotOf(reference) % (1 << classOf(reference))).toBe(0);
      expect(reference).toBeGreaterThanOrEqual(COLD);
    });
    const reader = new PageFileReader(env, DIRECTORY, { ...IDENTITY, number: writer.number });
    references.forEach((reference, i) => {
      expect(seedOf(reader, reference)).toBe(i + 1000);
    });
  });

  test('writes pages that lie side by side at once', () => {
    const writer = PageFileWriter.create(env, DIRECTORY, IDENTITY);
    for (let i = 0; i < 128; i++) put(writer, 0, i);
    writer.flush();
    expect(writer.stats()).toMatchObject({ writes: 2, pagesWritten: 128, usedSlots: 128 });
  });

  test('each byte of a page that changes is found, and the error names file and offset', () => {
    const writer = PageFileWriter.create(env, DIRECTORY, IDENTITY);
    put(writer, 0, 1);
    const reference = put(writer, 1, 77);
    writer.flush();
    const offset = slotOf(reference) * SLOT_BYTES;
    const reader = new PageFileReader(env, DIRECTORY, { ...IDENTITY, number: 1 });
    for (const at of [0, 1, 2, 3, 4, 7, 8, 18, 20, 100, 4095, 4096, 8191]) {
      const before = readFile(env, writer.path)[offset + at]!;
      overwrite(env, writer.path, offset + at, Uint8Array.of(before ^ 0x10));
      const error = failure(() => seedOf(reader, reference));
      expect(error.code).toBe('ERR_CORRUPT');
      expect(error.details).toMatchObject({ file: writer.path, offset });
      overwrite(env, writer.path, offset + at, Uint8Array.of(before));
    }
    expect(seedOf(reader, reference)).toBe(77);
  });

  test('a page in another slot, of another class, of another file or cut off is refused', () => {
    const writer = PageFileWriter.create(env, DIRECTORY, IDENTITY);
    const first = put(writer, 0, 1);
    const second = put(writer, 0, 2);
    writer.flush();
    const bytes = readFile(env, writer.path);
    overwrite(
      env,
      writer.path,
      slotOf(second) * SLOT_BYTES,
      bytes.subarray(slotOf(first) * SLOT_BYTES).subarray(0, 4096),
    );
    const read = (reference: number) => () => seedOf(writer, reference);
    expect(read(first)()).toBe(1);
    expect(failure(read(second)).message).toContain('stored crc');
    expect(failure(read(coldReference(slotOf(first), 1))).code).toBe('ERR_CORRUPT');
    expect(failure(read(coldReference(9000, 0))).message).toContain('0 of 4096 bytes');
    expect(failure(read(coldReference(1, 0))).message).toContain('refers to no page');
    expect(failure(read(12)).message).toContain('refers to no page');

    const other = PageFileWriter.create(env, DIRECTORY, IDENTITY);
    expect(other.number).toBe(2);
    const third = put(other, 0, 3);
    other.flush();
    overwrite(
      env,
      other.path,
      slotOf(third) * SLOT_BYTES,
      bytes.subarray(slotOf(first) * SLOT_BYTES).subarray(0, 4096),
    );
    expect(failure(() => seedOf(other, third)).message).toContain('stored crc');
  });

  test('another store, shard or number, an unknown version and a damaged header are refused', () => {
    PageFileWriter.create(env, DIRECTORY, IDENTITY).close();
    const open = (identity: { storeId: Uint8Array; shard: number; number: number }) =>
      failure(() => new PageFileReader(env, DIRECTORY, identity));
    expect(open({ ...IDENTITY, shard: 4, number: 1 }).message).toContain('expected 1, 4');
    expect(open({ storeId: new Uint8Array(16), shard: 3, number: 1 }).code).toBe('ERR_CORRUPT');
    env.rename(`${DIRECTORY}/${pageFileName(1)}`, `${DIRECTORY}/${pageFileName(5)}`);
    expect(open({ ...IDENTITY, number: 5 }).message).toContain('belongs to number 1');
    expect(failure(() => PageFileWriter.open(env, DIRECTORY, { ...IDENTITY, number: 1 })).message).toContain('missing');
    overwrite(env, `${DIRECTORY}/${pageFileName(5)}`, 60, Uint8Array.of(1));
    expect(open({ ...IDENTITY, number: 5 }).message).toContain('header: stored crc');
  });

  test('any bytes as a header, a page or a root are a coded error', () => {
    const writer = PageFileWriter.create(env, DIRECTORY, IDENTITY);
    put(writer, 0, 5);
    writer.flush();
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(40_000), fc.nat(2 ** 32 - 1), (bytes, at, reference) => {
        const copy = new MemEnv();
        copy.makeDirectory(DIRECTORY);
        const file = copy.open(writer.path, 'create');
        const content = readFile(env, writer.path);
        file.write(content, 0, content.length, 0);
        file.write(bytes, 0, bytes.length, at);
        try {
          const reader = new PageFileReader(copy, DIRECTORY, { ...IDENTITY, number: 1 });
          reader.read(reference, Buffer.alloc(32768), 0);
        } catch (error) {
          expect(['ERR_CORRUPT', 'ERR_FORMAT_VERSION']).toContain((error as ConcordError).code);
        }
        try {
          decodeRoot(bytes);
        } catch (error) {
          expect((error as ConcordError).code).toBe('ERR_CORRUPT');
        }
      }),
      { numRuns: 300 },
    );
  });

  test('files that are not kept go, others stay', () => {
    for (let i = 0; i < 3; i++) PageFileWriter.create(env, DIRECTORY, IDENTITY).close();
    expect(pageFileNumbers(env, DIRECTORY)).toEqual([1, 2, 3]);
    expect(removePageFiles(env, DIRECTORY, (number) => number === 2)).toBe(2);
    expect(pageFileNumbers(env, DIRECTORY)).toEqual([2]);
    expect(PageFileWriter.create(env, DIRECTORY, IDENTITY).number).toBe(3);
    expect(pageFileNumber('tree-00000.pages')).toBeUndefined();
    expect(pageFileNumber('tree-99999.pages')).toBeUndefined();
  });

  test('a full disk costs the pages in the buffer and nothing else', () => {
    env = new MemEnv({ capacityBytes: 512 * 1024 });
    env.makeDirectory(DIRECTORY);
    const writer = PageFileWriter.create(env, DIRECTORY, IDENTITY);
    const kept = put(writer, 0, 1);
    writer.flush();
    const lost: number[] = [];
    const error = failure(() => {
      for (;;) lost.push(put(writer, 3, 2));
    });
    expect(error.code).toBe('ERR_DISK_FULL');
    for (const reference of lost) writer.discard(reference);
    expect(writer.stats().usedSlots).toBe(1);
    expect(seedOf(writer, kept)).toBe(1);
  });
});

describe('slots', () => {
  test('of a released page are used again only after the next checkpoint and when readers have gone', () => {
    const writer = PageFileWriter.create(env, DIRECTORY, IDENTITY);
    const old = put(writer, 0, 1);
    const { generation } = writer.capture();
    syncPageFile(env, DIRECTORY, writer.number);
    writer.confirm(generation);
    const young = put(writer, 0, 2);
    const filler = [3, 4, 5, 6, 7, 8].map((seed) => put(writer, 0, seed));
    expect(filler.map(slotOf)).not.toContain(slotOf(old));
    writer.release(old, 10);
    writer.release(young, 11);
    const next = (): number => slotOf(put(writer, 0, 9));
    writer.reclaim(10);
    expect([slotOf(old), slotOf(young)]).not.toContain(next());
    writer.reclaim(11);
    // Group of slots 8 … 15 is full but for the young page; a round finds it.
    const taken = Array.from({ length: 8 }, next);
    expect(taken).toContain(slotOf(young));
    expect(taken).not.toContain(slotOf(old));
    const captured = writer.capture();
    writer.reclaim(100);
    expect(Array.from({ length: 8 }, next)).not.toContain(slotOf(old));
    writer.confirm(captured.generation);
    writer.reclaim(100);
    expect(Array.from({ length: 8 }, next)).toContain(slotOf(old));
  });

  test('random life: no page is ever put over one that a checkpoint or a reader needs', () => {
    const random = new Random(4711);
    const writer = PageFileWriter.create(env, DIRECTORY, IDENTITY);
    let seed = 1;
    let epoch = 1;
    const live = new Map<number, number>();
    let durable = new Map<number, number>();
    let captured: { generation: number; pages: Map<number, number> } | undefined;
    /** Pages that readers of an epoch still see. */
    let seen: { until: number; reference: number; seed: number }[] = [];
    for (let step = 0; step < 2400; step++) {
      const choice = random.nextFloat();
      if (choice < 0.5 || live.size === 0) {
        const pageClass = random.pick([0, 0, 0, 1, 2, 3]);
        live.set(put(writer, pageClass, seed), seed);
        seed++;
      } else if (choice < 0.95) {
        const reference = random.pick([...live.keys()].slice(0, 50));
        seen.push({ until: epoch + 1, reference, seed: live.get(reference)! });
        live.delete(reference);
        writer.release(reference, epoch + 1);
      } else if (choice < 0.97) {
        epoch++;
      } else if (choice < 0.98) {
        const safe = epoch - random.below(3);
        seen = seen.filter(({ until }) => until > safe);
        writer.reclaim(safe);
      } else if (captured === undefined) {
        captured = { generation: writer.capture().generation, pages: new Map(live) };
      } else {
        if (random.chance(0.7)) {
          writer.confirm(captured.generation);
          durable = captured.pages;
        }
        captured = undefined;
      }
      if (step % 60 !== 0) continue;
      writer.flush();
      for (const pages of [live, durable, captured?.pages ?? new Map<number, number>()])
        for (const [reference, expected] of pages) expect(seedOf(writer, reference)).toBe(expected);
      for (const { reference, seed: expected } of seen) expect(seedOf(writer, reference)).toBe(expected);
    }
    const { fileSlots, usedSlots } = writer.stats();
    expect(fileSlots).toBeLessThan(3 * usedSlots + 256);
  });

  test('after an open only what is claimed is kept, and nothing can be claimed twice or beyond the end', () => {
    const writer = PageFileWriter.create(env, DIRECTORY, IDENTITY);
    const references = Array.from({ length: 40 }, (_, i) => put(writer, i % 4, i));
    writer.flush();
    const again = PageFileWriter.open(env, DIRECTORY, { ...IDENTITY, number: 1 });
    const kept = references.filter((_, i) => i % 3 === 0);
    for (const reference of kept) again.claim(reference);
    expect(failure(() => again.claim(kept[0]!)).code).toBe('ERR_CORRUPT');
    expect(failure(() => again.claim(coldReference(100_000, 0))).code).toBe('ERR_CORRUPT');
    expect(failure(() => again.claim(coldReference(FIRST_SLOT + 1, 1))).code).toBe('ERR_CORRUPT');
    for (let i = 0; i < 200; i++) put(again, i % 4, 1000 + i);
    again.flush();
    kept.forEach((reference) => {
      expect(seedOf(again, reference)).toBe(references.indexOf(reference));
    });
  });

  test('what nobody claimed is held until the next checkpoint when the last one is unknown', () => {
    const writer = PageFileWriter.create(env, DIRECTORY, IDENTITY);
    const references = Array.from({ length: 40 }, (_, i) => put(writer, i % 4, i));
    writer.flush();
    const again = PageFileWriter.open(env, DIRECTORY, { ...IDENTITY, number: 1 });
    again.claim(references[0]!);
    again.holdUnclaimed();
    for (let i = 0; i < 100; i++) put(again, i % 4, 1000 + i);
    again.flush();
    references.forEach((reference, i) => {
      expect(seedOf(again, reference)).toBe(i);
    });
    const end = again.stats().fileSlots;
    again.confirm(again.capture().generation);
    for (let i = 0; i < 30; i++) put(again, 0, 2000 + i);
    expect(again.stats().fileSlots).toBe(end);
  });

  test('a map fills holes of the right size before it grows', () => {
    const map = new SlotMap();
    const large = Array.from({ length: 10 }, () => map.allocate(3, 0));
    map.free(large[4]!);
    expect([map.allocate(1, 0), map.allocate(2, 0), map.allocate(1, 0)].map((slot) => slot >>> 3)).toEqual(
      [0, 0, 0].map(() => large[4]! >>> 3),
    );
    expect(map.allocate(0, 0)).toBe(large[9]! + 8);
    expect(() => {
      map.free(large[4]! + 1);
    }).toThrow('holds no page');
    for (const slot of large) if (slot !== large[4]) map.free(slot);
    expect(map.freeAtEnd).toBe(0);
  });

  test('the file is cut when much of its end is free', () => {
    const writer = PageFileWriter.create(env, DIRECTORY, IDENTITY);
    const references = Array.from({ length: 1000 }, (_, i) => put(writer, 0, i));
    writer.flush();
    for (const reference of references.slice(100)) writer.release(reference, 5);
    writer.reclaim(5);
    writer.confirm(writer.capture().generation);
    expect(writer.stats().fileSlots).toBe(112);
    expect(readFile(env, writer.path).length).toBe(112 * SLOT_BYTES);
    expect(seedOf(writer, references[99]!)).toBe(99);
  });
});
