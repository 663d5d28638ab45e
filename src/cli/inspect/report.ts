/** What an inspection hands to the command: lines for people, facts for programs, problems. Threads: main thread only. */
import { ConcordError, toErrorRecord, type ErrorRecord } from '../../shared/errors.js';
import { formatBytes, formatCount } from '../output.js';

export interface Report {
  readonly lines: readonly string[];
  /** For --json; bytes become hex. */
  readonly facts: Readonly<Record<string, unknown>>;
  readonly problems: readonly ErrorRecord[];
}

/** Damage ends in the report of what could be read, not in a failure of the command. */
export function damageOf(error: unknown): ErrorRecord {
  if (error instanceof ConcordError && (error.code === 'ERR_CORRUPT' || error.code === 'ERR_FORMAT_VERSION')) {
    return toErrorRecord(error);
  }
  throw error;
}

export function problem(file: string, offset: number, text: string): ErrorRecord {
  const message = text.startsWith(file) ? text : `${file} at ${offset}: ${text}`;
  return { code: 'ERR_CORRUPT', message, details: { file, offset } };
}

/** Rows as columns: numbers to the right, text to the left. */
export function columns(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string[] {
  const cells = rows.map((row) => row.map((cell) => (typeof cell === 'number' ? formatCount(cell) : cell)));
  const widths = head.map((name, at) => Math.max(name.length, ...cells.map((row) => row[at]!.length)));
  const isRight = head.map((_, at) => rows.length > 0 && rows.every((row) => typeof row[at] === 'number'));
  const line = (row: readonly string[]): string =>
    row
      .map((cell, at) => (isRight[at] ? cell.padStart(widths[at]!) : cell.padEnd(widths[at]!)))
      .join('  ')
      .trimEnd();
  return [line(head), ...cells.map(line)];
}

export function amount(bytes: number): string {
  return bytes < 1024 ? `${bytes} B` : `${formatBytes(bytes)} (${formatCount(bytes)})`;
}

export function shownTime(ms: number): string {
  return ms === 0 ? 'never' : new Date(ms).toISOString();
}

export function shownId(storeId: Uint8Array): string {
  return Buffer.from(storeId).toString('hex');
}

/** Facts as JSON: bytes as hex, maps as lists of their values. */
export function jsonOf(facts: unknown): string {
  return JSON.stringify(facts, (_, value: unknown) => {
    if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
    if (value instanceof Map) return [...value.values()] as unknown;
    // What JSON.stringify makes of a Buffer before anybody is asked.
    if (typeof value === 'object' && value !== null && (value as { type?: unknown }).type === 'Buffer') {
      return Buffer.from((value as { data: number[] }).data).toString('hex');
    }
    return value;
  });
}
