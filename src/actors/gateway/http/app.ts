/**
 * The routes on one store: what one server thread runs.
 *
 *   PUT GET HEAD DELETE /v1/kv/{key}    raw bytes      GET /v1/kv?range    NDJSON      /livez  /readyz  /metrics
 *
 * The hot routes stay bare: no hooks, no schemas, no body parser (bodies are opaque, so PUT reads the stream itself), no log object per
 * request, replies are Buffers. Contract: docs/http.md. Threads: each server thread builds its own.
 */
import fastify from 'fastify';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { Readable } from 'node:stream';
import type { Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { ConcordError, invalidArgument } from '../../../shared/errors.js';
import { BodyReader } from './body.js';
import { HttpCounters, OPERATION } from './counters.js';
import { HTTP_FAILURES, HttpFailure, answerOf, bodyOf, rawAnswer } from './failures.js';
import type { HttpOptions } from './options.js';
import { parseDurability, parseQuery, parseScan, requireAscii, scanLines } from './scan.js';
import type { HttpPutOptions, HttpStore } from './store.js';

const KEY_ROUTE = '/v1/kv/';
const BYTES_TYPE = 'application/octet-stream';
const ABSENT_BODY = bodyOf({ code: 'ERR_KEY_ABSENT', message: HTTP_FAILURES.ERR_KEY_ABSENT.text });
const NO_QUERY: Record<string, unknown> = Object.freeze({});
/** Attempts of `If-Match: *`, a read followed by a conditional write, before ERR_CONFLICT. */
const MATCH_ANY_ATTEMPTS = 16;

export interface AppContext {
  readonly store: HttpStore;
  readonly options: HttpOptions;
  readonly counters: HttpCounters;
  readonly log: Logger;
  /** True from the begin of an orderly close: every answer then ends its connection. */
  draining: boolean;
}

export type App = FastifyInstance<Server>;

/** The key exactly as sent: everything between the route and the query, percent-decoded. */
function keyOf(url: string): string {
  const queryAt = url.indexOf('?');
  const raw = queryAt < 0 ? url.slice(KEY_ROUTE.length) : url.slice(KEY_ROUTE.length, queryAt);
  requireAscii(raw);
  if (!raw.includes('%')) return raw;
  try {
    return decodeURIComponent(raw);
  } catch {
    throw invalidArgument('the key is not percent-encoded UTF-8');
  }
}

function etagOf(version: number): string {
  return `"${version}"`;
}

function versionOf(tag: string): number {
  const match = /^\s*"(\d{1,16})"\s*$/.exec(tag);
  if (!match) throw invalidArgument(`If-Match is ${JSON.stringify(tag)}; it must be one ETag of this server, or *`);
  return Number(match[1]);
}

/** True when If-None-Match lists the tag; weak and strong tags compare alike, as GET asks for. */
function lists(header: string, tag: string): boolean {
  return header.split(',').some((part) => {
    const candidate = part.trim();
    return candidate === '*' || candidate === tag || candidate === `W/${tag}`;
  });
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export function buildApp(context: AppContext): App {
  const { store, options, counters, log } = context;
  const bodies = new BodyReader(options);

  const app: App = fastify({
    logger: false,
    exposeHeadRoutes: false,
    keepAliveTimeout: options.keepAliveTimeoutMs,
    requestTimeout: options.requestTimeoutMs,
    connectionTimeout: options.stallTimeoutMs,
    http: {
      maxHeaderSize: options.headerBytesMax,
      headersTimeout: Math.min(options.headersTimeoutMs, options.requestTimeoutMs),
      // How late a timeout may be noticed.
      connectionsCheckingInterval: Math.min(5_000, Math.max(100, options.requestTimeoutMs / 4)),
    },
    routerOptions: {
      maxParamLength: options.headerBytesMax,
      // The routes that take parameters parse them strictly from the URL.
      querystringParser: () => NO_QUERY,
    },
    clientErrorHandler(error: Error & { code?: string }, socket: Socket) {
      if (error.code === 'ECONNRESET' || socket.destroyed) return;
      if (!socket.writable) {
        socket.destroy(error);
        return;
      }
      const code =
        error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
          ? 'ERR_REQUEST_TIMEOUT'
          : error.code === 'HPE_HEADER_OVERFLOW'
            ? 'ERR_HEADER_TOO_LARGE'
            : 'ERR_HTTP_SYNTAX';
      socket.end(rawAnswer(code), () => socket.destroy());
    },
    frameworkErrors(error: Error, _request: unknown, reply: FastifyReply) {
      fail(reply, error, OPERATION.other, performance.now());
    },
  } as Parameters<typeof fastify>[0]) as unknown as App;

  // PUT bodies are read by the handler: no content type is interpreted, refused or buffered by the framework.
  app.addHttpMethod('PUT', { hasBody: false, overrideExisting: true });
  // A client that has sent its FIN may still be waiting for the answer: durable writes are answered later than they arrive.
  (app.server as Server & { httpAllowHalfOpen: boolean }).httpAllowHalfOpen = true;
  app.server.on('connection', (socket: Socket) => {
    counters.connection(1);
    socket.once('close', () => counters.connection(-1));
  });

  function prepare(reply: FastifyReply): FastifyReply {
    if (context.draining) reply.header('connection', 'close');
    return reply;
  }

  function fail(reply: FastifyReply, error: unknown, operation: number, startedMs: number): void {
    const answer = answerOf(error);
    if (answer.unexpected) log.error({ err: error, method: reply.request.method, code: answer.code }, 'request failed');
    counters.answered(operation, answer.status, startedMs);
    const raw: ServerResponse = reply.raw;
    if (reply.sent || raw.headersSent || raw.destroyed) return;
    prepare(reply);
    // The rest of a refused body is not worth reading.
    if (answer.status === 413 || answer.code === 'ERR_OVERLOADED') reply.header('connection', 'close');
    if (answer.status === 503 || answer.status === 507) reply.header('retry-after', '1');
    if (answer.status === 405) reply.header('allow', 'GET, HEAD, PUT, DELETE');
    reply.code(answer.status).header('content-type', 'application/json').send(bodyOf(answer));
  }

  function absent(reply: FastifyReply, operation: number, startedMs: number): void {
    counters.answered(operation, 404, startedMs);
    prepare(reply).code(404).header('content-type', 'application/json').send(ABSENT_BODY);
  }

  // The hot handlers return nothing: a returned reply is a thenable, on which fastify would set up stream listeners per request.
  function readKey(request: FastifyRequest, reply: FastifyReply): void {
    const startedMs = performance.now();
    let entry: ReturnType<HttpStore['getEntrySync']>;
    try {
      entry = store.getEntrySync(keyOf(request.raw.url!));
    } catch (error) {
      fail(reply, error, OPERATION.get, startedMs);
      return;
    }
    if (entry === undefined) {
      absent(reply, OPERATION.get, startedMs);
      return;
    }
    const tag = etagOf(entry.version);
    prepare(reply).header('etag', tag);
    const known = request.headers['if-none-match'];
    if (known !== undefined && lists(known, tag)) {
      counters.answered(OPERATION.get, 304, startedMs);
      reply.code(304).send();
      return;
    }
    counters.answered(OPERATION.get, 200, startedMs);
    reply.header('content-type', BYTES_TYPE).send(asBuffer(entry.value));
  }

  /** Conditions and durability of a write, from the headers and the query; undefined when there are none. */
  function writeOptions(request: FastifyRequest): (HttpPutOptions & { matchAny?: true }) | undefined {
    const { headers } = request;
    const url = request.raw.url!;
    const ifNoneMatch = headers['if-none-match'];
    const ifMatch = headers['if-match'];
    const header = headers['concordkv-durability'];
    if (ifNoneMatch === undefined && ifMatch === undefined && header === undefined && !url.includes('?'))
      return undefined;
    const write: HttpPutOptions & { matchAny?: true } = {};
    const durability = parseQuery(url, ['durability']).get('durability') ?? header;
    if (durability !== undefined) write.durability = parseDurability(String(durability));
    if (ifNoneMatch !== undefined) {
      if (ifNoneMatch.trim() !== '*') throw invalidArgument('a write understands If-None-Match only as *');
      if (ifMatch !== undefined) throw invalidArgument('If-Match and If-None-Match contradict each other');
      write.ifAbsent = true;
    } else if (ifMatch !== undefined) {
      if (ifMatch.trim() === '*') write.matchAny = true;
      else write.ifVersion = versionOf(ifMatch);
    }
    return write;
  }

  async function putExisting(key: string, body: Buffer, durability: HttpPutOptions): Promise<boolean> {
    for (let attempt = 0; attempt < MATCH_ANY_ATTEMPTS; attempt++) {
      const entry = store.getEntrySync(key);
      if (entry === undefined) return false;
      if (await store.put(key, body, { ...durability, ifVersion: entry.version })) return true;
    }
    throw new ConcordError('ERR_CONFLICT', `the key changed ${MATCH_ANY_ATTEMPTS} times while it was being written`);
  }

  function write(request: FastifyRequest, body: Buffer): Promise<boolean> {
    const key = keyOf(request.raw.url!);
    const conditions = writeOptions(request);
    if (conditions === undefined) return store.put(key, body);
    const { matchAny, ...rest } = conditions;
    return matchAny ? putExisting(key, body, rest) : store.put(key, body, rest);
  }

  function putKey(request: FastifyRequest, reply: FastifyReply): void {
    const startedMs = performance.now();
    bodies.read(request.raw, reply.raw, (error, body) => {
      if (error) {
        fail(reply, error, OPERATION.put, startedMs);
        return;
      }
      let written: Promise<boolean>;
      try {
        written = write(request, body);
      } catch (refused) {
        fail(reply, refused, OPERATION.put, startedMs);
        return;
      }
      written.then(
        (stored) => {
          if (stored === false) {
            fail(reply, new HttpFailure('ERR_PRECONDITION'), OPERATION.put, startedMs);
            return;
          }
          counters.answered(OPERATION.put, 204, startedMs);
          prepare(reply).code(204).send();
        },
        (failure: unknown) => fail(reply, failure, OPERATION.put, startedMs),
      );
    });
  }

  async function deleteKey(request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const startedMs = performance.now();
    try {
      const key = keyOf(request.raw.url!);
      const conditions = writeOptions(request);
      if (conditions?.ifAbsent) throw invalidArgument('If-None-Match has no meaning for DELETE');
      const entry = store.getEntrySync(key);
      if (entry === undefined) {
        if (conditions?.ifVersion !== undefined || conditions?.matchAny) throw new HttpFailure('ERR_PRECONDITION');
        absent(reply, OPERATION.delete, startedMs);
        return reply;
      }
      if (conditions === undefined) await store.del(key);
      else {
        const { durability, ifVersion } = conditions;
        const deleted = await store.del(key, {
          ...(durability !== undefined && { durability }),
          ...(ifVersion !== undefined && { ifVersion }),
        });
        if (deleted === false) throw new HttpFailure('ERR_PRECONDITION');
      }
      counters.answered(OPERATION.delete, 204, startedMs);
      prepare(reply).code(204).send();
    } catch (error) {
      fail(reply, error, OPERATION.delete, startedMs);
    }
    return reply;
  }

  async function scan(request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const startedMs = performance.now();
    try {
      const lines = scanLines(store, parseScan(request.raw.url!));
      // The first chunk is made before the status is sent, so that a refused range is a 400 and not a cut stream.
      const first = await lines.next();
      prepare(reply).header('content-type', 'application/x-ndjson; charset=utf-8');
      counters.answered(OPERATION.scan, 200, startedMs);
      if (first.done) {
        reply.send('');
        return reply;
      }
      const stream = Readable.from(rejoin(first.value, lines), { objectMode: false, highWaterMark: 1 });
      // A failure in mid-stream cuts the connection: the client sees an incomplete body, never a short complete one.
      stream.once('error', (error) => {
        if (!reply.raw.destroyed) log.error({ err: error }, 'scan failed in mid-stream');
      });
      reply.send(stream);
    } catch (error) {
      fail(reply, error, OPERATION.scan, startedMs);
    }
    return reply;
  }

  app.get('/v1/kv/*', readKey);
  app.head('/v1/kv/*', readKey);
  app.put('/v1/kv/*', putKey);
  app.delete('/v1/kv/*', deleteKey);
  app.get('/v1/kv', scan);
  app.get('/livez', (_request, reply) => prepare(reply).send('ok\n'));
  app.get('/readyz', (_request, reply) => {
    if (context.draining) {
      fail(reply, new HttpFailure('ERR_SHUTTING_DOWN'), OPERATION.other, performance.now());
      return reply;
    }
    return reply.send('ok\n');
  });
  app.get('/metrics', async (_request, reply) => {
    const startedMs = performance.now();
    try {
      const text = await store.metrics();
      counters.answered(OPERATION.other, 200, startedMs);
      prepare(reply)
        .header('content-type', 'text/plain; version=0.0.4; charset=utf-8')
        .send((text.endsWith('\n') ? text : text + '\n') + counters.text());
    } catch (error) {
      fail(reply, error, OPERATION.other, startedMs);
    }
    return reply;
  });
  app.setNotFoundHandler((request, reply) => {
    const path = request.raw.url!;
    const isKnown = path === '/v1/kv' || path.startsWith('/v1/kv?') || path.startsWith(KEY_ROUTE);
    fail(reply, new HttpFailure(isKnown ? 'ERR_METHOD' : 'ERR_ROUTE'), OPERATION.other, performance.now());
  });
  app.setErrorHandler((error, _request, reply) => {
    fail(reply, error, OPERATION.other, performance.now());
  });
  return app;
}

async function* rejoin(first: Buffer, rest: AsyncGenerator<Buffer, void, void>): AsyncGenerator<Buffer, void, void> {
  try {
    yield first;
    yield* rest;
  } finally {
    await rest.return();
  }
}
