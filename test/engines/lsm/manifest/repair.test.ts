/** What verify finds and what repair saves of trees whose files are damaged, cut or gone. */
import { beforeEach, describe, expect, test } from 'vitest';
import { LsmManifest } from '../../../../dist/engines/lsm/manifest/manifest.js';
import { blobName, manifestName, tableName } from '../../../../dist/engines/lsm/manifest/names.js';
import { repairTree, runsByNumbers } from '../../../../dist/engines/lsm/manifest/repair.js';
import { verifyTree } from '../../../../dist/engines/lsm/manifest/verify.js';
import { crc32 } from '../../../../dist/shared/checksum.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { Random } from '../../../../dist/shared/random.js';
import { DIRECTORY, IDENTITY, bytesOf, failure, replace, textOf } from './scene.js';
import { TreeBuilder, randomTree, versionsOf, visible, type Version } from './tree-scene.js';

const TO = '/store/repaired/lsm-7';

let env: MemEnv;
beforeEach(() => {
  env = new MemEnv();
});

function flip(path: string, offset: number, mask = 1): void {
  const bytes = bytesOf(env, path);
  bytes[offset]! ^= mask;
  replace(env, path, bytes);
}

const problems = (): string[] => verifyTree(env, DIRECTORY, IDENTITY).problems.map(({ message }) => message);
const repair = (options = {}): ReturnType<typeof repairTree> => repairTree(env, DIRECTORY, TO, IDENTITY, options);

/** Repair must leave a tree that verify has nothing to say about, and that opens. */
function expectSound(): void {
  expect(verifyTree(env, TO, IDENTITY).problems).toEqual([]);
  LsmManifest.open(env, TO, IDENTITY).close();
}

function loseManifest(): void {
  env.remove(`${DIRECTORY}/CURRENT`);
  for (const name of env.list(DIRECTORY)) if (name.startsWith('MANIFEST')) env.remove(`${DIRECTORY}/${name}`);
}

const key = (index: number): string => `key-${String(index).padStart(4, '0')}`;
const many = (count: number, seq: number, text = 'value'): Version[] =>
  Array.from({ length: count }, (_, i) => ({ key: key(i), seq: seq + i, value: `${text} ${i}` }));

describe('verify of a tree', () => {
  test('has nothing to say about a sound one, whatever is in it', () => {
    for (let seed = 1; seed <= 5; seed++) {
      env = new MemEnv();
      randomTree(new Random(seed), new TreeBuilder(env, DIRECTORY, seed % 2 === 0 ? { compression: 'lz4' } : {}));
      const report = verifyTree(env, DIRECTORY, IDENTITY);
      expect(report.problems).toEqual([]);
      expect(report.entries).toBe([...report.state!.tables.values()].reduce((sum, { entries }) => sum + entries, 0));
      expect(report.orphans).toEqual([]);
    }
  });

  test('finds any byte of a table that is not what was written, and names the file and a place', () => {
    new TreeBuilder(env).add(0, 1, many(12, 1));
    const path = `${DIRECTORY}/${tableName(1)}`;
    const whole = bytesOf(env, path);
    for (let offset = 0; offset < whole.length; offset++) {
      const changed = Buffer.from(whole);
      changed[offset]! ^= 1 << (offset & 7);
      replace(env, path, changed);
      const [problem] = verifyTree(env, DIRECTORY, IDENTITY).problems;
      expect(problem, `offset ${offset}`).toMatchObject({ details: { file: path } });
      expect(['ERR_CORRUPT', 'ERR_FORMAT_VERSION']).toContain(problem!.code);
      expect(problem!.details['offset']).toBeLessThanOrEqual(whole.length);
    }
  });

  test('finds a table that is cut at any place, or gone', () => {
    new TreeBuilder(env).add(0, 1, many(12, 1));
    const path = `${DIRECTORY}/${tableName(1)}`;
    const whole = bytesOf(env, path);
    for (let length = 0; length < whole.length; length++) {
      replace(env, path, whole.subarray(0, length));
      const [problem] = verifyTree(env, DIRECTORY, IDENTITY).problems;
      expect(problem, `length ${length}`).toMatchObject({ code: 'ERR_CORRUPT', details: { file: path } });
    }
    env.remove(path);
    expect(verifyTree(env, DIRECTORY, IDENTITY).problems).toMatchObject([
      { code: 'ERR_CORRUPT', details: { file: path } },
    ]);
  });

  test('finds any byte of a blob file that is not what was written, and one that is gone', () => {
    const versions = many(12, 1, 'a long value').map((version) => ({ ...version, isBlob: true }));
    new TreeBuilder(env).add(0, 1, versions);
    const path = `${DIRECTORY}/${blobName(2)}`;
    const whole = bytesOf(env, path);
    for (let offset = 0; offset < whole.length; offset++) {
      const changed = Buffer.from(whole);
      changed[offset]! ^= 1 << (offset & 7);
      replace(env, path, changed);
      const [problem] = verifyTree(env, DIRECTORY, IDENTITY).problems;
      expect(problem, `offset ${offset}`).toMatchObject({ details: { file: path } });
    }
    env.remove(path);
    expect(verifyTree(env, DIRECTORY, IDENTITY).problems[0]).toMatchObject({
      code: 'ERR_CORRUPT',
      details: { file: path },
    });
  });

  test('finds a table of another tree, and one that is not the table of this number', () => {
    const builder = new TreeBuilder(env);
    builder.add(0, 1, many(10, 1));
    builder.add(0, 2, many(10, 100));
    replace(env, `${DIRECTORY}/${tableName(3)}`, bytesOf(env, `${DIRECTORY}/${tableName(1)}`));
    expect(problems()).toHaveLength(1);
    expect(problems()[0]).toContain(tableName(3));
  });

  test('tells files that nobody names from problems', () => {
    new TreeBuilder(env).add(0, 1, many(10, 1));
    replace(env, `${DIRECTORY}/${tableName(99)}`, Buffer.from('half a table'));
    const report = verifyTree(env, DIRECTORY, IDENTITY);
    expect(report.problems).toEqual([]);
    expect(report.orphans).toEqual([tableName(99)]);
  });

  test('looks at the tables even when the manifest is gone', () => {
    new TreeBuilder(env).add(0, 1, many(10, 1));
    loseManifest();
    flip(`${DIRECTORY}/${tableName(1)}`, 10);
    const report = verifyTree(env, DIRECTORY, IDENTITY);
    expect(report.state).toBeUndefined();
    expect(report.problems.map(({ details }) => details['file'])).toEqual([
      `${DIRECTORY}/CURRENT`,
      `${DIRECTORY}/${tableName(1)}`,
    ]);
  });
});

describe('repair of a tree', () => {
  test('copies a sound one as it is', () => {
    const builder = new TreeBuilder(env);
    randomTree(new Random(1), builder);
    builder.manifest.append({ addedTombstones: [{ seq: 5, low: Buffer.from('a'), high: undefined }] });
    const report = repair();
    expect(report).toMatchObject({ losses: [], writtenFiles: 0 });
    expect(textOf(report.state, false)).toBe(textOf(builder.manifest.state, false));
    expect(textOf(LsmManifest.open(env, TO, IDENTITY).state)).toBe(textOf(report.state));
    expectSound();
  });

  test('of a damaged block loses its entries only, and names their keys', () => {
    const builder = new TreeBuilder(env);
    builder.add(1, 0, many(200, 1));
    builder.add(0, 1, [{ key: key(3), seq: 500, value: 'newer' }]);
    const path = `${DIRECTORY}/${tableName(1)}`;
    const whole = bytesOf(env, path);
    const before = visible(env, DIRECTORY, builder.manifest.state);
    let lostInAll = 0;
    for (let offset = 5; offset < whole.length; offset += 211) {
      for (const name of env.exists(TO) ? env.list(TO) : []) env.remove(`${TO}/${name}`);
      flip(path, offset);
      const report = repair();
      replace(env, path, whole);
      expectSound();
      expect(report.losses.length).toBeGreaterThan(0);
      expect([...report.state.tables.values()].map(({ level }) => level).sort()).toEqual(
        report.state.tables.size === 2 ? [0, 1] : [0],
      );
      const after = visible(env, TO, report.state);
      const lost = [...before.keys()].filter((name) => !after.has(name));
      for (const [name, version] of after) expect(version).toEqual(before.get(name));
      if (lost.length > 0 && lost.length < 199) {
        expect(lost.length).toBeLessThan(60);
        // In a row, and the report says which.
        expect(Number(lost.at(-1)!.slice(4)) - Number(lost[0]!.slice(4))).toBeLessThanOrEqual(lost.length);
        const text = report.losses.map(({ message }) => message).join();
        const [, high] = /up to "(key-[^"]*)"/.exec(text)!;
        expect(lost.at(-1)! <= `${high}~`, text).toBe(true);
      }
      lostInAll += lost.length;
    }
    expect(lostInAll).toBeGreaterThan(100);
  });

  test('without a manifest shows the newest version of every key, whatever levels the tables had', () => {
    for (let seed = 1; seed <= 25; seed++) {
      env = new MemEnv();
      const random = new Random(seed);
      const builder = new TreeBuilder(env);
      const truth = randomTree(random, builder);
      const { storedSeq } = builder.manifest.state;
      expect(visible(env, DIRECTORY, builder.manifest.state), `seed ${seed}`).toEqual(truth);
      loseManifest();
      const report = repair({ fileBytes: random.chance(0.5) ? 1500 : undefined });
      expect(
        report.losses.every(({ details }) => String(details['file']).endsWith('CURRENT')),
        `seed ${seed}`,
      ).toBe(true);
      expect(visible(env, TO, report.state), `seed ${seed}`).toEqual(truth);
      expect([...report.state.tables.values()].every(({ level }) => level === 0)).toBe(true);
      expect(report.state.storedSeq).toBeLessThanOrEqual(storedSeq);
      expectSound();
      // Numbers of files go on behind those that were there.
      expect(report.state.nextFile).toBeGreaterThan(
        Math.max(...report.state.tables.keys(), ...report.state.blobs.keys()),
      );
    }
  });

  test('without a manifest copies the tables of flushes: their numbers do not interleave', () => {
    const builder = new TreeBuilder(env);
    for (let run = 1; run <= 5; run++) builder.add(0, run, many(30, run * 100));
    loseManifest();
    const report = repair();
    expect(report).toMatchObject({ copiedFiles: 5, writtenFiles: 0 });
    expect([...report.state.tables.values()].map(({ run, smallestSeq }) => [run, smallestSeq])).toEqual([
      [1, 100],
      [2, 200],
      [3, 300],
      [4, 400],
      [5, 500],
    ]);
    expectSound();
  });

  test.each(['with', 'without'] as const)(
    'of a table without footer or index finds every block all the same, %s a manifest',
    (manifest) => {
      for (const options of [{}, { bitsPerKey: 0, prefixFilterBytes: 0 }, { compression: 'lz4' as const }]) {
        for (const count of [3, 300]) {
          env = new MemEnv();
          const builder = new TreeBuilder(env, DIRECTORY, options);
          const versions = many(count, 1).map((version, i) => (i % 50 === 1 ? { ...version, isBlob: true } : version));
          builder.add(0, 1, versions);
          const before = visible(env, DIRECTORY, builder.manifest.state);
          flip(`${DIRECTORY}/${tableName(1)}`, bytesOf(env, `${DIRECTORY}/${tableName(1)}`).length - 50);
          if (manifest === 'without') loseManifest();
          const report = repair();
          expect(report.losses.map(({ message }) => message).join()).toMatch(
            new RegExp(`${count}( of ${count})? entries were found`),
          );
          expect(visible(env, TO, report.state)).toEqual(before);
          expectSound();
        }
      }
    },
  );

  test('of a table that is cut keeps what stands before the cut', () => {
    const builder = new TreeBuilder(env);
    builder.add(0, 1, many(300, 1));
    const path = `${DIRECTORY}/${tableName(1)}`;
    const whole = bytesOf(env, path);
    for (let length = 0; length < whole.length; length += 777) {
      for (const name of env.exists(TO) ? env.list(TO) : []) env.remove(`${TO}/${name}`);
      replace(env, path, whole.subarray(0, length));
      const report = repair();
      const after = visible(env, TO, report.state);
      expect([...after.values()].every(({ key: name, value }) => value === `value ${Number(name.slice(4))}`)).toBe(
        true,
      );
      expect(after.size).toBeGreaterThanOrEqual(Math.min(300, Math.floor(((length - 300) * 300) / whole.length)));
      expectSound();
    }
  });

  test('a value whose blob is lost does not give way to an older one', () => {
    const builder = new TreeBuilder(env);
    builder.add(1, 0, many(5, 1, 'old'));
    builder.add(
      0,
      1,
      many(5, 100, 'new').map((version) => ({ ...version, isBlob: true })),
    );
    const path = `${DIRECTORY}/${blobName(4)}`;
    const at = bytesOf(env, path).indexOf('new 2');
    flip(path, at);
    const report = repair();
    expect(report.losses.map(({ message }) => message).join()).toContain(`the value of "${key(2)}"`);
    const after = visible(env, TO, report.state);
    expect([...after.values()].map(({ value }) => value)).toEqual(['new 0', 'new 1', undefined, 'new 3', 'new 4']);
    expectSound();
    // The values that are left have moved out of the damaged file.
    expect(report.state.blobs.has(4)).toBe(false);
  });

  test('without a blob file keeps every other entry', () => {
    const builder = new TreeBuilder(env);
    const versions = many(20, 1).map((version, i) => ({ ...version, ...(i % 2 === 0 ? { isBlob: true } : {}) }));
    builder.add(0, 1, versions);
    env.remove(`${DIRECTORY}/${blobName(2)}`);
    const report = repair();
    const after = versionsOf(env, TO, [...report.state.tables.keys()][0]!);
    expect(after.map(({ value }) => value)).toEqual(
      versions.map(({ value, isBlob }) => (isBlob === true ? undefined : value)),
    );
    expectSound();
  });

  test('takes range tombstones and the stored number from what can be read of a damaged manifest', () => {
    const builder = new TreeBuilder(env);
    builder.add(0, 1, many(10, 1));
    builder.manifest.append({
      addedTombstones: [{ seq: 50, low: Buffer.from('a'), high: Buffer.from('k') }],
      storedSeq: 50,
    });
    const readable = builder.manifest.bytes;
    builder.add(0, 2, many(10, 100));
    builder.manifest.close();
    flip(`${DIRECTORY}/${manifestName(1)}`, readable + 30);
    expect(failure(() => LsmManifest.open(env, DIRECTORY, IDENTITY)).code).toBe('ERR_CORRUPT');
    const report = repair();
    expect(report.state.storedSeq).toBe(50);
    expect(report.state.tombstones).toEqual([{ seq: 50, low: Uint8Array.of(97), high: Uint8Array.of(107) }]);
    expect(report.state.tables.size).toBe(2);
    expectSound();
  });

  test('passes over what is in the tables for sure, or all of it when the log ends before them', () => {
    const builder = new TreeBuilder(env);
    builder.add(0, 1, many(10, 1));
    builder.add(0, 2, many(10, 100));
    loseManifest();
    const storedSeqOf = (options: object): number => {
      for (const name of env.exists(TO) ? env.list(TO) : []) env.remove(`${TO}/${name}`);
      return repair(options).state.storedSeq;
    };
    expect(storedSeqOf({})).toBe(0);
    expect(storedSeqOf({ storedSeqAtLeast: 10 })).toBe(10);
    expect(storedSeqOf({ storedSeqAtLeast: 10, logEndSeq: 109 })).toBe(10);
    expect(storedSeqOf({ storedSeqAtLeast: 10, logEndSeq: 108 })).toBe(109);
  });

  test('does not touch a tree that a later release has written', () => {
    const builder = new TreeBuilder(env);
    builder.add(0, 1, many(10, 1));
    const path = `${DIRECTORY}/${tableName(1)}`;
    const bytes = bytesOf(env, path);
    const footer = bytes.length - 96;
    bytes.writeUInt32LE(9, footer + 8);
    bytes.writeUInt32LE(crc32(bytes, footer, 92), footer + 92);
    replace(env, path, bytes);
    expect(failure(() => repair()).code).toBe('ERR_FORMAT_VERSION');
    expect(bytesOf(env, path).equals(bytes)).toBe(true);
  });

  test('that cannot finish leaves nothing that looks finished', () => {
    const builder = new TreeBuilder(env);
    builder.add(0, 1, many(400, 1));
    env.setCapacity(env.usedBytes + 4096);
    expect(failure(() => repair()).code).toBe('ERR_DISK_FULL');
    expect(env.list(TO)).not.toContain('CURRENT');
  });
});

describe('groups of tables by their numbers', () => {
  test('are cut where no number of one lies among those of another', () => {
    const row = (smallestSeq: number, largestSeq: number): { info: { smallestSeq: number; largestSeq: number } } => ({
      info: { smallestSeq, largestSeq },
    });
    const groups = runsByNumbers([row(50, 60), row(1, 9), row(10, 30), row(20, 25), row(28, 40), row(61, 61)]);
    expect(groups.map((group) => group.map(({ info }) => info.smallestSeq))).toEqual([[1], [10, 20, 28], [50], [61]]);
  });
});
