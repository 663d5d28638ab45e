import { once } from 'node:events';
import { join } from 'node:path';
import type { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { HttpServer } from '../../dist/actors/gateway/http/server.js';
import { ConcordError, ConcordPool } from '../../dist/index.js';
import { temporaryDirectory } from '../cli/command.js';

const directory = temporaryDirectory();

async function open(name: string): Promise<ConcordPool<string, Buffer>> {
  return await ConcordPool.open<string, Buffer>(join(directory, name), {
    keyEncoding: 'utf8',
    valueEncoding: 'binary',
  });
}

/** The workers that `work` starts. */
async function startedBy<T>(work: () => Promise<T>): Promise<{ result: T; workers: Worker[] }> {
  const workers: Worker[] = [];
  const note = (worker: Worker): void => void workers.push(worker);
  process.on('worker', note);
  try {
    return { result: await work(), workers };
  } finally {
    process.off('worker', note);
  }
}

test('a server thread that dies is replaced, and the others serve meanwhile', async () => {
  const pool = await open('dies');
  const { result: server, workers } = await startedBy(() =>
    HttpServer.start(pool, { port: 0, threads: 2, logLevel: 'silent' }),
  );
  expect(workers).toHaveLength(1);
  const { workers: successors } = await startedBy(async () => {
    const replaced = once(process, 'worker');
    await workers[0]!.terminate();
    await replaced;
  });
  expect(successors).toHaveLength(1);
  for (let n = 0; n < 50; n++) {
    const url = `${server.url}/v1/kv/key-${n}`;
    expect((await fetch(url, { method: 'PUT', body: 'value', headers: { connection: 'close' } })).status).toBe(204);
    expect(await (await fetch(url, { headers: { connection: 'close' } })).text()).toBe('value');
  }
  await server.close();
  await pool.close();
});

test('a server whose threads keep dying fails as a whole, and closes in order', async () => {
  const pool = await open('keeps-dying');
  const kill = (worker: Worker): void => void worker.once('online', () => void worker.terminate());
  const { result: server, workers } = await startedBy(() =>
    HttpServer.start(pool, { port: 0, threads: 2, logLevel: 'silent' }),
  );
  process.on('worker', kill);
  try {
    await workers[0]!.terminate();
    await expect(server.failed).rejects.toThrow(/died 6 times in a minute/);
    await expect(server.failed).rejects.toBeInstanceOf(ConcordError);
  } finally {
    process.off('worker', kill);
  }
  await server.close();
  await pool.close();
});

test.each([
  [{ port: 70_000 }, /port is 70000; it must be an integer from 0 to 65535/],
  [{ threads: 0 }, /threads is 0/],
  [{ host: '' }, /host must be a non-empty string/],
  [{ logLevel: 'loud' as never }, /logLevel is loud/],
  [{ prot: 1 } as never, /unknown option prot/],
])('the options %j are a TypeError that names the wrong one', async (options, message) => {
  const pool = await open('options');
  await expect(HttpServer.start(pool, options)).rejects.toThrow(message);
  await expect(HttpServer.start(pool, options)).rejects.toMatchObject({ name: 'TypeError', code: 'ERR_INVALID_ARG' });
  await pool.close();
});
