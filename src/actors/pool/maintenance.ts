/**
 * Work on the directory of a store that is not open: verify, repair, restore. Threads: any; blocking file work, for tools.
 */
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { ConcordError, invalidArgument, toErrorRecord, type ErrorDetails } from '../../shared/errors.js';
import { acquireDirectoryLock } from '../../shared/env/directory-lock.js';
import { NodeEnv } from '../../shared/env/node-env.js';
import { UNIT_BYTES, createArena, type ArenaLayout } from '../../shared/memory/arena.js';
import { EngineCode } from '../../engines/engine.js';
import { ShardStore } from '../../engines/store/shard-store.js';
import { JOB_READER_SLOT } from '../../engines/store/space-table.js';
import { verifyWal } from '../../engines/wal/inspect.js';
import { WalWriter } from '../../engines/wal/writer.js';
import { writeImage } from '../../engines/btree/image.js';
import { passOverDamage } from '../../engines/btree/paged/paging.js';
import { writeEntries } from '../../engines/checkpoint/entries.js';
import { findCheckpoint } from '../../engines/checkpoint/reader.js';
import { CheckpointWriter } from '../../engines/checkpoint/writer.js';
import {
  beginCreation,
  definitionsOf,
  finishCreation,
  inspectDirectory,
  readManifest,
  shardDirectory,
  type Manifest,
} from './manifest.js';
import { resolveOptions } from './options.js';

/** Reserved for a shard at first: usually plenty. A larger reservation than the machine has memory keeps a process from forking. */
const VERIFY_MEMORY_BYTES_MIN = 2 ** 30;
/** Log and checkpoint bytes become at most about so many times their size in memory, unless the order of the tree is small. */
const MEMORY_PER_FILE_BYTE = 4;
/** Reserved when that was not enough: any store that could have been written fits. */
const VERIFY_MEMORY_BYTES_MAX = 64 * 2 ** 30;

export interface Problem {
  readonly code: string;
  readonly message: string;
  readonly details: ErrorDetails;
}

export interface MaintenanceOptions {
  /** Modules that register engines of your own, as at open. */
  readonly engineModules?: readonly string[];
}

export interface VerifyReport {
  readonly ok: boolean;
  readonly problems: readonly Problem[];
  readonly shards: number;
  readonly entries: number;
  readonly logFrames: number;
}

export interface RepairReport {
  readonly ok: boolean;
  readonly entries: number;
  /** What could not be read and is not in the repaired store. */
  readonly losses: readonly Problem[];
  /** Where the damaged files are kept. */
  readonly backup: string;
}

function problemOf(error: unknown): Problem {
  const { code, message, details } = toErrorRecord(error);
  return { code, message, details };
}

async function locked<T>(directory: string, work: (env: NodeEnv) => T | Promise<T>): Promise<T> {
  const lock = await acquireDirectoryLock(directory);
  try {
    return await work(new NodeEnv());
  } finally {
    lock.release();
  }
}

/** @throws ERR_INVALID_ARG */
async function loadEngines(options: MaintenanceOptions | undefined): Promise<void> {
  const { engineModules } = resolveOptions({ engineModules: options?.engineModules ?? [] });
  for (const module of engineModules) await import(module);
}

/** @throws ERR_INVALID_ARG */
function pathOf(directory: unknown): string {
  if (typeof directory !== 'string' || directory === '')
    throw invalidArgument('the directory must be a non-empty string');
  return resolve(directory);
}

function requireStore(env: NodeEnv, directory: string): void {
  const state = inspectDirectory(env, directory);
  if (state === 'missing' || state === 'empty' || state === 'unfinished') {
    throw new ConcordError('ERR_NOT_FOUND', `there is no store at ${directory}`, { directory });
  }
}

/** Checks manifest, logs, checkpoints and the trees they recover to. @throws ERR_NOT_FOUND, ERR_LOCKED */
export async function verifyStore(path: string, options?: MaintenanceOptions): Promise<VerifyReport> {
  const directory = pathOf(path);
  await loadEngines(options);
  requireStore(new NodeEnv(), directory);
  return locked(directory, (env) => verifyLocked(env, directory));
}

function verifyLocked(env: NodeEnv, directory: string): VerifyReport {
  const problems: Problem[] = [];
  let manifest: Manifest;
  try {
    manifest = readManifest(env, directory);
  } catch (error) {
    return { ok: false, problems: [problemOf(error)], shards: 0, entries: 0, logFrames: 0 };
  }
  let entries = 0;
  let logFrames = 0;
  for (let shard = 0; shard < manifest.shards; shard++) {
    const shardPath = shardDirectory(directory, shard);
    try {
      const store = openReadOnly(env, shardPath, manifest, shard);
      entries += entriesOf(store);
      logFrames += store.recovery.wal?.frames ?? 0;
      for (const message of store.spaces.check()) problems.push({ code: 'ERR_CORRUPT', message, details: { shard } });
      const found = findCheckpoint(env, shardPath);
      const verification = verifyWal(env, shardPath, {
        storeId: storeIdOf(manifest),
        shard,
        fromLsn: found === undefined ? 1 : found.lsn + 1,
      });
      for (const problem of verification.problems) {
        problems.push({
          code: 'ERR_CORRUPT',
          message: `${problem.file} at ${problem.offset}: ${problem.text}`,
          details: { file: problem.file, offset: problem.offset, shard },
        });
      }
      store.close();
    } catch (error) {
      problems.push(problemOf(error));
    }
  }
  return { ok: problems.length === 0, problems, shards: manifest.shards, entries, logFrames };
}

function storeIdOf({ storeId }: Manifest): Uint8Array {
  return Buffer.from(storeId, 'hex');
}

/** Live entries of all spaces. */
function entriesOf(store: ShardStore): number {
  let entries = 0;
  for (const { engine } of store.spaces.all) entries += engine.counts().liveEntries;
  return entries;
}

function openReadOnly(
  env: NodeEnv,
  directory: string,
  manifest: Manifest,
  shard: number,
  recoveryMode: 'tolerate-torn-tail' | 'salvage' = 'tolerate-torn-tail',
): ShardStore {
  if (!env.exists(directory)) {
    throw new ConcordError('ERR_CORRUPT', `${directory}: the directory of shard ${shard} is missing`, {
      file: directory,
      shard,
    });
  }
  return inEnoughMemory(env, directory, (arena) =>
    ShardStore.open({
      env,
      directory,
      storeId: storeIdOf(manifest),
      shard,
      arena,
      spaces: definitionsOf(manifest),
      readOnly: true,
      recoveryMode,
    }),
  );
}

function inEnoughMemory(env: NodeEnv, directory: string, open: (arena: ArenaLayout) => ShardStore): ShardStore {
  let fileBytes = 0;
  for (const name of env.list(directory)) fileBytes += fs.statSync(join(directory, name)).size;
  const memoryBytes = Math.min(VERIFY_MEMORY_BYTES_MAX, VERIFY_MEMORY_BYTES_MIN + MEMORY_PER_FILE_BYTE * fileBytes);
  try {
    return open(createArena({ memoryBytes: Math.ceil(memoryBytes / UNIT_BYTES) * UNIT_BYTES }));
  } catch (error) {
    if (!(error instanceof ConcordError) || error.code !== 'ERR_MEMORY_FULL') throw error;
    return open(createArena({ memoryBytes: VERIFY_MEMORY_BYTES_MAX }));
  }
}

/** Copies the files of a store that is not open, then verifies the copy. @throws ERR_NOT_FOUND, ERR_EXISTS, ERR_CORRUPT */
export async function restoreStore(from: string, to: string, options?: MaintenanceOptions): Promise<VerifyReport> {
  const source = pathOf(from);
  const target = pathOf(to);
  const env = new NodeEnv();
  requireStore(env, source);
  const state = inspectDirectory(env, target);
  if (state === 'store' || state === 'foreign') {
    throw new ConcordError('ERR_EXISTS', `${target} is not empty`, { directory: target });
  }
  env.makeDirectory(target);
  await locked(source, () => {
    const removeTree = (tree: string): void => {
      fs.rmSync(tree, { recursive: true, force: true });
    };
    beginCreation(env, target, removeTree);
    const manifest = readManifest(env, source);
    for (let shard = 0; shard < manifest.shards; shard++) {
      copyDirectory(env, shardDirectory(source, shard), shardDirectory(target, shard));
    }
    finishCreation(env, target, manifest);
  });
  const report = await verifyStore(target, options);
  if (!report.ok) {
    const first = report.problems[0]!;
    throw new ConcordError('ERR_CORRUPT', `the copy is damaged, as its source is: ${first.message}`, first.details);
  }
  return report;
}

function copyDirectory(env: NodeEnv, from: string, to: string): void {
  env.makeDirectory(to);
  for (const name of env.list(from)) {
    const path = join(to, name);
    fs.copyFileSync(join(from, name), path, fs.constants.COPYFILE_EXCL);
    fs.chmodSync(path, 0o600);
    const file = env.open(path, 'write');
    try {
      file.sync();
    } finally {
      file.close();
    }
  }
  env.syncDirectory(to);
}

/**
 * Opens every shard in salvage mode, writes what is readable to a new store beside the old one, then exchanges the two directories.
 * @throws ERR_NOT_FOUND, ERR_LOCKED, ERR_CORRUPT when the manifest itself is lost
 */
export async function repairStore(path: string, options?: MaintenanceOptions): Promise<RepairReport> {
  const directory = pathOf(path);
  await loadEngines(options);
  requireStore(new NodeEnv(), directory);
  const suffix = `${new Date().toISOString().replace(/[:.]/g, '-')}-${randomBytes(3).toString('hex')}`;
  const rebuilt = join(dirname(directory), `${basename(directory)}.repairing-${suffix}`);
  const backup = join(dirname(directory), `${basename(directory)}.damaged-${suffix}`);
  const losses: Problem[] = [];
  let entries = 0;
  await locked(directory, (env) => {
    const manifest = readManifest(env, directory);
    env.makeDirectory(rebuilt);
    beginCreation(env, rebuilt, () => undefined);
    for (let shard = 0; shard < manifest.shards; shard++) {
      entries += repairShard(
        env,
        manifest,
        shard,
        shardDirectory(directory, shard),
        shardDirectory(rebuilt, shard),
        losses,
      );
    }
    finishCreation(env, rebuilt, manifest);
  });
  fs.renameSync(directory, backup);
  fs.renameSync(rebuilt, directory);
  new NodeEnv().syncDirectory(dirname(directory));
  return { ok: losses.length === 0, entries, losses, backup };
}

function repairShard(
  env: NodeEnv,
  manifest: Manifest,
  shard: number,
  from: string,
  to: string,
  losses: Problem[],
): number {
  const storeId = storeIdOf(manifest);
  env.makeDirectory(to);
  let store: ShardStore | undefined;
  // A damaged checkpoint is set aside in memory only: the log alone may still hold something.
  for (const ignoresCheckpoint of env.exists(from) ? [false, true] : [false]) {
    try {
      store = ignoresCheckpoint
        ? openLogOnly(env, from, manifest, shard)
        : openReadOnly(env, from, manifest, shard, 'salvage');
      break;
    } catch (error) {
      losses.push(problemOf(error));
    }
  }
  for (const loss of store?.recovery.wal?.losses ?? []) {
    losses.push({
      code: 'ERR_CORRUPT',
      message: `${loss.file} at ${loss.offset}: frames ${loss.lsnFrom} to ${loss.lsnTo ?? 'the end'} are lost (${loss.reason})`,
      details: { file: loss.file, offset: loss.offset, shard, lsnFrom: loss.lsnFrom, lsnTo: loss.lsnTo ?? null },
    });
  }
  const publishedSeq = store?.publishedSeq ?? 0;
  if (store !== undefined) {
    const { arena, spaces } = store;
    const header = { storeId, shard, lsn: 0, publishedSeq, createdAt: env.now() };
    const writer = CheckpointWriter.create(env, to, header);
    const emit = (chunk: Uint8Array): void => {
      writer.write(chunk);
    };
    // What can be read of a tree with a page file is written anew.
    passOverDamage(arena, (error) => losses.push(problemOf(error)));
    writeImage(arena, arena.published(), emit, false);
    for (const { id, engine } of spaces.all) {
      if (engine.code !== EngineCode.btree || engine.counts().isPaged === true)
        writeEntries(arena, JOB_READER_SLOT, id, publishedSeq, emit);
    }
    writer.finish();
  }
  WalWriter.create(env, to, { storeId, shard }).close();
  const entries = store === undefined ? 0 : entriesOf(store);
  store?.close();
  return entries;
}

/** The log without the checkpoint it continues: what it alone still says. */
function openLogOnly(env: NodeEnv, directory: string, manifest: Manifest, shard: number): ShardStore {
  return inEnoughMemory(env, directory, (arena) =>
    ShardStore.open({
      env,
      directory,
      storeId: storeIdOf(manifest),
      shard,
      arena,
      spaces: definitionsOf(manifest),
      readOnly: true,
      recoveryMode: 'salvage',
      ignoreCheckpoint: true,
    }),
  );
}
