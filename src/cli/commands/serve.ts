/**
 * concordkv serve: the HTTP face of one store. SIGTERM or SIGINT: stop accepting, finish what is in flight, close the store, exit 0.
 * A second signal ends the process at once; the store survives that, too.
 */
import type { Command } from 'commander';
import type { Logger } from 'pino';
import { originText } from '../../config/check.js';
import { ConfigWatcher, changedOptions, describeChange } from '../../config/live.js';
import type { ConfigChange } from '../../config/live.js';
import { storeOptions } from '../../config/load.js';
import type { LoadedConfig } from '../../config/load.js';
import { ConcordPool } from '../../index.js';
import { EXIT, SIGNAL_EXIT, usage } from '../exit.js';
import type { StopSignal } from '../exit.js';
import { addCommonOptions, addKeyFlags, configLoader } from '../open.js';
import type { CommonOptions } from '../open.js';

/** Keys of the store with a flag of their own here; its encodings are given. */
const STORE_FLAGS = ['store.engine', 'store.shards', 'store.memoryBytes', 'store.blockCacheBytes', 'store.durability'];

export function serveCommand(parent: Command, setExit: (code: number) => void): void {
  addKeyFlags(
    addCommonOptions(parent.command('serve')),
    ({ path }) => STORE_FLAGS.includes(path) || path.startsWith('http.') || path.startsWith('log.'),
  )
    .summary('serve a store over HTTP')
    .description(
      'Serves a store of utf8 keys and binary values over HTTP. Creates the store when there is none.\n' +
        'There is no authentication: keep it on loopback or behind something that has.\n' +
        'SIGHUP, or a change of the configuration file, puts into effect what can change while it runs.',
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
    .action(async (options: CommonOptions, command: Command) => setExit(await serve(options, configLoader(command))));
}

/** utf8 keys and binary values are what the HTTP face carries: a configuration that says otherwise is of another store. */
function refuseEncodings({ values, origins }: LoadedConfig): void {
  for (const [name, needed] of [
    ['keyEncoding', 'utf8'],
    ['valueEncoding', 'binary'],
  ] as const) {
    const given = values.store[name];
    if (given !== undefined && given !== needed) {
      throw usage(
        `store.${name} is ${given} (${originText(origins[`store.${name}`]!, process.cwd())}): serve needs ${needed}`,
      );
    }
  }
}

async function serve(options: CommonOptions, load: () => LoadedConfig): Promise<number> {
  const { loaded } = options;
  const { http, log: logging } = loaded.values;
  refuseEncodings(loaded);
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
    ...storeOptions(loaded),
    keyEncoding: 'utf8',
    valueEncoding: 'binary',
  });
  let log: Logger | undefined;
  let watcher: ConfigWatcher | undefined;
  const onHangUp = (): void => void watcher?.reload();
  try {
    const server = await HttpServer.start(pool, { ...http, logLevel: logging.level });
    log = server.log;
    watcher = watchConfig(loaded, load, { pool, server, log });
    // On Windows it means that the console is closed, and the process ends whatever it does.
    if (process.platform !== 'win32') process.on('SIGHUP', onHangUp);
    log.info({ url: server.url, db: options.db, threads: http.threads, node: process.version }, 'listening');
    try {
      const signal = await Promise.race([stopped, server.failed]);
      log.info({ signal }, 'closing');
    } finally {
      await watcher.close();
      await server.close();
    }
  } finally {
    process.off('SIGHUP', onHangUp);
    // Last: until here requests in flight may need the store.
    await pool.close();
  }
  log.info('closed');
  return EXIT.ok;
}

/** Takes new values of options while it works. */
interface Configurable {
  configure(options: Record<string, unknown>): void | Promise<void>;
}

const isConfigurable = (target: object): target is Configurable =>
  typeof (target as Partial<Configurable>).configure === 'function';

interface Configured {
  readonly pool: object;
  readonly server: object;
  readonly log: Logger;
}

function watchConfig(
  running: LoadedConfig,
  load: () => LoadedConfig,
  { pool, server, log }: Configured,
): ConfigWatcher {
  return new ConfigWatcher({
    running,
    load,
    async apply(changes) {
      const store = changedOptions(changes, 'store');
      const { level } = changedOptions(changes, 'log');
      const http = { ...changedOptions(changes, 'http'), ...(level !== undefined && { logLevel: level }) };
      const refused: ConfigChange[] = [];
      for (const [target, options, isOf] of [
        [pool, store, ({ key }: ConfigChange) => key.segments[0] === 'store'],
        [server, http, ({ key }: ConfigChange) => key.segments[0] !== 'store'],
      ] as const) {
        if (Object.keys(options).length === 0) continue;
        if (isConfigurable(target)) await target.configure(options);
        else refused.push(...changes.filter(isOf));
      }
      return refused;
    },
    onApplied: (changes) => log.info({ changes: changes.map(describeChange) }, 'configuration changed'),
    onRestartNeeded: (changes) =>
      log.warn({ changes: changes.map(describeChange) }, 'configuration changed; a restart is needed for these'),
    onError: (error) =>
      log.error({ reason: error instanceof Error ? error.message : String(error) }, 'configuration not changed'),
    onWarning: (warning) => log.warn({ warning }, 'configuration'),
  });
}
