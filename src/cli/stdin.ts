/** Standard input of commands that read it. Threads: main thread only. */
import { fstatSync } from 'node:fs';
import { CliFailure } from './exit.js';

const STDIN = 0;

/** @throws ERR_INPUT: it is a directory, which would read like an end of input. */
export function standardInput(): NodeJS.ReadStream {
  if (isDirectory(STDIN)) throw new CliFailure('ERR_INPUT', 'stdin: is a directory');
  return process.stdin;
}

function isDirectory(descriptor: number): boolean {
  try {
    return fstatSync(descriptor).isDirectory();
  } catch {
    // Not open: reading says so.
    return false;
  }
}
