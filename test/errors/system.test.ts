/** What the operating system refuses: a full disk, a failing one, foreign files. Each scene is a process of its own. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, cpSync, existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { ConcordPool } from '../../dist/index.js';
import { filesOf, scratchDirectory } from '../support/pool-scene.js';

interface Outcome {
  readonly value?: unknown;
  readonly code?: string;
  readonly file?: string;
  readonly errno?: string;
  readonly message?: string;
  readonly retryable?: boolean;
}
type Report = Readonly<Record<string, Outcome>>;
interface Fault {
  /** Which operations fail: open, write, sync, truncate, rename, mkdir, list, stat; several with commas. */
  readonly call: string;
  readonly errno: string;
  /** Of which files: a part of the path. */
  readonly match: string;
}

const childPath = fileURLToPath(new URL('../support/pool-child.mjs', import.meta.url));
const faultsPath = fileURLToPath(new URL('../support/pool-faults.mjs', import.meta.url));

/** Runs a scene of pool-child.mjs and gives what it prints. */
async function scene(name: string, directory: string, fault?: Fault): Promise<Report> {
  const faulty = fault === undefined ? [] : ['--import', faultsPath];
  const rules = join(scratchDirectory(), 'faults.json');
  const child = spawn(process.execPath, [...faulty, childPath, name, directory, JSON.stringify(fault ?? null)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, CONCORDKV_FAULTS: rules },
  });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (data: string) => (text += data));
  const [code] = (await once(child, 'close')) as [number | null];
  expect(code, text).toBe(0);
  return JSON.parse(text) as Report;
}

const KEPT = ['before', 'before large'];

describe('a full disk', () => {
  test('refuses the write with ERR_DISK_FULL, keeps nothing of it, and takes writes again when there is room', async () => {
    const report = await scene('log', join(scratchDirectory(), 'store'), {
      call: 'write,truncate,open',
      errno: 'ENOSPC',
      match: 'wal-',
    });
    for (const call of ['put', 'large', 'batch', 'clear'] as const) {
      expect(report[call], call).toMatchObject({ code: 'ERR_DISK_FULL', retryable: true });
      expect(report[call]!.file, call).toContain('wal-');
    }
    expect(report['put']!.errno).toBe('ENOSPC');
    expect(report['state']).toBe('running');
    expect(report['reads']).toEqual(['acknowledged', 2, KEPT.join()]);
    expect(report['after']).toEqual({ value: true });
    expect(report['close']).toEqual({});
    expect(report['reopened']).toEqual(['after', ...KEPT]);
    expect(report['verify']).toMatchObject({ ok: true, entries: 4 });
  });

  test('fails checkpoints and copies, which tell; writes go on, and the next checkpoint works', async () => {
    const directory = join(scratchDirectory(), 'store');
    const report = await scene('checkpoint', directory, { call: 'write', errno: 'ENOSPC', match: 'checkpoint-' });
    expect(report['checkpoint']).toMatchObject({ code: 'ERR_DISK_FULL', errno: 'ENOSPC' });
    expect(report['copy']).toMatchObject({ code: 'ERR_DISK_FULL' });
    expect(report['event']).toEqual({ shard: 0, code: 'ERR_DISK_FULL' });
    expect(report['put']).toEqual({ value: true });
    expect(report['again']).toEqual({});
    expect(report['copyAgain']).toEqual({});
    expect(report['checkpoints']).toBeGreaterThan(0);
    expect(report['verify']).toMatchObject({ ok: true, entries: 6 });
    expect(report['verifyCopy']).toMatchObject({ ok: true, entries: 6 });
    // Nothing half written is left, and the copy that failed cannot be taken for a store.
    expect(filesOf(directory).filter((file) => file.endsWith('.tmp'))).toEqual([]);
    if (existsSync(`${directory}-copy`)) expect(readdirSync(`${directory}-copy`)).not.toContain('MANIFEST');
  });

  test('at creation is ERR_DISK_FULL, and the directory can be used later', async () => {
    for (const match of ['wal-', 'MANIFEST']) {
      const report = await scene('create', join(scratchDirectory(), 'store'), {
        call: 'write,truncate',
        errno: 'ENOSPC',
        match,
      });
      expect(report['open'], match).toMatchObject({ code: 'ERR_DISK_FULL', errno: 'ENOSPC' });
      expect(report['after'], match).toEqual({ value: [] });
    }
  });
});

describe('a failing disk', () => {
  test.each([
    ['write', 'a write'],
    ['sync', 'a sync'],
  ])(
    'whose %s fails turns the shard read-only: reads go on, and reopening has all that was acknowledged',
    async (call) => {
      const report = await scene('log', join(scratchDirectory(), 'store'), { call, errno: 'EIO', match: 'wal-' });
      expect(report['put']).toMatchObject({ code: 'ERR_IO', retryable: false, errno: 'EIO' });
      expect(report['put']!.file).toContain('wal-');
      for (const later of ['large', 'batch', 'clear', 'after'] as const)
        expect(report[later], later).toMatchObject({ code: 'ERR_READ_ONLY' });
      expect(report['state']).toBe('read-only');
      expect(report['reads']).toEqual(['acknowledged', 2, KEPT.join()]);
      // A write whose sync failed may be there or not: it was not acknowledged.
      const reopened = report['reopened'] as unknown as string[];
      expect(reopened.filter((key) => key !== 'during')).toEqual(KEPT);
      expect(report['value']).toBe('acknowledged');
      expect(report['verify']).toMatchObject({ ok: true });
    },
  );

  test.each<[string, Fault, string]>([
    ['the manifest', { call: 'open', errno: 'EIO', match: 'MANIFEST' }, 'ERR_IO'],
    ['the log', { call: 'open', errno: 'EIO', match: 'wal-' }, 'ERR_IO'],
    ['the checkpoint', { call: 'open', errno: 'EIO', match: 'checkpoint-' }, 'ERR_IO'],
    ['the shard directory', { call: 'list', errno: 'EIO', match: 'shard-0000' }, 'ERR_IO'],
    ['the manifest, by rights', { call: 'open', errno: 'EACCES', match: 'MANIFEST' }, 'ERR_PERMISSION'],
    ['the log, by rights', { call: 'open', errno: 'EPERM', match: 'wal-' }, 'ERR_PERMISSION'],
    ['the log, on a read-only disk', { call: 'open,write', errno: 'EROFS', match: 'wal-' }, 'ERR_PERMISSION'],
  ])('that does not give %s is coded, names the file and leaves the store usable', async (_what, fault, code) => {
    const report = await scene('open', join(scratchDirectory(), 'store'), fault);
    expect(report['open']).toMatchObject({ code, errno: fault.errno });
    expect(report['open']!.file).toContain(fault.match);
    expect(report['open']!.message).toContain(fault.match);
    expect(report['after']).toEqual({ value: [['a', '1'], ['b', '2']] }); // prettier-ignore
  });
});

describe("somebody else's store", () => {
  /** A store that others may look into as far as the modes say. */
  async function storeWithModes(directoryMode: number, fileMode: number): Promise<string> {
    const root = scratchDirectory();
    chmodSync(root, 0o755);
    const directory = join(root, 'store');
    const db = await ConcordPool.open(directory, { shards: 1 });
    await db.put('a', '1');
    await db.close();
    for (const file of filesOf(directory)) chmodSync(file, fileMode);
    chmodSync(join(directory, 'shard-0000'), directoryMode);
    chmodSync(directory, directoryMode);
    return directory;
  }

  test('as it is made, is ERR_PERMISSION for every way in', async () => {
    // To a user without rights: the one who made it, when that is not root, needs them taken away.
    const isRoot = process.getuid!() === 0;
    const directory = await storeWithModes(isRoot ? 0o700 : 0o000, 0o600);
    const report = await scene('stranger', directory);
    for (const call of ['open', 'readOnly', 'verify', 'create'] as const) {
      expect(report[call], call).toMatchObject({ code: 'ERR_PERMISSION', errno: 'EACCES' });
      expect(report[call]!.file, call).toContain(directory);
    }
    chmodSync(directory, 0o700);
  });

  test('that may be read can be opened with readOnly, and only so', async () => {
    const directory = await storeWithModes(0o555, 0o444);
    const report = await scene('stranger', directory);
    expect(report['readOnly']).toEqual({ value: [['a', '1']] });
    for (const call of ['open', 'create'] as const) {
      expect(report[call], call).toMatchObject({ code: 'ERR_PERMISSION', errno: 'EACCES' });
      expect(report[call]!.file, call).toContain(directory);
    }
    // The owner's files are untouched, and the owner goes on.
    chmodSync(directory, 0o700);
    chmodSync(join(directory, 'shard-0000'), 0o700);
    for (const file of filesOf(directory)) chmodSync(file, 0o600);
    const copy = join(scratchDirectory(), 'copy');
    cpSync(directory, copy, { recursive: true });
    const db = await ConcordPool.open(copy);
    expect(db.getSync('a')).toBe('1');
    await db.close();
  });
});
