/**
 * concordkv load: records of an NDJSON or CSV file into a store, with a window of writes in flight so that memory stays flat and every
 * group commit is full.
 */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { extname } from 'node:path';
import type { Readable } from 'node:stream';
import { Option } from 'commander';
import type { Command } from 'commander';
import { CliFailure, EXIT, SIGNAL_EXIT, usage } from '../exit.js';
import { addWriteOptions, openOrCreate, stoppable } from '../open.js';
import type { OpenStore, WriteOptions } from '../open.js';
import { formatBytes, formatCount, formatSeconds, print } from '../output.js';
import { startProgress } from '../progress.js';
import { readRecords } from '../records.js';
import type { RecordFormat, RecordSource } from '../records.js';
import { standardInput } from '../stdin.js';
import { fromJson, keyFromJson, valueFromJson } from '../text.js';

interface LoadOptions extends WriteOptions {
  readonly format?: RecordFormat;
  readonly key?: string[];
  readonly keyPrefix?: string;
  readonly value?: string;
  readonly orderBy?: string;
  readonly number?: string[];
  readonly skipBad?: boolean;
  readonly quiet?: boolean;
}

/** Writes in flight: enough to keep every shard's commit group full, few enough to keep their promises cheap. */
const IN_FLIGHT_MAX = 4096;
const IN_FLIGHT_BYTES_MAX = 32 * 1024 * 1024;
/** Bad lines named one by one; the rest is only counted. */
const BAD_SHOWN_MAX = 20;

const list = (text: string): string[] => text.split(',').map((field) => field.trim());

export function loadCommand(parent: Command, setExit: (code: number) => void): void {
  addWriteOptions(parent.command('load'))
    .argument('<file>', '.ndjson, .jsonl or .csv file; - for standard input')
    .summary('load an NDJSON or CSV file')
    .description(
      'Loads the records of a file, one key and value each. Creates the store when there is none.\n' +
        'A bad line ends the load with its number; with --skip-bad it is reported and skipped.',
    )
    .addOption(new Option('--format <name>', 'the default follows the file name').choices(['ndjson', 'csv']))
    .option(
      '-k, --key <fields>',
      'field that is the key; several, comma-separated, make a tuple key (default: key)',
      list,
    )
    .option('--key-prefix <json>', 'JSON array put before the fields of a tuple key')
    .option('--value <field>', 'store this field instead of the whole record (default: value, when --key is not given)')
    .option(
      '--order-by <field>',
      'also write ["@order", field, its value, …key] per record, for scans in that order (tuple keys)',
    )
    .option('--number <fields>', 'CSV columns that are numbers, comma-separated', list)
    .option('--skip-bad', 'go on after bad lines')
    .option('-q, --quiet', 'no progress')
    .addHelpText(
      'after',
      `
Examples:
  $ concordkv load cities.ndjson --db ./cities --key country,name,cityId --order-by population
  $ concordkv load users.csv --db ./users --key email --number age,score --skip-bad
  $ concordkv scan --db ./a --json | concordkv load - --format ndjson --db ./b

Lines that are not stored are reported as file:line. Without --key, records must look like {"key":…,"value":…}, as scan --json
prints them. Loading a record again overwrites it.`,
    )
    .action(async (file: string, options: LoadOptions) => setExit(await load(file, options)));
}

function formatOf(file: string, options: LoadOptions): RecordFormat {
  if (options.format) return options.format;
  const extension = extname(file).toLowerCase();
  if (extension === '.ndjson' || extension === '.jsonl') return 'ndjson';
  if (extension === '.csv') return 'csv';
  throw usage(`${file}: neither .ndjson, .jsonl nor .csv; say --format ndjson or --format csv`);
}

/** A field by its dotted path. */
function fieldOf(record: Record<string, unknown>, path: string): unknown {
  if (Object.hasOwn(record, path)) return record[path];
  let value: unknown = record;
  for (const part of path.split('.')) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, part)) return undefined;
    value = (value as Record<string, unknown>)[part];
  }
  return value;
}

interface Entry {
  readonly key: unknown;
  readonly value: unknown;
}

/** Turns records into entries; throws with the reason when a record has none. */
function entriesOf(store: OpenStore, options: LoadOptions): (record: unknown) => Entry[] {
  const { keyEncoding, valueEncoding } = store;
  const keyFields = options.key ?? ['key'];
  const valueField = options.value ?? (options.key === undefined ? 'value' : undefined);
  let prefix: unknown[] = [];
  if (options.keyPrefix !== undefined) {
    if (keyEncoding !== 'tuple') throw usage('--key-prefix needs tuple keys');
    let parsed: unknown;
    try {
      parsed = JSON.parse(options.keyPrefix);
    } catch {
      parsed = undefined;
    }
    if (!Array.isArray(parsed)) throw usage(`--key-prefix must be a JSON array, such as '["city"]'`);
    prefix = fromJson(parsed) as unknown[];
  }
  if (keyEncoding !== 'tuple') {
    if (keyFields.length > 1)
      throw usage(`--key names ${keyFields.length} fields, but the store has ${keyEncoding} keys`);
    if (options.orderBy !== undefined)
      throw usage(`--order-by needs tuple keys, but the store has ${keyEncoding} keys`);
  }
  const partOf = (record: Record<string, unknown>, field: string): unknown => {
    const value = fieldOf(record, field);
    if (value === undefined) throw new TypeError(`no field "${field}"`);
    return value;
  };
  return (record) => {
    if (typeof record !== 'object' || record === null || Array.isArray(record))
      throw new TypeError('not a JSON object');
    const fields = record as Record<string, unknown>;
    for (const column of options.number ?? []) {
      const text = fields[column];
      if (typeof text !== 'string') continue;
      const value = Number(text);
      if (text.trim() === '' || !Number.isFinite(value))
        throw new TypeError(`"${column}" is not a number: ${JSON.stringify(text)}`);
      fields[column] = value;
    }
    let key: unknown;
    if (keyEncoding !== 'tuple') key = keyFromJson(partOf(fields, keyFields[0]!), keyEncoding);
    else {
      const parts = keyFields.map((field) => keyFromJson(partOf(fields, field), 'tuple') as unknown[]);
      key = [...prefix, ...parts.flat()];
    }
    const value = valueField === undefined ? record : partOf(fields, valueField);
    const entries: Entry[] = [{ key, value: valueFromJson(value, valueEncoding) }];
    if (options.orderBy !== undefined) {
      const order = keyFromJson(partOf(fields, options.orderBy), 'tuple') as unknown[];
      entries.push({
        key: ['@order', options.orderBy, ...order, ...(key as unknown[])],
        value: valueFromJson(valueEncoding === 'json' || valueEncoding === 'msgpack' ? null : '', valueEncoding),
      });
    }
    return entries;
  };
}

/** Puts with a bounded window. A refused put is remembered and thrown by the next add() or by drain(). */
class Window {
  readonly #store: OpenStore;
  #inFlight = 0;
  #inFlightBytes = 0;
  #failure: Error | undefined;
  #wake: (() => void) | undefined;
  written = 0;

  constructor(store: OpenStore) {
    this.#store = store;
  }

  add(entry: Entry, bytes: number): Promise<void> | undefined {
    if (this.#failure) throw this.#failure;
    this.#inFlight++;
    this.#inFlightBytes += bytes;
    const settled = (error?: Error): void => {
      this.#inFlight--;
      this.#inFlightBytes -= bytes;
      if (error) this.#failure ??= error;
      else this.written++;
      if (this.#inFlight <= IN_FLIGHT_MAX / 2 && this.#inFlightBytes <= IN_FLIGHT_BYTES_MAX / 2) this.#release();
      else if (this.#inFlight === 0) this.#release();
    };
    this.#store.db.put(entry.key, entry.value).then(() => settled(), settled);
    if (this.#inFlight < IN_FLIGHT_MAX && this.#inFlightBytes < IN_FLIGHT_BYTES_MAX) return undefined;
    return new Promise((resolve) => (this.#wake = resolve));
  }

  #release(): void {
    this.#wake?.();
    this.#wake = undefined;
  }

  async drain(): Promise<void> {
    while (this.#inFlight > 0) await new Promise<void>((resolve) => setImmediate(resolve));
    if (this.#failure) throw this.#failure;
  }
}

async function load(file: string, options: LoadOptions): Promise<number> {
  const format = formatOf(file, options);
  const name = file === '-' ? 'stdin' : file;
  let totalBytes: number | undefined;
  let input: Readable;
  if (file === '-') {
    input = standardInput();
  } else {
    const facts = await stat(file).catch((error: NodeJS.ErrnoException) => {
      throw new CliFailure(
        'ERR_INPUT',
        error.code === 'ENOENT' ? `${file}: there is no such file` : `${file}: ${error.message}`,
      );
    });
    if (facts.isDirectory()) throw new CliFailure('ERR_INPUT', `${file}: is a directory`);
    totalBytes = facts.isFile() ? facts.size : undefined;
    input = createReadStream(file, { highWaterMark: 256 * 1024 });
  }
  const isTuple = (options.key?.length ?? 1) > 1 || options.orderBy !== undefined || options.keyPrefix !== undefined;
  const source = readRecords(input, format);
  const startedMs = performance.now();
  const done: Loaded = { records: 0, entries: 0, skipped: 0 };
  const stopped = await stoppable(async (stop) => {
    stop.addEventListener('abort', () => input.destroy());
    const store = await openOrCreate(options, { keyEncoding: isTuple ? 'tuple' : 'utf8', valueEncoding: 'json' });
    const progress = startProgress('load', 'records', options.quiet === true);
    try {
      await loadRecords(store, source, options, name, stop, done, () => {
        progress.update(totalBytes ? source.bytesRead() / totalBytes : undefined, done.records);
      });
    } finally {
      progress.done();
      input.destroy();
      await store.db.close();
    }
  });

  const ms = performance.now() - startedMs;
  const { records, entries, skipped } = done;
  if (skipped > BAD_SHOWN_MAX) {
    process.stderr.write(`concordkv: … and ${formatCount(skipped - BAD_SHOWN_MAX)} more bad lines\n`);
  }
  if (options.json) {
    const result = { ...done, bytes: source.bytesRead(), ms: Math.round(ms), interrupted: stopped !== undefined };
    await print(JSON.stringify(result) + '\n');
  } else {
    const rate = formatCount((records / Math.max(1, ms)) * 1000);
    const ended = stopped === undefined ? '' : `interrupted by ${stopped}, the store was closed in order: `;
    await print(
      `${ended}${formatCount(records)} records (${formatBytes(source.bytesRead())}) as ${formatCount(entries)} entries in ` +
        `${formatSeconds(ms)}, ${rate} records/s${skipped > 0 ? `; ${formatCount(skipped)} bad lines skipped` : ''}\n`,
    );
  }
  return stopped === undefined ? EXIT.ok : SIGNAL_EXIT[stopped];
}

interface Loaded {
  records: number;
  entries: number;
  skipped: number;
}

/** Stores records until the source ends or `stop` is aborted; every write it began is acknowledged when it returns. */
async function loadRecords(
  store: OpenStore,
  source: RecordSource,
  options: LoadOptions,
  name: string,
  stop: AbortSignal,
  done: Loaded,
  onProgress: () => void,
): Promise<void> {
  const toEntries = entriesOf(store, options);
  const window = new Window(store);
  let bytesBefore = 0;
  try {
    for await (const group of source.groups) {
      const bytes = source.bytesRead();
      const bytesEach = Math.ceil((bytes - bytesBefore) / group.length);
      bytesBefore = bytes;
      for (const record of group) {
        if (stop.aborted) return;
        let problem = record.problem;
        let entries: Entry[] = [];
        if (problem === undefined) {
          try {
            entries = toEntries(record.value);
          } catch (error) {
            problem = (error as Error).message;
          }
        }
        if (problem !== undefined) {
          const line = `${name}:${record.line}: ${problem}`;
          if (!options.skipBad) {
            throw new CliFailure('ERR_INPUT', `${line} (${formatCount(done.records)} records before it are stored)`);
          }
          if (++done.skipped <= BAD_SHOWN_MAX) process.stderr.write(`concordkv: skipped ${line}\n`);
          continue;
        }
        for (const entry of entries) {
          const wait = window.add(entry, bytesEach);
          if (wait) await wait;
        }
        done.records++;
      }
      onProgress();
    }
  } catch (error) {
    // Destroying the input to stop ends its iteration with an error of its own.
    if (stop.aborted) return;
    if (error instanceof CliFailure && error.code === 'ERR_INPUT' && !error.message.startsWith(name)) {
      throw new CliFailure('ERR_INPUT', `${name}: ${error.message}`);
    }
    throw error;
  } finally {
    await window.drain();
    done.entries = window.written;
  }
}
