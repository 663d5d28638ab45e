/** Readers in threads of their own while memtables are frozen, tables come and go and their files are deleted behind the epochs. */
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterAll, expect, test } from 'vitest';
import type { EnvFile, OpenMode } from '../../../../dist/shared/env/env.js';
import { NodeEnv } from '../../../../dist/shared/env/node-env.js';
import { Harness, SPACE, bytes, type HarnessOptions } from './support.js';

const base = fs.mkdtempSync(join(tmpdir(), 'concordkv-lsm-read-'));
afterAll(() => {
  fs.rmSync(base, { recursive: true, force: true });
});

/** Nothing here ends suddenly: syncs would only take the time. */
class UnsyncedEnv extends NodeEnv {
  override open(path: string, mode: OpenMode): EnvFile {
    return Object.assign(super.open(path, mode), { sync: () => undefined });
  }
}

const KEYS = 400;
const ROUNDS = 24;

interface Report {
  readonly finds: number;
  readonly scans: number;
  readonly wrong: string | undefined;
  readonly openFilesMost: number;
}

async function readWhileChanging(name: string, options: HarnessOptions): Promise<Report[]> {
  const harness = new Harness({
    env: new UnsyncedEnv(),
    directory: join(base, name),
    memoryBytes: 64 << 20,
    ...options,
  });
  harness.keepsAll = false;
  let generation = 0;
  const put = (index: number): void => {
    const text = `${index}/${generation}/${'x'.repeat((index * 7 + generation) % 200)}`;
    harness.put(bytes(`key ${String(index).padStart(5, '0')}`), bytes(text));
  };
  for (let index = 0; index < KEYS; index++) put(index);
  harness.freeze();
  harness.flush();
  const stop = new Int32Array(new SharedArrayBuffer(12));
  const reports: Promise<Report>[] = [];
  const ready: Promise<unknown>[] = [];
  for (const [index, slot] of [5, 6].entries()) {
    const worker = new Worker(new URL('./reader-thread.mjs', import.meta.url), {
      workerData: { layout: harness.layout, slot, space: SPACE, keys: KEYS, stop, word: 1 + index },
    });
    ready.push(new Promise((resolve) => worker.once('message', resolve)));
    reports.push(
      new Promise((resolve, reject) => {
        worker.once('error', reject);
        worker.on('message', (message: Report | string) => {
          if (typeof message !== 'string') resolve(message);
        });
      }),
    );
  }
  await Promise.all(ready);
  // A reader that has found something wrong ends before it is told to.
  let isOver = false;
  void Promise.race(reports).then(
    () => (isOver = true),
    () => (isOver = true),
  );
  // On a slow machine longer, until both have read enough of what changes.
  const isShort = (): boolean => [1, 2].some((word) => Atomics.load(stop, word) === 0);
  for (let rounds = 0; !isOver && (rounds < ROUNDS || isShort()); rounds++) {
    generation++;
    for (let index = rounds % 3; index < KEYS; index += 3) put(index);
    harness.freeze();
    harness.flush();
    if (harness.runs.length > 4) harness.merge(0, 3, 0);
    if (rounds % 7 === 6) harness.merge(0, harness.runs.length, 3);
    harness.versions.length = 0;
    await new Promise((resolve) => setImmediate(resolve));
  }
  Atomics.store(stop, 0, 1);
  const results = await Promise.all(reports);
  harness.removeObsolete();
  // Only the files of tables that the last version has.
  const left = fs.readdirSync(harness.treeDirectory).filter((file) => file.endsWith('.sst'));
  expect(left.length).toBe(harness.runs.flat().length);
  return results;
}

test.each([
  ['a small cache and metadata in memory', { cacheBytes: 256 * 1024, tableEntries: 100 }],
  ['a small cache and metadata in files', { cacheBytes: 256 * 1024, tableEntries: 100, resident: false }],
  ['no cache, and values in blob files', { cacheBytes: 0, blobValueBytes: 100 }],
] as [string, HarnessOptions][])(
  'with %s no thread ever misses a key, sees an old one again or a torn value',
  async (name, options) => {
    const reports = await readWhileChanging(name.replace(/\W/g, '-'), options);
    for (const { finds, scans, wrong, openFilesMost } of reports) {
      expect(wrong).toBeUndefined();
      expect(finds).toBeGreaterThan(100);
      expect(scans).toBeGreaterThan(1);
      // Those of a version or two, and what the sweeps have not come to yet.
      expect(openFilesMost).toBeLessThan(120);
    }
  },
);
