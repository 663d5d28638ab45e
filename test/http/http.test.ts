import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { temporaryDirectory } from '../cli/command.js';
import { Raw, errorOf, exchange, serve } from './server.js';
import type { Server } from './server.js';

const directory = temporaryDirectory();
const MAX_BODY = 1024 * 1024;
let server: Server;

beforeAll(async () => {
  server = await serve(join(directory, 'main'), ['--threads', '2', '--max-body', String(MAX_BODY)]);
});

afterAll(async () => {
  expect(await server.stop()).toBe(0);
  expect(server.log.filter(({ level }) => (level as number) >= 50)).toEqual([]);
});

const keyUrl = (key: string): string => `${server.url}/v1/kv/${encodeURIComponent(key)}`;
const put = (key: string, body: string | Uint8Array, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(keyUrl(key), { method: 'PUT', body: body as BodyInit, headers });
const bodyOf = async (key: string): Promise<Buffer> => Buffer.from(await (await fetch(keyUrl(key))).arrayBuffer());

describe('one key', () => {
  test('any text is a key and any bytes are a value', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.string({ unit: 'grapheme', maxLength: 40 }).filter((key) => key !== '.' && key !== '..'),
        fc.uint8Array({ maxLength: 300 }),
        async (key, value) => {
          expect((await put(key, value)).status).toBe(204);
          const response = await fetch(keyUrl(key));
          expect(response.status).toBe(200);
          expect(response.headers.get('content-type')).toBe('application/octet-stream');
          expect(Buffer.from(await response.arrayBuffer()).equals(Buffer.from(value))).toBe(true);
          expect((await fetch(keyUrl(key), { method: 'DELETE' })).status).toBe(204);
          expect(await errorOf(await fetch(keyUrl(key)))).toEqual({ status: 404, code: 'ERR_KEY_ABSENT' });
        },
      ),
      { numRuns: 60 },
    );
  });

  test('a key may hold slashes, encoded or not, and dots', async () => {
    await put('a/b', 'slash');
    expect(await (await fetch(`${server.url}/v1/kv/a/b`)).text()).toBe('slash');
    const answer = await exchange(
      server.port,
      'PUT /v1/kv/x/../y HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nconnection: close\r\n\r\nv',
    );
    expect(answer).toMatch(/^HTTP\/1\.1 204 /);
    expect((await bodyOf('x/../y')).toString()).toBe('v');
  });

  test('no content type changes or refuses the bytes', async () => {
    for (const type of ['application/json', 'text/plain; charset=utf-16', ';;;nonsense', 'multipart/form-data']) {
      expect((await put('typed', '{"not json', { 'content-type': type })).status).toBe(204);
      expect((await bodyOf('typed')).toString()).toBe('{"not json');
    }
  });

  test('a chunked body is stored whole', async () => {
    const chunks =
      'PUT /v1/kv/chunked HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n';
    expect(await exchange(server.port, chunks)).toMatch(/^HTTP\/1\.1 204 /);
    expect((await bodyOf('chunked')).toString()).toBe('abcde');
  });

  test('a body that comes byte by byte is stored whole', async () => {
    const raw = await Raw.open(server.port);
    raw.socket.setNoDelay(true);
    raw.socket.write('PUT /v1/kv/drops HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n');
    for (const byte of 'drops') {
      raw.socket.write(byte);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await raw.until(/^HTTP\/1\.1 204 /);
    raw.socket.destroy();
    expect((await bodyOf('drops')).toString()).toBe('drops');
  });

  test.each(['GET', 'HEAD', 'DELETE'])(
    'a body sent with %s is passed over, and the next request served',
    async (method) => {
      await put('passed', 'over');
      const requests =
        `${method} /v1/kv/passed HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n${'GET '.repeat(25_000)}` +
        'GET /livez HTTP/1.1\r\nhost: x\r\n\r\n';
      const answer = await exchange(server.port, requests);
      expect(answer.match(/HTTP\/1\.1 \d+/g)).toEqual([
        method === 'DELETE' ? 'HTTP/1.1 204' : 'HTTP/1.1 200',
        'HTTP/1.1 200',
      ]);
      expect(answer).toMatch(/ok\n$/);
    },
  );

  test('a target that names the server is the same key', async () => {
    const target = `http://127.0.0.1:${server.port}/v1/kv/absolute`;
    const head = `PUT ${target} HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nconnection: close\r\n\r\nform`;
    expect(await exchange(server.port, head)).toMatch(/^HTTP\/1\.1 204 /);
    expect((await bodyOf('absolute')).toString()).toBe('form');
  });

  test('a large body arrives byte for byte', async () => {
    const value = Buffer.alloc(MAX_BODY, 'concordkv ');
    expect((await put('large', value)).status).toBe(204);
    expect((await bodyOf('large')).equals(value)).toBe(true);
  });

  test('HEAD tells length and version without the value', async () => {
    await put('head', 'twelve bytes');
    const [get, head] = await Promise.all([fetch(keyUrl('head')), fetch(keyUrl('head'), { method: 'HEAD' })]);
    expect(head.status).toBe(200);
    expect(head.headers.get('content-length')).toBe('12');
    expect(head.headers.get('etag')).toBe(get.headers.get('etag'));
    expect(await head.text()).toBe('');
    expect((await fetch(keyUrl('no head'), { method: 'HEAD' })).status).toBe(404);
  });

  test('DELETE of an absent key is 404', async () => {
    expect(await errorOf(await fetch(keyUrl('never'), { method: 'DELETE' }))).toEqual({
      status: 404,
      code: 'ERR_KEY_ABSENT',
    });
  });
});

describe('conditions and durability', () => {
  test('If-None-Match: * creates once', async () => {
    expect((await put('once', '1', { 'if-none-match': '*' })).status).toBe(204);
    expect(await errorOf(await put('once', '2', { 'if-none-match': '*' }))).toEqual({
      status: 412,
      code: 'ERR_PRECONDITION',
    });
    expect((await bodyOf('once')).toString()).toBe('1');
  });

  test('If-Match writes only over the version it names', async () => {
    await put('version', '1');
    const tag = (await fetch(keyUrl('version'))).headers.get('etag')!;
    expect((await put('version', '2', { 'if-match': tag })).status).toBe(204);
    expect((await put('version', '3', { 'if-match': tag })).status).toBe(412);
    expect((await fetch(keyUrl('version'), { method: 'DELETE', headers: { 'if-match': tag } })).status).toBe(412);
    const now = (await fetch(keyUrl('version'))).headers.get('etag')!;
    expect((await fetch(keyUrl('version'), { method: 'DELETE', headers: { 'if-match': now } })).status).toBe(204);
  });

  test('If-Match: * writes only over an existing key', async () => {
    expect((await put('exists', '1', { 'if-match': '*' })).status).toBe(412);
    await put('exists', '1');
    expect((await put('exists', '2', { 'if-match': '*' })).status).toBe(204);
    expect((await bodyOf('exists')).toString()).toBe('2');
  });

  test('GET with the ETag it knows is 304', async () => {
    await put('known', '1');
    const tag = (await fetch(keyUrl('known'))).headers.get('etag')!;
    const response = await fetch(keyUrl('known'), { headers: { 'if-none-match': `"0", ${tag}` } });
    expect([response.status, await response.text()]).toEqual([304, '']);
    await put('known', '2');
    expect((await fetch(keyUrl('known'), { headers: { 'if-none-match': tag } })).status).toBe(200);
  });

  test.each([
    ['If-Match that is no ETag', { 'if-match': 'yesterday' }, ''],
    ['If-Match that names no version', { 'if-match': '"0"' }, ''],
    ['If-Match with another writing of a version', { 'if-match': '"01"' }, ''],
    ['If-None-Match that is not *', { 'if-none-match': '"1"' }, ''],
    ['both conditions', { 'if-none-match': '*', 'if-match': '"1"' }, ''],
    ['an unknown durability', {}, '?durability=eventually'],
    ['an unknown parameter', {}, '?durabilty=os'],
    ['a parameter twice', {}, '?durability=os&durability=sync'],
  ])('%s is 400 and writes nothing', async (_what, headers, query) => {
    const response = await fetch(keyUrl('refused') + query, {
      method: 'PUT',
      body: 'x',
      headers: headers as Record<string, string>,
    });
    expect(await errorOf(response)).toEqual({ status: 400, code: 'ERR_INVALID_ARG' });
    expect((await fetch(keyUrl('refused'))).status).toBe(404);
  });

  test.each(['sync', 'os', 'memory'])('durability %s is accepted in the query and as a header', async (level) => {
    expect((await fetch(`${keyUrl('durable')}?durability=${level}`, { method: 'PUT', body: 'q' })).status).toBe(204);
    expect((await put('durable', 'h', { 'concordkv-durability': level })).status).toBe(204);
    expect((await bodyOf('durable')).toString()).toBe('h');
  });
});

describe('ranges', () => {
  const scan = async (query: string): Promise<unknown[]> => {
    const response = await fetch(`${server.url}/v1/kv?${query}`);
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe('application/x-ndjson; charset=utf-8');
    const text = await response.text();
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as unknown);
  };
  const keys = async (query: string): Promise<string[]> =>
    (await scan(query)).map((line) => (line as { key: string }).key);

  beforeAll(async () => {
    for (const key of ['r/a', 'r/b', 'r/b c', 'r/ü', 'r/z']) await put(key, key.toUpperCase());
    await put('s/bytes', Buffer.from([0xff, 0x00]));
  });

  test('bounds, prefix, direction and limit', async () => {
    expect(await keys('prefix=r/')).toEqual(['r/a', 'r/b', 'r/b c', 'r/z', 'r/ü']);
    expect(await keys('prefix=r%2F&reverse=true&limit=2')).toEqual(['r/ü', 'r/z']);
    expect(await keys('gt=r/a&lte=r/b+c')).toEqual(['r/b', 'r/b c']);
    expect(await keys('gte=r/a&lt=r/b&values=false')).toEqual(['r/a']);
    expect(await keys('prefix=r/&limit=0')).toEqual([]);
    expect(await keys('gte=z&lt=a')).toEqual([]);
  });

  test('values are base64, or text with those that are none marked', async () => {
    expect(await scan('prefix=r/a')).toEqual([{ key: 'r/a', value: Buffer.from('R/A').toString('base64') }]);
    expect(await scan('prefix=r/ü&encoding=utf8')).toEqual([{ key: 'r/ü', value: 'R/Ü' }]);
    expect(await scan('prefix=s/&encoding=utf8')).toEqual([{ key: 's/bytes', value: '/wA=', encoding: 'base64' }]);
    expect(await scan('prefix=r/a&values=false')).toEqual([{ key: 'r/a' }]);
  });

  test.each([
    'limit=-1',
    'limit=1e3',
    'limit=',
    'limit=99999999999999999999',
    'reverse=maybe',
    'encoding=hex',
    'prefx=a',
    'gte=a&gte=b',
    'gte=%zz',
    'gte=%ff',
  ])('%s is 400', async (query) => {
    expect(await errorOf(await fetch(`${server.url}/v1/kv?${query}`))).toEqual({
      status: 400,
      code: 'ERR_INVALID_ARG',
    });
  });

  test('a client that leaves in the middle of a scan holds nothing behind', async () => {
    const value = Buffer.alloc(64 * 1024, 'x');
    await Promise.all(Array.from({ length: 200 }, (_, n) => put(`big/${String(n).padStart(3, '0')}`, value)));
    const openSnapshots = async (): Promise<number> => {
      const text = await (await fetch(`${server.url}/metrics`)).text();
      return Number(/^concordkv_snapshots(?:\{[^}]*\})? (\d+)/m.exec(text)?.[1] ?? NaN);
    };
    await expect.poll(openSnapshots).toBe(0);
    const raws = await Promise.all(Array.from({ length: 4 }, () => Raw.open(server.port)));
    for (const raw of raws) {
      // At once: who reads on for a moment may have read it all.
      const isBegun = (): boolean => raw.text.includes('"key":"big/000"');
      raw.socket.on('data', () => isBegun() && raw.socket.pause());
      raw.socket.write('GET /v1/kv?prefix=big/ HTTP/1.1\r\nhost: x\r\n\r\n');
      await expect.poll(isBegun).toBe(true);
    }
    expect(await openSnapshots()).toBe(4);
    for (const raw of raws) raw.socket.destroy();
    await expect.poll(openSnapshots).toBe(0);
  });
});

describe('hostile input', () => {
  test.each(['%', '%z1', '%ff', '%c3%28', 'a%2'])('the key %s is 400', async (raw) => {
    const answer = await exchange(server.port, `GET /v1/kv/${raw} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`);
    expect(answer).toMatch(/^HTTP\/1\.1 400 /);
    expect(answer).toContain('"code":"ERR_INVALID_ARG"');
  });

  test('raw bytes outside of ASCII do not become another key', async () => {
    const answer = await exchange(server.port, 'GET /v1/kv/\xc3\xbc HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n');
    expect(answer).toMatch(/^HTTP\/1\.1 400 /);
  });

  test('a key longer than the limit is 414, a longer header 431', async () => {
    expect(await errorOf(await fetch(keyUrl('k'.repeat(4097))))).toEqual({ status: 414, code: 'ERR_KEY_TOO_LARGE' });
    expect((await put('k'.repeat(4096), 'fits')).status).toBe(204);
    const answer = await exchange(server.port, `GET /v1/kv/${'k'.repeat(40_000)} HTTP/1.1\r\nhost: x\r\n\r\n`);
    expect(answer).toMatch(/^HTTP\/1\.1 431 /);
    expect(answer).toContain('"code":"ERR_HEADER_TOO_LARGE"');
  });

  test('a body longer than the limit is 413, declared or chunked, and nothing is stored', async () => {
    const declared = await exchange(
      server.port,
      `PUT /v1/kv/over HTTP/1.1\r\nhost: x\r\ncontent-length: ${MAX_BODY + 1}\r\n\r\n`,
    );
    expect(declared).toMatch(/^HTTP\/1\.1 413 /);
    expect(declared).toContain('"code":"ERR_BODY_TOO_LARGE"');
    const raw = await Raw.open(server.port);
    raw.socket.write('PUT /v1/kv/over HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n');
    const chunk = `10000\r\n${'x'.repeat(65_536)}\r\n`;
    for (let n = 0; n < 17; n++) raw.socket.write(chunk);
    await raw.until(/^HTTP\/1\.1 413 /);
    raw.socket.destroy();
    expect((await fetch(keyUrl('over'))).status).toBe(404);
  });

  test('a body cut short is not stored', async () => {
    const raw = await Raw.open(server.port);
    raw.socket.write('PUT /v1/kv/cut HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nonly this');
    await new Promise((resolve) => setTimeout(resolve, 50));
    raw.socket.destroy();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect((await fetch(keyUrl('cut'))).status).toBe(404);
  });

  test('a client that has finished sending still gets its answer', async () => {
    await put('half', 'closed');
    expect(await exchange(server.port, 'GET /v1/kv/half HTTP/1.1\r\nhost: x\r\n\r\n')).toMatch(
      /^HTTP\/1\.1 200 [\s\S]*closed$/,
    );
  });

  test('a request that does not arrive in time is 408', async () => {
    // A server of its own: no other test's requests have to arrive in this time.
    const hasty = await serve(join(directory, 'hasty'), ['--threads', '1', '--request-timeout', '5s']);
    const raw = await Raw.open(hasty.port);
    raw.socket.write('GET /v1/kv/slow HTTP/1.1\r\nhost:');
    expect(await raw.until(/\r\n\r\n/)).toMatch(/^HTTP\/1\.1 408 [\s\S]*"code":"ERR_REQUEST_TIMEOUT"/);
    raw.socket.destroy();
    expect(await hasty.stop()).toBe(0);
  });

  test('bytes that are not HTTP are 400', async () => {
    expect(await exchange(server.port, '\x00\x01\x02 nonsense\r\n\r\n')).toMatch(
      /^HTTP\/1\.1 400 [\s\S]*"code":"ERR_HTTP_SYNTAX"/,
    );
    const smuggled =
      'PUT /v1/kv/s HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n';
    expect(await exchange(server.port, smuggled)).toMatch(/^HTTP\/1\.1 400 /);
  });

  test('other methods are 405, other routes 404', async () => {
    const post = await fetch(keyUrl('a'), { method: 'POST', body: 'x' });
    expect(post.headers.get('allow')).toBe('GET, HEAD, PUT, DELETE');
    expect(await errorOf(post)).toEqual({ status: 405, code: 'ERR_METHOD' });
    const range = await fetch(`${server.url}/v1/kv?limit=1`, { method: 'DELETE' });
    expect(range.headers.get('allow')).toBe('GET');
    expect(await errorOf(range)).toEqual({ status: 405, code: 'ERR_METHOD' });
    expect(await errorOf(await fetch(`${server.url}/v2/kv/a`))).toEqual({ status: 404, code: 'ERR_ROUTE' });
  });

  test('pipelined requests are answered in order', async () => {
    await put('p1', 'first');
    await put('p2', 'second');
    const requests = ['p1', 'p2', 'p1'].map((key) => `GET /v1/kv/${key} HTTP/1.1\r\nhost: x\r\n\r\n`).join('');
    expect((await exchange(server.port, requests)).match(/first|second/g)).toEqual(['first', 'second', 'first']);
  });
});

describe('operation', () => {
  test('/livez and /readyz are 200, /metrics is Prometheus text of store and server', async () => {
    expect((await fetch(`${server.url}/livez`)).status).toBe(200);
    expect((await fetch(`${server.url}/readyz`)).status).toBe(200);
    const text = await (await fetch(`${server.url}/metrics`)).text();
    expect(text).toMatch(/^concordkv_http_requests_total\{operation="put",status="2xx"\} [1-9]/m);
    expect(text).toMatch(/^concordkv_entries/m);
    const names = [...text.matchAll(/^# TYPE (\S+)/gm)].map((match) => match[1]);
    expect(new Set(names).size).toBe(names.length);
  });

  test('it listens on loopback only', () => {
    expect(server.url).toMatch(/^http:\/\/127\.0\.0\.1:/);
  });

  test('every thread serves, and they show each other their writes', async () => {
    const many = await serve(join(directory, 'threads'), ['--threads', '3']);
    const raws: Raw[] = [];
    const busy = (text: string): number =>
      [...text.matchAll(/^concordkv_http_connections\{thread="\d+"\} [1-9]/gm)].length;
    let text = '';
    for (let n = 0; n < 600 && busy(text) < 3; n++) {
      const raw = await Raw.open(many.port);
      raws.push(raw);
      raw.socket.write(`PUT /v1/kv/by-${n} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx`);
      await raw.until(/^HTTP\/1\.1 204 /);
      if (n % 10 === 9) text = await (await fetch(`${many.url}/metrics`)).text();
    }
    expect(busy(text)).toBe(3);
    for (const [n, raw] of raws.entries()) {
      raw.text = '';
      raw.socket.write(`GET /v1/kv/by-${(n * 7) % raws.length} HTTP/1.1\r\nhost: x\r\n\r\n`);
      expect(await raw.until(/\r\n\r\nx$/)).toMatch(/^HTTP\/1\.1 200 /);
    }
    for (const raw of raws) raw.socket.destroy();
    expect(await many.stop()).toBe(0);
  });
});

describe('the end', () => {
  test('SIGTERM finishes the request in flight, refuses new connections, and what was answered is stored', async () => {
    const db = join(directory, 'drain');
    const ending = await serve(db, ['--threads', '2']);
    const slow = await Raw.halfPut(ending.port, 'slow');
    const idle = await Raw.open(ending.port);
    idle.socket.write('GET /livez HTTP/1.1\r\nhost: x\r\n\r\n');
    await idle.until(/ok\n/);
    idle.socket.once('end', () => idle.socket.destroy());
    ending.child.kill('SIGTERM');
    await idle.closed;
    const answer = (): Promise<string> =>
      fetch(`${ending.url}/livez`, { headers: { connection: 'close' } }).then(
        () => 'served',
        () => 'refused',
      );
    await expect.poll(answer).toBe('refused');
    slow.socket.write('67890');
    expect(await slow.until(/\r\n\r\n/)).toMatch(/^HTTP\/1\.1 204 [\s\S]*connection: close/i);
    slow.socket.destroy();
    expect(await ending.ended).toEqual({ code: 0, signal: null });
    const again = await serve(db, ['--threads', '1']);
    expect(await (await fetch(`${again.url}/v1/kv/slow`)).text()).toBe('1234567890');
    expect(await again.stop()).toBe(0);
  });

  test('a request that does not end is cut after the drain time', async () => {
    const ending = await serve(join(directory, 'cut'), ['--threads', '1', '--drain', '300ms']);
    const slow = await Raw.halfPut(ending.port, 'slow');
    expect(await ending.stop()).toBe(0);
    expect(ending.log).toContainEqual(expect.objectContaining({ cut: 1 }));
    slow.socket.destroy();
  });

  test('a second signal ends it at once', async () => {
    const ending = await serve(join(directory, 'force'), ['--threads', '1']);
    const slow = await Raw.halfPut(ending.port, 'slow');
    ending.child.kill('SIGTERM');
    // Two that come before the first one is met would be one.
    await expect.poll(() => ending.log.map(({ msg }) => msg)).toContain('closing');
    ending.child.kill('SIGTERM');
    expect(await ending.ended).toEqual({ code: 143, signal: null });
    slow.socket.destroy();
  });

  test('a port in use is one line and exit code 1', async () => {
    await expect(serve(join(directory, 'busy'), ['--port', String(server.port)])).rejects.toThrow(
      /ended with 1: concordkv: listening on 127\.0\.0\.1:\d+: .*EADDRINUSE/,
    );
  });
});
