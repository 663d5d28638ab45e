/**
 * Golden files: lines of `hex  # what it is`, compared as text so that a difference reads as one.
 * UPDATE=1 rewrites them; review that diff as code, since these bytes are on people's disks.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { expect } from 'vitest';

export function expectGolden(name: string, lines: readonly (readonly [hex: string, what: string])[]): void {
  const file = new URL(`../../golden/${name}`, import.meta.url);
  const width = Math.min(60, Math.max(...lines.map(([hex]) => hex.length)));
  const text = lines.map(([hex, what]) => `${hex.padEnd(width)}  # ${what}\n`).join('');
  if (process.env['UPDATE'] === '1') writeFileSync(file, text);
  expect(text).toBe(readFileSync(file, 'utf8'));
}

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex') || '(empty)';
}
