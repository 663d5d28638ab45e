/** What is derived from the schema agrees with it: documentation, flags, variables, JSON schema, the file to start from, other option types. */
import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { z } from 'zod';
import { HTTP_DEFAULTS, LOG_LEVELS, resolveHttpOptions } from '../../dist/actors/gateway/http/options.js';
import { resolveOptions } from '../../dist/actors/pool/options.js';
import { Findings } from '../../dist/config/check.js';
import { parseConfigFile } from '../../dist/config/file.js';
import { configJsonSchema } from '../../dist/config/json-schema.js';
import { CONFIG_KEYS, CONFIG_TREE, sectionAt } from '../../dist/config/keys.js';
import { loadConfig } from '../../dist/config/load.js';
import { configReference, configTemplate } from '../../dist/config/reference.js';
import { ENGINE_NAMES, LOG_LEVEL_NAMES } from '../../dist/config/schema.js';
import { engineNames } from '../../dist/engines/engine.js';
import '../../dist/engines/built-in.js';

const PAGE = new URL('../../docs/configuration.md', import.meta.url);
const defaults = loadConfig({ env: {}, file: false }).values;

test('docs/configuration.md lists exactly the keys of the schema', () => {
  const page = readFileSync(PAGE, 'utf8');
  const [begin, end] = [page.indexOf('\n', page.indexOf('<!-- keys:')) + 1, page.indexOf('<!-- end of keys -->')];
  const wanted = `\n${configReference()}\n`;
  if (process.env['UPDATE'] === '1') writeFileSync(PAGE, page.slice(0, begin) + wanted + page.slice(end));
  else expect(page.slice(begin, end)).toBe(wanted);
});

describe('keys', () => {
  test('end in their unit', () => {
    for (const { path, kind } of CONFIG_KEYS) {
      expect(/Bytes(InFlight|PerSecond)?(Max)?$/.test(path), path).toBe(kind === 'bytes');
      expect(/Ms$/.test(path), path).toBe(kind === 'ms');
    }
  });

  test('have variables and flags of their own', () => {
    const variables = CONFIG_KEYS.map(({ variable }) => variable);
    const flags = CONFIG_KEYS.flatMap(({ flag }) => (flag === undefined ? [] : [flag]));
    expect(new Set(variables).size).toBe(variables.length);
    expect(new Set(flags).size).toBe(flags.length);
    for (const variable of variables) expect(variable).toMatch(/^CONCORDKV(_[A-Z]+\d?)+$/);
    expect(CONFIG_KEYS.find(({ path }) => path === 'http.bodyBytesMax')!.variable).toBe(
      'CONCORDKV_HTTP_BODY_BYTES_MAX',
    );
    expect(CONFIG_KEYS.find(({ path }) => path === 'store.expiry.intervalMs')!.variable).toBe(
      'CONCORDKV_EXPIRY_INTERVAL_MS',
    );
  });

  test('have a default or say what they are without one', () => {
    for (const key of CONFIG_KEYS) expect(key.defaultValue ?? key.unset, key.path).toBeDefined();
  });

  test('describe themselves in a phrase', () => {
    for (const { path, description } of CONFIG_KEYS) expect(description, path).toMatch(/^[a-z][^\n]+[^.\n]$/);
  });
});

test('the defaults of the HTTP section are those of the server, and its bounds lie within', () => {
  const { logLevel, ...http } = HTTP_DEFAULTS;
  expect(defaults.http).toEqual(http);
  expect(defaults.log.level).toBe(logLevel);
  expect([...LOG_LEVEL_NAMES]).toEqual([...LOG_LEVELS]);
  const bounds = z.toJSONSchema(z.object({ http: (configShape() as { http: z.ZodType }).http })) as never as {
    properties: { http: { properties: Record<string, { type: string; minimum: number; maximum: number }> } };
  };
  let checked = 0;
  for (const [name, { type, minimum, maximum }] of Object.entries(bounds.properties.http.properties)) {
    if (type !== 'integer') continue;
    for (const value of [minimum, maximum]) {
      expect(resolveHttpOptions({ [name]: value }), `${name} ${value}`).toHaveProperty(name, value);
    }
    checked++;
  }
  expect(checked).toBe(sectionAt('http').members.size - 1);
});

function configShape(): Record<string, z.ZodType> {
  return Object.fromEntries(
    [...CONFIG_TREE.members].map(([name, section]) => [
      name,
      z.object(
        Object.fromEntries(
          [...(section as typeof CONFIG_TREE).members].flatMap(([inner, key]) =>
            'schema' in key ? [[inner, key.schema]] : [],
          ),
        ),
      ),
    ]),
  );
}

test('the defaults of the store are those of a pool opened without options', () => {
  const { store } = defaults;
  expect(store.directory).toBeUndefined();
  expect({ ...resolveOptions({}), directory: undefined }).toMatchObject(store);
});

test('every engine that is built in has its name in the schema', () => {
  const known: readonly string[] = ENGINE_NAMES;
  for (const name of engineNames()) expect(known).toContain(name);
});

describe('the file to start from', () => {
  const load = (
    name: string,
    text: string,
  ): { problems: readonly unknown[]; given: Map<string, { value: unknown }> } => {
    const findings = new Findings();
    const root = parseConfigFile(`/x/${name}`, Buffer.from(text), findings);
    if (root !== undefined) findings.addNode(root, CONFIG_TREE);
    return findings;
  };
  const uncommented = {
    yaml: configTemplate('yaml').replace(/^( *)# ([a-zA-Z\d]+: )/gm, '$1$2'),
    json: configTemplate('json').replace(/^( *)\/\/ ("[a-zA-Z\d]+": )/gm, '$1$2'),
  };

  test.each(['yaml', 'json'] as const)('as %s gives nothing', (form) => {
    const { problems, given } = load(`a.${form}`, configTemplate(form));
    expect(problems).toEqual([]);
    expect(given.size).toBe(0);
  });

  test.each(['yaml', 'json'] as const)(
    'as %s without its comment marks gives every key, and defaults their values',
    (form) => {
      const { problems, given } = load(`a.${form}`, uncommented[form]);
      expect(problems).toEqual([]);
      for (const key of CONFIG_KEYS) {
        expect([...given.keys()]).toContain(key.path);
        if (key.defaultValue !== undefined) expect(given.get(key.path)!.value, key.path).toEqual(key.defaultValue);
      }
    },
  );
});

describe('the JSON schema', () => {
  const schema = z.fromJSONSchema(configJsonSchema() as Parameters<typeof z.fromJSONSchema>[0]);
  const accepts = (value: unknown): boolean => schema.safeParse(value).success;

  test('accepts the file to start from, and units in it', () => {
    expect(accepts(parse(configTemplate('yaml').replace(/^( *)# ([a-zA-Z\d]+: )/gm, '$1$2')))).toBe(true);
    expect(
      accepts({ $schema: './x.json', store: { memoryBytes: '128MiB', shards: 'auto', pageBytes: 'adaptive' } }),
    ).toBe(true);
    expect(accepts({ store: { memoryBytes: 2 ** 27, shards: 3, pageBytes: 4096, expiry: { intervalMs: '5s' } } })).toBe(
      true,
    );
    expect(accepts({})).toBe(true);
  });

  test.each([
    { stor: {} },
    { store: { memoryByte: 1 } },
    { store: { memoryBytes: 'much' } },
    { store: { memoryBytes: 1 } },
    { store: { shards: 'all' } },
    { store: { expiry: { batch: 0 } } },
    { http: { port: 65_536 } },
    { log: { level: 'loud' } },
  ])('refuses %j', (config) => {
    expect(accepts(config)).toBe(false);
  });

  test('describes every key', () => {
    const text = JSON.stringify(configJsonSchema());
    for (const { description } of CONFIG_KEYS) expect(text).toContain(JSON.stringify(description).slice(1, -1));
  });
});
