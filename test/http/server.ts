/** Starts `concordkv serve` as users do, and speaks to it over raw sockets where a client library would be too polite. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';

/** Longer than any server of a test lives. */
const KILL_AFTER_MS = 1_200_000;
const CLI = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));

export interface Server {
  readonly child: ChildProcess;
  readonly url: string;
  readonly port: number;
  /** Lines of the log so far. */
  readonly log: Record<string, unknown>[];
  /** What it wrote to stderr. */
  readonly errors: () => string;
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  stop(): Promise<number | null>;
}

export async function serve(db: string, args: readonly string[] = []): Promise<Server> {
  const child = spawn(process.execPath, [CLI, 'serve', '--db', db, '--port', '0', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: KILL_AFTER_MS,
    killSignal: 'SIGKILL',
  });
  const log: Record<string, unknown>[] = [];
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
  const ended = once(child, 'close').then(([code, signal]) => ({
    code: code as number | null,
    signal: signal as NodeJS.Signals | null,
  }));
  const url = await new Promise<string>((resolve, reject) => {
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      const lines = text.split('\n');
      text = lines.pop()!;
      for (const line of lines) {
        const entry = JSON.parse(line) as Record<string, unknown>;
        log.push(entry);
        if (entry['msg'] === 'listening') resolve(entry['url'] as string);
      }
    });
    void ended.then(({ code }) => reject(new Error(`the server ended with ${code}: ${errors}`)));
  });
  return {
    child,
    url,
    port: Number(new URL(url).port),
    log,
    errors: () => errors,
    ended,
    async stop() {
      child.kill('SIGTERM');
      const { code } = await ended;
      if (code !== 0) console.error(errors, log.slice(-5));
      return code;
    },
  };
}

/** A raw connection that collects what comes back. */
export class Raw {
  readonly socket: Socket;
  text = '';
  readonly closed: Promise<void>;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => (this.text += chunk.toString('latin1')));
    socket.on('error', () => undefined);
    this.closed = new Promise((resolve) => socket.once('close', () => resolve()));
  }

  static async open(port: number): Promise<Raw> {
    const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
    await once(socket, 'connect');
    return new Raw(socket);
  }

  /** Begins to put ten bytes: the server has the head, and of the body it will find the first half. */
  static async halfPut(port: number, key: string): Promise<Raw> {
    const raw = await Raw.open(port);
    raw.socket.write(`PUT /v1/kv/${key} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 10\r\n\r\n`);
    await raw.until(/^HTTP\/1\.1 100 Continue\r\n\r\n/);
    raw.text = '';
    raw.socket.write('12345');
    return raw;
  }

  /** Waits until the text matches. */
  async until(pattern: RegExp): Promise<string> {
    while (!pattern.test(this.text)) {
      if (this.socket.destroyed || this.socket.readableEnded) throw new Error(`ended before ${pattern}: ${this.text}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return this.text;
  }
}

/** Sends bytes, ends, and returns all that comes back. */
export async function exchange(port: number, bytes: string): Promise<string> {
  const raw = await Raw.open(port);
  raw.socket.write(bytes, 'latin1');
  raw.socket.end();
  raw.socket.once('end', () => raw.socket.destroy());
  await raw.closed;
  return raw.text;
}

export async function errorOf(response: Response): Promise<{ status: number; code: string }> {
  const { error } = (await response.json()) as { error: { code: string; message: string } };
  return { status: response.status, code: error.code };
}
