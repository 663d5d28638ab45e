/** Values from every source: which one wins, what each form means, and what is said about what is wrong. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import { stringify } from 'yaml';
import { afterAll, describe, expect, test } from 'vitest';
import { Findings, originText } from '../../dist/config/check.js';
import { parseConfigFile } from '../../dist/config/file.js';
import { CONFIG_KEYS } from '../../dist/config/keys.js';
import { checkConfigFile, loadConfig, storeOptions } from '../../dist/config/load.js';
import {
  formatDuration,
  formatSize,
  jsonOfValue,
  nearest,
  parseDuration,
  parseSize,
  textOfValue,
} from '../../dist/config/text.js';

type ConfigNode = NonNullable<ReturnType<typeof parseConfigFile>>;

const root = mkdtempSync(join(tmpdir(), 'concordkv-config-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let number = 0;

/** A directory with these files. */
function directoryWith(files: Record<string, string> = {}): string {
  const directory = join(root, String(++number));
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, name)), { recursive: true });
    writeFileSync(join(directory, name), text);
  }
  mkdirSync(directory, { recursive: true });
  return directory;
}

function messagesOf(options: Parameters<typeof loadConfig>[0]): string[] {
  try {
    loadConfig({ env: {}, ...options });
  } catch (error) {
    expect(error).toBeInstanceOf(TypeError);
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG' });
    const { problems = [], message } = error as Error & { problems?: { message: string }[] };
    const messages = problems.map((problem) => problem.message);
    if (messages.length > 0) expect(message).toBe(messages.join('; '));
    return messages.length > 0 ? messages : [message];
  }
  return [];
}

describe('precedence', () => {
  test('of any choice of sources the strongest one wins, key by key, and is named', () => {
    const path = fc.constantFrom('store.checkpointLogBytes', 'http.connectionsMax', 'store.expiry.batch');
    const layer = fc.option(fc.integer({ min: 1000, max: 60_000 }), { nil: undefined });
    const cwd = directoryWith();
    fc.assert(
      fc.property(path, layer, layer, layer, layer, (chosen, file, env, flag, explicit) => {
        // Sizes from 64 KiB on.
        const scale = chosen === 'store.checkpointLogBytes' ? 128 : 1;
        const key = CONFIG_KEYS.find((candidate) => candidate.path === chosen)!;
        const nest = (value: number): object =>
          key.segments.reduceRight<unknown>((inner, name) => ({ [name]: inner }), value) as object;
        const given = (value: number | undefined): value is number => value !== undefined;
        writeFileSync(join(cwd, 'concordkv.json'), JSON.stringify(given(file) ? nest(file * scale) : {}));
        const { values, origins } = loadConfig({
          cwd,
          env: given(env) ? { [key.variable]: String(env * scale) } : {},
          argv: given(flag) ? ['--set', `${chosen}=${flag * scale}`] : [],
          explicit: given(explicit) ? nest(explicit * scale) : {},
        });
        const sources = [
          [explicit, 'option'],
          [flag, 'flag'],
          [env, 'environment'],
          [file, 'file'],
        ] as const;
        const [value, source] = sources.find(([candidate]) => given(candidate)) ?? [undefined, 'default'];
        const effective = key.segments.reduce<unknown>((at, name) => (at as Record<string, unknown>)[name], values);
        expect(effective).toBe(value === undefined ? key.defaultValue : value * scale);
        expect(origins[chosen]!.source).toBe(source);
      }),
    );
  });

  test('origins say the line of the file, the variable, the flag', () => {
    const cwd = directoryWith({ 'concordkv.yaml': 'store:\n  order: 5\n\n  expiry:\n    batch: 7\n' });
    const { origins, file } = loadConfig({
      cwd,
      env: { CONCORDKV_DURABILITY: 'os' },
      argv: ['--memory', '8MiB', '--set=http.port=1', '--port=2'],
      explicit: { log: { level: 'warn' } },
    });
    const text = (path: string): string => originText(origins[path]!, cwd);
    expect(file).toBe(join(cwd, 'concordkv.yaml'));
    expect(text('store.order')).toBe('concordkv.yaml:2');
    expect(text('store.expiry.batch')).toBe('concordkv.yaml:5');
    expect(originText(origins['store.order']!, '/elsewhere')).toBe(`${file!}:2`);
    expect(text('store.durability')).toBe('CONCORDKV_DURABILITY');
    expect(text('store.memoryBytes')).toBe('--memory');
    expect(text('http.port')).toBe('--port');
    expect(text('log.level')).toBe('option');
    expect(text('http.host')).toBe('default');
    expect(Object.keys(origins)).toEqual(CONFIG_KEYS.map(({ path }) => path));
  });

  test('what is wrong is refused also where something stronger hides it', () => {
    const cwd = directoryWith({ 'concordkv.json': '{ "store": { "order": 2 } }' });
    expect(messagesOf({ cwd, explicit: { store: { order: 5 } } })).toEqual([
      'store.order is 2 (concordkv.json:1): it must be an integer from 3 to 1000',
    ]);
  });

  test('every variable and every flag reaches its key', () => {
    const own: Readonly<Record<string, string>> = {
      'store.pageBytes': '8KiB',
      'store.lsm.compression': 'none,lz4',
      'store.lsm.blockBytes': '8KiB',
      'store.lsm.prefixFilterBytes': '12',
      'store.lsm.stopRuns': '30',
      'store.lsm.stopDebtBytes': '64GiB',
      'store.lsm.tieredSpacePercent': '70',
    };
    for (const key of CONFIG_KEYS) {
      const value =
        (key.kind === 'list' ? 'a' : key.defaultValue) ??
        { text: 'btree', integer: 7, bytes: '64MiB' }[key.kind as 'text'];
      const text = own[key.path] ?? key.words?.at(-1) ?? (key.kind === 'ms' ? '77ms' : String(value));
      const env = { [key.variable]: text };
      expect(loadConfig({ file: false, env }).origins[key.path]).toEqual({
        source: 'environment',
        variable: key.variable,
      });
      if (key.flag === undefined) continue;
      const { origins } = loadConfig({ file: false, env: {}, argv: [key.flag, text] });
      expect(origins[key.path]).toEqual({ source: 'flag', flag: key.flag });
    }
  });
});

describe('the file', () => {
  test('is the one named by the argument, else by --config, else by CONCORDKV_CONFIG, else the one of the directory', () => {
    const order = (n: number): string => `store: { order: ${n} }`;
    const cwd = directoryWith({
      'concordkv.yml': order(10),
      'a.yaml': order(11),
      'b.yaml': order(12),
      'c.yaml': order(13),
    });
    const env = { CONCORDKV_CONFIG: 'a.yaml' };
    const argv = ['--config', 'b.yaml'];
    const orderOf = (options: Parameters<typeof loadConfig>[0]): unknown =>
      loadConfig({ cwd, env: {}, ...options }).values.store.order;
    expect(orderOf({})).toBe(10);
    expect(orderOf({ env })).toBe(11);
    expect(orderOf({ env, argv })).toBe(12);
    expect(orderOf({ env, argv, file: 'c.yaml' })).toBe(13);
    expect(orderOf({ env, argv: ['--no-config'] })).toBeUndefined();
    expect(orderOf({ env, argv, file: false })).toBeUndefined();
    expect(orderOf({ env: { CONCORDKV_CONFIG: '' } })).toBe(10);
    expect(loadConfig({ cwd: directoryWith(), env: {} }).file).toBeUndefined();
  });

  test('that was named and is not there is ERR_NOT_FOUND', () => {
    const cwd = directoryWith();
    for (const options of [
      { file: 'x.yaml' },
      { argv: ['--config', 'x.yaml'] },
      { env: { CONCORDKV_CONFIG: 'x.yaml' } },
    ]) {
      expect(() => loadConfig({ cwd, env: {}, ...options })).toThrow(
        expect.objectContaining({
          code: 'ERR_NOT_FOUND',
          message: `there is no config file ${join(cwd, 'x.yaml')}`,
        }) as Error,
      );
    }
  });

  test('that cannot be read is ERR_IO', () => {
    expect(() => loadConfig({ cwd: root, env: {}, file: '.' })).toThrow(
      expect.objectContaining({ code: 'ERR_IO' }) as Error,
    );
  });

  test('beside another one is refused', () => {
    const cwd = directoryWith({ 'concordkv.json': '{}', 'concordkv.yaml': '' });
    expect(messagesOf({ cwd })).toEqual([
      `${cwd} has concordkv.json and concordkv.yaml: keep one, or say which with --config or CONCORDKV_CONFIG`,
    ]);
    expect(messagesOf({ cwd, argv: ['--config', 'concordkv.json'] })).toEqual([]);
  });

  test('may be empty, all comments, or sections without keys', () => {
    for (const text of ['', '# nothing\n', 'store:\nhttp: {}\n'])
      expect(messagesOf({ cwd: directoryWith({ 'concordkv.yaml': text }) })).toEqual([]);
    for (const text of ['', '// nothing', '{}', '{"$schema":"x","store":{},}']) {
      expect(messagesOf({ cwd: directoryWith({ 'concordkv.json': text }) })).toEqual([]);
    }
  });

  test('means the same in both forms', () => {
    const leaf = {
      durability: fc.constantFrom('sync', 'os', 'memory'),
      memoryBytes: fc.oneof(
        fc.constantFrom('128MiB', '1g', '4194304', '5 mib'),
        fc.integer({ min: 1 << 22, max: 1 << 30 }),
      ),
      shards: fc.oneof(fc.constant('auto'), fc.integer({ min: 1, max: 64 })),
      readOnly: fc.boolean(),
      engineModules: fc.array(fc.constantFrom('package', './a.mjs', 'ü — "quoted"', '# no comment')),
      expiry: fc.record(
        { intervalMs: fc.constantFrom(20, '20', '5s', '1h'), batch: fc.integer({ min: 1, max: 100 }) },
        { requiredKeys: [] },
      ),
    };
    const config = fc.record(
      {
        store: fc.record(leaf, { requiredKeys: [] }),
        http: fc.record({ port: fc.nat(65_535), host: fc.constantFrom('::1', '0.0.0.0') }, { requiredKeys: [] }),
        log: fc.record({ level: fc.constantFrom('info', 'silent') }),
      },
      { requiredKeys: [] },
    );
    const cwd = directoryWith();
    fc.assert(
      fc.property(config, fc.constantFrom(0, 2), (given, indent) => {
        writeFileSync(join(cwd, 'a.json'), JSON.stringify(given, undefined, indent));
        writeFileSync(join(cwd, 'a.yaml'), stringify(given));
        const [json, yaml] = ['a.json', 'a.yaml'].map((file) => loadConfig({ cwd, env: {}, file }));
        expect(yaml!.values).toEqual(json!.values);
        const sources = (loaded: typeof json): unknown[] => Object.values(loaded!.origins).map(({ source }) => source);
        expect(sources(yaml)).toEqual(sources(json));
      }),
    );
  });
});

/** A node's value as plain data; mappings inside of lists are not kept. */
function plain(node: ConfigNode): unknown {
  if (node.entries === undefined) return node.value;
  return Object.fromEntries([...node.entries].map(([name, member]) => [name, plain(member)]));
}

describe('reading JSON', () => {
  const read = (text: string): ConfigNode | undefined => parseConfigFile('/x.json', Buffer.from(text), new Findings());

  test('gives what JSON.parse gives', () => {
    const scalar = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.double({ noNaN: true, noDefaultInfinity: true }),
      fc.integer(),
      fc.boolean(),
      fc.constant(null),
    );
    const { value } = fc.letrec((tie) => ({
      value: fc.oneof({ maxDepth: 4 }, scalar, fc.array(scalar), fc.dictionary(fc.string(), tie('value'))),
    }));
    fc.assert(
      fc.property(value, fc.constantFrom(undefined, 1, '\t'), (document, indent) => {
        const text = JSON.stringify(document, undefined, indent);
        const node = read(text)!;
        expect(plain(node)).toEqual(JSON.parse(text));
      }),
    );
  });

  test('takes comments and a comma after the last member, and a name twice is refused', () => {
    const findings = new Findings();
    const text = '// a\n{ /* b */ "a": [1, 2,], // c\n "b": "// d", }\n// e';
    expect(plain(parseConfigFile('/x.json', Buffer.from(text), findings)!)).toEqual({ a: [1, 2], b: '// d' });
    expect(findings.problems).toEqual([]);
  });

  test('keeps __proto__ a name like any other', () => {
    expect(read('{"__proto__": {"a": 1}}')!.entries!.get('__proto__')!.entries!.get('a')!.value).toBe(1);
    expect(messagesOf({ cwd: directoryWith({ 'concordkv.json': '{"store":{"__proto__":{"order":4}}}' }) })).toEqual([
      'store.__proto__ (concordkv.json:1): there is no such key',
    ]);
  });
});

test('any bytes are a tree or a problem with its line', () => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc.string({ unit: fc.constantFrom(...'{}[]":,#-&*!|> \n\ttruefalsnk01') }).map((text) => Buffer.from(text)),
  );
  fc.assert(
    fc.property(bytes, fc.constantFrom('/x.json', '/x.yaml'), (input, file) => {
      const findings = new Findings();
      const node = parseConfigFile(file, input, findings);
      expect(node === undefined).toBe(findings.problems.length === 1);
      for (const { message, origin } of findings.problems) {
        expect(message).toMatch(/^\/x\.(json|yaml):\d+: [^\n]+$/);
        expect(origin).toMatchObject({ source: 'file', line: expect.any(Number) as number });
      }
    }),
    { numRuns: 2000 },
  );
});

describe('errors', () => {
  test.each<[string, string, string]>([
    // [file, text, message]
    [
      'a.yaml',
      'store:\n  memoryBytes: 512',
      'store.memoryBytes is 512 (a.yaml:2): it must be a size from 4MiB to 64GiB; a plain number counts bytes; did you mean 512MiB (536870912)?',
    ],
    [
      'a.yaml',
      'store: { memoryBytes: much }',
      'store.memoryBytes is "much" (a.yaml:1): it must be a size from 4MiB to 64GiB',
    ],
    [
      'a.yaml',
      'store: { memoryBytes: 10 parsec }',
      'store.memoryBytes is "10 parsec" (a.yaml:1): it must be a size from 4MiB to 64GiB; units are KiB, MiB, GiB and TiB, as in 128MiB',
    ],
    [
      'a.yaml',
      'store: { memoryBytes: 1.5 }',
      'store.memoryBytes is 1.5 (a.yaml:1): it must be a size from 4MiB to 64GiB',
    ],
    [
      'a.yaml',
      'store: { segmentBytes: 262145 }',
      'store.segmentBytes is 262145 (a.yaml:1): it must be a size from 256KiB to 1GiB, a multiple of 4096',
    ],
    [
      'a.yaml',
      'store: { expiry: { intervalMs: 5 parsec } }',
      'store.expiry.intervalMs is "5 parsec" (a.yaml:1): it must be a time from 10ms to 576h; units are ms, s, m and h, as in 5s',
    ],
    [
      'a.yaml',
      'store: { expiry: { intervalMs: 1 } }',
      'store.expiry.intervalMs is 1 (a.yaml:1): it must be a time from 10ms to 576h',
    ],
    [
      'a.yaml',
      'store: { order: "64" }',
      'store.order is "64" (a.yaml:1): it must be an integer from 3 to 1000; write 64 without quotes',
    ],
    ['a.yaml', 'store: { shards: al }', 'store.shards is "al" (a.yaml:1): it must be auto or an integer from 1 to 64'],
    [
      'a.yaml',
      'store: { durability: synch }',
      'store.durability is "synch" (a.yaml:1): it must be sync, os or memory; did you mean sync?',
    ],
    [
      'a.yaml',
      'store: { pageBytes: 5KiB }',
      'store.pageBytes is "5KiB" (a.yaml:1): it must be 4KiB, 8KiB, 16KiB, 32KiB or adaptive',
    ],
    [
      'a.yaml',
      'store: { readOnly: yes }',
      'store.readOnly is "yes" (a.yaml:1): it must be true or false; write true without quotes',
    ],
    ['a.yaml', 'store: { readOnly: 1 }', 'store.readOnly is 1 (a.yaml:1): it must be true or false'],
    [
      'a.yaml',
      'store:\n  durability:\n',
      'store.durability is null (a.yaml:2): it must be sync, os or memory; leave the line out to use the default',
    ],
    [
      'a.yaml',
      'store: { engineModules: a }',
      'store.engineModules is "a" (a.yaml:1): it must be a list of texts that are not empty; write a list: ["a"]',
    ],
    [
      'a.yaml',
      'store: { engineModules: [1] }',
      'store.engineModules is a list (a.yaml:1): it must be a list of texts that are not empty',
    ],
    [
      'a.yaml',
      'store: { engine: Btree }',
      'store.engine is "Btree" (a.yaml:1): it must be btree, hash, rbtree, array, memtable or lsm, or another name of a-z, 0-9 and -; did you mean btree?',
    ],
    [
      'a.yaml',
      'store: { engine: btre }',
      'store.engine is "btre" (a.yaml:1): there are btree, hash, rbtree, array, memtable, lsm, and those engineModules register, of which none is given; did you mean btree?',
    ],
    [
      'a.yaml',
      'store: { directory: 5 }',
      'store.directory is 5 (a.yaml:1): it must be a text that is not empty; write "5" in quotes',
    ],
    [
      'a.yaml',
      'store: { durability: { a: 1 } }',
      'store.durability is a mapping (a.yaml:1): it must be sync, os or memory',
    ],
    [
      'a.yaml',
      'store: { memorybytes: 1 }',
      'store.memorybytes (a.yaml:1): there is no such key; did you mean store.memoryBytes?',
    ],
    [
      'a.yaml',
      'store: { memory-bytes: 1 }',
      'store.memory-bytes (a.yaml:1): there is no such key; did you mean store.memoryBytes?',
    ],
    [
      'a.yaml',
      'store: { memory: 1 }',
      'store.memory (a.yaml:1): there is no such key; did you mean store.memoryBytes?',
    ],
    ['a.yaml', 'durability: os', 'durability (a.yaml:1): there is no such key; did you mean store.durability?'],
    ['a.yaml', 'store: { port: 5 }', 'store.port (a.yaml:1): there is no such key; did you mean http.port?'],
    ['a.yaml', 'stor: { order: 5 }', 'stor (a.yaml:1): there is no such key; did you mean store?'],
    ['a.yaml', 'zebra: 1', 'zebra (a.yaml:1): there is no such key'],
    ['a.yaml', 'store: 5', 'store is 5 (a.yaml:1): it must be a mapping of keys'],
    ['a.yaml', '- a', 'the file is a list (a.yaml:1): it must be a mapping of keys'],
    ['a.yaml', 'a: 1\na: 2', 'a.yaml:2: "a" is there twice'],
    ['a.yaml', 'a: [', 'a.yaml:1: Flow sequence in block collection must be sufficiently indented and end with a ]'],
    ['a.yaml', '---\na: 1\n---\nb: 1', 'a.yaml:3: a second document; one is enough'],
    ['a.yaml', '1: 2', 'a.yaml:1: the name of a key must be a text'],
    ['a.yaml', 'store: !custom {}', 'a.yaml:1: Unresolved tag: !custom'],
    ['a.yaml', 'a: *b', 'a.yaml:1: no anchor *b'],
    [
      'a.json',
      '{\n  "store": {\n    "order": 5\n    "shards": 3\n  }\n}',
      'a.json:4: expected "," or "}", found "\\""',
    ],
    ['a.json', '{ store: {} }', 'a.json:1: expected a name in double quotes, found "s"'],
    ['a.json', '{ "store" {} }', 'a.json:1: expected ":" after "store", found "{"'],
    ['a.json', '{ "store": }', 'a.json:1: expected a value, found "}"'],
    ['a.json', '{', 'a.json:1: expected a name in double quotes, found the end'],
    ['a.json', '{} {}', 'a.json:1: expected the end, found "{"'],
    ['a.json', '{ "a\n', 'a.json:1: a text that does not end'],
    ['a.json', '{ "\\x": 1 }', 'a.json:1: a text with a wrong escape or a control character'],
    ['a.json', '/* {}', 'a.json:1: a comment that does not end'],
    ['a.json', '{ "a": 1,\n"a": 2 }', 'a.json:2: "a" is there twice'],
    ['a.json', '{ "a": 01 }', 'a.json:1: expected a value, found "0"'],
    ['a.json', '['.repeat(40), 'a.json:1: nested deeper than 16'],
    ['a.json', `[${'1,'.repeat(20_000)}]`, 'a.json:1: more than 10000 values'],
    ['a.json', ' '.repeat(2 << 20), 'a.json:1: longer than 1048576 bytes'],
  ])('in %s, %j: %s', (file, text, message) => {
    const cwd = directoryWith({ [file]: text });
    const messages = messagesOf({ cwd, file });
    expect(messages).toHaveLength(1);
    expect(messages[0]).toBe(message);
    expect(checkConfigFile(file, cwd).map((problem) => problem.message)).toEqual(messages);
  });

  test.skipIf(!existsSync('/dev/zero'))('a file without an end is refused', () => {
    expect(messagesOf({ cwd: directoryWith(), file: '/dev/zero' })).toEqual(['/dev/zero:1: longer than 1048576 bytes']);
  });

  test('YAML that fills the stack is refused', () => {
    const cwd = directoryWith({ 'a.yaml': '['.repeat(100_000) });
    const [message, ...others] = messagesOf({ cwd, file: 'a.yaml' });
    expect(others).toEqual([]);
    expect(message).toBe('a.yaml:1: nested deeper than 16');
  });

  test('a file that is not UTF-8 is refused', () => {
    const cwd = directoryWith();
    writeFileSync(join(cwd, 'a.yaml'), Buffer.from([0x61, 0xff]));
    expect(messagesOf({ cwd, file: 'a.yaml' })).toEqual(['a.yaml:1: not UTF-8']);
  });

  test('a file of aliases that multiply is refused', () => {
    const lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x, x]'];
    for (let i = 1; i < 8; i++)
      lines.push(
        `a${i}: &a${i} [${Array(10)
          .fill(`*a${i - 1}`)
          .join(', ')}]`,
      );
    const cwd = directoryWith({ 'a.yaml': lines.join('\n') });
    expect(messagesOf({ cwd, file: 'a.yaml' })[0]).toMatch(/^a\.yaml:\d: more than 10000 values$/);
  });

  test.each<[Record<string, string>, string]>([
    [
      { CONCORDKV_MEMORY_BYTES: 'x' },
      'store.memoryBytes is "x" (CONCORDKV_MEMORY_BYTES): it must be a size from 4MiB to 64GiB',
    ],
    [
      { CONCORDKV_MEMORY_BYTES: '512' },
      'store.memoryBytes is "512" (CONCORDKV_MEMORY_BYTES): it must be a size from 4MiB to 64GiB; a plain number counts bytes; did you mean 512MiB (536870912)?',
    ],
    [{ CONCORDKV_READ_ONLY: 'maybe' }, 'store.readOnly is "maybe" (CONCORDKV_READ_ONLY): it must be true or false'],
    [
      { CONCORDKV_HTTP_PORT: '99999' },
      'http.port is "99999" (CONCORDKV_HTTP_PORT): it must be an integer from 0 to 65535',
    ],
    [
      { CONCORDKV_LOG_LEVEL: 'inof' },
      'log.level is "inof" (CONCORDKV_LOG_LEVEL): it must be fatal, error, warn, info, debug, trace or silent; did you mean info?',
    ],
  ])('of the environment %j: %s', (env, message) => {
    expect(messagesOf({ file: false, env })).toEqual([message]);
  });

  test.each<[string[], string]>([
    [['--memory', 'x'], 'store.memoryBytes is "x" (--memory): it must be a size from 4MiB to 64GiB'],
    [['--drain', '10'], 'http.drainMs is 10 (--drain): say the unit, as in 10s or 10ms'],
    [['--set', 'store.order=x'], 'store.order is "x" (--set store.order): it must be an integer from 3 to 1000'],
    [['--set', 'store.ordr=5'], 'store.ordr (--set): there is no such key; did you mean store.order?'],
    [['--set', 'memory=5'], 'memory (--set): there is no such key; did you mean store.memoryBytes?'],
    [['--set', 'zebra=5'], 'zebra (--set): there is no such key; "concordkv config print" lists them'],
    [['--set', '=5'], '--set takes key=value, such as --set store.durability=os, got "=5"'],
    [['--set', 'store.order'], 'store.order: --set takes key=value, such as --set store.durability=os'],
    [['--zebra', '5'], '--zebra is no flag of the configuration; give a key with --set key=value'],
    [['--memory'], '--memory needs a value'],
    [['memory'], 'memory: flags begin with --'],
  ])('of the command line %j: %s', (argv, message) => {
    expect(messagesOf({ file: false, argv })).toEqual([message]);
  });

  test.each<[unknown, string]>([
    [
      { store: { memoryBytes: '1g' } },
      'option memoryBytes is "1g": it must be a size from 4MiB to 64GiB; in code a number: 1073741824',
    ],
    [
      { store: { expiry: { intervalMs: '5s' } } },
      'option expiry.intervalMs is "5s": it must be a time from 10ms to 576h; in code a number: 5000',
    ],
    [{ store: { durability: null } }, 'option durability is null: it must be sync, os or memory'],
    [{ store: { memry: 1 } }, 'option memry: there is no such option; did you mean memoryBytes?'],
    [{ memoryBytes: 1 }, 'option memoryBytes: there is no such option; did you mean store.memoryBytes?'],
    [{ http: { prot: 1 } }, 'option http.prot: there is no such option; did you mean http.port?'],
    [5, 'options is 5: it must be a mapping of keys'],
  ])('of code %j: %s', (explicit, message) => {
    expect(messagesOf({ file: false, explicit: explicit as object })).toEqual([message]);
  });

  test('every problem of every source is named at once', () => {
    const cwd = directoryWith({ 'concordkv.yaml': 'store: { order: 1 }\nhttp: { port: x }' });
    const messages = messagesOf({
      cwd,
      env: { CONCORDKV_SHARDS: '0' },
      argv: ['--log-level', 'x'],
      explicit: { store: { order: 0 } },
    });
    expect(messages.map((message) => message.split(' ')[0])).toEqual([
      'store.order',
      'http.port',
      'store.shards',
      'log.level',
      'option',
    ]);
  });
});

describe('texts', () => {
  test.each([
    ['CONCORDKV_READ_ONLY', 'ON', 'readOnly', true],
    ['CONCORDKV_READ_ONLY', '0', 'readOnly', false],
    ['CONCORDKV_ENGINE_MODULES', 'a, b', 'engineModules', ['a', 'b']],
    ['CONCORDKV_SHARDS', 'auto', 'shards', 'auto'],
    ['CONCORDKV_SHARDS', ' 3 ', 'shards', 3],
    ['CONCORDKV_PAGE_BYTES', '16k', 'pageBytes', 16_384],
    ['CONCORDKV_PAGE_BYTES', 'adaptive', 'pageBytes', 'adaptive'],
    ['CONCORDKV_MEMORY_BYTES', '0.5GiB', 'memoryBytes', 2 ** 29],
    ['CONCORDKV_MEMORY_BYTES', '5000000', 'memoryBytes', 5_000_000],
  ])('%s=%s is %s %j', (variable, text, name, value) => {
    expect(loadConfig({ file: false, env: { [variable]: text } }).values.store).toHaveProperty(name, value);
  });

  test('sizes and times come back as they went', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (amount) => {
        expect(parseSize(formatSize(amount))).toBe(amount);
        expect(parseDuration(formatDuration(amount))).toBe(amount);
      }),
    );
    fc.assert(
      fc.property(fc.nat(4000), fc.constantFrom(2 ** 10, 2 ** 20, 2 ** 30, 1000, 60_000, 3_600_000), (amount, unit) => {
        expect(parseSize(formatSize(amount * unit))).toBe(amount * unit);
        expect(parseDuration(formatDuration(amount * unit))).toBe(amount * unit);
      }),
    );
    expect([2 ** 27, 2 ** 30, 1000, 0].map(formatSize)).toEqual(['128MiB', '1GiB', '1000', '0']);
    expect([1, 5000, 120_000, 7_200_000, 1500].map(formatDuration)).toEqual(['1ms', '5s', '2m', '2h', '1500ms']);
    for (const text of ['', 'x', '-1', '1e3', '1 potato', '9999999t', '.5'])
      expect(parseSize(text), text).toBeUndefined();
    for (const text of ['', 'x', '-1', '1 d', '1S', '99999999999999h'])
      expect(parseDuration(text), text).toBeUndefined();
  });

  test('what is far off is not proposed', () => {
    expect(nearest('zebra', ['memoryBytes', 'order'])).toBeUndefined();
    expect(nearest('', ['a'])).toBeUndefined();
    expect(nearest('ORDER', ['memoryBytes', 'order'])).toBe('order');
    expect(nearest('odrer', ['memoryBytes', 'order'])).toBe('order');
  });
});

describe('secrets', () => {
  const secret = { kind: 'text', isSecret: true } as const;
  test('are never printed', () => {
    expect(textOfValue(secret, 'hunter2')).toBe('(secret)');
    expect(jsonOfValue(secret, 'hunter2')).toBe('(secret)');
    expect(jsonOfValue(secret, undefined)).toBeNull();
  });

  test('do not appear in errors', () => {
    const key = { ...CONFIG_KEYS.find(({ path }) => path === 'log.level')!, isSecret: true, allowed: 'a word' };
    const findings = new Findings();
    findings.addText(key, 'hunter2', { source: 'environment', variable: 'X' });
    expect(findings.problems.map(({ message }) => message)).toEqual(['log.level is (secret) (X): it must be a word']);
  });

  test('inside of URLs are hidden, in values and in errors', () => {
    const open = { kind: 'list' } as const;
    expect(textOfValue(open, ['https://ann:pw@host/x?y=a@b'])).toBe('https://(secret)@host/x?y=a@b');
    expect(jsonOfValue(open, ['https://ann:pw@host/x', 'plain'])).toEqual(['https://(secret)@host/x', 'plain']);
    expect(messagesOf({ file: false, argv: ['--durability', 'https://ann:pw@host'] })[0]).toContain(
      '"https://(secret)@host"',
    );
  });
});

test('variables nobody knows are warnings, with a proposal and without their values', () => {
  const env = {
    CONCORDKV_MEMORY: 'hunter2',
    CONCORDKV_ZEBRA: 'hunter2',
    CONCORDKV_TEST_SEED: '1',
    CONCORDKV_ORDER: '5',
    OTHER: '1',
  };
  expect(loadConfig({ file: false, env }).warnings).toEqual([
    'CONCORDKV_MEMORY is no variable of ConcordKV and is ignored; did you mean CONCORDKV_MEMORY_BYTES?',
    'CONCORDKV_ZEBRA is no variable of ConcordKV and is ignored',
  ]);
});

test('paths in a file count from its directory, others from the working directory, packages stay names', () => {
  const cwd = directoryWith({
    'sub/a.yaml':
      'store: { directory: data, engineModules: [./e.mjs, ../f.mjs, pkg, "@s/pkg/x", "file:///g.mjs", /abs/h.mjs] }',
  });
  const fromFile = loadConfig({ cwd, env: {}, file: 'sub/a.yaml' }).values.store;
  expect(fromFile.directory).toBe(join(cwd, 'sub/data'));
  expect(fromFile.engineModules).toEqual([
    join(cwd, 'sub/e.mjs'),
    join(cwd, 'f.mjs'),
    'pkg',
    '@s/pkg/x',
    'file:///g.mjs',
    '/abs/h.mjs',
  ]);
  const env = { CONCORDKV_DIRECTORY: 'data', CONCORDKV_ENGINE_MODULES: './e.mjs' };
  expect(loadConfig({ cwd, env, file: false }).values.store).toMatchObject({
    directory: join(cwd, 'data'),
    engineModules: [join(cwd, 'e.mjs')],
  });
  expect(loadConfig({ cwd, env: { CONCORDKV_DIRECTORY: ':memory:' }, file: false }).values.store.directory).toBe(
    ':memory:',
  );
});

test('the options of the store are those that were given, without the directory', () => {
  const env = { CONCORDKV_DIRECTORY: 'x', CONCORDKV_EXPIRY_BATCH: '5', CONCORDKV_HTTP_PORT: '1' };
  expect(storeOptions(loadConfig({ file: false, env }))).toEqual({ expiry: { batch: 5 } });
  expect(storeOptions(loadConfig({ file: false, env: {} }))).toEqual({});
});
