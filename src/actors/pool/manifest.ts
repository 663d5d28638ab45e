/**
 * The store's manifest: what a data directory is, and which spaces it holds in which engines. One small file, written when the store is
 * created and replaced whole when a space comes, goes or changes its engine.
 *
 *   MANIFEST    line 1: JSON { magic, formatVersion, storeId, shards, hashSlots, createdAt, nextSpaceId,
 *                              spaces: [{ id, name, engine, keyEncoding, valueEncoding, tuning, createdAt }] }
 *               line 2: crc32 of line 1, eight hex digits
 *   CREATING    exists while the store is being created: without a MANIFEST beside it, everything here may be thrown away
 *   LOCK        see shared/env/directory-lock.ts
 *   shard-0000/ log and checkpoints of a shard
 *
 * The manifest is the truth about spaces: what logs and checkpoints say of an id that is not here belongs to a space that was dropped. Ids are never
 * used twice. Space 0, without a name, is the default one.
 *
 * Format versions: 1 - the first, with keyEncoding and valueEncoding and no spaces but the default one; 2 - spaces. Threads: the host; tools on a
 * directory that is not open.
 */
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { crc32 } from '../../shared/checksum.js';
import { ConcordError } from '../../shared/errors.js';
import type { Env } from '../../shared/env/env.js';
import { HASH_SLOTS } from '../../shared/hash.js';
import { DEFAULT_SPACE_ID, EXPIRY_SPACE_ID, SPACE_ID_MAX, type EngineTuning } from '../../engines/engine.js';
import type { SpaceDefinition } from '../../engines/store/space.js';
import { MAX_SHARDS } from '../control-block.js';

export const FORMAT_VERSION = 2;
const MAGIC = 'ConcordKV store';
const MANIFEST_NAME = 'MANIFEST';
const TEMPORARY_NAME = 'MANIFEST.tmp';
const CREATING_NAME = 'CREATING';
/** Spaces with the longest names take half of it. */
const MANIFEST_BYTES_MAX = 1 << 20;
const FIRST_SPACE_ID = EXPIRY_SPACE_ID + 1;

const versionSchema = z.object({ magic: z.literal(MAGIC), formatVersion: z.int() });

const keyEncodingSchema = z.enum(['utf8', 'binary', 'tuple']);
const valueEncodingSchema = z.string().min(1).max(64);

const commonSchema = z.object({
  magic: z.literal(MAGIC),
  formatVersion: z.int(),
  storeId: z.string().regex(/^[0-9a-f]{32}$/),
  shards: z.int().min(1).max(MAX_SHARDS),
  hashSlots: z.literal(HASH_SLOTS),
  createdAt: z.string(),
});

const firstSchema = commonSchema.extend({ keyEncoding: keyEncodingSchema, valueEncoding: valueEncodingSchema });

const plainSchema = z.union([z.number(), z.string(), z.boolean()]);

const spaceSchema = z.object({
  id: z.int().min(0).max(SPACE_ID_MAX),
  name: z.string().max(255),
  engine: z.string().min(1).max(32),
  keyEncoding: keyEncodingSchema,
  valueEncoding: valueEncodingSchema,
  /** An engine reads what it knows; what this release does not know is kept. */
  tuning: z.record(
    z.string(),
    z.union([plainSchema, z.record(z.string(), z.union([plainSchema, z.array(plainSchema)]))]),
  ),
  createdAt: z.string(),
});

const schema = commonSchema.extend({
  nextSpaceId: z
    .int()
    .min(FIRST_SPACE_ID)
    .max(SPACE_ID_MAX + 1),
  spaces: z.array(spaceSchema).refine((spaces) => spaces.some(({ id }) => id === DEFAULT_SPACE_ID), 'no default space'),
});

export type Manifest = z.output<typeof schema>;

/** A space as the manifest and the registry of the threads hold it. */
export interface SpaceRecord {
  readonly id: number;
  /** Empty: the default space. */
  readonly name: string;
  readonly engine: string;
  readonly keyEncoding: z.output<typeof keyEncodingSchema>;
  readonly valueEncoding: string;
  readonly tuning: EngineTuning;
  /** ISO 8601. */
  readonly createdAt: string;
}

export function spacesOf(manifest: Manifest): readonly SpaceRecord[] {
  return manifest.spaces;
}

export function defaultSpaceOf(manifest: Manifest): SpaceRecord {
  return manifest.spaces.find(({ id }) => id === DEFAULT_SPACE_ID)!;
}

/** What shards are told of the spaces. */
export function definitionsOf(manifest: Manifest): SpaceDefinition[] {
  return manifest.spaces.map(({ id, engine, tuning }) => ({ id, engine, tuning }));
}

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
  if (isOurs && (version.formatVersion < 1 || version.formatVersion > FORMAT_VERSION)) {
    throw new ConcordError(
      'ERR_FORMAT_VERSION',
      `${path}: format version ${version.formatVersion}, this release reads 1 to ${FORMAT_VERSION}`,
      { file: path, found: version.formatVersion, supported: FORMAT_VERSION },
    );
  }
  const parsed =
    isOurs && version.formatVersion === 1
      ? firstSchema.transform(withDefaultSpace).safeParse(fields)
      : schema.safeParse(fields);
  if (!parsed.success) {
    throw new ConcordError('ERR_CORRUPT', `${path}: ${parsed.error.issues[0]?.message ?? 'not a manifest'}`, {
      file: path,
    });
  }
  return parsed.data;
}

/** A manifest of the first format, which knew one space in one engine. */
function withDefaultSpace({ keyEncoding, valueEncoding, ...common }: z.output<typeof firstSchema>): Manifest {
  const { createdAt } = common;
  const space = { id: DEFAULT_SPACE_ID, name: '', engine: 'btree', keyEncoding, valueEncoding, tuning: {}, createdAt };
  return { ...common, formatVersion: FORMAT_VERSION, nextSpaceId: FIRST_SPACE_ID, spaces: [space] };
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
  const temporary = writeTemporary(env, directory, manifest);
  env.syncDirectory(directory);
  syncNameOf(env, directory);
  env.rename(temporary, join(directory, MANIFEST_NAME));
  env.syncDirectory(directory);
  removeCreationMarker(env, directory);
}

/**
 * Puts another manifest in the place of `before`: after a crash one of the two is found, whole; after a failure the old one.
 * @throws ERR_DISK_FULL, ERR_IO, ERR_PERMISSION
 */
export function replaceManifest(env: Env, directory: string, manifest: Manifest, before: Manifest): void {
  const path = join(directory, MANIFEST_NAME);
  env.rename(writeTemporary(env, directory, manifest), path);
  try {
    env.syncDirectory(directory);
  } catch (error) {
    try {
      env.rename(writeTemporary(env, directory, before), path);
    } catch {
      // The first failure says it all.
    }
    throw error;
  }
}

function writeTemporary(env: Env, directory: string, manifest: Manifest): string {
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
  return temporary;
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

/** Of a store that is being created. */
export function newManifest(
  fields: Pick<Manifest, 'storeId' | 'shards' | 'createdAt'>,
  defaultSpace: Pick<SpaceRecord, 'engine' | 'keyEncoding' | 'valueEncoding'>,
): Manifest {
  const space = { id: DEFAULT_SPACE_ID, name: '', ...defaultSpace, tuning: {}, createdAt: fields.createdAt };
  return {
    magic: MAGIC,
    formatVersion: FORMAT_VERSION,
    hashSlots: HASH_SLOTS,
    ...fields,
    nextSpaceId: FIRST_SPACE_ID,
    spaces: [space],
  };
}

function checksumOf(line: string): string {
  const bytes = Buffer.from(line);
  return (crc32(bytes, 0, bytes.length) >>> 0).toString(16).padStart(8, '0');
}
