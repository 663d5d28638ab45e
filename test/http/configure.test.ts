/** New limits for a server that runs, on all of its threads. */
import { Agent, request } from 'node:http';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { HttpServer } from '../../dist/actors/gateway/http/server.js';
import { HTTP_DEFAULTS, LIVE_HTTP_OPTIONS } from '../../dist/actors/gateway/http/options.js';
import type { LiveHttpOptions } from '../../dist/actors/gateway/http/options.js';
import { CONFIG_KEYS } from '../../dist/config/keys.js';
import { ConcordPool } from '../../dist/index.js';

let pool: ConcordPool<string, Buffer>;
let server: HttpServer;

beforeAll(async () => {
  pool = await ConcordPool.open(':memory:', { shards: 1, memoryBytes: 64 << 20, valueEncoding: 'binary' });
  server = await HttpServer.start(pool, { port: 0, threads: 2, logLevel: 'silent', drainMs: 100 });
});
afterAll(async () => {
  await server.close();
  await pool.close();
});

/** Each on a connection of its own, so that both threads get some. */
function put(bytes: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const agent = new Agent({ keepAlive: false });
    const call = request(`${server.url}/v1/kv/a`, { method: 'PUT', agent }, (response) => {
      response.resume();
      response.once('end', () => resolve(response.statusCode!));
    });
    call.once('error', reject);
    call.end(Buffer.alloc(bytes));
  });
}

async function statuses(bytes: number): Promise<number[]> {
  const found = new Set<number>();
  for (let i = 0; i < 30; i++) for (const status of await Promise.all([put(bytes), put(bytes)])) found.add(status);
  return [...found];
}

test('limits of bodies change on every thread, and back', async () => {
  expect(await statuses(1000)).toEqual([204]);
  server.configure({ bodyBytesMax: 999 });
  expect(server.options.bodyBytesMax).toBe(999);
  // The other thread takes the message when it comes to it.
  await put(1);
  await expect.poll(() => statuses(1000)).toEqual([413]);
  server.configure({ bodyBytesMax: 1000 });
  await expect.poll(() => statuses(1000)).toEqual([204]);
});

test('an idle connection is closed after the new time', async () => {
  server.configure({ keepAliveTimeoutMs: 50 });
  const agent = new Agent({ keepAlive: true });
  const closedAfterMs = await new Promise<number>((resolve, reject) => {
    const call = request(`${server.url}/livez`, { agent }, (response) => {
      const { socket } = response;
      response.resume();
      response.once('end', () => {
        const startedMs = performance.now();
        socket.once('close', () => resolve(performance.now() - startedMs));
      });
    });
    call.once('error', reject);
    call.end();
  });
  agent.destroy();
  expect(closedAfterMs).toBeLessThan(20_000);
});

test.each<[object, string]>([
  [{ port: 1 }, 'option port cannot change while the server runs; start it again'],
  [{ threads: 3 }, 'option threads cannot change while the server runs; start it again'],
  [{ drainMs: -1 }, 'option drainMs is -1; it must be an integer from 0 to 2147483647'],
  [{ logLevel: 'loud' }, 'option logLevel is loud; it must be one of fatal, error, warn, info, debug, trace, silent'],
  [{ colour: 1 }, 'unknown option colour'],
])('%j is refused and nothing changes', (options, message) => {
  const before = { ...server.options };
  expect(() => server.configure({ bodyBytesInFlightMax: 5, ...options } as LiveHttpOptions)).toThrow(
    expect.objectContaining({ name: 'TypeError', code: 'ERR_INVALID_ARG', message }) as Error,
  );
  expect(server.options).toEqual(before);
});

test('what the configuration calls live is what the server takes', () => {
  const live = CONFIG_KEYS.filter(({ changes }) => changes === 'live').map(({ path }) => path);
  const taken = LIVE_HTTP_OPTIONS.map((name) => (name === 'logLevel' ? 'log.level' : `http.${name}`));
  expect(taken.sort()).toEqual(live.filter((path) => !path.startsWith('store.')).sort());
  for (const name of LIVE_HTTP_OPTIONS) expect(HTTP_DEFAULTS).toHaveProperty(name);
});
