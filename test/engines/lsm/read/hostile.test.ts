/** Damaged files and pages under readers, cursors and walks: the right answer, or an error with a code that names the file and the place. */
import { describe, expect, test } from 'vitest';
import { ConcordError } from '../../../../dist/shared/errors.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { Random } from '../../../../dist/shared/random.js';
import { UNIT_BYTES } from '../../../../dist/shared/memory/arena.js';
import { markState } from '../../../../dist/engines/lsm/memory/state-page.js';
import { LsmFiles } from '../../../../dist/engines/lsm/read/files.js';
import { VersionWalk } from '../../../../dist/engines/lsm/read/version-walk.js';
import { Harness, SPACE, bytes, get, type HarnessOptions } from './support.js';

const SEED = Number(process.env.SEED ?? 4711);
const COUNT = 40;

function filled(options: HarnessOptions): Harness {
  const harness = new Harness({ env: new MemEnv(), tableEntries: 25, memoryBytes: 4 << 20, ...options });
  for (const round of [0, 1]) {
    for (let index = round; index < COUNT; index += 1 + round) {
      const key = bytes(`key ${String(index).padStart(3, '0')}`);
      if (round === 1 && index % 9 === 0) harness.del(key);
      else harness.put(key, bytes(`value ${index} of ${round} `.repeat(4)), index % 11 === 0 ? 9999 : 0);
    }
    harness.freeze();
    harness.flush();
  }
  harness.clear(bytes('key 030'), bytes('key 033'));
  return harness;
}

/** Whatever fails must be told by `mayFail`; whatever does not must be right. */
function readAll(harness: Harness, mayFail: (error: ConcordError) => void): void {
  const { arena } = harness;
  const attempt = (run: () => void): void => {
    try {
      run();
    } catch (error) {
      if (!(error instanceof ConcordError)) throw error;
      mayFail(error);
    }
  };
  const reader = harness.reader();
  for (let index = 0; index < COUNT + 2; index++) {
    const key = bytes(`key ${String(index).padStart(3, '0')}`);
    attempt(() => {
      const found = get(harness, reader, key);
      const expected = harness.expected(key);
      expect(found?.value).toEqual(expected === undefined ? undefined : Buffer.from(expected.value!));
    });
  }
  const all = harness.expectedAll();
  for (const reverse of [false, true]) {
    const rows = reverse ? [...all].reverse() : all;
    const cursor = harness.cursor();
    const metaUnit = arena.pin(1);
    attempt(() => {
      let count = 0;
      let more = cursor.seek(metaUnit, undefined, 0, Infinity, reverse, 1);
      for (; more; more = reverse ? cursor.prev() : cursor.next()) {
        const expected = rows[count++];
        expect(cursor.compareKey(expected!.key, expected!.key.length)).toBe(0);
        expect(cursor.copyValue()).toEqual(Buffer.from(expected!.value!));
      }
      expect(count).toBe(rows.length);
    });
    cursor.release();
    arena.unpin(1);
  }
  attempt(() => {
    const walk = new VersionWalk(arena, 0, SPACE, 0);
    const seen = new Set<string>();
    walk.visit(arena.published(), undefined, 10_000, (key, keyLength, _value, _length, seq) => {
      seen.add(`${Buffer.from(key.subarray(0, keyLength)).toString()}@${seq}`);
    });
    for (const { key, seq } of harness.versions) expect(seen).toContain(`${Buffer.from(key).toString()}@${seq}`);
  });
}

const CONFIGURATIONS: [string, HarnessOptions][] = [
  ['no cache', { cacheBytes: 0 }],
  ['no cache, metadata in files', { cacheBytes: 0, resident: false }],
  ['a cache, lz4, metadata in files', { resident: false, table: { compression: 'lz4' } }],
  ['values in blob files', { cacheBytes: 0, blobValueBytes: 60 }],
];

describe.each(CONFIGURATIONS)('with %s', (_name, options) => {
  test('a byte that differs anywhere in a file is told with file and offset, or does no harm', () => {
    const harness = filled(options);
    const { env, treeDirectory } = harness;
    let refused = 0;
    for (const name of env.list(treeDirectory)) {
      const path = `${treeDirectory}/${name}`;
      const file = env.open(path, 'write');
      const size = file.size();
      const original = new Uint8Array(size);
      file.read(original, 0, size, 0);
      for (let at = 0; at < size; at += 41) {
        file.write(Uint8Array.of(original[at]! ^ (1 << (at & 7))), 0, 1, at);
        // Nothing that was read before helps.
        LsmFiles.attach(harness.arena, env, { ...harness.layout.cold!, cache: undefined }, 1);
        readAll(harness, (error) => {
          refused++;
          expect(error.code).toBe('ERR_CORRUPT');
          expect(error.details).toMatchObject({ file: path, offset: expect.any(Number) as number });
        });
        file.write(original, at, 1, at);
        file.sync();
      }
      file.close();
    }
    expect(refused).toBeGreaterThan(20);
    readAll(harness, (error) => {
      throw error;
    });
  });

  test('a file that is cut short or gone is told with its name', () => {
    const harness = filled(options);
    const { env, treeDirectory } = harness;
    for (const name of env.list(treeDirectory)) {
      const path = `${treeDirectory}/${name}`;
      const file = env.open(path, 'write');
      const size = file.size();
      const original = new Uint8Array(size);
      file.read(original, 0, size, 0);
      for (let length = size - 1; length >= 0; length -= 211) {
        file.truncate(length);
        LsmFiles.attach(harness.arena, env, { ...harness.layout.cold!, cache: undefined }, 1);
        readAll(harness, (error) => {
          expect(error).toMatchObject({ code: 'ERR_CORRUPT', details: { file: path } });
        });
      }
      file.write(original, 0, size, 0);
      file.close();
      env.rename(path, `${path}.away`);
      LsmFiles.attach(harness.arena, env, { ...harness.layout.cold!, cache: undefined }, 1);
      let refused = 0;
      readAll(harness, (error) => {
        refused++;
        expect(error).toMatchObject({ code: 'ERR_CORRUPT', details: { file: path } });
      });
      expect(refused).toBeGreaterThan(0);
      env.rename(`${path}.away`, path);
    }
  });
});

test('another table’s file in the place of one is told', () => {
  const harness = filled({ cacheBytes: 0 });
  const { env, treeDirectory } = harness;
  const [one, other] = env.list(treeDirectory);
  env.rename(`${treeDirectory}/${one!}`, `${treeDirectory}/kept`);
  env.rename(`${treeDirectory}/${other!}`, `${treeDirectory}/${one!}`);
  env.rename(`${treeDirectory}/kept`, `${treeDirectory}/${other!}`);
  let refused = 0;
  readAll(harness, (error) => {
    refused++;
    expect(error.code).toBe('ERR_CORRUPT');
  });
  expect(refused).toBeGreaterThan(10);
});

test('wrong words in the pages of states, versions and tables end in ERR_CORRUPT, or go unnoticed, and never go round', () => {
  const random = new Random(SEED);
  let refused = 0;
  for (let round = 0; round < 120; round++) {
    const harness = filled({ cacheBytes: 0, resident: round % 2 === 0 });
    const { arena } = harness;
    const pages: [unit: number, units: number][] = [];
    markState(arena, harness.state, (unit, units) => pages.push([unit, units]));
    for (let change = 0; change < 2; change++) {
      const [unit, units] = pages[random.below(pages.length)]!;
      const at = random.below(3) === 0 ? random.below(units * UNIT_BYTES) : random.below(160);
      arena.u8[0]![unit * UNIT_BYTES + at] = random.below(256);
    }
    const reader = harness.reader();
    const cursor = harness.cursor();
    const attempt = (run: () => void): void => {
      try {
        run();
      } catch (error) {
        refused++;
        expect(error, `seed ${SEED} round ${round}`).toMatchObject({ code: 'ERR_CORRUPT' });
      }
    };
    for (let index = 0; index < COUNT; index++) {
      attempt(() => get(harness, reader, bytes(`key ${String(index).padStart(3, '0')}`)));
    }
    for (const reverse of [false, true]) {
      attempt(() => {
        let steps = 0;
        const metaUnit = arena.pin(1);
        try {
          for (
            let more = cursor.seek(metaUnit, undefined, 0, Infinity, reverse, 1);
            more;
            more = reverse ? cursor.prev() : cursor.next()
          ) {
            cursor.copyValue();
            expect(++steps, `seed ${SEED} round ${round}`).toBeLessThan(50_000);
          }
        } finally {
          arena.unpin(1);
        }
      });
    }
  }
  expect(refused).toBeGreaterThan(10);
});
