/** A process that ends without close(): nothing of the pool keeps it alive, and what was acknowledged is there. */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { ConcordPool } from '../../dist/index.js';
import { newDirectory, removeDirectory } from './scene.js';

const SCRIPT = fileURLToPath(new URL('../support/threads-process.mjs', import.meta.url));
const ENTRIES = 1000;
/** A process that hangs is killed, and seen by its signal. */
const LIFE_MS_MAX = 120_000;

function run(
  directory: string,
  scene: string,
): Promise<{ code: number | null; signal: string | null; errors: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [SCRIPT, directory, scene], { stdio: ['ignore', 'inherit', 'pipe'] });
    let errors = '';
    child.stderr.on('data', (text) => (errors += text));
    const timer = setTimeout(() => child.kill('SIGKILL'), LIFE_MS_MAX);
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ code, signal, errors });
    });
  });
}

test.each([
  'ends its main',
  'has calls in flight',
  'has an open snapshot and iterator',
  'calls process.exit',
  'is writing a checkpoint',
  'has attached threads',
  'has a handle nobody took',
])('a process that %s without close() ends by itself and loses nothing', async (scene) => {
  const directory = newDirectory();
  const { code, signal, errors } = await run(directory, scene);
  expect(errors).toBe('');
  expect({ code, signal }).toEqual({ code: 0, signal: null });
  const db = await ConcordPool.open(directory, { shards: 2, memoryBytes: 128 << 20 });
  try {
    expect(await db.count()).toBe(ENTRIES);
    for (let i = 0; i < ENTRIES; i++) expect(db.getSync(`key${i}`)).toBe(`value ${i}`.padEnd(200, '.'));
    expect(await db.host!.check()).toEqual([]);
  } finally {
    await db.close();
  }
  removeDirectory(directory);
});
