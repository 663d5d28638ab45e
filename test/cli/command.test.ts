import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { CLI, finish, run, start, temporaryDirectory } from './command.js';

const directory = temporaryDirectory();
let number = 0;
const fresh = (): string => join(directory, `db-${++number}`);
const COMMANDS = ['load', 'get', 'put', 'del', 'scan', 'stats', 'verify', 'serve'];

function jsonLines(text: string): unknown[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as unknown);
}

describe.concurrent('help and usage', () => {
  test('the help names every command and every exit code', async () => {
    const { code, stdout } = await run(['--help']);
    expect(code).toBe(0);
    for (const command of COMMANDS) expect(stdout).toContain(`\n  ${command} `);
    for (const exit of ['0  done', '1  failed', '2  wrong', '3  get', '4  verify', '130, 143'])
      expect(stdout).toContain(exit);
  });

  test.each(COMMANDS)('the help of %s has examples', async (command) => {
    const { code, stdout } = await run([command, '--help']);
    expect(code).toBe(0);
    expect(stdout).toContain('Examples:\n  $ ');
  });

  test('the version is that of the package', async () => {
    const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
      version: string;
    };
    expect(await run(['--version'])).toMatchObject({ code: 0, stdout: `${version}\n` });
  });

  test.each([
    ['no command', []],
    ['an unknown command', ['scann', '--db', 'x']],
    ['no --db', ['get', 'a']],
    ['an unknown option', ['get', 'a', '--db', 'x', '--bd', 'y']],
    ['a limit that is no count', ['scan', '--db', 'x', '--limit', '-1']],
    ['a size that is none', ['stats', '--db', 'x', '--memory', 'much']],
    ['a format that does not follow from the name', ['load', 'file.txt', '--db', 'x']],
    ['two contradicting conditions', ['put', 'a', 'b', '--db', 'x', '--if-absent', '--if-version', '1']],
  ])('%s ends with 2 and changes nothing', async (_what, args) => {
    const { code, stdout, stderr } = await run(args);
    expect(code).toBe(2);
    expect(stdout).toBe('');
    expect(stderr).not.toBe('');
  });

  test('a usage error is one line, or JSON on stderr with --json', async () => {
    expect((await run(['get', 'a'])).stderr).toMatch(/^concordkv: [^\n]+\n$/);
    const { stderr } = await run(['get', 'a', '--json']);
    expect(JSON.parse(stderr)).toEqual({
      error: { code: 'ERR_USAGE', message: expect.stringContaining('--db') as string },
    });
  });
});

describe.concurrent('entries', () => {
  test('a value that was put is got, until it is deleted', async () => {
    const db = fresh();
    expect(await run(['put', 'greeting', 'hello', '--db', db])).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect(await run(['get', 'greeting', '--db', db])).toMatchObject({ code: 0, stdout: 'hello\n' });
    expect(await run(['del', 'greeting', 'other', '--db', db, '--json'])).toMatchObject({
      code: 0,
      stdout: '{"deleted":1,"absent":1}\n',
    });
    const absent = await run(['get', 'greeting', '--db', db, '--json']);
    expect(absent).toMatchObject({ code: 3, stdout: '' });
    expect(JSON.parse(absent.stderr)).toMatchObject({ error: { code: 'ERR_KEY_ABSENT' } });
  });

  test('commands that only read do not create a store', async () => {
    const db = fresh();
    for (const args of [['get', 'a'], ['scan'], ['stats'], ['verify'], ['del', 'a']]) {
      const { code, stderr } = await run([...args, '--db', db, '--json']);
      expect(code).toBe(1);
      expect(JSON.parse(stderr)).toMatchObject({ error: { code: 'ERR_NOT_FOUND' } });
    }
    expect(existsSync(db)).toBe(false);
  });

  test('conditions that do not hold end with 4 and write nothing', async () => {
    const db = fresh();
    expect((await run(['put', 'a', '1', '--db', db, '--if-absent'])).code).toBe(0);
    expect((await run(['put', 'a', '2', '--db', db, '--if-absent'])).code).toBe(4);
    const { version } = JSON.parse((await run(['get', 'a', '--db', db, '--json'])).stdout) as { version: number };
    expect((await run(['put', 'a', '3', '--db', db, '--if-version', String(version + 1)])).code).toBe(4);
    expect((await run(['put', 'a', '4', '--db', db, '--if-version', String(version)])).code).toBe(0);
    expect((await run(['get', 'a', '--db', db])).stdout).toBe('4\n');
  });

  test('binary values come back byte for byte, from files, hex and base64', async () => {
    const db = fresh();
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
    const file = join(directory, 'bytes.bin');
    writeFileSync(file, bytes);
    const encodings = ['--key-encoding', 'binary', '--value-encoding', 'binary'];
    expect((await run(['put', 'hex:00ff', '--file', file, '--db', db, ...encodings])).code).toBe(0);
    expect((await run(['get', 'base64:AP8=', '--db', db])).bytes.equals(bytes)).toBe(true);
    expect((await run(['put', 'b', 'hex:0a0b', '--db', db])).code).toBe(0);
    expect((await run(['put', 'c', '--db', db], bytes)).code).toBe(0);
    expect((await run(['get', 'c', '--db', db])).bytes.equals(bytes)).toBe(true);
    expect(jsonLines((await run(['scan', '--db', db, '--json', '--gte', 'hex:62', '--lt', 'c'])).stdout)).toEqual([
      { key: 'base64:Yg==', value: 'base64:Cgs=' },
    ]);
    expect((await run(['get', 'hex:0', '--db', db])).code).toBe(2);
  });

  test('bytes that are no text are stored as they are or not at all', async () => {
    const bytes = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0xff, 0x00]);
    const file = join(directory, 'logo.png');
    writeFileSync(file, bytes);
    const db = fresh();
    expect((await run(['put', 'logo', '--file', file, '--db', db])).code).toBe(0);
    expect((await run(['get', 'logo', '--db', db])).bytes).toEqual(bytes);
    const texts = fresh();
    await run(['put', 'a', 'text', '--db', texts]);
    const refused = await run(['put', 'a', '--db', texts, '--json'], bytes);
    expect(refused.code).toBe(1);
    expect(JSON.parse(refused.stderr)).toMatchObject({ error: { code: 'ERR_INPUT' } });
    expect((await run(['get', 'a', '--db', texts])).stdout).toBe('text\n');
    const missing = await run(['put', 'a', '--file', join(directory, 'nothing'), '--db', texts, '--json']);
    expect(JSON.parse(missing.stderr)).toMatchObject({ error: { code: 'ERR_INPUT' } });
  });

  test('tuple keys with every element type survive scan --json and load', async () => {
    const [from, to] = [fresh(), fresh()];
    const keys = [
      '[null]',
      '[false]',
      '[-1.5]',
      '[{"$bigint":"12345678901234567890"}]',
      '["a",["b",1]]',
      '[{"$bytes":"AP8="}]',
      '[{"$date":"2026-01-02T03:04:05.678Z"}]',
    ];
    for (const key of keys) {
      const { code, stderr } = await run([
        'put',
        key,
        '{"of":[1,"ü"]}',
        '--db',
        from,
        '--key-encoding',
        'tuple',
        '--value-encoding',
        'json',
      ]);
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    }
    const scanned = await run(['scan', '--db', from, '--json']);
    expect(jsonLines(scanned.stdout)).toHaveLength(keys.length);
    expect(
      await run(['load', '-', '--format', 'ndjson', '--db', to, '--key-encoding', 'tuple'], scanned.stdout),
    ).toMatchObject({ code: 0 });
    expect((await run(['scan', '--db', to, '--json'])).stdout).toBe(scanned.stdout);
    expect((await run(['get', 'a', '--db', to])).code).toBe(2);
    expect((await run(['get', '"a"', '--db', to])).code).toBe(2);
  });

  test('scan gives ranges, forwards and backwards, limited, keys only, counted', async () => {
    const db = fresh();
    const lines = ['a', 'b', 'ba', 'bb', 'c']
      .map((key) => `{"key":"${key}","value":"${key.toUpperCase()}"}`)
      .join('\n');
    expect((await run(['load', '-', '--format', 'ndjson', '--db', db, '--value-encoding', 'utf8'], lines)).code).toBe(
      0,
    );
    const scan = async (...args: string[]): Promise<string> => (await run(['scan', '--db', db, ...args])).stdout;
    expect(await scan('--limit', '2')).toBe('a\tA\nb\tB\n');
    expect(await scan('--prefix', 'b', '--reverse', '--keys-only')).toBe('bb\nba\nb\n');
    expect(await scan('--gt', 'b', '--lte', 'bb', '--keys-only')).toBe('ba\nbb\n');
    expect(await scan('--gte', 'b', '--lt', 'bb', '--keys-only')).toBe('b\nba\n');
    expect(await scan('--count')).toBe('5\n');
    expect(await scan('--count', '--json', '--prefix', 'x')).toBe('{"count":0}\n');
  });

  test('a reader that goes away is a normal end of scan', async () => {
    const db = fresh();
    const lines = Array.from({ length: 20_000 }, (_, n) => `{"key":"key-${n}","value":"${'v'.repeat(50)}"}`).join('\n');
    expect((await run(['load', '-', '--format', 'ndjson', '--db', db], lines)).code).toBe(0);
    const child = start(['scan', '--db', db]);
    child.stdout!.once('data', () => child.stdout!.destroy());
    expect(await finish(child)).toMatchObject({ code: 0, stderr: '' });
  });

  test.skipIf(!existsSync('/dev/full'))('a disk without room for the output is one line', async () => {
    const db = fresh();
    await run(['put', 'a', 'value', '--db', db]);
    const full = openSync('/dev/full', 'w');
    for (const command of [['scan'], ['get', 'a']]) {
      const { code, stderr } = await finish(start([...command, '--db', db], full));
      expect(code).toBe(1);
      expect(stderr).toMatch(/^concordkv: [^\n]*standard output[^\n]*\n$/);
    }
    closeSync(full);
  });

  test('stats counts the entries', async () => {
    const db = fresh();
    await run(['put', 'a', '1', '--db', db]);
    await run(['put', 'b', '2', '--db', db]);
    expect(JSON.parse((await run(['stats', '--db', db, '--json'])).stdout)).toMatchObject({ entries: 2 });
    expect((await run(['stats', '--db', db])).stdout).toContain('entries: 2\n');
    expect((await run(['stats', '--db', db, '--prometheus'])).stdout).toMatch(/^concordkv_\w+/m);
  });
});

describe.concurrent('load', () => {
  test('a bad NDJSON line ends the load with its number; the records before it are stored', async () => {
    const db = fresh();
    const file = join(directory, 'bad.ndjson');
    writeFileSync(
      file,
      '{"key":"a","value":1}\r\n\n{"key":"b","value":2}\n{"key":"c","value":\n{"key":"d","value":4}\n',
    );
    const failed = await run(['load', file, '--db', db]);
    expect(failed.code).toBe(1);
    expect(failed.stderr).toMatch(/^concordkv: .*bad\.ndjson:4: not JSON: .*\(2 records before it are stored\)\n$/);
    expect((await run(['scan', '--db', db, '--keys-only'])).stdout).toBe('a\nb\n');
  });

  test('--skip-bad goes on, names each bad line and counts them', async () => {
    const db = fresh();
    const lines = [
      '\ufeff{"key":"a","value":1}',
      '[1]',
      '{"value":2}',
      '{"key":{"x":1},"value":2}',
      'nonsense',
      '{"key":"z","value":26}',
    ];
    const { code, stdout, stderr } = await run(
      ['load', '-', '--format', 'ndjson', '--db', db, '--skip-bad', '--json'],
      lines.join('\n'),
    );
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ records: 2, entries: 2, skipped: 4, interrupted: false });
    expect([...stderr.matchAll(/stdin:(\d+):/g)].map((match) => match[1])).toEqual(['2', '3', '4', '5']);
    expect((await run(['scan', '--db', db, '--keys-only'])).stdout).toBe('a\nz\n');
  });

  test('invalid UTF-8 is a bad line', async () => {
    const input = Buffer.concat([Buffer.from('{"key":"a","value":"'), Buffer.from([0xff]), Buffer.from('"}\n')]);
    const { code, stderr } = await run(['load', '-', '--format', 'ndjson', '--db', fresh()], input);
    expect(code).toBe(1);
    expect(stderr).toContain('stdin:1: not valid UTF-8');
  });

  test('invalid UTF-8 in CSV is a bad line: the records before it are stored, --skip-bad goes on behind it', async () => {
    const db = fresh();
    const csv = Buffer.from('\ufeffid,größe\n1,ä\n2,?\n3,"€,\nü"\n4,€');
    csv[csv.indexOf('?')] = 0xff;
    const args = ['load', '-', '--format', 'csv', '--db', db, '--key', 'id'];
    const failed = await run(args, csv);
    expect(failed.code).toBe(1);
    expect(failed.stderr).toBe('concordkv: stdin:3: not valid UTF-8 (1 records before it are stored)\n');
    expect((await run(['scan', '--db', db, '--keys-only'])).stdout).toBe('1\n');
    const skipped = await run([...args, '--skip-bad', '--json'], csv.subarray(0, -1));
    expect(skipped.code).toBe(0);
    expect(skipped.stderr).toMatch(/^concordkv: skipped stdin:3: .*\nconcordkv: skipped stdin:6: .*\n$/);
    expect(jsonLines((await run(['scan', '--db', db, '--json'])).stdout)).toEqual([
      { key: '1', value: { id: '1', größe: 'ä' } },
      { key: '3', value: { id: '3', größe: '€,\nü' } },
    ]);
    const header = await run([...args, '--skip-bad'], csv.subarray(0, 9));
    expect(header).toMatchObject({ code: 1 });
    expect(header.stderr).toBe('concordkv: stdin: the names of the columns are not valid UTF-8\n');
  });

  test('a file that cannot be opened or read is one line that names it', async () => {
    const socket = join(directory, 'socket');
    const server = createServer().listen(socket);
    await once(server, 'listening');
    const failed = await run(['load', socket, '--format', 'ndjson', '--db', fresh(), '--json']);
    server.close();
    expect(failed.code).toBe(1);
    expect(JSON.parse(failed.stderr)).toEqual({
      error: { code: 'ERR_INPUT', message: expect.stringContaining(`${socket}: ENXIO`) as string },
    });
  });

  test('lines longer than a read, with characters across its edges, arrive whole', async () => {
    const db = fresh();
    const file = join(directory, 'long.ndjson');
    const value = 'ü€😀'.repeat(60_000);
    writeFileSync(file, [1, 2, 3].map((n) => JSON.stringify({ key: `k${n}`, value: value + n })).join('\n'));
    expect((await run(['load', file, '--db', db])).code).toBe(0);
    const { stdout } = await run(['get', 'k2', '--db', db, '--json']);
    expect((JSON.parse(stdout) as { value: string }).value === value + 2).toBe(true);
  });

  test('CSV records have quoted newlines, numbers, and bad ones their line', async () => {
    const db = fresh();
    const csv = 'id,name,pop\r\n1,"Köln, am\nRhein",5\r\n2,Berlin,x\r\n3,too,many,fields\r\n4,Bonn,7\r\n';
    const args = ['load', '-', '--format', 'csv', '--db', db, '--key', 'id', '--number', 'pop'];
    const failed = await run(args, csv);
    expect(failed.code).toBe(1);
    expect(failed.stderr).toContain('stdin:4: "pop" is not a number: "x"');
    const skipped = await run([...args, '--skip-bad', '--json'], csv);
    expect(JSON.parse(skipped.stdout)).toMatchObject({ records: 2, skipped: 2 });
    expect(skipped.stderr).toMatch(/stdin:4:.*\n.*stdin:5:/);
    expect(jsonLines((await run(['scan', '--db', db, '--json'])).stdout)).toEqual([
      { key: '1', value: { id: '1', name: 'Köln, am\nRhein', pop: 5 } },
      { key: '4', value: { id: '4', name: 'Bonn', pop: 7 } },
    ]);
  });

  test('the line of a bad CSV record is the one it begins on, whatever ends lines inside of quotes', async () => {
    for (const end of ['\n', '\r\n']) {
      const rows = ['id,pop', '1,"a', 'b', 'c"', '2,x', '3,"p', 'q",many', '4,"y', 'z"', '5,6', ''];
      const args = ['load', '-', '--format', 'csv', '--db', fresh(), '--key', 'id', '--number', 'pop', '--skip-bad'];
      const { code, stderr } = await run(args, rows.join(end));
      expect(code).toBe(0);
      expect([...stderr.matchAll(/stdin:(\d+):/g)].map(([, line]) => Number(line))).toEqual([2, 5, 6, 8]);
    }
  });

  test('a directory as standard input is an error, not an end of input', () => {
    const db = fresh();
    for (const args of [
      ['load', '-', '--format', 'ndjson'],
      ['put', 'key'],
    ]) {
      const descriptor = openSync(directory, 'r');
      const ended = spawnSync(process.execPath, [CLI, ...args, '--db', db], {
        stdio: [descriptor, 'pipe', 'pipe'],
        encoding: 'utf8',
      });
      closeSync(descriptor);
      expect(ended).toMatchObject({ status: 1, stderr: 'concordkv: stdin: is a directory\n' });
    }
  });

  test('several key fields make tuple keys, and --order-by an order to scan', async () => {
    const db = fresh();
    const cities = [
      { country: 'DE', name: 'Bonn', at: { id: 2 }, population: 330 },
      { country: 'FR', name: 'Lyon', at: { id: 3 }, population: 520 },
      { country: 'DE', name: 'Köln', at: { id: 1 }, population: 1080 },
    ];
    const lines = cities.map((city) => JSON.stringify(city)).join('\n');
    const args = [
      'load',
      '-',
      '--format',
      'ndjson',
      '--db',
      db,
      '--key',
      'country,name,at.id',
      '--order-by',
      'population',
      '--shards',
      '2',
    ];
    expect(JSON.parse((await run([...args, '--json'], lines)).stdout)).toMatchObject({ records: 3, entries: 6 });
    expect(JSON.parse((await run(['get', '["DE","Köln",1]', '--db', db, '--json'])).stdout)).toMatchObject({
      value: cities[2],
    });
    const order = await run([
      'scan',
      '--db',
      db,
      '--prefix',
      '["@order","population"]',
      '--reverse',
      '--limit',
      '2',
      '--keys-only',
    ]);
    expect(jsonLines(order.stdout)).toEqual([
      ['@order', 'population', 1080, 'DE', 'Köln', 1],
      ['@order', 'population', 520, 'FR', 'Lyon', 3],
    ]);
  });

  test('SIGINT ends a load in order: exit 130, and everything it counted is there', async () => {
    const db = fresh();
    const child = start(['load', '-', '--format', 'ndjson', '--db', db, '--json']);
    child.stdin!.on('error', () => undefined);
    const ended = finish(child);
    let next = 0;
    const feed = setInterval(() => {
      // Once the store is there, the command is past its start.
      if (!existsSync(join(db, 'MANIFEST'))) return;
      for (let n = 0; n < 200; n++) child.stdin!.write(`{"key":"k${next++}","value":"v"}\n`);
      if (next === 2000) child.kill('SIGINT');
    }, 20);
    const { code, stdout } = await ended;
    clearInterval(feed);
    expect(code).toBe(130);
    const result = JSON.parse(stdout) as { records: number; interrupted: boolean };
    expect(result.interrupted).toBe(true);
    expect((await run(['scan', '--db', db, '--count', '--json'])).stdout).toBe(`{"count":${result.records}}\n`);
    expect(await run(['verify', '--db', db])).toMatchObject({ code: 0, stdout: 'ok\n' });
  });

  test('a missing file is one line that names it', async () => {
    const { code, stderr } = await run(['load', '/no/such/file.csv', '--db', fresh()]);
    expect(code).toBe(1);
    expect(stderr).toBe('concordkv: /no/such/file.csv: there is no such file\n');
  });
});

describe.concurrent('verify', () => {
  test('a damaged file ends with 4 and is named', async () => {
    const db = fresh();
    // More than one group holds: a frame with nothing behind it would be a torn tail.
    const lines = Array.from({ length: 10_000 }, (_, n) => `{"key":"key-${n}","value":"${'v'.repeat(100)}"}`).join(
      '\n',
    );
    expect((await run(['load', '-', '--format', 'ndjson', '--db', db, '--shards', '1'], lines)).code).toBe(0);
    expect(await run(['verify', '--db', db, '--json'])).toMatchObject({ code: 0 });
    const [log] = readdirSync(join(db, 'shard-0000')).filter((name) => name.endsWith('.log'));
    const file = join(db, 'shard-0000', log!);
    const bytes = readFileSync(file);
    // In the middle of what was written: later frames prove that this one was synced.
    bytes[50_000]! ^= 0xff;
    writeFileSync(file, bytes);
    const { code, stdout } = await run(['verify', '--db', db, '--json']);
    expect(code).toBe(4);
    const report = JSON.parse(stdout) as { ok: boolean; problems: unknown[] };
    expect(report.ok).toBe(false);
    expect(JSON.stringify(report.problems)).toContain(log);
  });
});
