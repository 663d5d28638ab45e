/** Options of ConcordPool.open: no file and no variable unless asked for, and what is given in code wins. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { ConcordPool } from '../../dist/index.js';
import { resolveOptions } from '../../dist/actors/pool/options.js';

const directory = mkdtempSync(join(tmpdir(), 'concordkv-options-'));
const before = process.cwd();
beforeAll(() => {
  writeFileSync(
    join(directory, 'concordkv.yaml'),
    'store: { directory: x, order: 5, memoryBytes: 8MiB, valueEncoding: json, engineModules: [./e.mjs] }',
  );
  writeFileSync(join(directory, 'other.json'), '{ "store": { "order": 6 }, "http": { "port": 1 } }');
  process.chdir(directory);
});
afterEach(() => {
  delete process.env['CONCORDKV_ORDER'];
  delete process.env['CONCORDKV_ORDR'];
});
afterAll(() => {
  process.chdir(before);
  rmSync(directory, { recursive: true, force: true });
});

describe('without config', () => {
  test.each([undefined, {}, { config: false }])('%j reads neither file nor environment', (options) => {
    process.env['CONCORDKV_ORDER'] = '7';
    expect(resolveOptions(options)).toMatchObject({ memoryBytes: 2 ** 30, engineModules: [] });
    expect(resolveOptions(options).order).toBeUndefined();
  });
});

describe('config', () => {
  test('true takes the file of the working directory', () => {
    expect(resolveOptions({ config: true })).toMatchObject({
      order: 5,
      memoryBytes: 8 << 20,
      valueEncoding: 'json',
      engineModules: [pathToFileURL(join(directory, 'e.mjs')).href],
    });
    expect(resolveOptions({ config: true })).not.toHaveProperty('directory');
  });

  test('takes the environment, which wins over the file, and code wins over both', () => {
    process.env['CONCORDKV_ORDER'] = '7';
    expect(resolveOptions({ config: true }).order).toBe(7);
    expect(resolveOptions({ config: true, order: 8 }).order).toBe(8);
    expect(resolveOptions({ config: true, order: undefined }).order).toBe(7);
  });

  test('names a file', () => {
    expect(resolveOptions({ config: 'other.json' })).toMatchObject({ order: 6, memoryBytes: 2 ** 30 });
    expect(() => resolveOptions({ config: 'absent.json' })).toThrow(
      expect.objectContaining({ code: 'ERR_NOT_FOUND' }) as Error,
    );
  });

  test('true without a file is no error', () => {
    process.chdir(tmpdir());
    try {
      expect(resolveOptions({ config: true }).order).toBeUndefined();
    } finally {
      process.chdir(directory);
    }
  });

  test('does not get in the way of an encoding in code', () => {
    const valueEncoding = { name: 'mine', encode: (value: unknown) => String(value), decode: (text: unknown) => text };
    expect(resolveOptions({ config: true, valueEncoding }).valueEncoding).toBe(valueEncoding);
  });

  test('warns of variables nobody knows', async () => {
    process.env['CONCORDKV_ORDR'] = '7';
    const warned = new Promise<Error>((resolve) => process.once('warning', resolve));
    resolveOptions({ config: true });
    expect(await warned).toMatchObject({
      name: 'ConcordKVWarning',
      message: 'CONCORDKV_ORDR is no variable of ConcordKV and is ignored; did you mean CONCORDKV_ORDER?',
    });
  });

  test.each([5, '', null, {}])('%j is refused', (config) => {
    expect(() => resolveOptions({ config })).toThrow(
      expect.objectContaining({
        code: 'ERR_INVALID_ARG',
        message: 'option config: it must be true, false or the path of a file',
      }) as Error,
    );
  });
});

test('an open store works as its file says', async () => {
  writeFileSync('store.yaml', 'store: { memoryBytes: 4MiB, durability: memory, valueEncoding: json, shards: 1 }');
  const db = await ConcordPool.open<string, unknown>(':memory:', { config: 'store.yaml' });
  await db.put('a', { b: [1] });
  expect(db.getSync('a')).toEqual({ b: [1] });
  expect(db.stats().shards[0]!.memory.capacityBytes).toBeLessThanOrEqual(4 << 20);
  await db.close();
});

test('engines of your own need their modules, and relative modules become URLs', () => {
  expect(() => resolveOptions({ engine: 'mine' })).toThrow(
    /^option engine is "mine": there are btree, .*engineModules/,
  );
  const { engine, engineModules } = resolveOptions({ engine: 'mine', engineModules: ['./m.mjs', 'pkg'] });
  expect(engine).toBe('mine');
  expect(engineModules).toEqual([pathToFileURL(join(directory, 'm.mjs')).href, 'pkg']);
});

test.each([
  ['missing.mjs', undefined, /^engineModules: file:.*missing\.mjs cannot be loaded: Cannot find module/],
  ['throws.mjs', "throw new Error('not today');", /^engineModules: file:.*throws\.mjs cannot be loaded: not today$/],
  ['text.mjs', "throw 'a text';", /^engineModules: file:.*text\.mjs cannot be loaded: a text$/],
])('the module of an engine that cannot be loaded is named: %s', async (name, code, message) => {
  if (code !== undefined) writeFileSync(join(directory, name), code);
  await expect(ConcordPool.open(':memory:', { engineModules: [`./${name}`] })).rejects.toMatchObject({
    code: 'ERR_INVALID_ARG',
    message: expect.stringMatching(message) as string,
  });
});

test.each<[object, string]>([
  [{ errorIfExists: 1 }, 'option errorIfExists: it must be true or false'],
  [{ valueEncoding: 5 }, 'option valueEncoding is 5: it must be utf8, binary, json or msgpack'],
  [{ expiry: 5 }, 'option expiry is 5: it must be a mapping of keys'],
  [
    { budgetBytes: 5 },
    'option budgetBytes is 5: it must be a size from 1MiB to 64GiB; a plain number counts bytes; did you mean 5MiB (5242880)?',
  ],
  [{ pageBytes: 5000 }, 'option pageBytes is 5000: it must be 4KiB, 8KiB, 16KiB, 32KiB or adaptive'],
])('%j is refused: %s', (options, message) => {
  expect(() => resolveOptions(options)).toThrow(
    expect.objectContaining({ name: 'TypeError', code: 'ERR_INVALID_ARG', message }) as Error,
  );
});
