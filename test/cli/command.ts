/** Runs the compiled command as users do, in a child process. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';

export const CLI = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));

export interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
  bytes: Buffer;
}

/** Longer than any command of a test may take; a test that fails for it shows which. */
const KILL_AFTER_MS = 240_000;

/** `stdout`: a descriptor it writes to instead of a pipe. */
export function start(args: readonly string[], stdout: 'pipe' | number = 'pipe'): ChildProcess {
  return spawn(process.execPath, [CLI, ...args], {
    stdio: ['pipe', stdout, 'pipe'],
    timeout: KILL_AFTER_MS,
    killSignal: 'SIGKILL',
  });
}

export async function finish(child: ChildProcess): Promise<Ended> {
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout?.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr!.on('data', (chunk: Buffer) => err.push(chunk));
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  const bytes = Buffer.concat(out);
  if (signal !== null) throw new Error(`killed by ${signal}: ${child.spawnargs.slice(2).join(' ')}`);
  return { code, stdout: bytes.toString(), stderr: Buffer.concat(err).toString(), bytes };
}

/** Runs a command line to its end, with `input` on stdin. */
export async function run(args: readonly string[], input: string | Buffer = ''): Promise<Ended> {
  const child = start(args);
  child.stdin!.on('error', () => undefined);
  child.stdin!.end(input);
  return finish(child);
}

/** A directory that goes away after the tests of the file. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'concordkv-test-'));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}
