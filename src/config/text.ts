/**
 * Texts of files, environment and command line as values, and values as text again. Sizes count in units of 1024 bytes.
 * Threads: any.
 */
import type { ConfigKey } from './keys.js';

const UNITS = ['', 'KiB', 'MiB', 'GiB', 'TiB'];

/** 134217728 as 128MiB; what is no whole number of units stays in bytes. The inverse of parseSize(). */
export function formatSize(bytes: number): string {
  let unit = 0;
  let amount = bytes;
  while (amount !== 0 && amount % 1024 === 0 && unit < UNITS.length - 1) {
    amount /= 1024;
    unit++;
  }
  return `${amount}${UNITS[unit]!}`;
}

/** 72000 as 72s. The inverse of parseDuration(). */
export function formatDuration(durationMs: number): string {
  if (durationMs === 0 || durationMs % 1000 !== 0) return `${durationMs}ms`;
  if (durationMs % 3_600_000 === 0) return `${durationMs / 3_600_000}h`;
  return durationMs % 60_000 === 0 ? `${durationMs / 60_000}m` : `${durationMs / 1000}s`;
}

/** Regular expressions of texts that are sizes and times; the JSON schema has them, too. */
export const SIZE_PATTERN = '^(\\d+(?:\\.\\d+)?)\\s*([kKmMgGtT]?)(?:[iI]?[bB])?$';
export const DURATION_PATTERN = '^(\\d+(?:\\.\\d+)?)\\s*(ms|s|m|h)?$';
const SIZE = new RegExp(SIZE_PATTERN);
const DURATION = new RegExp(DURATION_PATTERN);

/** 512m, 2g, 128MiB, 1048576 … as bytes; undefined if it is none of that. */
export function parseSize(text: string): number | undefined {
  const match = SIZE.exec(text);
  if (match === null) return undefined;
  const bytes = Math.round(Number(match[1]) * 1024 ** ' kmgt'.indexOf(match[2]!.toLowerCase() || ' '));
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** 500ms, 10s, 2m, 1h as milliseconds, which a bare number is already; undefined if it is none of that. */
export function parseDuration(text: string): number | undefined {
  const match = DURATION.exec(text);
  if (match === null) return undefined;
  const durationMs = Math.round(Number(match[1]) * UNIT_MS[match[2] ?? 'ms']!);
  return Number.isSafeInteger(durationMs) ? durationMs : undefined;
}

const TRUTHS: Readonly<Record<string, boolean>> = {
  true: true,
  false: false,
  '1': true,
  '0': false,
  yes: true,
  no: false,
  on: true,
  off: false,
};

/** The value a text stands for. What does not fit the key's kind comes back as it is: the schema refuses it. */
export function valueOfText(key: ConfigKey, text: string): unknown {
  const trimmed = text.trim();
  switch (key.kind) {
    case 'bytes':
      return parseSize(trimmed) ?? trimmed;
    case 'ms':
      return parseDuration(trimmed) ?? trimmed;
    case 'integer':
      return /^\d{1,15}$/.test(trimmed) ? Number(trimmed) : trimmed;
    case 'boolean':
      return TRUTHS[trimmed.toLowerCase()] ?? trimmed;
    case 'list':
      return trimmed === '' ? [] : trimmed.split(',').map((part) => part.trim());
    case 'text':
      return trimmed;
  }
}

const REDACTED = '(secret)';

/** For people. Secrets stay secret, and so do credentials in a URL. */
export function textOfValue(key: Pick<ConfigKey, 'kind' | 'isSecret' | 'unset'>, value: unknown): string {
  if (value === undefined) return key.unset ?? '';
  if (key.isSecret) return REDACTED;
  if (typeof value === 'number') {
    return key.kind === 'bytes' ? formatSize(value) : key.kind === 'ms' ? formatDuration(value) : String(value);
  }
  if (Array.isArray(value)) return value.length === 0 ? '(none)' : value.map(withoutCredentials).join(', ');
  return typeof value === 'string' ? withoutCredentials(value) : JSON.stringify(value);
}

/** For programs: the value itself, null where there is none. */
export function jsonOfValue(key: Pick<ConfigKey, 'isSecret'>, value: unknown): unknown {
  if (value === undefined) return null;
  if (key.isSecret) return REDACTED;
  if (Array.isArray(value)) return value.map((part) => jsonOfValue(key, part));
  return typeof value === 'string' ? withoutCredentials(value) : value;
}

export function withoutCredentials(text: unknown): string {
  return String(text).replace(/^([a-z][a-z0-9+.-]*:\/\/)[^/?#]*@/i, `$1${REDACTED}@`);
}

/** Edits to get from one text to the other; neighbours swapped count as one. */
function distance(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = rows[i - 1]![j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      let best = Math.min(rows[i - 1]![j]! + 1, row[j - 1]! + 1, change);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, rows[i - 2]![j - 2]! + 1);
      row.push(best);
    }
    rows.push(row);
  }
  return rows[a.length]![b.length]!;
}

const plain = (name: string): string => name.toLowerCase().replace(/[^a-z0-9]/g, '');

/** The one of the names that was probably meant; capitals, dashes and underscores do not count. */
export function nearest(given: string, names: readonly string[]): string | undefined {
  const wanted = plain(given.slice(0, 100));
  if (wanted === '') return undefined;
  let best: string | undefined;
  let bestDistance = Infinity;
  for (const name of names) {
    const candidate = plain(name);
    // Without the unit, too: "memory" means memoryBytes.
    const whole = distance(wanted, candidate);
    const short = candidate.replace(/(bytes|ms)(max)?$/, '');
    const found = Math.min(whole, short === candidate ? Infinity : distance(wanted, short) + 0.5);
    if (found < bestDistance) [best, bestDistance] = [name, found];
  }
  return bestDistance <= Math.max(1, wanted.length / 3) ? best : undefined;
}
