/** JSON lines on stdout, written synchronously so that the last line before an exit is not lost. Threads: one logger per thread. */
import { destination, pino, stdTimeFunctions } from 'pino';
import type { Logger } from 'pino';
import type { LogLevel } from './options.js';

export function createLog(level: LogLevel, thread: number): Logger {
  return pino(
    { level, base: { pid: process.pid, thread }, timestamp: stdTimeFunctions.isoTime },
    destination({ dest: 1, sync: true }),
  );
}
