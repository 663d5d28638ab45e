/**
 * Power loss at every file operation of a store's creation, and of its first writes. Whatever is left either opens or is created anew, and
 * once a write was acknowledged as durable, the store is there with it.
 */
import { describe, expect, test } from 'vitest';
import {
  beginCreation,
  finishCreation,
  inspectDirectory,
  newManifest,
  readManifest,
  removeCreationMarker,
  shardDirectory,
} from '../../dist/actors/pool/manifest.js';
import { Durability } from '../../dist/engines/store/shard-store.js';
import type { ShardStore } from '../../dist/engines/store/shard-store.js';
import { MemEnv } from '../../dist/shared/env/mem-env.js';
import type { CrashPolicy } from '../../dist/shared/env/mem-env.js';
import type { Env } from '../../dist/shared/env/env.js';
import { Random } from '../../dist/shared/random.js';
import { STORE_ID, commit, openStore, readState } from '../support/store-scene.js';

const DIRECTORY = '/srv/app/data';
const SHARDS = 2;
const POLICIES: readonly CrashPolicy[] = [
  'drop-all',
  'keep-all',
  'random',
  { data: 'random', names: 'arbitrary' },
  { data: 'drop-all', names: 'keep-all' },
  { data: 'keep-all', names: 'arbitrary' },
];

function openShards(env: Env, isNew: boolean): ShardStore[] {
  return Array.from({ length: SHARDS }, (_, shard) =>
    openStore(env, { directory: shardDirectory(DIRECTORY, shard), shard, isNew }),
  );
}

/** Empty directories may stay behind. */
function removeTree(env: Env, path: string): void {
  for (const name of env.list(path)) env.remove(`${path}/${name}`);
}

/** What the host does at an open, by the same functions. */
function openOrCreate(env: Env): { isCreated: boolean; shards: ShardStore[] } {
  const state = inspectDirectory(env, DIRECTORY);
  if (state === 'foreign') throw new Error(`not recognised: ${env.list(DIRECTORY).join(' ')}`);
  if (state === 'store') {
    expect(readManifest(env, DIRECTORY).shards).toBe(SHARDS);
    removeCreationMarker(env, DIRECTORY);
    return { isCreated: false, shards: openShards(env, false) };
  }
  env.makeDirectory(DIRECTORY);
  beginCreation(env, DIRECTORY, (path) => {
    removeTree(env, path);
  });
  const shards = openShards(env, true);
  const fields = {
    storeId: STORE_ID.toString('hex'),
    shards: SHARDS,
    createdAt: new Date(env.now()).toISOString(),
  } as const;
  const space = { engine: 'btree', keyEncoding: 'utf8', valueEncoding: 'utf8' } as const;
  finishCreation(env, DIRECTORY, newManifest(fields, space));
  return { isCreated: true, shards };
}

interface Crash {
  readonly before: string;
  readonly policy: CrashPolicy;
  readonly disk: MemEnv;
  readonly acknowledged: number;
}

/** Every disk that a crash in the course of a creation and three writes can leave, under several policies. */
function crashes(ignoreSync: boolean, prepare?: (env: MemEnv) => void): Crash[] {
  const found: Crash[] = [];
  let acknowledged = 0;
  let isWatching = false;
  const env = new MemEnv({
    ignoreSync,
    onOperation: (index, kind, path) => {
      if (!isWatching) return;
      POLICIES.forEach((policy, variant) => {
        const disk = env.crash(new Random(index * 8 + variant), policy);
        found.push({ before: `${index} ${kind} ${path}`, policy, disk, acknowledged });
      });
    },
  });
  prepare?.(env);
  isWatching = true;
  const { shards } = openOrCreate(env);
  for (let i = 0; i < 3; i++) {
    const firstSeq = 10 * (i + 1);
    for (const shard of shards) {
      commit(shard, Durability.Sync, [{ kind: 'put', key: `k${i}`, value: Buffer.from(`value ${i}`) }], firstSeq);
    }
    acknowledged = i + 1;
  }
  for (const shard of shards) shard.close();
  return found;
}

/** What is wrong with what a crash left; undefined: nothing. */
function judge({ disk, acknowledged }: Crash): string | undefined {
  let opened;
  try {
    opened = openOrCreate(disk);
  } catch (error) {
    return String(error);
  }
  if (opened.isCreated && acknowledged > 0) return `the store is gone with ${acknowledged} writes`;
  for (const shard of opened.shards) {
    const keys = [...readState(shard).keys()].join(' ');
    const expected = ['', 'k0', 'k0 k1', 'k0 k1 k2'];
    if (expected.indexOf(keys) < acknowledged) return `${acknowledged} writes were acknowledged, found: ${keys}`;
    if (shard.tree.check().length > 0) return shard.tree.check().join('; ');
  }
  // It can be used: what is written now is there at the next open.
  for (const shard of opened.shards) {
    commit(shard, Durability.Sync, [{ kind: 'put', key: 'later', value: Buffer.from('x') }], 100);
  }
  const again = openOrCreate(disk.crash(new Random(1), 'drop-all'));
  if (again.isCreated) return 'the store is gone at the second crash';
  for (const shard of again.shards) if (!readState(shard).has('later')) return 'a later write is gone';
  return undefined;
}

function violations(found: readonly Crash[]): string[] {
  return found.flatMap((crash) => {
    const problem = judge(crash);
    return problem === undefined ? [] : [`crash before ${crash.before}, ${JSON.stringify(crash.policy)}: ${problem}`];
  });
}

describe('power loss during the creation of a store', () => {
  test('leaves a store that opens, or a place where it can be created anew', () => {
    const found = crashes(false);
    expect(found.length).toBeGreaterThan(200);
    expect(violations(found).join('\n')).toBe('');
  });

  test('leaves the same when the directory and its leftovers were there before', () => {
    const found = crashes(false, (env) => {
      env.makeDirectory(DIRECTORY);
      // A creation that was cut off.
      beginCreation(env, DIRECTORY, () => undefined);
      openShards(env, true);
      for (let path = DIRECTORY; path !== ''; path = path.slice(0, path.lastIndexOf('/'))) env.syncDirectory(path);
    });
    expect(violations(found).join('\n')).toBe('');
  });

  test('would be noticed if fsync did nothing', () => {
    expect(violations(crashes(true)).length).toBeGreaterThan(0);
  });
});
