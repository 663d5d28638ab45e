/**
 * Opening stores for commands: the shared options, read-only access for commands that only read, an orderly close on SIGINT and SIGTERM.
 * Threads: main thread only.
 */
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { ConcordError, ConcordPool } from '../index.js';
import { SIGNAL_EXIT } from './exit.js';
import type { StopSignal } from './exit.js';
import { KEY_ENCODINGS, VALUE_ENCODINGS } from './text.js';
import type { KeyEncodingName, ValueEncodingName } from './text.js';

/** What every command has. */
export interface CommonOptions {
  readonly db: string;
  readonly json?: boolean;
}

/** What the commands that open a store have besides. */
export interface StoreOptions extends CommonOptions {
  readonly memory?: number;
  readonly keyEncoding?: KeyEncodingName;
  readonly valueEncoding?: ValueEncodingName;
}

export interface WriteOptions extends StoreOptions {
  readonly shards?: number | 'auto';
  readonly durability?: 'sync' | 'os' | 'memory';
}

/** The command's view of a pool: encodings are known only at run time. */
export type Store = ConcordPool<unknown, unknown>;

export interface OpenStore {
  readonly db: Store;
  readonly keyEncoding: KeyEncodingName;
  readonly valueEncoding: ValueEncodingName;
}

export function parseInteger(min: number, max: number = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max) {
      throw new InvalidArgumentError(
        max === Number.MAX_SAFE_INTEGER
          ? `It must be an integer from ${min} on.`
          : `It must be an integer from ${min} to ${max}.`,
      );
    }
    return value;
  };
}

/** 512m, 2g, 1048576 … as bytes. */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i.exec(text);
  if (!match) throw new InvalidArgumentError('It must be a size, such as 1048576, 512m or 2g.');
  return Math.round(Number(match[1]) * 1024 ** ' kmgt'.indexOf(match[2]!.toLowerCase() || ' '));
}

/** 500ms, 10s, 2m as milliseconds; a bare number is seconds. */
export function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m)?$/.exec(text);
  if (!match) throw new InvalidArgumentError('It must be a time, such as 500ms, 10s or 2m.');
  const unitMs = { ms: 1, s: 1000, m: 60_000 }[match[2] ?? 's']!;
  return Math.round(Number(match[1]) * unitMs);
}

function parseShards(text: string): number | 'auto' {
  return text === 'auto' ? 'auto' : parseInteger(1, 1024)(text);
}

export function addCommonOptions(command: Command): Command {
  return command
    .requiredOption('-d, --db <dir>', 'directory of the store')
    .option('--json', 'machine-readable output; errors as {"error":{"code","message"}} on stderr');
}

export function addStoreOptions(command: Command): Command {
  return addCommonOptions(command)
    .option('--memory <size>', 'shared memory per shard, such as 512m or 2g', parseSize)
    .addOption(
      new Option('--key-encoding <name>', 'the default is what the store was created with').choices(KEY_ENCODINGS),
    )
    .addOption(
      new Option('--value-encoding <name>', 'the default is what the store was created with').choices(VALUE_ENCODINGS),
    );
}

export function addWriteOptions(command: Command): Command {
  return addStoreOptions(command)
    .option('--shards <n|auto>', 'number of shards of a new store', parseShards)
    .addOption(
      new Option(
        '--durability <level>',
        'acknowledged after: sync, fdatasync (default) · os, write() · memory, the change in memory',
      ).choices(['sync', 'os', 'memory']),
    );
}

function openOptions(options: WriteOptions): Record<string, unknown> {
  return {
    ...(options.memory !== undefined && { memoryBytes: options.memory }),
    ...(options.keyEncoding !== undefined && { keyEncoding: options.keyEncoding }),
    ...(options.valueEncoding !== undefined && { valueEncoding: options.valueEncoding }),
    ...(options.shards !== undefined && { shards: options.shards }),
    ...(options.durability !== undefined && { durability: options.durability }),
  };
}

function described(db: Store): OpenStore {
  const { keyEncoding, valueEncoding } = db as unknown as Record<'keyEncoding' | 'valueEncoding', { name: string }>;
  return {
    db,
    keyEncoding: keyEncoding.name as KeyEncodingName,
    valueEncoding: valueEncoding.name as ValueEncodingName,
  };
}

export async function openForReading(options: StoreOptions): Promise<OpenStore> {
  const db = await ConcordPool.open<unknown, unknown>(options.db, {
    ...openOptions(options),
    readOnly: true,
    createIfMissing: false,
  });
  return described(db);
}

export async function openExisting(options: WriteOptions): Promise<OpenStore> {
  const db = await ConcordPool.open<unknown, unknown>(options.db, { ...openOptions(options), createIfMissing: false });
  return described(db);
}

/** Opens the store, or creates it with these encodings where the command line names none. */
export async function openOrCreate(
  options: WriteOptions,
  fresh: { keyEncoding: KeyEncodingName; valueEncoding: ValueEncodingName },
): Promise<OpenStore> {
  try {
    return await openExisting(options);
  } catch (error) {
    if (!(error instanceof ConcordError) || error.code !== 'ERR_NOT_FOUND') throw error;
  }
  const db = await ConcordPool.open<unknown, unknown>(options.db, {
    ...fresh,
    ...openOptions(options),
    createIfMissing: true,
  });
  return described(db);
}

/**
 * Runs work that a signal may end early. The first SIGINT or SIGTERM aborts the signal handed to work, which then ends in order; the
 * second ends the process at once, which the store survives. Resolves with the signal received, if any.
 */
export async function stoppable(work: (stop: AbortSignal) => Promise<void>): Promise<StopSignal | undefined> {
  const controller = new AbortController();
  let received: StopSignal | undefined;
  const onSignal = (signal: NodeJS.Signals): void => {
    if (received !== undefined) process.exit(SIGNAL_EXIT[signal as StopSignal]);
    received = signal as StopSignal;
    controller.abort();
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  try {
    await work(controller.signal);
    return received;
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
  }
}
