/**
 * The store's manifest: what a data directory is, in one small file that is written once, when the store is created.
 *
 *   MANIFEST    line 1: JSON { magic, formatVersion, storeId, shards, hashSlots, keyEncoding, valueEncoding, createdAt }
 *               line 2: crc32 of line 1, eight hex digits
 *   CREATING    exists while the store is being created: without a MANIFEST beside it, everything here may be thrown away
 *   LOCK        see shared/env/directory-lock.ts
 *   shard-0000/ log and checkpoints of a shard
 *
 * Format versions: 1 - the first. Threads: the host, once, at open.
 */
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { crc32 } from '../../shared/checksum.js';
import { ConcordError } from '../../shared/errors.js';
import type { Env } from '../../shared/env/env.js';
import { HASH_SLOTS } from '../../shared/hash.js';
import { MAX_SHARDS } from '../control-block.js';

export const FORMAT_VERSION = 1;
const MAGIC = 'ConcordKV store';
const MANIFEST_NAME = 'MANIFEST';
const TEMPORARY_NAME = 'MANIFEST.tmp';
const CREATING_NAME = 'CREATING';
const MANIFEST_BYTES_MAX = 64 * 1024;

const versionSchema = z.object({ magic: z.literal(MAGIC), formatVersion: z.int() });

const schema = z.object({
  magic: z.literal(MAGIC),
  formatVersion: z.int(),
  storeId: z.string().regex(/^[0-9a-f]{32}$/),
  shards: z.int().min(1).max(MAX_SHARDS),
  hashSlots: z.literal(HASH_SLOTS),
  keyEncoding: z.enum(['utf8', 'binary', 'tuple']),
  valueEncoding: z.string().min(1).max(64),
  createdAt: z.string(),
});

export type Manifest = z.output<typeof schema>;

export function shardDirectory(directory: string, shard: number): string {
  return join(directory, `shard-${String(shard).padStart(4, '0')}`);
}

export type DirectoryState = 'missing' | 'empty' | 'unfinished' | 'store' | 'foreign';

/** What is at this path. */
export function inspectDirectory(env: Env, directory: string): DirectoryState {
  if (!env.exists(directory)) return 'missing';
  const names = env.list(directory).filter((name) => !name.startsWith('LOCK'));
  if (names.includes(MANIFEST_NAME)) return 'store';
  if (names.includes(CREATING_NAME)) return 'unfinished';
  return names.length === 0 ? 'empty' : 'foreign';
}

/** @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO, ERR_PERMISSION */
export function readManifest(env: Env, directory: string): Manifest {
  const path = join(directory, MANIFEST_NAME);
  if (!env.exists(path)) {
    throw new ConcordError('ERR_CORRUPT', `${directory} has no MANIFEST: not a store, or a damaged one`, {
      file: path,
    });
  }
  const file = env.open(path, 'read');
  let text: string;
  try {
    const bytes = Buffer.alloc(Math.min(file.size(), MANIFEST_BYTES_MAX));
    const length = file.read(bytes, 0, bytes.length, 0);
    text = bytes.toString('utf8', 0, length);
  } finally {
    file.close();
  }
  const [line = '', stored = ''] = text.split('\n');
  const computed = checksumOf(line);
  if (stored !== computed) {
    throw new ConcordError('ERR_CORRUPT', `${path}: stored crc ${stored.slice(0, 8) || 'none'}, computed ${computed}`, {
      file: path,
      offset: 0,
    });
  }
  const fields: unknown = JSON.parse(line);
  // What else a manifest of another version holds is not for this release to judge.
  const { success: isOurs, data: version } = versionSchema.safeParse(fields);
  if (isOurs && version.formatVersion !== FORMAT_VERSION) {
    throw new ConcordError(
      'ERR_FORMAT_VERSION',
      `${path}: format version ${version.formatVersion}, this release reads ${FORMAT_VERSION}`,
      { file: path, found: version.formatVersion, supported: FORMAT_VERSION },
    );
  }
  const parsed = schema.safeParse(fields);
  if (!parsed.success) {
    throw new ConcordError('ERR_CORRUPT', `${path}: ${parsed.error.issues[0]?.message ?? 'not a manifest'}`, {
      file: path,
    });
  }
  return parsed.data;
}

/** Step 1 of a creation: marks the directory, and clears what an interrupted creation left. */
export function beginCreation(env: Env, directory: string, removeTree: (path: string) => void): void {
  const marker = join(directory, CREATING_NAME);
  if (!env.exists(marker)) {
    env.open(marker, 'create').close();
    env.syncDirectory(directory);
  }
  for (const name of env.list(directory)) if (name.startsWith('shard-')) removeTree(join(directory, name));
}

/** Step 2, when every shard's files are durable: from here on the store exists. */
export function finishCreation(env: Env, directory: string, manifest: Manifest): void {
  const line = JSON.stringify(manifest);
  const bytes = Buffer.from(`${line}\n${checksumOf(line)}\n`);
  const temporary = join(directory, TEMPORARY_NAME);
  if (env.exists(temporary)) env.remove(temporary);
  const file = env.open(temporary, 'create');
  try {
    file.write(bytes, 0, bytes.length, 0);
    file.sync();
  } finally {
    file.close();
  }
  env.syncDirectory(directory);
  syncNameOf(env, directory);
  env.rename(temporary, join(directory, MANIFEST_NAME));
  env.syncDirectory(directory);
  removeCreationMarker(env, directory);
}

/**
 * Makes the directory's own name durable, and the names of those above it: any of them may have been made a moment ago, by this process or
 * by one that was killed. What this process may not open it did not make.
 */
function syncNameOf(env: Env, directory: string): void {
  for (let child = directory, parent = dirname(child); parent !== child; child = parent, parent = dirname(child)) {
    try {
      env.syncDirectory(parent);
    } catch (error) {
      if (!(error instanceof ConcordError) || error.code !== 'ERR_PERMISSION') throw error;
    }
  }
}

/** A creation that ended between its last two steps leaves the marker beside the manifest. */
export function removeCreationMarker(env: Env, directory: string): void {
  const marker = join(directory, CREATING_NAME);
  if (!env.exists(marker)) return;
  env.remove(marker);
  env.syncDirectory(directory);
}

export function newManifest(fields: Omit<Manifest, 'magic' | 'formatVersion' | 'hashSlots'>): Manifest {
  return { magic: MAGIC, formatVersion: FORMAT_VERSION, hashSlots: HASH_SLOTS, ...fields };
}

function checksumOf(line: string): string {
  const bytes = Buffer.from(line);
  return (crc32(bytes, 0, bytes.length) >>> 0).toString(16).padStart(8, '0');
}
