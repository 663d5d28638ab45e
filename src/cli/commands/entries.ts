/** concordkv get, put, del, scan: single entries and ranges from the command line. */
import { isUtf8 } from 'node:buffer';
import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { CliFailure, EXIT, SIGNAL_EXIT, usage } from '../exit.js';
import {
  addStoreOptions,
  addWriteOptions,
  openExisting,
  openForReading,
  openOrCreate,
  parseInteger,
  stoppable,
} from '../open.js';
import type { StoreOptions, WriteOptions } from '../open.js';
import { formatCount, print } from '../output.js';
import { standardInput } from '../stdin.js';
import { keyFromText, keyToJson, toText, valueFromText, valueToJson } from '../text.js';
import type { ValueEncodingName } from '../text.js';

const KEY_HELP = `
Keys are written as the store encodes them: text (utf8), "hex:00ff" or "base64:AP8=" (binary), a JSON array (tuple).`;

type SetExit = (code: number) => void;

async function closing<T>(close: () => Promise<void>, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } finally {
    await close();
  }
}

export function getCommand(parent: Command, setExit: SetExit): void {
  addStoreOptions(parent.command('get'))
    .argument('<key>')
    .summary('print the value of a key')
    .description('Prints the value of a key. Exits with 3 when there is no such key.')
    .addHelpText(
      'after',
      `${KEY_HELP}
Binary values are printed as they are; with --json as base64.

Examples:
  $ concordkv get user:1 --db ./users
  $ concordkv get '["DE","Berlin",2950159]' --db ./cities --json`,
    )
    .action(async (text: string, options: StoreOptions) => {
      const { db, keyEncoding } = await openForReading(options);
      await closing(
        () => db.close(),
        async () => {
          const key = keyFromText(text, keyEncoding);
          const entry = await db.getEntry(key);
          if (entry === undefined) throw new CliFailure('ERR_KEY_ABSENT', `${text}: there is no such key`, EXIT.absent);
          if (options.json) {
            const { value, version } = entry;
            await print(JSON.stringify({ key: keyToJson(key), value: valueToJson(value), version }) + '\n');
          } else if (entry.value instanceof Uint8Array) await print(entry.value);
          else await print(toText(entry.value) + '\n');
          setExit(EXIT.ok);
        },
      );
    });
}

interface PutOptions extends WriteOptions {
  readonly file?: string;
  readonly ifAbsent?: boolean;
  readonly ifVersion?: number;
}

async function readStdin(): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of standardInput() as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function readInput(file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new CliFailure('ERR_INPUT', code === 'ENOENT' ? `${file}: there is no such file` : `${file}: ${message}`);
  }
}

/** Of a value that is stored as text: other bytes would not come back. */
function textFrom(bytes: Buffer, valueEncoding: ValueEncodingName): string {
  if (isUtf8(bytes)) return bytes.toString('utf8');
  throw new CliFailure(
    'ERR_INPUT',
    `the value is not valid UTF-8, and the store has ${valueEncoding} values; bytes need a store with --value-encoding binary`,
  );
}

export function putCommand(parent: Command, setExit: SetExit): void {
  addWriteOptions(parent.command('put'))
    .argument('<key>')
    .argument('[value]', 'the value; without it, --file or standard input')
    .summary('store a value')
    .description('Stores a value and returns when it is durable. Creates the store when there is none.')
    .option('-f, --file <path>', 'take the value from a file; - for standard input')
    .option('--if-absent', 'only if the key does not exist; otherwise exit with 4')
    .option(
      '--if-version <n>',
      'only if the key has this version (get --json shows it); otherwise exit with 4',
      parseInteger(0),
    )
    .addHelpText(
      'after',
      `${KEY_HELP}
Values: text (utf8), JSON (json, msgpack), "hex:…", "base64:…" or the text's bytes (binary); from a file the bytes as they are.

Examples:
  $ concordkv put user:1 Ada --db ./users
  $ concordkv put '["DE","Berlin",1]' '{"population":3426354}' --db ./cities
  $ concordkv put logo --file logo.png --db ./files --value-encoding binary`,
    )
    .action(async (text: string, value: string | undefined, options: PutOptions) => {
      if (value !== undefined && options.file !== undefined) throw usage('give a value or --file, not both');
      if (options.ifAbsent && options.ifVersion !== undefined)
        throw usage('--if-absent and --if-version contradict each other');
      let bytes: Buffer | undefined;
      if (value === undefined) {
        const file = options.file ?? '-';
        bytes = file === '-' ? await readStdin() : await readInput(file);
      }
      const { db, keyEncoding, valueEncoding } = await openOrCreate(options, {
        keyEncoding: 'utf8',
        valueEncoding: bytes === undefined || isUtf8(bytes) ? 'utf8' : 'binary',
      });
      await closing(
        () => db.close(),
        async () => {
          const key = keyFromText(text, keyEncoding);
          const decoded =
            bytes !== undefined && valueEncoding === 'binary'
              ? bytes
              : valueFromText(value ?? textFrom(bytes!, valueEncoding), valueEncoding);
          const stored = await db.put(key, decoded, {
            ...(options.ifAbsent && { ifAbsent: true }),
            ...(options.ifVersion !== undefined && { ifVersion: options.ifVersion }),
          });
          if (!stored)
            throw new CliFailure(
              'ERR_PRECONDITION',
              `${text}: the condition does not hold, nothing was written`,
              EXIT.refused,
            );
          if (options.json) await print(JSON.stringify({ key: keyToJson(key), stored: true }) + '\n');
          setExit(EXIT.ok);
        },
      );
    });
}

export function delCommand(parent: Command, setExit: SetExit): void {
  addWriteOptions(parent.command('del'))
    .argument('<keys...>')
    .summary('delete keys')
    .description('Deletes keys. A key that does not exist is no failure; the output tells.')
    .addHelpText(
      'after',
      `${KEY_HELP}

Examples:
  $ concordkv del user:1 user:2 --db ./users
  $ concordkv del '["DE","Berlin",2950159]' --db ./cities --json`,
    )
    .action(async (texts: string[], options: WriteOptions) => {
      const { db, keyEncoding } = await openExisting(options);
      await closing(
        () => db.close(),
        async () => {
          const keys = texts.map((text) => keyFromText(text, keyEncoding));
          let deleted = 0;
          for (const key of keys) {
            if (await db.has(key)) deleted++;
            await db.del(key);
          }
          if (options.json) await print(JSON.stringify({ deleted, absent: keys.length - deleted }) + '\n');
          else
            await print(
              `${deleted} deleted${deleted < keys.length ? `, ${keys.length - deleted} did not exist` : ''}\n`,
            );
          setExit(EXIT.ok);
        },
      );
    });
}

interface ScanOptions extends StoreOptions {
  readonly gt?: string;
  readonly gte?: string;
  readonly lt?: string;
  readonly lte?: string;
  readonly prefix?: string;
  readonly reverse?: boolean;
  readonly limit?: number;
  readonly keysOnly?: boolean;
  readonly count?: boolean;
}

const SCAN_CHUNK_CHARS = 16 * 1024;

export function scanCommand(parent: Command, setExit: SetExit): void {
  addStoreOptions(parent.command('scan'))
    .summary('print a range of entries in key order')
    .description('Prints entries in key order: key, tab, value; with --json one {"key":…,"value":…} a line.')
    .option('--gt <key>', 'from after this key')
    .option('--gte <key>', 'from this key')
    .option('--lt <key>', 'up to before this key')
    .option('--lte <key>', 'up to this key')
    .option('--prefix <key>', 'keys that begin so (tuple keys: with these elements)')
    .option('--reverse', 'from the last to the first')
    .option('--limit <n>', 'at most so many', parseInteger(0))
    .option('--keys-only', 'no values')
    .option('--count', 'only how many there are')
    .addHelpText(
      'after',
      `${KEY_HELP}

Examples:
  $ concordkv scan --db ./users --prefix user: --limit 10
  $ concordkv scan --db ./cities --prefix '["@order","population"]' --reverse --limit 10 --keys-only
  $ concordkv scan --db ./users --json > users.ndjson`,
    )
    .action(async (options: ScanOptions) => {
      const stopped = await stoppable(async (stop) => {
        const { db, keyEncoding } = await openForReading(options);
        await closing(
          () => db.close(),
          async () => {
            const range: Record<string, unknown> = {};
            for (const bound of ['gt', 'gte', 'lt', 'lte', 'prefix'] as const) {
              const text = options[bound];
              if (text !== undefined) range[bound] = keyFromText(text, keyEncoding);
            }
            if (options.reverse) range['reverse'] = true;
            if (options.limit !== undefined) range['limit'] = options.limit;
            let count = 0;
            let text = '';
            for await (const [key, value] of db.iterator(range)) {
              if (stop.aborted) return;
              count++;
              if (options.count) continue;
              if (options.json) {
                text += JSON.stringify(
                  options.keysOnly ? { key: keyToJson(key) } : { key: keyToJson(key), value: valueToJson(value) },
                );
              } else text += options.keysOnly ? toText(key) : `${toText(key)}\t${toText(value)}`;
              text += '\n';
              if (text.length >= SCAN_CHUNK_CHARS) {
                await print(text);
                text = '';
              }
            }
            if (options.count) text = options.json ? JSON.stringify({ count }) + '\n' : `${formatCount(count)}\n`;
            if (text !== '') await print(text);
          },
        );
      });
      setExit(stopped === undefined ? EXIT.ok : SIGNAL_EXIT[stopped]);
    });
}
