/**
 * concordkv serve: the HTTP face of one store. SIGTERM or SIGINT: stop accepting, finish what is in flight, close the store, exit 0.
 * A second signal ends the process at once; the store survives that, too.
 */
import { Option } from 'commander';
import type { Command } from 'commander';
import type { Logger } from 'pino';
import { ConcordPool } from '../../index.js';
import { HTTP_DEFAULTS, LOG_LEVELS } from '../../actors/gateway/http/options.js';
import type { LogLevel } from '../../actors/gateway/http/options.js';
import { EXIT, SIGNAL_EXIT } from '../exit.js';
import type { StopSignal } from '../exit.js';
import { addCommonOptions, parseDuration, parseInteger, parseSize } from '../open.js';
import type { CommonOptions } from '../open.js';

interface ServeOptions extends CommonOptions {
  readonly host: string;
  readonly port: number;
  readonly threads: number;
  readonly shards?: number;
  readonly memory?: number;
  readonly durability?: 'sync' | 'os' | 'memory';
  readonly maxBody: number;
  readonly maxBodies: number;
  readonly maxConnections: number;
  readonly requestTimeout: number;
  readonly keepAlive: number;
  readonly drain: number;
  readonly logLevel: LogLevel;
}

export function serveCommand(parent: Command, setExit: (code: number) => void): void {
  addCommonOptions(parent.command('serve'))
    .summary('serve a store over HTTP')
    .description(
      'Serves a store of utf8 keys and binary values over HTTP. Creates the store when there is none.\n' +
        'There is no authentication: keep it on loopback or behind something that has.',
    )
    .option('--host <address>', 'address to listen on', HTTP_DEFAULTS.host)
    .option('--port <n>', 'port; 0 chooses a free one', parseInteger(0, 65_535), HTTP_DEFAULTS.port)
    .option('--threads <n>', 'threads that serve requests', parseInteger(1, 64), HTTP_DEFAULTS.threads)
    .option('--shards <n>', 'number of shards of a new store', parseInteger(1, 1024))
    .option('--memory <size>', 'shared memory per shard, such as 512m or 2g', parseSize)
    .addOption(
      new Option('--durability <level>', 'of writes that do not choose: sync (default), os or memory').choices([
        'sync',
        'os',
        'memory',
      ]),
    )
    .option('--max-body <size>', 'longest request body', parseSize, HTTP_DEFAULTS.bodyBytesMax)
    .option(
      '--max-bodies <size>',
      'sum of large bodies in flight per thread',
      parseSize,
      HTTP_DEFAULTS.bodyBytesInFlightMax,
    )
    .option('--max-connections <n>', 'open connections over all threads', parseInteger(1), HTTP_DEFAULTS.connectionsMax)
    .option(
      '--request-timeout <time>',
      'for a request to arrive, such as 30s',
      parseDuration,
      HTTP_DEFAULTS.requestTimeoutMs,
    )
    .option('--keep-alive <time>', 'an idle connection lives so long', parseDuration, HTTP_DEFAULTS.keepAliveTimeoutMs)
    .option('--drain <time>', 'requests in flight may take so long after SIGTERM', parseDuration, HTTP_DEFAULTS.drainMs)
    .addOption(
      new Option('--log-level <level>', 'JSON lines on stdout').choices(LOG_LEVELS).default(HTTP_DEFAULTS.logLevel),
    )
    .addHelpText(
      'after',
      `
Examples:
  $ concordkv serve --db ./data --port 8480
  $ curl -X PUT --data-binary @logo.png http://127.0.0.1:8480/v1/kv/logo
  $ curl http://127.0.0.1:8480/v1/kv/logo
  $ curl 'http://127.0.0.1:8480/v1/kv?prefix=user:&limit=10&encoding=utf8'`,
    )
    .action(async (options: ServeOptions) => setExit(await serve(options)));
}

async function serve(options: ServeOptions): Promise<number> {
  // Loaded here: the other commands do without fastify and pino.
  const { HttpServer } = await import('../../actors/gateway/http/server.js');

  let receive!: (signal: StopSignal) => void;
  const stopped = new Promise<StopSignal>((resolve) => (receive = resolve));
  let received = 0;
  const onSignal = (signal: NodeJS.Signals): void => {
    if (++received > 1) process.exit(SIGNAL_EXIT[signal as StopSignal]);
    receive(signal as StopSignal);
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);

  const pool = await ConcordPool.open<string, Buffer>(options.db, {
    keyEncoding: 'utf8',
    valueEncoding: 'binary',
    ...(options.shards !== undefined && { shards: options.shards }),
    ...(options.memory !== undefined && { memoryBytes: options.memory }),
    ...(options.durability !== undefined && { durability: options.durability }),
  });
  let log: Logger | undefined;
  try {
    const server = await HttpServer.start(pool, {
      host: options.host,
      port: options.port,
      threads: options.threads,
      bodyBytesMax: options.maxBody,
      bodyBytesInFlightMax: options.maxBodies,
      connectionsMax: options.maxConnections,
      requestTimeoutMs: options.requestTimeout,
      keepAliveTimeoutMs: options.keepAlive,
      drainMs: options.drain,
      logLevel: options.logLevel,
    });
    log = server.log;
    log.info({ url: server.url, db: options.db, threads: options.threads, node: process.version }, 'listening');
    try {
      const signal = await Promise.race([stopped, server.failed]);
      log.info({ signal }, 'closing');
    } finally {
      await server.close();
    }
  } finally {
    // Last: until here requests in flight may need the store.
    await pool.close();
  }
  log.info('closed');
  return EXIT.ok;
}
