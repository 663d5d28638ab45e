/**
 * Exit codes and error lines of the command. Codes are part of the interface (docs/cli.md): never renumber.
 *
 * An error is one line that says what to do, `concordkv: …` on stderr, or with --json {"error":{"code","message"}} on stderr.
 */
import { ConcordError } from '../shared/errors.js';

export const EXIT = {
  ok: 0,
  /** The operation failed: the store, the disk, the input. */
  failure: 1,
  /** The command line makes no sense. */
  usage: 2,
  /** get: there is no such key. */
  absent: 3,
  /** verify: the store has problems. put: the condition did not hold. */
  refused: 4,
} as const;

/** 128 + signal number, as shells do. */
export const SIGNAL_EXIT = { SIGINT: 130, SIGTERM: 143 } as const;
export type StopSignal = keyof typeof SIGNAL_EXIT;

/** A failure of the command itself, with the exit code it ends in. */
export class CliFailure extends Error {
  readonly code: string;
  readonly exitCode: number;

  constructor(code: string, message: string, exitCode: number = EXIT.failure) {
    super(message);
    this.name = 'CliFailure';
    this.code = code;
    this.exitCode = exitCode;
  }
}

export function usage(message: string): CliFailure {
  return new CliFailure('ERR_USAGE', message, EXIT.usage);
}

/** What to do about the failures a person meets most. */
const HINTS: Readonly<Record<string, string>> = {
  ERR_LOCKED: 'close the other process, or reach the store through it',
  ERR_NOT_FOUND: 'check --db; load, put and serve create a store',
  ERR_MEMORY_FULL: 'open it with a larger --memory',
  ERR_DISK_FULL: 'free some space and try again; nothing acknowledged is lost',
  ERR_CORRUPT: 'run "concordkv verify", and restore a checkpoint or repair',
  ERR_OPTION_CONFLICT: 'leave the option out to use what the store was created with',
};

interface Described {
  readonly code: string;
  readonly message: string;
  readonly exitCode: number;
}

function describeFailure(error: unknown): Described {
  if (error instanceof CliFailure) return error;
  if (error instanceof ConcordError) return { code: error.code, message: error.message, exitCode: EXIT.failure };
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown };
  const text = typeof message === 'string' ? message : String(error);
  if (code === 'ERR_INVALID_ARG') return { code, message: text, exitCode: EXIT.usage };
  return { code: typeof code === 'string' ? code : 'ERR_INTERNAL', message: text, exitCode: EXIT.failure };
}

/** Prints the failure and returns the exit code. */
export function report(error: unknown, asJson: boolean): number {
  const { code, message, exitCode } = describeFailure(error);
  const line = message.split('\n', 1)[0]!;
  if (asJson) {
    process.stderr.write(JSON.stringify({ error: { code, message: line } }) + '\n');
  } else {
    const hint = HINTS[code];
    process.stderr.write(`concordkv: ${line}${hint ? ` (${hint})` : ''}\n`);
  }
  return exitCode;
}
