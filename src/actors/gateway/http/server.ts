/**
 * The HTTP server: this thread and, with threads > 1, further worker threads attached to the same pool and listening on the same socket.
 *
 * Supervision: a server thread that dies is started again, at most RESTARTS_MAX times a minute; then the server fails as a whole, which
 * `failed` reports. The others keep serving meanwhile; only connections of the dead thread are lost.
 * Close: every thread drains (serving.ts) and detaches from the pool. The pool stays open: it belongs to the caller, who closes it
 * after close() has resolved.
 *
 * Threads: the thread that opened the pool, or any attached one that may start workers.
 */
import type { AddressInfo } from 'node:net';
import { Worker } from 'node:worker_threads';
import type { Transferable } from 'node:worker_threads';
import type { Logger } from 'pino';
import { ConcordError } from '../../../shared/errors.js';
import { HttpCounters, createCounterMemory } from './counters.js';
import { descriptorOf } from './listener.js';
import { createLog } from './log.js';
import { changeHttpOptions, resolveHttpOptions } from './options.js';
import type { HttpOptions, LiveHttpOptions } from './options.js';
import type { FromThread, ThreadData, ToThread } from './protocol.js';
import { Serving } from './serving.js';
import type { HttpStore } from './store.js';

const RESTARTS_MAX = 5;
const RESTART_WINDOW_MS = 60_000;

/** A pool opened with keyEncoding 'utf8' and valueEncoding 'binary'. */
export interface HttpPool extends HttpStore {
  handle(): { readonly transferList?: readonly unknown[] };
}

export class HttpServer {
  readonly options: HttpOptions;
  readonly log: Logger;
  /** Rejects when the server can no longer do its work; never resolves. */
  readonly failed: Promise<never>;
  readonly #pool: HttpPool;
  readonly #serving: Serving;
  readonly #counterMemory: SharedArrayBuffer;
  readonly #workers = new Map<number, Worker>();
  #restartTimesMs: number[] = [];
  #fail!: (error: Error) => void;
  #address: AddressInfo | undefined;
  #closing: Promise<void> | undefined;

  private constructor(pool: HttpPool, options: HttpOptions) {
    this.options = options;
    this.log = createLog(options.logLevel, 0);
    this.#pool = pool;
    this.#counterMemory = createCounterMemory(options.threads);
    this.#serving = new Serving({
      store: pool,
      options,
      counters: new HttpCounters(this.#counterMemory, 0),
      log: this.log,
      draining: false,
    });
    this.failed = new Promise((_resolve, reject) => (this.#fail = reject));
    this.failed.catch(() => undefined);
  }

  /** Resolves when every thread accepts connections. */
  static async start(pool: HttpPool, given: Partial<HttpOptions> = {}): Promise<HttpServer> {
    const options = resolveHttpOptions(given);
    const server = new HttpServer(pool, options);
    await server.#listen();
    return server;
  }

  get url(): string {
    const { address, family, port } = this.#address!;
    return `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`;
  }

  get port(): number {
    return this.#address!.port;
  }

  async #listen(): Promise<void> {
    const { host, port, threads } = this.options;
    try {
      await this.#serving.listen({ host, port });
    } catch (error) {
      throw new ConcordError(
        'ERR_IO',
        `listening on ${host}:${port}: ${(error as Error).message}`,
        {},
        { cause: error },
      );
    }
    this.#address = this.#serving.server.address() as AddressInfo;
    try {
      const starts: Promise<void>[] = [];
      for (let thread = 1; thread < threads; thread++) starts.push(this.#startThread(thread));
      await Promise.all(starts);
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  async #startThread(thread: number): Promise<void> {
    // close() waits for the threads there are when it begins.
    if (this.#closing) return;
    const listenerFd = descriptorOf(this.#serving.server);
    if (listenerFd === undefined) {
      if (thread === 1)
        this.log.warn('this platform cannot share a listening socket between threads; serving with one');
      return;
    }
    const handle = this.#pool.handle();
    const workerData: ThreadData<unknown> = {
      handle,
      options: this.options,
      counterMemory: this.#counterMemory,
      thread,
      listenerFd,
    };
    const worker = new Worker(new URL('./thread.js', import.meta.url), {
      name: `concordkv-http-${thread}`,
      workerData,
      transferList: (handle.transferList ?? []) as Transferable[],
    });
    this.#workers.set(thread, worker);
    await new Promise<void>((resolve, reject) => {
      let death: Error | undefined;
      let isListening = false;
      let isDrained = false;
      worker.on('message', (message: FromThread) => {
        if (message.kind === 'listening') {
          isListening = true;
          resolve();
        } else {
          isDrained = true;
          if (message.cut > 0)
            this.log.warn({ cut: message.cut, of: thread }, 'connections cut at the end of the drain time');
        }
      });
      worker.once('error', (error: Error) => (death = error));
      worker.once('exit', (code) => {
        this.#workers.delete(thread);
        const error = death ?? new Error(`server thread ${thread} ended with code ${code}`);
        if (isDrained) return;
        if (!isListening) reject(error);
        else if (!this.#closing) this.#restart(thread, error);
      });
    });
  }

  #restart(thread: number, cause: Error): void {
    const nowMs = performance.now();
    this.#restartTimesMs = this.#restartTimesMs.filter((time) => nowMs - time < RESTART_WINDOW_MS);
    this.#restartTimesMs.push(nowMs);
    const count = this.#restartTimesMs.length;
    if (count > RESTARTS_MAX) {
      this.#fail(new ConcordError('ERR_INTERNAL', `server threads died ${count} times in a minute`, {}, { cause }));
      return;
    }
    this.log.error({ err: cause, of: thread, restarts: count }, 'server thread died; starting it again');
    this.#startThread(thread).catch((error: Error) => {
      if (!this.#closing) this.#restart(thread, error);
    });
  }

  /**
   * Changes limits while requests are served, on every thread. Each thread takes them when it comes to it; what began before may end under the old
   * ones. @throws TypeError naming what is wrong, or cannot change while the server runs; nothing has changed then
   */
  configure(given: LiveHttpOptions): void {
    const options = changeHttpOptions(this.options, given);
    this.#serving.configure(options);
    const message: ToThread = { kind: 'configure', options };
    for (const worker of this.#workers.values()) worker.postMessage(message);
  }

  /** Stops accepting, finishes what is in flight, joins the threads. The pool stays open. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const message: ToThread = { kind: 'drain' };
    const exits = [...this.#workers.values()].map(async (worker) => {
      const exited = new Promise((resolve) => worker.once('exit', resolve));
      worker.postMessage(message);
      // Longer than any drain: a thread that does not answer by then is stuck.
      const stuck = setTimeout(() => void worker.terminate(), this.options.drainMs + 5_000);
      await exited;
      clearTimeout(stuck);
    });
    const { cut } = await this.#serving.drain();
    if (cut > 0) this.log.warn({ cut, of: 0 }, 'connections cut at the end of the drain time');
    await Promise.all(exits);
  }
}
