/**
 * Options and limits of the HTTP face, with their defaults. Plain data: crosses to the server threads in workerData.
 *
 * Every limit exists so that no client, slow, huge or hostile, can take more memory or time than the operator allowed.
 */
import { availableParallelism } from 'node:os';
import { invalidArgument } from '../../../shared/errors.js';

export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface HttpOptions {
  /** Address to listen on. The default is loopback: the face has no authentication of its own. */
  host: string;
  /** 0 chooses a free port. */
  port: number;
  /** Threads that serve requests; the calling thread is one of them. */
  threads: number;
  /** Longest request body; longer ones are answered 413. */
  bodyBytesMax: number;
  /** Sum of large bodies (over 64 KiB) that one thread holds at once; beyond it 503, so memory stays bounded. */
  bodyBytesInFlightMax: number;
  /** Request line and headers; longer ones are answered 431. */
  headerBytesMax: number;
  /** Open connections over all threads; more are closed on accept. */
  connectionsMax: number;
  /** From the first byte of a request to the last one of its headers. */
  headersTimeoutMs: number;
  /** From the first byte of a request to its last one. */
  requestTimeoutMs: number;
  /** An idle connection is closed after this. */
  keepAliveTimeoutMs: number;
  /** A connection on which no byte moves, a stalled download for example, is cut after this. */
  stallTimeoutMs: number;
  /** How long requests in flight may take after close(); then their connections are cut. */
  drainMs: number;
  /** Pending connections in the kernel. */
  backlog: number;
  /** pino level; JSON lines on stdout. */
  logLevel: LogLevel;
}

export const HTTP_DEFAULTS: Readonly<HttpOptions> = {
  host: '127.0.0.1',
  port: 8480,
  threads: Math.max(1, Math.min(4, availableParallelism())),
  bodyBytesMax: 64 * 1024 * 1024,
  bodyBytesInFlightMax: 256 * 1024 * 1024,
  headerBytesMax: 16 * 1024,
  connectionsMax: 1024,
  headersTimeoutMs: 15_000,
  requestTimeoutMs: 120_000,
  keepAliveTimeoutMs: 72_000,
  stallTimeoutMs: 60_000,
  drainMs: 10_000,
  backlog: 511,
  logLevel: 'info',
};

const BOUNDS: Partial<Record<keyof HttpOptions, readonly [min: number, max: number]>> = {
  port: [0, 65_535],
  threads: [1, 64],
  bodyBytesMax: [1, 1024 * 1024 * 1024],
  bodyBytesInFlightMax: [1, Number.MAX_SAFE_INTEGER],
  headerBytesMax: [1024, 1024 * 1024],
  connectionsMax: [1, 1_000_000],
  headersTimeoutMs: [1, 0x7fffffff],
  requestTimeoutMs: [1, 0x7fffffff],
  keepAliveTimeoutMs: [1, 0x7fffffff],
  stallTimeoutMs: [1, 0x7fffffff],
  drainMs: [0, 0x7fffffff],
  backlog: [1, 65_535],
};

/** Options that a running server takes: limits that are asked for again with each request, connection or drain. */
export const LIVE_HTTP_OPTIONS = [
  'bodyBytesMax',
  'bodyBytesInFlightMax',
  'connectionsMax',
  'headersTimeoutMs',
  'requestTimeoutMs',
  'keepAliveTimeoutMs',
  'stallTimeoutMs',
  'drainMs',
  'logLevel',
] as const satisfies readonly (keyof HttpOptions)[];

export type LiveHttpOptions = Partial<Pick<HttpOptions, (typeof LIVE_HTTP_OPTIONS)[number]>>;

/** The options after a change of a running server; throws a TypeError that names what is wrong or cannot change. */
export function changeHttpOptions(current: Readonly<HttpOptions>, given: LiveHttpOptions): HttpOptions {
  const live: readonly string[] = LIVE_HTTP_OPTIONS;
  const changed = resolveHttpOptions({ ...current, ...given });
  for (const name of Object.keys(given)) {
    if (!live.includes(name))
      throw invalidArgument(`option ${name} cannot change while the server runs; start it again`);
  }
  return changed;
}

/** The options with defaults filled in; throws a TypeError that names the option, the value and its bounds. */
export function resolveHttpOptions(given: Partial<HttpOptions>): HttpOptions {
  const options: HttpOptions = { ...HTTP_DEFAULTS };
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(HTTP_DEFAULTS, name)) throw invalidArgument(`unknown option ${name}`);
    if (value === undefined) continue;
    const bounds = BOUNDS[name as keyof HttpOptions];
    if (bounds) {
      if (typeof value !== 'number' || !Number.isInteger(value) || value < bounds[0] || value > bounds[1]) {
        throw invalidArgument(
          `option ${name} is ${String(value)}; it must be an integer from ${bounds[0]} to ${bounds[1]}`,
        );
      }
    } else if (typeof value !== 'string' || value === '') {
      throw invalidArgument(`option ${name} must be a non-empty string`);
    }
    Object.assign(options, { [name]: value });
  }
  if (!LOG_LEVELS.includes(options.logLevel)) {
    throw invalidArgument(`option logLevel is ${options.logLevel}; it must be one of ${LOG_LEVELS.join(', ')}`);
  }
  return options;
}
