/** A failing file operation at every place of a manifest's life, and a full disk. */
import { describe, expect, test } from 'vitest';
import { LsmManifest } from '../../../../dist/engines/lsm/manifest/manifest.js';
import { FaultEnv, type FaultOperation } from '../../../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { Random } from '../../../../dist/shared/random.js';
import { DIRECTORY, IDENTITY, after, failure, randomEdit, table, textOf } from './scene.js';

const OPERATIONS: FaultOperation[] = [
  'open',
  'create',
  'read',
  'write',
  'sync',
  'size',
  'truncate',
  'close',
  'exists',
  'list',
  'rename',
  'remove',
  'syncDirectory',
];
const OPTIONS = { create: true, rollBytes: 1000 };

/** Lives on over a fault. Returns how often it met one. */
function live(seed: number, inner: MemEnv, env: FaultEnv): number {
  const random = new Random(seed);
  let failures = 0;
  const tolerate = <T>(work: () => T): T | undefined => {
    try {
      return work();
    } catch (error) {
      expect((error as { code: string }).code).toBe('ERR_IO');
      failures++;
      return undefined;
    }
  };
  const open = (): LsmManifest => {
    for (;;) {
      const manifest = tolerate(() => LsmManifest.open(env, DIRECTORY, IDENTITY, OPTIONS));
      if (manifest !== undefined) return manifest;
    }
  };
  inner.makeDirectory('/store/shard-003');
  for (const path of ['/', '/store']) inner.syncDirectory(path);
  let manifest = open();
  for (let step = 0; step < 18; step++) {
    const before = textOf(manifest.state, false);
    let wanted = before;
    let isDone = false;
    tolerate(() => {
      const edit = randomEdit(random, manifest.state, (count) => manifest.takeFiles(count));
      wanted = textOf(after(manifest.state, edit), false);
      manifest.append(edit);
      isDone = true;
    });
    expect(textOf(manifest.state, false)).toBe(isDone ? wanted : before);
    // What a power loss now would leave.
    const disk = inner.crash(random, { data: 'writes', names: 'arbitrary' });
    const found = textOf(LsmManifest.open(disk, DIRECTORY, IDENTITY, OPTIONS).state, false);
    expect(isDone || manifest.isSettled ? [textOf(manifest.state, false)] : [before, wanted]).toContain(found);
    if (random.chance(0.1)) {
      manifest.close();
      manifest = open();
      expect(textOf(manifest.state, false)).toBe(found);
    }
  }
  const text = textOf(manifest.state, false);
  // The next edit works whatever happened before.
  env.removeAllRules();
  manifest.append({ nextFile: manifest.state.nextFile + 1 });
  expect(manifest.isSettled).toBe(true);
  manifest.close();
  expect(textOf(LsmManifest.open(inner, DIRECTORY, IDENTITY).state, false)).toBe(text);
  return failures;
}

describe('a manifest whose files fail', () => {
  test.each(OPERATIONS)('is what it says after a failed %s at any place', (operation) => {
    let met = 0;
    for (let place = 0; ; place++) {
      const inner = new MemEnv({ seed: place });
      const env = new FaultEnv(inner, [
        { operation, path: /lsm-7/, after: place, times: 1, error: 'EIO', shortWriteBytes: (place * 37) % 300 },
      ]);
      met += live(place % 5, inner, env);
      // The fault lies behind the end of this life.
      if (place >= env.count(operation)) break;
    }
    // Closing and removing may fail in silence: nothing depends on them. So may asking for a name that is not there.
    if (!['close', 'remove', 'truncate', 'exists', 'read', 'size'].includes(operation)) expect(met).toBeGreaterThan(1);
  });

  test.each(['sync', 'write'] as const)(
    'keeps a failed edit open while no new file can be begun, for a failed %s',
    (operation) => {
      const inner = new MemEnv();
      const env = new FaultEnv(inner);
      const manifest = LsmManifest.open(env, DIRECTORY, IDENTITY, OPTIONS);
      manifest.append({ nextFile: 100, addedTables: [table(1)] });
      const rules = [
        env.addRule({ operation, path: /MANIFEST/, error: 'EIO', times: 1, shortWriteBytes: 60 }),
        env.addRule({ operation: 'create', error: 'ENOSPC' }),
      ];
      expect(failure(() => manifest.append({ addedTables: [table(2)] })).code).toBe('ERR_IO');
      expect(manifest.isSettled).toBe(false);
      expect([...manifest.state.tables.keys()]).toEqual([1]);
      expect(failure(() => manifest.append({ addedTables: [table(3)] })).code).toBe('ERR_DISK_FULL');
      expect(failure(() => manifest.takeFiles(1000)).code).toBe('ERR_DISK_FULL');
      for (const rule of rules) rule.remove();
      manifest.append({ addedTables: [table(3)] });
      expect(manifest.isSettled).toBe(true);
      manifest.close();
      expect([...LsmManifest.open(inner, DIRECTORY, IDENTITY).state.tables.keys()]).toEqual([1, 3]);
    },
  );

  test('takes edits on a full disk while its file has room, and refuses them in time', () => {
    const env = new MemEnv();
    const manifest = LsmManifest.open(env, DIRECTORY, IDENTITY, { create: true, rollBytes: 4000 });
    manifest.append({ nextFile: 10_000 });
    env.setCapacity(env.usedBytes);
    let number = 1;
    const error = failure(() => {
      for (; number < 10_000; number++) manifest.append({ addedTables: [table(number)] });
    });
    expect(error.code).toBe('ERR_DISK_FULL');
    expect(number).toBeGreaterThan(50);
    expect(manifest.state.tables.size).toBe(number - 1);
    expect(textOf(LsmManifest.open(env, DIRECTORY, IDENTITY, { readOnly: true }).state)).toBe(textOf(manifest.state));
    env.setCapacity(Infinity);
    manifest.append({ addedTables: [table(number)] });
    manifest.close();
    expect(LsmManifest.open(env, DIRECTORY, IDENTITY).state.tables.size).toBe(number);
  });
});
