/** States, versions, tables and fence trees in arena pages: what was built is read, all of it comes back, and wrong bytes are told. */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ConcordError } from '../../../../dist/shared/errors.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { ArenaWriter, createArena, type UnitId } from '../../../../dist/shared/memory/arena.js';
import { Random } from '../../../../dist/shared/random.js';
import {
  FenceCursor,
  FenceTreeBuilder,
  fenceTreeUnits,
  walkFenceTree,
} from '../../../../dist/engines/lsm/memory/fence-tree.js';
import { releaseLsmPage } from '../../../../dist/engines/lsm/memory/page.js';
import { buildState, markState, readState, retireState } from '../../../../dist/engines/lsm/memory/state-page.js';
import {
  TableInstallation,
  isResident,
  retireTable,
  tableMetaUnits,
  tableUnits,
} from '../../../../dist/engines/lsm/memory/table-meta.js';
import {
  blobsOf,
  buildVersion,
  markVersion,
  readVersion,
  retireVersion,
  runsOf,
} from '../../../../dist/engines/lsm/memory/version-page.js';
import { TableWriter } from '../../../../dist/engines/lsm/table/table-writer.js';
import type { TableInfo } from '../../../../dist/engines/lsm/types.js';
import { installTable } from '../install-table.js';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

function arenaOf(memoryBytes = 8 << 20): ArenaWriter {
  return new ArenaWriter(createArena({ memoryBytes }));
}

function tree(arena: ArenaWriter, keys: readonly Uint8Array[]): UnitId {
  const builder = new FenceTreeBuilder(arena);
  keys.forEach((key, index) => {
    builder.add(key, key.length, index, index * 3);
  });
  return builder.finish();
}

function free(arena: ArenaWriter, root: UnitId): void {
  walkFenceTree(
    arena,
    root,
    (unit) => {
      releaseLsmPage(arena, unit);
    },
    () => undefined,
  );
}

/** Short ones of few letters, long ones that differ late, and the longest. */
const keyArbitrary = fc.oneof(
  fc.array(fc.constantFrom(0, 1, 97, 255), { maxLength: 6 }).map((list) => Uint8Array.from(list)),
  fc.nat(3000).map((number) => bytes(`a common prefix ${String(number).padStart(6, '0')}`)),
  fc.tuple(fc.integer({ min: 0, max: 4096 }), fc.nat(255)).map(([length, last]) => {
    const key = new Uint8Array(length).fill(98);
    if (length > 0) key[length - 1] = last;
    return key;
  }),
);
const keysArbitrary = fc
  .array(keyArbitrary, { minLength: 1, maxLength: 400 })
  .map((keys) => keys.sort((a, b) => Buffer.compare(a, b)));

describe('a fence tree', () => {
  test('finds the first entry with a key that is not less, or greater, and its neighbours', () => {
    fc.assert(
      fc.property(keysArbitrary, fc.array(keyArbitrary, { minLength: 1, maxLength: 20 }), (keys, others) => {
        const arena = arenaOf();
        const before = arena.usedUnits;
        const root = tree(arena, keys);
        expect(arena.usedUnits - before).toBeLessThanOrEqual(
          fenceTreeUnits(
            keys.length,
            keys.reduce((sum, key) => sum + key.length, 0),
          ),
        );
        const cursor = new FenceCursor(arena);
        const own = new Uint8Array(4096);
        const isAt = (index: number): void => {
          expect(cursor.valid).toBe(index >= 0 && index < keys.length);
          if (!cursor.valid) return;
          expect([cursor.a, cursor.b]).toEqual([index, index * 3]);
          expect(own.slice(0, cursor.copyKey(own))).toEqual(keys[index]);
        };
        for (const key of [...others, ...keys.slice(0, 30)]) {
          for (const isAfter of [false, true]) {
            const found = keys.findIndex((other) => Buffer.compare(other, key) >= (isAfter ? 1 : 0));
            expect(cursor.seek(root, key, key.length, isAfter)).toBe(found >= 0);
            if (found < 0) continue;
            expect(cursor.keyEquals(key, key.length)).toBe(Buffer.compare(keys[found]!, key) === 0);
            isAt(found);
            expect(cursor.next()).toBe(found + 1 < keys.length);
            isAt(found + 1);
            cursor.seek(root, key, key.length, isAfter);
            expect(cursor.prev()).toBe(found > 0);
            isAt(found - 1);
          }
        }
        const seen: number[] = [];
        for (let more = cursor.first(root); more; more = cursor.next()) seen.push(cursor.a);
        for (let more = cursor.last(root); more; more = cursor.prev()) seen.push(cursor.a);
        const all = keys.map((_, index) => index);
        expect(seen).toEqual([...all, ...[...all].reverse()]);
        free(arena, root);
        expect(arena.usedUnits).toBe(before);
      }),
      { numRuns: 25 },
    );
  });

  test('keeps a note at each entry, which changes nothing else of it', () => {
    const arena = arenaOf();
    const keys = Array.from({ length: 3000 }, (_, index) => bytes(String(index).padStart(8, '0')));
    const root = tree(arena, keys);
    const cursor = new FenceCursor(arena);
    for (const [index, key] of keys.entries()) {
      cursor.seek(root, key, key.length);
      expect(cursor.note).toBe(0);
      cursor.note = 0xffffffff - index;
    }
    const own = new Uint8Array(4096);
    let index = 0;
    for (let more = cursor.first(root); more; more = cursor.next(), index++) {
      expect([cursor.a, cursor.b, cursor.note]).toEqual([index, index * 3, 0xffffffff - index]);
      expect(own.slice(0, cursor.copyKey(own))).toEqual(keys[index]);
    }
    expect(index).toBe(3000);
  });

  test('of many entries has pages above pages', () => {
    const arena = arenaOf();
    const keys = Array.from({ length: 20_000 }, (_, index) => bytes(String(index).padStart(8, '0')));
    const root = tree(arena, keys);
    const cursor = new FenceCursor(arena);
    let pages = 0;
    walkFenceTree(
      arena,
      root,
      () => pages++,
      () => undefined,
    );
    expect(pages).toBeGreaterThan(10);
    for (let index = 0; index < keys.length; index += 77) {
      expect(cursor.seek(root, keys[index]!, 8)).toBe(true);
      expect(cursor.a).toBe(index);
      expect(cursor.seek(root, keys[index]!, 8, true)).toBe(index + 1 < keys.length);
    }
  });

  test('is made of small pages where large ones cannot be had, and leaves nothing behind where none can', () => {
    const arena = arenaOf(1 << 20);
    const held: UnitId[] = [];
    for (;;) {
      try {
        held.push(arena.allocate(1));
      } catch {
        break;
      }
    }
    // Every second unit: nothing larger than one is left.
    for (let index = 0; index < held.length; index += 2) arena.free(held[index]!);
    const before = arena.usedUnits;
    const keys = Array.from({ length: 1000 }, (_, index) => bytes(String(index).padStart(8, '0')));
    const root = tree(arena, keys);
    const cursor = new FenceCursor(arena);
    keys.forEach((key, index) => {
      expect(cursor.seek(root, key, key.length) && cursor.a === index).toBe(true);
    });
    free(arena, root);
    const builder = new FenceTreeBuilder(arena);
    expect(() => {
      for (let index = 0; index < 100_000; index++) builder.add(bytes(String(index).padStart(8, '0')), 8, 0, 0);
      builder.finish();
    }).toThrow(expect.objectContaining({ code: 'ERR_MEMORY_FULL' }) as Error);
    builder.abort();
    expect(arena.usedUnits).toBe(before);
  });
});

function infoOf(number: number, largest: string, level = 0): TableInfo {
  return {
    number,
    level,
    run: 0,
    bytes: 1000,
    entries: 10,
    keys: 10,
    tombstones: 0,
    rawBytes: 1000,
    smallestKey: bytes(''),
    largestKey: bytes(largest),
    smallestSeq: 1,
    largestSeq: 2,
    expiring: 0,
    firstExpiry: 0,
    lastExpiry: 0,
    blobs: [],
    createdAt: 1,
  };
}

describe('states and versions', () => {
  test('are read as they were built, and give back all of their pages', () => {
    const arena = arenaOf();
    const before = arena.usedUnits;
    const version = buildVersion(
      arena,
      [
        [{ info: infoOf(9, 'z'), meta: 90 }],
        [],
        Array.from({ length: 3000 }, (_, index) => ({
          info: infoOf(100 + index, String(index).padStart(5, '0'), 3),
          meta: 1000 + index,
        })),
      ],
      [8, 5],
    );
    expect(runsOf(arena, version).map(({ level, tables }) => ({ level, tables }))).toEqual([
      { level: 0, tables: 1 },
      { level: 3, tables: 3000 },
    ]);
    const tables = readVersion(arena, version);
    expect(tables.size).toBe(3001);
    expect(tables.get(9)).toBe(90);
    expect(tables.get(3099)).toBe(3999);
    expect(blobsOf(arena, version)).toEqual(new Set([5, 8]));
    const tombstones = [
      { seq: 5, low: undefined, high: undefined },
      { seq: 2 ** 47, low: bytes('a'), high: undefined },
      { seq: 7, low: new Uint8Array(0), high: new Uint8Array(4096).fill(7) },
      ...Array.from({ length: 50 }, (_, index) => ({
        seq: 100 + index,
        low: new Uint8Array(3000).fill(index),
        high: bytes('x'),
      })),
    ];
    const state = buildState(arena, { tree: 12, version, memtables: [40, 50, 60], tombstones });
    expect(readState(arena, state)).toEqual({ tree: 12, version, memtables: [40, 50, 60], tombstones });
    retireState(arena, state);
    retireVersion(arena, version);
    expect(arena.usedUnits).toBe(before);
  });

  test('of nothing are empty', () => {
    const arena = arenaOf();
    const version = buildVersion(arena, []);
    expect(runsOf(arena, version)).toEqual([]);
    expect(readVersion(arena, version).size).toBe(0);
    const state = buildState(arena, { tree: 1, version: 0, memtables: [], tombstones: [] });
    expect(readState(arena, state)).toEqual({ tree: 1, version: 0, memtables: [], tombstones: [] });
    expect(runsOf(arena, 0)).toEqual([]);
  });

  test('with more blob files than fit do not list them', () => {
    const arena = arenaOf();
    const numbers = Array.from({ length: 9000 }, (_, index) => index + 1);
    expect(blobsOf(arena, buildVersion(arena, [], numbers))).toBeUndefined();
  });

  test('that do not fit the memory leave nothing behind', () => {
    const arena = arenaOf(256 << 10);
    const before = arena.usedUnits;
    const run = Array.from({ length: 5000 }, (_, index) => ({
      info: infoOf(index + 1, `${String(index).padStart(5, '0')}${'k'.repeat(200)}${index}`),
      meta: index + 1,
    }));
    expect(() => buildVersion(arena, [run.slice(0, 10), run])).toThrow(ConcordError);
    const tombstones = Array.from({ length: 200 }, (_, seq) => ({ seq, low: new Uint8Array(4000), high: undefined }));
    expect(() => buildState(arena, { tree: 1, version: 0, memtables: [], tombstones })).toThrow(ConcordError);
    expect(arena.usedUnits).toBe(before);
  });
});

const IDENTITY = { storeId: new Uint8Array(16), shard: 0, tree: 1 };

function tableOn(env: MemEnv, entries: number, bitsPerKey = 10): TableInfo {
  env.makeDirectory('/tree');
  const writer = TableWriter.create(env, '/tree/000001.sst', {
    identity: IDENTITY,
    number: 1,
    level: 2,
    run: 0,
    createdAt: 1,
    options: { blockBytes: 1024, restartInterval: 8, compression: 'none', bitsPerKey, prefixFilterBytes: 3 },
  });
  const value = new Uint8Array(100);
  for (let index = 0; index < entries; index++) {
    const key = bytes(`key ${String(index).padStart(7, '0')}`);
    writer.add(key, key.length, value, 0, value.length, index + 1, 0, 0);
  }
  return writer.finish();
}

describe('a table', () => {
  test.each([true, false])(
    'that was installed (resident: %s) takes about what was foretold, and gives all of it back',
    (resident) => {
      const env = new MemEnv();
      const info = tableOn(env, 30_000);
      const arena = arenaOf();
      const before = arena.usedUnits;
      const unit = installTable(arena, env, '/tree', IDENTITY, info, 77, { resident });
      expect(isResident(arena, unit)).toBe(resident);
      const units = tableUnits(arena, unit);
      expect(units).toBe(arena.usedUnits - before);
      const foretold = tableMetaUnits(info, { resident, blockBytes: 1024 });
      expect(foretold).toBeGreaterThanOrEqual(units);
      expect(foretold).toBeLessThan(3 * units + 30);
      const state = buildState(arena, {
        tree: 1,
        version: buildVersion(arena, [[{ info, meta: unit }]]),
        memtables: [],
        tombstones: [{ seq: 1, low: undefined, high: undefined }],
      });
      // What adoption would keep is all that is in use.
      let marked = 0;
      const seen = new Set<UnitId>();
      markState(arena, state, (page, count) => {
        expect(seen.has(page)).toBe(false);
        seen.add(page);
        marked += count;
      });
      expect(marked).toBe(arena.usedUnits - before);
      const { version } = readState(arena, state);
      retireTable(arena, unit);
      retireVersion(arena, version);
      retireState(arena, state);
      expect(arena.usedUnits).toBe(before);
    },
  );

  test('that does not fit the memory leaves nothing behind', () => {
    const env = new MemEnv();
    const info = tableOn(env, 60_000, 30);
    // For not all of its index; for the index, and not all of the filter.
    for (const memoryBytes of [256 << 10, 384 << 10]) {
      const arena = arenaOf(memoryBytes);
      const before = arena.usedUnits;
      expect(() => installTable(arena, env, '/tree', IDENTITY, info, 1, { resident: true })).toThrow(
        expect.objectContaining({ code: 'ERR_MEMORY_FULL' }) as Error,
      );
      expect(arena.usedUnits).toBe(before);
      installTable(arena, env, '/tree', IDENTITY, info, 1, { resident: false });
    }
  });

  test.each([true, false])(
    'that is installed in steps (resident: %s) is the same, or nothing if that is given up',
    (resident) => {
      const env = new MemEnv();
      const info = tableOn(env, 60_000);
      const arena = arenaOf();
      const before = arena.usedUnits;
      const whole = tableUnits(arena, installTable(arena, env, '/tree', IDENTITY, info, 1, { resident }));
      const between = arena.usedUnits;
      const begin = (): TableInstallation =>
        new TableInstallation(arena, env, '/tree', IDENTITY, info, 2, { resident });
      const inSteps = begin();
      let steps = 1;
      while (inSteps.advance(10_000) <= 0) steps++;
      if (resident) expect(steps).toBeGreaterThan(10);
      expect(tableUnits(arena, inSteps.unit)).toBe(whole);
      expect(arena.usedUnits - between).toBe(between - before);
      for (let given = 0; given < steps; given++) {
        const used = arena.usedUnits;
        const installation = begin();
        for (let step = 0; step < given; step++) installation.advance(10_000);
        installation.abort();
        expect(arena.usedUnits).toBe(used);
      }
    },
  );

  test('whose file is missing or another table’s is refused', () => {
    const env = new MemEnv();
    const info = tableOn(env, 10);
    const arena = arenaOf();
    const before = arena.usedUnits;
    const stranger = { ...IDENTITY, tree: 2 };
    for (const run of [
      () => installTable(arena, env, '/tree', IDENTITY, { ...info, number: 2 }, 1, { resident: true }),
      () => installTable(arena, env, '/tree', stranger, info, 1, { resident: true }),
      () => installTable(arena, env, '/tree', IDENTITY, { ...info, bytes: info.bytes + 1 }, 1, { resident: true }),
    ]) {
      expect(run).toThrow(expect.objectContaining({ code: 'ERR_CORRUPT' }) as Error);
    }
    expect(arena.usedUnits).toBe(before);
  });
});

test('wrong words in pages lead to ERR_CORRUPT or to other entries, never out of the arena or into an endless walk', () => {
  const seed = Number(process.env.SEED ?? 20261122);
  const random = new Random(seed);
  for (let round = 0; round < 150; round++) {
    const arena = arenaOf(1 << 20);
    const keys = Array.from({ length: 600 }, (_, index) => bytes(`some prefix ${String(index).padStart(6, '0')}`));
    const root = tree(arena, keys);
    const units: [UnitId, number][] = [];
    walkFenceTree(
      arena,
      root,
      (unit, count) => units.push([unit, count]),
      () => undefined,
    );
    for (let change = 0; change < 3; change++) {
      const [unit, count] = units[random.below(units.length)]!;
      // The header is hit as often as all the rest.
      const at = random.below(2) === 0 ? random.below(64) : random.below(count * 4096);
      arena.u8[0]![unit * 4096 + at] = random.below(256);
    }
    const cursor = new FenceCursor(arena);
    const key = new Uint8Array(4096);
    try {
      const wanted = keys[random.below(keys.length)]!;
      if (cursor.seek(root, wanted, wanted.length)) cursor.copyKey(key);
      let steps = 0;
      for (let more = cursor.first(root); more; more = cursor.next()) {
        if (++steps % 16 === 0) cursor.copyKey(key);
        expect(steps, `seed ${seed} round ${round}`).toBeLessThan(100_000);
      }
    } catch (error) {
      expect(error, `seed ${seed} round ${round}`).toMatchObject({ code: 'ERR_CORRUPT' });
    }
  }
});

test('a version that is no unit of the arena is told, wherever it is looked at', () => {
  const arena = arenaOf(1 << 20);
  for (const unit of [1, arena.totalUnits, 0x7fffffff, 0xffffffff]) {
    for (const look of [
      () => markVersion(arena, unit, () => undefined),
      () => runsOf(arena, unit),
      () => readVersion(arena, unit),
      () => blobsOf(arena, unit),
      () => markState(arena, unit, () => undefined),
    ]) {
      expect(look).toThrow(expect.objectContaining({ code: 'ERR_CORRUPT' }));
    }
  }
});
