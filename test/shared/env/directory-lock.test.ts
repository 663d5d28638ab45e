import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { acquireDirectoryLock } from '../../../dist/shared/env/directory-lock.js';
import type { DirectoryLock } from '../../../dist/shared/env/directory-lock.js';
import type { ConcordError } from '../../../dist/shared/errors.js';

const base = fs.mkdtempSync(join(tmpdir(), 'concordkv-lock-'));
const childScript = fileURLToPath(new URL('lock-child.mjs', import.meta.url));
const children = new Set<Child>();
const genuine = { linkSync: fs.linkSync };

afterEach(async () => {
  patch(genuine);
  await Promise.all([...children].map((child) => child.kill()));
  children.clear();
});
afterAll(() => fs.rmSync(base, { recursive: true, force: true }));

const freshDirectory = (): string => fs.mkdtempSync(join(base, 'data-'));
const lockFile = (directory: string): string => join(directory, 'LOCK');
const owner = (directory: string): Record<string, unknown> =>
  JSON.parse(fs.readFileSync(lockFile(directory), 'utf8')) as Record<string, unknown>;

function patch(replacement: Partial<typeof fs>): void {
  Object.assign(fs, replacement);
  syncBuiltinESMExports();
}

async function refusal(directory: string, patienceMs = 10_000): Promise<ConcordError> {
  try {
    (await acquireDirectoryLock(directory, { foreignPatienceMs: patienceMs })).release();
  } catch (error) {
    return error as ConcordError;
  }
  throw new Error('the lock was granted');
}

/** A child process with line-wise output. */
class Child {
  readonly lines: string[] = [];
  private readonly process: ChildProcess;
  private readonly ended: Promise<void>;
  private wake: () => void = () => undefined;

  constructor(directory: string, ...rest: string[]) {
    this.process = spawn(process.execPath, [childScript, directory, ...rest], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.process.stdout!.setEncoding('utf8');
    let partial = '';
    this.process.stdout!.on('data', (text: string) => {
      const parts = (partial + text).split('\n');
      partial = parts.pop()!;
      this.lines.push(...parts);
      this.wake();
    });
    this.process.stdin!.on('error', () => undefined);
    this.ended = new Promise((resolve) => this.process.once('close', () => resolve()));
    children.add(this);
  }

  get pid(): number {
    return this.process.pid!;
  }

  async line(index: number): Promise<string> {
    let isOver = false;
    void this.ended.then(() => {
      isOver = true;
      this.wake();
    });
    while (this.lines.length <= index) {
      if (isOver) return `ended after ${this.lines.length} lines`;
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
    return this.lines[index]!;
  }

  go(): void {
    this.process.stdin!.write('go\n');
  }

  async kill(): Promise<void> {
    this.process.kill('SIGKILL');
    await this.ended;
  }

  async end(): Promise<void> {
    await this.ended;
  }
}

async function startHolder(directory: string, mode = 'hold'): Promise<Child> {
  const child = new Child(directory, mode);
  await child.line(0);
  child.go();
  expect(await child.line(1)).toBe('won');
  return child;
}

/** Leaves the LOCK of a process that was killed. */
async function makeStale(directory: string): Promise<number> {
  const holder = await startHolder(directory);
  await holder.kill();
  return holder.pid;
}

describe('a living owner', () => {
  test('in this process excludes a second one, which is told so', async () => {
    const directory = freshDirectory();
    const lock = await acquireDirectoryLock(directory);
    const error = await refusal(directory);
    expect(error.code).toBe('ERR_LOCKED');
    expect(error.retryable).toBe(true);
    expect(error.message).toContain('this process');
    expect(error.details).toMatchObject({ directory, pid: process.pid, thisProcess: true });
    lock.release();
    (await acquireDirectoryLock(directory)).release();
  });

  test('in another thread of this process excludes this one', async () => {
    const directory = freshDirectory();
    const module = new URL('../../../dist/shared/env/directory-lock.js', import.meta.url).href;
    const worker = new Worker(
      `const { parentPort, workerData } = require('node:worker_threads');
       import(workerData.module).then(async ({ acquireDirectoryLock }) => {
         const lock = await acquireDirectoryLock(workerData.directory);
         parentPort.postMessage('won');
         parentPort.once('message', () => { lock.release(); parentPort.postMessage('released'); });
       });`,
      { eval: true, workerData: { directory, module } },
    );
    const said = (): Promise<unknown> => new Promise((resolve) => worker.once('message', resolve));
    expect(await said()).toBe('won');
    expect((await refusal(directory)).details.thisProcess).toBe(true);
    worker.postMessage('release');
    expect(await said()).toBe('released');
    await worker.terminate();
    (await acquireDirectoryLock(directory)).release();
  });

  test('in another process excludes this one, and its pid is in message and details', async () => {
    const directory = freshDirectory();
    const holder = await startHolder(directory, 'release');
    const error = await refusal(directory);
    expect(error.code).toBe('ERR_LOCKED');
    expect(error.message).toContain(`process ${holder.pid}`);
    expect(error.details).toMatchObject({ pid: holder.pid, thisProcess: false });
    holder.go();
    await holder.end();
    expect(fs.readdirSync(directory)).toEqual([]);
    (await acquireDirectoryLock(directory)).release();
  });

  test('that is stopped, and so cannot answer, keeps the directory', async () => {
    const directory = freshDirectory();
    const holder = await startHolder(directory);
    process.kill(holder.pid, 'SIGSTOP');
    expect((await refusal(directory)).details.pid).toBe(holder.pid);
  });

  test('leaves one private file behind, and no temporary ones', async () => {
    const directory = freshDirectory();
    const lock = await acquireDirectoryLock(directory);
    await refusal(directory);
    expect(fs.readdirSync(directory)).toEqual(['LOCK']);
    expect(fs.statSync(lockFile(directory)).mode & 0o777).toBe(0o600);
    expect(owner(directory)).toMatchObject({ pid: process.pid, host: hostname() });
    expect(lock.isHeld()).toBe(true);
    lock.release();
    expect(lock.isHeld()).toBe(false);
    expect(fs.readdirSync(directory)).toEqual([]);
  });
});

describe('release', () => {
  test('leaves the lock of another owner alone', async () => {
    const directory = freshDirectory();
    const lost: string[] = [];
    const lock = await acquireDirectoryLock(directory);
    lock.watch((error) => lost.push(error.code));
    const foreign = JSON.stringify({ ...owner(directory), token: 'f'.repeat(32) });
    fs.writeFileSync(lockFile(directory), foreign);
    expect(lock.isHeld()).toBe(false);
    await expect.poll(() => lost, { timeout: 60_000 }).toEqual(['ERR_LOCKED']);
    lock.release();
    expect(fs.readFileSync(lockFile(directory), 'utf8')).toBe(foreign);
  });

  test('works twice, through using, and in a directory that is gone', async () => {
    const directory = freshDirectory();
    {
      using lock: DirectoryLock = await acquireDirectoryLock(directory);
      expect(lock.isHeld()).toBe(true);
    }
    const lock = await acquireDirectoryLock(directory);
    fs.rmSync(directory, { recursive: true });
    lock.release();
    lock.release();
  });

  test('a directory that does not exist cannot be locked', async () => {
    expect((await refusal(join(base, 'missing'))).code).toBe('ERR_IO');
  });
});

describe('a dead owner', () => {
  test('killed by SIGKILL is succeeded at once, and nothing is left of it', async () => {
    const directory = freshDirectory();
    await makeStale(directory);
    const lock = await acquireDirectoryLock(directory);
    expect(owner(directory).pid).toBe(process.pid);
    expect(fs.readdirSync(directory)).toEqual(['LOCK']);
    lock.release();
  });

  test('is known by its start time even if its pid is in use again', async () => {
    const directory = freshDirectory();
    const lock = await acquireDirectoryLock(directory);
    const record = owner(directory);
    lock.release();
    fs.writeFileSync(lockFile(directory), JSON.stringify({ ...record, startTicks: Number(record.startTicks) - 1 }));
    (await acquireDirectoryLock(directory)).release();
    fs.writeFileSync(lockFile(directory), JSON.stringify({ ...record, token: 'a'.repeat(32) }));
    expect((await refusal(directory)).details.thisProcess).toBe(true);
  });

  test('is one whose machine has restarted', async () => {
    const directory = freshDirectory();
    const lock = await acquireDirectoryLock(directory);
    const record = owner(directory);
    lock.release();
    fs.writeFileSync(lockFile(directory), JSON.stringify({ ...record, bootId: 'another boot' }));
    (await acquireDirectoryLock(directory)).release();
  });

  test.concurrent.each([
    ['empty', ''],
    ['torn', '{"pid":12,"startT'],
    ['not an object', 'null'],
    [
      'without a usable pid',
      JSON.stringify({
        pid: -1,
        startTicks: null,
        bootId: null,
        pidNamespace: null,
        host: 'h',
        token: 'a'.repeat(32),
        createdAt: '',
      }),
    ],
    [
      'with a token that is a path',
      JSON.stringify({
        pid: 1,
        startTicks: null,
        bootId: null,
        pidNamespace: null,
        host: 'h',
        token: '../../../../etc/x',
        createdAt: '',
      }),
    ],
    ['longer than any lock', 'x'.repeat(100_000)],
  ])('a LOCK that is %s is taken over', async (_name, content) => {
    const directory = freshDirectory();
    fs.writeFileSync(lockFile(directory), content);
    const lock = await acquireDirectoryLock(directory);
    expect(lock.isHeld()).toBe(true);
    lock.release();
    expect(fs.readdirSync(directory)).toEqual([]);
  });

  test('a LOCK that is a symbolic link is an error, not followed', async () => {
    const directory = freshDirectory();
    fs.writeFileSync(join(base, 'elsewhere'), '');
    fs.symlinkSync(join(base, 'elsewhere'), lockFile(directory));
    expect((await refusal(directory)).code).toBe('ERR_IO');
  });
});

describe('an owner whose process cannot be looked up', () => {
  const makeForeign = async (directory: string): Promise<Record<string, unknown>> => {
    const lock = await acquireDirectoryLock(directory);
    const record = owner(directory);
    lock.release();
    return { ...record, pidNamespace: 'pid:[1]', host: 'elsewhere' };
  };

  test('and that stays silent is succeeded after the patience', async () => {
    const directory = freshDirectory();
    fs.writeFileSync(lockFile(directory), JSON.stringify(await makeForeign(directory)));
    const start = performance.now();
    const lock = await acquireDirectoryLock(directory, { foreignPatienceMs: 300 });
    expect(performance.now() - start).toBeGreaterThan(290);
    expect(fs.readdirSync(directory)).toEqual(['LOCK']);
    lock.release();
  });

  test('and that answers keeps the directory', async () => {
    const directory = freshDirectory();
    const lock = await acquireDirectoryLock(directory);
    // The same owner, in the eyes of a process in another namespace.
    fs.writeFileSync(lockFile(directory), JSON.stringify({ ...owner(directory), pidNamespace: 'pid:[1]' }));
    const error = await refusal(directory);
    expect(error.code).toBe('ERR_LOCKED');
    expect(error.message).toContain(`process ${process.pid} of ${hostname()}`);
    expect(fs.readdirSync(directory)).toEqual(['LOCK']);
    lock.release();
  });
});

describe('races', () => {
  test('of twenty processes for a free directory exactly one wins, the others learn its pid', () =>
    race(() => Promise.resolve()));

  test('of twenty processes for the lock of a killed owner exactly one wins, the others learn its pid', () =>
    race(async (directory) => void (await makeStale(directory))));

  test('of twenty processes for an empty LOCK exactly one wins, the others learn its pid', () =>
    race((directory) => {
      fs.writeFileSync(lockFile(directory), '');
      return Promise.resolve();
    }));

  async function race(prepare: (directory: string) => Promise<void>): Promise<void> {
    const directory = freshDirectory();
    await prepare(directory);
    const takers = Array.from({ length: 20 }, () => new Child(directory, 'hold'));
    await Promise.all(takers.map((taker) => taker.line(0)));
    for (const taker of takers) taker.go();
    const answers = await Promise.all(takers.map((taker) => taker.line(1)));
    const winners = takers.filter((_, index) => answers[index] === 'won');
    expect(winners.length).toBe(1);
    expect(new Set(answers)).toEqual(new Set(['won', `ERR_LOCKED ${winners[0]!.pid}`]));
    expect(owner(directory).pid).toBe(winners[0]!.pid);
  }

  test('a taker that dies before any of its steps blocks nobody', async () => {
    const directory = freshDirectory();
    await makeStale(directory);
    let deaths = 0;
    for (let step = 1; ; step++) {
      // Leftovers of the earlier deaths stay: the chain grows with each.
      const taker = new Child(directory, 'die-at', String(step));
      await taker.line(0);
      taker.go();
      await taker.end();
      if (taker.lines[1] === 'won') break;
      deaths++;
    }
    expect(deaths).toBeGreaterThanOrEqual(4);
    const lock = await acquireDirectoryLock(directory);
    expect(fs.readdirSync(directory)).toEqual(['LOCK']);
    lock.release();
    expect(fs.readdirSync(directory)).toEqual([]);
  });

  test('takers that all died between claim and rename are followed to the last one', async () => {
    const directory = freshDirectory();
    await makeStale(directory);
    // Steps of a takeover: write the draft, claim, rename.
    for (let taker = 0; taker < 5; taker++) {
      const child = new Child(directory, 'die-at', '3');
      await child.line(0);
      child.go();
      await child.end();
    }
    expect(fs.readdirSync(directory).filter((name) => name.startsWith('LOCK.next.')).length).toBe(5);
    const lock = await acquireDirectoryLock(directory);
    expect(fs.readdirSync(directory)).toEqual(['LOCK']);
    lock.release();
  });

  /** Runs `meanwhile` after the taker found the owner dead and just before it makes its first claim. */
  function stallBeforeClaim(meanwhile: () => void): void {
    patch({
      linkSync: ((from: string, to: string) => {
        patch(genuine);
        meanwhile();
        genuine.linkSync(from, to);
      }) as typeof fs.linkSync,
    });
  }

  test('a taker that stalls while another takes the directory and keeps it withdraws', async () => {
    const directory = freshDirectory();
    const deadPid = await makeStale(directory);
    const rival = new Child(directory, 'hold');
    await rival.line(0);
    stallBeforeClaim(() => {
      // The write to the pipe needs this thread's event loop only if the pipe is full.
      rival.go();
      const word = new Int32Array(new SharedArrayBuffer(4));
      for (let waits = 0; waits < 12_000 && owner(directory).pid === deadPid; waits++) Atomics.wait(word, 0, 0, 5);
      Atomics.wait(word, 0, 0, 50);
    });
    expect((await refusal(directory)).details.pid).toBe(rival.pid);
    expect(await rival.line(1)).toBe('won');
    expect(owner(directory).pid).toBe(rival.pid);
    expect(fs.readdirSync(directory)).toEqual(['LOCK']);
  });

  test('a taker that stalls while the directory is taken, released and free withdraws its claim and starts over', async () => {
    const directory = freshDirectory();
    await makeStale(directory);
    stallBeforeClaim(() => fs.unlinkSync(lockFile(directory)));
    const lock = await acquireDirectoryLock(directory);
    expect(fs.readdirSync(directory)).toEqual(['LOCK']);
    lock.release();
  });

  test('owners in eight processes that release or die at random are never two at a time', async () => {
    const directory = freshDirectory();
    const end = Date.now() + 6000;
    let rounds = 0;
    const run = async (): Promise<void> => {
      // On a slow machine longer, until there was something to see.
      while (Date.now() < (rounds > 50 ? end - 500 : end + 60_000)) {
        const child = new Child(directory, 'loop', String(Math.max(500, end - Date.now())));
        await child.line(0);
        child.go();
        await child.end();
        children.delete(child);
        expect(child.lines.filter((line) => line.startsWith('VIOLATION'))).toEqual([]);
        expect(child.lines.length).toBeGreaterThan(1);
        rounds += Number(child.lines[1]!.split(' ')[1]);
      }
    };
    await Promise.all(Array.from({ length: 8 }, run));
    expect(rounds).toBeGreaterThan(50);
  });
});
