/** The host's side of spaces: the order of its steps, and what a failure of each leaves. */
import { describe, expect, test } from 'vitest';
import {
  newManifest,
  readManifest,
  replaceManifest,
  finishCreation,
  type Manifest,
} from '../../dist/actors/pool/manifest.js';
import { SpaceRegistry } from '../../dist/actors/pool/registry.js';
import { SpaceCatalog, type CatalogHost } from '../../dist/actors/pool/space-catalog.js';
import { ConcordError } from '../../dist/index.js';
import { FaultEnv } from '../../dist/shared/env/fault-env.js';
import { MemEnv, type CrashPolicy } from '../../dist/shared/env/mem-env.js';
import { Random } from '../../dist/shared/random.js';
import { codeOf, failureOf } from '../support/pool-scene.js';

const DIRECTORY = '/srv/store';

function freshManifest(): Manifest {
  const fields = { storeId: '0'.repeat(32), shards: 2, createdAt: '2026-01-01T00:00:00.000Z' };
  return newManifest(fields, { engine: 'btree', keyEncoding: 'utf8', valueEncoding: 'utf8' });
}

const namesOf = ({ spaces }: Manifest): string[] => spaces.map(({ name }) => name);

/** A catalog whose host writes down what it is asked, and fails where it is told. */
function scene(fail: Partial<Record<string, string>> = {}): {
  catalog: SpaceCatalog;
  steps: string[];
  fail: Partial<Record<string, string>>;
} {
  const steps: string[] = [];
  const step = (name: string, what: string): void => {
    steps.push(
      `${name} ${what} (registry: ${new SpaceRegistry(catalog.registry.sab)
        .all()
        .map(({ name }) => name)
        .join(' ')})`,
    );
    const code = fail[name];
    if (code !== undefined) throw new ConcordError(code as never, `${name} fails`);
  };
  const shard = {
    openSpace: ({ id }: { id: number }) => {
      step('open', `${id}`);
    },
    dropSpace: (id: number) => {
      step('drop', `${id}`);
    },
    switchEngine: ({ id, engine }: { id: number; engine: string }) => {
      step('switch', `${id} ${engine}`);
    },
  };
  const remote = new Proxy(shard, {
    get: (target, name) => async (argument: never) => target[name as 'openSpace'](argument),
  });
  const host: CatalogHost = {
    readOnly: false,
    defaultTuning: {},
    save: (manifest) => {
      step('save', namesOf(manifest).join(' '));
    },
    askShards: async (call) => [await call(remote as never, 0)],
  };
  const catalog: SpaceCatalog = new SpaceCatalog(freshManifest(), host);
  return { catalog, steps, fail };
}

describe('the steps', () => {
  test('of a creation: manifest, shards, registry', async () => {
    const { catalog, steps } = scene();
    expect(await catalog.open('a', { tuning: {} })).toMatchObject({ id: 2, name: 'a', engine: 'btree' });
    expect(steps).toEqual(['save  a (registry: )', 'open 2 (registry: )']);
    expect(catalog.registry.named('a')).toMatchObject({ id: 2 });
    expect(catalog.definitions()).toEqual([
      { id: 0, engine: 'btree', tuning: {} },
      { id: 2, engine: 'btree', tuning: {} },
    ]);
  });

  test('of a drop: manifest, registry, shards', async () => {
    const { catalog, steps } = scene();
    await catalog.open('a', { tuning: {} });
    steps.length = 0;
    expect(await catalog.drop(2)).toBe(true);
    expect(steps).toEqual(['save  (registry:  a)', 'drop 2 (registry: )']);
    expect(await catalog.drop(2)).toBe(false);
    expect(await catalog.open('a', { tuning: {} })).toMatchObject({ id: 3 });
  });

  test('of a switch: manifest, registry, shards', async () => {
    const { catalog, steps } = scene();
    await catalog.open('a', { tuning: { order: 5 } });
    steps.length = 0;
    await catalog.switchEngine(2, 'hash', {});
    expect(steps).toEqual(['save  a (registry:  a)', 'switch 2 hash (registry:  a)']);
    expect(catalog.registry.withId(2)).toMatchObject({ engine: 'hash', tuning: { order: 5 } });
  });

  test('of many changes at once run one after another', async () => {
    const { catalog, steps } = scene();
    const records = await Promise.all(['a', 'b', 'a', 'c'].map((name) => catalog.open(name, { tuning: {} })));
    expect(records.map(({ id }) => id)).toEqual([2, 3, 2, 4]);
    expect(steps.filter((each) => each.startsWith('save'))).toHaveLength(3);
  });
});

describe('a failure', () => {
  test('to write the manifest leaves everything as it was, and the id unused for ever', async () => {
    const { catalog, steps, fail } = scene({ save: 'ERR_DISK_FULL' });
    expect(await codeOf(catalog.open('a', { tuning: {} }))).toBe('ERR_DISK_FULL');
    expect(catalog.registry.named('a')).toBeUndefined();
    expect(steps).toHaveLength(1);
    delete fail['save'];
    expect(await catalog.open('a', { tuning: {} })).toMatchObject({ id: 3 });
    fail['save'] = 'ERR_IO';
    expect(await codeOf(catalog.drop(3))).toBe('ERR_IO');
    expect(await codeOf(catalog.switchEngine(3, 'hash', {}))).toBe('ERR_IO');
    expect(catalog.registry.named('a')).toMatchObject({ id: 3, engine: 'btree' });
    delete fail['save'];
    await catalog.switchEngine(3, 'hash', {});
    expect(catalog.registry.named('a')).toMatchObject({ engine: 'hash' });
  });

  test('of a shard to open the space takes it back everywhere', async () => {
    const { catalog, steps } = scene({ open: 'ERR_MEMORY_FULL' });
    expect(await codeOf(catalog.open('a', { tuning: {} }))).toBe('ERR_MEMORY_FULL');
    expect(namesOf(catalog.manifest)).toEqual(['']);
    expect(catalog.registry.named('a')).toBeUndefined();
    expect(steps.map((each) => each.split(' (')[0])).toEqual(['save  a', 'open 2', 'save ', 'drop 2']);
  });

  test('of a shard that stays down does not keep a space from being made or dropped', async () => {
    const { catalog } = scene({ open: 'ERR_SHARD_FAILED', drop: 'ERR_SHARD_FAILED' });
    expect(await catalog.open('a', { tuning: {} })).toMatchObject({ id: 2 });
    expect(catalog.registry.named('a')).toMatchObject({ id: 2 });
    expect(await catalog.drop(2)).toBe(true);
    expect(catalog.registry.named('a')).toBeUndefined();
  });

  test('for want of memory in a switch turns it back', async () => {
    const { catalog, steps, fail } = scene();
    await catalog.open('a', { tuning: { order: 5 } });
    steps.length = 0;
    fail['switch'] = 'ERR_MEMORY_FULL';
    expect(await codeOf(catalog.switchEngine(2, 'hash', { order: 6 }))).toBe('ERR_MEMORY_FULL');
    expect(steps.map((each) => each.split(' (')[0])).toEqual(['save  a', 'switch 2 hash', 'save  a', 'switch 2 btree']);
    expect(catalog.registry.withId(2)).toMatchObject({ engine: 'btree', tuning: { order: 5 } });
  });
});

describe('a manifest that is replaced', () => {
  const changed = (): Manifest => {
    const manifest = freshManifest();
    const space = { ...manifest.spaces[0]!, id: 2, name: 'a' };
    return { ...manifest, nextSpaceId: 3, spaces: [...manifest.spaces, space] };
  };

  test('is the old one or the new one after a power loss at any operation, whole', () => {
    const policies: CrashPolicy[] = [
      'drop-all',
      'keep-all',
      'random',
      { data: 'random', names: 'arbitrary' },
      { data: 'drop-all', names: 'keep-all' },
    ];
    const found: { disk: MemEnv; before: string }[] = [];
    let isWatching = false;
    const env: MemEnv = new MemEnv({
      onOperation: (index, kind, path) => {
        if (!isWatching) return;
        policies.forEach((policy, variant) => {
          found.push({ disk: env.crash(new Random(index * 8 + variant), policy), before: `${index} ${kind} ${path}` });
        });
      },
    });
    env.makeDirectory(DIRECTORY);
    finishCreation(env, DIRECTORY, freshManifest());
    isWatching = true;
    replaceManifest(env, DIRECTORY, changed(), freshManifest());
    isWatching = false;
    expect(found.length).toBeGreaterThan(15);
    const outcomes = new Set<string>();
    for (const { disk, before } of found) {
      const names = namesOf(readManifest(disk, DIRECTORY)).join();
      expect(['', ',a'], before).toContain(names);
      outcomes.add(names);
      replaceManifest(disk, DIRECTORY, changed(), freshManifest());
      expect(namesOf(readManifest(disk, DIRECTORY))).toEqual(['', 'a']);
    }
    expect(outcomes.size).toBe(2);
    for (const policy of policies) {
      expect(namesOf(readManifest(env.crash(new Random(1), policy), DIRECTORY))).toEqual(['', 'a']);
    }
  });

  test.each(['open', 'create', 'write', 'sync', 'rename', 'syncDirectory'] as const)(
    'is the old one after a failing %s, and can be replaced then',
    async (operation) => {
      const env = new FaultEnv(new MemEnv());
      env.makeDirectory(DIRECTORY);
      finishCreation(env, DIRECTORY, freshManifest());
      const rule = env.addRule({ operation, error: 'EIO', times: 1 });
      expect(
        await failureOf(() => {
          replaceManifest(env, DIRECTORY, changed(), freshManifest());
        }),
      ).toMatchObject({ code: 'ERR_IO' });
      expect(rule.firedCount).toBe(1);
      expect(namesOf(readManifest(env, DIRECTORY))).toEqual(['']);
      replaceManifest(env, DIRECTORY, changed(), freshManifest());
      expect(namesOf(readManifest(env, DIRECTORY))).toEqual(['', 'a']);
    },
  );
});

describe('the registry', () => {
  test('shows every reader what was published last', () => {
    const [first] = freshManifest().spaces;
    const registry = SpaceRegistry.create([first!]);
    const reader = new SpaceRegistry(registry.sab);
    expect(reader.all()).toEqual([first]);
    const seen = reader.version;
    const records = Array.from({ length: 401 }, (_, i) => ({ ...first!, id: i, name: `${'"'.repeat(250)}${i}` }));
    registry.publish(records);
    expect(reader.version).not.toBe(seen);
    expect(reader.all()).toEqual(records);
    expect(reader.named(records[7]!.name)).toEqual(records[7]);
    expect(reader.withId(400)).toEqual(records[400]);
    registry.publish([first!]);
    expect(reader.named(records[7]!.name)).toBeUndefined();
    expect(reader.withId(7)).toBeUndefined();
  });
});
