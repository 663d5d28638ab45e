/**
 * Where a key is encoded: one reusable buffer per thread and purpose, so that encoding allocates nothing.
 *
 * `bytes` is replaced when it grows: read it again after each encode. What it holds is valid until the next encode.
 * Threads: one; never shared.
 */
import { ConcordError, invalidArgument } from '../errors.js';

/** Longest encoded key. A page must hold several, and a limit keeps every bound on page sizes and scratch finite. */
export const MAX_KEY_BYTES = 4096;

export class KeyScratch {
  bytes: Buffer;

  constructor(bytesMin = 256) {
    this.bytes = Buffer.allocUnsafeSlow(bytesMin);
  }

  /** Makes room for `length` bytes in all and keeps the content. */
  ensure(length: number): void {
    if (length > this.bytes.length) this.grow(length);
  }

  private grow(length: number): void {
    const larger = Buffer.allocUnsafeSlow(Math.max(length, this.bytes.length * 2));
    larger.set(this.bytes);
    this.bytes = larger;
  }
}

export function keyTooLarge(keyBytes: number): ConcordError {
  return new ConcordError(
    'ERR_KEY_TOO_LARGE',
    `a key of ${keyBytes} bytes is longer than the limit of ${MAX_KEY_BYTES}`,
    {
      keyBytes,
      limitBytes: MAX_KEY_BYTES,
    },
  );
}

/** How error messages call a value: its type or class, never its content. */
export function describeType(value: unknown): string {
  if (value === null) return 'null';
  if (typeof value !== 'object') return typeof value;
  if (Array.isArray(value)) return 'an array';
  const name: unknown = value.constructor?.name;
  if (typeof name !== 'string' || name === '' || name === 'Object') return 'an object';
  return /^[AEIOU]/.test(name) ? `an ${name}` : `a ${name}`;
}

export function wrongType(what: string, wanted: string, encoding: string, value: unknown): TypeError {
  return invalidArgument(`${what} must be ${wanted} with the '${encoding}' encoding, got ${describeType(value)}`);
}
