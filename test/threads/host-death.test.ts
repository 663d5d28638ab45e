/** The thread that hosts the pool ends while others are attached. */
import { once } from 'node:events';
import { Worker, type MessagePort } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { ConcordPool } from '../../dist/index.js';
import { newDirectory, removeDirectory, sleep } from './scene.js';

async function attachToHost(host: Worker): Promise<ConcordPool> {
  host.postMessage('handle');
  const [port] = (await once(host, 'message')) as [MessagePort];
  return ConcordPool.attach({ port });
}

function startHost(directory: string): Worker {
  return new Worker(new URL('../support/threads-host.mjs', import.meta.url), { workerData: { directory } });
}

test('attached threads get ERR_CLOSED when the host thread dies, for calls in flight and later ones, and can close', async () => {
  const host = startHost(':memory:');
  const db = await attachToHost(host);
  expect(await db.put('key', 'value')).toBe(true);
  const outcomes = Array.from({ length: 50_000 }, (_, i) =>
    db.put(`key${i}`, 'value').then(
      () => 'done',
      (error: { code: string }) => error.code,
    ),
  );
  await sleep(5);
  await host.terminate();
  const codes = new Set(await Promise.all(outcomes));
  for (const code of codes) expect(['done', 'ERR_CLOSED']).toContain(code);
  await expect(db.put('key', 'later')).rejects.toMatchObject({ code: 'ERR_CLOSED' });
  expect(() => db.getSync('key')).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }));
  expect(db.stats().pendingCalls).toBe(0);
  await db.close();
});

test('attached threads get ERR_CLOSED when the host closes; what it had acknowledged is there', async () => {
  const directory = newDirectory();
  const host = startHost(directory);
  const db = await attachToHost(host);
  const outcomes = Array.from({ length: 20_000 }, (_, i) =>
    db.put(`key${i}`, `value ${i}`).then(
      () => i,
      (error: { code: string }) => error.code,
    ),
  );
  await sleep(5);
  host.postMessage('close');
  await once(host, 'exit');
  const results = await Promise.all(outcomes);
  for (const result of results) if (typeof result === 'string') expect(result).toBe('ERR_CLOSED');
  await expect(db.put('key', 'later')).rejects.toMatchObject({ code: 'ERR_CLOSED' });
  await db.close();
  const again = await ConcordPool.open(directory, { shards: 2, memoryBytes: 64 << 20 });
  for (const result of results) {
    if (typeof result === 'number') expect(again.getSync(`key${result}`)).toBe(`value ${result}`);
  }
  expect(await again.host!.check()).toEqual([]);
  await again.close();
  removeDirectory(directory);
});
