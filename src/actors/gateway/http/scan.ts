/**
 * A range of the store as NDJSON: parsing of the query, and the lines in chunks.
 *
 * One line per entry: {"key":…,"value":…}. Values are base64 by default; with encoding=utf8 they are text, and a value that is not
 * valid UTF-8 stays base64 and says so: {"key":…,"value":…,"encoding":"base64"}. Memory stays flat: a chunk is made when the
 * connection took the one before, and between two chunks other requests of the thread get their turn.
 */
import { isUtf8 } from 'node:buffer';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { invalidArgument } from '../../../shared/errors.js';
import { DURABILITIES } from './store.js';
import type { Durability, HttpRange, HttpStore } from './store.js';

const CHUNK_CHARS = 32 * 1024;
const BOUND_NAMES = ['gt', 'gte', 'lt', 'lte', 'prefix'] as const;

export interface ScanQuery {
  readonly range: HttpRange;
  readonly encoding: 'base64' | 'utf8';
  readonly values: boolean;
}

/**
 * The parameters of a query string; '+' is a space. Unknown and repeated names are refused: a misspelt bound must not become a
 * scan of everything.
 */
export function parseQuery(url: string, known: readonly string[]): Map<string, string> {
  const parameters = new Map<string, string>();
  const from = url.indexOf('?');
  if (from < 0) return parameters;
  for (const part of url.slice(from + 1).split('&')) {
    if (part === '') continue;
    const equals = part.indexOf('=');
    const name = decodeComponent(equals < 0 ? part : part.slice(0, equals));
    const value = equals < 0 ? '' : decodeComponent(part.slice(equals + 1));
    if (!known.includes(name))
      throw invalidArgument(`unknown parameter ${JSON.stringify(name)}; known: ${known.join(', ')}`);
    if (parameters.has(name)) throw invalidArgument(`parameter ${name} is given twice`);
    parameters.set(name, value);
  }
  return parameters;
}

function decodeComponent(text: string): string {
  requireAscii(text);
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    throw invalidArgument('the query is not percent-encoded UTF-8');
  }
}

/** Raw bytes outside of ASCII arrive as latin1 and would silently become another key. */
export function requireAscii(text: string): void {
  if (/[^\x21-\x7e]/.test(text)) throw invalidArgument('bytes outside of printable ASCII must be percent-encoded');
}

export function parseDurability(text: string): Durability {
  if ((DURABILITIES as readonly string[]).includes(text)) return text as Durability;
  throw invalidArgument(`durability is ${JSON.stringify(text)}; it must be one of ${DURABILITIES.join(', ')}`);
}

function parseFlag(name: string, text: string): boolean {
  if (text === 'true' || text === '1' || text === '') return true;
  if (text === 'false' || text === '0') return false;
  throw invalidArgument(`parameter ${name} is ${JSON.stringify(text)}; it must be true or false`);
}

export function parseScan(url: string): ScanQuery {
  const parameters = parseQuery(url, [...BOUND_NAMES, 'reverse', 'limit', 'encoding', 'values']);
  const range: HttpRange = {};
  for (const name of BOUND_NAMES) {
    const value = parameters.get(name);
    if (value !== undefined) range[name] = value;
  }
  const reverse = parameters.get('reverse');
  if (reverse !== undefined) range.reverse = parseFlag('reverse', reverse);
  const limit = parameters.get('limit');
  if (limit !== undefined) {
    if (!/^\d{1,15}$/.test(limit)) throw invalidArgument(`limit is ${JSON.stringify(limit)}; it must be a count`);
    range.limit = Number(limit);
  }
  const encoding = parameters.get('encoding') ?? 'base64';
  if (encoding !== 'base64' && encoding !== 'utf8') {
    throw invalidArgument(`encoding is ${JSON.stringify(encoding)}; it must be base64 or utf8`);
  }
  const values = parameters.get('values');
  return { range, encoding, values: values === undefined ? true : parseFlag('values', values) };
}

function lineOf(key: string, value: Uint8Array, query: ScanQuery): string {
  if (!query.values) return `{"key":${JSON.stringify(key)}}\n`;
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  if (query.encoding === 'utf8') {
    if (isUtf8(bytes)) return `{"key":${JSON.stringify(key)},"value":${JSON.stringify(bytes.toString('utf8'))}}\n`;
    return `{"key":${JSON.stringify(key)},"value":"${bytes.toString('base64')}","encoding":"base64"}\n`;
  }
  return `{"key":${JSON.stringify(key)},"value":"${bytes.toString('base64')}"}\n`;
}

export async function* scanLines(store: HttpStore, query: ScanQuery): AsyncGenerator<Buffer, void, void> {
  let text = '';
  for await (const [key, value] of store.iterator(query.range)) {
    text += lineOf(key, value, query);
    if (text.length >= CHUNK_CHARS) {
      yield Buffer.from(text);
      text = '';
      await nextTurn();
    }
  }
  if (text !== '') yield Buffer.from(text);
}
