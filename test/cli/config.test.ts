/** concordkv config, and configuration of the other commands: files, variables and flags of real processes. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { CONFIG_KEYS } from '../../dist/config/keys.js';
import { finish, temporaryDirectory } from './command.js';
import type { Ended } from './command.js';

const CLI = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
const KILL_AFTER_MS = 240_000;
const root = temporaryDirectory();
let number = 0;

function directoryWith(files: Record<string, string> = {}): string {
  const directory = join(root, `dir-${++number}`);
  mkdirSync(directory);
  for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text);
  return directory;
}

/** Only these variables, not those of the test run. */
function start(cwd: string, args: readonly string[], env: Record<string, string> = {}): ChildProcess {
  return spawn(process.execPath, [CLI, ...args], {
    cwd,
    env: { PATH: process.env['PATH'], ...env },
    stdio: ['pipe', 'pipe', 'pipe'],
    timeout: KILL_AFTER_MS,
    killSignal: 'SIGKILL',
  });
}

function run(cwd: string, args: readonly string[], env?: Record<string, string>): Promise<Ended> {
  const child = start(cwd, args, env);
  child.stdin!.end();
  return finish(child);
}

interface Printed {
  readonly file: string | null;
  readonly keys: Record<string, { value: unknown; origin: { source: string }; changes: string }>;
}

describe.concurrent('config print', () => {
  const FILE = 'store:\n  memoryBytes: 16MiB\n  engineModules: ["https://ann:pw@host/e.mjs"]\nhttp: { port: 81 }\n';

  test('shows every key with its value and where it comes from', async () => {
    const cwd = directoryWith({ 'concordkv.yaml': FILE });
    const { code, stdout, stderr } = await run(cwd, ['config', 'print', '--port', '82', '--set', 'store.order=9'], {
      CONCORDKV_DURABILITY: 'os',
    });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const [head, ...lines] = stdout.trimEnd().split('\n');
    expect(head).toBe(`# configuration file ${join(cwd, 'concordkv.yaml')}`);
    const rows = lines.map((line) => line.split(/ {2,}/));
    expect(rows.map(([path]) => path)).toEqual(CONFIG_KEYS.map(({ path }) => path));
    const row = (path: string): string[] => rows.find(([first]) => first === path)!.slice(1);
    expect(row('store.memoryBytes')).toEqual(['16MiB', 'concordkv.yaml:2']);
    expect(row('store.durability')).toEqual(['os', 'CONCORDKV_DURABILITY']);
    expect(row('http.port')).toEqual(['82', '--port']);
    expect(row('store.order')).toEqual(['9', '--set store.order']);
    expect(row('http.drainMs')).toEqual(['10s', 'default']);
    expect(row('store.engine')).toEqual(['-', 'default']);
    expect(row('store.engineModules')).toEqual(['https://(secret)@host/e.mjs', 'concordkv.yaml:3']);
    expect(stdout).not.toContain('ann:pw');
  });

  test('--json says the same for programs', async () => {
    const cwd = directoryWith({ 'concordkv.json': '{ "store": { "memoryBytes": "16MiB" } }' });
    const { code, stdout } = await run(cwd, ['config', 'print', '--json'], { CONCORDKV_HTTP_DRAIN_MS: '5s' });
    expect(code).toBe(0);
    const { file, keys } = JSON.parse(stdout) as Printed;
    expect(file).toBe(join(cwd, 'concordkv.json'));
    expect(Object.keys(keys)).toEqual(CONFIG_KEYS.map(({ path }) => path));
    expect(keys['store.memoryBytes']).toEqual({
      value: 16 << 20,
      origin: { source: 'file', file, line: 1, column: 14 },
      changes: 'restart',
    });
    expect(keys['http.drainMs']).toMatchObject({ value: 5000, origin: { variable: 'CONCORDKV_HTTP_DRAIN_MS' } });
    expect(keys['store.engine']).toEqual({ value: null, origin: { source: 'default' }, changes: 'creation' });
  });

  test('--given leaves out defaults, --no-config the file', async () => {
    const cwd = directoryWith({ 'concordkv.yaml': FILE });
    expect((await run(cwd, ['config', 'print', '--given', '--no-config', '--port', '82'])).stdout).toBe(
      '# no configuration file\nhttp.port  82  --port\n',
    );
  });

  test('warns on stderr of variables nobody knows', async () => {
    const env = { CONCORDKV_MEMORY: 'hunter2' };
    const message = 'CONCORDKV_MEMORY is no variable of ConcordKV and is ignored; did you mean CONCORDKV_MEMORY_BYTES?';
    const cwd = directoryWith();
    expect(await run(cwd, ['config', 'print', '--given'], env)).toMatchObject({
      code: 0,
      stderr: `concordkv: warning: ${message}\n`,
    });
    expect((await run(cwd, ['config', 'print', '--json'], env)).stderr).toBe(
      `${JSON.stringify({ warning: { message } })}\n`,
    );
  });

  test('refuses what is wrong with exit code 2 and one line', async () => {
    const cwd = directoryWith({ 'concordkv.yaml': 'store: { order: 1 }' });
    expect(await run(cwd, ['config', 'print', '--log-level', 'inof'])).toMatchObject({
      code: 2,
      stdout: '',
      stderr:
        'concordkv: store.order is 1 (concordkv.yaml:1): it must be an integer from 3 to 1000; log.level is "inof" (--log-level): it must be fatal, error, warn, info, debug, trace or silent; did you mean info?\n',
    });
    const { code, stderr } = await run(cwd, ['config', 'print', '--json']);
    expect(code).toBe(2);
    expect(JSON.parse(stderr)).toEqual({
      error: { code: 'ERR_INVALID_ARG', message: expect.stringContaining('store.order is 1') as string },
    });
  });

  test('a file that was named and is not there is exit code 1', async () => {
    const cwd = directoryWith();
    expect(await run(cwd, ['config', 'print', '--config', 'x.yaml'])).toMatchObject({
      code: 1,
      stderr: `concordkv: there is no config file ${join(cwd, 'x.yaml')}\n`,
    });
  });
});

describe.concurrent('config check', () => {
  test('says ok, or each problem on a line with exit code 4', async () => {
    const cwd = directoryWith({
      'a.yaml': 'store: { order: 5 }',
      'b.json': '{\n"store": { "order": 1 },\n"zebra": 1 }',
    });
    expect(await run(cwd, ['config', 'check', 'a.yaml'])).toMatchObject({ code: 0, stdout: 'ok\n', stderr: '' });
    const messages = [
      'store.order is 1 (b.json:2): it must be an integer from 3 to 1000',
      'zebra (b.json:3): there is no such key',
    ];
    expect(await run(cwd, ['config', 'check', 'b.json'])).toMatchObject({
      code: 4,
      stdout: `${messages.join('\n')}\n`,
    });
    const { code, stdout } = await run(cwd, ['config', 'check', 'b.json', '--json']);
    expect(code).toBe(4);
    expect(JSON.parse(stdout)).toEqual({
      ok: false,
      problems: [
        {
          path: 'store.order',
          origin: { source: 'file', file: join(cwd, 'b.json'), line: 2, column: 12 },
          message: messages[0],
        },
        {
          path: 'zebra',
          origin: { source: 'file', file: join(cwd, 'b.json'), line: 3, column: 1 },
          message: messages[1],
        },
      ],
    });
    expect(JSON.parse((await run(cwd, ['config', 'check', 'a.yaml', '--json'])).stdout)).toEqual({
      ok: true,
      problems: [],
    });
  });

  test('looks at the file alone', async () => {
    const cwd = directoryWith({ 'a.yaml': '', 'concordkv.yaml': 'zebra: 1' });
    expect((await run(cwd, ['config', 'check', 'a.yaml'], { CONCORDKV_ORDER: 'x' })).code).toBe(0);
  });

  test('without a file ends with 2, with one that is not there with 1', async () => {
    const cwd = directoryWith();
    expect((await run(cwd, ['config', 'check'])).code).toBe(2);
    expect((await run(cwd, ['config', 'check', 'x.yaml'])).code).toBe(1);
  });
});

describe.concurrent('config init and schema', () => {
  test('init writes a file that changes nothing, and overwrites none', async () => {
    const cwd = directoryWith();
    for (const [args, name] of [
      [[], 'concordkv.yaml'],
      [['other.json'], 'other.json'],
    ] as const) {
      expect(await run(cwd, ['config', 'init', ...args])).toMatchObject({ code: 0, stdout: `wrote ${name}\n` });
      expect(await run(cwd, ['config', 'check', name])).toMatchObject({ code: 0, stdout: 'ok\n' });
      writeFileSync(join(cwd, name), '{}');
      const again = await run(cwd, ['config', 'init', ...args]);
      expect(again).toMatchObject({ code: 1, stderr: `concordkv: ${name} is there already; --force overwrites it\n` });
      expect(readFileSync(join(cwd, name), 'utf8')).toBe('{}');
      expect((await run(cwd, ['config', 'init', ...args, '--force'])).code).toBe(0);
      expect(readFileSync(join(cwd, name), 'utf8')).toContain('memoryBytes');
    }
    expect((await run(cwd, ['config', 'init', 'x.toml'])).code).toBe(2);
    expect((await run(cwd, ['config', 'init', 'no/such/x.yaml'])).code).toBe(1);
  });

  test('schema is a JSON schema with every section', async () => {
    const { code, stdout } = await run(directoryWith(), ['config', 'schema']);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      $schema: 'https://json-schema.org/draft/2020-12/schema',
      additionalProperties: false,
      properties: { store: {}, http: {}, log: {}, $schema: {} },
    });
  });

  test('every command of config has help, and config alone is a wrong command line', async () => {
    const cwd = directoryWith();
    for (const name of ['print', 'check', 'init', 'schema']) {
      expect((await run(cwd, ['config', name, '--help'])).code).toBe(0);
    }
    const { code, stderr } = await run(cwd, ['config']);
    expect(code).toBe(2);
    expect(stderr).toContain('Examples:');
    expect((await run(cwd, ['config', 'prnt'])).code).toBe(2);
  });
});

describe.concurrent('the other commands', () => {
  test('take the directory and the options of the store from file, environment and flags', async () => {
    const cwd = directoryWith({
      'concordkv.yaml': 'store: { directory: ./data, keyEncoding: binary, shards: 2, memoryBytes: 8MiB }',
    });
    expect(await run(cwd, ['put', 'a', '1'])).toMatchObject({ code: 0, stderr: '' });
    expect(existsSync(join(cwd, 'data'))).toBe(true);
    const stats = JSON.parse((await run(cwd, ['stats', '--json'])).stdout) as {
      shards: { memory: { capacityBytes: number } }[];
    };
    expect(stats.shards).toHaveLength(2);
    expect(stats.shards[0]!.memory.capacityBytes).toBeLessThanOrEqual(8 << 20);
    expect((await run(cwd, ['get', 'hex:61'])).stdout).toBe('1\n');
    // A flag wins over the file, and the store remembers better.
    const conflict = await run(cwd, ['get', 'a', '--key-encoding', 'utf8']);
    expect(conflict).toMatchObject({ code: 1, stderr: expect.stringContaining('keyEncoding') as string });
    expect((await run(cwd, ['get', 'a', '--no-config', '--json'])).code).toBe(2);
    expect((await run(cwd, ['get', 'a', '--no-config'], { CONCORDKV_DIRECTORY: 'data' })).stdout).toBe('1\n');
    expect((await run(cwd, ['get', 'a', '--no-config', '--set', 'store.directory=data'])).stdout).toBe('1\n');
    expect((await run(cwd, ['verify'])).stdout).toBe('ok\n');
  });

  test('without a directory end with 2 and say how to name one', async () => {
    const { code, stderr } = await run(directoryWith(), ['get', 'a']);
    expect(code).toBe(2);
    expect(stderr).toBe(
      'concordkv: no store is named: say --db <dir>, or set store.directory in the configuration or CONCORDKV_DIRECTORY\n',
    );
  });

  test('with a wrong file do nothing', async () => {
    const cwd = directoryWith({ 'concordkv.yaml': 'store: { order: 1 }' });
    expect((await run(cwd, ['put', 'a', '1', '--db', 'data'])).code).toBe(2);
    expect(existsSync(join(cwd, 'data'))).toBe(false);
  });

  test('a store that is read only in the file refuses writes', async () => {
    const cwd = directoryWith();
    expect((await run(cwd, ['put', 'a', '1', '--db', 'data'])).code).toBe(0);
    const refused = await run(cwd, ['put', 'a', '2', '--db', 'data', '--set', 'store.readOnly=true', '--json']);
    expect(JSON.parse(refused.stderr)).toMatchObject({ error: { code: 'ERR_READ_ONLY' } });
  });
});

describe('serve', () => {
  interface Line {
    readonly msg: string;
    readonly changes?: { key: string; from: unknown; to: unknown }[];
    readonly reason?: string;
  }

  class Server {
    readonly lines: Line[] = [];
    readonly child: ChildProcess;
    #rest = '';

    constructor(cwd: string, args: readonly string[]) {
      this.child = start(cwd, ['serve', '--port', '0', '--threads', '1', ...args]);
      this.child.stdout!.on('data', (chunk: Buffer) => {
        const parts = (this.#rest + chunk.toString()).split('\n');
        this.#rest = parts.pop()!;
        for (const part of parts) this.lines.push(JSON.parse(part) as Line);
      });
    }

    async until(isWanted: (line: Line) => boolean): Promise<Line> {
      for (let i = 0; i < 12_000; i++) {
        const found = this.lines.find(isWanted);
        if (found !== undefined) return found;
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      throw new Error(`not among ${JSON.stringify(this.lines)}`);
    }

    async end(): Promise<number | null> {
      this.child.kill('SIGTERM');
      return (await finish(this.child)).code;
    }
  }

  test('takes its limits from the file, and refuses encodings that HTTP cannot carry', async () => {
    const cwd = directoryWith({ 'concordkv.yaml': 'store: { directory: d, valueEncoding: json }\nhttp: { port: 99 }' });
    expect(await run(cwd, ['serve'])).toMatchObject({
      code: 2,
      stderr: 'concordkv: store.valueEncoding is json (concordkv.yaml:1): serve needs binary\n',
    });
    writeFileSync(join(cwd, 'concordkv.yaml'), 'store: { directory: d }\nhttp: { bodyBytesMax: 10 }');
    const server = new Server(cwd, []);
    try {
      const { url } = (await server.until(({ msg }) => msg === 'listening')) as Line & { url: string };
      const put = (body: string): Promise<number> =>
        fetch(`${url}/v1/kv/a`, { method: 'PUT', body }).then(({ status }) => status);
      expect(await put('0123456789')).toBe(204);
      expect(await put('0123456789a')).toBe(413);
    } finally {
      expect(await server.end()).toBe(0);
    }
  });

  test('tells of keys that need a restart, when the file changes and on SIGHUP, and goes on with a wrong file', async () => {
    const cwd = directoryWith({ 'concordkv.yaml': 'store: { directory: d }' });
    const server = new Server(cwd, []);
    // In one step: the server must not read a file that is only begun.
    const write = (text: string): void => {
      writeFileSync(join(cwd, 'next.yaml'), text);
      renameSync(join(cwd, 'next.yaml'), join(cwd, 'concordkv.yaml'));
    };
    try {
      await server.until(({ msg }) => msg === 'listening');
      write('store: { directory: d, memoryBytes: 32MiB }');
      const held = await server.until(({ msg }) => msg === 'configuration changed; a restart is needed for these');
      expect(held.changes).toEqual([{ key: 'store.memoryBytes', from: 2 ** 30, to: 32 << 20 }]);
      write('store: { directory: d, memoryBytes: 1 }');
      server.child.kill('SIGHUP');
      const failed = await server.until(({ msg }) => msg === 'configuration not changed');
      expect(failed.reason).toContain('store.memoryBytes is 1 (concordkv.yaml:1)');
    } finally {
      expect(await server.end()).toBe(0);
    }
  });
});
