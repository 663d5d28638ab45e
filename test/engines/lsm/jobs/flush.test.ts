/** Frozen memtables become tables that say the same, and what goes wrong leaves nothing behind. */
import { posix } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { publishTrees } from '../../../../dist/engines/btree/meta.js';
import { runFlush } from '../../../../dist/engines/lsm/jobs/flush.js';
import type { FlushTask, LsmJobResult, LsmOptions } from '../../../../dist/engines/lsm/types.js';
import { MemtableWriter } from '../../../../dist/engines/memtable/writer.js';
import { FaultEnv } from '../../../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import type { Env } from '../../../../dist/shared/env/env.js';
import { ArenaReader, ArenaWriter, createArena } from '../../../../dist/shared/memory/arena.js';
import { Random } from '../../../../dist/shared/random.js';
import '../../../../dist/engines/built-in.js';
import { DIRECTORY, IDENTITY, TINY, Tree } from './scene.js';

/** A tree whose memtable is a real one as well. */
class Scene {
  readonly layout = createArena({ memoryBytes: 16 << 20 });
  readonly arena = new ArenaWriter(this.layout);
  readonly tree: Tree;
  writer: MemtableWriter;

  constructor(
    readonly env: Env,
    readonly options: LsmOptions,
  ) {
    this.tree = new Tree(env, options);
    this.writer = this.#newWriter();
    publishTrees(this.arena, 0);
  }

  #newWriter(): MemtableWriter {
    return new MemtableWriter(this.arena, 0, 7, { keepTombstones: true });
  }

  #group(work: () => void): void {
    const snapshots = Float64Array.from(this.tree.snapshots.map(({ seq }) => seq));
    this.writer.setSnapshots(snapshots, snapshots.length);
    this.writer.beginGroup(this.tree.seq, true);
    work();
    publishTrees(this.arena, this.tree.seq);
    this.writer.endGroup();
  }

  put(key: string, value: string, expiresAt = 0): void {
    this.#group(() => {
      this.tree.put(key, value, expiresAt);
      const [keyBytes, valueBytes] = [Buffer.from(key), Buffer.from(value)];
      this.writer.put(keyBytes, 0, keyBytes.length, valueBytes, 0, valueBytes.length, this.tree.seq, expiresAt);
    });
  }

  del(key: string): void {
    // A memtable leaves a tombstone that is there as it is.
    const newest = this.tree.memtable.findLast((version) => version.key === key);
    if (newest !== undefined && newest.value === undefined) return;
    this.#group(() => {
      this.tree.del(key);
      this.writer.del(Buffer.from(key), 0, key.length, this.tree.seq);
    });
  }

  task(changes: Partial<FlushTask> = {}): FlushTask {
    const { tree, options } = this;
    return {
      kind: 'flush',
      directory: DIRECTORY,
      identity: IDENTITY,
      descriptor: this.writer.descriptorUnit,
      arena: undefined,
      run: tree.run + 1,
      firstFile: tree.takeFiles(200),
      files: 200,
      options: options.tables[0]!,
      tableBytes: options.tableBytes,
      blobValueBytes: options.blobValueBytes,
      blobFileBytes: options.blobFileBytes,
      snapshots: tree.snapshots.map(({ seq }) => seq),
      tombstones: [...tree.tombstones, ...tree.newTombstones],
      nowMs: tree.nowMs,
      isBottom: tree.tables.size === 0,
      cancel: new Int32Array(1),
      rate: undefined,
      ...changes,
    };
  }

  run(task: FlushTask): LsmJobResult {
    this.writer.freeze();
    return runFlush(this.env, new ArenaReader(this.layout), task);
  }

  flush(): LsmJobResult {
    const { tree } = this;
    const result = this.run(this.task());
    tree.run++;
    tree.tombstones.push(...tree.newTombstones);
    tree.newTombstones = [];
    tree.memtable = [];
    for (const table of result.tables) {
      expect([table.level, table.run]).toEqual([0, tree.run]);
      tree.tables.set(table.number, table);
    }
    for (const blob of result.blobs) tree.blobs.set(blob.number, blob);
    this.writer.destroy();
    this.writer = this.#newWriter();
    publishTrees(this.arena, tree.seq);
    return result;
  }
}

type Step =
  | { readonly kind: 'put'; readonly key: number; readonly size: number; readonly ttlMs: number }
  | { readonly kind: 'del'; readonly key: number }
  | { readonly kind: 'clear'; readonly low: number; readonly high: number }
  | { readonly kind: 'flush' | 'snapshot' | 'merge' }
  | { readonly kind: 'time'; readonly ms: number };

const key = fc.nat({ max: 20 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      kind: fc.constant('put' as const),
      key,
      size: fc.constantFrom(3, 50, 300, 5000),
      ttlMs: fc.constantFrom(0, 0, 0, 20),
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('del' as const), key }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('clear' as const), low: key, high: key }) },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constantFrom('flush' as const, 'snapshot' as const, 'merge' as const) }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('time' as const), ms: fc.constantFrom(5, 50) }) },
);
const nameOf = (index: number): string => `key${String(index).padStart(2, '0')}`;

describe('a flush', () => {
  for (const [name, options] of [
    ['tables', TINY],
    ['tables and blob files', { ...TINY, blobValueBytes: 200 }],
  ] as const) {
    it(`changes no read: ${name}`, () => {
      fc.assert(
        fc.property(fc.array(step, { minLength: 10, maxLength: 80 }), (steps) => {
          const scene = new Scene(new MemEnv(), options);
          const { tree } = scene;
          for (const one of steps) {
            if (one.kind === 'put') {
              scene.put(
                nameOf(one.key),
                `${tree.seq + 1}:`.padEnd(one.size, 'x'),
                one.ttlMs === 0 ? 0 : tree.nowMs + one.ttlMs,
              );
            } else if (one.kind === 'del') scene.del(nameOf(one.key));
            else if (one.kind === 'clear') tree.clear(nameOf(one.low), nameOf(one.high));
            else if (one.kind === 'snapshot') tree.snapshots.push({ seq: tree.seq, atMs: tree.nowMs });
            else if (one.kind === 'time') tree.nowMs += one.ms;
            else if (one.kind === 'merge') tree.settle(false);
            else {
              scene.flush();
              tree.checkReads();
            }
          }
          scene.flush();
          tree.checkReads();
          tree.checkFiles();
          tree.mergeAll();
          tree.checkExact();
        }),
        { numRuns: 80 },
      );
    });
  }

  it('of deletes over nothing leaves no table and no file', () => {
    const scene = new Scene(new MemEnv(), TINY);
    for (let index = 0; index < 50; index++) scene.del(nameOf(index));
    const result = scene.flush();
    expect(result).toMatchObject({ tables: [], blobs: [], entriesIn: 50, entriesOut: 0 });
    expect(scene.tree.files()).toEqual([]);
  });

  it('keeps deletes when something may lie below', () => {
    const scene = new Scene(new MemEnv(), TINY);
    scene.del('a');
    const { tables } = scene.run(scene.task({ isBottom: false }));
    expect(tables.map(({ entries, tombstones }) => [entries, tombstones])).toEqual([[1, 1]]);
  });

  it('writes large values to blob files piece by piece', () => {
    const scene = new Scene(new MemEnv(), { ...TINY, blobValueBytes: 1000, blobFileBytes: 1 << 20 });
    const value = Array.from({ length: 100_000 }, (_, index) => `${index} `).join('');
    for (const name of ['a', 'b', 'c', 'd', 'e']) scene.put(name, name + value);
    scene.put('f', 'small');
    const { blobs, tables } = scene.flush();
    expect(blobs.map(({ records }) => records)).toEqual([2, 2, 1]);
    expect(tables.length).toBe(1);
    scene.tree.checkReads();
  });

  it('takes no more numbers of files than it was given', () => {
    const scene = new Scene(new MemEnv(), { ...TINY, blobValueBytes: 100 });
    for (let index = 0; index < 300; index++) scene.put(nameOf(index), 'x'.repeat(index % 2 === 0 ? 90 : 200));
    const { tables, blobs } = scene.run(scene.task({ firstFile: 700, files: 6 }));
    const numbers = [...tables, ...blobs].map(({ number }) => number).sort((a, b) => a - b);
    expect(numbers.length).toBeGreaterThanOrEqual(4);
    expect(numbers[0]).toBe(700);
    expect(numbers.at(-1)).toBeLessThan(706);
    expect(tables.reduce((sum, { entries }) => sum + entries, 0)).toBe(300);
  });

  it('that is cancelled leaves no file', () => {
    const scene = new Scene(new MemEnv(), TINY);
    for (let index = 0; index < 10_000; index++) scene.put(`key${index}`, 'x'.repeat(100));
    scene.writer.freeze();
    const cancel = new Int32Array(1);
    const written: number[] = [];
    const task = scene.task({ cancel, tableBytes: 100_000 });
    expect(() =>
      runFlush(scene.env, new ArenaReader(scene.layout), task, (bytes) => {
        written.push(bytes);
        if (written.length === 3) cancel[0] = 1;
      }),
    ).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }));
    expect(written.length).toBe(3);
    expect(scene.tree.files()).toEqual([]);
  });

  it('that meets a failing disk, at whatever call, says so with a code and leaves no file', () => {
    let failures = 0;
    for (const operation of ['create', 'write', 'sync', 'close', 'syncDirectory'] as const) {
      for (let after = 0; ; after++) {
        const env = new FaultEnv(new MemEnv());
        const scene = new Scene(env, { ...TINY, blobValueBytes: 200 });
        for (let index = 0; index < 60; index++) scene.put(nameOf(index), 'x'.repeat(index % 4 === 0 ? 300 : 100));
        const rule = env.addRule({
          operation,
          path: new RegExp(DIRECTORY),
          after,
          times: 1,
          error: 'ENOSPC',
        });
        let code: unknown;
        try {
          scene.run(scene.task());
        } catch (error) {
          code = (error as { code: unknown }).code;
        }
        if (rule.firedCount === 0) break;
        failures++;
        expect([operation, after, code]).toEqual([operation, after, 'ERR_DISK_FULL']);
        expect(env.list(DIRECTORY)).toEqual([]);
      }
    }
    expect(failures).toBeGreaterThan(20);
  });

  it('makes its files and their names durable before it ends', () => {
    const env = new MemEnv();
    const scene = new Scene(env, { ...TINY, blobValueBytes: 200 });
    // The directories above are there.
    for (let path: string = DIRECTORY; path !== '/'; path = posix.dirname(path)) env.syncDirectory(posix.dirname(path));
    for (let index = 0; index < 60; index++) scene.put(nameOf(index), 'x'.repeat(index % 4 === 0 ? 300 : 100));
    scene.flush();
    const survivor = env.crash(new Random(1), 'drop-all');
    const after = new Tree(survivor, scene.options);
    for (const [number, table] of scene.tree.tables) after.tables.set(number, table);
    for (const [number, blob] of scene.tree.blobs) after.blobs.set(number, blob);
    for (const [name, versions] of scene.tree.truth) after.truth.set(name, versions);
    after.checkReads();
    after.checkFiles();
  });
});
