/**
 * The routes on one store: what one server thread runs.
 *
 *   PUT GET HEAD DELETE /v1/kv/{key}    raw bytes: key-routes.ts      GET /v1/kv?range    NDJSON      /livez  /readyz  /metrics
 *
 * Contract: docs/http.md. Threads: each server thread builds its own.
 */
import fastify from 'fastify';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { Readable } from 'node:stream';
import { createServer } from 'node:http';
import type { RequestListener, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { Answers } from './answers.js';
import type { AnswerContext } from './answers.js';
import { BodyRequest } from './body.js';
import { OPERATION } from './counters.js';
import { HttpFailure, rawAnswer } from './failures.js';
import { KEY_ROUTE, KeyRoutes } from './key-routes.js';
import type { HttpOptions } from './options.js';
import { parseScan, scanLines } from './scan.js';
import type { HttpStore } from './store.js';

const NO_QUERY: Record<string, unknown> = Object.freeze({});

export interface AppContext extends AnswerContext {
  readonly store: HttpStore;
  readonly options: HttpOptions;
}

export type App = FastifyInstance<Server>;

/** The path and query of a target that names the server, too, as clients of a proxy send it. */
function originForm(target: string): string {
  return target.replace(/^https?:\/\/[^/?#]*/i, '');
}

function onClientError(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed) return;
  // An answer now would be taken for that of a request before it, which may be done; or it would stand in the middle of one.
  const owed = (socket as Socket & { _httpMessage?: ServerResponse | null })._httpMessage;
  if (!socket.writable || owed?.req.complete || owed?.headersSent) {
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
}

/** Limits that can change while it runs are set by Serving. */
function createHttpServer(options: HttpOptions, onRequest: RequestListener<typeof BodyRequest>): Server {
  const server = createServer(
    {
      IncomingMessage: BodyRequest,
      maxHeaderSize: options.headerBytesMax,
      requestTimeout: options.requestTimeoutMs,
      headersTimeout: Math.min(options.headersTimeoutMs, options.requestTimeoutMs),
      // How late a timeout may be noticed.
      connectionsCheckingInterval: Math.min(5_000, Math.max(100, options.requestTimeoutMs / 4)),
    },
    onRequest,
  );
  // A client that has sent its FIN may still be waiting for the answer: durable writes are answered later than they arrive.
  (server as typeof server & { httpAllowHalfOpen: boolean }).httpAllowHalfOpen = true;
  return server;
}

export function buildApp(context: AppContext): App {
  const { store, options, counters, log } = context;
  const answers = new Answers(context);
  const keyRoutes = new KeyRoutes(store, options, answers);

  const app: App = fastify({
    logger: false,
    exposeHeadRoutes: false,
    serverFactory: (framework: RequestListener) =>
      createHttpServer(options, (request, response) => {
        if (!request.url!.startsWith('/')) request.url = originForm(request.url!);
        if (!keyRoutes.take(request, response)) framework(request, response);
      }),
    routerOptions: {
      maxParamLength: options.headerBytesMax,
      // The routes that take parameters parse them strictly from the URL.
      querystringParser: () => NO_QUERY,
    },
    clientErrorHandler: onClientError,
    frameworkErrors(error: Error, _request: unknown, reply: FastifyReply) {
      fail(reply, error, OPERATION.other, performance.now());
    },
  } as Parameters<typeof fastify>[0]) as unknown as App;

  // No route of the framework's has a body: none is read.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (_request, _body, done) => done(null));
  app.server.on('connection', (socket: Socket) => {
    counters.connection(1);
    socket.once('close', () => counters.connection(-1));
  });

  function prepare(reply: FastifyReply): FastifyReply {
    if (context.draining) reply.header('connection', 'close');
    return reply;
  }

  function fail(reply: FastifyReply, error: unknown, operation: number, startedMs: number): void {
    const response: ServerResponse = reply.raw;
    reply.hijack();
    answers.fail(response, error, operation, startedMs);
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
    const isRange = path === '/v1/kv' || path.startsWith('/v1/kv?');
    const allow = isRange ? 'GET' : path.startsWith(KEY_ROUTE) ? 'GET, HEAD, PUT, DELETE' : undefined;
    const failure = new HttpFailure(allow === undefined ? 'ERR_ROUTE' : 'ERR_METHOD', undefined, allow);
    fail(reply, failure, OPERATION.other, performance.now());
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
