/** Threads of the background pool start whatever flags the process was given. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { newDirectory, removeDirectory } from './scene.js';

const INDEX = fileURLToPath(new URL('../../dist/index.js', import.meta.url));
const SCRIPT = `
  import(process.argv[1]).then(async ({ ConcordPool }) => {
    const db = await ConcordPool.open(process.argv[2], { memoryBytes: 64 << 20 });
    await db.put('key', 'value');
    await db.host.checkpointAll();
    await db.close();
  });
`;

test('a process with flags that threads refuse writes checkpoints', async () => {
  const directory = newDirectory();
  const flags = ['--max-old-space-size=512', '--expose-gc', '--title=store'];
  const { stderr } = await promisify(execFile)(process.execPath, [...flags, '-e', SCRIPT, INDEX, directory], {
    timeout: 60_000,
  });
  expect(stderr).toBe('');
  removeDirectory(directory);
});
