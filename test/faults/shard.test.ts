/** Disk faults and limits of memory as the clients of a shard meet them. */
import { beforeEach, describe, expect, test } from 'vitest';
import { ShardState } from '../../dist/actors/control-block.js';
import { Durability } from '../../dist/engines/store/shard-store.js';
import type { ShardStoreOptions } from '../../dist/engines/store/options.js';
import { FaultEnv } from '../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../dist/shared/env/mem-env.js';
import { Random } from '../../dist/shared/random.js';
import { UNIT_BYTES, createArena } from '../../dist/shared/memory/arena.js';
import { checkpoint, createStore, failure, fingerprint, openStore, readState } from '../support/store-scene.js';
import { ShardScene } from '../support/store-shard.js';
import type { Client } from '../support/store-shard.js';

const LOG = /\.log$/;
const LEVELS = [Durability.Memory, Durability.Os, Durability.Sync] as const;

let disk: MemEnv;
let env: FaultEnv;
let scene: ShardScene;
let alice: Client;
let bob: Client;

function start(options: Partial<ShardStoreOptions> = {}): void {
  disk = new MemEnv();
  env = new FaultEnv(disk);
  createStore(disk, options).close();
  scene = new ShardScene(env, options);
  alice = scene.client();
  bob = scene.client();
}
beforeEach(() => {
  start();
});

/** What readers see. */
const seen = (): string[] => [...readState(scene.store).keys()];
/** What the next process finds after a power loss that took everything unsynced, and after a mere kill. */
function found(policy: 'drop-all' | 'keep-all'): string[] {
  const store = openStore(disk.crash(new Random(1), policy));
  expect(store.tree.check()).toEqual([]);
  return [...readState(store).keys()];
}

describe('a full disk', () => {
  test.each(LEVELS)(
    'refuses a write at level %i, keeps what was acknowledged, and takes writes when space is back',
    async (level) => {
      expect(await scene.outcome(alice.put('a', '1', { level }))).toBe('done');
      // The rest of the segment is preallocated: fill it, so that the next write needs space.
      env.fillDisk();
      const outcomes = new Map<string, string>();
      for (let i = 0; i < 60; i++)
        outcomes.set(`k${i}`, await scene.outcome(alice.put(`k${i}`, Buffer.alloc(4000, i), { level })));
      const acknowledged = [...outcomes].filter(([, outcome]) => outcome === 'done').map(([key]) => key);
      expect(new Set(outcomes.values())).toContain('ERR_DISK_FULL');
      expect(alice.errors.at(-1)?.details.file).toMatch(/shard-0000/);
      expect(seen()).toEqual(['a', ...acknowledged.sort()]);
      expect(scene.control.shardState(0)).toBe(ShardState.Running);
      expect(await scene.outcome(bob.put('b', '1', { level, ifVersion: 77 }))).toBe('condition failed');

      env.freeDisk();
      expect(await scene.outcome(alice.put('later', '1', { level: Durability.Sync }))).toBe('done');
      expect(found('drop-all')).toEqual(['a', ...acknowledged, 'later'].sort());
      expect(scene.store.tree.check()).toEqual([]);
    },
  );

  test('fails every member of the group that met it, and none of the next', async () => {
    env.addRule({ operation: 'write', path: LOG, times: 1, error: 'ENOSPC', shortWriteBytes: 100 });
    const calls = [
      alice.put('a1', '1'),
      bob.put('b1', '1'),
      bob.batch([{ kind: 'put', key: 'b2', value: Buffer.from('1') }]),
      alice.flush(),
    ];
    await scene.run();
    expect(await Promise.all(calls)).toEqual(['ERR_DISK_FULL', 'ERR_DISK_FULL', 'ERR_DISK_FULL', 'ERR_DISK_FULL']);
    expect(seen()).toEqual([]);
    expect(await scene.outcome(alice.put('a2', '1'))).toBe('done');
    expect(found('keep-all')).toEqual(['a2']);
  });

  test('is not met by writes at the memory level until the frames are written, which is no one else’s failure', async () => {
    env.fillDisk();
    const value = Buffer.alloc(3000, 1);
    const outcomes: string[] = [];
    // Preallocated room of the segment, 64 KiB, is used up by buffered frames.
    for (let i = 0; i < 40; i++)
      outcomes.push(await scene.outcome(alice.put(`m${i}`, value, { level: Durability.Memory })));
    scene.shard.idle();
    const acknowledged = outcomes.filter((outcome) => outcome === 'done').length;
    expect(acknowledged).toBeGreaterThan(10);
    expect(seen()).toHaveLength(acknowledged);
    env.freeDisk();
    scene.shard.idle();
    expect(await scene.outcome(bob.flush())).toBe('done');
    expect(found('drop-all')).toHaveLength(acknowledged);
  });

  test('in the middle of a clear ends it with the code; what was cleared stays so, the rest stays too', async () => {
    const operations = Array.from({ length: 1500 }, (_, i) => {
      return { kind: 'put' as const, key: `k${String(i).padStart(4, '0')}`, value: Buffer.from('v') };
    });
    for (let i = 0; i < 1500; i += 100)
      expect(await scene.outcome(alice.batch(operations.slice(i, i + 100)))).toBe('done');
    env.addRule({ operation: 'write', path: LOG, after: 1, times: 1, error: 'ENOSPC' });
    expect(await scene.outcome(alice.clear())).toBe('ERR_DISK_FULL');
    const left = seen();
    expect(left.length).toBeGreaterThan(0);
    expect(left.length).toBeLessThan(1500);
    expect(found('keep-all')).toEqual(left);
    expect(await scene.outcome(alice.clear())).toBe('done');
    expect(seen()).toEqual([]);
  });

  test('in the middle of a long value fails that call alone; the value before it stays', async () => {
    start({ segmentBytes: 1 << 20 });
    const old = Buffer.alloc(300_000, 1);
    expect(await scene.outcome(alice.putBlob('blob', old))).toBe('done');
    env.addRule({ operation: 'write', path: LOG, after: 2, times: 1, error: 'ENOSPC' });
    expect(await scene.outcome(alice.putBlob('blob', Buffer.alloc(300_000, 2)))).toBe('ERR_DISK_FULL');
    expect(readState(scene.store).get('blob')).toBe(fingerprint(old));
    expect(await scene.outcome(alice.putBlob('blob', Buffer.alloc(200_000, 3)))).toBe('done');
    const store = openStore(disk.crash(new Random(1), 'keep-all'), { segmentBytes: 1 << 20 });
    expect(readState(store)).toEqual(readState(scene.store));
    expect(store.arena.stagedUnits).toBe(0);
  });
});

describe('a failed fdatasync', () => {
  beforeEach(async () => {
    expect(await scene.outcome(alice.put('kept', '1', { level: Durability.Sync }))).toBe('done');
    env.addRule({ operation: 'sync', path: LOG, times: 1, error: 'EIO' });
  });

  test('fails its group with ERR_IO and all later writes with ERR_READ_ONLY; reads go on; a reopened store has what was acknowledged', async () => {
    const calls = [alice.put('a', '1', { level: Durability.Sync }), bob.put('b', '1')];
    await scene.run();
    expect(await Promise.all(calls)).toEqual(['ERR_IO', 'ERR_IO']);
    expect(alice.errors[0]?.message).toMatch(/wal-\d+\.log/);
    expect(scene.control.shardState(0)).toBe(ShardState.ReadOnly);
    for (const call of [
      () => alice.put('c', '1'),
      () => bob.put('c', '1', { level: Durability.Memory }),
      () => bob.del('kept'),
      () => alice.clear(),
      () => bob.batch([{ kind: 'del', key: 'kept' }]),
      () => alice.putBlob('d', Buffer.alloc(200_000)),
    ]) {
      expect(await scene.outcome(call())).toBe('ERR_READ_ONLY');
    }
    expect(scene.shard.idle()).toBe(false);
    expect(seen()).toEqual(['kept']);
    expect(failure(() => scene.store.beginCheckpoint()).code).toBe('ERR_IO');
    const closing = failure(() => {
      scene.store.close();
    });
    expect(closing).toMatchObject({
      code: 'ERR_IO',
      message: expect.stringContaining('accepts nothing since') as string,
    });
    expect(found('drop-all')).toEqual(['kept']);
    // The group that was not acknowledged may be there, whole.
    expect(found('keep-all')).toEqual(['a', 'b', 'kept']);
  });

  test('is the answer of the flush that met it, and of every later one', async () => {
    expect(await scene.outcome(alice.put('a', '1', { level: Durability.Memory }))).toBe('done');
    expect(await scene.outcome(alice.flush())).toBe('ERR_IO');
    expect(await scene.outcome(bob.flush())).toBe('ERR_IO');
    expect(await scene.outcome(bob.put('b', '1'))).toBe('ERR_READ_ONLY');
    expect(seen()).toEqual(['a', 'kept']);
  });

  test('in beginCheckpoint makes the shard read-only at the next request', async () => {
    expect(await scene.outcome(alice.put('a', '1'))).toBe('done');
    expect(failure(() => scene.store.beginCheckpoint()).code).toBe('ERR_IO');
    expect(await scene.outcome(alice.put('b', '1'))).toBe('ERR_READ_ONLY');
    expect(scene.control.shardState(0)).toBe(ShardState.ReadOnly);
    expect(seen()).toEqual(['a', 'kept']);
  });

  test('ends a clear that was under way', async () => {
    start();
    const operations = Array.from({ length: 1200 }, (_, i) => {
      return { kind: 'put' as const, key: `k${String(i).padStart(4, '0')}`, value: Buffer.from('v') };
    });
    for (let i = 0; i < 1200; i += 100)
      expect(await scene.outcome(alice.batch(operations.slice(i, i + 100)))).toBe('done');
    const clear = alice.clear(undefined, undefined, Durability.Os);
    alice.link.publish();
    scene.shard.step();
    env.addRule({ operation: 'sync', path: LOG, times: 1, error: 'EIO' });
    expect(await scene.outcome(bob.put('x', '1', { level: Durability.Sync }))).toBe('ERR_IO');
    expect(await clear).toBe('ERR_READ_ONLY');
    expect(seen()).toHaveLength(1200 - 512);
  });
});

describe('a failed write', () => {
  test.each([0, 1, 60, 4095])(
    'of which %i bytes reached the file is refused and never seen again',
    async (shortWriteBytes) => {
      expect(await scene.outcome(alice.put('kept', '1'))).toBe('done');
      env.addRule({ operation: 'write', path: LOG, times: 1, error: 'EIO', shortWriteBytes });
      expect(await scene.outcome(alice.put('a', Buffer.alloc(5000)))).toBe('ERR_IO');
      expect(await scene.outcome(alice.put('b', '1'))).toBe('ERR_READ_ONLY');
      expect(seen()).toEqual(['kept']);
      scene.store.close();
      expect(found('keep-all')).toEqual(['kept']);
      const next = openStore(disk);
      expect([...readState(next).keys()]).toEqual(['kept']);
    },
  );
});

describe('a checkpoint that fails', () => {
  test.each([
    ['create', 'ENOSPC', 'ERR_DISK_FULL'],
    ['write', 'ENOSPC', 'ERR_DISK_FULL'],
    ['write', 'EIO', 'ERR_IO'],
    ['sync', 'EIO', 'ERR_IO'],
    ['rename', 'EIO', 'ERR_IO'],
    ['syncDirectory', 'EIO', 'ERR_IO'],
  ] as const)('at %s with %s leaves the shard writing and the log whole', async (operation, error, code) => {
    for (let i = 0; i < 20; i++) await scene.outcome(alice.put(`k${i}`, Buffer.alloc(2000, i)));
    env.addRule({ operation, path: operation === 'syncDirectory' ? /shard-0000$/ : /checkpoint/, times: 1, error });
    expect(failure(() => checkpoint(env, scene.store)).code).toBe(code);
    expect(await scene.outcome(alice.put('later', '1', { level: Durability.Sync }))).toBe('done');
    expect(found('drop-all')).toEqual(seen());
    checkpoint(env, scene.store);
    expect(await scene.outcome(alice.put('last', '1', { level: Durability.Sync }))).toBe('done');
    expect(found('drop-all')).toEqual(seen());
  });

  test.each(['rename', 'remove', 'syncDirectory'] as const)(
    'to be tidied up after (%s) loses nothing',
    async (operation) => {
      for (let round = 0; round < 2; round++) {
        for (let i = 0; i < 60; i++) await scene.outcome(alice.put(`k${i}`, Buffer.alloc(2000, i)));
        const rule =
          round === 0
            ? undefined
            : env.addRule({
                operation,
                path: operation === 'syncDirectory' ? /./ : LOG,
                after: 1,
                times: 1,
                error: 'EIO',
              });
        try {
          checkpoint(env, scene.store);
        } catch (error) {
          expect(error).toMatchObject({ code: 'ERR_IO' });
        }
        rule?.remove();
      }
      expect(await scene.outcome(alice.put('later', '1', { level: Durability.Sync }))).toBe('done');
      expect(found('drop-all')).toEqual(seen());
      expect(found('keep-all')).toEqual(seen());
    },
  );
});

describe('errors at open', () => {
  test.each([
    ['open', LOG, 'EACCES', 'ERR_PERMISSION'],
    ['read', LOG, 'EIO', 'ERR_IO'],
    ['open', /\.ckpt$/, 'EACCES', 'ERR_PERMISSION'],
    ['read', /\.ckpt$/, 'EIO', 'ERR_IO'],
    ['list', /shard-0000$/, 'EACCES', 'ERR_PERMISSION'],
    ['write', /\.tmp$|\.spare$/, 'ENOSPC', 'ERR_DISK_FULL'],
    ['write', /\.tmp$|\.spare$/, 'EROFS', 'ERR_PERMISSION'],
    ['sync', /\.tmp$|\.spare$/, 'EIO', 'ERR_IO'],
    ['rename', /\.log$/, 'EIO', 'ERR_IO'],
    ['syncDirectory', /shard-0000$/, 'EIO', 'ERR_IO'],
  ] as const)(
    '%s of %s with %s has a code and names the file; the next open has everything',
    async (operation, path, error, code) => {
      for (let i = 0; i < 20; i++) await scene.outcome(alice.put(`k${i}`, Buffer.alloc(2000, i)));
      checkpoint(env, scene.store);
      await scene.outcome(alice.put('later', '1'));
      const state = readState(scene.store);
      scene.store.close();
      env.addRule({ operation, path, error });
      const problem = failure(() => openStore(env));
      expect(problem.code).toBe(code);
      expect(String(problem.details.file)).toMatch(/\/data\/shard-0000/);
      expect(problem.message).toContain(String(problem.details.file));
      env.removeAllRules();
      expect(readState(openStore(env))).toEqual(state);
    },
  );
});

describe('conditions, rings and responses', () => {
  test('a conditional write waits for the group that touches its key, and others pass', async () => {
    const calls = [
      alice.put('k', '1'),
      alice.put('k', '2', { ifAbsent: true }),
      bob.put('k2', '1', { ifAbsent: true }),
      bob.put('other', '1'),
    ];
    await scene.run();
    expect(await Promise.all(calls)).toEqual(['done', 'condition failed', 'done', 'done']);
    const version = scene.store.versionOf(scene.store.spaces.require(0), Buffer.from('k'), 0, 1, 0);
    const updates = [alice.put('k', '3', { ifVersion: version }), bob.put('k', '4', { ifVersion: version })];
    await scene.run();
    expect((await Promise.all(updates)).sort()).toEqual(['condition failed', 'done']);
    expect(await scene.outcome(bob.del('k', { ifVersion: version }))).toBe('condition failed');
  });

  test('a held request of one client does not hold up another, and is not lost when its group fails', async () => {
    env.addRule({ operation: 'write', path: LOG, times: 1, error: 'ENOSPC' });
    const calls = [
      alice.put('k', '1'),
      alice.put('k', '2', { ifAbsent: true }),
      alice.put('k3', '1'),
      bob.put('b', '1'),
    ];
    await scene.run();
    // The group with alice's first and bob's was refused; her second then found no such key.
    expect(await Promise.all(calls)).toEqual(['ERR_DISK_FULL', 'done', 'done', 'ERR_DISK_FULL']);
    expect(seen()).toEqual(['k', 'k3']);
  });

  test('a full request ring makes calls wait in order, and all are served', async () => {
    const narrow = scene.client({ requests: 4096 });
    const calls = Array.from({ length: 500 }, (_, i) => narrow.put('same', `value ${i}`));
    expect(narrow.link.queued).toBeGreaterThan(0);
    await scene.run();
    expect(new Set(await Promise.all(calls))).toEqual(new Set(['done']));
    expect(readState(scene.store).get('same')).toBe(fingerprint(Buffer.from('value 499')));
  });

  test('a full response ring holds back completions of that client only, and every answer arrives at its call', async () => {
    const narrow = scene.client({ responses: 4096 });
    await scene.outcome(alice.put('taken', '1'));
    const calls = Array.from({ length: 600 }, (_, i) =>
      i % 3 === 0 ? narrow.put(`n${i}`, '1') : narrow.put('taken', '2', { ifAbsent: true }),
    );
    narrow.link.publish();
    // The client does not read its answers.
    for (let i = 0; i < 20; i++) scene.shard.step();
    const aliceCall = alice.put('meanwhile', '1');
    alice.link.publish();
    for (let i = 0; i < 5; i++) scene.shard.step();
    alice.link.settle();
    expect(await aliceCall).toBe('done');
    expect(scene.shard.hasWork).toBe(false);
    expect(narrow.link.pending).toBeGreaterThan(0);
    await scene.run();
    const outcomes = await Promise.all(calls);
    expect(outcomes.every((outcome, i) => outcome === (i % 3 === 0 ? 'done' : 'condition failed'))).toBe(true);
  });

  test('a client that leaves is served to the end of its ring; its half-sent value goes', async () => {
    start({ segmentBytes: 1 << 20 });
    const carol = scene.client();
    void carol.putBlob('blob', Buffer.alloc(500_000));
    void carol.put('carol', '1');
    await Promise.resolve();
    carol.link.publish();
    scene.shard.step();
    const gone = scene.shard.detach(carol.number);
    scene.clients.pop();
    await scene.run();
    await gone;
    expect(scene.shard.clientCount).toBe(2);
    expect(seen()).toContain('carol');
    expect(scene.store.arena.stagedUnits).toBe(0);
    // Replays know it too.
    expect(await scene.outcome(alice.put('later', '1'))).toBe('done');
    expect(openStore(disk.crash(new Random(1), 'keep-all'), { segmentBytes: 1 << 20 }).arena.stagedUnits).toBe(0);
  });

  test('a batch that no log segment can hold is refused as a whole', async () => {
    const operations = Array.from({ length: 20 }, (_, i) => ({
      kind: 'put' as const,
      key: `k${i}`,
      value: Buffer.alloc(4000),
    }));
    expect(await scene.outcome(alice.batch(operations))).toBe('ERR_BATCH_TOO_LARGE');
    expect(await scene.outcome(alice.put('after', '1'))).toBe('done');
    expect(seen()).toEqual(['after']);
    expect(found('keep-all')).toEqual(['after']);
  });
});

describe('memory that is used up', () => {
  const MEMORY = 1 << 20;
  const smallArena = (): Partial<ShardStoreOptions> => ({ arena: createArena({ memoryBytes: MEMORY }) });
  beforeEach(() => {
    disk = new MemEnv();
    env = new FaultEnv(disk);
    createStore(disk).close();
    scene = new ShardScene(env, smallArena());
    alice = scene.client();
    bob = scene.client();
  });

  async function fill(value: Uint8Array): Promise<string[]> {
    const keys: string[] = [];
    for (let i = 0; ; i++) {
      // Scattered, so that a replay touches every page.
      const key = `k${String((i * 7919) % 65536).padStart(5, '0')}`;
      const outcome = await scene.outcome(alice.put(key, value));
      if (outcome !== 'done') {
        expect(outcome).toBe('ERR_MEMORY_FULL');
        return keys.sort();
      }
      keys.push(key);
    }
  }

  test.each([10, 100, 900, 1500, 3000])(
    'refuses a value of %i bytes before it is logged; reads and deletes go on; the log fits the same memory again',
    async (valueBytes) => {
      const keys = await fill(Buffer.alloc(valueBytes, 7));
      expect(keys.length).toBeGreaterThan(0);
      const lsn = scene.store.log.lastLsn;
      expect(await scene.outcome(bob.put('other', Buffer.alloc(valueBytes)))).toBe('ERR_MEMORY_FULL');
      expect(await scene.outcome(bob.batch([{ kind: 'put', key: 'x', value: Buffer.alloc(valueBytes) }]))).toBe(
        'ERR_MEMORY_FULL',
      );
      expect(scene.store.log.lastLsn).toBe(lsn);
      expect(bob.errors[0]?.details).toMatchObject({ capacityBytes: MEMORY });
      expect(seen()).toEqual(keys);
      expect(scene.store.tree.check()).toEqual([]);

      const again = openStore(disk.crash(new Random(1), 'keep-all'), smallArena());
      expect([...readState(again).keys()]).toEqual(keys);
      expect(again.tree.check()).toEqual([]);

      for (const key of keys) expect(await scene.outcome(bob.del(key))).toBe('done');
      expect(seen()).toEqual([]);
      expect((await fill(Buffer.alloc(valueBytes, 8))).length).toBeGreaterThan(keys.length * 0.9);
      const after = openStore(disk.crash(new Random(1), 'keep-all'), smallArena());
      expect(readState(after)).toEqual(readState(scene.store));
    },
  );

  test('a clear works in it', async () => {
    await fill(Buffer.alloc(300, 1));
    expect(await scene.outcome(bob.clear())).toBe('done');
    expect(seen()).toEqual([]);
    expect(await scene.outcome(bob.put('a', Buffer.alloc(300)))).toBe('done');
  });

  test('a long value is refused with its first piece, and what was sent of one that no longer fits comes back', async () => {
    disk = new MemEnv();
    const options = { segmentBytes: 1 << 20 };
    createStore(disk, options).close();
    scene = new ShardScene(disk, { ...options, ...smallArena() });
    alice = scene.client();
    bob = scene.client();
    expect(await scene.outcome(alice.putBlob('large', Buffer.alloc(2 << 20)))).toBe('ERR_MEMORY_FULL');
    expect(scene.store.arena.stagedUnits).toBe(0);
    expect(await scene.outcome(alice.putBlob('fits', Buffer.alloc(300_000, 1)))).toBe('done');
    // Two that fit alone and not together.
    const calls = [alice.putBlob('one', Buffer.alloc(280_000, 2)), bob.putBlob('two', Buffer.alloc(280_000, 3))];
    await scene.run();
    expect((await Promise.all(calls)).filter((outcome) => outcome === 'ERR_MEMORY_FULL').length).toBeGreaterThan(0);
    expect(scene.store.arena.stagedUnits).toBe(0);
    const again = openStore(disk.crash(new Random(1), 'keep-all'), { ...options, ...smallArena() });
    expect(readState(again)).toEqual(readState(scene.store));
  });

  test('values given up half-way do not fill the memory of a later replay', async () => {
    disk = new MemEnv();
    const options = { segmentBytes: 1 << 20 };
    createStore(disk, options).close();
    scene = new ShardScene(disk, { ...options, ...smallArena() });
    alice = scene.client();
    for (let i = 0; i < 3; i++) {
      const client = scene.client();
      void client.putBlob('never', Buffer.alloc(250_000, i));
      for (let round = 0; round < 2; round++) {
        for (let tick = 0; tick < 10; tick++) await Promise.resolve();
        client.link.publish();
        scene.shard.step();
        client.link.settle();
      }
      // More than half of it has come.
      expect(scene.store.arena.stagedUnits * UNIT_BYTES).toBeGreaterThan(250_000 / 2);
      const gone = scene.shard.detach(client.number);
      scene.clients.splice(scene.clients.indexOf(client), 1);
      await scene.run();
      await gone;
      expect(await scene.outcome(alice.put('between', `${i}`))).toBe('done');
      // Another slot number for the next one.
      scene.client();
    }
    expect((await fill(Buffer.alloc(100, 1))).length).toBeGreaterThan(1000);
    const again = openStore(disk.crash(new Random(1), 'keep-all'), { ...options, ...smallArena() });
    expect(readState(again)).toEqual(readState(scene.store));
  });
});
