/** Change while in use: what of a new configuration takes effect at once, and the watch on the file. */
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { changeOptions, resolveOptions } from '../../dist/actors/pool/options.js';
import { CONFIG_KEYS } from '../../dist/config/keys.js';
import { ConfigWatcher, changedOptions, compareConfigs, describeChange } from '../../dist/config/live.js';
import { loadConfig } from '../../dist/config/load.js';

type ConfigChange = ReturnType<typeof compareConfigs>[number];

const directory = mkdtempSync(join(tmpdir(), 'concordkv-live-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));
let number = 0;
const fresh = (): string => join(directory, `${++number}.yaml`);
const load = (file: string): ReturnType<typeof loadConfig> => loadConfig({ env: {}, file });
const loadText = (text: string): ReturnType<typeof loadConfig> => {
  const file = fresh();
  writeFileSync(file, text);
  return load(file);
};
const paths = (changes: readonly ConfigChange[]): string[] => changes.map(({ key }) => key.path);

test('these keys change live', () => {
  expect(CONFIG_KEYS.filter(({ changes }) => changes === 'live').map(({ path }) => path)).toEqual([
    'store.durability',
    'store.checkpointLogBytes',
    'store.backgroundBytesPerSecond',
    'store.expiry.intervalMs',
    'store.expiry.batch',
    'store.feed.retainBytes',
    'http.bodyBytesMax',
    'http.bodyBytesInFlightMax',
    'http.connectionsMax',
    'http.headersTimeoutMs',
    'http.requestTimeoutMs',
    'http.keepAliveTimeoutMs',
    'http.stallTimeoutMs',
    'http.drainMs',
    'log.level',
  ]);
});

describe('comparing', () => {
  test('names the keys that differ, with both values and the place of the new one', () => {
    const from = loadText('store: { order: 5, engineModules: [a] }\nhttp: { port: 1 }');
    const to = loadText(
      'store: { engineModules: [a], expiry: { batch: 7 } }\n\nhttp: { port: 2 }\nlog: { level: warn }',
    );
    const changes = compareConfigs(from, to);
    expect(changes.map(describeChange)).toEqual([
      { key: 'store.order', from: 5, to: null },
      { key: 'store.expiry.batch', from: 1000, to: 7 },
      { key: 'http.port', from: 1, to: 2 },
      { key: 'log.level', from: 'info', to: 'warn' },
    ]);
    expect(changes[2]!.origin).toMatchObject({ source: 'file', line: 3 });
    expect(changes[0]!.origin).toEqual({ source: 'default' });
    expect(changedOptions(changes, 'store')).toEqual({ order: undefined, expiry: { batch: 7 } });
    expect(changedOptions(changes, 'log')).toEqual({ level: 'warn' });
    expect(compareConfigs(to, to)).toEqual([]);
  });

  test('a secret that changes is named and not shown', () => {
    const key = { ...CONFIG_KEYS[0]!, isSecret: true };
    expect(describeChange({ key, from: 'a', to: 'b', origin: { source: 'default' } })).toEqual({
      key: key.path,
      from: '(secret)',
      to: '(secret)',
    });
  });
});

describe('options of an open store', () => {
  const current = resolveOptions({ shards: 2, durability: 'os' });

  test('change where they are live, and what is equal is no change', () => {
    const change = { durability: 'os', checkpointLogBytes: 1 << 20, expiry: { batch: 5 } };
    const { options, changed } = changeOptions(current, change);
    expect(changed).toEqual(['checkpointLogBytes', 'expiry.batch']);
    expect(options).toEqual({ ...current, checkpointLogBytes: 1 << 20, expiry: { intervalMs: 1000, batch: 5 } });
    expect(current.expiry.batch).toBe(1000);
    expect(changeOptions(options, change).changed).toEqual([]);
    expect(changeOptions(current, {}).options).toEqual(current);
  });

  test.each<[unknown, string]>([
    [
      { memoryBytes: 1 << 30 },
      'option memoryBytes: it cannot change while the store is open; close the store and open it with the new value',
    ],
    [
      { shards: 3 },
      'option shards: it cannot change while the store is open; it counts only for what is created with it',
    ],
    [{ durability: 'no' }, 'option durability is "no": it must be sync, os or memory'],
    [
      { expiry: { batch: 0, every: 1 } },
      'option expiry.batch is 0: it must be an integer from 1 to 65536; option expiry.every: there is no such option',
    ],
    [{ durabilty: 'os' }, 'option durabilty: there is no such option; did you mean durability?'],
    [{ directory: 'x' }, 'option directory: there is no such option'],
    [undefined, 'the options to change must be an object'],
    [[], 'the options to change must be an object'],
  ])('refuse %j: %s', (change, message) => {
    expect(() => changeOptions(current, change)).toThrow(
      expect.objectContaining({ name: 'TypeError', code: 'ERR_INVALID_ARG', message }) as Error,
    );
  });
});

interface Scene {
  readonly file: string;
  readonly watcher: ConfigWatcher;
  readonly applied: string[][];
  readonly held: string[][];
  readonly errors: string[];
  /** Paths that cannot be applied; the next apply() rejects if it holds '!'. */
  readonly refuse: Set<string>;
}

function watching(text: string, intervalMs?: number): Scene {
  const file = fresh();
  writeFileSync(file, text);
  const [applied, held]: string[][][] = [[], []];
  const errors: string[] = [];
  const refuse = new Set<string>();
  const watcher = new ConfigWatcher({
    running: load(file),
    load: () => load(file),
    apply: (changes) => {
      if (refuse.has('!')) return Promise.reject(new Error('not now'));
      return Promise.resolve(changes.filter(({ key }) => refuse.has(key.path)));
    },
    onApplied: (changes) => applied!.push(paths(changes)),
    onRestartNeeded: (changes) => held!.push(paths(changes)),
    onError: (error) => errors.push((error as Error).message),
    ...(intervalMs !== undefined && { intervalMs }),
  });
  return { file, watcher, applied: applied!, held: held!, errors, refuse };
}

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 6000 && !condition(); i++) await sleep(10);
  expect(condition()).toBe(true);
}

describe('a watcher', () => {
  test('applies live keys and tells once of the others', async () => {
    const { file, watcher, applied, held } = watching('log: { level: info }');
    await watcher.reload();
    expect([applied, held]).toEqual([[], []]);
    writeFileSync(file, 'log: { level: warn }\nhttp: { port: 1, drainMs: 5 }');
    await watcher.reload();
    await watcher.reload();
    expect([applied, held]).toEqual([[['http.drainMs', 'log.level']], [['http.port']]]);
    writeFileSync(file, 'http: { port: 2 }');
    await watcher.reload();
    expect([applied.at(-1), held]).toEqual([
      ['http.drainMs', 'log.level'],
      [['http.port'], ['http.port']],
    ]);
    // Back to what runs: nothing to tell.
    writeFileSync(file, '');
    await watcher.reload();
    expect([applied.length, held.length]).toEqual([2, 2]);
    await watcher.close();
  });

  test('leaves everything as it is when the file is wrong or gone, and says why', async () => {
    const { file, watcher, applied, errors } = watching('log: { level: info }');
    writeFileSync(file, 'log: { level: loud }\nhttp: { drainMs: 5 }');
    await watcher.reload();
    rmSync(file);
    await watcher.reload();
    expect(applied).toEqual([]);
    expect(errors).toEqual([
      expect.stringContaining('log.level is "loud"') as string,
      `there is no config file ${file}`,
    ]);
    writeFileSync(file, 'http: { drainMs: 5 }');
    await watcher.reload();
    expect(applied).toEqual([['http.drainMs']]);
    await watcher.close();
  });

  test('tries again what could not be applied', async () => {
    const { file, watcher, applied, held, errors, refuse } = watching('');
    refuse.add('log.level');
    writeFileSync(file, 'log: { level: warn }\nhttp: { drainMs: 5 }');
    await watcher.reload();
    expect([applied, held]).toEqual([[['http.drainMs']], [['log.level']]]);
    refuse.clear();
    refuse.add('!');
    await watcher.reload();
    expect(errors).toEqual(['not now']);
    refuse.clear();
    await watcher.reload();
    await watcher.reload();
    expect([applied, held]).toEqual([[['http.drainMs'], ['log.level']], [['log.level']]]);
    await watcher.close();
  });

  test('notices a file that is written, replaced, removed and there again', async () => {
    const { file, watcher, applied, errors } = watching('', 20);
    writeFileSync(file, 'log: { level: warn }');
    await until(() => applied.length === 1);
    writeFileSync(`${file}.new`, 'log: { level: error } # longer');
    renameSync(`${file}.new`, file);
    await until(() => applied.length === 2);
    rmSync(file);
    await until(() => errors.length === 1);
    writeFileSync(file, 'log: { level: fatal }');
    await until(() => applied.length === 3);
    await watcher.close();
    writeFileSync(file, 'log: { level: debug } # and nobody looks');
    await sleep(100);
    expect(applied).toHaveLength(3);
  });

  test('notices a file that changes between being loaded and being watched', async () => {
    const file = fresh();
    writeFileSync(file, 'log: { level: warn }');
    const running = load(file);
    writeFileSync(file, 'log: { level: fatal }');
    const applied: string[][] = [];
    const watcher = new ConfigWatcher({
      running,
      load: () => load(file),
      apply: () => Promise.resolve([]),
      onApplied: (changes) => applied.push(paths(changes)),
      onRestartNeeded: () => undefined,
      onError: () => undefined,
      intervalMs: 10,
    });
    await until(() => applied.length === 1);
    await watcher.close();
  });

  test('after any edits runs what the last right file says, as far as it is live', async () => {
    const edit = fc.record({
      level: fc.constantFrom('info', 'warn', 'loud'),
      drainMs: fc.constantFrom(1, 2, 3),
      port: fc.constantFrom(1, 2),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(edit, { maxLength: 6 }), async (edits) => {
        const file = fresh();
        writeFileSync(file, 'http: { port: 1, drainMs: 1 }');
        const running: Record<string, unknown> = { 'log.level': 'info', 'http.drainMs': 1, 'http.port': 1 };
        const watcher = new ConfigWatcher({
          running: load(file),
          load: () => load(file),
          apply: () => Promise.resolve([]),
          onApplied: (changes) => {
            for (const { key, from, to } of changes) {
              expect(running[key.path]).toBe(from);
              running[key.path] = to;
            }
          },
          onRestartNeeded: (changes) => expect(paths(changes)).toEqual(['http.port']),
          onError: () => undefined,
        });
        const expected = { ...running };
        for (const { level, drainMs, port } of edits) {
          writeFileSync(file, JSON.stringify({ log: { level }, http: { drainMs, port } }));
          await watcher.reload();
          if (level === 'loud') continue;
          Object.assign(expected, { 'log.level': level, 'http.drainMs': drainMs });
        }
        expect(running).toEqual(expected);
        await watcher.close();
      }),
      { numRuns: 50 },
    );
  });
});
