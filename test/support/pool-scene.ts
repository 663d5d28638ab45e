/**
 * Scenes for tests of whole pools: directories that vanish with their test, coded failures, keys of one shard, telling values.
 * Threads: the test's.
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished } from 'vitest';
import { HASH_SLOTS, hashBytes, slotOf } from '../../dist/shared/hash.js';

/** Runs of a randomised test: CONCORDKV_TEST_RUNS, or the test's own default, which suits CI. */
export function runCount(standard: number): number {
  return Number(process.env['CONCORDKV_TEST_RUNS'] ?? standard);
}

/** An empty directory; the caller removes it with {@link removeDirectory}. */
export function makeDirectory(): string {
  return mkdtempSync(join(tmpdir(), 'concordkv-test-'));
}

export function removeDirectory(directory: string): void {
  rmSync(directory, { recursive: true, force: true });
}

/** An empty directory that is removed when the test has finished. */
export function scratchDirectory(): string {
  const directory = makeDirectory();
  onTestFinished(() => {
    removeDirectory(directory);
  });
  return directory;
}

/** Files below a directory, as relative paths, sorted. */
export function filesOf(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

export interface Failure extends Error {
  readonly code?: string;
  readonly details?: Readonly<Record<string, unknown>>;
  readonly retryable?: boolean;
}

/** What the work failed with. Fails the test if it did not. */
export async function failureOf(work: Promise<unknown> | (() => unknown)): Promise<Failure> {
  let value: unknown;
  try {
    value = await (typeof work === 'function' ? work() : work);
  } catch (error) {
    expect(error).toBeInstanceOf(Error);
    return error as Failure;
  }
  return expect.fail(`expected a failure, got ${String(value)}`);
}

/** The code of what the work failed with. */
export async function codeOf(work: Promise<unknown> | (() => unknown)): Promise<string | undefined> {
  const failure = await failureOf(work);
  return failure.code ?? failure.name;
}

/** The shard a utf8 key lives on, in a store that was created with this many. */
export function shardOf(key: string, shards: number): number {
  const bytes = Buffer.from(key);
  return Math.floor((slotOf(hashBytes(bytes, 0, bytes.length)) * shards) / HASH_SLOTS);
}

/** Ascending keys that all live on one shard. */
export function keysOfShard(shard: number, shards: number, count: number, prefix = 'k'): string[] {
  const keys: string[] = [];
  for (let i = 0; keys.length < count; i++) {
    const key = `${prefix}${String(i).padStart(7, '0')}`;
    if (shardOf(key, shards) === shard) keys.push(key);
  }
  return keys;
}

/** Made more than once, by a test and by what checks it. */
const patterns = new Map<string, string>();
const PATTERNS_KEPT_LENGTH = 64 << 20;
let patternsLength = 0;

/** Text in which every stretch tells where it stands: a shifted, cut or mixed-up value differs. */
export function patternText(length: number, seed = 0): string {
  const name = `${seed}:${length}`;
  const made = patterns.get(name);
  if (made !== undefined) return made;
  let text = '';
  for (let block = 0; text.length < length; block++) text += `<${seed}:${length}:${block}>`;
  text = text.slice(0, length);
  if (patternsLength + length <= PATTERNS_KEPT_LENGTH) {
    patterns.set(name, text);
    patternsLength += length;
  }
  return text;
}

/** The same as bytes, without building a string first. */
export function patternBytes(length: number, seed = 0): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  let state = (length ^ Math.imul(seed + 1, 0x9e3779b1)) >>> 0;
  for (let i = 0; i < length; i++) {
    if ((i & 3) === 0) state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> ((i & 3) * 8);
  }
  return bytes;
}

/** Compares tens of thousands of entries; only those that differ are shown by the runner, whose comparison takes ten times as long. */
export function expectEntries(found: readonly [string, string][], expected: readonly [string, string][]): void {
  const isSame = (entry: readonly [string, string], index: number): boolean =>
    entry[0] === expected[index]?.[0] && entry[1] === expected[index]?.[1];
  if (found.length !== expected.length || !found.every(isSame)) expect(found).toEqual(expected);
}

/** Keys in the order of the store: by their UTF-8 bytes. */
export function byBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}
