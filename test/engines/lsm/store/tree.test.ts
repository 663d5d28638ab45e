/** One shard in an LSM-Tree, step by step: what goes to files and when, what the log still holds, what a restart finds. */
import { expect, test } from 'vitest';
import { Durability } from '../../../../dist/engines/store/shard-store.js';
import { CrashSignal } from '../../../../dist/shared/env/mem-env.js';
import { Random } from '../../../../dist/shared/random.js';
import { DIRECTORY, SEGMENT_BYTES } from '../../../support/store-scene.js';
import { LsmScene, TINY, bound, type Change } from './scene.js';

const KEYS = 300;
const name = (index: number): string => `k${String(index).padStart(4, '0')}`;

function fill(scene: LsmScene, generation: string, from = 0, to = KEYS, valueBytes = 100): void {
  for (let at = from; at < to; at += 25) {
    scene.commit(
      Array.from({ length: Math.min(25, to - at) }, (_, index): Change => {
        return { kind: 'put', key: name(at + index), value: `${generation} ${'x'.repeat(valueBytes)}` };
      }),
    );
  }
}

test('a space that fits its memtable has no files', () => {
  const scene = new LsmScene();
  fill(scene, 'first', 0, 50);
  scene.settle();
  expect(scene.directories()).toEqual([]);
  scene.reopen();
  expect(scene.difference(true)).toBeUndefined();
  scene.checkpoint();
  scene.reopen();
  expect(scene.difference(true)).toBeUndefined();
  expect(scene.directories()).toEqual([]);
});

test('a full memtable becomes tables, and reads see no difference', () => {
  const scene = new LsmScene();
  fill(scene, 'first', 0, 3000);
  expect(scene.writer.figures().frozenMemtables).toBeGreaterThan(0);
  expect(scene.difference(true)).toBeUndefined();
  scene.settle();
  expect(scene.writer.figures().frozenMemtables).toBe(0);
  expect(scene.shape().reduce((sum, tables) => sum + tables)).toBeGreaterThan(3);
  expect(scene.difference(true)).toBeUndefined();
  expect(scene.files().filter((file) => file.endsWith('.sst'))).toHaveLength(
    scene.shape().reduce((sum, tables) => sum + tables),
  );
});

test('what is in tables is not replayed, and its log goes with the next checkpoint', () => {
  const scene = new LsmScene();
  for (let round = 0; round < 8; round++) fill(scene, `round ${round}`);
  expect(scene.store.logBytes).toBeGreaterThan(3 * SEGMENT_BYTES);
  scene.flush();
  scene.checkpoint();
  expect(scene.store.logBytes).toBeLessThanOrEqual(SEGMENT_BYTES);
  scene.put('one more', 'value');
  scene.reopen();
  expect(scene.store.recovery.operationsReplayed).toBeLessThan(30);
  expect(
    scene.writer.counts().cells - scene.writer.figures().levels.reduce((sum, { entries }) => sum + entries, 0),
  ).toBe(1);
  expect(scene.difference(true)).toBeUndefined();
});

test('log that a memtable still needs outlives a checkpoint, and is replayed though the checkpoint covers it', () => {
  const scene = new LsmScene();
  fill(scene, 'in tables');
  scene.flush();
  fill(scene, 'in the log', 0, 40);
  scene.checkpoint();
  scene.del(name(1));
  scene.reopen();
  expect(scene.difference(true)).toBeUndefined();
  expect(scene.get(name(39))).toMatch(/^in the log/);
  expect(scene.get(name(1))).toBeUndefined();
});

test('a memtable that kept the last checkpoint from cutting the log goes to tables with the next one', () => {
  const scene = new LsmScene();
  fill(scene, 'few', 0, 10);
  scene.checkpoint();
  expect(scene.writer.figures().frozenMemtables).toBe(0);
  scene.checkpoint();
  expect(scene.writer.figures().frozenMemtables).toBe(1);
  scene.settle();
  scene.checkpoint();
  expect(scene.writer.neededFromLsn).toBe(Infinity);
  scene.reopen();
  expect(scene.store.recovery.operationsReplayed).toBe(0);
  expect(scene.difference(true)).toBeUndefined();
});

test('a checkpoint is wanted when it would cut the log, and a memtable that is in the way goes to tables first', () => {
  const scene = new LsmScene({ tuning: { ...TINY, memtableBytes: 256 << 10, frozenMax: 1 } });
  const limit = SEGMENT_BYTES;
  fill(scene, 'idle', 0, 25);
  expect(scene.store.wantsCheckpoint(limit)).toBe(false);
  // Keys that are written again and again: much log, little memory.
  let rounds = 0;
  while (scene.writer.figures().frozenMemtables === 0 && rounds++ < 2000) {
    fill(scene, `round ${rounds}`, 0, 25);
    expect(scene.store.wantsCheckpoint(limit)).toBe(false);
  }
  expect(scene.store.logBytes).toBeGreaterThan(limit + 2 * (512 << 10));
  scene.settle();
  expect(scene.store.wantsCheckpoint(limit)).toBe(true);
  scene.checkpoint();
  expect(scene.store.wantsCheckpoint(limit)).toBe(false);
});

test('a snapshot reads what it saw through flushes and compactions, and what only it needed goes afterwards', () => {
  const scene = new LsmScene();
  fill(scene, 'first');
  const snapshot = scene.openSnapshot();
  fill(scene, 'second');
  scene.flush();
  scene.commit([{ kind: 'clear', low: name(100), high: name(200) }]);
  fill(scene, 'third', 0, 50);
  scene.compact();
  expect(scene.difference(true)).toBeUndefined();
  expect(scene.get(name(150), snapshot.seq)).toMatch(/^first/);
  expect(scene.get(name(150))).toBeUndefined();
  const entries = scene.writer.counts().cells;
  expect(entries).toBeGreaterThanOrEqual(2 * KEYS - 100);
  scene.closeSnapshot(snapshot);
  scene.compact();
  expect(scene.writer.counts().cells).toBe(KEYS - 100);
  expect(scene.writer.figures().rangeTombstones).toBe(0);
  expect(scene.difference(true)).toBeUndefined();
});

test('a cleared range is one record, one tombstone, and nothing after a compaction', () => {
  const scene = new LsmScene();
  fill(scene, 'first', 0, 1000);
  scene.flush();
  scene.commit([{ kind: 'clear', low: undefined, high: undefined }]);
  expect(scene.scan()).toEqual([]);
  expect(scene.writer.figures().rangeTombstones).toBe(1);
  scene.put(name(3), 'again');
  scene.reopen();
  expect(scene.difference(true)).toBeUndefined();
  scene.compact();
  expect(scene.writer.figures().rangeTombstones).toBe(0);
  expect(scene.writer.counts().cells).toBe(1);
  expect(scene.files().filter((file) => file.endsWith('.sst'))).toHaveLength(1);
  expect(scene.difference(true)).toBeUndefined();
});

test('entries that have expired go with a compaction, without a line in the index', () => {
  const scene = new LsmScene();
  scene.commit(
    Array.from({ length: 100 }, (_, index): Change => {
      return { kind: 'put', key: name(index), value: 'v', expiresAt: scene.nowMs + (index % 2 === 0 ? 1000 : 10 ** 9) };
    }),
  );
  expect(scene.store.spaces.expiringEntries).toBe(0);
  scene.nowMs += 1500;
  expect(scene.difference(true)).toBeUndefined();
  scene.compact();
  expect(scene.writer.counts().cells).toBe(50);
  expect(scene.difference(true)).toBeUndefined();
});

test('a condition finds what is in the group, in a frozen memtable and in tables, and no more', () => {
  const scene = new LsmScene();
  fill(scene, 'in tables');
  scene.flush();
  scene.put('frozen', 'value');
  scene.writer.flush(() => undefined);
  scene.put('active', 'value');
  scene.commit([{ kind: 'clear', low: name(10), high: name(20) }]);
  scene.del(name(5));
  const versionOf = (key: string): number => {
    const bytes = Buffer.from(`?${key}`);
    return scene.store.versionOf(scene.store.spaces.require(0), bytes, 1, key.length, scene.nowMs);
  };
  for (const key of ['frozen', 'active', name(0), name(9), name(20)]) {
    expect(versionOf(key), key).toBe(scene.expected(key, Infinity, scene.nowMs)!.seq);
  }
  for (const key of ['missing', name(5), name(10), name(19)]) expect(versionOf(key), key).toBe(0);
});

test('files of tables that are gone stay for readers that stand on them', () => {
  const scene = new LsmScene();
  fill(scene, 'first', 0, 1000);
  scene.flush();
  const before = scene.files();
  const metaUnit = scene.view.pin(2);
  fill(scene, 'second', 0, 1000);
  scene.compact();
  expect(scene.writer.figures().obsoleteFiles).toBeGreaterThan(0);
  const tables = before.filter((file) => file.endsWith('.sst'));
  for (const file of tables) expect(scene.files()).toContain(file);
  const key = Buffer.from(name(7));
  expect(scene.reader.find(metaUnit, key, key.length, Infinity, 1)).toBe(true);
  expect(scene.reader.copyValue().toString()).toMatch(/^first/);
  scene.reader.release();
  scene.view.unpin(2);
  scene.settle();
  for (const file of tables) expect(scene.files()).not.toContain(file);
  expect(scene.difference()).toBeUndefined();
});

test('while the disk is full reads go on and writes are stopped; when there is space the tree goes on by itself', () => {
  const scene = new LsmScene({ memoryBytes: 4 << 20 });
  fill(scene, 'first', 0, 500);
  scene.flush();
  scene.env.fillDisk(/lsm-/);
  let generation = 0;
  for (; scene.writer.flow().state !== 'stopped' && generation < 200; generation++) {
    fill(scene, 'full', 500 + 200 * generation, 700 + 200 * generation);
    scene.work();
    while (scene.jobs.runNext()) scene.work();
  }
  expect(scene.writer.flow()).toEqual({ state: 'stopped', bytesPerSecond: 0, cause: 'disk-full' });
  expect(scene.difference()).toBeUndefined();
  for (let round = 0; round < 20; round++) {
    scene.nowMs += 5000;
    scene.work();
    while (scene.jobs.runNext()) scene.work();
  }
  expect(scene.writer.flow().cause).toBe('disk-full');
  scene.env.freeDisk();
  scene.settle();
  expect(scene.writer.flow().state).toBe('free');
  expect(scene.writer.figures().frozenMemtables).toBe(0);
  expect(scene.difference(true)).toBeUndefined();
  // Nothing is left of what failed.
  const tables = scene.files().filter((file) => file.endsWith('.sst'));
  expect(tables).toHaveLength(scene.shape().reduce((sum, count) => sum + count));
  scene.reopen();
  expect(scene.difference(true)).toBeUndefined();
});

test('a restart after a disk has been full finds everything', () => {
  const scene = new LsmScene();
  fill(scene, 'first', 0, 500);
  scene.env.fillDisk(/lsm-/);
  fill(scene, 'second', 0, 500);
  scene.work();
  while (scene.jobs.runNext()) scene.work();
  scene.kill(new Random(1));
  expect(scene.difference(true)).toBeUndefined();
});

test('a job whose worker dies is done again, with other files', () => {
  const scene = new LsmScene();
  fill(scene, 'first', 0, 1000);
  scene.work();
  scene.jobs.runNext(() => ({ error: { code: 'ERR_IO', message: 'the worker is gone', details: {} } }));
  scene.work();
  // What it had written is removed.
  expect(scene.files().filter((file) => file.endsWith('.sst'))).toEqual([]);
  expect(scene.difference()).toBeUndefined();
  scene.settle();
  expect(scene.writer.figures().frozenMemtables).toBe(0);
  expect(scene.writer.figures().failedJobs).toBe(1);
  expect(scene.difference(true)).toBeUndefined();
});

test('a tree whose memtables cannot be written for another reason than space says so in the end', () => {
  const scene = new LsmScene();
  fill(scene, 'first', 0, 1000);
  const fail = (): void => {
    for (let round = 0; round < 100; round++) {
      scene.nowMs += 60_000;
      scene.work();
      while (scene.jobs.runNext(() => ({ error: { code: 'ERR_PERMISSION', message: 'no', details: {} } })))
        scene.work();
    }
  };
  expect(fail).toThrow(expect.objectContaining({ code: 'ERR_PERMISSION' }));
  expect(scene.difference(true)).toBeUndefined();
});

test('a compaction of a range can be given up, and ends with the store', () => {
  const scene = new LsmScene();
  fill(scene, 'first', 0, 1000);
  scene.flush();
  fill(scene, 'second', 0, 1000);
  const ends: string[] = [];
  const note =
    (what: string) =>
    (error?: Error): void => {
      ends.push(`${what}: ${error === undefined ? 'done' : (error as Error & { code: string }).code}`);
    };
  const cancel = scene.writer.compactRange(undefined, undefined, note('first'));
  scene.writer.compactRange(bound(name(10)), bound(name(20)), note('second'));
  scene.work();
  cancel();
  cancel();
  expect(ends).toEqual(['first: ERR_CLOSED']);
  scene.settle();
  expect(ends).toEqual(['first: ERR_CLOSED', 'second: done']);
  scene.writer.compactRange(undefined, undefined, note('third'));
  scene.writer.flush(note('flush'));
  scene.close();
  expect(ends.slice(2).sort()).toEqual(['flush: ERR_CLOSED', 'third: ERR_CLOSED']);
});

test('opened read-only a shard shows everything and touches no file', () => {
  const scene = new LsmScene();
  fill(scene, 'first', 0, 1500);
  scene.settle();
  scene.checkpoint();
  fill(scene, 'second', 0, 700);
  scene.close();
  const picture = (): string => scene.mem.dump();
  const before = picture();
  scene.reopenWith({}, { readOnly: true });
  scene.work();
  expect(scene.difference(true)).toBeUndefined();
  scene.close();
  expect(picture()).toBe(before);
});

test('memory that is too small for what the log has is relieved by files while it is replayed', () => {
  const scene = new LsmScene({ memoryBytes: 16 << 20, tuning: { ...TINY, memtableBytes: 1 << 20 } });
  fill(scene, 'first', 0, 6000, 400);
  scene.close();
  // The same files in a quarter of the memory.
  const small = scene.reopenWith({ memoryBytes: 2 << 20, tuning: TINY });
  expect(small.shape().reduce((sum, tables) => sum + tables)).toBeGreaterThan(0);
  expect(small.difference(true)).toBeUndefined();
});

test('a writer that dies between manifest and publication is followed by one that knows', () => {
  let fuse = Infinity;
  const memOptions = {
    onOperation: (): void => {
      if (fuse-- <= 0) throw new CrashSignal();
    },
  };
  // Each operation on files of a flush and the compactions behind it.
  for (let at = 0; ; at++) {
    fuse = Infinity;
    const scene = new LsmScene({ seed: at + 1 }, memOptions);
    fill(scene, 'first', 0, 700);
    scene.flush();
    fill(scene, 'second', 0, 700);
    fuse = at;
    let isDead = false;
    try {
      scene.flush();
      scene.compact();
    } catch (error) {
      if (fuse >= 0) throw error;
      isDead = true;
    }
    isDead ||= fuse < 0;
    fuse = Infinity;
    if (!isDead) {
      expect(at).toBeGreaterThan(20);
      return;
    }
    scene.adopt(new Random(at), memOptions);
    expect(scene.difference(true)).toBeUndefined();
    scene.settle();
    expect(scene.difference(true)).toBeUndefined();
    const tables = scene.files().filter((file) => file.endsWith('.sst'));
    expect(tables).toHaveLength(scene.shape().reduce((sum, count) => sum + count));
    scene.powerLoss(new Random(at), 'drop-all', memOptions);
    expect(scene.difference(true)).toBeUndefined();
  }
});

test('numbers go on behind what is in tables, even if the log is lost', () => {
  const scene = new LsmScene();
  fill(scene, 'first', 0, 1000);
  scene.flush();
  scene.checkpoint();
  fill(scene, 'second', 0, 1000);
  scene.flush();
  const { publishedSeq } = scene.store;
  scene.close();
  for (const file of scene.mem.list(DIRECTORY)) {
    if (!file.endsWith('.log')) continue;
    const log = scene.mem.open(`${DIRECTORY}/${file}`, 'write');
    const zeros = new Uint8Array(log.size() - 4096);
    log.write(zeros, 0, zeros.length, 4096);
    log.sync();
    log.close();
  }
  scene.reopenWith({}, { recoveryMode: 'salvage' });
  expect(scene.store.publishedSeq).toBe(publishedSeq);
  scene.put(name(1), 'newest');
  expect(scene.get(name(1))).toBe('newest');
  scene.flush();
  expect(scene.difference(true)).toBeUndefined();
});

test('a commit at the sync level survives a power loss at any time', () => {
  const scene = new LsmScene();
  const random = new Random(5);
  for (let round = 0; round < 12; round++) {
    fill(scene, `round ${round}`, 0, 200);
    scene.commit([{ kind: 'put', key: 'synced', value: `${round}` }], Durability.Sync);
    fill(scene, `tail ${round}`, 200, 250);
    if (round % 3 === 0) scene.settle();
    scene.powerLoss(random);
    expect(scene.get('synced')).toBe(`${round}`);
    expect(scene.difference(true)).toBeUndefined();
  }
});
