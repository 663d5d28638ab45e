/**
 * Work on the directory of a store that is not open: verify, repair, restore. Threads: any; blocking file work, for tools.
 */
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import {
  ConcordError,
  fromSystemError,
  invalidArgument,
  toErrorRecord,
  type ErrorDetails,
} from '../../shared/errors.js';
import { acquireDirectoryLock } from '../../shared/env/directory-lock.js';
import { NodeEnv } from '../../shared/env/node-env.js';
import { UNIT_BYTES, createArena, type ArenaLayout } from '../../shared/memory/arena.js';
import { EngineCode } from '../../engines/engine.js';
import { ShardStore } from '../../engines/store/shard-store.js';
import { settlePrepared } from '../../engines/store/settle.js';
import { JOB_READER_SLOT } from '../../engines/store/space-table.js';
import { COORDINATOR_DIRECTORY, readDecisions } from '../../engines/txn/decision-log.js';
import { verifyWal } from '../../engines/wal/inspect.js';
import { WalWriter } from '../../engines/wal/writer.js';
import { recoverWal } from '../../engines/wal/recovery.js';
import { writeImage } from '../../engines/btree/image.js';
import { publishTrees } from '../../engines/btree/meta.js';
import { passOverDamage } from '../../engines/btree/paged/paging.js';
import { writeEntries } from '../../engines/checkpoint/entries.js';
import { findCheckpoint, readCheckpoint } from '../../engines/checkpoint/reader.js';
import { CheckpointWriter } from '../../engines/checkpoint/writer.js';
import { lsmSiteOf } from '../../engines/lsm/attach.js';
import { treeDirectoryName, treeOfDirectory } from '../../engines/lsm/manifest/names.js';
import { repairTree } from '../../engines/lsm/manifest/repair.js';
import { verifyTree } from '../../engines/lsm/manifest/verify.js';
import { decodeLsmRoot, isLsmRootChunk, lsmRootChunk, type LsmRoot } from '../../engines/lsm/root.js';
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

const LSM_ENGINE = 'lsm';

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
  readonly transactions: PreparedReport;
}

/** Transactions over several shards that were on their way when the store was left. */
export interface PreparedReport {
  /** In some shard. */
  readonly prepared: number;
  /** Of these: they are to be committed, which the next opening does. All others it gives up. */
  readonly decided: number;
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
    const transactions = { prepared: 0, decided: 0 };
    return { ok: false, problems: [problemOf(error)], shards: 0, entries: 0, logFrames: 0, transactions };
  }
  let decisions: ReadonlySet<number> | undefined;
  try {
    decisions = decidedOf(env, directory, manifest, 'tolerate-torn-tail').decided;
  } catch (error) {
    problems.push(problemOf(error));
  }
  const prepared = new Set<number>();
  let entries = 0;
  let logFrames = 0;
  for (let shard = 0; shard < manifest.shards; shard++) {
    const shardPath = shardDirectory(directory, shard);
    let trees: readonly number[] | undefined;
    try {
      const store = openReadOnly(env, shardPath, manifest, shard);
      trees = [...(lsmSiteOf(store.arena)?.trees ?? [])].map(({ tree }) => tree).filter((tree) => tree !== 0);
      for (const id of store.recovery.prepared) prepared.add(id);
      if (decisions !== undefined) settlePrepared(store, (id) => decisions.has(id));
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
    const known = new Set(problems.map(({ message }) => message));
    for (const problem of treeProblems(env, shardPath, manifest, shard, trees)) {
      // Opening the shard may have met the same.
      if (!known.has(problem.message)) problems.push(problem);
    }
  }
  const decided = [...prepared].filter((id) => decisions?.has(id) === true).length;
  const transactions = { prepared: prepared.size, decided };
  return { ok: problems.length === 0, problems, shards: manifest.shards, entries, logFrames, transactions };
}

interface DecisionsFound {
  readonly decided: ReadonlySet<number>;
  readonly losses: readonly Problem[];
}

/** What is to be committed though a shard may have it prepared only. @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO */
function decidedOf(
  env: NodeEnv,
  directory: string,
  manifest: Manifest,
  recoveryMode: 'tolerate-torn-tail' | 'salvage',
): DecisionsFound {
  const found = readDecisions({
    env,
    directory: join(directory, COORDINATOR_DIRECTORY),
    storeId: storeIdOf(manifest),
    shards: manifest.shards,
    recoveryMode,
  });
  const losses = (found?.wal.losses ?? []).map(({ file, offset, lsnFrom, lsnTo, reason }) => ({
    code: 'ERR_CORRUPT',
    message: `${file} at ${offset}: decisions ${lsnFrom} to ${lsnTo ?? 'the end'} are lost (${reason})`,
    details: { file, offset, lsnFrom, lsnTo: lsnTo ?? null },
  }));
  return { decided: new Set(found?.decided.keys()), losses };
}

/** Of the LSM-Trees of a shard. `trees`: those that spaces are in; undefined when the shard cannot be opened: then any may be. */
function treeProblems(
  env: NodeEnv,
  directory: string,
  manifest: Manifest,
  shard: number,
  trees: readonly number[] | undefined,
): Problem[] {
  if (!env.exists(directory)) return [];
  const problems: Problem[] = [];
  for (const tree of trees ?? treesOf(env, directory)) {
    try {
      const identity = { storeId: storeIdOf(manifest), shard, tree };
      const { problems: found } = verifyTree(env, join(directory, treeDirectoryName(tree)), identity);
      problems.push(...found.map(({ code, message, details }) => ({ code, message, details: { ...details, shard } })));
    } catch (error) {
      problems.push(problemOf(error));
    }
  }
  return problems;
}

/** Directories of LSM-Trees, whatever is left in them. */
function treesOf(env: NodeEnv, directory: string): number[] {
  return env
    .list(directory)
    .map(treeOfDirectory)
    .filter((tree) => tree !== undefined)
    .sort((a, b) => a - b);
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
  return openShard(env, directory, manifest, shard, { recoveryMode, readOnly: true });
}

function openShard(
  env: NodeEnv,
  directory: string,
  manifest: Manifest,
  shard: number,
  options: {
    readonly recoveryMode: 'tolerate-torn-tail' | 'salvage';
    readonly readOnly: boolean;
    /** What the log, and the manifests of LSM-Trees, say without the checkpoint. */
    readonly ignoreCheckpoint?: boolean;
  },
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
      ...options,
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
    const decisions = join(source, COORDINATOR_DIRECTORY);
    if (env.exists(decisions)) copyDirectory(env, decisions, join(target, COORDINATOR_DIRECTORY));
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
    if (treeOfDirectory(name) !== undefined) {
      copyDirectory(env, join(from, name), path);
      continue;
    }
    const failure = copyFile(join(from, name), path);
    if (failure !== undefined) throw failure;
    const file = env.open(path, 'write');
    try {
      file.sync();
    } finally {
      file.close();
    }
  }
  env.syncDirectory(to);
}

/** Returns why it could not be copied. */
function copyFile(from: string, to: string): ConcordError | undefined {
  try {
    fs.copyFileSync(from, to, fs.constants.COPYFILE_EXCL);
    fs.chmodSync(to, 0o600);
    return undefined;
  } catch (error) {
    return fromSystemError(error, 'copy', from);
  }
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
    const decisions = salvageDecisions(env, directory, manifest);
    losses.push(...decisions.losses);
    for (let shard = 0; shard < manifest.shards; shard++) {
      entries += repairShard(
        env,
        manifest,
        shard,
        shardDirectory(directory, shard),
        shardDirectory(rebuilt, shard),
        decisions,
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

function salvageDecisions(env: NodeEnv, directory: string, manifest: Manifest): DecisionsFound {
  try {
    return decidedOf(env, directory, manifest, 'salvage');
  } catch (error) {
    return { decided: new Set(), losses: [problemOf(error)] };
  }
}

/** What a shard has prepared is applied or given up, for the rebuilt store has nobody to ask. */
function settleShard(store: ShardStore, shard: number, decisions: DecisionsFound, losses: Problem[]): void {
  const { prepared, abandoned } = store.recovery;
  const lost = (id: number, why: string): void => {
    const message = `shard ${shard}: transaction ${id} is given up there: ${why}`;
    losses.push({ code: 'ERR_CORRUPT', message, details: { shard, transaction: id } });
  };
  for (const id of abandoned) lost(id, 'it was prepared before a part of the log that is lost');
  if (decisions.losses.length > 0) {
    for (const id of prepared)
      if (!decisions.decided.has(id)) lost(id, 'it was prepared, and the decision may be among those that are lost');
  }
  settlePrepared(store, (id) => decisions.decided.has(id));
}

function repairShard(
  env: NodeEnv,
  manifest: Manifest,
  shard: number,
  from: string,
  to: string,
  decisions: DecisionsFound,
  losses: Problem[],
): number {
  const storeId = storeIdOf(manifest);
  env.makeDirectory(to);
  // A tree that has no files yet makes them when the log is read.
  const hasTrees =
    env.exists(from) &&
    (treesOf(env, from).length > 0 || definitionsOf(manifest).some(({ engine }) => engine === LSM_ENGINE));
  let hasCheckpoint = env.exists(from) && findCheckpoint(env, from) !== undefined;
  // Trees are mended where they shall stay. What else the shard has is read there as well: an LSM-Tree takes what only the log has into its files.
  if (hasTrees) hasCheckpoint = gatherShard(env, manifest, shard, from, to, losses);
  const place = hasTrees ? to : from;
  const attempts = env.exists(from) ? [false, true] : [false];
  let store: ShardStore | undefined;
  for (const ignoreCheckpoint of hasTrees && !hasCheckpoint ? [true] : attempts) {
    try {
      // A damaged checkpoint is set aside in memory only: the log alone may still hold something.
      store = openShard(env, place, manifest, shard, {
        recoveryMode: 'salvage',
        readOnly: !hasTrees,
        ignoreCheckpoint,
      });
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
  if (store !== undefined) {
    try {
      settleShard(store, shard, decisions, losses);
    } catch (error) {
      losses.push(problemOf(error));
    }
  }
  const publishedSeq = store?.publishedSeq ?? 0;
  let trees: readonly LsmRoot[] = [];
  const checkpoint = join(to, `repaired-${randomBytes(6).toString('hex')}`);
  if (store !== undefined) {
    const { arena, spaces } = store;
    // What can be read of a tree with a page file is written anew.
    passOverDamage(arena, (error) => losses.push(problemOf(error)));
    for (const { engine } of spaces.backgroundSpaces) engine.background?.relieve(env.now());
    publishTrees(arena, publishedSeq);
    trees = lsmSiteOf(arena)?.capture() ?? [];
    env.makeDirectory(checkpoint);
    const header = { storeId, shard, lsn: 0, publishedSeq, createdAt: env.now() };
    const writer = CheckpointWriter.create(env, checkpoint, header);
    const emit = (chunk: Uint8Array): void => {
      writer.write(chunk);
    };
    writeImage(arena, arena.published(), emit, false);
    for (const { id, engine } of spaces.all) {
      if (engine.background !== undefined) continue;
      if (engine.code !== EngineCode.btree || engine.counts().isPaged === true)
        writeEntries(arena, JOB_READER_SLOT, id, publishedSeq, emit);
    }
    for (const root of trees) emit(lsmRootChunk(root));
    writer.finish();
  }
  const entries = store === undefined ? 0 : entriesOf(store);
  store?.close();
  // The old checkpoint and log have been read, and page files written anew; trees that no space is in are nobody's.
  for (const name of env.list(to)) {
    if (treeOfDirectory(name) === undefined && join(to, name) !== checkpoint) env.remove(join(to, name));
  }
  for (const tree of hasTrees ? treesOf(env, to) : []) {
    if (trees.some((root) => root.tree === tree)) continue;
    fs.rmSync(join(to, treeDirectoryName(tree)), { recursive: true, force: true });
  }
  if (store !== undefined) {
    for (const name of env.list(checkpoint)) env.rename(join(checkpoint, name), join(to, name));
    fs.rmdirSync(checkpoint);
  }
  WalWriter.create(env, to, { storeId, shard }).close();
  env.syncDirectory(to);
  return entries;
}

/**
 * What a shard with LSM-Trees has, in a directory where it may be changed: copies of its files, and its trees, mended. Returns whether its checkpoint can
 * be read.
 */
function gatherShard(
  env: NodeEnv,
  manifest: Manifest,
  shard: number,
  from: string,
  to: string,
  losses: Problem[],
): boolean {
  const storeId = storeIdOf(manifest);
  for (const name of env.list(from)) {
    if (treeOfDirectory(name) !== undefined) continue;
    const failure = copyFile(join(from, name), join(to, name));
    // Something else under its name, such as a directory, is not worth less than a damaged file.
    if (failure?.code === 'ERR_DISK_FULL') throw failure;
    if (failure !== undefined) losses.push(problemOf(failure));
  }
  let roots: readonly LsmRoot[] | undefined;
  try {
    roots = lsmRootsOf(env, from, manifest, shard);
  } catch (error) {
    // Every tree may be a space's then; its manifest says whose.
    losses.push(problemOf(error));
  }
  const logEndSeq = logEndOf(env, from, manifest, shard);
  for (const tree of treesOf(env, from)) {
    const root = roots?.find((one) => one.tree === tree);
    // What a checkpoint does not name no space is in.
    if (roots !== undefined && root === undefined) continue;
    const name = treeDirectoryName(tree);
    const identity = { storeId, shard, tree };
    const options = { logEndSeq, ...(root === undefined ? {} : { storedSeqAtLeast: root.storedSeq }) };
    const { losses: found, state } = repairTree(env, join(from, name), join(to, name), identity, options);
    losses.push(...found.map(({ code, message, details }) => ({ code, message, details: { ...details, shard } })));
    if (roots === undefined && state.spaceId === undefined && state.tables.size > 0) {
      const file = join(from, name);
      const message = `${file}: neither a checkpoint nor a manifest says whose ${state.tables.size} tables these are; lost: all of them`;
      losses.push({ code: 'ERR_CORRUPT', message, details: { file, shard } });
    }
  }
  for (const root of roots ?? []) {
    if (env.exists(join(to, treeDirectoryName(root.tree)))) continue;
    // Not even a damaged manifest: it begins anew, empty, and the log may still hold something.
    const name = treeDirectoryName(root.tree);
    const identity = { storeId, shard, tree: root.tree };
    const { losses: found } = repairTree(env, join(from, name), join(to, name), identity, {
      logEndSeq,
      storedSeqAtLeast: root.storedSeq,
    });
    losses.push(...found.map(({ code, message, details }) => ({ code, message, details: { ...details, shard } })));
  }
  return roots !== undefined;
}

/** The trees that the checkpoint names; undefined when there is none. @throws ERR_CORRUPT, ERR_IO */
function lsmRootsOf(env: NodeEnv, directory: string, manifest: Manifest, shard: number): LsmRoot[] | undefined {
  const found = findCheckpoint(env, directory);
  if (found === undefined) return undefined;
  const roots: LsmRoot[] = [];
  for (const chunk of readCheckpoint(env, found.path, { storeId: storeIdOf(manifest), shard })) {
    if (!isLsmRootChunk(chunk)) continue;
    const root = decodeLsmRoot(chunk);
    // 0: it has no files.
    if (root.tree !== 0) roots.push(root);
  }
  return roots;
}

/** The last number in what can be read of the log; 0: it holds nothing. */
function logEndOf(env: NodeEnv, directory: string, manifest: Manifest, shard: number): number {
  let end = 0;
  try {
    recoverWal(env, directory, {
      storeId: storeIdOf(manifest),
      shard,
      fromLsn: 1,
      mode: 'salvage',
      onFrame: ({ firstSeq, operationCount }) => {
        if (operationCount > 0) end = Math.max(end, firstSeq + operationCount - 1);
      },
    });
  } catch (error) {
    // The shard that is opened next says it.
    if (!(error instanceof ConcordError) || error.code !== 'ERR_CORRUPT') throw error;
  }
  return end;
}
