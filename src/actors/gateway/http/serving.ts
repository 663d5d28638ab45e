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
    server.maxConnections = Math.ceil(options.connectionsMax / options.threads);
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
