/**
 * Standard output with backpressure. A reader that goes away (`concordkv scan | head`) is a normal end, not a failure.
 * Threads: main thread only.
 */
import { once } from 'node:events';
import { fromSystemError } from '../shared/errors.js';

/** Thrown out of a command when nobody reads its output any more; run() turns it into exit code 0. */
export class OutputClosed extends Error {}

/** Why nothing more can be written. */
let failure: Error | undefined;

export function watchOutput(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    const isClosed = error.code === 'EPIPE' || error.code === 'ERR_STREAM_DESTROYED';
    failure ??= isClosed ? new OutputClosed() : fromSystemError(error, 'write', 'standard output');
  });
}

function throwIfFailed(): void {
  if (failure !== undefined) throw failure;
}

export async function print(text: string | Uint8Array): Promise<void> {
  throwIfFailed();
  if (process.stdout.write(text)) return;
  await Promise.race([once(process.stdout, 'drain'), once(process.stdout, 'close')]).catch(() => undefined);
  throwIfFailed();
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function formatBytes(bytes: number): string {
  let unit = 0;
  let amount = bytes;
  while (amount >= 1024 && unit < UNITS.length - 1) {
    amount /= 1024;
    unit++;
  }
  return `${unit === 0 ? amount : amount.toFixed(1)} ${UNITS[unit]!}`;
}

export function formatCount(count: number): string {
  return Math.round(count).toLocaleString('en-US');
}

export function formatSeconds(ms: number): string {
  return ms < 10_000 ? `${(ms / 1000).toFixed(2)} s` : `${(ms / 1000).toFixed(1)} s`;
}
