/**
 * A tiny closed store in an LSM-Tree, and each of its bytes changed, each of its files cut at any place or gone: opening and reading give the right answer or an
 * error that names the file. Verify names the file too, and what a repair brings back was there.
 */
import { beforeAll, describe, expect, test } from 'vitest';
import { repairTree } from '../../../../dist/engines/lsm/manifest/repair.js';
import { verifyTree } from '../../../../dist/engines/lsm/manifest/verify.js';
import type { EnvFile } from '../../../../dist/shared/env/env.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { ConcordError } from '../../../../dist/shared/errors.js';
import { Random } from '../../../../dist/shared/random.js';
import { DIRECTORY, SHARD, STORE_ID } from '../../../support/store-scene.js';
import { LsmScene, TINY, type Change } from '../store/scene.js';
import { FoundDisk } from './disk.js';

const TUNING = { ...TINY, level0Runs: 50, slowdownRuns: 60, stopRuns: 70, blobValueBytes: 100, restartInterval: 3 };
const KEYS = 14;
const MISSING = 'k99';
const TREE = 1;
const TREE_DIRECTORY = `${DIRECTORY}/lsm-${TREE}`;
const IDENTITY = { storeId: STORE_ID, shard: SHARD, tree: TREE };
const ERRORS = ['ERR_CORRUPT', 'ERR_FORMAT_VERSION', 'ERR_IO'];

let scene: LsmScene;
let nowMs: number;
let fullSeq: number;
let storedSeq: number;

beforeAll(() => {
  scene = new LsmScene({ tuning: TUNING });
  const name = (index: number): string => `k${String(index).padStart(2, '0')}`;
  const put = (index: number, value: string): Change => ({ kind: 'put', key: name(index), value });
  scene.commit(Array.from({ length: KEYS }, (_, index) => put(index, `first ${index}`)));
  scene.flush();
  scene.commit([put(1, 'second'), put(3, `long ${'l'.repeat(120)}`), { kind: 'del', key: name(5) }]);
  scene.commit([put(7, `long ${'m'.repeat(150)}`), { kind: 'clear', low: name(8), high: name(10) }]);
  scene.flush();
  scene.checkpoint();
  scene.commit([put(2, 'third'), { kind: 'del', key: name(11) }, put(8, 'again')]);
  ({ nowMs } = scene);
  fullSeq = scene.store.publishedSeq;
  ({ storedSeq } = scene.writer);
  scene.close();
});

/** A disk of its own, as the store was closed. */
const copy = (): MemEnv => scene.mem.crash(new Random(1), 'keep-all');

const filesIn = (env: MemEnv): string[] => [
  ...env.list(TREE_DIRECTORY).map((name) => `${TREE_DIRECTORY}/${name}`),
  ...env
    .list(DIRECTORY)
    .filter((name) => name.includes('.'))
    .map((name) => `${DIRECTORY}/${name}`),
];

const isOfTree = (path: string): boolean => path.startsWith(TREE_DIRECTORY);
const isLog = (path: string): boolean => path.endsWith('.log');

/** What a store shows or says must be right, whatever was done to the file. True: an error was told. */
function look(env: MemEnv, path: string, what: string, readOnly: boolean): boolean {
  let isTold = false;
  const told = (error: unknown): undefined => {
    isTold = true;
    if (!(error instanceof ConcordError)) throw error;
    expect(ERRORS, `${what}: ${error.message}`).toContain(error.code);
    const { file } = error.details;
    // The pointer and what it points to, the checkpoint and the manifest, speak of each other.
    const names = isOfTree(path) && /CURRENT|MANIFEST/.test(path) ? TREE_DIRECTORY : path;
    expect(`${String(file)} ${error.message}`, what).toContain(names);
    return undefined;
  };
  const attempt = <T>(run: () => T): T | undefined => {
    try {
      return run();
    } catch (error) {
      return told(error);
    }
  };
  const found = attempt(() => new FoundDisk(env, TUNING, { readOnly }));
  if (found === undefined) return true;
  const { publishedSeq } = found.store;
  // Only the log can have lost its end.
  if (!isLog(path)) expect(publishedSeq, what).toBe(fullSeq);
  const wanted = scene.expectedScan(publishedSeq, nowMs);
  const lines = attempt(() => found.scan(nowMs));
  if (lines !== undefined) expect(lines, what).toEqual(wanted);
  for (const key of [...scene.model.keys(), MISSING]) {
    let value: string | undefined;
    try {
      value = found.get(key, nowMs);
    } catch (error) {
      told(error);
      continue;
    }
    expect(value, `${what}: ${key}`).toBe(scene.expected(key, publishedSeq, nowMs)?.value);
  }
  found.close();
  return isTold;
}

function problemsOf(env: MemEnv): string {
  const { problems } = verifyTree(env, TREE_DIRECTORY, IDENTITY);
  return problems.map(({ message, details }) => `${String(details['file'])} ${message}`).join('\n');
}

function contentOf(file: EnvFile): Uint8Array {
  const bytes = new Uint8Array(file.size());
  file.read(bytes, 0, bytes.length, 0);
  return bytes;
}

/** Offsets worth a look: files that are made larger than what they hold are zeros at the end. */
function offsetsOf(bytes: Uint8Array): number[] {
  let end = bytes.length;
  while (end > 0 && bytes[end - 1] === 0) end--;
  return Array.from({ length: Math.min(bytes.length, end + 8) }, (_, offset) => offset);
}

describe('a tiny closed store', () => {
  test('has files of every kind, and is sound', () => {
    const env = copy();
    expect(filesIn(env).map((path) => path.replace(/.*\//, '').replace(/\d+/, 'N'))).toEqual(
      expect.arrayContaining(['CURRENT', 'MANIFEST-N', 'N.sst', 'N.blob', 'wal-N.log']),
    );
    expect(look(env, '', 'as it is', true)).toBe(false);
    expect(look(env, '', 'as it is', false)).toBe(false);
    expect(problemsOf(copy())).toBe('');
  });

  test('with any one byte changed gives the right answer, or names the file', { timeout: 240_000 }, () => {
    const env = copy();
    const told: Record<string, number> = {};
    for (const path of filesIn(env)) {
      const file = env.open(path, 'write');
      const original = contentOf(file);
      // Log and checkpoint have tests of their own.
      const step = isOfTree(path) ? 1 : 37;
      for (const offset of offsetsOf(original).filter((at) => at % step === 0)) {
        const what = `${path}, byte ${offset}`;
        file.write(Uint8Array.of(original[offset]! ^ (1 << (offset % 8))), 0, 1, offset);
        const isTold = look(env, path, what, true);
        if (isTold) told[path] = (told[path] ?? 0) + 1;
        if (/(sst|blob)$/.test(path)) expect(problemsOf(env), what).toContain(path);
        else if (isTold && isOfTree(path)) expect(problemsOf(env), what).toContain(TREE_DIRECTORY);
        file.write(original, offset, 1, offset);
      }
      file.close();
    }
    for (const path of filesIn(env)) expect(told[path], path).toBeGreaterThan(0);
    expect(look(env, '', 'as it was', true)).toBe(false);
  });

  test('with a byte changed is opened to be written, too', { timeout: 120_000 }, () => {
    for (const path of filesIn(copy())) {
      const size = copy().open(path, 'read').size();
      for (let offset = 5; offset < Math.min(size, 2000); offset += 101) {
        const env = copy();
        const file = env.open(path, 'write');
        const byte = contentOf(file)[offset]!;
        file.write(Uint8Array.of(byte ^ 0xff), 0, 1, offset);
        file.sync();
        file.close();
        look(env, path, `${path}, byte ${offset}`, false);
      }
    }
  });

  test('with a file cut anywhere gives the right answer, or names the file', { timeout: 120_000 }, () => {
    for (const path of filesIn(copy())) {
      const env = copy();
      const file = env.open(path, 'write');
      const original = contentOf(file);
      const lengths = offsetsOf(original).filter(
        (at) => at < original.length && at % (isOfTree(path) ? 11 : 211) === 0,
      );
      for (const length of lengths) {
        const what = `${path}, cut to ${length} bytes`;
        file.truncate(length);
        const isTold = look(env, path, what, true);
        if (/(sst|blob|CURRENT)$/.test(path)) {
          expect(isTold, what).toBe(true);
          expect(problemsOf(env), what).toContain(/CURRENT$/.test(path) ? TREE_DIRECTORY : path);
        }
        file.write(original, length, original.length - length, length);
      }
      file.close();
    }
  });

  test('with a file gone says which', () => {
    for (const path of filesIn(copy()).filter(isOfTree)) {
      for (const readOnly of [true, false]) {
        const env = copy();
        env.remove(path);
        expect(look(env, path, `${path} is gone`, readOnly), path).toBe(true);
        expect(problemsOf(env)).toContain(/CURRENT|MANIFEST/.test(path) ? TREE_DIRECTORY : path);
      }
    }
  });

  test('is repaired to what is left, whatever is damaged', { timeout: 120_000 }, () => {
    const damages: [what: string, path: string, damage: (env: MemEnv) => void][] = [];
    for (const path of filesIn(copy()).filter(isOfTree)) {
      damages.push([`${path} is gone`, path, (env) => { env.remove(path); }]); // prettier-ignore
      const size = offsetsOf(contentOf(copy().open(path, 'read'))).length;
      for (let offset = 3; offset < size; offset += 53) {
        const change = (env: MemEnv): void => {
          const file = env.open(path, 'write');
          file.write(Uint8Array.of(contentOf(file)[offset]! ^ 0x11), 0, 1, offset);
          file.close();
        };
        damages.push([`${path}, byte ${offset}`, path, change]);
      }
    }
    for (const [what, path, damage] of damages) {
      const env = copy();
      damage(env);
      const to = `${DIRECTORY}/lsm-${TREE}.repaired`;
      const { losses } = repairTree(env, TREE_DIRECTORY, to, IDENTITY, {
        storedSeqAtLeast: storedSeq,
        logEndSeq: fullSeq,
      });
      for (const name of env.list(TREE_DIRECTORY)) env.remove(`${TREE_DIRECTORY}/${name}`);
      for (const name of env.list(to)) env.rename(`${to}/${name}`, `${TREE_DIRECTORY}/${name}`);
      env.removeDirectory(to);
      expect(problemsOf(env), what).toBe('');
      const found = new FoundDisk(env, TUNING);
      let wrong = 0;
      for (const key of scene.model.keys()) {
        const value = found.get(key, nowMs);
        if (value === scene.expected(key, fullSeq, nowMs)?.value) continue;
        wrong++;
        // An older version shows, or none.
        const values = scene.model.get(key)!.map((version) => version.value);
        if (value !== undefined) expect(values, `${what}: ${key}`).toContain(value);
      }
      expect(found.get(MISSING, nowMs)).toBeUndefined();
      if (wrong > 0) expect(losses.length, `${what}: ${wrong} keys differ`).toBeGreaterThan(0);
      // Tables tell what a manifest would.
      if (/CURRENT|MANIFEST/.test(path)) expect(wrong, what).toBeLessThanOrEqual(2);
      found.close();
    }
  });
});
