/**
 * One thread's share of the server: the app, its listener, and an orderly end.
 *
 * Draining: stop accepting, close idle connections, let requests in flight finish with `connection: close`, and cut what is left when
 * the time is up. Requests that arrive meanwhile on open connections are still served: the client could not know.
 *
 * Threads: one per server thread.
 */
import type { Server as NetServer } from 'node:net';
import { buildApp } from './app.js';
import type { App, AppContext } from './app.js';
import type { HttpOptions } from './options.js';

const SWEEP_MS = 50;

export class Serving {
  readonly #context: AppContext;
  readonly #app: App;
  #drained: Promise<{ cut: number }> | undefined;

  constructor(context: AppContext) {
    this.#context = context;
    this.#app = buildApp(context);
  }

  get server(): App['server'] {
    return this.#app.server;
  }

  /** Listens on an address, or on a listening socket this thread owns. */
  async listen(on: { host: string; port: number } | NetServer): Promise<void> {
    const { options } = this.#context;
    await this.#app.ready();
    const server = this.#app.server;
    this.#setLimits();
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      const listening = (): void => {
        server.off('error', reject);
        server.on('error', (error) => this.#context.log.error({ err: error }, 'listener failed'));
        resolve();
      };
      if ('port' in on) server.listen({ host: on.host, port: on.port, backlog: options.backlog }, listening);
      else server.listen(on, listening);
    });
  }

  #setLimits(): void {
    const { options } = this.#context;
    const server = this.#app.server;
    server.maxConnections = Math.ceil(options.connectionsMax / options.threads);
    server.headersTimeout = Math.min(options.headersTimeoutMs, options.requestTimeoutMs);
    server.requestTimeout = options.requestTimeoutMs;
    server.keepAliveTimeout = options.keepAliveTimeoutMs;
    server.timeout = options.stallTimeoutMs;
  }

  /**
   * New limits, for what begins from now on. Timeouts of requests in flight count anew; a connection keeps its stall timeout, and how often
   * request timeouts are checked stays as it was at the start.
   */
  configure(options: HttpOptions): void {
    // In place: the app reads its limits from the same object.
    Object.assign(this.#context.options, options);
    this.#context.log.level = options.logLevel;
    this.#setLimits();
  }

  /** Resolves when no connection is left; `cut` counts those that did not end by themselves in time. */
  drain(): Promise<{ cut: number }> {
    this.#drained ??= this.#drain();
    return this.#drained;
  }

  async #drain(): Promise<{ cut: number }> {
    this.#context.draining = true;
    const server = this.#app.server;
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    server.closeIdleConnections();
    // A connection becomes idle when its last answer has left.
    const sweep = setInterval(() => server.closeIdleConnections(), SWEEP_MS);
    let cut = 0;
    const deadline = setTimeout(() => {
      server.getConnections((_error, count) => {
        cut = count;
        server.closeAllConnections();
      });
    }, this.#context.options.drainMs);
    await closed;
    clearInterval(sweep);
    clearTimeout(deadline);
    await this.#app.close();
    return { cut };
  }
}
