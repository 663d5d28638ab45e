/**
 * Opening stores for commands: the configuration every command shares, read-only access for commands that only read, an orderly close on SIGINT and
 * SIGTERM. Threads: main thread only.
 */
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { CONFIG_KEYS } from '../config/keys.js';
import type { ConfigKey } from '../config/keys.js';
import { loadConfig, storeOptions } from '../config/load.js';
import type { LoadedConfig } from '../config/load.js';
import { textOfValue } from '../config/text.js';
import { ConcordError, ConcordPool } from '../index.js';
import { CliFailure, SIGNAL_EXIT, usage } from './exit.js';
import type { StopSignal } from './exit.js';
import type { KeyEncodingName, ValueEncodingName } from './text.js';

/** What every command has. */
export interface CommonOptions {
  readonly db: string;
  readonly json?: boolean;
  /** Defaults, file, environment and command line, put together. */
  readonly loaded: LoadedConfig;
}

/** What the commands that open a store have besides. */
export type StoreOptions = CommonOptions;
export type WriteOptions = CommonOptions;

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

// ---- configuration ----------------------------------------------------------------------------------------------------------------------

const PLACEHOLDERS = {
  bytes: 'size',
  ms: 'time',
  integer: 'n',
  boolean: 'yes|no',
  text: 'name',
  list: 'names',
} as const;

function flagOption(key: ConfigKey): Option {
  const isDirectory = key.isPath === true && key.kind === 'text';
  const names = `${key.flag === '--db' ? '-d, ' : ''}${key.flag!} <${isDirectory ? 'dir' : PLACEHOLDERS[key.kind]}>`;
  const { description, words = [] } = key;
  const allowed = words.every((word) => description.includes(word)) ? '' : `: ${key.allowed}`;
  const standard = key.unset ?? textOfValue(key, key.defaultValue);
  return new Option(names, `${description}${allowed}${isDirectory ? '' : ` (default: ${standard})`}`);
}

/** The flags of these keys; their texts are read by the configuration, with the same errors as elsewhere. */
export function addKeyFlags(command: Command, isWanted: (key: ConfigKey) => boolean): Command {
  for (const key of CONFIG_KEYS) if (key.flag !== undefined && isWanted(key)) command.addOption(flagOption(key));
  return command;
}

/** Where configuration comes from besides flags of keys. */
export function addConfigOptions(command: Command): Command {
  const collect = (text: string, before: readonly string[] | undefined): string[] => [...(before ?? []), text];
  return command
    .option(
      '--config <file>',
      'configuration; the default is concordkv.json or concordkv.yaml of the working directory',
    )
    .option('--no-config', 'read no configuration file')
    .option(
      '--set <key=value>',
      'any key of the configuration, such as store.order=64; see "concordkv config print"',
      collect,
    );
}

/** The flags of the configuration, as they stand on the command line. */
function configFlags(command: Command): string[] {
  const given: string[] = [];
  for (const option of command.options) {
    const name = option.attributeName();
    if (command.getOptionValueSource(name) !== 'cli') continue;
    const value = command.getOptionValue(name) as string | false | string[];
    const isKey = CONFIG_KEYS.some(({ flag }) => flag === option.long);
    if (option.long === '--set') for (const setting of value as string[]) given.push('--set', setting);
    else if (isKey) given.push(option.long!, value as string);
    else if (option.long === '--config' && value !== false) given.push('--config', value as string);
    else if (option.long === '--no-config' && value === false) given.push('--no-config');
  }
  return given;
}

/** Loads the configuration of a command line, and loads it anew each time it is called. */
export function configLoader(command: Command): () => LoadedConfig {
  const argv = configFlags(command);
  return () => {
    try {
      return loadConfig({ argv });
    } catch (error) {
      // The store's own failure of that name has another cure.
      if (error instanceof ConcordError && error.code === 'ERR_NOT_FOUND')
        throw new CliFailure('ERR_INPUT', error.message);
      throw error;
    }
  };
}

export function warn(message: string, asJson: boolean): void {
  process.stderr.write(asJson ? `${JSON.stringify({ warning: { message } })}\n` : `concordkv: warning: ${message}\n`);
}

/** Loads the configuration before the command's action, which finds it in its options. */
function withConfig(command: Command): Command {
  return command.hook('preAction', (_, acting) => {
    const loaded = configLoader(acting)();
    const { json } = acting.opts<{ json?: boolean }>();
    for (const warning of loaded.warnings) warn(warning, json === true);
    const { db } = acting.opts<{ db?: string }>();
    const directory = db ?? loaded.values.store.directory;
    if (directory === undefined) {
      throw usage(
        'no store is named: say --db <dir>, or set store.directory in the configuration or CONCORDKV_DIRECTORY',
      );
    }
    acting.setOptionValue('db', directory);
    acting.setOptionValue('loaded', loaded);
  });
}

export function addCommonOptions(command: Command): Command {
  addKeyFlags(command, ({ path }) => path === 'store.directory');
  command.option('--json', 'machine-readable output; errors as {"error":{"code","message"}} on stderr');
  return withConfig(addConfigOptions(command));
}

const READ_FLAGS = ['store.memoryBytes', 'store.keyEncoding', 'store.valueEncoding'];
const WRITE_FLAGS = [...READ_FLAGS, 'store.engine', 'store.shards', 'store.durability'];

export function addStoreOptions(command: Command): Command {
  return addKeyFlags(addCommonOptions(command), ({ path }) => READ_FLAGS.includes(path));
}

export function addWriteOptions(command: Command): Command {
  return addKeyFlags(addCommonOptions(command), ({ path }) => WRITE_FLAGS.includes(path));
}

// ---- stores -----------------------------------------------------------------------------------------------------------------------------

function described(db: Store): OpenStore {
  return {
    db,
    keyEncoding: db.keyEncodingName,
    valueEncoding: db.valueEncodingName as ValueEncodingName,
  };
}

export async function openForReading(options: StoreOptions): Promise<OpenStore> {
  const db = await ConcordPool.open<unknown, unknown>(options.db, {
    ...storeOptions(options.loaded),
    readOnly: true,
    createIfMissing: false,
  });
  return described(db);
}

export async function openExisting(options: WriteOptions): Promise<OpenStore> {
  const db = await ConcordPool.open<unknown, unknown>(options.db, {
    ...storeOptions(options.loaded),
    createIfMissing: false,
  });
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
    ...storeOptions(options.loaded),
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
