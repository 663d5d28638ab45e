/**
 * The directory of a store that is being opened: found, or begun, and locked against other openers.
 *
 *   missing, empty, unfinished  CREATING ──▶ the shards' files ──▶ MANIFEST      before that a crash leaves what the next opener clears
 *   store                       MANIFEST read; options that were given must agree with it
 *   foreign                     refused: it is not ours to clear
 *
 * Must hold: who writes has the lock before he looks a second time; what fails gives the lock back. Threads: the host's.
 */
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import { dirname, resolve } from 'node:path';
import { ConcordError } from '../../shared/errors.js';
import { acquireDirectoryLock, type DirectoryLock } from '../../shared/env/directory-lock.js';
import type { Env } from '../../shared/env/env.js';
import { NodeEnv } from '../../shared/env/node-env.js';
import {
  beginCreation,
  defaultSpaceOf,
  inspectDirectory,
  newManifest,
  readManifest,
  removeCreationMarker,
  type Manifest,
} from './manifest.js';
import { defaultShardCount, type ResolvedOptions } from './options.js';

/** In the place of a path: nothing is kept on disk. */
export const IN_MEMORY = ':memory:';

export interface OpenedDirectory {
  /** Absolute; or IN_MEMORY. */
  readonly directory: string;
  readonly manifest: Manifest;
  /** It is being created, and has no MANIFEST yet: see finishCreation(). */
  readonly isNew: boolean;
  /** Undefined where nothing is written. */
  readonly lock: DirectoryLock | undefined;
}

/** @throws ERR_NOT_FOUND, ERR_EXISTS, ERR_LOCKED, ERR_OPTION_CONFLICT, ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO, ERR_PERMISSION, ERR_DISK_FULL */
export async function openDirectory(path: string, options: ResolvedOptions): Promise<OpenedDirectory> {
  if (path === IN_MEMORY) return { directory: path, manifest: manifestOf(options), isNew: true, lock: undefined };
  const directory = resolve(path);
  const env = new NodeEnv();
  const before = inspectDirectory(env, directory);
  if (before === 'store' && options.errorIfExists) throw existsAlready(directory);
  if (before === 'foreign') {
    throw new ConcordError(
      'ERR_CORRUPT',
      `${directory} is not empty and has no MANIFEST: not a store, or a damaged one`,
      { directory },
    );
  }
  if (before !== 'store') {
    if (!options.createIfMissing || options.readOnly) {
      throw new ConcordError('ERR_NOT_FOUND', `there is no store at ${directory}`, { directory });
    }
    env.makeDirectory(directory);
    env.syncDirectory(dirname(directory));
  }
  const lock = options.readOnly ? undefined : await acquireDirectoryLock(directory);
  try {
    // Another opener may have finished a creation meanwhile.
    const isNew = inspectDirectory(env, directory) !== 'store';
    if (isNew) beginCreation(env, directory, removeTree);
    const manifest = isNew ? manifestOf(options) : manifestFound(env, directory, options);
    return { directory, manifest, isNew, lock };
  } catch (error) {
    lock?.release();
    throw error;
  }
}

/** A directory for a copy of the store, to which finishCreation() gives its MANIFEST. @throws ERR_EXISTS, ERR_IO, ERR_DISK_FULL, ERR_PERMISSION */
export function beginCopy(path: string): string {
  const directory = resolve(path);
  const env = new NodeEnv();
  const found = inspectDirectory(env, directory);
  if (found === 'store' || found === 'foreign') {
    throw new ConcordError('ERR_EXISTS', `${directory} is not empty`, { directory });
  }
  env.makeDirectory(directory);
  beginCreation(env, directory, removeTree);
  return directory;
}

function removeTree(path: string): void {
  fs.rmSync(path, { recursive: true, force: true });
}

function existsAlready(directory: string): ConcordError {
  return new ConcordError('ERR_EXISTS', `${directory} holds a store already`, { directory });
}

function manifestOf(options: ResolvedOptions): Manifest {
  const { valueEncoding } = options;
  return newManifest(
    {
      storeId: randomBytes(16).toString('hex'),
      shards: options.shardCount ?? defaultShardCount(),
      createdAt: new Date().toISOString(),
    },
    {
      engine: options.engine ?? 'btree',
      keyEncoding: options.keyEncoding ?? 'utf8',
      valueEncoding:
        valueEncoding === undefined ? 'utf8' : typeof valueEncoding === 'string' ? valueEncoding : valueEncoding.name,
    },
  );
}

function manifestFound(env: Env, directory: string, options: ResolvedOptions): Manifest {
  if (options.errorIfExists) throw existsAlready(directory);
  const manifest = readManifest(env, directory);
  checkAgreement(manifest, options, directory);
  if (!options.readOnly) removeCreationMarker(env, directory);
  return manifest;
}

/** @throws ERR_OPTION_CONFLICT when an option given contradicts the directory. */
function checkAgreement(manifest: Manifest, options: ResolvedOptions, directory: string): void {
  const conflict = (name: string, stored: string | number, given: string | number): ConcordError =>
    new ConcordError('ERR_OPTION_CONFLICT', `${directory} was created with ${name} ${stored}, not ${given}`, {
      option: name,
      stored,
      given,
    });
  if (options.shardCount !== undefined && options.shardCount !== manifest.shards) {
    throw conflict('shards', manifest.shards, options.shardCount);
  }
  const space = defaultSpaceOf(manifest);
  if (options.engine !== undefined && options.engine !== space.engine)
    throw conflict('engine', space.engine, options.engine);
  if (options.keyEncoding !== undefined && options.keyEncoding !== space.keyEncoding) {
    throw conflict('keyEncoding', space.keyEncoding, options.keyEncoding);
  }
  const { valueEncoding } = options;
  const name = typeof valueEncoding === 'object' ? valueEncoding.name : valueEncoding;
  if (name !== undefined && name !== space.valueEncoding) throw conflict('valueEncoding', space.valueEncoding, name);
}
