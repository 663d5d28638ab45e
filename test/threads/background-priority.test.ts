/** Threads of the background pool give way to all others of the process. */
import { readFileSync, readdirSync } from 'node:fs';
import { getPriority } from 'node:os';
import { expect, test } from 'vitest';
import { ConcordPool } from '../../dist/index.js';
import { newDirectory, removeDirectory } from './scene.js';

/** The text of a file of the kernel; of a thread that has ended meanwhile, nothing. */
function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH') return undefined;
    throw error;
  }
}

/** Of each thread of this process, as the kernel has it. */
function niceOfThreads(): number[] {
  return readdirSync('/proc/self/task').flatMap((thread) => {
    const stat = textOf(`/proc/self/task/${thread}/stat`);
    // The 19th field; the second one is a name in brackets.
    return stat === undefined ? [] : [Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16])];
  });
}

test.runIf(process.platform === 'linux')(
  'a thread of the background pool is nicer than the rest, which stays as it is',
  async () => {
    const directory = newDirectory();
    const db = await ConcordPool.open(directory, { shards: 1, memoryBytes: 64 << 20 });
    const nicer = Math.min(19, getPriority() + 5);
    const before = niceOfThreads();
    const nicerOnes = (all: number[]): number => all.filter((nice) => nice === nicer).length;
    // By a thread that waits for its next task for a while: where this one comes back too late, another one is started.
    let found = nicerOnes(before);
    for (let turn = 0; turn < 5 && found <= nicerOnes(before); turn++) {
      await db.put('key', `value ${turn}`);
      await db.host!.checkpointAll();
      found = nicerOnes(niceOfThreads());
    }
    expect(found).toBeGreaterThan(nicerOnes(before));
    expect(getPriority()).toBe(before[0]);
    await db.close();
    removeDirectory(directory);
  },
);
